//! What a worker tells of the entries that are in the database now.

use std::collections::BTreeMap;

use crate::queue::ledger::Balance;
use crate::sale::{CampaignNo, Event, Fate, Money, Seq, Units};

/// What a campaign's sums are without the database's word: those in Redis stay.
const UNTOLD: i64 = -1;

/// The argument `sums` of the library's function `retire`, gathered entry by entry.
#[derive(Debug, Clone)]
pub struct Retiring {
    after: Seq,
    upto: Seq,
    waiting: BTreeMap<CampaignNo, [i64; 6]>,
}

impl Retiring {
    /// Nothing yet; the next entry is the one after `after`.
    pub fn new(after: Seq) -> Self {
        Self { after, upto: after, waiting: BTreeMap::new() }
    }

    /// Adds the next entry.
    pub fn add(&mut self, event: &Event) {
        self.upto = self.upto.next();
        match event {
            Event::Claimed(claim) => self.count(claim.campaign, 0, claim.quantity, claim.amount),
            Event::Moved(moved) => {
                let place = if moved.to == Fate::Settled { 2 } else { 4 };
                self.count(moved.campaign, place, moved.quantity, moved.amount);
            }
            _ => {}
        }
    }

    fn count(&mut self, no: CampaignNo, place: usize, units: Units, money: Option<Money>) {
        let sums = self.waiting.entry(no).or_default();
        sums[place] += units.0 as i64;
        sums[place + 1] += money.map_or(0, |money| money.0);
    }

    /// The position after which these are.
    pub fn after(&self) -> Seq {
        self.after
    }

    /// The last one's position.
    pub fn upto(&self) -> Seq {
        self.upto
    }

    /// The argument `sums`, with what the database has of campaigns once it has these entries.
    pub fn sums(&self, database: &[(CampaignNo, Balance)]) -> Vec<u8> {
        let mut all: BTreeMap<_, _> = self.waiting.iter().map(|(no, sums)| (*no, (*sums, [UNTOLD; 8]))).collect();
        for (no, balance) in database {
            all.entry(*no).or_insert(([0; 6], [0; 8])).1 = stored(balance);
        }
        let mut b = self.after.0.to_le_bytes().to_vec();
        for (no, (waiting, stored)) in all {
            b.extend_from_slice(&no.0.to_le_bytes());
            b.extend(waiting.into_iter().chain(stored).flat_map(i64::to_le_bytes));
        }
        b
    }
}

/// What the database has, in the order of [`super::layout::STORED`].
pub(super) fn stored(balance: &Balance) -> [i64; 8] {
    [
        balance.persisted as i64,
        balance.money_persisted,
        balance.settled as i64,
        balance.money_settled,
        balance.returned as i64,
        balance.money_returned,
        balance.dead as i64,
        balance.money_dead,
    ]
}
