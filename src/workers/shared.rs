//! The worker of shared mode: it brings entries from Redis into the database.
//!
//! Of many workers one at a time has the partition, by a lease in Redis; the others stand by. The one that has it binds the
//! database, opens the partition where it is not open, reads entries ahead, and has the drain write them as it writes the
//! entries of a journal. What of that is in the database leaves Redis.
//!
//! - Every entry becomes one row, whichever workers die or freeze in between: a batch moves the database's cursor or does
//!   nothing, and only under the latest binding. The lease decides who works; harm is prevented by the database.
//! - Redis forgets an entry only after its commit.
//! - Memory does not grow with the backlog.
//! - No transaction is cancelled. A term ends with its drain's thread, and the next one begins after that.
//! - It starts before Redis or the database is there, and goes on when either was away.

mod ahead;
mod chores;
pub mod gates;
mod layout;
mod lease;
pub mod reopen;
mod run;
mod state;
mod term;

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::lease::{Lease, LeaseThread};
use self::run::Worker;
pub use self::state::{Backlog, Phase, WorkerState};
use crate::clock::tick;
use crate::metrics::Metrics;
use crate::queue::redis::client::Server;
use crate::sale::Durability;
use crate::store::{Database, SharedSecrets};

/// How a worker is set up.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Entries of a transaction, at least 1.
    pub batch_max: usize,
    /// How long a worker may be silent before another takes over. It is prolonged every third of that.
    pub lease: Duration,
    /// What acceptances have promised.
    pub durability: Durability,
    /// What is everybody's from now on where the database has no secrets yet; otherwise the database's count.
    pub secrets: SharedSecrets,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// A worker, to be started.
#[derive(Debug)]
pub struct SharedWorker;

impl SharedWorker {
    /// Starts a worker on threads of its own. Neither Redis nor the database need be there yet. `guard` is dropped when its
    /// thread ends, also by a panic.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn(
        server: Server,
        store: Arc<Database>,
        settings: WorkerSettings,
        guard: impl Send + 'static,
    ) -> io::Result<WorkerHandle> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (asks, asked) = (runtime.handle().clone(), tokio::sync::oneshot::channel::<()>());
        let (ends, ended) = asked;
        // It drives what is asked in the background, and ends with the worker's thread.
        std::thread::Builder::new().name("worker-asks".to_owned()).spawn(move || {
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        let (state, stopping) = (Arc::new(WorkerState::new()), Arc::new(Stopping::default()));
        let lease = Arc::new(Lease::new(settings.lease));
        let prolonging = LeaseThread::spawn(server.clone(), lease.clone())?;
        let worker = Worker {
            server,
            store,
            settings,
            lease: lease.clone(),
            state: state.clone(),
            stopping: stopping.clone(),
            runtime: asks,
        };
        let thread = std::thread::Builder::new().name("worker".to_owned()).spawn(move || {
            let _guard = guard;
            let (_prolonging, _ends) = (prolonging, ends);
            worker.run()
        })?;
        Ok(WorkerHandle { thread: Some(thread), state, stopping, lease })
    }
}

/// A running worker. Dropping it ends it where it stands.
#[derive(Debug)]
pub struct WorkerHandle {
    thread: Option<JoinHandle<u64>>,
    state: Arc<WorkerState>,
    stopping: Arc<Stopping>,
    lease: Arc<Lease>,
}

impl WorkerHandle {
    /// What it is doing.
    pub fn state(&self) -> Arc<WorkerState> {
        self.state.clone()
    }

    /// Brings into the database what waits now, as far as that goes within `grace`, gives the partition to the next worker, and
    /// ends; gives the number of entries that are in Redis only. Blocks the caller, at most
    /// [`crate::limits::DRAIN_STOP_SLACK_MILLIS`] and an answer of Redis longer than `grace`, unless the database is being made
    /// ready: that is not cancelled.
    pub fn stop(mut self, grace: Duration) -> u64 {
        self.finish(grace)
    }

    fn finish(&mut self, grace: Duration) -> u64 {
        self.stopping.set(tick() + grace);
        let Some(thread) = self.thread.take() else { return 0 };
        thread.join().unwrap_or_else(|_| {
            tracing::error!("the worker's thread panicked; what it has not written stays in Redis");
            0
        })
    }

    /// Has it fall silent as if the process were stopped, or go on: only its drain goes on by itself.
    #[cfg(any(test, feature = "testing"))]
    pub fn pause(&self, yes: bool) {
        self.lease.paused.store(yes, std::sync::atomic::Ordering::SeqCst);
    }

    /// Its name in the lease.
    pub fn name(&self) -> &str {
        &self.lease.worker
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.finish(Duration::ZERO);
        }
    }
}

/// When to end, once somebody wants it to.
#[derive(Debug, Default)]
struct Stopping(Mutex<Option<Instant>>, Condvar);

impl Stopping {
    fn set(&self, deadline: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
        self.1.notify_all();
    }

    fn deadline(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_set(&self) -> bool {
        self.deadline().is_some()
    }

    /// Waits; a stop that begins meanwhile ends that. Whether it is to end.
    fn wait(&self, pause: Duration) -> bool {
        let deadline = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pause.is_zero() {
            return deadline.is_some();
        }
        let was_set = deadline.is_some();
        let waited = self.1.wait_timeout_while(deadline, pause, |deadline| deadline.is_some() == was_set);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }
}
