//! A database for the tests of this module: it keeps the contract of every store, and fails when it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use super::batch::is_canary;
use crate::queue::codec::{self, FrameContext};
use crate::queue::{Pending, Published};
use crate::sale::*;
use crate::store::{Batch, ClaimRow, DeadRow, Position, Row, Store, StoreError, StoredClaim, Totals, Written};

/// A claim of one unit at 10 minor units.
pub fn claim(seq: u64, campaign: u32) -> Claim {
    Claim {
        claim_id: ClaimId::new(Timestamp(1_000_000), UserHash(u128::from(seq) << 88), seq),
        campaign: CampaignNo(campaign),
        user: UserId::parse(&format!("u{seq}")).unwrap(),
        quantity: Units(1),
        amount: Some(Money(10)),
        hold: 0,
        receipt_key: 1,
        key: None,
        seq: Seq(seq),
        accepted_at: Timestamp(1_000_000),
        durability: Durability::Disk,
    }
}

/// Its entry.
pub fn entry(seq: u64, campaign: u32) -> Entry {
    Entry { seq: Seq(seq), at: Timestamp(1_000_000), event: Event::Claimed(claim(seq, campaign)) }
}

/// What a sequencer would have published, with nothing in it.
pub fn published() -> Arc<Published> {
    Arc::new(Published::new(Pending::new(Seq(0))))
}

/// Publishes claims of campaign 0 with the seqs `from..=to`.
pub fn publish(published: &Published, from: u64, to: u64) {
    let mut body = Vec::new();
    (from..=to).for_each(|seq| codec::encode_claim(&mut body, &claim(seq, 0)));
    let context = FrameContext { first_seq: Seq(from), at: Timestamp(1_000_000), durability: Durability::Disk };
    published.pending.publish(&body, (to + 1 - from) as u32, &context, &[]);
}

/// What happens to one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    Outage,
    /// The commit happened, its reply is lost.
    ReplyLost,
    /// The commit did not happen, and nobody knows.
    CommitLost,
    Fenced,
}

/// What is in the database, and what it is told to do.
#[derive(Debug, Default)]
pub struct Inside {
    pub cursor: Seq,
    pub claims: BTreeMap<Seq, ClaimRow>,
    pub dead: BTreeSet<Seq>,
    pub poison: BTreeSet<u64>,
    pub refuse_all: bool,
    pub refuse_canary: bool,
    pub writes: VecDeque<Fault>,
    /// The probe, counted from 1, from which on probes fail with an outage.
    pub probes_until: Option<usize>,
    pub probes: usize,
    pub attempts: Vec<(Seq, Seq, Vec<usize>)>,
    pub binds_to_fail: usize,
}

#[derive(Debug, Default)]
pub struct FakeStore(Mutex<Inside>);

impl FakeStore {
    pub fn with(set: impl FnOnce(&mut Inside)) -> Arc<Self> {
        let store = Self::default();
        set(&mut store.inside());
        Arc::new(store)
    }

    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }
}

impl Inside {
    fn check<'a>(&self, mut rows: impl Iterator<Item = &'a Row>) -> Result<(), StoreError> {
        let refused = |row: &Row| match is_canary(row) {
            true => self.refuse_canary,
            false => self.refuse_all || self.poison.contains(&row.seq().0),
        };
        match rows.find(|row| refused(row)) {
            Some(row) => Err(StoreError::Row(format!("row {} breaks a rule", row.seq()))),
            None => Ok(()),
        }
    }

    fn commit(&mut self, batch: &Batch, dead: &[usize]) {
        for (i, row) in batch.rows.iter().enumerate() {
            if dead.contains(&i) {
                assert!(self.dead.insert(row.seq()), "a dead letter twice");
            } else if let Row::Claim(row) = row {
                assert!(self.claims.insert(row.claim.seq, *row).is_none(), "a claim twice");
            }
        }
        self.cursor = batch.upto;
    }
}

impl Store for FakeStore {
    async fn bind(&self, journal: u128) -> Result<Position, StoreError> {
        let mut inside = self.inside();
        if inside.binds_to_fail > 0 {
            inside.binds_to_fail -= 1;
            return Err(StoreError::Outage("not there yet".into()));
        }
        Ok(Position { journal, cursor: inside.cursor })
    }

    async fn write(&self, batch: &Batch, dead: &[DeadRow]) -> Result<Written, StoreError> {
        let mut inside = self.inside();
        let places: Vec<usize> = dead.iter().map(|d| d.index).collect();
        inside.attempts.push((batch.after, batch.upto, places.clone()));
        let fault = inside.writes.pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::Outage => return Err(StoreError::Outage("locked".into())),
            Fault::Fenced => return Err(StoreError::Fenced("someone else moved it".into())),
            _ if inside.cursor >= batch.upto => return Ok(Written::AlreadyThere),
            _ if inside.cursor != batch.after => return Err(StoreError::Fenced("a gap".into())),
            _ => {}
        }
        inside.check(batch.rows.iter().enumerate().filter(|(i, _)| !places.contains(i)).map(|(_, row)| row))?;
        if fault != Fault::CommitLost {
            inside.commit(batch, &places);
        }
        match fault {
            Fault::None => Ok(Written::Committed { new_claims: (batch.rows.len() - places.len()) as u64 }),
            _ => Err(StoreError::Unknown("no reply".into())),
        }
    }

    async fn probe(&self, rows: &[Row]) -> Result<(), StoreError> {
        let mut inside = self.inside();
        inside.probes += 1;
        if inside.probes_until.is_some_and(|last| inside.probes >= last) {
            return Err(StoreError::Outage("locked".into()));
        }
        inside.check(rows.iter())
    }

    async fn claim(&self, _: ClaimId) -> Result<Option<StoredClaim>, StoreError> {
        never_asked()
    }

    async fn claims_of(&self, _: &UserId, _: Option<Seq>, _: u32) -> Result<Vec<StoredClaim>, StoreError> {
        never_asked()
    }

    async fn scan(&self, _: Option<&CampaignId>, _: Seq, _: u32) -> Result<Vec<StoredClaim>, StoreError> {
        never_asked()
    }

    async fn totals(&self) -> Result<Vec<Totals>, StoreError> {
        let inside = self.inside();
        let (rows, dead) = (inside.claims.len() as u64, inside.dead.len() as u64);
        let money = |n: u64| Money(n as i64 * 10);
        Ok(vec![Totals {
            campaign: CampaignId::parse("sale").unwrap(),
            no: CampaignNo(0),
            persisted: Units(rows),
            persisted_money: money(rows),
            dead: Units(dead),
            dead_money: money(dead),
        }])
    }

    async fn dead_claims(&self, _: Seq, _: u32) -> Result<Vec<ClaimRow>, StoreError> {
        never_asked()
    }

    async fn dead_count(&self) -> Result<u64, StoreError> {
        Ok(self.inside().dead.len() as u64)
    }
}

fn never_asked<T>() -> Result<T, StoreError> {
    Err(StoreError::Outage("the workers don't read".into()))
}
