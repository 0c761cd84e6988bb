//! A database for the tests of this module: it keeps the contract of every store, and fails when it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use super::batch::is_canary;
use crate::queue::codec::{self, FrameContext};
use crate::queue::{Pending, Published};
use crate::sale::*;
use crate::store::{
    Batch, ClaimRow, DeadLetter, DeadRow, Dealt, LetterEnd, Position, Row, Store, StoreError, StoredCart, StoredClaim,
    Totals, Written,
};

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

/// The end of a claim that [`claim`] made.
pub fn moved(claim: u64, to: Fate) -> Moved {
    let claim = self::claim(claim, 0);
    let (claim_id, campaign, quantity, amount) = (claim.claim_id, claim.campaign, claim.quantity, claim.amount);
    Moved { claim_id, campaign, quantity, amount, to, by: "ann".into(), reason: Box::default() }
}

/// What a sequencer would have published, with nothing in it.
pub fn published() -> Arc<Published> {
    Arc::new(Published::new(Pending::new(Seq(0))))
}

/// Publishes claims of campaign 0 with the seqs `from..=to`.
pub fn publish(published: &Published, from: u64, to: u64) {
    publish_events(published, from, (from..=to).map(|seq| Event::Claimed(claim(seq, 0))));
}

/// Publishes events with the seqs from `from` on.
pub fn publish_events(published: &Published, from: u64, events: impl IntoIterator<Item = Event>) {
    let (mut body, mut count) = (Vec::new(), 0);
    for event in events {
        match &event {
            Event::Claimed(claim) => codec::encode_claim(&mut body, claim),
            other => codec::encode(&mut body, other),
        }
        count += 1;
    }
    let context = FrameContext { first_seq: Seq(from), at: Timestamp(1_000_000), durability: Durability::Disk };
    published.pending.publish(&body, count, &context, &[]);
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
    /// Claims in the dead letters, and what has become of claims wherever they are.
    pub letters: BTreeMap<ClaimId, Seq>,
    pub ends: BTreeMap<ClaimId, Fate>,
    /// So many questions for the sums fail with an outage.
    pub totals_to_fail: usize,
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
    fn check(&self, rows: &[Row], dead: &[usize]) -> Result<(), StoreError> {
        let refused = |row: &Row| match is_canary(row) {
            true => self.refuse_canary,
            false => self.refuse_all || self.poison.contains(&row.seq().0),
        };
        let here = |id: ClaimId| rows.iter().any(|row| matches!(row, Row::Claim(row) if row.claim.claim_id == id));
        for (_, row) in rows.iter().enumerate().filter(|(i, _)| !dead.contains(i)) {
            if refused(row) {
                return Err(StoreError::Row(format!("row {} breaks a rule", row.seq())));
            }
            if let Row::End(end) = row {
                let id = end.moved.claim_id;
                let known = here(id) || self.letters.contains_key(&id) || self.row_of(id).is_some();
                if !known || self.ends.get(&id).is_some_and(|to| *to != end.moved.to) {
                    return Err(StoreError::Row(format!("row {} ends no claim", row.seq())));
                }
            }
        }
        Ok(())
    }

    fn row_of(&self, id: ClaimId) -> Option<&ClaimRow> {
        self.claims.values().find(|row| row.claim.claim_id == id)
    }

    /// Whether an end met a dead letter, or was there already.
    fn commit(&mut self, batch: &Batch, dead: &[usize]) -> bool {
        let mut moved_dead = false;
        for (i, row) in batch.rows.iter().enumerate() {
            if dead.contains(&i) {
                assert!(self.dead.insert(row.seq()), "a dead letter twice");
                if let Row::Claim(row) = row {
                    self.letters.insert(row.claim.claim_id, row.claim.seq);
                }
                continue;
            }
            match row {
                Row::Claim(row) => assert!(self.claims.insert(row.claim.seq, *row).is_none(), "a claim twice"),
                Row::End(end) => {
                    let id = end.moved.claim_id;
                    let again = self.ends.insert(id, end.moved.to).is_some();
                    moved_dead |= again || self.letters.contains_key(&id);
                    if let Some(letter) = self.letters.get(&id).filter(|_| end.moved.to.returns_units()) {
                        self.dead.remove(letter);
                    }
                }
                Row::Cart(_) | Row::Campaign(_) | Row::Void(_) => {}
            }
        }
        self.cursor = batch.upto;
        moved_dead
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
        inside.check(&batch.rows, &places)?;
        let before = inside.claims.len();
        let moved_dead = fault != Fault::CommitLost && inside.commit(batch, &places);
        let new_claims = (inside.claims.len() - before) as u64;
        match fault {
            Fault::None => Ok(Written::Committed { new_claims, moved_dead }),
            _ => Err(StoreError::Unknown("no reply".into())),
        }
    }

    async fn probe(&self, rows: &[Row]) -> Result<(), StoreError> {
        let mut inside = self.inside();
        inside.probes += 1;
        if inside.probes_until.is_some_and(|last| inside.probes >= last) {
            return Err(StoreError::Outage("locked".into()));
        }
        inside.check(rows, &[])
    }

    async fn claim(&self, id: ClaimId) -> Result<Option<StoredClaim>, StoreError> {
        let inside = self.inside();
        let ended = inside.ends.get(&id).map(|to| to.status());
        let row = inside.claims.values().find(|row| row.claim.claim_id == id);
        let status = ended.unwrap_or(ClaimStatus::Persisted);
        Ok(row.map(|row| StoredClaim { row: *row, status, ended: None }))
    }

    async fn claims_of(&self, _: &UserId, _: Option<Seq>, _: u32) -> Result<Vec<StoredClaim>, StoreError> {
        never_asked()
    }

    async fn scan(&self, _: Option<&CampaignId>, _: Seq, _: u32) -> Result<Vec<StoredClaim>, StoreError> {
        never_asked()
    }

    async fn totals(&self) -> Result<Vec<Totals>, StoreError> {
        let mut inside = self.inside();
        if inside.totals_to_fail > 0 {
            inside.totals_to_fail -= 1;
            return Err(StoreError::Outage("locked".into()));
        }
        let money = |n: u64| Money(n as i64 * 10);
        let count = |to: Option<Fate>| {
            let became = |row: &&ClaimRow| inside.ends.get(&row.claim.claim_id).copied() == to;
            inside.claims.values().filter(became).count() as u64
        };
        let returned = inside.ends.values().filter(|to| to.returns_units()).count() as u64;
        let dead = inside.letters.values().filter(|seq| inside.dead.contains(seq)).count() as u64;
        let (persisted, settled) = (count(None), count(Some(Fate::Settled)));
        Ok(vec![Totals {
            campaign: CampaignId::parse("sale").unwrap(),
            no: CampaignNo(0),
            persisted: Units(persisted),
            persisted_money: money(persisted),
            settled: Units(settled),
            settled_money: money(settled),
            returned: Units(returned),
            returned_money: money(returned),
            dead: Units(dead),
            dead_money: money(dead),
        }])
    }

    async fn dead_claims(&self, _: Seq, _: u32) -> Result<Vec<ClaimRow>, StoreError> {
        never_asked()
    }

    async fn cart(&self, _: &UserId) -> Result<StoredCart, StoreError> {
        never_asked()
    }

    async fn cart_owners(&self, _: Option<&UserId>, _: u32) -> Result<(Vec<UserId>, u64), StoreError> {
        never_asked()
    }

    async fn dead_letters(&self, _: u64, _: u32) -> Result<Vec<DeadLetter>, StoreError> {
        never_asked()
    }

    async fn dead_letter(&self, _: u64) -> Result<Option<DeadLetter>, StoreError> {
        never_asked()
    }

    async fn requeue(&self, _: u64) -> Result<Dealt, StoreError> {
        never_asked()
    }

    async fn discard(&self, _: u64, _: &str, _: &str) -> Result<Dealt, StoreError> {
        never_asked()
    }

    async fn closed_letter(&self, _: u64) -> Result<Option<LetterEnd>, StoreError> {
        never_asked()
    }

    async fn dead_count(&self) -> Result<u64, StoreError> {
        Ok(self.inside().dead.len() as u64)
    }
}

fn never_asked<T>() -> Result<T, StoreError> {
    Err(StoreError::Outage("the workers don't read".into()))
}
