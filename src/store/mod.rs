//! The database, behind one trait: SQLite now, others beside it. The only place with SQL.
//!
//! Contract of every store:
//! - A [`Batch`] is one transaction: its rows, its dead letters, the totals and the cursor land together or not at all.
//! - The cursor moves from `batch.after` to `batch.upto` and from nowhere else: a batch that was committed, but whose
//!   reply was lost, is recognised when it is sent again ([`Written::AlreadyThere`]).
//! - A row that is already there under the same claim id with the same content is a success; any other conflict is
//!   that row's fault ([`StoreError::Row`]).
//! - What fails for the whole table (locked, full, read-only, gone) is an outage ([`StoreError::Outage`]), never a row's
//!   fault.

pub mod sqlite;
#[cfg(test)]
mod suite;

use std::future::Future;

use crate::sale::{
    CampaignId, CampaignNo, Claim, ClaimId, ClaimStatus, Currency, Money, Seq, Timestamp, Units, UserId,
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
    /// What was done: `created` or `changed`.
    pub action: &'static str,
    /// Who did it.
    pub by: String,
    /// The definition, or the change, as JSON.
    pub detail: String,
}

/// One row of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Insert a claim.
    Claim(ClaimRow),
    /// Record a campaign's creation or change.
    Campaign(CampaignRow),
}

impl Row {
    /// The row's position.
    pub fn seq(&self) -> Seq {
        match self {
            Self::Claim(row) => row.claim.seq,
            Self::Campaign(row) => row.seq,
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
    Committed { new_claims: u64 },
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
    /// `persisted`, or what came of it; `accepted` for a claim in the dead letters, which is its buyer's all the same.
    pub status: ClaimStatus,
}

/// Sums per campaign, kept in the same transactions as the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// The campaign.
    pub campaign: CampaignId,
    /// Its place in the book.
    pub no: CampaignNo,
    /// Units in claim rows.
    pub persisted: Units,
    /// Money in claim rows.
    pub persisted_money: Money,
    /// Units in dead letters.
    pub dead: Units,
    /// Money in dead letters.
    pub dead_money: Money,
}

/// The database in use. Others join it behind this name.
pub type Database = sqlite::SqliteStore;

/// A SQL database.
pub trait Store: Send + Sync + 'static {
    /// Ties a fresh database to `journal`, or tells which journal and position it belongs to.
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
    /// The claim ids in the dead letters with a seq above `after`, oldest first, at most `limit`.
    fn dead_claims(&self, after: Seq, limit: u32) -> impl Future<Output = Result<Vec<ClaimRow>, StoreError>> + Send;
    /// How many dead letters there are.
    fn dead_count(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;
}
