//! The writing half of opening: the first files, and what a crash left at the end.
//!
//! Everything here may be interrupted anywhere and is done again by the next start, with the same result.

use std::collections::VecDeque;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::format::{self, damaged};
use super::frame::{self, HEADER};
use super::identity::{self, Identity};
use super::reader::{Chain, Found, Replayed, SealedAt, Tail, Window};
use super::segment::{self, Finish, HEADER_BYTES, Preparing, Segment, read_up_to};
use super::tail::Ending;
use super::writer::{Lists, Sealed, SealedState, Shared};
use super::{Janitor, JournalError, Options, Recovered, Writer};
use crate::limits;

/// The refusal of a folder whose identity was lost.
pub(super) fn identity_missing() -> JournalError {
    damaged(format::IDENTITY, 0, "the identity is missing, but there are segments or snapshots")
}

/// Reads or makes the identity, and removes what was never finished.
pub(super) fn begin<D: Disk>(disk: &D, fresh: impl FnOnce() -> Identity) -> Result<(Identity, Found), JournalError> {
    let found = Found::look(disk)?;
    let identity = match identity::load(disk)? {
        Some(identity) => identity,
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
    let mut list = covered(&disk, journal, found, from, &chain, snapshot.as_ref().map(|s| s.seq().0));
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
fn first_segment<D: Disk>(disk: &D, journal: u128, options: &Options) -> Result<Segment<D::File>, JournalError> {
    let mut preparing = Preparing::start(disk, 1, options.segment_bytes)?;
    while !preparing.fill(options.prepare_slice)? {}
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

/// Segments that the snapshot covers wholly. Where one can't be read, its end is taken to be its successor's: it is
/// then kept longer than needed, never shorter.
fn covered<D: Disk>(
    disk: &D,
    journal: u128,
    found: &Found,
    from: u64,
    chain: &Chain,
    snapshot: Option<u64>,
) -> VecDeque<Sealed<D::File>> {
    let mut bound = snapshot.unwrap_or(chain.last_seq().0);
    let mut window = Window::default();
    let mut list = VecDeque::new();
    for &number in found.numbers.iter().rev().filter(|&&n| n < from) {
        let segment = segment::open(disk, journal, number, false).ok();
        let at = SealedAt { number, last_seq: crate::sale::Seq(bound), last_crc: 0 };
        list.push_front(Sealed { at, bytes: segment.as_ref().map_or(0, |s| s.bytes), state: SealedState::Synced });
        let first = segment.and_then(|s| window.frame(&s, HEADER_BYTES, frame::seed(journal, number)).ok().flatten());
        bound = first.map_or(bound, |h| bound.min(h.first_seq.0.saturating_sub(1)));
    }
    list
}
