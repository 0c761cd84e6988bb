//! Housekeeping off the sequencer's thread: segments are prepared ahead, trimmed and recycled; snapshots fall due.
//!
//! A segment goes only when a durable database commit *and* a durable snapshot cover all of it: the database then has
//! its claims and the snapshot its effect on the book. It may be kept longer ([`Janitor::keep_after`]), for a database that
//! has to be put back from a backup, as long as the disk has room. A full disk is no catastrophe here, since nothing that was
//! promised depends on a spare segment: the writer's room shrinks and claims are refused in time.

use std::io::{self, Write};
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::format;
use super::segment::{Finish, Preparing};
use super::snapshot::{SnapshotInfo, SnapshotJob};
use super::writer::{Sealed, SealedState, Shared};
use super::{JournalError, OpenError, Options, Visitor};
use crate::limits;
use crate::plant::{self, Bug};
use crate::sale::{Seq, Timestamp};

/// What one step of housekeeping did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A bounded piece of work; there may be more to do at once.
    Worked,
    /// Segment so-and-so is ready for use; there may be more.
    Ready(u64),
    /// Segment so-and-so went, or is being recycled; there may be more.
    Trimmed(u64),
    /// Nothing else to do than to make a snapshot: [`Janitor::snapshot_job`].
    SnapshotDue,
    /// The disk is full: nothing was left behind. Try again in a while; [`super::Writer::room`] tells what that means.
    DiskFull,
    /// Nothing to do.
    Idle,
}

/// The housekeeper. Its thread is the caller's; it must not be the sequencer's.
pub struct Janitor<D: Disk> {
    disk: D,
    journal: u128,
    options: Options,
    shared: Arc<Shared<D::File>>,
    preparing: Option<Preparing<D::File>>,
    snapshot: Option<SnapshotInfo>,
    /// Whether a job was handed out and not yet given back.
    job_out: bool,
    /// Covered segments that were sealed after this stay.
    keep_after: Timestamp,
    /// Whether the disk ran short, and what is only kept goes.
    short: bool,
}

impl<D: Disk> Janitor<D> {
    pub(super) fn new(
        disk: D,
        journal: u128,
        options: Options,
        shared: Arc<Shared<D::File>>,
        snapshot: Option<SnapshotInfo>,
    ) -> Self {
        let keep_after = Timestamp(i64::MAX);
        Self { disk, journal, options, shared, preparing: None, snapshot, job_out: false, keep_after, short: false }
    }

    /// From now on a covered segment stays while its last frame is later than `at`, unless the disk runs short: then what is
    /// only kept goes, all of it. Nothing is kept before this is called.
    pub fn keep_after(&mut self, at: Timestamp) {
        self.keep_after = at;
    }

    /// Does one bounded piece of work. `retired`: the last seq whose entries, and all before, are durably in the
    /// database.
    ///
    /// # Errors
    /// [`JournalError::Io`]: the piece was undone; call again later. Where the error concerns what the journal relies
    /// on already (the folder, or a segment written in durability `memory`), the writer is latched too, and from then
    /// on this answers [`JournalError::Latched`].
    pub fn step(&mut self, retired: Seq) -> Result<Step, JournalError> {
        if self.shared.latched() {
            return Err(JournalError::Latched);
        }
        if self.close_full_segment()? {
            return Ok(Step::Worked);
        }
        if self.preparing.is_some() {
            return self.prepare();
        }
        let wanting = self.shared.lists().ready.len() < self.options.spares;
        self.look_for_room();
        let trimmable = self.trimmable(retired);
        if wanting {
            return self.start(trimmable);
        }
        // As many as there are spares stay where they are, to be recycled when the next one is wanted.
        if let Some((number, _, count)) = trimmable.filter(|&(_, _, count)| count > self.options.spares) {
            debug_assert!(count > 0);
            plant::crash_point("journal.trim");
            let name = format::segment_name(number);
            self.disk.remove(&name).map_err(|e| JournalError::io(&name, "remove", e))?;
            self.shared.lists().sealed.pop_front();
            return Ok(Step::Trimmed(number));
        }
        self.short = false;
        Ok(if self.due() { Step::SnapshotDue } else { Step::Idle })
    }

    /// Syncs (durability `memory`) or closes one full segment's file; whether there was one.
    fn close_full_segment(&mut self) -> Result<bool, JournalError> {
        let taken = {
            let mut lists = self.shared.lists();
            let open = |s: &&mut super::writer::Sealed<D::File>| {
                !matches!(s.state, SealedState::Synced | SealedState::Syncing)
            };
            lists.sealed.iter_mut().find(open).map(|s| {
                let state = std::mem::replace(&mut s.state, SealedState::Syncing);
                (s.at.number, state)
            })
        };
        let Some((number, state)) = taken else { return Ok(false) };
        if let SealedState::Dirty(mut file) = state {
            file.sync_data().map_err(|e| {
                self.shared.latch();
                JournalError::io(&format::segment_name(number), "sync", e)
            })?;
        }
        if let Some(sealed) = self.shared.lists().sealed.iter_mut().find(|s| s.at.number == number) {
            sealed.state = SealedState::Synced;
        }
        Ok(true)
    }

    /// Whoever else uses the disk, the database perhaps, must not run out of room for what is only kept.
    fn look_for_room(&mut self) {
        if self.keep_after < Timestamp(i64::MAX) {
            self.short |= self.disk.free_bytes().is_some_and(|free| free < limits::KEEP_JOURNAL_FREE_MIN);
        }
    }

    /// The oldest segment that nobody needs: its number, its length, and how many such there are.
    fn trimmable(&self, retired: Seq) -> Option<(u64, u64, usize)> {
        let snapshot = self.snapshot.as_ref().map_or(Seq(0), SnapshotInfo::seq);
        let covered = if plant::on(Bug::EarlyTrim) { snapshot } else { snapshot.min(retired) };
        let replay_from = self.snapshot.as_ref().map_or(0, |s| s.replay_from);
        let lists = self.shared.lists();
        let free = lists.sealed.iter().take_while(|s| {
            let is_kept = s.at.last_at > self.keep_after && !self.short;
            let is_covered = s.at.number < replay_from && s.at.last_seq <= covered;
            is_covered && !is_kept && matches!(s.state, SealedState::Synced)
        });
        let count = free.count();
        lists.sealed.front().filter(|_| count > 0).map(|s| (s.at.number, s.bytes, count))
    }

    fn start(&mut self, trimmable: Option<(u64, u64, usize)>) -> Result<Step, JournalError> {
        let number = self.next_number();
        let bytes = self.options.segment_bytes;
        if let Some((from, ..)) = trimmable.filter(|&(_, len, _)| len == bytes) {
            plant::crash_point("journal.trim");
            match Preparing::recycle(&self.disk, from, number, bytes) {
                Ok(preparing) => self.preparing = Some(preparing),
                Err(Finish::Content(e)) => return if e.is_full() { Ok(Step::DiskFull) } else { Err(e) },
                Err(Finish::Name(e)) => {
                    self.shared.latch();
                    return Err(e);
                }
            }
            self.shared.lists().sealed.pop_front();
            return Ok(Step::Trimmed(from));
        }
        match Preparing::start(&self.disk, number, bytes) {
            Ok(preparing) => self.preparing = Some(preparing),
            Err(e) => return self.undone(&format::tmp_name(&format::segment_name(number)), e),
        }
        Ok(Step::Worked)
    }

    fn next_number(&self) -> u64 {
        let lists = self.shared.lists();
        lists.ready.back().map_or_else(|| self.shared.current(), |s| s.number) + 1
    }

    fn prepare(&mut self) -> Result<Step, JournalError> {
        let Some(mut preparing) = self.preparing.take() else { return Ok(Step::Idle) };
        let tmp = preparing.tmp().to_owned();
        // Each slice is a sync, and after each the thread waits for its turn on a busy core: small ones make a segment more
        // slowly than large batches fill one.
        let slice = if self.spares() == 0 { self.options.urgent_slice } else { self.options.prepare_slice };
        match preparing.fill(slice) {
            Ok(false) => {
                self.preparing = Some(preparing);
                return Ok(Step::Worked);
            }
            Ok(true) => {}
            Err(e) => return self.undone(&tmp, e),
        }
        debug_assert_eq!(preparing.number(), self.next_number());
        match preparing.finish(&self.disk, self.journal) {
            Ok(segment) => {
                let number = segment.number;
                self.shared.add_ready(segment);
                Ok(Step::Ready(number))
            }
            Err(Finish::Content(e)) => self.undone(&tmp, e),
            Err(Finish::Name(e)) => {
                self.shared.latch();
                Err(e)
            }
        }
    }

    /// Takes back what was begun: on a full disk its room is what is missing.
    fn undone(&mut self, tmp: &str, error: JournalError) -> Result<Step, JournalError> {
        // Best effort: it goes at the next attempt, or the next start.
        let _ = self.disk.remove(tmp);
        if !error.is_full() {
            return Err(error);
        }
        self.short = true;
        Ok(Step::DiskFull)
    }

    fn due(&self) -> bool {
        let replay_from = self.snapshot.as_ref().map_or(0, |s| s.replay_from);
        let lists = self.shared.lists();
        let uncovered = lists.sealed.iter().filter(|s| s.at.number >= replay_from).count();
        !self.job_out && uncovered as u64 >= self.options.snapshot_every.max(1)
    }

    /// The snapshot that is due, if one is: of everything in full, durable segments. Only one is out at a time: give it
    /// back with [`Janitor::snapshot_done`].
    pub fn snapshot_job(&mut self) -> Option<SnapshotJob<D>> {
        self.snapshot_job_upto(Seq(u64::MAX))
    }

    /// The same of full segments that hold nothing after `upto`, if there are any.
    pub fn snapshot_job_upto(&mut self, upto: Seq) -> Option<SnapshotJob<D>> {
        if self.shared.latched() || !self.due() {
            return None;
        }
        let replay_from = self.snapshot.as_ref().map_or(0, |s| s.replay_from);
        let lists = self.shared.lists();
        let is_wanted = |s: &&Sealed<D::File>| matches!(s.state, SealedState::Synced) && s.at.last_seq <= upto;
        let durable = lists.sealed.iter().take_while(is_wanted);
        let numbers: Vec<_> = durable.filter(|s| s.at.number >= replay_from).map(|s| s.at).collect();
        drop(lists);
        let until = *numbers.last()?;
        let numbers = numbers.iter().map(|at| at.number).collect();
        self.job_out = true;
        Some(SnapshotJob {
            disk: self.disk.clone(),
            journal: self.journal,
            previous: self.snapshot.clone(),
            until,
            numbers,
        })
    }

    /// Takes a job back: with what it made, or `None` where it failed. Older snapshots go once a newer one is durable.
    ///
    /// # Errors
    /// [`JournalError::Io`]: an older snapshot can't be removed; harmless.
    pub fn snapshot_done(&mut self, made: Option<SnapshotInfo>) -> Result<(), JournalError> {
        self.job_out = false;
        let Some(made) = made else { return Ok(()) };
        let old = self.snapshot.replace(made);
        let kept = self.snapshot.as_ref().map(SnapshotInfo::seq);
        match old.filter(|old| Some(old.seq()) != kept) {
            Some(old) => {
                let name = format::snapshot_name(old.seq().0);
                self.disk.remove(&name).map_err(|e| JournalError::io(&name, "remove", e))
            }
            None => Ok(()),
        }
    }

    /// Makes the snapshot that is due on this thread; `None` where none is. `visitor` is an empty book.
    ///
    /// # Errors
    /// As [`SnapshotJob::run`] and [`Janitor::snapshot_done`].
    pub fn make_snapshot<V: Visitor>(
        &mut self,
        visitor: &mut V,
        save: impl FnOnce(&V, &mut dyn Write) -> io::Result<()>,
    ) -> Result<Option<SnapshotInfo>, OpenError<V::Error>> {
        let Some(job) = self.snapshot_job() else { return Ok(None) };
        let made = job.run(visitor, save);
        self.snapshot_done(made.as_ref().ok().cloned())?;
        made.map(Some)
    }

    /// Segments that stand ready behind the one being written.
    pub fn spares(&self) -> usize {
        self.shared.lists().ready.len()
    }

    /// The newest durable snapshot.
    pub fn snapshot(&self) -> Option<&SnapshotInfo> {
        self.snapshot.as_ref()
    }

    /// Bytes of segments on disk: full ones, the one being written, and spares.
    pub fn bytes(&self) -> u64 {
        let lists = self.shared.lists();
        let (sealed, ready): (u64, u64) =
            (lists.sealed.iter().map(|s| s.bytes).sum(), lists.ready.iter().map(|s| s.bytes).sum());
        sealed + ready + self.options.segment_bytes
    }
}
