//! The thread that keeps house behind the sequencer: spare segments, trimming, snapshots.
//!
//! A snapshot is made by replaying sealed segments into a second book, on a thread of its own: the sequencer never
//! stands still for it, and the preparing of segments doesn't either.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::book::HashKey;
use super::index::ColdPages;
use super::journal::disk::Disk;
use super::journal::{Janitor, JournalError, SnapshotInfo, SnapshotJob, Step};
use super::recover::Follower;
use super::sequencer::Published;
use crate::clock::{Clock, SystemClock};
use crate::limits;
use crate::plant;
use crate::pulse;

/// Runs the janitor until it is told to stop.
pub struct JanitorThread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl JanitorThread {
    /// Starts it. The book of a snapshot hashes with `key` and may take `memory_max` bytes. Segments that nobody needs stay
    /// for `keep`. The thread keeps `guard` until
    /// it ends, by a panic too.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn<D: Disk>(
        janitor: Janitor<D>,
        published: Arc<Published>,
        key: HashKey,
        memory_max: u64,
        keep: Duration,
        guard: impl Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("janitor".to_owned()).spawn(move || {
            let _guard = guard;
            let patience = Duration::from_millis(limits::PULSE_MILLIS);
            let _pulse = published.metrics.clone().pulses.enter("janitor", patience);
            // Its work is bulk: it gives way to whatever acknowledges claims.
            let _ = rustix::process::nice(limits::BACKGROUND_NICE);
            let rounds = Rounds {
                janitor,
                published,
                key,
                memory_max,
                keep,
                snapshot: None,
                told: false,
                cold: VecDeque::new(),
                written: 0,
            };
            rounds.run(&stopped);
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends it and waits for it; a snapshot under way is finished first.
    pub fn stop(self) {
        drop(self.stop);
        // A panic there is its guard's news; what it left undone is done at the next start.
        let _ = self.thread.join();
    }
}

struct Rounds<D: Disk> {
    janitor: Janitor<D>,
    published: Arc<Published>,
    key: HashKey,
    memory_max: u64,
    keep: Duration,
    snapshot: Option<JoinHandle<Option<SnapshotInfo>>>,
    told: bool,
    /// Memory that has not been written yet, and the page to go on with.
    cold: VecDeque<(ColdPages, usize)>,
    /// Bytes that the journal had taken at the last round.
    written: u64,
}

impl<D: Disk> Rounds<D> {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            let pause = match self.round() {
                Ok(pause) => pause,
                Err(JournalError::Latched) => Duration::from_millis(limits::JANITOR_RETRY_MILLIS),
                Err(error) => {
                    tracing::warn!(%error, "housekeeping of the journal failed; it is tried again");
                    Duration::from_millis(limits::JANITOR_RETRY_MILLIS)
                }
            };
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => break,
            }
        }
        if let Some(snapshot) = self.snapshot.take() {
            let _ = snapshot.join();
        }
    }

    fn round(&mut self) -> Result<Duration, JournalError> {
        pulse::beat();
        plant::crash_point("janitor.round");
        let is_cold = self.warm();
        drop(std::mem::take(&mut *self.published.garbage.lock().unwrap_or_else(PoisonError::into_inner)));
        if let Some(snapshot) = self.snapshot.take_if(|s| s.is_finished()) {
            self.janitor.snapshot_done(snapshot.join().ok().flatten())?;
        }
        let written = self.published.metrics.journal_bytes.get();
        let is_busy = std::mem::replace(&mut self.written, written) != written;
        if !self.keep.is_zero() {
            let keep = i64::try_from(self.keep.as_micros()).unwrap_or(i64::MAX);
            self.janitor.keep_after(SystemClock.now().plus_micros(-keep));
        }
        let step = self.janitor.step(self.published.pending.retired())?;
        self.published.metrics.journal_disk_bytes.set(self.janitor.bytes());
        if matches!(step, Step::Ready(_)) {
            self.told = false;
        }
        Ok(match step {
            // A slice of zeros and its sync hold up a sync of the sequencer's: they are spread out, at a rate that still
            // makes segments several times as fast as a core fills them. Where none is ready, claims may soon be refused
            // for want of room, and nothing is worse than that; where nothing is written, nothing is held up.
            Step::Worked if is_busy && self.janitor.spares() > 0 => Duration::from_millis(limits::PREPARE_PAUSE_MILLIS),
            Step::Worked => Duration::ZERO,
            Step::Ready(_) | Step::Trimmed(_) => Duration::ZERO,
            Step::SnapshotDue => {
                if let Some(job) = self.janitor.snapshot_job() {
                    self.snapshot = self.make(job)?;
                }
                Duration::from_millis(limits::JANITOR_IDLE_MILLIS)
            }
            Step::DiskFull => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::error!("the journal's disk is full: claims are refused until there is room again");
                }
                Duration::from_millis(limits::JANITOR_RETRY_MILLIS)
            }
            Step::Idle if is_cold => Duration::ZERO,
            Step::Idle => Duration::from_millis(limits::JANITOR_IDLE_MILLIS),
        })
    }

    /// Has some pages of new tables made, unless a segment is wanted first: the tables of a large campaign take seconds beside
    /// a busy core, and a journal without a segment to go on with refuses claims. Whether there is more to do.
    fn warm(&mut self) -> bool {
        let new = std::mem::take(&mut *self.published.cold.lock().unwrap_or_else(PoisonError::into_inner));
        self.cold.extend(new.into_iter().map(|pages| (pages, 0)));
        let Some((pages, from)) = self.cold.front_mut().filter(|_| self.janitor.spares() > 0) else { return false };
        match pages.warm(*from, limits::WARM_PAGES) {
            Some(next) => *from = next,
            None => drop(self.cold.pop_front()),
        }
        !self.cold.is_empty()
    }

    fn make(&mut self, job: SnapshotJob<D>) -> Result<Option<JoinHandle<Option<SnapshotInfo>>>, JournalError> {
        let (key, memory_max) = (self.key, self.memory_max);
        let thread = std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || {
            let mut follower = Follower::new(key, memory_max);
            let made = job.run(&mut follower, |follower, out| follower.book.save(out));
            made.inspect_err(|error| tracing::warn!(%error, "a snapshot could not be made; it is tried again")).ok()
        });
        if thread.is_err() {
            self.janitor.snapshot_done(None)?;
        }
        Ok(thread.ok())
    }
}
