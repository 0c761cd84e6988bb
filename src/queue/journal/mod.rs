//! The journal: an append-only log of batches that survives kill -9, power cuts and torn writes, and says so when it
//! can't vouch for what it holds. docs/journal.md has the bytes, the disk assumptions and the cases one by one.
//!
//! - What [`Writer::sync`] has covered is read back, in order, without a gap, by every later [`open`].
//! - An invalid frame is cut off only where it can be a write that was interrupted: at the very end, never synced. Any
//!   other one is [`JournalError::Damaged`], and nothing starts.
//! - A failed write or sync is final for this process ([`JournalError::Latched`]).
//! - Neither HTTP nor SQL, no clock, no async: OS threads and a [`disk::Disk`].

pub mod disk;
mod error;
mod find;
mod format;
pub mod frame;
pub mod identity;
pub mod inspect;
mod janitor;
pub mod lock;
mod reader;
mod recover;
mod segment;
mod snapshot;
mod tail;
#[cfg(test)]
pub(super) mod tests;
mod writer;

use std::io::Read;

pub use error::{JournalError, OpenError};
pub use find::entry_at;
pub use frame::{FrameBuffer, FrameMeta, FrameView};
pub use identity::Identity;
pub use inspect::{Inspection, inspect};
pub use janitor::{Janitor, Step};
pub use lock::{DataLock, LockError};
pub use recover::{begin_from, kept_from};
pub use snapshot::{SnapshotInfo, SnapshotJob};
pub use writer::{Room, Writer};

use crate::limits;
use crate::sale::{Seq, Timestamp};
use disk::Disk;
use reader::{Chain, Found, Tail};
use tail::Ending;

/// Sizes of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a new segment. Existing ones keep their length.
    pub segment_bytes: u64,
    /// Segments that stand ready behind the one being written.
    pub spares: usize,
    /// The largest body of a frame, in bytes.
    pub frame_max: usize,
    /// Bytes zeroed and synced at a time while a segment is prepared.
    pub prepare_slice: usize,
    /// The same while no segment stands ready, at least `prepare_slice`.
    pub urgent_slice: usize,
    /// Full segments that no snapshot covers before the next one is due.
    pub snapshot_every: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: limits::SEGMENT_BYTES,
            spares: limits::SPARE_SEGMENTS,
            frame_max: limits::FRAME_MAX,
            prepare_slice: limits::PREPARE_SLICE_BYTES,
            urgent_slice: limits::URGENT_SLICE_BYTES,
            snapshot_every: limits::SNAPSHOT_EVERY_SEGMENTS,
        }
    }
}

impl Options {
    /// The smallest segment that has room for two of the largest frames, without which nothing is ever accepted.
    pub fn segment_min(&self) -> u64 {
        segment::HEADER_BYTES + 2 * frame::total(self.frame_max)
    }

    fn check(&self) -> Result<(), JournalError> {
        let wrong = |what: String| Err(JournalError::Options(what));
        if self.frame_max > frame::BODY_LIMIT {
            return wrong(format!("frame_max is {}, at most {} can be read back", self.frame_max, frame::BODY_LIMIT));
        }
        if self.segment_bytes < self.segment_min() || !self.segment_bytes.is_multiple_of(8) {
            let min = self.segment_min();
            return wrong(format!(
                "segment_bytes is {}, expected a multiple of 8 from {min}: two frames",
                self.segment_bytes
            ));
        }
        if self.prepare_slice == 0 || self.urgent_slice == 0 || self.spares == 0 {
            return wrong("prepare_slice, urgent_slice and spares must be at least 1".to_owned());
        }
        Ok(())
    }
}

/// Which frames a reader wants besides those after the newest snapshot. Frames whose entries the database hasn't got
/// are kept although a snapshot covers them; whoever drains them needs them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None.
    AfterSnapshot,
    /// Those with entries after this seq; it is an error when some are missing.
    After(Seq),
    /// Whatever is kept. A file that can't be read is passed over where all its entries are up to `needed_after`, and
    /// otherwise an error: nobody could say whether they are somewhere else.
    Kept {
        /// The last entry that is not needed.
        needed_after: Seq,
    },
}

/// Takes what is read.
pub trait Visitor {
    /// Why it can't go on.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The newest snapshot, first of all, if there is one. Its checksum has held; only a disk that reads differently the
    /// second time makes the result of the whole walk an error, and then what was made of it must be thrown away.
    ///
    /// # Errors
    /// Ends the walk.
    fn snapshot(&mut self, at: &SnapshotInfo, payload: &mut dyn Read) -> Result<(), Self::Error>;

    /// The next frame after the snapshot (or the first of all), in order, without a gap. Marks included.
    ///
    /// # Errors
    /// Ends the walk.
    fn frame(&mut self, frame: &FrameView<'_>) -> Result<(), Self::Error>;

    /// Asked once, after the snapshot: which frames that it covers are wanted.
    fn wanted(&self) -> Wanted {
        Wanted::AfterSnapshot
    }

    /// A frame that the snapshot covers already and [`Visitor::wanted`] asked for: not to be applied again. These come
    /// in order, before the first [`Visitor::frame`].
    ///
    /// # Errors
    /// Ends the walk.
    fn covered(&mut self, _frame: &FrameView<'_>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A running server has moved on beneath the reader: forget everything, it begins anew. Only [`read`] does this.
    fn restart(&mut self) {}

    /// So many bytes of so many were read; now and then.
    fn progress(&mut self, _bytes_done: u64, _bytes_total: u64) {}
}

/// What was found on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Frames after the snapshot.
    pub frames: u64,
    /// Marks among them.
    pub marks: u64,
    /// Entries in them.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Segments read.
    pub segments: u64,
    /// The snapshot's seq.
    pub snapshot: Option<Seq>,
    /// The last entry's seq; 0 for none.
    pub last_seq: Seq,
    /// The last frame's time.
    pub last_time: Timestamp,
    /// The last frame's run.
    pub epoch: u64,
    /// Bytes of a write that was interrupted; [`open`] has cut them off.
    pub torn_bytes: u64,
    /// A power cut took unsynced frames of durability `memory`: entries after `last_seq`, up to this one at least, are
    /// lost, but some of them may have reached the database already.
    pub memory_lost: Option<Seq>,
    /// The segment in which the journal ends; 0 for none.
    pub tail_segment: u64,
    /// Where in it, in bytes.
    pub tail_offset: u64,
}

impl Report {
    fn finish(&mut self, chain: &Chain, tail: Option<&Tail>) {
        (self.last_seq, self.last_time, self.epoch) = (chain.last_seq(), chain.at, chain.epoch);
        let Some(tail) = tail else { return };
        (self.tail_segment, self.tail_offset) = (tail.number, tail.offset);
        match tail.ending {
            Ending::Clean => {}
            Ending::Torn { bytes } => self.torn_bytes = bytes,
            Ending::MemoryGap { lost_to } => self.memory_lost = Some(Seq(lost_to)),
        }
    }
}

/// Everything found on disk, ready to go on.
pub struct Recovered<D: Disk> {
    /// For the sequencer's thread.
    pub writer: Writer<D>,
    /// For a thread of its own.
    pub janitor: Janitor<D>,
    /// Who the journal is.
    pub identity: Identity,
    /// The last entry's seq; 0 for none.
    pub last_seq: Seq,
    /// This run's number: the last one's plus 1.
    pub epoch: u64,
    /// The last frame's time: the journal's time never goes back behind it.
    pub last_time: Timestamp,
    /// What was read.
    pub report: Report,
}

/// Opens the journal, or makes a new one as `fresh` says where the folder is empty, and gives everything in it to
/// `visitor`. When this returns, what was read is durable, a torn tail is gone, and the writer stands behind the last
/// frame. The caller holds the [`DataLock`].
///
/// # Errors
/// [`JournalError`]: nothing was changed that a later start could miss. Or the visitor's own.
pub fn open<D: Disk, V: Visitor>(
    disk: D,
    options: Options,
    fresh: impl FnOnce() -> Identity,
    visitor: &mut V,
) -> Result<Recovered<D>, OpenError<V::Error>> {
    options.check()?;
    let (identity, found) = recover::begin(&disk, fresh)?;
    let replayed = reader::replay(&disk, identity.journal, &found, None, visitor)?;
    Ok(recover::finish(disk, options, identity, &found, replayed)?)
}

/// Who the journal in `disk` is, before anything is opened; none for a folder that holds none.
///
/// # Errors
/// As [`open`]: an identity that is damaged or newer, or missing beside segments.
pub fn known_identity<D: Disk>(disk: &D) -> Result<Option<Identity>, JournalError> {
    match identity::load(disk)? {
        None if !Found::look(disk)?.is_empty() => Err(recover::identity_missing()),
        found => Ok(found),
    }
}

/// Reads everything and writes nothing: for commands beside a running server, and after it. A tail that is being
/// written is its end; where the server trims beneath the reader, it begins anew ([`Visitor::restart`]).
///
/// # Errors
/// As [`open`]; [`JournalError::Absent`] where there is no journal, [`JournalError::Moving`] where the server trims
/// faster than this can read.
pub fn read<D: Disk, V: Visitor>(disk: &D, visitor: &mut V) -> Result<Report, OpenError<V::Error>> {
    let identity = identity::load(disk)?.ok_or(JournalError::Absent)?;
    for _ in 0..READ_ATTEMPTS {
        let found = Found::look(disk)?;
        match reader::replay(disk, identity.journal, &found, None, visitor) {
            Ok(replayed) => return Ok(replayed.report),
            Err(OpenError::Visitor(e)) => return Err(OpenError::Visitor(e)),
            Err(OpenError::Journal(e)) => {
                let now = Found::look(disk)?;
                if now.snapshots == found.snapshots && found.numbers.iter().all(|n| now.numbers.contains(n)) {
                    return Err(e.into());
                }
                visitor.restart();
            }
        }
    }
    Err(JournalError::Moving.into())
}

/// A server trims at most every few seconds; a reader that loses this often is too slow by far.
const READ_ATTEMPTS: u32 = 8;
