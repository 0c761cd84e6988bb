//! Connections: how one is opened and checked, and what it is told before it does anything.
//!
//! Waits are bounded by the server (`statement_timeout`, `lock_timeout`, `idle_in_transaction_session_timeout`), which ends a
//! statement where this side could only lose sight of it. Whatever the server's settings say, our commits are synchronous.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _};

use super::super::StoreError;
use super::error::before;
use super::schema;
use crate::limits;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Makes tables; they may be missing or old.
    Migrate,
    /// Writes batches.
    Write,
    /// Holds the database for this process, and writes; its tables may be missing or old when it is opened.
    Lock,
    /// Reads.
    Read,
    /// Reads all rows, however long that takes.
    ReadAll,
    /// Looks whose the database is; its tables may be missing or old.
    Look,
    /// Reads, from a server that repeats another's writes.
    Replica,
}

/// A server and a database on it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    options: PgConnectOptions,
    name: String,
}

impl Target {
    /// Reads a URL. `who` is what the server's administrator sees of our sessions.
    pub(super) fn parse(url: &str, who: &str) -> Result<Self, String> {
        // Whatever else is asked for: a session of our own that hangs is known by its name.
        let options = PgConnectOptions::from_str(url).map_err(|e| e.to_string())?.application_name(who);
        let place = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let (user, database) = (options.get_username(), options.get_database());
        let name = format!("postgres://{user}@{place}/{}", database.unwrap_or(user));
        Ok(Self { options, name })
    }

    /// The same server and database, in another schema: its own folder of tables.
    pub(super) fn in_schema(&self, schema: &str) -> Self {
        let options = self.options.clone().options([("search_path", schema)]);
        Self { options, name: format!("{}, schema {schema}", self.name) }
    }

    /// The URL without its password and parameters.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the connection is encrypted for sure.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.options.get_ssl_mode(), PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull)
    }

    /// Puts the database's name before the words.
    pub(super) fn named(&self, error: StoreError) -> StoreError {
        let with = |text: String| format!("{}: {text}", self.name);
        match error {
            StoreError::Row(text) => StoreError::Row(text),
            StoreError::Outage(text) => StoreError::Outage(with(text)),
            StoreError::Unknown(text) => StoreError::Unknown(with(text)),
            StoreError::Fenced(text) => StoreError::Fenced(with(text)),
        }
    }

    /// Opens a connection and checks that the tables there are ours.
    pub(super) async fn open(&self, purpose: Purpose) -> Result<(PgConnection, schema::Found), StoreError> {
        let options = self.options.clone();
        // The attempt goes on by itself where it takes too long: what it opens in the end is closed again.
        let opening = tokio::spawn(async move { options.connect().await });
        let limit = Duration::from_millis(limits::STORE_CONNECT_MILLIS);
        let mut sql = match tokio::time::timeout(limit, opening).await {
            Ok(Ok(opened)) => opened.map_err(before)?,
            Ok(Err(_)) => return Err(super::lane::closed()),
            Err(_) => return Err(StoreError::Outage(format!("no connection within {limit:?}"))),
        };
        sqlx::raw_sql(AssertSqlSafe(settings(purpose))).execute(&mut sql).await.map_err(before)?;
        let found = schema::find(&mut sql).await?;
        schema::check(&found, purpose)?;
        Ok((sql, found))
    }
}

fn settings(purpose: Purpose) -> String {
    let (statement, lock) = (limits::STORE_STATEMENT_MILLIS, limits::STORE_BUSY_MILLIS);
    // A table that grows by a million rows a minute outruns its statistics: a plan that is kept may have been made for an empty one.
    let mut text = format!(
        "SET lock_timeout = {lock}; SET idle_in_transaction_session_timeout = {idle}; SET synchronous_commit = on; \
         SET default_transaction_isolation = 'read committed'; SET plan_cache_mode = force_custom_plan; \
         SET tcp_keepalives_idle = {keepalive}; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3",
        idle = if purpose == Purpose::Write { limits::STORE_WRITE_IDLE_MILLIS } else { limits::STORE_IDLE_MILLIS },
        keepalive = limits::STORE_KEEPALIVE_SECS,
    );
    // Making an index on tables of another version takes what it takes, and so does a look at all rows.
    if !matches!(purpose, Purpose::Migrate | Purpose::ReadAll) {
        text.push_str(&format!("; SET statement_timeout = {statement}"));
    }
    if !matches!(purpose, Purpose::Migrate | Purpose::Write | Purpose::Lock) {
        text.push_str("; SET default_transaction_read_only = on");
    }
    text
}

/// Says goodbye; a connection that is broken can't.
pub(super) async fn close(sql: PgConnection) {
    if let Err(error) = sql.close().await {
        tracing::debug!(%error, "closing a database connection failed");
    }
}

/// A setting of the server that lets a crash take commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weak {
    /// Such as `fsync = off`.
    pub setting: String,
    /// What that does.
    pub what: &'static str,
    /// Whether our rows are in danger, too: our own sessions turn `synchronous_commit` on.
    pub takes_rows: bool,
}

/// What the server says of how well it keeps what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Such as 15.4.
    pub version: String,
    /// Settings that let a crash take commits.
    pub weak: Vec<Weak>,
    /// Whether it repeats another's writes.
    pub is_replica: bool,
    /// Whether the connection is encrypted for sure.
    pub is_encrypted: bool,
}

/// Asks for them.
pub(super) async fn facts(sql: &mut PgConnection, target: &Target) -> Result<ServerFacts, StoreError> {
    // Of synchronous_commit what others get: our own sessions set theirs.
    let text = "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('full_page_writes'), \
                (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'), pg_is_in_recovery()";
    let row = sqlx::query(text).fetch_one(sql).await.map_err(before)?;
    let setting = |i: usize| row.get::<String, _>(i);
    let mut weak = Vec::new();
    for (name, value, takes_rows, what) in [
        ("fsync", setting(1), true, "a crash of its machine can destroy the database"),
        ("full_page_writes", setting(2), true, "a crash of its machine can tear pages"),
        (
            "synchronous_commit",
            setting(3),
            false,
            "a crash can take commits of others; Forebay's own sessions turn it on",
        ),
    ] {
        if value == "off" {
            weak.push(Weak { setting: format!("{name} = off"), what, takes_rows });
        }
    }
    let (is_replica, is_encrypted) = (row.get(4), target.is_encrypted());
    Ok(ServerFacts { version: setting(0), weak, is_replica, is_encrypted })
}
