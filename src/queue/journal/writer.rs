//! Appending: one write and one sync a frame, and no other I/O ever, rotation included.
//!
//! - In durability `disk` a frame is synced before the next is written: at most one is in doubt.
//! - After a failed write or sync nothing is written any more ([`JournalError::Latched`]): what the kernel kept of the
//!   failed bytes is unknown, and a second sync would report success for pages that the first one dropped.
//! - In durability `memory` frames are not synced, but the first of a run is, so that a reader can tell those that were
//!   never promised from those that were. The janitor syncs segments when they are full.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile};
use super::frame::{self, FrameBuffer, FrameMeta, Header};
use super::reader::{Chain, SealedAt};
use super::segment::{HEADER_BYTES, Segment};
use super::{JournalError, Options};
use crate::plant::{self, Bug};
use crate::sale::{Durability, Seq, Timestamp};

/// What the journal can still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Anything.
    Plenty,
    /// One full frame: for administrative entries. Refuse claims.
    Reserve,
    /// Nothing for sure, until the janitor has a segment ready.
    Full,
}

/// A segment that is full.
pub(super) struct Sealed<F> {
    pub at: SealedAt,
    pub bytes: u64,
    pub state: SealedState<F>,
}

/// How durable a full segment is.
pub(super) enum SealedState<F> {
    /// All of it.
    Synced,
    /// All of it; the file is still to be closed, off the sequencer's thread.
    Open(F),
    /// Written in durability `memory` and not synced yet.
    Dirty(F),
    /// The janitor is at it.
    Syncing,
}

pub(super) struct Lists<F> {
    /// Prepared segments, in the order of their numbers.
    pub ready: VecDeque<Segment<F>>,
    /// Full ones, likewise.
    pub sealed: VecDeque<Sealed<F>>,
}

/// What writer and janitor share. Locked for a moment only, never during I/O.
pub(super) struct Shared<F> {
    lists: Mutex<Lists<F>>,
    ready: AtomicUsize,
    latched: AtomicBool,
    current: AtomicU64,
}

impl<F> Shared<F> {
    pub fn new(lists: Lists<F>, current: u64) -> Self {
        let ready = AtomicUsize::new(lists.ready.len());
        Self { lists: Mutex::new(lists), ready, latched: AtomicBool::new(false), current: AtomicU64::new(current) }
    }

    pub fn lists(&self) -> MutexGuard<'_, Lists<F>> {
        // Nothing that can panic runs under the lock, so a poisoned one holds whole lists.
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn latch(&self) {
        self.latched.store(true, Ordering::SeqCst);
    }

    pub fn latched(&self) -> bool {
        self.latched.load(Ordering::SeqCst)
    }

    pub fn current(&self) -> u64 {
        self.current.load(Ordering::SeqCst)
    }

    pub fn add_ready(&self, segment: Segment<F>) {
        let mut lists = self.lists();
        lists.ready.push_back(segment);
        self.ready.store(lists.ready.len(), Ordering::SeqCst);
    }

    fn rotate(&self, old: impl FnOnce(Segment<F>) -> Sealed<F>, slot: &mut Segment<F>) -> bool {
        let mut lists = self.lists();
        let Some(next) = lists.ready.pop_front() else { return false };
        self.ready.store(lists.ready.len(), Ordering::SeqCst);
        self.current.store(next.number, Ordering::SeqCst);
        let full = std::mem::replace(slot, next);
        lists.sealed.push_back(old(full));
        true
    }
}

/// The end of the journal. There is one, in the sequencer's thread.
pub struct Writer<D: Disk> {
    shared: Arc<Shared<D::File>>,
    segment: Segment<D::File>,
    offset: u64,
    seed: u32,
    journal: u128,
    chain: Chain,
    epoch: u64,
    frame_max: usize,
    unsynced: bool,
    mode: Option<Durability>,
}

impl<D: Disk> Writer<D> {
    pub(super) fn new(
        shared: Arc<Shared<D::File>>,
        segment: Segment<D::File>,
        offset: u64,
        journal: u128,
        chain: Chain,
        options: &Options,
    ) -> Self {
        let (seed, epoch) = (frame::seed(journal, segment.number), chain.epoch.saturating_add(1));
        Self {
            shared,
            segment,
            offset,
            seed,
            journal,
            chain,
            epoch,
            frame_max: options.frame_max,
            unsynced: false,
            mode: None,
        }
    }

    /// Seals `frame` and writes it, with one write. It is durable after [`Writer::sync`], and only then may anything
    /// that depends on it leave the process. The frame's entries stay in the buffer.
    ///
    /// # Errors
    /// [`JournalError::TooLarge`] and [`JournalError::Full`]: nothing was written, the journal goes on.
    /// [`JournalError::Io`]: nobody knows what was written; from now on everything is [`JournalError::Latched`].
    ///
    /// # Panics
    /// Where the frame does not follow the last one (seq, time), a mark has entries, or claims of both durabilities
    /// occur in one run: a journal that says so could not be read again.
    pub fn append(&mut self, frame: &mut FrameBuffer, meta: FrameMeta) -> Result<(), JournalError> {
        if self.shared.latched() {
            return Err(JournalError::Latched);
        }
        let bytes = frame.body().len();
        if bytes > self.frame_max {
            return Err(JournalError::TooLarge { bytes, max: self.frame_max });
        }
        let follows = meta.first_seq == self.chain.next || plant::on(Bug::ReusedSeq);
        assert!(follows, "a frame of seq {} after seq {}", meta.first_seq, self.chain.last_seq());
        assert!(meta.at >= self.chain.at, "a frame of {} after one of {}", meta.at, self.chain.at);
        assert_eq!(meta.mark, meta.count == 0 && bytes == 0, "a mark has no entries, any other frame has some");
        if !meta.mark {
            let mode = *self.mode.get_or_insert(meta.durability);
            assert_eq!(mode, meta.durability, "one durability a run");
        }
        let durability = self.mode.unwrap_or(meta.durability);
        if self.unsynced && durability == Durability::Disk {
            // The reader's rule for a torn tail rests on it: never two frames in doubt.
            self.sync()?;
        }
        if self.offset + frame::total(bytes) > self.segment.bytes {
            self.rotate()?;
        }
        let header = Header {
            crc: 0,
            len: bytes as u32,
            count: meta.count,
            first_seq: meta.first_seq,
            epoch: self.epoch,
            at: meta.at,
            prev: self.chain.prev,
            flags: Header::flags(durability, meta.mark),
        };
        let (segment, offset) = (&mut self.segment, self.offset);
        let written =
            frame.sealed(header, self.seed, |crc, bytes| segment.file.write_all_at(bytes, offset).map(|()| crc));
        let crc = written.map_err(|e| self.failed("write", e))?;
        plant::crash_point("journal.after_write");
        let anchored = self.chain.memory && self.chain.epoch == self.epoch;
        self.offset += header.total();
        self.chain.step(&Header { crc, ..header });
        self.unsynced = true;
        if durability == Durability::Memory && !anchored {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes everything appended durable: fdatasync of the segment. Does nothing where nothing is in doubt. In
    /// durability `memory` this covers the segment being written; full ones are the janitor's, which is done with them
    /// when it is idle.
    ///
    /// # Errors
    /// [`JournalError::Io`] once, then [`JournalError::Latched`]. What the failed sync covered may or may not be there
    /// after a restart: its outcome is unknown.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        if self.shared.latched() {
            return Err(JournalError::Latched);
        }
        if !self.unsynced {
            return Ok(());
        }
        if let Err(e) = self.segment.file.sync_data() {
            if !plant::on(Bug::RetryAfterEio) {
                return Err(self.failed("sync", e));
            }
            let _ = self.segment.file.sync_data();
        }
        self.unsynced = false;
        plant::crash_point("journal.after_sync");
        Ok(())
    }

    /// What can be appended now.
    pub fn room(&self) -> Room {
        let (left, frame) = (self.segment.bytes - self.offset, frame::total(self.frame_max));
        if left >= 2 * frame || self.shared.ready.load(Ordering::SeqCst) > 0 {
            Room::Plenty
        } else if left >= frame {
            Room::Reserve
        } else {
            Room::Full
        }
    }

    /// The seq that the next entry gets.
    pub fn next_seq(&self) -> Seq {
        self.chain.next
    }

    /// The last frame's time.
    pub fn last_time(&self) -> Timestamp {
        self.chain.at
    }

    /// This run's number.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether a write or sync has failed, here or in the janitor.
    pub fn latched(&self) -> bool {
        self.shared.latched()
    }

    /// The segment being written and the bytes used in it.
    pub fn position(&self) -> (u64, u64) {
        (self.segment.number, self.offset)
    }

    /// Switches to a prepared segment: file handles change places, nothing else happens on this thread.
    fn rotate(&mut self) -> Result<(), JournalError> {
        let at = SealedAt::of(self.segment.number, &self.chain);
        let dirty = self.unsynced;
        let seal = |full: Segment<D::File>| {
            let state = if dirty { SealedState::Dirty(full.file) } else { SealedState::Open(full.file) };
            Sealed { at, bytes: full.bytes, state }
        };
        if !self.shared.rotate(seal, &mut self.segment) {
            return Err(JournalError::Full);
        }
        self.unsynced = false;
        self.offset = HEADER_BYTES;
        self.seed = frame::seed(self.journal, self.segment.number);
        Ok(())
    }

    fn failed(&self, op: &'static str, source: std::io::Error) -> JournalError {
        self.shared.latch();
        JournalError::io(&self.segment.name, op, source)
    }
}
