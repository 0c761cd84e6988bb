//! Connections: how one is opened and checked, and who may use it.
//!
//! A connection is *taken* for each call and put back only after a call that ended cleanly. A call that failed in an
//! unclear way, or whose future was dropped, leaves nothing behind to put back: its connection closes, SQLite rolls its
//! transaction back, and the next call opens a fresh one. So no call ever sees another's half transaction, and no
//! timeout or cancellation needs care. Opening one costs well under a millisecond.
//!
//! Each connection remembers which file it opened. A file that was deleted or replaced behind our back is noticed at
//! the next call, by one `stat`: writing on into an unlinked file would lose everything at the next restart.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::Semaphore;

use super::super::{Mode, StoreError};
use super::error::before;
use super::schema;
use crate::limits;

/// The file behind a path: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId(u64, u64);

fn file_id(path: &Path) -> Result<FileId, StoreError> {
    let found = std::fs::metadata(path).map_err(|e| {
        StoreError::Outage(format!(
            "{}: {e}; put the file back, or run `forebay migrate` for a new one",
            path.display()
        ))
    })?;
    Ok(FileId(found.dev(), found.ino()))
}

/// An open connection and the file that it opened.
pub(super) struct Connected {
    pub(super) sql: SqliteConnection,
    /// Whether there are no tables yet.
    pub(super) is_empty: bool,
    file: FileId,
}

impl Connected {
    /// Closes it and waits until its thread has ended.
    pub(super) async fn close(self) {
        if let Err(error) = self.sql.close().await {
            tracing::warn!(%error, "closing a database connection failed");
        }
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Creates the file if need be; its tables may be missing or old.
    Migrate,
    /// Writes batches.
    Write,
    /// Reads.
    Read,
    /// Looks whose it is; its tables may be missing or old.
    Look,
}

/// The one writer and the few readers of a database file.
pub(super) struct Connections {
    path: PathBuf,
    mode: Mode,
    writer: tokio::sync::Mutex<Option<Connected>>,
    readers: Semaphore,
    idle: Mutex<Vec<Connected>>,
}

impl Connections {
    pub(super) fn new(path: PathBuf, mode: Mode) -> Self {
        let (writer, idle) = (tokio::sync::Mutex::new(None), Mutex::new(Vec::new()));
        Self { path, mode, writer, readers: Semaphore::new(limits::STORE_READERS_MAX), idle }
    }

    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        match self.mode {
            Mode::ReadWrite => Ok(()),
            Mode::ReadOnly => Err(named(&self.path, StoreError::Outage("opened for reading only".to_owned()))),
        }
    }

    /// Runs `work` on the writer connection, alone. `work` says whether the connection is still clean.
    pub(super) async fn write<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> (Result<T, StoreError>, Clean),
    ) -> Result<T, StoreError> {
        self.check_writable()?;
        let mut slot = self.writer.lock().await;
        let mut connected = match slot.take() {
            Some(old) if old.file == file_id(&self.path)? => old,
            _ => self.open(Purpose::Write).await?,
        };
        let (result, clean) = work(&mut connected.sql).await;
        if matches!(result, Err(StoreError::Outage(_))) {
            // A file that could not be written to when it was opened stays read-only for ever, whatever becomes of it: for
            // this connection, and, through the shared memory beside it, for every one that this process opens while
            // another is still open. So after an outage all begin anew, and not before their threads have ended; that one of them
            // can't be closed cleanly is the same outage.
            let idle = std::mem::take(&mut *self.idle());
            for connected in idle.into_iter().chain([connected]) {
                let _ = connected.sql.close().await;
            }
            align(&self.path);
        } else if clean == Clean::Yes {
            *slot = Some(connected);
        }
        result
    }

    /// Runs a read on one of the reader connections; waits while all are in use.
    pub(super) async fn read<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let gone = |_| StoreError::Outage("the store is closed".to_owned());
        let _turn = self.readers.acquire().await.map_err(gone)?;
        let idle = self.idle().pop();
        let mut connected = match idle {
            Some(old) if old.file == file_id(&self.path)? => old,
            _ => self.open(Purpose::Read).await?,
        };
        let result = work(&mut connected.sql).await;
        if result.is_ok() {
            self.idle().push(connected);
        }
        result
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connected>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Closes every connection and waits until their threads have ended.
    pub(super) async fn close(&self) {
        let writer = self.writer.lock().await.take();
        self.readers.close();
        let idle = std::mem::take(&mut *self.idle());
        // The writer last: a connection that only reads can't move the write-ahead log into the file, and whoever copies the
        // file after a stop must not miss what is in the log.
        for connected in idle.into_iter().chain(writer) {
            connected.close().await;
        }
    }

    /// Opens a connection and checks that the file behind it is ours.
    pub(super) async fn open(&self, purpose: Purpose) -> Result<Connected, StoreError> {
        let named = |e: StoreError| named(&self.path, e);
        if purpose != Purpose::Migrate {
            file_id(&self.path)?;
        }
        let mut sql = SqliteConnection::connect_with(&self.options(purpose)).await.map_err(before).map_err(named)?;
        let file = file_id(&self.path)?;
        let ask = "SELECT sqlite_version(), (SELECT application_id FROM pragma_application_id), \
                   (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)";
        let row = sqlx::query(ask).fetch_one(&mut sql).await.map_err(before).map_err(named)?;
        let found =
            schema::Found { library: row.get(0), application: row.get(1), version: row.get(2), objects: row.get(3) };
        schema::check(&found, matches!(purpose, Purpose::Migrate | Purpose::Look)).map_err(named)?;
        Ok(Connected { sql, is_empty: found.objects == 0, file })
    }

    fn options(&self, purpose: Purpose) -> SqliteConnectOptions {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(purpose == Purpose::Migrate)
            .busy_timeout(Duration::from_millis(limits::STORE_BUSY_MILLIS))
            .foreign_keys(true)
            .thread_name(move |_| format!("sqlite-{}", if purpose == Purpose::Read { "read" } else { "write" }));
        if matches!(purpose, Purpose::Read | Purpose::Look) {
            return options.read_only(true).pragma("query_only", "ON");
        }
        options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", format!("-{}", limits::STORE_PAGE_CACHE_KIB))
            .pragma("wal_autocheckpoint", limits::STORE_CHECKPOINT_PAGES.to_string())
    }
}

/// Gives the files beside the database its mode, as far as may be. SQLite makes them with the mode that the database has at
/// that moment, and a shared memory that was made while it was read-only would keep it so for ever.
fn align(path: &Path) {
    let Ok(database) = std::fs::metadata(path) else { return };
    for end in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        if std::fs::metadata(&name).is_ok_and(|beside| beside.permissions() != database.permissions()) {
            let _ = std::fs::set_permissions(&name, database.permissions());
        }
    }
}

/// Whether a connection may serve the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clean {
    /// No transaction is open and nothing is in doubt.
    Yes,
    /// Close it.
    No,
}

/// Puts the file's name before the words.
fn named(path: &Path, error: StoreError) -> StoreError {
    let with = |text: String| format!("{}: {text}", path.display());
    match error {
        StoreError::Row(text) => StoreError::Row(with(text)),
        StoreError::Outage(text) => StoreError::Outage(with(text)),
        StoreError::Unknown(text) => StoreError::Unknown(with(text)),
        StoreError::Fenced(text) => StoreError::Fenced(with(text)),
    }
}
