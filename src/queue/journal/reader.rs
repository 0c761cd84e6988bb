//! Reading a journal from its newest snapshot to its end, frame by frame, each checked against the one before.
//!
//! The same walk serves recovery, the background snapshot and the commands that look at a running server's folder. It
//! writes nothing. What it finds wrong it never repairs or skips: it ends with an error, or with an [`Ending`].

use std::io;

use super::disk::{Disk, DiskFile};
use super::format::{self, damaged};
use super::frame::{self, FrameView, HEADER, Header};
use super::segment::{self, HEADER_BYTES, Segment, read_up_to};
use super::snapshot::{self, SnapshotInfo};
use super::tail::{Ending, Survivors, Verdict, judge};
use super::{JournalError, OpenError, Report, Visitor, Wanted};
use crate::limits;
use crate::sale::{Seq, Timestamp};

/// Bytes read at a time.
const BLOCK: usize = 2 * 1024 * 1024;
/// Bytes between two calls of [`Visitor::progress`].
const PROGRESS_EVERY: u64 = 8 * 1024 * 1024;

/// What the next frame must continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    /// The seq after the last.
    pub next: Seq,
    /// The last frame's checksum.
    pub prev: u32,
    /// The run that wrote it.
    pub epoch: u64,
    /// Its time.
    pub at: Timestamp,
    /// Whether its durability was `memory`.
    pub memory: bool,
}

impl Chain {
    /// Before the first frame.
    pub fn genesis(journal: u128) -> Self {
        Self { next: Seq(1), prev: frame::genesis(journal), epoch: 0, at: Timestamp(0), memory: false }
    }

    pub fn follows(&self, header: &Header) -> bool {
        header.first_seq == self.next && header.prev == self.prev && header.epoch >= self.epoch
    }

    pub fn step(&mut self, h: &Header) {
        let next = h.first_seq.plus(u64::from(h.count));
        *self = Self { next, prev: h.crc, epoch: h.epoch, at: h.at, memory: h.memory() };
    }

    pub fn last_seq(&self) -> Seq {
        Seq(self.next.0.saturating_sub(1))
    }
}

/// A part of one file in memory; the buffer is used again for every file.
#[derive(Debug, Default)]
pub(super) struct Window {
    buf: Vec<u8>,
    number: u64,
    start: u64,
    len: usize,
}

impl Window {
    /// Forgets what was read: the file may have grown since.
    pub fn forget(&mut self) {
        self.len = 0;
    }

    /// The bytes at `offset`: at least `need` of them, unless the segment ends first.
    pub fn get<F: DiskFile>(&mut self, segment: &Segment<F>, offset: u64, need: usize) -> io::Result<&[u8]> {
        if self.number != segment.number {
            (self.number, self.len) = (segment.number, 0);
        }
        let left = segment.bytes.saturating_sub(offset).min(usize::MAX as u64) as usize;
        let need = need.min(left);
        let end = self.start + self.len as u64;
        if offset < self.start || offset + need as u64 > end || self.len == 0 {
            let keep = if offset >= self.start && offset < end { (end - offset) as usize } else { 0 };
            self.buf.copy_within(self.len - keep..self.len, 0);
            (self.start, self.len) = (offset, keep);
            let target = need.max(BLOCK).min(left);
            if self.buf.len() < target {
                self.buf.resize(target, 0);
            }
            self.len += read_up_to(&segment.file, &mut self.buf[keep..target], offset + keep as u64)?;
        }
        Ok(&self.buf[(offset - self.start) as usize..self.len])
    }

    /// The header at `offset`, if something there looks like one that fits into the segment; unchecked.
    pub fn header<F: DiskFile>(&mut self, segment: &Segment<F>, offset: u64) -> io::Result<Option<Header>> {
        let header = Header::parse(self.get(segment, offset, HEADER)?);
        Ok(header.filter(|h| offset + h.total() <= segment.bytes))
    }

    /// The header of the valid frame at `offset`, if there is one.
    pub fn frame<F: DiskFile>(&mut self, segment: &Segment<F>, offset: u64, seed: u32) -> io::Result<Option<Header>> {
        let Some(header) = self.header(segment, offset)? else { return Ok(None) };
        Ok(frame::check(self.get(segment, offset, header.total() as usize)?, seed))
    }
}

/// The journal's files, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Segment numbers, ascending.
    pub numbers: Vec<u64>,
    /// Seqs of snapshots, ascending.
    pub snapshots: Vec<u64>,
}

impl Found {
    pub fn look<D: Disk>(disk: &D) -> Result<Self, JournalError> {
        let names = disk.list().map_err(|e| JournalError::io(".", "list", e))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|n| format::parse_segment(n)).collect();
        let mut snapshots: Vec<u64> = names.iter().filter_map(|n| format::parse_snapshot(n)).collect();
        numbers.sort_unstable();
        snapshots.sort_unstable();
        Ok(Self { numbers, snapshots })
    }

    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.snapshots.is_empty()
    }
}

/// A segment that no frame will be added to: its number, and the end of what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SealedAt {
    pub number: u64,
    pub last_seq: Seq,
    pub last_crc: u32,
    /// The time of its last frame, or a later one.
    pub last_at: Timestamp,
}

impl SealedAt {
    /// Segment `number`, which ends where `chain` stands.
    pub fn of(number: u64, chain: &Chain) -> Self {
        Self { number, last_seq: chain.last_seq(), last_crc: chain.prev, last_at: chain.at }
    }
}

/// Where the last valid frame's successor goes.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    pub number: u64,
    pub offset: u64,
    pub ending: Ending,
}

/// The result of a walk.
#[derive(Debug)]
pub(super) struct Replayed {
    pub chain: Chain,
    pub snapshot: Option<SnapshotInfo>,
    /// Segments from the snapshot to the tail, without the tail.
    pub sealed: Vec<SealedAt>,
    /// None where there is no segment yet, or the walk was asked to end before the tail.
    pub tail: Option<Tail>,
    /// Segment, offset and bytes of the last frame.
    pub last: Option<(u64, u64, u64)>,
    pub report: Report,
}

struct Walk<'a, D: Disk, V> {
    disk: &'a D,
    journal: u128,
    numbers: &'a [u64],
    visitor: &'a mut V,
    window: Window,
    chain: Chain,
    wanted: Option<Seq>,
    last: Option<(u64, u64, u64)>,
    report: Report,
    told: u64,
    done: u64,
    total: u64,
}

/// Walks over the whole journal, or up to the end of the sealed segment `until`.
pub(super) fn replay<D: Disk, V: Visitor>(
    disk: &D,
    journal: u128,
    found: &Found,
    until: Option<SealedAt>,
    visitor: &mut V,
) -> Result<Replayed, OpenError<V::Error>> {
    let snapshot = match found.snapshots.last() {
        Some(&seq) => Some(snapshot::load(disk, journal, seq, visitor)?),
        None => None,
    };
    let chain = snapshot.as_ref().map_or(Chain::genesis(journal), |s| s.chain);
    let report = Report { snapshot: snapshot.as_ref().map(|s| s.seq()), ..Report::default() };
    let (numbers, window) = (&found.numbers[..], Window::default());
    let mut walk = Walk {
        disk,
        journal,
        numbers,
        visitor,
        window,
        chain,
        wanted: None,
        last: None,
        report,
        told: 0,
        done: 0,
        total: 0,
    };
    let from = snapshot.as_ref().map_or(1, |s| s.replay_from);
    let mut sealed = Vec::new();
    let mut tail = None;
    if !found.is_empty() {
        let first = walk.first_segment(from)?;
        tail = walk.run(first, from, until, &mut sealed)?;
    }
    let Walk { chain, last, mut report, .. } = walk;
    report.finish(&chain, tail.as_ref());
    Ok(Replayed { chain, snapshot, sealed, tail, last, report })
}

impl<D: Disk, V: Visitor> Walk<'_, D, V> {
    /// The segment to begin with: `from`, or an earlier one where the visitor wants frames that the snapshot covers.
    fn first_segment(&mut self, from: u64) -> Result<u64, OpenError<V::Error>> {
        let (mut first, mut begins) = (from, self.chain.next);
        let wanted = self.visitor.wanted();
        let (after, strict, needed_after) = match wanted {
            Wanted::AfterSnapshot => (Seq(u64::MAX), false, Seq(u64::MAX)),
            Wanted::After(after) => (after, true, after),
            Wanted::Kept { needed_after } => (Seq(0), false, needed_after),
        };
        while begins > after && begins.0 - after.0 > 1 {
            let number = first - 1;
            if self.numbers.binary_search(&number).is_err() {
                if strict {
                    let what =
                        format!("it is missing; entries after seq {after} are wanted, kept ones begin at {begins}");
                    return Err(damaged(&format::segment_name(number), 0, &what).into());
                }
                break;
            }
            let header = match self.first_frame(number) {
                // Nothing follows from a file that is merely kept, which its last entry tells: the next file's first follows it.
                Err(JournalError::Damaged { .. }) if !strict && begins.0 <= needed_after.0.saturating_add(1) => break,
                header => header?,
            };
            (first, begins) = (number, header.first_seq);
        }
        self.wanted = (first < from).then_some(after);
        let read = self.numbers.iter().filter(|&&n| n >= first);
        let bytes = |n: &u64| self.disk.open_read(&format::segment_name(*n)).and_then(|f| f.len()).unwrap_or(0);
        self.total = read.map(bytes).sum();
        Ok(first)
    }

    /// The header of the first frame of a segment that the snapshot covers.
    fn first_frame(&mut self, number: u64) -> Result<Header, JournalError> {
        let segment = segment::open(self.disk, self.journal, number, false)?;
        let what = "its first frame does not match its checksum, and later segments are in use";
        self.frame(&segment, HEADER_BYTES)?.ok_or_else(|| damaged(&segment.name, HEADER_BYTES, what))
    }

    fn frame(&mut self, segment: &Segment<D::File>, offset: u64) -> Result<Option<Header>, JournalError> {
        let seed = frame::seed(self.journal, segment.number);
        self.window.frame(segment, offset, seed).map_err(|e| JournalError::io(&segment.name, "read", e))
    }

    fn open(&self, number: u64) -> Result<Segment<D::File>, JournalError> {
        match segment::open(self.disk, self.journal, number, false) {
            Err(JournalError::Io { file, source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(damaged(&file, 0, "the segment is missing, and frames in it are needed"))
            }
            other => other,
        }
    }

    /// Reads from segment `first` on. Segments below `from` are covered by the snapshot.
    fn run(
        &mut self,
        first: u64,
        from: u64,
        until: Option<SealedAt>,
        sealed: &mut Vec<SealedAt>,
    ) -> Result<Option<Tail>, OpenError<V::Error>> {
        let at_snapshot = self.chain;
        let (mut number, mut offset) = (first, HEADER_BYTES);
        if first < from {
            let segment = self.open(first)?;
            let header = self
                .frame(&segment, HEADER_BYTES)?
                .ok_or_else(|| damaged(&segment.name, HEADER_BYTES, "its first frame is damaged"))?;
            self.chain =
                Chain { next: header.first_seq, prev: header.prev, epoch: header.epoch, at: header.at, memory: false };
        }
        loop {
            let segment = self.open(number)?;
            offset = self.segment(&segment, offset, number < from)?;
            let here = SealedAt::of(number, &self.chain);
            let expected = match until {
                Some(until) if until.number == number => Some((until.last_seq, until.last_crc)),
                _ if number + 1 == from => Some((at_snapshot.last_seq(), at_snapshot.prev)),
                _ => None,
            };
            if let Some(expected) = expected {
                if expected != (here.last_seq, here.last_crc) {
                    let what = format!(
                        "frames up to seq {} were here, the last one that can be read ends at {}",
                        expected.0, here.last_seq
                    );
                    return Err(damaged(&segment.name, offset, &what).into());
                }
                if number + 1 == from && self.chain != at_snapshot {
                    let (run, said) = (self.chain.epoch, at_snapshot.epoch);
                    let what = format!(
                        "its last frame is of run {run} at {}; the snapshot made of it says run {said} at {}",
                        self.chain.at, at_snapshot.at
                    );
                    return Err(damaged(&segment.name, offset, &what).into());
                }
                if number >= from {
                    sealed.push(here);
                    return Ok(None);
                }
            } else if !self.goes_on(number + 1)? {
                if number < from {
                    return Err(damaged(
                        &segment.name,
                        offset,
                        "the frame here is damaged, and a snapshot made of it exists",
                    )
                    .into());
                }
                match self.tail(&segment, offset)? {
                    Some(tail) => return Ok(Some(tail)),
                    None => continue,
                }
            }
            if number >= from {
                sealed.push(here);
            }
            self.done += segment.bytes;
            (number, offset) = (number + 1, HEADER_BYTES);
        }
    }

    /// Whether the next segment's first frame follows the last frame read.
    fn goes_on(&mut self, number: u64) -> Result<bool, JournalError> {
        let segment = match segment::open(self.disk, self.journal, number, false) {
            Ok(segment) => segment,
            Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let header = self.frame(&segment, HEADER_BYTES)?;
        Ok(header.is_some_and(|h| self.chain.follows(&h)))
    }

    /// Gives the segment's frames from `offset` on to the visitor, up to the first that is not valid; gives its place.
    fn segment(
        &mut self,
        segment: &Segment<D::File>,
        mut offset: u64,
        covered: bool,
    ) -> Result<u64, OpenError<V::Error>> {
        let seed = frame::seed(self.journal, segment.number);
        let io = |e| JournalError::io(&segment.name, "read", e);
        let mut fresh = false;
        self.report.segments += u64::from(offset == HEADER_BYTES);
        loop {
            let Some(header) = self.window.frame(segment, offset, seed).map_err(io)? else {
                if fresh {
                    break;
                }
                // What was read ahead may be older than what a running server has written since.
                self.window.forget();
                fresh = true;
                continue;
            };
            fresh = false;
            if !self.chain.follows(&header) {
                let Header { first_seq, epoch, .. } = header;
                let what = format!(
                    "a whole frame (seq {first_seq}, run {epoch}) that does not follow the one before it (seq {} \
                     expected, run {} or later)",
                    self.chain.next, self.chain.epoch
                );
                return Err(damaged(&segment.name, offset, &what).into());
            }
            if header.unknown_flags() != 0 {
                let file = segment.name.clone();
                return Err(
                    JournalError::Newer { file, what: "frame flags", found: header.unknown_flags(), known: 0 }.into()
                );
            }
            self.deliver(segment, offset, &header, covered)?;
            self.chain.step(&header);
            self.last = Some((segment.number, offset, header.total()));
            offset += header.total();
            self.tell(self.done + offset);
        }
        Ok(offset)
    }

    fn deliver(
        &mut self,
        segment: &Segment<D::File>,
        offset: u64,
        header: &Header,
        covered: bool,
    ) -> Result<(), OpenError<V::Error>> {
        let io = |e| JournalError::io(&segment.name, "read", e);
        let bytes = self.window.get(segment, offset, header.total() as usize).map_err(io)?;
        let body = &bytes[HEADER..HEADER + header.len as usize];
        let view = FrameView::new(header, body, segment.number, &segment.name, offset);
        if covered {
            let wanted = self.wanted.is_some_and(|after| view.next_seq().0 > after.0 + 1);
            return if wanted { self.visitor.covered(&view).map_err(OpenError::Visitor) } else { Ok(()) };
        }
        self.report.frames += 1;
        self.report.marks += u64::from(header.mark());
        self.report.entries += u64::from(header.count);
        self.report.bytes += header.total();
        self.visitor.frame(&view).map_err(OpenError::Visitor)
    }

    fn tell(&mut self, bytes: u64) {
        if bytes >= self.told + PROGRESS_EVERY {
            self.told = bytes;
            self.visitor.progress(bytes, self.total.max(bytes));
        }
    }

    /// Decides what the invalid bytes at `offset` are; `None` where they have become valid meanwhile.
    fn tail(&mut self, segment: &Segment<D::File>, offset: u64) -> Result<Option<Tail>, JournalError> {
        let tail = |ending| Ok(Some(Tail { number: segment.number, offset, ending }));
        let mut survivors = Survivors::default();
        self.scan(&mut survivors, segment, offset)?;
        for &later in self.numbers.iter().filter(|&&n| n > segment.number) {
            let later = segment::open(self.disk, self.journal, later, false)?;
            self.scan(&mut survivors, &later, HEADER_BYTES)?;
        }
        self.window.forget();
        if self.frame(segment, offset)?.is_some() || self.goes_on(segment.number + 1)? {
            return Ok(None);
        }
        if let Some((file, at)) = &survivors.first {
            if survivors.only_memory(&self.chain) {
                return tail(Ending::MemoryGap { lost_to: survivors.last_seq });
            }
            let next = self.chain.next;
            let what = format!(
                "the frame that begins with seq {next} is damaged: it had been durable, a valid frame follows it in \
                 {file} at byte {at}"
            );
            return Err(damaged(&segment.name, offset, &what));
        }
        match self.judge(segment, offset)? {
            Verdict::Clean => tail(Ending::Clean),
            Verdict::Torn { bytes } => tail(Ending::Torn { bytes }),
            Verdict::Altered(what) => Err(damaged(&segment.name, offset, what)),
        }
    }

    fn scan(&mut self, survivors: &mut Survivors, segment: &Segment<D::File>, from: u64) -> Result<(), JournalError> {
        let seed = frame::seed(self.journal, segment.number);
        let result = survivors.scan(&mut self.window, segment, from, seed, &self.chain);
        result.map_err(|e| JournalError::io(&segment.name, "read", e))
    }

    fn judge(&mut self, segment: &Segment<D::File>, offset: u64) -> Result<Verdict, JournalError> {
        let io = |e| JournalError::io(&segment.name, "read", e);
        let named = self.window.header(segment, offset).map_err(io)?.map_or(0, |h| h.total() as usize);
        let need = named.max(HEADER + limits::FRAME_MAX);
        let region = self.window.get(segment, offset, need).map_err(io)?;
        let region = &region[..region.len().min(need)];
        let seed = frame::seed(self.journal, segment.number);
        Ok(judge(region, offset, seed, &self.chain, segment.recycled))
    }
}
