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
use super::letters;
use crate::clock::tick;
use crate::limits;
use crate::plant;
use crate::pulse;
use crate::queue::Published;
use crate::sale::Seq;
use crate::store::{Store, StoreError};

/// How a drain is set up.
#[derive(Debug, Clone, Copy)]
pub struct DrainSettings {
    /// The journal's identity.
    pub journal: u128,
    /// Entries of a transaction, at least 1.
    pub batch_max: usize,
    /// The journal's last entry when this process began: a database that has more is another journal's.
    pub recovered: Seq,
}

/// The running drain. Dropping it stops it where it stands.
pub struct DrainHandle {
    stop: watch::Sender<Option<Instant>>,
    done: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
    published: Arc<Published>,
    retired: watch::Receiver<Seq>,
    fenced: Arc<AtomicBool>,
    bound: Arc<AtomicBool>,
}

impl DrainHandle {
    /// Starts a drain into a database whose tables are there. See [`Self::spawn_prepared`].
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn<S: Store>(
        store: Arc<S>,
        published: Arc<Published>,
        refresh: Arc<dyn Refresh>,
        settings: DrainSettings,
    ) -> io::Result<Self> {
        Self::spawn_prepared(store, published, refresh, settings, async || Ok(()))
    }

    /// Starts a drain on a thread of its own. `prepare` makes the database ready (its tables, say): it is called before
    /// the database is bound, and again until it succeeds, because the database may come later than this process.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn_prepared<S: Store>(
        store: Arc<S>,
        published: Arc<Published>,
        refresh: Arc<dyn Refresh>,
        settings: DrainSettings,
        prepare: impl AsyncFn() -> Result<(), StoreError> + Send + 'static,
    ) -> io::Result<Self> {
        let drain = Drain::new(store, published, settings.batch_max, rand::random()).with_refresh(refresh);
        Self::spawn_drain(drain, settings, prepare)
    }

    /// The same with a drain that has been made.
    pub(super) fn spawn_drain<S: Store>(
        mut drain: Drain<S>,
        settings: DrainSettings,
        prepare: impl AsyncFn() -> Result<(), StoreError> + Send + 'static,
    ) -> io::Result<Self> {
        drain.recovered = settings.recovered;
        let published = drain.shared();
        let (stop, stopping) = watch::channel(None);
        let (retired, receiver) = watch::channel(published.pending.retired());
        let (finished, done) = mpsc::channel();
        let (fenced, bound) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut runner = Runner {
            drain,
            published: published.clone(),
            batch_max: settings.batch_max as u64,
            stopping,
            retired,
            fenced: fenced.clone(),
            bound: bound.clone(),
            outage: None,
            counted: None,
        };
        let thread = std::thread::Builder::new().name("drain".to_owned()).spawn(move || {
            let _guard = Guard { fenced: runner.fenced.clone(), _finished: finished };
            // On Linux niceness belongs to a thread, and a thread that is made later inherits its maker's.
            if let Err(error) = rustix::process::nice(limits::DRAIN_NICE) {
                tracing::warn!(%error, "the drain keeps the priority of the front end");
            }
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    let patience = Duration::from_millis(limits::PULSE_MILLIS);
                    let _pulse = runner.published.metrics.clone().pulses.enter("drain", patience);
                    runtime.spawn(turn());
                    runtime.block_on(runner.run(settings.journal, prepare));
                }
                Err(error) => tracing::error!(%error, "the drain can't start: entries stay in the journal"),
            }
        })?;
        Ok(Self { stop, done, thread: Some(thread), published, retired: receiver, fenced, bound })
    }

    /// The last entry that was retired, told after each batch: what long polls wait for. Closed when the drain ends.
    pub fn retired(&self) -> watch::Receiver<Seq> {
        self.retired.clone()
    }

    /// Whether no entry can reach the database any more: it is not ours to write to, or the thread has ended.
    pub fn fenced(&self) -> Arc<AtomicBool> {
        self.fenced.clone()
    }

    /// Whether the database is bound: what was published before this is known is written on from there.
    pub(super) fn is_bound(&self) -> bool {
        self.bound.load(Ordering::SeqCst)
    }

    /// Has it end after the step that is under way, and does not wait for that.
    pub(super) fn begin_stop(&self) {
        self.stop.send_replace(Some(tick()));
    }

    /// Whether its thread has ended: nothing that it began is under way any more.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Drains until nothing waits or `deadline` has passed, then ends and joins the thread; gives the number of entries
    /// that are in the journal only. Blocks the caller, at most [`limits::DRAIN_STOP_SLACK_MILLIS`] longer than
    /// `deadline`: beyond that a transaction hangs, and its thread is left to itself. Nobody submits any more, or it
    /// drains until the deadline.
    pub fn stop(mut self, deadline: Duration) -> u64 {
        self.finish(deadline);
        self.published.pending.entries()
    }

    pub(super) fn finish(&mut self, deadline: Duration) {
        self.stop.send_replace(Some(tick() + deadline));
        let slack = Duration::from_millis(limits::DRAIN_STOP_SLACK_MILLIS);
        let outcome = self.done.recv_timeout(deadline + slack);
        let Some(thread) = self.thread.take() else { return };
        if outcome == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the drain hangs in the database; what it has not written stays in the journal");
        } else if thread.join().is_err() {
            tracing::error!("the drain's thread panicked; what it has not written stays in the journal");
        }
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
struct Guard {
    fenced: Arc<AtomicBool>,
    _finished: mpsc::Sender<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.fenced.store(true, Ordering::SeqCst);
    }
}

/// Counts while this thread drives its tasks. Not a count of batches: one that waits for the database may last as long as
/// the database is away, and that is no reason to end the node.
async fn turn() {
    loop {
        pulse::beat();
        tokio::time::sleep(Duration::from_millis(limits::PULSE_TICK_MILLIS)).await;
    }
}

struct Runner<S> {
    drain: Drain<S>,
    published: Arc<Published>,
    batch_max: u64,
    /// When to end; none while nobody wants it to.
    stopping: watch::Receiver<Option<Instant>>,
    retired: watch::Sender<Seq>,
    fenced: Arc<AtomicBool>,
    bound: Arc<AtomicBool>,
    outage: Option<Instant>,
    counted: Option<Instant>,
}

impl<S: Store> Runner<S> {
    async fn run(&mut self, journal: u128, prepare: impl AsyncFn() -> Result<(), StoreError>) {
        if self.bind(journal, prepare).await {
            self.drain().await;
        }
        if self.fenced.load(Ordering::SeqCst) {
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
            self.bound.store(bound, Ordering::SeqCst);
            if bound || self.over() || self.fenced.load(Ordering::SeqCst) {
                return bound;
            }
        }
    }

    async fn drain(&mut self) {
        let mut gathered = false;
        while !self.over() && !self.fenced.load(Ordering::SeqCst) {
            plant::crash_point("drain.turn");
            self.count_dead().await;
            letters::serve(&mut self.drain).await;
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
            Step::Idle | Step::Wrote { .. } => self.recovered(),
            Step::Backoff { wait, error } => {
                letters::turn_away(&self.published);
                if self.outage.is_none() {
                    self.outage = Some(tick());
                    let waiting = self.published.pending.entries();
                    tracing::warn!(%error, waiting, "the drain waits; claims are taken until the buffer is full");
                }
                self.sleep(wait).await;
            }
            Step::Fenced { error } => {
                self.fenced.store(true, Ordering::SeqCst);
                // What is acknowledged from here on might never be drained: two nodes may have one database now, and what
                // this one gives out is sold by the other one, too.
                self.published.fenced.store(true, Ordering::SeqCst);
                self.published.metrics.fenced.set(1);
                let waiting = self.published.pending.entries();
                tracing::error!(%error, waiting, "the drain has ended, and nothing is acknowledged any more");
            }
        }
    }

    fn recovered(&mut self) {
        let retired = self.published.pending.retired();
        self.retired.send_if_modified(|last| std::mem::replace(last, retired) != retired);
        if let Some(since) = self.outage.take() {
            let seconds = tick().saturating_duration_since(since).as_secs_f64();
            let waiting = self.published.pending.entries();
            tracing::info!(seconds, waiting, "the drain goes on");
        }
    }

    /// Counts the dead letters at start and, at most once a second, after some came or went.
    async fn count_dead(&mut self) {
        let pause = Duration::from_millis(limits::DEAD_COUNT_MILLIS);
        let recent = self.counted.is_some_and(|last| tick().saturating_duration_since(last) < pause);
        if !self.drain.uncounted || recent {
            return;
        }
        self.counted = Some(tick());
        // Where it fails the batches fail, too, and that is told; it is tried again in a second.
        if let Ok(count) = self.drain.store().dead_count().await {
            self.published.metrics.dead_letters.set(count);
            self.drain.uncounted = false;
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
