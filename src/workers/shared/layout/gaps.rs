//! Positions that nobody has, and what can be told of them from what came after.
//!
//! What a gate was told it keeps, and acknowledges only then; so what is lost with Redis was never acknowledged, and is best
//! forgotten. But others may have built on it. Most of it is what time brings about, which no gate keeps: a claim that was
//! not settled in time made room for another, which was acknowledged. Whoever sees the second without the first would find
//! more held than there is. So where a claim does not fit, a claim that had come due takes a position before it that nobody has,
//! as its expiry: nobody can have been told otherwise, or what they were told would be among the entries.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::sale::{Held, Misfit, Sale};
use crate::sale::{Claim, ClaimId, Entry, Event, Fate, Moved, Seq, Timestamp, Units};

/// The positions, and what they were found to be.
pub(super) struct Gaps {
    retired: Seq,
    free: BTreeSet<usize>,
    times: Vec<Timestamp>,
    /// Claims of whose end somebody knows.
    ended: HashSet<ClaimId>,
    filled: BTreeMap<usize, Entry>,
}

impl Gaps {
    /// Those among `entries`, which follow `retired`; `times` are the times that they would have.
    pub(super) fn new(retired: Seq, entries: &[Option<Entry>], times: Vec<Timestamp>) -> Self {
        let free = entries.iter().enumerate().filter(|(_, entry)| entry.is_none()).map(|(place, _)| place);
        let ended = entries.iter().flatten().filter_map(|entry| match &entry.event {
            Event::Moved(moved) => Some(moved.claim_id),
            _ => None,
        });
        Self { retired, free: free.collect(), times, ended: ended.collect(), filled: BTreeMap::new() }
    }

    /// Fills one with the expiry of a claim of `sale` that makes room for `claim`, and gives the entry; none where nothing can have
    /// been that.
    pub(super) fn expire(&mut self, sale: &Sale, claim: &Claim, misfit: Misfit) -> Option<Entry> {
        if self.free.is_empty() {
            return None;
        }
        let mine = sale.by_user.get(&claim.user).into_iter().flatten().filter_map(|at| sale.held.get(at));
        let (place, held) = match misfit {
            Misfit::Holder => {
                let mut all: Vec<&Held> = mine.collect();
                // First what stands in the very place that the claim took.
                all.sort_by_key(|held| (held.hold.hold != claim.hold, held.seq));
                all.into_iter().find_map(|held| self.place(held, claim.seq).map(|place| (place, *held)))
            }
            Misfit::Stock => {
                let mut all = sale.held.values();
                all.find_map(|held| self.place(held, claim.seq).map(|place| (place, *held)))
            }
        }?;
        self.free.remove(&place);
        let (quantity, amount) = (Units(held.hold.quantity.into()), held.hold.amount);
        let moved = Moved {
            claim_id: held.hold.claim_id,
            campaign: sale.no,
            quantity,
            amount,
            to: Fate::Expired,
            by: Box::default(),
            reason: Box::default(),
        };
        let (seq, at) = (self.retired.plus(place as u64 + 1), self.times[place]);
        let entry = Entry { seq, at, event: Event::Moved(moved) };
        self.filled.insert(place, entry.clone());
        Some(entry)
    }

    /// The first position at which `held` may have expired before position `until`.
    fn place(&self, held: &Held, until: Seq) -> Option<usize> {
        let due = held.due?;
        if held.hold.settled || self.ended.contains(&held.hold.claim_id) {
            return None;
        }
        let place_of = |seq: Seq| (seq.0.saturating_sub(self.retired.0 + 1)) as usize;
        let places = self.free.range(place_of(held.seq.next())..place_of(until));
        places.copied().find(|place| self.times[*place] >= due)
    }

    /// What was found, by place, and every entry's time.
    pub(super) fn finish(self) -> (BTreeMap<usize, Entry>, Vec<Timestamp>) {
        (self.filled, self.times)
    }
}
