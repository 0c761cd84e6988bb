//! The thread that drives the drain, at its own pace: full batches under load, small ones soon when there is little.
//!
//! - It gives way to the burst by a low scheduling priority, which the database's own threads, opened from this one,
//!   inherit. It is never paced by anything that could stop it.
//! - Whatever it can't write stays in the journal: a stop that comes too early, or a transaction that hangs, loses
//!   nothing. No database call is ever cancelled half-way, so deadlines are looked at between steps.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::drain::{Drain, Refresh, Step};
use crate::clock::tick;
use crate::limits;
use crate::queue::Published;
use crate::sale::Seq;
use crate::store::{Store, StoreError};

/// What a drain is made of.
pub struct Parts<S, P> {
    /// The database.
    pub store: Arc<S>,
    /// What the sequencer publishes; nothing has been submitted yet.
    pub published: Arc<Published>,
    /// The journal's identity.
    pub journal: u128,
    /// Entries of a transaction, at least 1.
    pub batch_max: usize,
    /// What the waits between attempts are drawn from.
    pub seed: u64,
    /// Hears of what became rows.
    pub refresh: Option<Arc<dyn Refresh>>,
    /// Is told the last retired entry, after each batch: what long polls wait for.
    pub retired: watch::Sender<Seq>,
    /// Makes the database ready (its tables, say). Called before it is bound, and again until it succeeds.
    pub prepare: P,
}

/// Whether the drain does its work; shared with whoever answers for readiness.
#[derive(Debug)]
pub struct Health {
    fenced: AtomicBool,
    running: AtomicBool,
    outage: AtomicBool,
}

impl Health {
    /// Whether entries can reach the database, now or after an outage. False once the database is not ours any more, or
    /// the thread has ended.
    pub fn works(&self) -> bool {
        self.running.load(Ordering::SeqCst) && !self.is_fenced()
    }

    /// Whether the database is not ours to write to any more.
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::SeqCst)
    }

    /// Whether the last attempt failed.
    pub fn in_outage(&self) -> bool {
        self.outage.load(Ordering::SeqCst)
    }
}

/// What a stop came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Entries that are in the journal only.
    pub left: u64,
    /// Whether the thread has ended without a panic. False where a database call outlasts even
    /// [`limits::DRAIN_STOP_SLACK_MILLIS`].
    pub ended: bool,
}

/// The running drain. Dropping it stops it where it stands.
pub struct DrainHandle {
    stop: watch::Sender<Option<Instant>>,
    done: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
    published: Arc<Published>,
    health: Arc<Health>,
}

/// Starts the drain on a thread of its own.
///
/// # Errors
/// Where the system gives no thread.
pub fn start<S: Store, P>(parts: Parts<S, P>) -> io::Result<DrainHandle>
where
    P: AsyncFn() -> Result<(), StoreError> + Send + 'static,
{
    let (stop, stopping) = watch::channel(None);
    let (finished, done) = mpsc::channel();
    let health =
        Arc::new(Health { fenced: AtomicBool::new(false), running: AtomicBool::new(true), outage: AtomicBool::new(false) });
    let published = parts.published.clone();
    let mut drain = Drain::new(parts.store, parts.published, parts.batch_max, parts.seed);
    if let Some(refresh) = parts.refresh {
        drain = drain.with_refresh(refresh);
    }
    let mut runner = Runner {
        drain,
        published: published.clone(),
        batch_max: parts.batch_max as u64,
        stopping,
        retired: parts.retired,
        health: health.clone(),
        outage: None,
        uncounted: true,
        counted: tick(),
    };
    let thread = std::thread::Builder::new().name("drain".to_owned()).spawn(move || {
        let _running = Running { health: runner.health.clone(), _finished: finished };
        // On Linux niceness belongs to a thread, and a thread that is made later inherits its maker's.
        if let Err(error) = rustix::process::nice(limits::DRAIN_NICE) {
            tracing::warn!(%error, "the drain keeps the priority of the front end");
        }
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(runner.run(parts.journal, parts.prepare)),
            Err(error) => tracing::error!(%error, "the drain can't start: entries stay in the journal"),
        }
    })?;
    Ok(DrainHandle { stop, done, thread: Some(thread), published, health })
}

impl DrainHandle {
    /// Whether it works.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// Drains until nothing waits or `deadline` has passed, then ends and joins the thread. Blocks the caller. Nobody
    /// submits any more, or it drains until the deadline.
    pub fn stop(mut self, deadline: Duration) -> Stopped {
        self.finish(deadline)
    }

    fn finish(&mut self, deadline: Duration) -> Stopped {
        self.stop.send_replace(Some(tick() + deadline));
        let slack = Duration::from_millis(limits::DRAIN_STOP_SLACK_MILLIS);
        let ended = match self.done.recv_timeout(deadline + slack) {
            Err(mpsc::RecvTimeoutError::Timeout) => {
                tracing::error!("the drain hangs in the database; what it did not write is in the journal");
                self.thread = None;
                false
            }
            _ => self.thread.take().is_none_or(|thread| thread.join().is_ok()),
        };
        Stopped { left: self.published.pending.entries(), ended }
    }
}

impl Drop for DrainHandle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.finish(Duration::ZERO);
        }
    }
}

/// Tells, whichever way the thread ends, that it has.
struct Running {
    health: Arc<Health>,
    _finished: mpsc::Sender<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.health.running.store(false, Ordering::SeqCst);
    }
}

struct Runner<S> {
    drain: Drain<S>,
    published: Arc<Published>,
    batch_max: u64,
    /// When to end; none while nobody wants it to.
    stopping: watch::Receiver<Option<Instant>>,
    retired: watch::Sender<Seq>,
    health: Arc<Health>,
    outage: Option<Instant>,
    /// Whether there may be dead letters that are not counted.
    uncounted: bool,
    counted: Instant,
}

impl<S: Store> Runner<S> {
    async fn run(&mut self, journal: u128, prepare: impl AsyncFn() -> Result<(), StoreError>) {
        if self.bind(journal, prepare).await {
            self.drain().await;
        }
        if self.health.is_fenced() {
            let _ = self.stopping.wait_for(Option::is_some).await;
        }
    }

    /// Whether the database is bound; otherwise it is time to end.
    async fn bind(&mut self, journal: u128, prepare: impl AsyncFn() -> Result<(), StoreError>) -> bool {
        loop {
            let step = match prepare().await {
                Ok(()) => self.drain.bind(journal).await,
                Err(error) => self.drain.failed(error),
            };
            let bound = step == Step::Idle;
            self.take(step).await;
            if bound || self.over() || self.health.is_fenced() {
                return bound;
            }
        }
    }

    async fn drain(&mut self) {
        let mut gathered = false;
        while !self.over() && !self.health.is_fenced() {
            self.count_dead().await;
            let (waiting, stopping) = (self.published.pending.entries(), self.stopping.borrow().is_some());
            if waiting == 0 {
                if stopping {
                    return;
                }
                self.sleep(Duration::from_millis(limits::DRAIN_POLL_MILLIS)).await;
            } else if waiting < self.batch_max && !gathered && !stopping {
                self.sleep(Duration::from_millis(limits::DRAIN_GATHER_MILLIS)).await;
                gathered = true;
            } else {
                gathered = false;
                let step = self.drain.step().await;
                self.take(step).await;
            }
        }
    }

    /// Tells of a step whom it concerns, and waits where it says so.
    async fn take(&mut self, step: Step) {
        match step {
            Step::Idle => self.recovered(),
            Step::Wrote { dead, .. } => {
                self.uncounted |= dead > 0;
                self.recovered();
            }
            Step::Backoff { wait, error } => {
                if self.outage.is_none() {
                    self.outage = Some(tick());
                    self.health.outage.store(true, Ordering::SeqCst);
                    let waiting = self.published.pending.entries();
                    tracing::warn!(%error, waiting, "the drain waits; claims are acknowledged until the buffer is full");
                }
                self.sleep(wait).await;
            }
            Step::Fenced { error } => {
                self.health.fenced.store(true, Ordering::SeqCst);
                let waiting = self.published.pending.entries();
                tracing::error!(%error, waiting, "the drain has stopped for good; claims are acknowledged until the buffer is full");
            }
        }
    }

    fn recovered(&mut self) {
        let retired = self.published.pending.retired();
        self.retired.send_if_modified(|last| std::mem::replace(last, retired) != retired);
        if let Some(since) = self.outage.take() {
            self.health.outage.store(false, Ordering::SeqCst);
            let seconds = tick().saturating_duration_since(since).as_secs_f64();
            let waiting = self.published.pending.entries();
            tracing::info!(seconds, waiting, "the drain goes on");
        }
    }

    /// Counts the dead letters at start and, at most once a second, after new ones.
    async fn count_dead(&mut self) {
        let due = self.counted + Duration::from_millis(limits::DEAD_COUNT_MILLIS);
        let first = self.published.metrics.dead_letters.get() == 0;
        if !self.uncounted || (!first && tick() < due) {
            return;
        }
        self.counted = tick();
        // Where it fails the batches fail, too, and that is told; it is tried again in a second.
        if let Ok(count) = self.drain.store().dead_count().await {
            self.published.metrics.dead_letters.set(count);
            self.uncounted = false;
        }
    }

    fn over(&self) -> bool {
        self.stopping.borrow().is_some_and(|deadline| tick() >= deadline)
    }

    /// Waits, but not beyond the deadline; a stop that begins meanwhile ends it.
    async fn sleep(&mut self, wait: Duration) {
        let deadline = *self.stopping.borrow_and_update();
        match deadline {
            Some(deadline) => {
                tokio::time::sleep(wait.min(deadline.saturating_duration_since(tick()))).await;
            }
            None => {
                let _ = tokio::time::timeout(wait, self.stopping.changed()).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
