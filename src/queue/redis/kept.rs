//! What a gate keeps itself: everything that Redis has accepted for it, synced before it is acknowledged, until the database
//! has it. So a Redis that loses its memory loses no acknowledged claim: gates offer what they have.
//!
//! - It is a journal of its own (`journal`), whose entries are blocks: what one call of the library accepted.
//! - Several lanes keep at once. Whoever comes first writes and syncs for all that have come meanwhile.
//! - After a failed write or sync nothing is kept any more ([`Kept::failed`]), so nothing may be acknowledged.
//! - A snapshot of it holds nothing. It says that nothing up to there is needed, and is made of no segment with anything that
//!   the database lacks: so whatever must be offered is read under the rules of a live journal, damage included.
//! - Memory takes a few numbers a segment, whatever waits.

mod block;
mod house;
mod summary;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use block::{Block, BlockError};
pub use house::House;
use summary::Summary;

use super::super::journal::disk::{Disk, RealDisk};
use super::super::journal::{
    self, FrameBuffer, FrameMeta, FrameView, Identity, JournalError, OpenError, Options, Room, SnapshotInfo, Visitor,
    Writer,
};
use crate::limits;
use crate::sale::{Durability, Seq, Timestamp};

/// Why nothing can be kept, or what was kept can't be read.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The journal's fault.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What it holds, or should hold, is no block.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The folder belongs to another gate, or to an installation with another secret.
    #[error(
        "the journal in the folder is that of gate {found:032x}, not of {expected:032x} with the database's secret"
    )]
    Other { expected: u128, found: u128 },
}

impl From<OpenError<BlockError>> for KeptError {
    fn from(error: OpenError<BlockError>) -> Self {
        match error {
            OpenError::Journal(error) => Self::Journal(error),
            OpenError::Visitor(error) => Self::Block(error),
        }
    }
}

/// An entry that a gate has kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEntry {
    /// The epoch under which it was accepted.
    pub epoch: u64,
    /// Its position.
    pub seq: Seq,
    /// When it was accepted.
    pub at: Timestamp,
    /// Its bytes as they are in every journal.
    pub bytes: Box<[u8]>,
}

/// A block that waits to be written.
struct Waiting {
    epoch: u64,
    first: Seq,
    at: Timestamp,
    count: u32,
    entries: Vec<u8>,
}

impl Waiting {
    fn block(&self) -> Block<'_> {
        Block { epoch: self.epoch, first: self.first, at: self.at, count: self.count, entries: &self.entries }
    }
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Calls that have come, those of them that are durable, and whether somebody is writing.
    come: u64,
    done: u64,
    is_writing: bool,
    has_failed: bool,
}

struct Sink<D: Disk> {
    writer: Writer<D>,
    frame: FrameBuffer,
    /// Whether the last frame is a mark, or there is none.
    is_marked: bool,
}

/// A gate's journal.
pub struct Kept<D: Disk = RealDisk> {
    disk: D,
    identity: Identity,
    durability: Durability,
    frame_max: usize,
    queue: Mutex<Queue>,
    turn: Condvar,
    /// Whoever waits for room has it, so that those who make room must do without.
    sink: Mutex<Sink<D>>,
    summary: Mutex<Summary>,
    retired: AtomicU64,
    has_failed: AtomicBool,
    /// Whether there was room when somebody looked last.
    had_room: AtomicBool,
    bytes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever panicked under it left what is in it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    /// Opens the journal in `folder`, or makes one, for the gate that `identity` names, and starts the thread that keeps house.
    /// The caller holds the folder's lock.
    ///
    /// # Errors
    /// [`KeptError`]: nothing was changed that a later start could miss. [`KeptError::Journal`] where the system gives no
    /// thread, too.
    pub fn open(folder: &Path, identity: Identity, durability: Durability) -> Result<(Arc<Self>, House), KeptError> {
        let (kept, janitor) = Self::open_on(RealDisk::new(folder), Options::default(), identity, durability)?;
        let kept = Arc::new(kept);
        let house = House::spawn(kept.clone(), janitor)?;
        Ok((kept, house))
    }
}

impl<D: Disk> Kept<D> {
    fn open_on(
        disk: D,
        options: Options,
        identity: Identity,
        durability: Durability,
    ) -> Result<(Self, journal::Janitor<D>), KeptError> {
        // A segment goes as soon as nothing in it is needed.
        let options = Options { snapshot_every: 1, ..options };
        let (frame_max, mut reading) = (options.frame_max, Reading::default());
        let recovered = journal::open(disk.clone(), options, || identity, &mut reading)?;
        if recovered.identity != identity {
            return Err(KeptError::Other { expected: identity.journal, found: recovered.identity.journal });
        }
        let sink = Sink {
            writer: recovered.writer,
            frame: FrameBuffer::with_capacity(frame_max),
            is_marked: reading.is_marked,
        };
        let kept = Self {
            disk,
            identity,
            durability,
            frame_max,
            queue: Mutex::default(),
            turn: Condvar::new(),
            sink: Mutex::new(sink),
            summary: Mutex::new(reading.summary),
            retired: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            had_room: AtomicBool::new(true),
            bytes: AtomicU64::new(0),
        };
        Ok((kept, recovered.janitor))
    }

    /// Who the gate is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Keeps what one call of the library accepted: `count` entries in `entries`, as they are in every journal. Durable when it
    /// returns (in durability `memory`, written). Blocks while it writes, or while another thread writes for it.
    ///
    /// # Errors
    /// It is not known whether any of it is kept: nothing of it may be acknowledged, and nothing is kept any more
    /// ([`Self::failed`]). Only bytes that are no entries ([`KeptError::Block`]) do no such harm.
    pub fn keep(&self, epoch: u64, first: Seq, at: Timestamp, count: u32, entries: &[u8]) -> Result<(), KeptError> {
        self.keep_all(vec![Block { epoch, first, at, count, entries }])
    }

    /// The same for entries of several calls, or for some of theirs, with one sync.
    ///
    /// # Errors
    /// As [`Self::keep`]'s.
    pub fn keep_all(&self, blocks: Vec<Block<'_>>) -> Result<(), KeptError> {
        blocks.iter().try_for_each(Block::check)?;
        let mut queue = lock(&self.queue);
        queue.waiting.extend(blocks.into_iter().flat_map(Block::pieces).map(|piece| Waiting {
            epoch: piece.epoch,
            first: piece.first,
            at: piece.at,
            count: piece.count,
            entries: piece.entries.to_vec(),
        }));
        queue.come += 1;
        let mine = queue.come;
        loop {
            if queue.done >= mine {
                return Ok(());
            }
            if queue.has_failed {
                return Err(JournalError::Latched.into());
            }
            if queue.is_writing {
                queue = self.turn.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.is_writing = true;
            let (blocks, upto) = (std::mem::take(&mut queue.waiting), queue.come);
            drop(queue);
            let written = self.write(&blocks);
            queue = lock(&self.queue);
            queue.is_writing = false;
            match written {
                Ok(()) => queue.done = upto,
                Err(error) => {
                    // Whoever waits with this one can't tell which of them was written, so all of them are told.
                    queue.has_failed = true;
                    self.has_failed.store(true, Ordering::Release);
                    self.turn.notify_all();
                    return Err(error.into());
                }
            }
            self.turn.notify_all();
        }
    }

    /// Writes blocks in as few frames as they fit into, and syncs.
    fn write(&self, blocks: &[Waiting]) -> Result<(), JournalError> {
        let mut sink = lock(&self.sink);
        let mut rest = blocks;
        while !rest.is_empty() {
            sink.frame.clear();
            let (mut taken, mut at) = (0, sink.writer.last_time());
            for waiting in rest {
                let before = sink.frame.body().len();
                waiting.block().encode(sink.frame.body_mut());
                if sink.frame.body().len() > self.frame_max && taken > 0 {
                    let whole = before + (sink.frame.body_mut().len() - sink.frame.body().len());
                    sink.frame.body_mut().truncate(whole);
                    break;
                }
                (taken, at) = (taken + 1, at.max(waiting.at));
            }
            let (now, later) = rest.split_at(taken);
            self.append(&mut sink, now, at)?;
            rest = later;
        }
        match self.durability {
            Durability::Disk => sink.writer.sync(),
            Durability::Memory => Ok(()),
        }
    }

    /// Appends the frame, for which there may be no room for a moment.
    fn append(&self, sink: &mut Sink<D>, blocks: &[Waiting], at: Timestamp) -> Result<(), JournalError> {
        let begun = crate::clock::tick();
        let first_seq = sink.writer.next_seq();
        let meta = FrameMeta { first_seq, count: blocks.len() as u32, at, durability: self.durability, mark: false };
        loop {
            match sink.writer.append(&mut sink.frame, meta) {
                Err(JournalError::Full)
                    if crate::clock::tick().saturating_duration_since(begun)
                        < Duration::from_millis(limits::KEPT_ROOM_MILLIS) =>
                {
                    self.had_room.store(false, Ordering::Release);
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => break other?,
            }
        }
        sink.is_marked = false;
        let (segment, _) = sink.writer.position();
        let mut summary = lock(&self.summary);
        for (place, waiting) in blocks.iter().enumerate() {
            summary.add(segment, first_seq.plus(place as u64), &waiting.block());
        }
        Ok(())
    }

    /// Writes a mark behind the last frame, unless there is one: damage to the frame is then known from an interrupted write.
    fn mark(&self) -> Result<(), JournalError> {
        let mut sink = lock(&self.sink);
        if sink.is_marked {
            return Ok(());
        }
        let (first_seq, at) = (sink.writer.next_seq(), sink.writer.last_time());
        let meta = FrameMeta { first_seq, count: 0, at, durability: self.durability, mark: true };
        sink.frame.clear();
        let Sink { writer, frame, .. } = &mut *sink;
        match writer.append(frame, meta).and_then(|()| writer.sync()) {
            // There will be another moment of rest.
            Err(JournalError::Full) => return Ok(()),
            other => other?,
        }
        sink.is_marked = true;
        Ok(())
    }

    /// Tells that the database has everything up to `upto`: what is kept of that is not needed any more. Only by a gate that
    /// serves under the epoch of which this is true.
    pub fn retired(&self, upto: Seq) {
        self.retired.fetch_max(upto.0, Ordering::AcqRel);
    }

    /// Gives `visit` every block with an entry after `after`, in the order in which they were kept, from disk. Nothing is kept
    /// meanwhile.
    ///
    /// # Errors
    /// What can't be read, damage among it. `visit` may then have been given some.
    pub fn each_after(&self, after: Seq, visit: &mut dyn FnMut(&Block<'_>)) -> Result<(), KeptError> {
        // A frame that is being written would look like one that was cut off.
        let _sink = lock(&self.sink);
        journal::read(&self.disk, &mut Walk { after, visit })?;
        Ok(())
    }

    /// Every entry that is kept and comes after `after`, by position; all in memory at once. Of what several epochs have at one
    /// position, the latest one's.
    ///
    /// # Errors
    /// As [`Self::each_after`].
    pub fn after(&self, after: Seq) -> Result<Vec<KeptEntry>, KeptError> {
        let mut all = Vec::new();
        self.each_after(after, &mut |block| {
            let Block { epoch, at, .. } = *block;
            let wanted = block.each().filter(|(seq, _)| *seq > after);
            all.extend(wanted.map(|(seq, bytes)| KeptEntry { epoch, seq, at, bytes: bytes.into() }));
        })?;
        all.sort_by_key(|entry| (entry.seq, std::cmp::Reverse(entry.epoch)));
        all.dedup_by_key(|entry| entry.seq);
        Ok(all)
    }

    /// The last epoch under which anything was kept, and the highest position then; none where nothing is here.
    pub fn last(&self) -> Option<(u64, Seq)> {
        lock(&self.summary).last()
    }

    /// How many positions the highest that is kept lies beyond what [`Self::retired`] was told: at least the entries that are
    /// still needed, and 0 exactly where none is.
    pub fn unretired(&self) -> u64 {
        lock(&self.summary).highest().0.saturating_sub(self.retired.load(Ordering::Acquire))
    }

    /// Whether an opening went without something that is kept here: that of `epoch`, which began after position `base`, with
    /// nothing of this gate's. Then the gate must not serve, and must not be told what is retired.
    pub fn is_missed_by(&self, epoch: u64, base: Seq) -> bool {
        lock(&self.summary).before(epoch) > base
    }

    /// Whether a write or sync has failed: nothing is kept any more.
    pub fn failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Whether there is room for whatever is under way and a call more. Ask before submitting.
    pub fn has_room(&self) -> bool {
        if let Ok(sink) = self.sink.try_lock() {
            self.had_room.store(sink.writer.room() == Room::Plenty, Ordering::Release);
        }
        self.had_room.load(Ordering::Acquire)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn each_block<'a>(frame: &FrameView<'a>, mut visit: impl FnMut(Seq, &Block<'a>)) -> Result<(), BlockError> {
    let (mut rest, mut local) = (frame.body, frame.first_seq);
    while !rest.is_empty() {
        let (block, behind) = Block::decode(rest)?;
        visit(local, &block);
        (rest, local) = (behind, local.next());
    }
    if local == frame.next_seq() {
        Ok(())
    } else {
        Err(BlockError("a frame has another number of blocks than it says"))
    }
}

/// Learns what there is.
#[derive(Default)]
struct Reading {
    summary: Summary,
    is_marked: bool,
}

impl Visitor for Reading {
    type Error = BlockError;

    fn snapshot(&mut self, _at: &SnapshotInfo, _payload: &mut dyn Read) -> Result<(), BlockError> {
        self.is_marked = true;
        Ok(())
    }

    fn frame(&mut self, frame: &FrameView<'_>) -> Result<(), BlockError> {
        self.is_marked = frame.mark;
        each_block(frame, |local, block| self.summary.add(frame.segment, local, block))
    }
}

/// Gives what comes after a position.
struct Walk<'a> {
    after: Seq,
    visit: &'a mut dyn FnMut(&Block<'_>),
}

impl Visitor for Walk<'_> {
    type Error = BlockError;

    fn snapshot(&mut self, _at: &SnapshotInfo, _payload: &mut dyn Read) -> Result<(), BlockError> {
        Ok(())
    }

    fn frame(&mut self, frame: &FrameView<'_>) -> Result<(), BlockError> {
        each_block(frame, |_, block| {
            if block.last() > self.after {
                (self.visit)(block);
            }
        })
    }
}

/// What a snapshot is made of: nothing.
struct Nothing;

impl Visitor for Nothing {
    type Error = Infallible;

    fn snapshot(&mut self, _at: &SnapshotInfo, _payload: &mut dyn Read) -> Result<(), Infallible> {
        Ok(())
    }

    fn frame(&mut self, _frame: &FrameView<'_>) -> Result<(), Infallible> {
        Ok(())
    }
}
