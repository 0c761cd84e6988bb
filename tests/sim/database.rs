//! A database that does what the store's contract says, and fails in every way that it allows.
//!
//! One transaction moves the cursor, inserts rows and dead letters and adds to the sums, or does nothing. The reply may
//! be lost on either side of the commit, a request may arrive twice, the process may die beside it. It keeps every row
//! that was ever inserted, in order, without a unique key that would hide a double: the model looks for those.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use forebay::sale::{CampaignId, ClaimId, ClaimStatus, Money, Seq, Units, UserId};
use forebay::store::{Batch, ClaimRow, DeadRow, Position, Row, Store, StoreError, StoredClaim, Totals, Written};

/// What the database does wrong, once; an outage lasts for some calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nobody answers, for so many calls.
    Outage(u64),
    /// Someone else has the lock.
    Locked,
    /// The commit happens, its reply is lost.
    ReplyLostAfter,
    /// The commit does not happen, and nobody says so.
    ReplyLostBefore,
    /// The transaction fails before its commit.
    FailsBefore,
    /// The request arrives twice.
    Twice,
    /// Our process dies before the commit.
    CrashBefore,
    /// Our process dies after the commit.
    CrashAfter,
    /// The answer takes some polls.
    Slow(u64),
}

/// A claim that went to the dead letters.
#[derive(Debug, Clone, Copy)]
pub struct Dead {
    pub row: ClaimRow,
}

#[derive(Debug, Default)]
struct Inner {
    journal: Option<u128>,
    cursor: u64,
    rows: Vec<ClaimRow>,
    by_id: BTreeMap<ClaimId, usize>,
    holds: BTreeMap<(u32, UserId, u32), ClaimId>,
    dead: Vec<Dead>,
    totals: BTreeMap<u32, Totals>,
    armed: VecDeque<Fault>,
    outage: u64,
    crashed: bool,
    fired: BTreeMap<&'static str, u64>,
}

/// The database. It outlives every process.
#[derive(Debug, Clone, Default)]
pub struct SimDb(Arc<Mutex<Inner>>);

/// A buyer whose row the database never takes.
pub fn is_poison(user: &str) -> bool {
    user.starts_with("poison")
}

/// Pending so many times, then done.
struct Polls(u64);

impl Future for Polls {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 = self.0.saturating_sub(1);
        Poll::Pending
    }
}

impl SimDb {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault strikes the next write.
    pub fn arm(&self, fault: Fault) {
        self.lock().armed.push_back(fault);
    }

    /// Takes back what is armed.
    pub fn heal(&self) {
        let mut inner = self.lock();
        inner.armed.clear();
        inner.outage = 0;
    }

    /// Whether our process died in a write since the last call.
    pub fn take_crashed(&self) -> bool {
        std::mem::take(&mut self.lock().crashed)
    }

    pub fn cursor(&self) -> u64 {
        self.lock().cursor
    }

    /// The rows from the `from`-th on, in the order of their insertion.
    pub fn rows_from(&self, from: usize) -> Vec<ClaimRow> {
        self.lock().rows[from..].to_vec()
    }

    /// The dead letters from the `from`-th on.
    pub fn dead_from(&self, from: usize) -> Vec<Dead> {
        self.lock().dead[from..].to_vec()
    }

    pub fn fired(&self) -> BTreeMap<&'static str, u64> {
        self.lock().fired.clone()
    }

    /// Waits as long as the next fault wants, then says which one it is.
    async fn fate(&self) -> Option<Fault> {
        loop {
            let fault = self.lock().next_fault();
            match fault {
                Some(Fault::Slow(polls)) => Polls(polls).await,
                other => return other,
            }
        }
    }

    fn commit(&self, batch: &Batch, dead: &[DeadRow]) -> Result<Written, StoreError> {
        self.lock().commit(batch, dead)
    }
}

fn outage(what: &str) -> StoreError {
    StoreError::Outage(format!("{what} (injected)"))
}

impl Inner {
    fn fire(&mut self, what: &'static str) {
        *self.fired.entry(what).or_default() += 1;
    }

    fn next_fault(&mut self) -> Option<Fault> {
        if self.outage > 0 {
            self.outage -= 1;
            return Some(Fault::Outage(0));
        }
        let fault = self.armed.pop_front()?;
        if let Fault::Outage(calls) = fault {
            self.outage = calls;
        }
        self.fire(match fault {
            Fault::Outage(_) => "database: outage",
            Fault::Locked => "database: locked",
            Fault::ReplyLostAfter => "database: committed, reply lost",
            Fault::ReplyLostBefore => "database: not committed, reply lost",
            Fault::FailsBefore => "database: error before the commit",
            Fault::Twice => "database: delivered twice",
            Fault::CrashBefore => "database: crash before the commit",
            Fault::CrashAfter => "database: crash after the commit",
            Fault::Slow(_) => "database: slow",
        });
        Some(fault)
    }

    /// Whether a row of these can't be taken.
    fn check(&self, rows: &mut dyn Iterator<Item = &Row>) -> Result<(), StoreError> {
        for row in rows {
            let Row::Claim(row) = row else { continue };
            if is_poison(row.claim.user.as_str()) {
                return Err(StoreError::Row(format!("{} is poison (injected)", row.claim.user)));
            }
            if let Some(&at) = self.by_id.get(&row.claim.claim_id) {
                if self.rows[at] != *row {
                    return Err(StoreError::Row(format!("{} is there with other content", row.claim.claim_id)));
                }
                continue;
            }
            let hold = (row.claim.campaign.0, row.claim.user, row.claim.hold);
            if let Some(other) = self.holds.get(&hold) {
                return Err(StoreError::Row(format!("{hold:?} is held by {other}")));
            }
        }
        Ok(())
    }

    fn commit(&mut self, batch: &Batch, dead: &[DeadRow]) -> Result<Written, StoreError> {
        assert_eq!(batch.after.0 + batch.rows.len() as u64, batch.upto.0, "P1: a batch with a gap");
        for (i, row) in batch.rows.iter().enumerate() {
            assert_eq!(row.seq().0, batch.after.0 + 1 + i as u64, "P1: a batch out of order");
        }
        if self.cursor >= batch.upto.0 {
            return Ok(Written::AlreadyThere);
        }
        if self.cursor != batch.after.0 {
            return Err(StoreError::Fenced(format!("the cursor is {}, not {}", self.cursor, batch.after)));
        }
        let is_dead = |i: usize| dead.iter().any(|d| d.index == i);
        self.check(&mut batch.rows.iter().enumerate().filter(|(i, _)| !is_dead(*i)).map(|(_, r)| r))?;
        let mut new_claims = 0;
        for (i, row) in batch.rows.iter().enumerate() {
            match row {
                Row::Claim(row) if is_dead(i) => {
                    self.dead.push(Dead { row: *row });
                    self.fire("database: poison row");
                    self.add(row, true);
                }
                Row::Claim(row) => {
                    new_claims += 1;
                    self.insert(row);
                }
                Row::Campaign(_) => {}
            }
        }
        self.cursor = batch.upto.0;
        Ok(Written::Committed { new_claims })
    }

    fn insert(&mut self, row: &ClaimRow) {
        self.by_id.insert(row.claim.claim_id, self.rows.len());
        self.holds.insert((row.claim.campaign.0, row.claim.user, row.claim.hold), row.claim.claim_id);
        self.rows.push(*row);
        self.add(row, false);
    }

    fn add(&mut self, row: &ClaimRow, dead: bool) {
        let totals = self.totals.entry(row.claim.campaign.0).or_insert(Totals {
            campaign: row.campaign,
            no: row.claim.campaign,
            persisted: Units(0),
            persisted_money: Money(0),
            dead: Units(0),
            dead_money: Money(0),
        });
        let (units, money) = (row.claim.quantity.0, row.claim.amount.map_or(0, |a| a.0));
        if dead {
            totals.dead.0 += units;
            totals.dead_money.0 += money;
        } else {
            totals.persisted.0 += units;
            totals.persisted_money.0 += money;
        }
    }

    fn readable(&mut self) -> Result<(), StoreError> {
        if self.outage > 0 {
            self.outage -= 1;
            return Err(outage("gone"));
        }
        Ok(())
    }
}

fn stored(row: &ClaimRow) -> StoredClaim {
    StoredClaim { row: *row, status: ClaimStatus::Persisted }
}

impl Store for SimDb {
    async fn bind(&self, journal: u128) -> Result<Position, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        let bound = *inner.journal.get_or_insert(journal);
        Ok(Position { journal: bound, cursor: Seq(inner.cursor) })
    }

    async fn write(&self, batch: &Batch, dead: &[DeadRow]) -> Result<Written, StoreError> {
        match self.fate().await {
            Some(Fault::Outage(_)) => Err(outage("gone")),
            Some(Fault::Locked) => Err(outage("locked")),
            Some(Fault::FailsBefore) => Err(outage("disk I/O error")),
            Some(Fault::ReplyLostBefore) => Err(StoreError::Unknown("reply lost (injected)".to_owned())),
            Some(Fault::ReplyLostAfter) => {
                // A batch that is refused is refused: only a commit can be in doubt.
                self.commit(batch, dead)?;
                Err(StoreError::Unknown("reply lost (injected)".to_owned()))
            }
            Some(Fault::Twice) => {
                self.commit(batch, dead)?;
                self.commit(batch, dead)
            }
            Some(fault @ (Fault::CrashBefore | Fault::CrashAfter)) => {
                if fault == Fault::CrashAfter {
                    self.commit(batch, dead)?;
                }
                self.lock().crashed = true;
                std::future::pending().await
            }
            Some(Fault::Slow(_)) | None => self.commit(batch, dead),
        }
    }

    async fn probe(&self, rows: &[Row]) -> Result<(), StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        inner.check(&mut rows.iter())
    }

    async fn claim(&self, id: ClaimId) -> Result<Option<StoredClaim>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        Ok(inner.by_id.get(&id).map(|&at| stored(&inner.rows[at])))
    }

    async fn claims_of(&self, user: &UserId, before: Option<Seq>, limit: u32) -> Result<Vec<StoredClaim>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        let mine = inner.rows.iter().rev().filter(|r| r.claim.user == *user);
        Ok(mine.filter(|r| before.is_none_or(|b| r.claim.seq < b)).take(limit as usize).map(stored).collect())
    }

    async fn scan(
        &self,
        campaign: Option<&CampaignId>,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<StoredClaim>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        let rows = inner.rows.iter().filter(|r| campaign.is_none_or(|c| r.campaign == *c) && r.claim.seq > after);
        Ok(rows.take(limit as usize).map(stored).collect())
    }

    async fn totals(&self) -> Result<Vec<Totals>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        Ok(inner.totals.values().copied().collect())
    }

    async fn dead_claims(&self, after: Seq, limit: u32) -> Result<Vec<ClaimRow>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        let dead = inner.dead.iter().map(|d| d.row).filter(|r| r.claim.seq > after);
        Ok(dead.take(limit as usize).collect())
    }

    async fn dead_count(&self) -> Result<u64, StoreError> {
        Ok(self.lock().dead.len() as u64)
    }
}
