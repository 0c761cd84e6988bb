//! SQLite behind the [`Store`] trait: one writer, a few readers, one file.
//!
//! - WAL with synchronous=FULL: a commit that returned is on the disk, and reads never wait for the writer.
//! - One writer connection, opened by the first call that writes and not before. sqlx gives it a thread of its own,
//!   which inherits the niceness of the thread that polls that first call: the drain's, if the drain is the first.
//! - Every call may be dropped at any await: see `sqlite/connection.rs`.
//! - Three trees a claim: the rows in the journal's order (appended), the claim ids, which begin with the time (nearly
//!   appended), and the buyers (random). A check-in has two more, its points in the journal's order and by buyer and day.
//!   `migrations/sqlite` says what each is for.
//! - Rows go in by statements of [`limits::STORE_INSERT_ROWS`](crate::limits::STORE_INSERT_ROWS) tuples that stay prepared.

mod bulk;
mod carts;
mod claims;
mod connection;
mod effect;
mod ends;
mod error;
mod gates;
mod letters;
mod pair;
mod read;
mod records;
mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::fold::Owner;
use super::{
    Batch, CampaignRecord, ClaimRow, DeadLetter, DeadRow, Dealt, LetterEnd, Looked, Mend, Mode, Position, Recovery,
    Row, Store, StoreError, StoredCart, StoredClaim, Totals, Written,
};
use crate::sale::{CampaignId, ClaimId, ClaimStatus, Fate, Seq, Timestamp, UserId};
use connection::{Connections, Purpose};

/// A SQLite database file.
pub struct SqliteStore {
    connections: Connections,
    path: PathBuf,
    /// Who [`Store::bind`] tied it to.
    owner: Mutex<Option<Arc<Owner>>>,
}

impl SqliteStore {
    /// Takes `sqlite:PATH` (or `sqlite://PATH`). Touches no file: a database that can't be used now may be usable in
    /// a minute, so that is told by the calls that use it.
    ///
    /// # Errors
    /// [`StoreError::Outage`] for an URL that names no file.
    pub fn open(url: &str, mode: Mode) -> Result<Self, StoreError> {
        let wrong = |what: &str| {
            StoreError::Outage(format!("store.url {url:?} {what}; expected sqlite:PATH, such as \"sqlite:forebay.db\""))
        };
        let rest = url.strip_prefix("sqlite:").ok_or_else(|| wrong("is not a SQLite URL"))?;
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() || path.starts_with(":memory:") {
            return Err(wrong("names no file"));
        }
        if path.contains('?') {
            return Err(wrong("has parameters, of which there are none"));
        }
        let path = PathBuf::from(path);
        Ok(Self { connections: Connections::new(path.clone(), mode), path, owner: Mutex::new(None) })
    }

    /// The database's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the file and its tables, or brings them up to date; tells how many migrations that took.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where the file is another program's or a newer binary's; [`StoreError::Outage`] where
    /// it can't be opened or written.
    pub async fn migrate(&self) -> Result<u32, StoreError> {
        self.connections.check_writable()?;
        // A connection of its own, closed afterwards: the writer's thread is made by whoever writes first.
        let mut connected = self.connections.open(Purpose::Migrate).await?;
        let applied = schema::migrate(&mut connected.sql).await;
        connected.close().await;
        applied
    }

    /// The journal and position that the database belongs to; none for one that is not bound yet.
    ///
    /// # Errors
    /// [`StoreError::Outage`] or [`StoreError::Fenced`].
    pub async fn position(&self) -> Result<Option<Position>, StoreError> {
        self.connections.read(read::position).await
    }

    /// What stands there, whatever its version; changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where the file is another program's or a newer binary's; [`StoreError::Outage`] where it
    /// can't be read now, or its folder is not there.
    pub async fn look(&self) -> Result<Looked, StoreError> {
        if let Err(error) = std::fs::metadata(&self.path) {
            let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return if error.kind() == std::io::ErrorKind::NotFound && parent.is_dir() {
                Ok(Looked::Missing)
            } else {
                Err(StoreError::Outage(format!("{}: {error}", self.path.display())))
            };
        }
        let mut connected = self.connections.open(Purpose::Look).await?;
        let looked = match connected.is_empty {
            true => Ok(Looked::Empty),
            false => pair::look(&mut connected.sql).await,
        };
        connected.close().await;
        looked
    }

    /// Moves the write-ahead log into the file, so that the file alone is the database.
    ///
    /// # Errors
    /// As [`Self::migrate`]; [`StoreError::Outage`] where another program reads it and keeps the log.
    pub async fn fold(&self) -> Result<(), StoreError> {
        self.connections.check_writable()?;
        let mut connected = self.connections.open(Purpose::Migrate).await?;
        let folded = pair::fold(&mut connected.sql).await;
        connected.close().await;
        folded
    }

    /// The same database, not touched yet: after [`Self::close`], and after its file was exchanged.
    pub fn again(&self) -> Self {
        let connections = Connections::new(self.path.clone(), Mode::ReadWrite);
        Self { connections, path: self.path.clone(), owner: Mutex::new(None) }
    }

    /// Makes the file belong to `to` instead of `from` (none: to nobody), with what it lacks, and writes `recovery` down: one
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
        self.connections.write(async |sql| pair::rebind(sql, from, to, mend, recovery).await).await
    }

    /// The campaigns as rows and open dead letters tell them, by number.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] names a campaign that can't be told; else as every read.
    pub async fn campaign_records(&self) -> Result<Vec<CampaignRecord>, StoreError> {
        self.connections.read(records::campaigns).await
    }

    /// Ends of claims that are in open dead letters and in no row.
    ///
    /// # Errors
    /// As every read.
    pub async fn dead_ends(&self) -> Result<BTreeMap<ClaimId, Fate>, StoreError> {
        self.connections.read(records::dead_ends).await
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
        self.connections.read(async |sql| records::dead_claims(sql, after, limit).await).await
    }

    /// The latest instant and the highest position that any row tells of.
    ///
    /// # Errors
    /// As every read.
    pub async fn horizon(&self) -> Result<(Timestamp, Seq), StoreError> {
        self.connections.read(async |sql| Ok((records::latest(sql).await?, records::highest(sql).await?))).await
    }

    /// How often a journal was made anew from this database.
    ///
    /// # Errors
    /// As every read.
    pub async fn rebuilds(&self) -> Result<u64, StoreError> {
        self.connections.read(pair::rebuilds).await
    }

    /// Entries that somebody accepted as lost: the first and the last of each stretch.
    ///
    /// # Errors
    /// As every read.
    pub async fn losses(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        self.connections.read(pair::losses).await
    }

    fn owner(&self) -> Result<Arc<Owner>, StoreError> {
        let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        owner.ok_or_else(|| StoreError::Fenced("bound to no journal".to_owned()))
    }

    /// Closes every connection; the last one out moves the write-ahead log into the file.
    pub async fn close(&self) {
        self.connections.close().await;
    }
}

impl Store for SqliteStore {
    async fn bind(&self, journal: u128) -> Result<Position, StoreError> {
        let foreign = |position: Position| {
            StoreError::Fenced(format!(
                "{} belongs to journal {:032x}, this one is {journal:032x}: give each data folder a database of its own",
                self.path.display(),
                position.journal
            ))
        };
        let (position, epoch) = self.connections.write(async |sql| pair::bind(sql, journal).await).await?;
        let epoch = epoch.ok_or_else(|| foreign(position))?;
        let owner = Owner { journal: format!("{journal:032x}"), epoch };
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(owner));
        Ok(position)
    }

    async fn write(&self, batch: &Batch, dead: &[DeadRow]) -> Result<Written, StoreError> {
        assert!(batch.after < batch.upto, "a batch from {} to {}", batch.after, batch.upto);
        let inside = |row: &Row| batch.after < row.seq() && row.seq() <= batch.upto;
        assert!(batch.rows.iter().all(inside), "a row outside its batch");
        let owner = self.owner()?;
        self.connections.write(async |sql| write::batch(sql, &owner, batch, dead).await).await
    }

    async fn probe(&self, rows: &[Row]) -> Result<(), StoreError> {
        self.connections.write(async |sql| write::probe(sql, rows).await).await
    }

    async fn claim(&self, id: ClaimId) -> Result<Option<StoredClaim>, StoreError> {
        self.connections.read(async |sql| read::claim(sql, id).await).await
    }

    async fn claims_of(&self, user: &UserId, before: Option<Seq>, limit: u32) -> Result<Vec<StoredClaim>, StoreError> {
        self.connections.read(async |sql| read::claims_of(sql, user, before, limit).await).await
    }

    async fn scan(
        &self,
        campaign: Option<&CampaignId>,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<StoredClaim>, StoreError> {
        self.connections.read(async |sql| read::scan(sql, campaign, after, limit).await).await
    }

    async fn totals(&self) -> Result<Vec<Totals>, StoreError> {
        self.connections.read(read::totals).await
    }

    async fn dead_claims(&self, after: Seq, limit: u32) -> Result<Vec<ClaimRow>, StoreError> {
        self.connections.read(async |sql| read::dead_claims(sql, after, limit).await).await
    }

    async fn cart(&self, user: &UserId) -> Result<StoredCart, StoreError> {
        self.connections.read(async |sql| carts::read(sql, user).await).await
    }

    async fn cart_owners(&self, after: Option<&UserId>, limit: u32) -> Result<(Vec<UserId>, u64), StoreError> {
        self.connections.read(async |sql| carts::owners(sql, after, limit).await).await
    }

    async fn dead_letters(&self, after: u64, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        self.connections.read(async |sql| letters::list(sql, after, limit).await).await
    }

    async fn dead_letter(&self, id: u64) -> Result<Option<DeadLetter>, StoreError> {
        self.connections.read(async |sql| letters::one(sql, id).await).await
    }

    async fn requeue(&self, id: u64) -> Result<Dealt, StoreError> {
        let owner = self.owner()?;
        self.connections.write(async |sql| letters::requeue(sql, &owner, id).await).await
    }

    async fn discard(&self, id: u64, by: &str, reason: &str) -> Result<Dealt, StoreError> {
        let owner = self.owner()?;
        self.connections.write(async |sql| letters::discard(sql, &owner, id, (by, reason)).await).await
    }

    async fn closed_letter(&self, id: u64) -> Result<Option<LetterEnd>, StoreError> {
        self.connections.read(async |sql| letters::closed(sql, id).await).await
    }

    async fn dead_count(&self) -> Result<u64, StoreError> {
        self.connections.read(letters::count).await
    }
}
