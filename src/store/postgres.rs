//! PostgreSQL behind the [`Store`](super::Store) trait: one writer, a few readers, and a replica for reads where there is one.
//!
//! - All database work runs on two threads of this store's own, one that writes, at the drain's low priority, and one that
//!   reads. Callers may stop waiting; no future around the database is ever cancelled (`postgres/lane.rs`).
//! - Claims go in by binary `COPY` straight into their table (`postgres/copy.rs`), everything else by `unnest` of arrays: a
//!   batch is a dozen statements, however many rows it has.
//! - One process at a time has the database, by an advisory lock that its writer's session holds; the number that each start
//!   takes fences the older one wherever it runs.
//! - A reader is never told less than somebody was told before: a replica is read only when it is as far as the last change.

mod carts;
mod claims;
mod connection;
mod copy;
mod days;
mod effect;
mod ends;
mod error;
mod gates;
mod lane;
mod letters;
mod pair;
mod read;
mod records;
mod schema;
mod sessions;
mod store;
#[cfg(test)]
mod tests;
mod types;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{CampaignRecord, ClaimRow, Looked, Mend, Mode, Position, Recovery, StoreError};
use crate::config::PartitionBy;
use crate::limits;
use crate::sale::{ClaimId, ClaimStatus, Fate, Seq, Timestamp};
use connection::{Purpose, Target};
pub use connection::{ServerFacts, Weak};
use lane::Lane;
use sessions::{Boxed, Sessions};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(limits::STORE_HANG_MILLIS);
/// The same where that takes what it takes.
const LONG: Duration = Duration::from_secs(limits::STORE_MIGRATE_SECS);

const EXPECTED: &str = "expected postgres://user:password@host:port/database";

/// Whether a URL can be read.
///
/// # Errors
/// What is wrong with it, without it.
pub fn check_url(url: &str) -> Result<(), String> {
    Target::parse(url, "").map(|_| ()).map_err(|error| format!("{error}; {EXPECTED}"))
}

/// A database on a PostgreSQL server.
pub struct PostgresStore {
    sessions: Arc<Sessions>,
    mode: Mode,
    /// How claims are divided.
    by: PartitionBy,
    target: Target,
    replica: Option<Target>,
    reading: Lane,
    writing: Lane,
}

impl PostgresStore {
    /// Takes `postgres://user:password@host:port/database?…`, and another such URL of a server that repeats its writes.
    /// Connects to nothing: a server that can't be reached now may be in a minute, so that is told by the calls.
    ///
    /// # Errors
    /// [`StoreError::Outage`] for a URL that can't be read, which it does not repeat: there is a password in it.
    pub fn open(url: &str, replica_url: Option<&str>, by: PartitionBy, mode: Mode) -> Result<Self, StoreError> {
        let who = whoami();
        let parse = |key: &str, url: &str| {
            Target::parse(url, &who).map_err(|e| StoreError::Outage(format!("{key}: {e}; {EXPECTED}")))
        };
        let target = parse("store.url", url)?;
        let replica = replica_url.map(|url| parse("store.replica_url", url)).transpose()?;
        Self::of(target, replica, (mode, by), who)
    }

    fn of(
        target: Target,
        replica: Option<Target>,
        (mode, by): (Mode, PartitionBy),
        who: String,
    ) -> Result<Self, StoreError> {
        let (reading, writing) =
            (Lane::spawn("postgres-read", None)?, Lane::spawn("postgres-write", Some(limits::DRAIN_NICE))?);
        let sessions = Arc::new(Sessions::new(target.clone(), replica.clone(), by, who));
        Ok(Self { sessions, mode, by, target, replica, reading, writing })
    }

    /// The URL without its password and parameters.
    pub fn name(&self) -> &str {
        self.target.name()
    }

    /// The same server and database with tables in a schema of this name, which is made here.
    ///
    /// # Errors
    /// As every write.
    pub async fn in_scratch_schema(&self, schema: &str) -> Result<Self, StoreError> {
        let text = format!("CREATE SCHEMA {}", word(schema));
        self.run(text).await?;
        Self::of(self.target.in_schema(&word(schema)), None, (Mode::ReadWrite, self.by), whoami())
    }

    /// Drops a schema of this name with everything in it.
    ///
    /// # Errors
    /// As every write.
    pub async fn drop_scratch_schema(&self, schema: &str) -> Result<(), StoreError> {
        self.run(format!("DROP SCHEMA IF EXISTS {} CASCADE", word(schema))).await
    }

    async fn run(&self, text: String) -> Result<(), StoreError> {
        self.apart(Purpose::Migrate, move |sql| {
            Box::pin(async move {
                sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(sql).await.map(|_| ()).map_err(error::before)
            })
        })
        .await
    }

    /// Bytes that the tables take with their indexes.
    ///
    /// # Errors
    /// As every read.
    pub async fn size(&self) -> Result<u64, StoreError> {
        self.apart(Purpose::Look, |sql| {
            Box::pin(async move {
                let text = "SELECT coalesce(sum(pg_total_relation_size(pg_class.oid)), 0)::bigint FROM pg_class \
                            JOIN pg_namespace ON pg_namespace.oid = relnamespace \
                            WHERE nspname = current_schema() AND relkind = 'r'";
                let bytes: i64 = sqlx::query_scalar(text).fetch_one(sql).await.map_err(error::before)?;
                Ok(bytes.unsigned_abs())
            })
        })
        .await
    }

    /// What the server says of how well it keeps what it was given.
    ///
    /// # Errors
    /// As every read.
    pub async fn facts(&self) -> Result<ServerFacts, StoreError> {
        let target = self.target.clone();
        self.apart(Purpose::Look, move |sql| Box::pin(async move { connection::facts(sql, &target).await })).await
    }

    /// Takes the database for this process, and waits a moment where another one is just ending.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where another process has it, else [`StoreError::Outage`].
    pub async fn lock(&self) -> Result<(), StoreError> {
        self.check_writable()?;
        self.sessions.demand_lock(true);
        let locked =
            self.sessions.write(&self.writing, PATIENCE, |_| Box::pin(async { (Ok(()), write::Clean::Yes) })).await;
        if matches!(locked, Err(StoreError::Fenced(_))) {
            self.sessions.demand_lock(false);
        }
        locked
    }

    /// Makes the tables, or brings them up to date; tells how many migrations that took.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where tables of our names are another program's or a newer binary's; [`StoreError::Outage`]
    /// where the server can't be reached or takes no writes.
    pub async fn migrate(&self) -> Result<u32, StoreError> {
        self.check_writable()?;
        let (sessions, by) = (self.sessions.clone(), self.by);
        let work = async move {
            let (mut sql, found) = sessions.target().open(Purpose::Migrate).await?;
            // A server that takes no writes is no trouble where there is nothing to write.
            let applied = if found.version == Some(schema::MIGRATIONS.len() as i32) {
                schema::check_partitions(&found, by).map(|()| 0)
            } else {
                schema::migrate(&mut sql, by).await
            };
            connection::close(sql).await;
            applied
        };
        let applied = self.reading.run(LONG, work).await?;
        let applied = applied.unwrap_or_else(|| Err(StoreError::Unknown(format!("no answer within {LONG:?}"))));
        applied.map_err(|error| self.target.named(error))
    }

    /// The journal and position that the database belongs to; none for one that is not bound yet.
    ///
    /// # Errors
    /// [`StoreError::Outage`] or [`StoreError::Fenced`].
    pub async fn position(&self) -> Result<Option<Position>, StoreError> {
        self.read(|sql| Box::pin(read::position(sql))).await
    }

    /// What stands there, whatever its version; changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where tables of our names are another program's or a newer binary's; [`StoreError::Outage`]
    /// where the server can't be asked now.
    pub async fn look(&self) -> Result<Looked, StoreError> {
        self.apart(Purpose::Look, |sql| {
            Box::pin(async move {
                if schema::find(sql).await?.version.is_none() {
                    return Ok(Looked::Empty);
                }
                pair::look(sql).await
            })
        })
        .await
    }

    /// The same database, not touched yet: after [`Self::close`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn again(&self) -> Result<Self, StoreError> {
        let again = Self::of(self.target.clone(), self.replica.clone(), (self.mode, self.by), whoami())?;
        again.sessions.demand_lock(true);
        Ok(again)
    }

    /// Moves all tables into a schema that is made for them.
    ///
    /// # Errors
    /// As every write.
    pub async fn set_aside(&self, schema: &str) -> Result<(), StoreError> {
        let schema = schema.to_owned();
        self.change(move |sql| Box::pin(async move { pair::set_aside(sql, &schema).await })).await
    }

    /// Makes the database belong to `to` instead of `from` (none: to nobody), with what it lacks, and writes `recovery` down:
    /// one transaction. True where that was done before.
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
        let (mend, recovery) = (mend.clone(), recovery.clone());
        self.check_writable()?;
        let work = self.sessions.write(&self.writing, LONG, move |sql| {
            Box::pin(async move { pair::rebind(sql, from, to, &mend, &recovery).await })
        });
        work.await
    }

    /// The campaigns as rows and open dead letters tell them, by number.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] names a campaign that can't be told; else as every read.
    pub async fn campaign_records(&self) -> Result<Vec<CampaignRecord>, StoreError> {
        self.apart(Purpose::ReadAll, |sql| Box::pin(records::campaigns(sql))).await
    }

    /// Ends of claims that are in open dead letters and in no row.
    ///
    /// # Errors
    /// As every read.
    pub async fn dead_ends(&self) -> Result<BTreeMap<ClaimId, Fate>, StoreError> {
        self.apart(Purpose::ReadAll, |sql| Box::pin(records::dead_ends(sql))).await
    }

    /// The latest instant and the highest position that any row tells of.
    ///
    /// # Errors
    /// As every read.
    pub async fn horizon(&self) -> Result<(Timestamp, Seq), StoreError> {
        self.apart(Purpose::ReadAll, |sql| Box::pin(records::horizon(sql))).await
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
        self.read(move |sql| Box::pin(records::dead_claims(sql, after, limit))).await
    }

    /// How often a journal was made anew from this database.
    ///
    /// # Errors
    /// As every read.
    pub async fn rebuilds(&self) -> Result<u64, StoreError> {
        self.read(|sql| Box::pin(pair::rebuilds(sql))).await
    }

    /// Entries that somebody accepted as lost: the first and the last of each stretch.
    ///
    /// # Errors
    /// As every read.
    pub async fn losses(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        self.read(|sql| Box::pin(pair::losses(sql))).await
    }

    /// Closes every connection; one that does not answer is left to itself after a moment.
    pub async fn close(&self) {
        let limit = Duration::from_millis(limits::STORE_CLOSE_MILLIS);
        if !matches!(self.reading.run(limit, self.sessions.clone().close()).await, Ok(Some(()))) {
            tracing::warn!(name = self.name(), "the database does not answer; its connections are left to themselves");
        }
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        match self.mode {
            Mode::ReadWrite => Ok(()),
            Mode::ReadOnly => Err(self.target.named(StoreError::Outage("opened for reading only".to_owned()))),
        }
    }

    async fn change<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a mut sqlx::PgConnection) -> Boxed<'a, (Result<T, StoreError>, write::Clean)>
        + Send
        + 'static,
    ) -> Result<T, StoreError> {
        self.check_writable()?;
        self.sessions.write(&self.writing, PATIENCE, work).await
    }

    /// Reads of the server that decides.
    async fn read<T: Send + 'static>(
        &self,
        work: impl for<'a> Fn(&'a mut sqlx::PgConnection) -> Boxed<'a, Result<T, StoreError>> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        self.sessions.read(&self.reading, false, work).await
    }

    /// Reads of the replica, if there is one that is far enough.
    async fn read_anywhere<T: Send + 'static>(
        &self,
        work: impl for<'a> Fn(&'a mut sqlx::PgConnection) -> Boxed<'a, Result<T, StoreError>> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        self.sessions.read(&self.reading, true, work).await
    }

    /// Does `work` on a connection of its own.
    async fn apart<T: Send + 'static>(
        &self,
        purpose: Purpose,
        work: impl for<'a> FnOnce(&'a mut sqlx::PgConnection) -> Boxed<'a, Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let limit = if purpose == Purpose::ReadAll { LONG } else { PATIENCE };
        let sessions = self.sessions.clone();
        let work = async move {
            let (mut sql, _) = sessions.target().open(purpose).await?;
            let done = work(&mut sql).await;
            connection::close(sql).await;
            done
        };
        let done = self.reading.run(limit, work).await?;
        let done = done.unwrap_or_else(|| Err(StoreError::Outage(format!("no answer within {limit:?}"))));
        done.map_err(|error| self.target.named(error))
    }
}

/// What the server's administrator sees of our sessions: this process, and which of its stores.
fn whoami() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(24).collect();
    format!("forebay process {} on {host} ({:06x})", std::process::id(), rand::random::<u32>() & 0xff_ffff)
}

/// A name that needs no quotes.
fn word(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}
