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
mod letters;
mod payload;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{
    Batch, ClaimRow, DeadLetter, DeadRow, Position, Requeued, Row, Store, StoreError, StoredCart, StoredClaim, Totals,
    Written,
};
use crate::sale::{CampaignId, ClaimId, Seq, UserId};
use connection::{Clean, Connections, Purpose};

/// What a store may do to its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Read and write.
    ReadWrite,
    /// Read only, beside a running server or after it.
    ReadOnly,
}

/// A SQLite database file.
pub struct SqliteStore {
    connections: Connections,
    path: PathBuf,
    /// The journal that [`Store::bind`] tied it to, as 32 hexadecimal digits.
    journal: OnceLock<String>,
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
        Ok(Self { connections: Connections::new(path.clone(), mode), path, journal: OnceLock::new() })
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

    /// Closes every connection; the last one out moves the write-ahead log into the file.
    pub async fn close(&self) {
        self.connections.close().await;
    }
}

impl Store for SqliteStore {
    async fn bind(&self, journal: u128) -> Result<Position, StoreError> {
        let position = match self.position().await? {
            Some(position) => position,
            None => self.connections.write(async |sql| bind_fresh(sql, journal).await).await?,
        };
        if position.journal != journal {
            return Err(StoreError::Fenced(format!(
                "{} belongs to journal {:032x}, this one is {journal:032x}: give each data folder a database of its own",
                self.path.display(),
                position.journal
            )));
        }
        let bound = self.journal.get_or_init(|| format!("{journal:032x}"));
        assert_eq!(*bound, format!("{journal:032x}"), "a store bound to two journals");
        Ok(position)
    }

    async fn write(&self, batch: &Batch, dead: &[DeadRow]) -> Result<Written, StoreError> {
        assert!(batch.after < batch.upto, "a batch from {} to {}", batch.after, batch.upto);
        let inside = |row: &Row| batch.after < row.seq() && row.seq() <= batch.upto;
        assert!(batch.rows.iter().all(inside), "a row outside its batch");
        let journal = self.journal.get().ok_or_else(|| StoreError::Fenced("bound to no journal".to_owned()))?;
        self.connections.write(async |sql| write::batch(sql, journal, batch, dead).await).await
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

    async fn requeue(&self, id: u64) -> Result<Requeued, StoreError> {
        self.connections.write(async |sql| letters::requeue(sql, id).await).await
    }

    async fn discard(&self, id: u64, by: &str, reason: &str) -> Result<bool, StoreError> {
        self.connections.write(async |sql| letters::discard(sql, id, by, reason).await).await
    }

    async fn dead_count(&self) -> Result<u64, StoreError> {
        self.connections.read(letters::count).await
    }
}

/// Ties a fresh database to `journal`; whoever was first wins.
async fn bind_fresh(sql: &mut sqlx::SqliteConnection, journal: u128) -> (Result<Position, StoreError>, Clean) {
    let work = async {
        write::begin(sql).await?;
        let text = "INSERT INTO forebay_meta (one, journal, cursor, format) VALUES (1, ?, 0, 1) ON CONFLICT DO NOTHING";
        sqlx::query(text).bind(format!("{journal:032x}")).execute(&mut *sql).await.map_err(error::before)?;
        let position = read::position(sql).await?;
        write::commit(sql).await?;
        position.ok_or_else(|| StoreError::Outage("the binding did not stay".to_owned()))
    };
    match work.await {
        Ok(position) => (Ok(position), Clean::Yes),
        Err(error) => (Err(error), Clean::No),
    }
}
