//! The writing half of opening: the first files, and what a crash left at the end.
//!
//! Everything here may be interrupted anywhere and is done again by the next start, with the same result.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::format::{self, damaged};
use super::frame::{self, HEADER};
use super::identity::{self, Identity};
use super::reader::{Chain, Found, Replayed, SealedAt, Tail, Window};
use super::segment::{self, Finish, HEADER_BYTES, Preparing, Segment, read_up_to};
use super::snapshot::{self, SnapshotInfo};
use super::tail::Ending;
use super::writer::{Lists, Sealed, SealedState, Shared};
use super::{Janitor, JournalError, Options, Recovered, Writer};
use crate::limits;
use crate::sale::{Seq, Timestamp};

/// The refusal of a folder whose identity was lost.
pub(super) fn identity_missing() -> JournalError {
    damaged(format::IDENTITY, 0, "the identity is missing, but there are segments or snapshots")
}

/// Reads or makes the identity, and removes what was never finished.
pub(super) fn begin<D: Disk>(disk: &D, fresh: impl FnOnce() -> Identity) -> Result<(Identity, Found), JournalError> {
    let found = Found::look(disk)?;
    let identity = match identity::load(disk)? {
        Some(identity) => {
            // The start that made it may have died before its name was durable: nothing may be, that can't be read without it.
            disk.sync_dir().map_err(|e| JournalError::io(format::IDENTITY, "sync the folder of", e))?;
            identity
        }
        None if found.is_empty() => identity::create(disk, fresh())?,
        None => return Err(identity_missing()),
    };
    for name in disk.list().map_err(|e| JournalError::io(".", "list", e))? {
        if format::is_leftover(&name) {
            disk.remove(&name).map_err(|e| JournalError::io(&name, "remove", e))?;
        }
    }
    Ok((identity, found))
}

/// Makes a journal in an empty folder that begins with a book: `save` writes it as it is after entry `last` at `at`, and the
/// next entry follows that. Durable when this returns; after an error, or where the process dies before, the folder holds
/// no journal and must be made anew.
///
/// # Errors
/// [`JournalError::Io`], or options that can't work.
pub fn begin_from<D: Disk>(
    disk: &D,
    options: &Options,
    identity: Identity,
    (last, at): (Seq, Timestamp),
    save: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), JournalError> {
    options.check()?;
    assert!(Found::look(disk)?.is_empty(), "a journal is begun in an empty folder");
    identity::create(disk, identity)?;
    let segment = first_segment(disk, identity.journal, options)?;
    let chain = Chain { next: last.next(), at, ..Chain::genesis(identity.journal) };
    let info = SnapshotInfo { chain, replay_from: segment.number, bytes: 0 };
    snapshot::write(disk, identity.journal, info, &format::snapshot_name(last.0), save)?;
    Ok(())
}

/// The first entry that is kept as one, and not only as a part of the snapshot; the next one where none is. Looks at
/// beginnings of files only. A damaged beginning ends the look: what lies before it is not needed by every database, and so no
/// error yet, but it is told.
///
/// # Errors
/// The disk's, a header that is foreign or newer, or a damaged one of the snapshot.
pub fn kept_from<D: Disk>(disk: &D, journal: u128) -> Result<(Seq, Option<JournalError>), JournalError> {
    let found = Found::look(disk)?;
    let snapshot = found.snapshots.last().map(|&seq| snapshot::info(disk, journal, seq)).transpose()?;
    let (from, mut first) = snapshot.map_or((1, Seq(1)), |s| (s.replay_from, s.seq().next()));
    let mut window = Window::default();
    for number in (1..from).rev().take_while(|number| found.numbers.binary_search(number).is_ok()) {
        let segment = match segment::open(disk, journal, number, false) {
            Err(error @ JournalError::Damaged { .. }) => return Ok((first, Some(error))),
            opened => opened?,
        };
        let header = window.frame(&segment, HEADER_BYTES, frame::seed(journal, number));
        let Some(header) = header.map_err(|e| JournalError::io(&segment.name, "read", e))? else {
            let what = "its first frame does not match its checksum, and later segments are in use";
            return Ok((first, Some(damaged(&segment.name, HEADER_BYTES, what))));
        };
        first = header.first_seq;
    }
    Ok((first, None))
}

/// Makes what was read durable, cuts a torn tail off and sets writer and janitor up behind it.
pub(super) fn finish<D: Disk>(
    disk: D,
    options: Options,
    identity: Identity,
    found: &Found,
    replayed: Replayed,
) -> Result<Recovered<D>, JournalError> {
    let journal = identity.journal;
    let Replayed { chain, snapshot, sealed, tail, last, report } = replayed;
    let (segment, offset, ready) = match &tail {
        None => (first_segment(&disk, journal, &options)?, HEADER_BYTES, VecDeque::new()),
        Some(tail) => {
            secure(&disk, journal, &sealed, last)?;
            let segment = cut(&disk, journal, tail, found)?;
            (segment, tail.offset, spares(&disk, journal, tail, found, &options)?)
        }
    };
    let from = snapshot.as_ref().map_or(1, |s| s.replay_from);
    let mut list = covered(&disk, journal, found, from, snapshot.as_ref().map_or(&chain, |s| &s.chain));
    for at in sealed {
        let bytes = segment::open(&disk, journal, at.number, false)?.bytes;
        list.push_back(Sealed { at, bytes, state: SealedState::Synced });
    }
    for &old in found.snapshots.iter().rev().skip(1) {
        let name = format::snapshot_name(old);
        disk.remove(&name).map_err(|e| JournalError::io(&name, "remove", e))?;
    }
    let shared = Arc::new(Shared::new(Lists { ready, sealed: list }, segment.number));
    let writer = Writer::new(shared.clone(), segment, offset, journal, chain, &options);
    let epoch = writer.epoch();
    let janitor = Janitor::new(disk, journal, options, shared, snapshot);
    Ok(Recovered { writer, janitor, identity, last_seq: chain.last_seq(), epoch, last_time: chain.at, report })
}

/// The first segment of a new journal, at once.
pub(super) fn first_segment<D: Disk>(
    disk: &D,
    journal: u128,
    options: &Options,
) -> Result<Segment<D::File>, JournalError> {
    let mut preparing = Preparing::start(disk, 1, options.segment_bytes)?;
    while !preparing.fill(options.urgent_slice)? {}
    preparing.finish(disk, journal).map_err(Finish::into_error)
}

/// Makes durable what was read: it may have come from the page cache only. The last frame is written again first: if
/// the sync that covered it failed, the kernel holds its pages for clean, and a sync alone would do nothing for them.
fn secure<D: Disk>(
    disk: &D,
    journal: u128,
    sealed: &[SealedAt],
    last: Option<(u64, u64, u64)>,
) -> Result<(), JournalError> {
    if let Some((number, offset, total)) = last {
        let mut segment = segment::open(disk, journal, number, true)?;
        let mut bytes = vec![0; total as usize];
        let name = segment.name.as_str();
        let io = |op| move |e| JournalError::io(name, op, e);
        let got = read_up_to(&segment.file, &mut bytes, offset).map_err(io("read"))?;
        if frame::check(&bytes[..got], frame::seed(journal, number)).is_none() {
            return Err(damaged(
                &segment.name,
                offset,
                "the last frame reads differently the second time: the disk fails",
            ));
        }
        segment.file.write_all_at(&bytes, offset).map_err(io("write"))?;
        segment.file.sync_data().map_err(io("sync"))?;
    }
    for at in sealed {
        let mut segment = segment::open(disk, journal, at.number, true)?;
        segment.file.sync_data().map_err(|e| JournalError::io(&segment.name, "sync", e))?;
    }
    disk.sync_dir().map_err(|e| JournalError::io(".", "sync", e))
}

/// Zeroes what an interrupted write left, durably, before anything is appended.
fn cut<D: Disk>(disk: &D, journal: u128, tail: &Tail, found: &Found) -> Result<Segment<D::File>, JournalError> {
    let mut segment = segment::open(disk, journal, tail.number, true)?;
    let left = segment.bytes - tail.offset;
    let len = match tail.ending {
        Ending::Clean => 0,
        Ending::Torn { bytes } => left.min(bytes.max((HEADER + limits::FRAME_MAX) as u64)),
        Ending::MemoryGap { .. } => {
            for &later in found.numbers.iter().rev().take_while(|&&n| n > tail.number) {
                let name = format::segment_name(later);
                disk.remove(&name).map_err(|e| JournalError::io(&name, "remove", e))?;
            }
            disk.sync_dir().map_err(|e| JournalError::io(".", "sync", e))?;
            left
        }
    };
    let name = segment.name.as_str();
    let io = |op| move |e| JournalError::io(name, op, e);
    let zeros = vec![0; len.min(1024 * 1024) as usize];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(zeros.len() as u64);
        segment.file.write_all_at(&zeros[..n as usize], tail.offset + done).map_err(io("write"))?;
        done += n;
    }
    segment.file.sync_data().map_err(io("sync"))?;
    Ok(segment)
}

/// The prepared segments behind the tail. The walk has seen that no valid frame is in any of them; one that can't be
/// reached by counting up, or is too small, is removed.
fn spares<D: Disk>(
    disk: &D,
    journal: u128,
    tail: &Tail,
    found: &Found,
    options: &Options,
) -> Result<VecDeque<Segment<D::File>>, JournalError> {
    let mut ready = VecDeque::new();
    if matches!(tail.ending, Ending::MemoryGap { .. }) {
        return Ok(ready);
    }
    let mut next = tail.number + 1;
    for &number in found.numbers.iter().filter(|&&n| n > tail.number) {
        let segment = segment::open(disk, journal, number, true)?;
        if number == next && segment.bytes >= options.segment_min() {
            ready.push_back(segment);
            next += 1;
        } else {
            disk.remove(&segment.name).map_err(|e| JournalError::io(&segment.name, "remove", e))?;
        }
    }
    // A removed name must not come back beside the segment that gets the same number next.
    disk.sync_dir().map_err(|e| JournalError::io(".", "sync", e))?;
    Ok(ready)
}

/// Segments that the snapshot, which ends at `chain`, covers wholly. Each is taken to end where its successor begins, in time
/// too, and where one can't be read at its successor's end: it is then kept longer than needed, never shorter.
fn covered<D: Disk>(disk: &D, journal: u128, found: &Found, from: u64, chain: &Chain) -> VecDeque<Sealed<D::File>> {
    let (mut bound, mut last_at) = (chain.last_seq().0, chain.at);
    let mut window = Window::default();
    let mut list = VecDeque::new();
    for &number in found.numbers.iter().rev().filter(|&&n| n < from) {
        let segment = segment::open(disk, journal, number, false).ok();
        let at = SealedAt { number, last_seq: Seq(bound), last_crc: 0, last_at };
        list.push_front(Sealed { at, bytes: segment.as_ref().map_or(0, |s| s.bytes), state: SealedState::Synced });
        let first = segment.and_then(|s| window.frame(&s, HEADER_BYTES, frame::seed(journal, number)).ok().flatten());
        if let Some(first) = first {
            bound = bound.min(first.first_seq.0.saturating_sub(1));
            last_at = last_at.min(first.at);
        }
    }
    list
}
