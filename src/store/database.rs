//! The database in use: one of the kinds that there are, chosen by the configuration.

use std::collections::BTreeMap;
use std::path::Path;

use super::postgres::{self, PostgresStore};
use super::sqlite::SqliteStore;
use super::{
    Batch, CampaignRecord, ClaimRow, DeadLetter, DeadRow, Dealt, GateRecord, GateState, LetterEnd, Looked, Mend, Mode,
    Position, Recovery, Row, SharedSecrets, Store, StoreError, StoredCart, StoredClaim, Totals, Written,
};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::sale::{CampaignId, ClaimId, ClaimStatus, Fate, Seq, Timestamp, UserId};

/// A database of one kind or another.
pub enum Database {
    /// A file.
    Sqlite(Box<SqliteStore>),
    /// A server.
    Postgres(Box<PostgresStore>),
}

/// Calls the same of whichever kind it is.
macro_rules! each {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Database::Sqlite($store) => $call,
            Database::Postgres($store) => $call,
        }
    };
}

impl Database {
    /// The database that the configuration names; not touched yet.
    ///
    /// # Errors
    /// [`StoreError::Outage`] for a URL that can't be used.
    pub fn of(config: &config::Store, mode: Mode) -> Result<Self, StoreError> {
        match &config.url {
            config::StoreUrl::Sqlite(path) => {
                // A link stays where it is: what is locked, opened and set aside is the file itself.
                let is_link = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
                let whole = if is_link { std::fs::canonicalize(path).ok() } else { None };
                let path = whole.as_deref().unwrap_or(path);
                SqliteStore::open(&format!("sqlite:{}", path.display()), mode)
                    .map(|store| Self::Sqlite(Box::new(store)))
            }
            config::StoreUrl::Postgres(url) => {
                let replica = match &config.replica_url {
                    Some(config::StoreUrl::Postgres(url)) => Some(url.expose()),
                    _ => None,
                };
                PostgresStore::open(url.expose(), replica, config.partition_by, mode)
                    .map(|store| Self::Postgres(Box::new(store)))
            }
            config::StoreUrl::MySql(_) => Err(StoreError::Outage("store.url: MySQL is not in this version".to_owned())),
        }
    }

    /// What it is called in messages: the file's path, or the URL without its password.
    pub fn name(&self) -> String {
        match self {
            Self::Sqlite(store) => store.path().display().to_string(),
            Self::Postgres(store) => store.name().to_owned(),
        }
    }

    /// The file, where it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(store) => Some(store.path()),
            Self::Postgres(_) => None,
        }
    }

    /// Makes its tables, or brings them up to date; tells how many migrations that took.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where it is another program's or a newer binary's; [`StoreError::Outage`] where it can't be
    /// written now.
    pub async fn migrate(&self) -> Result<u32, StoreError> {
        each!(self, store => store.migrate().await)
    }

    /// The journal and position that it belongs to; none for one that is not bound yet.
    ///
    /// # Errors
    /// [`StoreError::Outage`] or [`StoreError::Fenced`].
    pub async fn position(&self) -> Result<Option<Position>, StoreError> {
        each!(self, store => store.position().await)
    }

    /// What stands there, whatever its version; changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where it is another program's or a newer binary's; [`StoreError::Outage`] where it can't be
    /// read now.
    pub async fn look(&self) -> Result<Looked, StoreError> {
        each!(self, store => store.look().await)
    }

    /// Makes it belong to `to` instead of `from` (none: to nobody), with what `mend` says, and writes `recovery` down: one
    /// transaction. True where that was done before.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where it is neither `from`'s nor `to`'s; else as every write.
    pub async fn rebind(
        &self,
        from: Option<Position>,
        to: Position,
        mend: &Mend,
        recovery: &Recovery,
    ) -> Result<bool, StoreError> {
        each!(self, store => store.rebind(from, to, mend, recovery).await)
    }

    /// The campaigns as rows and open dead letters tell them, by number.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] names a campaign that can't be told; else as every read.
    pub async fn campaign_records(&self) -> Result<Vec<CampaignRecord>, StoreError> {
        each!(self, store => store.campaign_records().await)
    }

    /// Ends of claims that are in open dead letters and in no row.
    ///
    /// # Errors
    /// As every read.
    pub async fn dead_ends(&self) -> Result<BTreeMap<ClaimId, Fate>, StoreError> {
        each!(self, store => store.dead_ends().await)
    }

    /// The latest instant and the highest position that any row tells of.
    ///
    /// # Errors
    /// As every read.
    pub async fn horizon(&self) -> Result<(Timestamp, Seq), StoreError> {
        each!(self, store => store.horizon().await)
    }

    /// Claims in dead letters that are no rows, with a seq above `after`, oldest first, at most `limit`, each with what has
    /// become of it: open letters, and those that were closed because the claim was given back.
    ///
    /// # Errors
    /// As every read.
    pub async fn dead_claims_and_fates(
        &self,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<(ClaimRow, ClaimStatus)>, StoreError> {
        each!(self, store => store.dead_claims_and_fates(after, limit).await)
    }

    /// How often a journal was made anew from this database.
    ///
    /// # Errors
    /// As every read.
    pub async fn rebuilds(&self) -> Result<u64, StoreError> {
        each!(self, store => store.rebuilds().await)
    }

    /// Entries that somebody accepted as lost: the first and the last of each stretch.
    ///
    /// # Errors
    /// As every read.
    pub async fn losses(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        each!(self, store => store.losses().await)
    }

    /// The gates of a shared buffer, by id; none of a node of its own.
    ///
    /// # Errors
    /// As every read.
    pub async fn gates(&self) -> Result<Vec<GateRecord>, StoreError> {
        each!(self, store => store.gates().await)
    }

    /// Registers a gate in this state, or puts it in this state, and says who did that; tells the state in which it stands
    /// then. A dismissal is for good: a gate that was dismissed stays so, whoever asks for another state. Where the state
    /// stays the same, so does who changed it when.
    ///
    /// # Errors
    /// As every write; after [`StoreError::Unknown`] ask again.
    pub async fn set_gate(&self, id: u128, state: GateState, by: &str) -> Result<GateState, StoreError> {
        let at = SystemClock.now();
        each!(self, store => store.set_gate(id, state, by, at).await)
    }

    /// How often it was bound: a number that only grows.
    ///
    /// # Errors
    /// As every read.
    pub async fn bindings(&self) -> Result<u64, StoreError> {
        each!(self, store => store.bindings().await)
    }

    /// What the gates of a shared buffer have in common; none before the first one came.
    ///
    /// # Errors
    /// As every read.
    pub async fn secrets(&self) -> Result<Option<SharedSecrets>, StoreError> {
        each!(self, store => store.secrets().await)
    }

    /// Puts `new` there unless somebody was first, all or nothing; gives what stands there then.
    ///
    /// # Errors
    /// As every write; after [`StoreError::Unknown`] ask again.
    pub async fn put_secrets(&self, new: &SharedSecrets) -> Result<SharedSecrets, StoreError> {
        each!(self, store => store.put_secrets(new).await)
    }

    /// Closes every connection.
    pub async fn close(&self) {
        each!(self, store => store.close().await);
    }
}

impl Store for Database {
    async fn bind(&self, journal: u128) -> Result<Position, StoreError> {
        each!(self, store => store.bind(journal).await)
    }

    async fn write(&self, batch: &Batch, dead: &[DeadRow]) -> Result<Written, StoreError> {
        each!(self, store => store.write(batch, dead).await)
    }

    async fn probe(&self, rows: &[Row]) -> Result<(), StoreError> {
        each!(self, store => store.probe(rows).await)
    }

    async fn claim(&self, id: ClaimId) -> Result<Option<StoredClaim>, StoreError> {
        each!(self, store => store.claim(id).await)
    }

    async fn claims_of(&self, user: &UserId, before: Option<Seq>, limit: u32) -> Result<Vec<StoredClaim>, StoreError> {
        each!(self, store => store.claims_of(user, before, limit).await)
    }

    async fn scan(
        &self,
        campaign: Option<&CampaignId>,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<StoredClaim>, StoreError> {
        each!(self, store => store.scan(campaign, after, limit).await)
    }

    async fn totals(&self) -> Result<Vec<Totals>, StoreError> {
        each!(self, store => store.totals().await)
    }

    async fn dead_claims(&self, after: Seq, limit: u32) -> Result<Vec<ClaimRow>, StoreError> {
        each!(self, store => store.dead_claims(after, limit).await)
    }

    async fn cart(&self, user: &UserId) -> Result<StoredCart, StoreError> {
        each!(self, store => store.cart(user).await)
    }

    async fn cart_owners(&self, after: Option<&UserId>, limit: u32) -> Result<(Vec<UserId>, u64), StoreError> {
        each!(self, store => store.cart_owners(after, limit).await)
    }

    async fn dead_letters(&self, after: u64, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        each!(self, store => store.dead_letters(after, limit).await)
    }

    async fn dead_letter(&self, id: u64) -> Result<Option<DeadLetter>, StoreError> {
        each!(self, store => store.dead_letter(id).await)
    }

    async fn requeue(&self, id: u64) -> Result<Dealt, StoreError> {
        each!(self, store => store.requeue(id).await)
    }

    async fn discard(&self, id: u64, by: &str, reason: &str) -> Result<Dealt, StoreError> {
        each!(self, store => store.discard(id, by, reason).await)
    }

    async fn closed_letter(&self, id: u64) -> Result<Option<LetterEnd>, StoreError> {
        each!(self, store => store.closed_letter(id).await)
    }

    async fn dead_count(&self) -> Result<u64, StoreError> {
        each!(self, store => store.dead_count().await)
    }
}

/// What is wrong with the URLs of a configuration, by their keys, in words without the URLs.
pub fn url_problems(config: &config::Store) -> Vec<(&'static str, String)> {
    let urls = [("store.url", Some(&config.url)), ("store.replica_url", config.replica_url.as_ref())];
    let wrong = |(key, url): (&'static str, Option<&config::StoreUrl>)| match url {
        Some(config::StoreUrl::Postgres(url)) => postgres::check_url(url.expose()).err().map(|error| (key, error)),
        _ => None,
    };
    urls.into_iter().filter_map(wrong).collect()
}
