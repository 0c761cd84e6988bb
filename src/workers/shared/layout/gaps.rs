//! Positions that nobody has, and what can be told of them from what came after.
//!
//! What a gate was told it keeps, and acknowledges only then; so what is lost with Redis was never acknowledged, and is best
//! forgotten. But others may have built on it. Most of it is what time brings about, which no gate keeps: a claim that was
//! not settled in time made room for another, which was acknowledged. Whoever sees the second without the first would find
//! more held than there is. So where a claim does not fit, a claim that had come due takes a position before it that nobody has,
//! as its expiry: nobody can have been told otherwise, or what they were told would be among the entries.
//!
//! The same is done for a claim that its own buyer stands in the way of, and that time did not end: it was cancelled, by way of a gate that
//! died before it kept that, or that an operator has given up. Were it left, both would hold the same unit of the buyer's limit,
//! and the database would refuse the later one, which was acknowledged. Which one made room can't be told where the later claim took no
//! place that is held, of the same buyer or of all: those stay, and the database's sums are the last line.
//!
//! Claims come in the order of their positions, and each takes the first one that will do: so as many as possible find one.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::sale::{Held, Misfit, Sale};
use crate::sale::{Claim, ClaimId, Entry, Event, Fate, Moved, Seq, Timestamp, Units};

/// Who cancelled a claim whose cancellation was lost, and why, as its entry says.
const BY: &str = "forebay worker";
const REASON: &str = "its end was lost with Redis: the same buyer's next claim shows that it was given back";

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

    /// Fills one with the end of a claim of `sale` that makes room for `claim`, and gives the entry; none where nothing can have
    /// been that.
    pub(super) fn end(&mut self, sale: &Sale, claim: &Claim, misfit: Misfit) -> Option<Entry> {
        if self.free.is_empty() {
            return None;
        }
        let (place, held, to) = match misfit {
            Misfit::Holder => {
                let mine = sale.by_user.get(&claim.user).into_iter().flatten().filter_map(|at| sale.held.get(at));
                // What stands in the very place that the claim took, or is too much beside it alone, is gone for sure. Of the others
                // none may be, but one that came due.
                let limit = sale.spec.per_user_limit.0;
                let (gone, others): (Vec<&Held>, Vec<&Held>) = mine.partition(|held| {
                    held.hold.hold == claim.hold || u64::from(held.hold.quantity) + claim.quantity.0 > limit
                });
                let ended = gone.iter().find_map(|held| self.expiry(held, claim.seq));
                let ended = ended.or_else(|| gone.iter().find_map(|held| self.cancellation(held, claim.seq)));
                ended.or_else(|| others.iter().find_map(|held| self.expiry(held, claim.seq)))
            }
            Misfit::Stock => sale.held.values().find_map(|held| self.expiry(held, claim.seq)),
        }?;
        self.free.remove(&place);
        let (by, reason) = if to == Fate::Expired { ("", "") } else { (BY, REASON) };
        let moved = Moved {
            claim_id: held.hold.claim_id,
            campaign: sale.no,
            quantity: Units(held.hold.quantity.into()),
            amount: held.hold.amount,
            to,
            by: by.into(),
            reason: reason.into(),
        };
        let (seq, at) = (self.retired.plus(place as u64 + 1), self.times[place]);
        let entry = Entry { seq, at, event: Event::Moved(moved) };
        self.filled.insert(place, entry.clone());
        Some(entry)
    }

    /// `held` as it expired, at the first position before `until` at which that may have been.
    fn expiry(&self, held: &Held, until: Seq) -> Option<(usize, Held, Fate)> {
        let due = held.due?;
        let place = self.places(held, until).find(|place| self.times[*place] >= due)?;
        Some((place, *held, Fate::Expired))
    }

    /// `held` as it was cancelled, at the first position before `until` at which that may have been.
    fn cancellation(&self, held: &Held, until: Seq) -> Option<(usize, Held, Fate)> {
        Some((self.places(held, until).next()?, *held, Fate::Cancelled))
    }

    /// The positions before `until` at which `held` may have been given back; none where its end is known.
    fn places(&self, held: &Held, until: Seq) -> impl Iterator<Item = usize> {
        let place_of = |seq: Seq| (seq.0.saturating_sub(self.retired.0 + 1)) as usize;
        let (from, upto) = (place_of(held.seq.next()), place_of(until));
        // A later one than `until` is there where the database was written to since its end was read; the opening is lost then.
        let may_have_ended = from < upto && !held.hold.settled && !self.ended.contains(&held.hold.claim_id);
        may_have_ended.then(|| self.free.range(from..upto).copied()).into_iter().flatten()
    }

    /// What was found, by place, and every entry's time.
    pub(super) fn finish(self) -> (BTreeMap<usize, Entry>, Vec<Timestamp>) {
        (self.filled, self.times)
    }
}
