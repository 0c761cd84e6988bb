//! The database, behind one trait: SQLite or PostgreSQL. The only place with SQL.
//!
//! Contract of every store:
//! - A [`Batch`] is one transaction: its rows, its dead letters, the totals and the cursor land together or not at all.
//! - The cursor moves from `batch.after` to `batch.upto` and from nowhere else: a batch that was committed, but whose
//!   reply was lost, is recognised when it is sent again ([`Written::AlreadyThere`]).
//! - A row that is already there under the same claim id with the same content is a success, whatever has become of it
//!   since; any other conflict is that row's fault ([`StoreError::Row`]).
//! - An end that is there already is a success, and so is the end of a claim that was accepted as lost ([`Mend::lost`]);
//!   another end, or the end of a claim that is neither a row nor a dead letter, is that end's fault. Whatever the order of
//!   the rows within a batch, holds that it frees can be taken in it.
//! - What fails for the whole table (locked, full, read-only, gone) is an outage ([`StoreError::Outage`]), never a row's
//!   fault.

mod database;
mod effect;
mod fold;
mod gates;
mod letter;
mod pair;
mod payload;
pub mod postgres;
mod records;
pub mod sqlite;
#[cfg(test)]
mod suite;

use std::future::Future;

pub use database::{Database, url_problems};
pub use gates::{GateRecord, GateState, SharedSecrets};
pub use pair::{CampaignRecord, KnownCampaign, Looked, Mend, Recovery};

use crate::sale::{
    CampaignId, CampaignNo, Carted, Claim, ClaimId, ClaimStatus, Currency, Money, Moved, Seq, Sku, Timestamp, Units,
    UserId,
};

/// A claim as the database needs it: the book's number spelled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimRow {
    /// The claim.
    pub claim: Claim,
    /// Its campaign's public name.
    pub campaign: CampaignId,
    /// The currency of its amount.
    pub currency: Option<Currency>,
    /// Whether it is a check-in: its `hold` is the local day, and its points go into the points ledger.
    pub is_check_in: bool,
}

/// The end of a claim, whose row may be in the same batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndRow {
    /// The entry that made it so.
    pub seq: Seq,
    /// When.
    pub at: Timestamp,
    /// The claim's campaign's public name.
    pub campaign: CampaignId,
    /// What became of which claim, and who asked.
    pub moved: Moved,
}

/// A campaign's latest definition and state, for those who read the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignRow {
    /// Its place in the book.
    pub no: CampaignNo,
    /// Its public name.
    pub id: CampaignId,
    /// The entry that made it so.
    pub seq: Seq,
    /// When.
    pub at: Timestamp,
    /// What was done: `created`, `changed` or `released`.
    pub action: &'static str,
    /// Who did it.
    pub by: String,
    /// The definition, or the change, as JSON.
    pub detail: String,
}

/// A line of a cart as it is after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CartRow {
    /// The entry that made it so.
    pub seq: Seq,
    /// When.
    pub at: Timestamp,
    /// The buyer.
    pub user: UserId,
    /// The line.
    pub sku: Sku,
    /// Units; 0 where the line is gone.
    pub quantity: u32,
    /// The 40 bits of the buyer's hash by which caches are told.
    pub address: u64,
}

/// A buyer's cart as the database has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredCart {
    /// The last operation on it that is in the database; 0 where there is none.
    pub version: Seq,
    /// Its lines, by sku.
    pub lines: Vec<(Sku, u32)>,
}

impl StoredCart {
    /// Lays over it what waits of the buyer's operations, oldest first. Whoever reads a cart reads what waits before the row:
    /// an operation whose batch lands in between is in both, and counts only beyond the row's own position.
    pub fn overlay(&mut self, waiting: &[(Seq, Carted)]) {
        let stored = self.version;
        for (seq, carted) in waiting.iter().filter(|(seq, _)| *seq > stored) {
            let place = self.lines.binary_search_by(|(sku, _)| sku.cmp(&carted.sku));
            match (place, carted.quantity) {
                (Ok(at), 0) => drop(self.lines.remove(at)),
                (Ok(at), quantity) => self.lines[at].1 = quantity,
                (Err(_), 0) => {}
                (Err(at), quantity) => self.lines.insert(at, (carted.sku, quantity)),
            }
            self.version = *seq;
        }
    }
}

/// One row of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Insert a claim.
    Claim(ClaimRow),
    /// Set a claim's end.
    End(EndRow),
    /// Set a cart's line, unless the cart has a later operation.
    Cart(CartRow),
    /// Record a campaign's creation or change.
    Campaign(CampaignRow),
    /// Nothing to write: a position that nobody has, which the cursor passes.
    Void(Seq),
}

impl Row {
    /// The row's position.
    pub fn seq(&self) -> Seq {
        match self {
            Self::Claim(row) => row.claim.seq,
            Self::End(row) => row.seq,
            Self::Cart(row) => row.seq,
            Self::Campaign(row) => row.seq,
            Self::Void(seq) => *seq,
        }
    }
}

/// The entries after `after` up to `upto`, in order, without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The cursor before.
    pub after: Seq,
    /// The cursor afterwards; the last row's seq.
    pub upto: Seq,
    /// One row an entry.
    pub rows: Vec<Row>,
    /// The mark of the entry at `upto`, which is kept beside the cursor.
    pub mark: u32,
}

/// A row that the database won't take, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadRow {
    /// Which row of the batch.
    pub index: usize,
    /// The database's words.
    pub reason: String,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The batch is committed; so many claim rows were new (the others were there already, with the same content).
    /// `moved_dead` says whether an end did something else than move a row: its claim is in the dead letters, or had come to
    /// that end before. Only the database's own sums tell what that did to them.
    Committed { new_claims: u64, moved_dead: bool },
    /// An earlier attempt had committed it: the cursor already stands at `upto` or beyond.
    AlreadyThere,
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A row is at fault: the batch without it may pass.
    #[error("a row was refused: {0}")]
    Row(String),
    /// The database as a whole can't be used now; nothing was written. Try again later.
    #[error("the database can't be used: {0}")]
    Outage(String),
    /// Nobody knows whether the commit happened. Send the same batch again.
    #[error("the outcome of a commit is unknown: {0}")]
    Unknown(String),
    /// Someone else moved the cursor, or the database belongs to another journal: stop draining.
    #[error("fenced: {0}")]
    Fenced(String),
}

/// What a database knows of the journal it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The journal's identity, written with the first start.
    pub journal: u128,
    /// The last entry that is in the database.
    pub cursor: Seq,
}

/// A claim as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredClaim {
    /// The row. `claim.campaign` is the book's number.
    pub row: ClaimRow,
    /// `persisted`, or what became of it; `accepted` for a claim in the dead letters of which nothing became, and which is
    /// its buyer's all the same.
    pub status: ClaimStatus,
    /// The entry that brought it to its end, if it has come to one.
    pub ended: Option<Seq>,
}

/// Sums per campaign, kept in the same transactions as the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// The campaign.
    pub campaign: CampaignId,
    /// Its place in the book.
    pub no: CampaignNo,
    /// Units in claim rows that are neither paid nor given back.
    pub persisted: Units,
    /// Their money.
    pub persisted_money: Money,
    /// Units of claims that are paid.
    pub settled: Units,
    /// Their money.
    pub settled_money: Money,
    /// Units of claims that were given back or have expired, all that ever were.
    pub returned: Units,
    /// Their money.
    pub returned_money: Money,
    /// Units in dead letters that were not given back.
    pub dead: Units,
    /// Their money.
    pub dead_money: Money,
}

/// An entry that the tables would not take, and that nobody has dealt with yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number: from 1, in the order in which letters were written.
    pub id: u64,
    /// The entry's position.
    pub seq: Seq,
    /// What it is: `claim`, `end`, `cart` or `campaign`.
    pub kind: String,
    /// The claim, of a claim or its end.
    pub claim_id: Option<ClaimId>,
    /// The campaign's public name; none of a cart's operation.
    pub campaign: Option<CampaignId>,
    /// The buyer, of a claim or a cart's operation.
    pub user: Option<UserId>,
    /// Its units.
    pub quantity: Option<Units>,
    /// Its amount.
    pub amount: Option<Money>,
    /// When the entry was decided.
    pub at: Timestamp,
    /// The database's words.
    pub reason: String,
    /// The entry as JSON, complete.
    pub payload: String,
}

/// What became of a dead letter that was to be written again, or to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dealt {
    /// It is a row now, or closed.
    Done,
    /// The tables still won't take it, in the database's words; it stays where it is.
    Refused(String),
    /// It was dealt with before; nothing was done now.
    Closed(LetterEnd),
    /// There is no letter of that number, or none that may be closed so.
    Unknown,
}

/// How a dead letter was dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterEnd {
    /// It became a row.
    Requeued,
    /// It was given up: a claim's by its cancellation, whoever asked for that.
    Dropped,
    /// Its claim was not settled in time.
    Expired,
}

impl LetterEnd {
    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requeued => "requeued",
            Self::Dropped => "dropped",
            Self::Expired => "expired",
        }
    }
}

/// What a store may do to its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Read and write.
    ReadWrite,
    /// Read only, beside a running server or after it.
    ReadOnly,
}

/// A SQL database.
pub trait Store: Send + Sync + 'static {
    /// Ties a fresh database to `journal`, or tells which journal and position it belongs to. From then on it takes batches
    /// of this binding only: of an earlier one it refuses them as [`StoreError::Fenced`].
    fn bind(&self, journal: u128) -> impl Future<Output = Result<Position, StoreError>> + Send;
    /// Writes a batch in one transaction; `dead` names the rows that go to the dead letters instead.
    fn write(&self, batch: &Batch, dead: &[DeadRow]) -> impl Future<Output = Result<Written, StoreError>> + Send;
    /// Tries the rows in a transaction that is rolled back: whether the database would take them.
    /// Some faults are seen only in a sum (the guard against oversell): the row at fault is the last one of the shortest
    /// prefix, without the rows already found dead, that is refused.
    fn probe(&self, rows: &[Row]) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// One claim: its row, or else its dead letter.
    fn claim(&self, id: ClaimId) -> impl Future<Output = Result<Option<StoredClaim>, StoreError>> + Send;
    /// A buyer's claims, rows and dead letters, with a seq below `before`, newest first, at most `limit`.
    fn claims_of(
        &self,
        user: &UserId,
        before: Option<Seq>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<StoredClaim>, StoreError>> + Send;
    /// A campaign's rows with a seq above `after`, oldest first, at most `limit`; all campaigns' for `None`. No dead
    /// letters: those are [`Self::dead_claims`].
    fn scan(
        &self,
        campaign: Option<&CampaignId>,
        after: Seq,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<StoredClaim>, StoreError>> + Send;
    /// The sums of every campaign.
    fn totals(&self) -> impl Future<Output = Result<Vec<Totals>, StoreError>> + Send;
    /// The claims of open dead letters with a seq above `after`, oldest first, at most `limit`: those that hold units.
    fn dead_claims(&self, after: Seq, limit: u32) -> impl Future<Output = Result<Vec<ClaimRow>, StoreError>> + Send;
    /// A buyer's cart.
    fn cart(&self, user: &UserId) -> impl Future<Output = Result<StoredCart, StoreError>> + Send;
    /// Buyers who have had a cart, by name, those behind `after`, at most `limit`; and, for a limit of 0, how many there are.
    fn cart_owners(
        &self,
        after: Option<&UserId>,
        limit: u32,
    ) -> impl Future<Output = Result<(Vec<UserId>, u64), StoreError>> + Send;
    /// The open dead letters with a number above `after`, oldest first, at most `limit`.
    fn dead_letters(&self, after: u64, limit: u32) -> impl Future<Output = Result<Vec<DeadLetter>, StoreError>> + Send;
    /// One open dead letter.
    fn dead_letter(&self, id: u64) -> impl Future<Output = Result<Option<DeadLetter>, StoreError>> + Send;
    /// Writes a dead letter's entry as its row, with what has become of it since, and moves the sums: one transaction.
    fn requeue(&self, id: u64) -> impl Future<Output = Result<Dealt, StoreError>> + Send;
    /// Closes a dead letter that holds no units: not a claim's, whose units come back by the claim's end, nor one of an end
    /// that a row or a claim's letter still waits for; those are [`Dealt::Unknown`] here.
    fn discard(&self, id: u64, by: &str, reason: &str) -> impl Future<Output = Result<Dealt, StoreError>> + Send;
    /// How a dead letter was dealt with; none for an open one, and where there never was one of that number.
    fn closed_letter(&self, id: u64) -> impl Future<Output = Result<Option<LetterEnd>, StoreError>> + Send;
    /// How many open dead letters there are.
    fn dead_count(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;
}
