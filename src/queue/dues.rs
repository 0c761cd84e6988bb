//! The claims of a campaign that must be settled in time, in the order in which they fall due.
//!
//! Every claim of a campaign has the same time, so the order of acceptance is the order of falling due: a list through the
//! claims' own places, one link of 16 bytes a claim, from which any claim leaves in constant time. A heap would cost the
//! sequencer a logarithm a claim, and a queue would fill with claims that were settled long ago.

use crate::sale::Timestamp;

/// A claim's neighbours, each as its place plus one (0 for none), and when it is due.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    before: u32,
    after: u32,
    due: i64,
}

/// Of a claim that is in no list.
const NEVER: i64 = 0;

impl Link {
    /// When it is due; none where it is in no list.
    pub fn due(&self) -> Option<Timestamp> {
        (self.due != NEVER).then_some(Timestamp(self.due))
    }
}

/// Where the links are.
pub trait Links {
    /// The link of the claim at `at`.
    fn link(&mut self, at: u32) -> &mut Link;
}

/// The list's ends, each as a place plus one.
#[derive(Debug, Default)]
pub struct Dues {
    first: u32,
    last: u32,
}

impl Dues {
    /// The place that is due first.
    pub fn first(&self) -> Option<u32> {
        self.first.checked_sub(1)
    }

    /// Adds the claim at `at`. It is due no earlier than those before it, or, where a clock was set back, after them all
    /// the same: time in a journal never runs backwards.
    pub fn push(&mut self, at: u32, due: Timestamp, links: &mut impl Links) {
        *links.link(at) = Link { before: self.last, after: 0, due: due.0 };
        match self.last {
            0 => self.first = at + 1,
            last => links.link(last - 1).after = at + 1,
        }
        self.last = at + 1;
    }

    /// Takes the claim at `at` out, if it is there.
    pub fn unlink(&mut self, at: u32, links: &mut impl Links) {
        let link = std::mem::take(links.link(at));
        if link.due == NEVER {
            return;
        }
        match link.before {
            0 => self.first = link.after,
            before => links.link(before - 1).after = link.after,
        }
        match link.after {
            0 => self.last = link.before,
            after => links.link(after - 1).before = link.before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Few([Link; 5]);

    impl Links for Few {
        fn link(&mut self, at: u32) -> &mut Link {
            &mut self.0[at as usize]
        }
    }

    fn order(dues: &Dues, links: &Few) -> Vec<u32> {
        let after = |at: &u32| links.0[*at as usize].after.checked_sub(1);
        std::iter::successors(dues.first(), after).collect()
    }

    #[test]
    fn claims_leave_from_any_place_and_the_others_stay_in_order() {
        let (mut dues, mut links) = (Dues::default(), Few([Link::default(); 5]));
        (0..5).for_each(|at| dues.push(at, Timestamp(10 + i64::from(at)), &mut links));
        for (gone, left) in [(2, vec![0, 1, 3, 4]), (0, vec![1, 3, 4]), (4, vec![1, 3]), (4, vec![1, 3])] {
            dues.unlink(gone, &mut links);
            assert_eq!(order(&dues, &links), left);
        }
        dues.push(0, Timestamp(20), &mut links);
        assert_eq!(order(&dues, &links), [1, 3, 0]);
        [3, 1, 0].into_iter().for_each(|at| dues.unlink(at, &mut links));
        assert_eq!((dues.first(), dues.last), (None, 0));
    }
}
