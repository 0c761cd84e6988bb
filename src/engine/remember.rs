//! Remembers in the data folder how far the database is: told of each batch after its commit, it writes at most once a
//! second, on a thread of its own. The drain's thread, which runs at the lowest priority, would wait for the disk; the
//! runtime's must not.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cache::LocalCache;
use crate::limits;
use crate::queue::drained::{self, Drained};
use crate::sale::Seq;
use crate::store::Row;
use crate::workers::drain::Refresh;

/// Is told of batches; passes them on to the cache.
pub struct Remember {
    cache: Arc<LocalCache>,
    cursor: AtomicU64,
}

impl Remember {
    /// Begins at `cursor`, which the database is known to have.
    pub fn new(cache: Arc<LocalCache>, cursor: Seq) -> Self {
        Self { cache, cursor: AtomicU64::new(cursor.0) }
    }
}

impl Refresh for Remember {
    fn on_persisted(&self, rows: &[Row]) {
        self.cache.on_persisted(rows);
        if let Some(last) = rows.last() {
            self.cursor.fetch_max(last.seq().0, Ordering::SeqCst);
        }
    }
}

/// The thread that writes.
pub struct RememberThread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl RememberThread {
    /// Starts it. `saved` is what the file says now.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn(data_dir: PathBuf, journal: u128, known: Arc<Remember>, saved: Option<Seq>) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let mut saved = saved.map_or(0, |seq| seq.0);
        let mut told = false;
        let mut save = move || {
            let cursor = known.cursor.load(Ordering::SeqCst);
            if cursor <= saved {
                return;
            }
            match drained::save(&data_dir, &Drained { journal, cursor: Seq(cursor) }) {
                Ok(()) => (saved, told) = (cursor, false),
                // A lower bound that stays where it is: nothing is lost, and it is tried again.
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(%error, "the data folder can't remember how far the database is; it is tried again");
                }
                Err(_) => {}
            }
        };
        let thread = std::thread::Builder::new().name("remember".to_owned()).spawn(move || {
            let _ = rustix::process::nice(limits::BACKGROUND_NICE);
            let pause = Duration::from_millis(limits::DRAINED_MILLIS);
            save();
            while matches!(stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                save();
            }
            save();
        })?;
        Ok(Self { stop, thread })
    }

    /// Writes what is known last, and ends it.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}
