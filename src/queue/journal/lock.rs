//! One process at a time in a data folder, and on a database file: an advisory lock that the kernel takes back when its holder
//! dies, however it dies, so that there is no stale lock to clear by hand.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The lock file's name within the data folder.
pub const LOCK: &str = "LOCK";

/// Held while the process owns the data folder, or the database; dropping it, or dying, gives it back.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

/// Why it can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "{} is held by {}: one process at a time; stop that one first, or use another {}",
        path.display(),
        holder(*pid),
        if path.ends_with(LOCK) { "data_dir" } else { "database" }
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The holder, where it has said so.
        pid: Option<u32>,
    },
    /// The lock file can't be made or locked.
    #[error("{}: can't {op}: {source}; check that the folder exists and may be written to", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What was tried.
        op: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl DataLock {
    /// Locks the existing folder `data_dir`, without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] with the holder's process id, or [`LockError::Io`].
    pub fn acquire(data_dir: &Path) -> Result<Self, LockError> {
        Self::at(data_dir.join(LOCK))
    }

    /// Locks the database in the file `database`, without waiting, by a lock file beside it.
    ///
    /// # Errors
    /// As [`Self::acquire`].
    pub fn beside(database: &Path) -> Result<Self, LockError> {
        let mut name = database.as_os_str().to_owned();
        name.push(".lock");
        Self::at(name.into())
    }

    fn at(path: PathBuf) -> Result<Self, LockError> {
        let io = |op| {
            let path = path.clone();
            move |source| LockError::Io { path, op, source }
        };
        // Never truncated before it is ours: the holder's number is in it.
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(LockError::Held { path, pid });
            }
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
        file.set_len(0).map_err(io("write"))?;
        file.rewind().map_err(io("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(io("write"))?;
        Ok(Self { _file: file })
    }
}
