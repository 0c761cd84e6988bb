//! The thread that keeps a gate's journal in order: segments are made ahead, and go when the database has what is in them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::super::journal::disk::Disk;
use super::super::super::journal::{Janitor, JournalError, OpenError, Step};
use super::{Kept, Nothing, lock};
use crate::limits;
use crate::sale::Seq;

/// The thread.
#[derive(Debug)]
pub struct House {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl House {
    pub(super) fn spawn<D: Disk>(kept: Arc<Kept<D>>, janitor: Janitor<D>) -> Result<Self, JournalError> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("kept".to_owned()).spawn(move || {
            // It gives way to whatever acknowledges claims.
            let _ = rustix::process::nice(limits::BACKGROUND_NICE);
            Rounds { kept, janitor, is_told: false, rests: None }.run(&stopped);
        });
        let thread =
            thread.map_err(|source| JournalError::Io { file: ".".to_owned(), op: "start a thread for", source })?;
        Ok(Self { stop, thread })
    }

    /// Ends it and waits for it; a mark is written behind the last frame. After the last call of [`Kept::keep`].
    pub fn stop(self) {
        drop(self.stop);
        // What a panic there left undone is done at the next start.
        let _ = self.thread.join();
    }
}

pub(super) struct Rounds<D: Disk> {
    pub(super) kept: Arc<Kept<D>>,
    pub(super) janitor: Janitor<D>,
    pub(super) is_told: bool,
    /// The position at the last round, and since when it has been the same.
    pub(super) rests: Option<(Seq, Instant)>,
}

impl<D: Disk> Rounds<D> {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            let pause = match self.round() {
                Ok(pause) => pause,
                Err(JournalError::Latched) => Duration::from_millis(limits::JANITOR_RETRY_MILLIS),
                Err(error) => {
                    tracing::warn!(%error, "housekeeping of the gate's journal failed; it is tried again");
                    Duration::from_millis(limits::JANITOR_RETRY_MILLIS)
                }
            };
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => break,
            }
        }
        if let Err(error) = self.kept.mark() {
            tracing::warn!(%error, "no mark could be written behind what the gate has kept");
        }
    }

    /// One piece of work; for how long to rest after it.
    pub(super) fn round(&mut self) -> Result<Duration, JournalError> {
        let retired = Seq(self.kept.retired.load(Ordering::Acquire));
        let (upto, last) = {
            let mut summary = lock(&self.kept.summary);
            (summary.retire(retired), summary.last_local())
        };
        let step = self.janitor.step(upto).inspect_err(|error| {
            if matches!(error, JournalError::Latched) {
                self.kept.has_failed.store(true, Ordering::Release);
            }
        })?;
        self.kept.bytes.store(self.janitor.bytes(), Ordering::Relaxed);
        if matches!(step, Step::Ready(_)) {
            self.is_told = false;
        }
        Ok(match step {
            Step::Worked if self.janitor.spares() > 0 => Duration::from_millis(limits::PREPARE_PAUSE_MILLIS),
            Step::Worked | Step::Ready(_) | Step::Trimmed(_) => Duration::ZERO,
            Step::SnapshotDue if self.cover(upto)? => Duration::ZERO,
            Step::SnapshotDue | Step::Idle => {
                self.rest(last)?;
                Duration::from_millis(limits::JANITOR_IDLE_MILLIS)
            }
            Step::DiskFull => {
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::error!("the disk of the gate's journal is full: claims are refused until there is room");
                }
                Duration::from_millis(limits::JANITOR_RETRY_MILLIS)
            }
        })
    }

    /// Notes that nothing up to `upto` is needed; whether there was anything to note.
    fn cover(&mut self, upto: Seq) -> Result<bool, JournalError> {
        let Some(job) = self.janitor.snapshot_job_upto(upto) else { return Ok(false) };
        let made = job.run(&mut Nothing, |_, _| Ok(()));
        self.janitor.snapshot_done(made.as_ref().ok().cloned())?;
        match made {
            Ok(_) => Ok(true),
            Err(OpenError::Journal(error)) => Err(error),
            Err(OpenError::Visitor(never)) => match never {},
        }
    }

    fn rest(&mut self, last: Seq) -> Result<(), JournalError> {
        let now = crate::clock::tick();
        match self.rests {
            Some((at, since)) if at == last => {
                let rested = now.saturating_duration_since(since);
                if rested >= Duration::from_millis(limits::KEPT_MARK_MILLIS) { self.kept.mark() } else { Ok(()) }
            }
            _ => {
                self.rests = Some((last, now));
                Ok(())
            }
        }
    }
}
