//! The journal's specification: what survives what, on a disk whose every step can be made to fail.

mod crash;
mod damage;
pub mod disk;
mod keep;
mod life;

use std::io::Read;

use super::*;
use crate::sale::Durability;
use disk::MemDisk;

const IDENTITY: Identity = Identity { journal: 0x00c0_ffee_0000_1234, hash_key: [7; 16] };

fn small() -> Options {
    Options {
        segment_bytes: 4096 + 2048,
        spares: 2,
        frame_max: 512,
        prepare_slice: 2048,
        urgent_slice: 2048,
        snapshot_every: 2,
    }
}

/// A frame as a test knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Batch {
    first_seq: u64,
    count: u32,
    body: Vec<u8>,
}

/// A book that only remembers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Log {
    wanted: Option<Seq>,
    kept: Option<Seq>,
    covered: Vec<Batch>,
    batches: Vec<Batch>,
    /// How many of the batches the snapshot held.
    in_snapshot: usize,
    marks: u64,
}

impl Log {
    fn save(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        for b in &self.batches {
            out.write_all(&b.first_seq.to_le_bytes())?;
            out.write_all(&b.count.to_le_bytes())?;
            out.write_all(&(b.body.len() as u32).to_le_bytes())?;
            out.write_all(&b.body)?;
        }
        Ok(())
    }
}

impl Visitor for Log {
    type Error = std::io::Error;

    fn snapshot(&mut self, _at: &SnapshotInfo, payload: &mut dyn Read) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        payload.read_to_end(&mut bytes)?;
        let mut rest = &bytes[..];
        while rest.len() >= 16 {
            let len = format::u32_at(rest, 12) as usize;
            let body = rest.get(16..16 + len).ok_or(std::io::ErrorKind::UnexpectedEof)?.to_vec();
            self.batches.push(Batch { first_seq: format::u64_at(rest, 0), count: format::u32_at(rest, 8), body });
            rest = &rest[16 + len..];
        }
        self.in_snapshot = self.batches.len();
        Ok(())
    }

    fn wanted(&self) -> Wanted {
        let kept = self.kept.map(|needed_after| Wanted::Kept { needed_after });
        self.wanted.map(Wanted::After).or(kept).unwrap_or(Wanted::AfterSnapshot)
    }

    fn covered(&mut self, frame: &FrameView<'_>) -> std::io::Result<()> {
        self.covered.push(Batch { first_seq: frame.first_seq.0, count: frame.count, body: frame.body.to_vec() });
        Ok(())
    }

    fn frame(&mut self, frame: &FrameView<'_>) -> std::io::Result<()> {
        if frame.mark {
            self.marks += 1;
        } else {
            self.batches.push(Batch { first_seq: frame.first_seq.0, count: frame.count, body: frame.body.to_vec() });
        }
        Ok(())
    }

    fn restart(&mut self) {
        *self = Self { wanted: self.wanted, kept: self.kept, ..Self::default() };
    }
}

fn open_log(disk: &MemDisk, options: &Options) -> Result<(Recovered<MemDisk>, Log), OpenError<std::io::Error>> {
    let mut log = Log::default();
    open(disk.clone(), options.clone(), || IDENTITY, &mut log).map(|r| (r, log))
}

fn read_log(disk: &MemDisk) -> Result<(Report, Log), OpenError<std::io::Error>> {
    let mut log = Log::default();
    read(disk, &mut log).map(|r| (r, log))
}

/// The batch that follows `writer`'s last: of 1 to 3 entries and a length that varies with the seq.
fn next_batch(writer: &Writer<MemDisk>) -> Batch {
    let seq = writer.next_seq().0;
    let len = 20 + (seq * 37 % 180) as usize;
    let body = (0..len).map(|i| (seq as u8).wrapping_mul(31).wrapping_add(i as u8) | 0x41).collect();
    Batch { first_seq: seq, count: 1 + (seq % 3) as u32, body }
}

fn append(writer: &mut Writer<MemDisk>, batch: &Batch, durability: Durability) -> Result<(), JournalError> {
    let mut frame = FrameBuffer::new();
    frame.body_mut().extend_from_slice(&batch.body);
    let at = writer.last_time().plus_micros(5);
    let (first_seq, count) = (Seq(batch.first_seq), batch.count);
    writer.append(&mut frame, FrameMeta { first_seq, count, at, durability, mark: false })
}

fn mark(writer: &mut Writer<MemDisk>) -> Result<(), JournalError> {
    let (first_seq, at) = (writer.next_seq(), writer.last_time());
    let meta = FrameMeta { first_seq, count: 0, at, durability: Durability::Disk, mark: true };
    writer.append(&mut FrameBuffer::new(), meta)?;
    writer.sync()
}

fn append_synced(writer: &mut Writer<MemDisk>, log: &mut Vec<Batch>) {
    let batch = next_batch(writer);
    append(writer, &batch, Durability::Disk).unwrap();
    writer.sync().unwrap();
    log.push(batch);
}

/// Steps until there is nothing to do but a snapshot.
fn settle(janitor: &mut Janitor<MemDisk>, retired: u64) -> Step {
    loop {
        match janitor.step(Seq(retired)).unwrap() {
            Step::Worked | Step::Ready(_) | Step::Trimmed(_) => {}
            other => return other,
        }
    }
}
