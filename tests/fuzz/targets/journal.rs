//! A journal's files: whatever lies in them, what is read is the beginning of what was written, or it is refused.
//!
//! The first byte says how the input is used. *Raw*: it is the frames of a segment with a header that holds. *Damage*:
//! operations on the files of a journal that the product wrote. *Forgery*: the same, and every checksum holds again
//! afterwards, so that what lies behind the checksums is reached.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::OnceLock;

use forebay::queue::codec;
use forebay::queue::journal::{
    self, FrameBuffer, FrameMeta, FrameView, Identity, JournalError, OpenError, Options, Recovered, SnapshotInfo, Step,
    Visitor, Writer,
};
use forebay::queue::recover::Follower;
use forebay::sale::{
    Asked, CampaignNo, CampaignSpec, Claim, ClaimId, Created, Durability, Event, Fate, Money, Moved, Seq, Timestamp,
    Units, UserId, red_packet::Seed,
};

use super::disk::{Files, MemDisk};
use super::format;
use super::snapshot::{KEY, ROOM};

/// A frame as it was read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub segment: u64,
    pub offset: u64,
    pub first_seq: u64,
    pub count: u32,
    pub mark: bool,
    pub body: Vec<u8>,
}

/// Remembers what it is given.
#[derive(Debug, Default)]
struct Log {
    covered: u64,
    frames: Vec<Frame>,
}

impl Visitor for Log {
    type Error = JournalError;

    fn snapshot(&mut self, at: &SnapshotInfo, payload: &mut dyn Read) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        payload.read_to_end(&mut bytes).expect("memory is read");
        self.covered = at.seq().0;
        Ok(())
    }

    fn frame(&mut self, frame: &FrameView<'_>) -> Result<(), JournalError> {
        for entry in frame.entries() {
            entry.map_err(|e| frame.refuse(&e))?;
        }
        self.frames.push(Frame {
            segment: frame.segment,
            offset: frame.offset,
            first_seq: frame.first_seq.0,
            count: frame.count,
            mark: frame.mark,
            body: frame.body.to_vec(),
        });
        Ok(())
    }

    fn restart(&mut self) {
        *self = Self::default();
    }
}

/// A journal that the product wrote, and what is in it.
pub struct Base {
    pub files: Files,
    frames: Vec<Frame>,
    memory: bool,
}

fn identity() -> Identity {
    Identity { journal: format::JOURNAL, hash_key: KEY.0 }
}

fn options() -> Options {
    Options {
        segment_bytes: 4_096 + 2_048,
        spares: 1,
        frame_max: 512,
        prepare_slice: 8_192,
        urgent_slice: 8_192,
        snapshot_every: 1,
    }
}

type Opened = Result<(Recovered<MemDisk>, Log), OpenError<JournalError>>;

fn open(disk: &MemDisk) -> Opened {
    let mut log = Log::default();
    journal::open(disk.clone(), options(), identity, &mut log).map(|recovered| (recovered, log))
}

/// The entry after `seq - 1`: a campaign, then claims and what becomes of them.
fn event(seq: u64) -> Event {
    if seq == 1 {
        let json = br#"{"id":"s","kind":"coupon","opens_at":"2020-01-01T00:00:00Z","closes_at":"2040-01-01T00:00:00Z",
            "stock":90,"per_user_limit":9}"#;
        let (spec, asked) = (CampaignSpec::parse(json).expect("sound"), Asked { by: "ann".to_owned(), key: None });
        return Event::Created(Box::new(Created { no: CampaignNo(0), spec, seed: Seed([5; 16]), asked }));
    }
    let of = if seq.is_multiple_of(3) { seq - 1 } else { seq };
    let user = UserId::parse(&format!("u{of}")).expect("an id");
    let claim_id = ClaimId::new(Timestamp(1_800_000_000_000_000), KEY.user(&user), of);
    let (campaign, quantity) = (CampaignNo(0), Units(1));
    if of == seq {
        let (seq, accepted_at, durability) = (Seq(seq), Timestamp(0), Durability::Disk);
        let (amount, hold, receipt_key, key) = (None, 0, 1, None);
        let held =
            Claim { claim_id, campaign, user, quantity, amount, hold, receipt_key, key, seq, accepted_at, durability };
        return Event::Claimed(held);
    }
    let to = if seq.is_multiple_of(2) { Fate::Settled } else { Fate::Cancelled };
    let (by, reason) = ("orders".into(), "".into());
    Event::Moved(Moved { claim_id, campaign, quantity, amount: None::<Money>, to, by, reason })
}

fn append(writer: &mut Writer<MemDisk>, entries: u32, durability: Durability) {
    let (first_seq, at) = (writer.next_seq(), writer.last_time().plus_micros(7));
    let mut frame = FrameBuffer::new();
    (0..u64::from(entries)).for_each(|i| codec::encode(frame.body_mut(), &event(first_seq.0 + i)));
    let meta = FrameMeta { first_seq, count: entries, at, durability, mark: entries == 0 };
    writer.append(&mut frame, meta).and_then(|()| writer.sync()).expect("memory takes it");
}

/// A journal of one frame a number of entries in `frames`, 0 for a mark.
fn written(frames: &[u32], durability: Durability, snapshots: bool) -> Base {
    let disk = MemDisk::default();
    let (mut journal, _) = open(&disk).expect("a new journal");
    let mut all = Vec::new();
    for &entries in frames {
        while matches!(journal.janitor.step(Seq(0)), Ok(Step::Worked | Step::Ready(_))) {}
        append(&mut journal.writer, entries, durability);
        all = read(&disk).map(|(_, log)| log.frames).expect("what was written");
    }
    if snapshots {
        while matches!(journal.janitor.step(Seq(0)), Ok(Step::Worked | Step::Ready(_))) {}
        let mut follower = Follower::new(KEY, ROOM);
        let made = journal.janitor.make_snapshot(&mut follower, |follower, out| follower.book.save(out));
        made.expect("a snapshot");
    }
    Base { files: disk.files(), frames: all, memory: durability == Durability::Memory }
}

/// The journals that damage is done to.
pub fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let (disk, memory) = (Durability::Disk, Durability::Memory);
        let plain = [1, 2, 3, 1];
        let long = [3, 5, 5, 5, 5, 5, 5, 5, 5, 3, 2];
        let mut recycled = written(&plain, disk, false);
        recycle(&mut recycled);
        vec![
            written(&plain, disk, false),
            written(&[1, 2, 3, 1, 0], disk, false),
            recycled,
            written(&long, disk, false),
            written(&long, disk, true),
            written(&plain, memory, false),
        ]
    })
}

/// Makes the first segment one that has had an earlier life: behind its last frame lie frames of another segment.
fn recycle(base: &mut Base) {
    let bytes = base.files.get_mut(format::FIRST).expect("a first segment");
    let end = bytes.iter().rposition(|&b| b != 0).expect("frames").next_multiple_of(8) + 8;
    let mut stale = bytes[..end].to_vec();
    format::seal_segment(99, &mut stale, &mut 7);
    let whole = format::segment(1, true, &bytes[format::HEADER..end], bytes.len());
    *bytes = whole;
    let room = bytes.len() - end;
    let stale = &stale[format::HEADER..];
    bytes[end..].copy_from_slice(&stale.iter().cycle().take(room).copied().collect::<Vec<_>>());
}

fn read(disk: &MemDisk) -> Result<(journal::Report, Log), OpenError<JournalError>> {
    let mut log = Log::default();
    journal::read(disk, &mut log).map(|report| (report, log))
}

pub fn run(data: &[u8]) {
    let [how, which, input @ ..] = data else { return };
    match how % 3 {
        0 => {
            let bytes = 4_096 + 2_048;
            let content = &input[..input.len().min(2_048)];
            let segment = format::segment(1, which & 1 == 1, content, bytes);
            let identity = format::identity(KEY.0);
            look(Files::from([("identity".to_owned(), identity), (format::FIRST.to_owned(), segment)]), None);
        }
        1 => {
            let base = &bases()[usize::from(*which) % bases().len()];
            look(damaged(base, input), Some(base));
        }
        _ => {
            let base = &bases()[usize::from(*which) % bases().len()];
            look(sealed(damaged(base, input)), None);
        }
    }
}

/// The files of `base` after the operations that eight bytes each name.
fn damaged(base: &Base, operations: &[u8]) -> Files {
    let mut files = base.files.clone();
    for operation in operations.chunks_exact(8).take(16) {
        let &[what, file, a, b, c, d, e, f] = operation else { continue };
        let Some(name) = files.keys().nth(usize::from(file) % files.len().max(1)).cloned() else { return files };
        let Some(bytes) = files.get_mut(&name).filter(|bytes| !bytes.is_empty()) else { continue };
        let len = bytes.len();
        let (at, other) =
            (usize::from(u16::from_be_bytes([a, b])) % len, usize::from(u16::from_be_bytes([c, d])) % len);
        let size = usize::from(u16::from_be_bytes([e, f]));
        match what % 9 {
            0 => bytes[at] ^= 1 << (e % 8),
            1 => bytes[at] = e,
            2 => bytes[at..(at + size).min(len)].fill(0),
            3 => bytes.truncate(at),
            4 => {
                let piece = bytes[other..(other + size).min(len)].to_vec();
                let room = piece.len().min(len - at);
                bytes[at..at + room].copy_from_slice(&piece[..room]);
            }
            5 => {
                let piece = bytes[at..(at + size).min(len)].to_vec();
                bytes.splice(other..other, piece);
                bytes.truncate(len);
            }
            6 => drop(bytes.drain(at..(at + size).min(len))),
            7 => drop(files.remove(&name)),
            _ => {
                let copy = bytes.clone();
                files.insert(format!("{:020}.seg", e % 5), copy);
            }
        }
    }
    files
}

/// The same files with checksums that hold.
fn sealed(mut files: Files) -> Files {
    let mut prev = crc32c::crc32c(&format::JOURNAL.to_le_bytes());
    for (name, bytes) in &mut files {
        match name.strip_suffix(".seg").and_then(|number| number.parse().ok()) {
            Some(number) => format::seal_segment(number, bytes, &mut prev),
            None if name == "identity" => format::seal_identity(bytes),
            None => format::seal_snapshot(bytes),
        }
    }
    files
}

fn look(files: Files, base: Option<&Base>) {
    let disk = MemDisk::of(files.clone());
    let outcome = read(&disk);
    if let Ok((report, log)) = &outcome {
        assert_eq!(report.frames, log.frames.len() as u64);
        let entries: u64 = log.frames.iter().map(|f| u64::from(f.count)).sum();
        assert_eq!((report.entries, report.last_seq.0), (entries, log.covered + entries), "no entry is skipped");
        let forged = log.frames.iter().map(|frame| check(frame, &files, base)).filter(|forged| *forged).count();
        if let Some(base) = base.filter(|_| forged == 0) {
            is_beginning(log, base, &files);
        }
    }
    let inspection = journal::inspect(&disk);
    if let Err(OpenError::Journal(refusal)) = &outcome {
        assert!(inspection.as_ref().map_or(true, |found| !found.is_sound()), "found sound, and refused: {refusal}");
    }
    assert!(disk.files() == files, "reading writes nothing");
    if base.is_some() {
        // A book takes the beginning of what one has decided. What nobody decided, a forgery, it may end the process over.
        let read = journal::read(&disk, &mut Follower::new(KEY, ROOM));
        assert_eq!(read.is_ok(), outcome.is_ok(), "{:?}", read.err().map(|e| e.to_string()));
    }
    reopen(disk, outcome);
}

/// A frame's checksum holds where it lies, worked out anew; whether it is none that was written.
fn check(frame: &Frame, files: &Files, base: Option<&Base>) -> bool {
    let file = &files[&format!("{:020}.seg", frame.segment)];
    let bytes = format::frame_at(file, frame.offset as usize).expect("a frame lies there");
    assert!(format::holds(frame.segment, bytes), "a frame whose checksum does not hold was read: {frame:?}");
    assert_eq!((bytes[format::FRAME..].to_vec(), format::u64_at(bytes, 16)), (frame.body.clone(), frame.first_seq));
    base.is_some_and(|base| !base.frames.contains(frame))
}

/// What was read of a damaged journal is its beginning, and what is missing has left nothing whole behind it.
fn is_beginning(log: &Log, base: &Base, files: &Files) {
    let behind: Vec<&Frame> = base.frames.iter().filter(|f| f.first_seq > log.covered).collect();
    let read: Vec<&Frame> = log.frames.iter().collect();
    assert!(behind.starts_with(&read), "{read:?} is no beginning of {behind:?}");
    if base.memory {
        return;
    }
    for frame in behind.iter().skip(read.len() + 1) {
        let name = format!("{:020}.seg", frame.segment);
        let (there, was) = (files.get(&name), &base.files[&name]);
        let range = frame.offset as usize..frame.offset as usize + format::FRAME + frame.body.len();
        let is_whole = there.is_some_and(|b| b.len() == was.len() && b.get(range.clone()) == was.get(range));
        assert!(!is_whole, "{frame:?} is whole, was durable, and was left out");
    }
}

/// What a reader accepts, a start accepts, and goes on behind it; and the other way round.
fn reopen(disk: MemDisk, outcome: Result<(journal::Report, Log), OpenError<JournalError>>) {
    let is_absent = matches!(&outcome, Err(OpenError::Journal(JournalError::Absent)));
    let opened = open(&disk);
    let Ok((mut journal, seen)) = opened else {
        assert!(outcome.is_err(), "a start refuses what a reader takes");
        return;
    };
    let Ok((_, log)) = outcome else {
        assert!(is_absent, "a start takes what a reader refuses");
        return;
    };
    assert_eq!(seen.frames, log.frames);
    let again = read(&disk).expect("a journal that was opened is read");
    assert_eq!((again.0.torn_bytes, &again.1.frames), (0, &log.frames), "a start leaves nothing torn");
    let mut frame = FrameBuffer::new();
    codec::encode(frame.body_mut(), &event(3));
    let (first_seq, at, durability) = (journal.writer.next_seq(), journal.writer.last_time(), Durability::Disk);
    let meta = FrameMeta { first_seq, count: 1, at, durability, mark: false };
    match journal.writer.append(&mut frame, meta).and_then(|()| journal.writer.sync()) {
        Ok(()) => {
            let (_, after) = read(&disk).expect("a journal goes on behind what was read");
            assert!(after.frames.starts_with(&log.frames) && after.frames.len() == log.frames.len() + 1);
        }
        Err(JournalError::Full) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The operations of [`damaged`] by name, for seeds.
pub fn operation(what: u8, file: u8, at: u16, other: u16, size: u16) -> Vec<u8> {
    let mut bytes = vec![what, file];
    [at, other, size].iter().for_each(|n| bytes.extend_from_slice(&n.to_be_bytes()));
    bytes
}

/// The files of each base, for seeds: which one is where.
pub fn places() -> BTreeMap<String, usize> {
    bases()[4].files.keys().cloned().zip(0..).collect()
}
