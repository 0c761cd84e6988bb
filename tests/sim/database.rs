//! A database that does what the store's contract says, and fails in every way that it allows.
//!
//! One transaction moves the cursor, inserts rows and dead letters and adds to the sums, or does nothing. The reply may
//! be lost on either side of the commit, a request may arrive twice, the process may die beside it. It keeps every row
//! that was ever inserted, in order, without a unique key that would hide a double: the model looks for those.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use forebay::sale::{CampaignId, CampaignNo, ClaimId, ClaimStatus, Fate, Money, Units, UserId};
use forebay::store::{
    Batch, ClaimRow, DeadRow, EndRow, LetterEnd, Row, StoreError, StoredCart, StoredClaim, Totals, Written,
};

pub use crate::letters::is_poison;
use crate::letters::{Letter, Letters, News};

/// What the database does wrong, once; an outage lasts for some calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nobody answers, for so many calls.
    Outage(u64),
    /// Someone else has the lock.
    Locked,
    /// The commit happens, its reply is lost.
    ReplyLostAfter,
    /// The same, and then nobody answers, for so many calls.
    GoneAfter(u64),
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

#[derive(Debug, Default)]
pub struct Inner {
    pub journal: Option<u128>,
    pub cursor: u64,
    pub rows: Vec<ClaimRow>,
    pub by_id: BTreeMap<ClaimId, usize>,
    holds: BTreeMap<(u32, UserId, u32), ClaimId>,
    pub letters: Letters,
    /// What has happened to carts, in order.
    pub news: Vec<News>,
    pub requeues: u64,
    /// What became of claims, rows and dead letters alike.
    ends: BTreeMap<ClaimId, EndRow>,
    /// The same, in the order in which they came.
    end_log: Vec<EndRow>,
    /// Carts, as they are.
    pub carts: BTreeMap<UserId, StoredCart>,
    pub totals: BTreeMap<u32, Totals>,
    armed: VecDeque<Fault>,
    outage: u64,
    crashed: bool,
    fired: BTreeMap<&'static str, u64>,
}

/// The database. It outlives every process.
#[derive(Debug, Clone, Default)]
pub struct SimDb(Arc<Mutex<Inner>>);

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
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
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
    pub fn letters_from(&self, from: usize) -> Vec<Letter> {
        self.lock().letters.from(from)
    }

    /// What has happened to carts, from the `from`-th on.
    pub fn news_from(&self, from: usize) -> Vec<News> {
        self.lock().news[from..].to_vec()
    }

    /// A letter, open or not.
    pub fn letter(&self, id: u64) -> Option<Letter> {
        self.lock().letters.get(id).cloned()
    }

    /// How often it was asked to requeue a letter.
    pub fn requeues(&self) -> u64 {
        self.lock().requeues
    }

    /// A cart, without asking for it.
    pub fn peek_cart(&self, user: &UserId) -> StoredCart {
        self.lock().carts.get(user).cloned().unwrap_or_default()
    }

    /// What was wrong with some rows is mended.
    pub fn mend(&self, ailment: String) {
        self.lock().letters.mend(ailment);
    }

    /// What was wrong with any row is mended.
    pub fn mend_all(&self) {
        self.lock().letters.mend_all();
    }

    /// Whether nothing is wrong with a line of a cart, or not any more.
    pub fn is_mended(&self, buyer: &str, sku: &str) -> bool {
        self.lock().letters.is_mended(&format!("{buyer}/{sku}"))
    }

    /// Whether a claim is a dead letter and no row.
    pub fn has_letter_only(&self, id: ClaimId) -> bool {
        let inner = self.lock();
        inner.letters.has(id) && !inner.by_id.contains_key(&id)
    }

    /// Whether nothing is wrong with a row, or not any more.
    pub fn takes(&self, row: &Row) -> bool {
        self.lock().letters.check(row).is_ok()
    }

    /// The ends of claims from the `from`-th on.
    pub fn ends_from(&self, from: usize) -> Vec<EndRow> {
        self.lock().end_log[from..].to_vec()
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

    /// Does a transaction as the next fault wants it; `twice` chooses the reply to one that arrives twice.
    pub async fn transact<T>(
        &self,
        letter: bool,
        transaction: impl Fn(&mut Inner) -> Result<T, StoreError>,
        twice: fn(T, T) -> T,
    ) -> Result<T, StoreError> {
        let unknown = || Err(StoreError::Unknown("reply lost (injected)".to_owned()));
        let fault = self.fate().await;
        if letter && fault.is_some() {
            self.lock().fire("database: a letter's call is struck");
        }
        match fault {
            Some(Fault::Outage(_)) => Err(outage("gone")),
            Some(Fault::Locked) => Err(outage("locked")),
            Some(Fault::FailsBefore) => Err(outage("disk I/O error")),
            Some(Fault::ReplyLostBefore) => unknown(),
            Some(fault @ (Fault::ReplyLostAfter | Fault::GoneAfter(_))) => {
                // What is refused is refused: only a commit can be in doubt.
                transaction(&mut self.lock())?;
                if let Fault::GoneAfter(calls) = fault {
                    self.lock().outage = calls;
                }
                unknown()
            }
            Some(Fault::Twice) => {
                let first = transaction(&mut self.lock())?;
                transaction(&mut self.lock()).map(|second| twice(first, second))
            }
            Some(fault @ (Fault::CrashBefore | Fault::CrashAfter)) => {
                if fault == Fault::CrashAfter {
                    transaction(&mut self.lock())?;
                }
                self.lock().crashed = true;
                std::future::pending().await
            }
            Some(Fault::Slow(_)) | None => transaction(&mut self.lock()),
        }
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
            Fault::GoneAfter(_) => "database: committed, then gone",
            Fault::ReplyLostBefore => "database: not committed, reply lost",
            Fault::FailsBefore => "database: error before the commit",
            Fault::Twice => "database: delivered twice",
            Fault::CrashBefore => "database: crash before the commit",
            Fault::CrashAfter => "database: crash after the commit",
            Fault::Slow(_) => "database: slow",
        });
        Some(fault)
    }

    /// Whether a row of these, but for the `dead` ones, can't be taken. A hold that an end frees can be taken in the same
    /// batch.
    pub fn check(&self, rows: &[Row], dead: &[DeadRow]) -> Result<(), StoreError> {
        let freed = rows.iter().filter_map(|row| match row {
            Row::End(end) if end.moved.to.returns_units() => Some(end.moved.claim_id),
            _ => None,
        });
        let freed: BTreeSet<ClaimId> = freed.collect();
        let ended = |id| freed.contains(&id);
        let mut ends = BTreeMap::new();
        let mut holds = BTreeMap::new();
        for (i, row) in rows.iter().enumerate() {
            let is_dead = dead.iter().any(|d| d.index == i);
            match row {
                Row::Claim(row) if is_dead => {
                    ends.insert(row.claim.claim_id, None);
                }
                Row::Claim(row) => {
                    self.letters.check(&rows[i])?;
                    self.check_hold(row, &ended)?;
                    ends.insert(row.claim.claim_id, None);
                    let hold = (row.claim.campaign.0, row.claim.user, row.claim.hold);
                    if !ended(row.claim.claim_id) && holds.insert(hold, row.claim.claim_id).is_some() {
                        return Err(StoreError::Row(format!("{hold:?} is held twice")));
                    }
                }
                Row::End(end) if !is_dead => {
                    let id = end.moved.claim_id;
                    let known = ends.get(&id).copied().or_else(|| self.knows(id).then(|| self.fate_of(id)));
                    match known {
                        None => return Err(StoreError::Row(format!("{id} is no claim"))),
                        Some(Some(to)) if to != end.moved.to => {
                            return Err(StoreError::Row(format!("{id} is {to:?} already")));
                        }
                        Some(_) => ends.insert(id, Some(end.moved.to)),
                    };
                }
                Row::Cart(_) if !is_dead => self.letters.check(row)?,
                Row::End(_) | Row::Cart(_) | Row::Campaign(_) | Row::Void(_) => {}
            }
        }
        Ok(())
    }

    /// Whether a claim's hold is free, but for those that `ended` frees.
    pub fn check_hold(&self, row: &ClaimRow, ended: &dyn Fn(ClaimId) -> bool) -> Result<(), StoreError> {
        if let Some(&at) = self.by_id.get(&row.claim.claim_id) {
            let same = self.rows[at] == *row;
            let text = format!("{} is there with other content", row.claim.claim_id);
            return if same { Ok(()) } else { Err(StoreError::Row(text)) };
        }
        let hold = (row.claim.campaign.0, row.claim.user, row.claim.hold);
        match self.holds.get(&hold) {
            Some(other) if !ended(*other) && !ended(row.claim.claim_id) => {
                Err(StoreError::Row(format!("{hold:?} is held by {other}")))
            }
            _ => Ok(()),
        }
    }

    fn knows(&self, id: ClaimId) -> bool {
        self.by_id.contains_key(&id) || self.letters.has(id)
    }

    pub fn fate_of(&self, id: ClaimId) -> Option<Fate> {
        self.ends.get(&id).map(|end| end.moved.to)
    }

    pub fn commit(&mut self, batch: &Batch, dead: &[DeadRow]) -> Result<Written, StoreError> {
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
        self.check(&batch.rows, dead)?;
        let (mut new_claims, mut moved_dead) = (0, false);
        for (i, row) in batch.rows.iter().enumerate() {
            match row {
                Row::Claim(claim) if is_dead(i) => {
                    self.letters.add(row);
                    self.fire("database: poison row");
                    self.count(claim, Place::Dead, 1);
                }
                Row::Cart(_) if is_dead(i) => {
                    self.letters.add(row);
                    self.fire("database: poison line of a cart");
                }
                Row::Claim(row) => {
                    new_claims += 1;
                    self.insert(row);
                    self.count(row, Place::Persisted, 1);
                }
                Row::End(end) if is_dead(i) => panic!("P1: an end went to the dead letters: {end:?}"),
                Row::End(end) => moved_dead |= !self.end(end),
                Row::Cart(row) => crate::lines::set(&mut self.carts, row),
                Row::Campaign(_) | Row::Void(_) => {}
            }
        }
        self.cursor = batch.upto.0;
        self.news.push(News::Landed(self.cursor));
        Ok(Written::Committed { new_claims, moved_dead })
    }

    pub fn insert(&mut self, row: &ClaimRow) {
        self.by_id.insert(row.claim.claim_id, self.rows.len());
        self.holds.insert((row.claim.campaign.0, row.claim.user, row.claim.hold), row.claim.claim_id);
        self.rows.push(*row);
    }

    /// Whether the end moved a row.
    fn end(&mut self, end: &EndRow) -> bool {
        let (id, to) = (end.moved.claim_id, end.moved.to);
        self.end_log.push(end.clone());
        if self.ends.insert(id, end.clone()).is_some() {
            return false;
        }
        let place = place_of(Some(to));
        if let Some(&at) = self.by_id.get(&id) {
            let row = self.rows[at];
            let hold = (row.claim.campaign.0, row.claim.user, row.claim.hold);
            if to.returns_units() && self.holds.get(&hold) == Some(&id) {
                self.holds.remove(&hold);
            }
            self.count(&row, Place::Persisted, -1);
            self.count(&row, place, 1);
            return true;
        }
        self.fire("database: the end of a dead letter's claim");
        // One that is paid stays counted among the dead.
        let dead = self.letters.of_claim(id).filter(|_| to.returns_units());
        if let Some(Letter { row: Row::Claim(row), closed }) = dead {
            let row = *row;
            *closed = Some(if to == Fate::Expired { LetterEnd::Expired } else { LetterEnd::Dropped });
            self.count(&row, Place::Dead, -1);
            self.count(&row, place, 1);
        }
        false
    }

    pub fn count(&mut self, row: &ClaimRow, place: Place, sign: i64) {
        let totals =
            self.totals.entry(row.claim.campaign.0).or_insert_with(|| nothing(row.campaign, row.claim.campaign));
        let (units, money) = match place {
            Place::Persisted => (&mut totals.persisted, &mut totals.persisted_money),
            Place::Settled => (&mut totals.settled, &mut totals.settled_money),
            Place::Returned => (&mut totals.returned, &mut totals.returned_money),
            Place::Dead => (&mut totals.dead, &mut totals.dead_money),
        };
        units.0 = units.0.checked_add_signed(sign * row.claim.quantity.0 as i64).expect("P1: a sum below nothing");
        money.0 += sign * row.claim.amount.map_or(0, |a| a.0);
    }

    pub fn stored(&self, row: &ClaimRow) -> StoredClaim {
        let id = row.claim.claim_id;
        let held = if !self.by_id.contains_key(&id) { ClaimStatus::Accepted } else { ClaimStatus::Persisted };
        let status = self.fate_of(id).map_or(held, Fate::status);
        StoredClaim { row: *row, status, ended: None }
    }

    pub fn readable(&mut self) -> Result<(), StoreError> {
        if self.outage > 0 {
            self.outage -= 1;
            return Err(outage("gone"));
        }
        Ok(())
    }
}

/// Which sum a claim is counted in.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    Persisted,
    Settled,
    Returned,
    Dead,
}

/// Where a row of which this has become is counted.
pub fn place_of(fate: Option<Fate>) -> Place {
    match fate {
        None => Place::Persisted,
        Some(to) if to.returns_units() => Place::Returned,
        Some(_) => Place::Settled,
    }
}

fn nothing(campaign: CampaignId, no: CampaignNo) -> Totals {
    Totals {
        campaign,
        no,
        persisted: Units(0),
        persisted_money: Money(0),
        settled: Units(0),
        settled_money: Money(0),
        returned: Units(0),
        returned_money: Money(0),
        dead: Units(0),
        dead_money: Money(0),
    }
}
