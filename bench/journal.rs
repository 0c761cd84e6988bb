//! The journal on a real disk: how long a batch takes to be durable, and how long a restart takes.
//!
//! `cargo bench --bench journal`. The folder is under `target/`: its disk is what is measured. Recovery is printed as
//! `figure` lines over `FOREBAY_BENCH_RECORDS` records, once with all of them in the database and once with none.

mod support;

use std::path::Path;

use criterion::{Criterion, Throughput};
use forebay::clock::tick;
use forebay::queue::codec;
use forebay::queue::journal::disk::RealDisk;
use forebay::queue::journal::{FrameBuffer, FrameMeta, Identity, Options, Room, Step};
use forebay::queue::recover::{Live, Start, recover};
use forebay::sale::{Durability, Seq};
use support::{BATCH, HASH, NOW, claim, created, decide_batch, figure, millions, records, result_hash};

const IDENTITY: Identity = Identity { journal: 7, hash_key: HASH.0 };

fn open(folder: &Path, cursor: Option<Seq>) -> Live<RealDisk> {
    let mut progress = |_, _| {};
    let start =
        Start { options: Options::default(), memory_max: u64::MAX, cursor, known: Seq(0), progress: &mut progress };
    recover(RealDisk::new(folder), IDENTITY, start).expect("a journal")
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// A journal being written.
struct Journal {
    live: Live<RealDisk>,
    frame: FrameBuffer,
    durability: Durability,
}

impl Journal {
    fn new(folder: &Path, durability: Durability) -> Self {
        Self { live: open(folder, None), frame: FrameBuffer::new(), durability }
    }

    /// Prepares what the next frame needs; a thread of its own does this in the server.
    fn prepare(&mut self) {
        while self.live.journal.writer.room() != Room::Plenty {
            self.live.journal.janitor.step(Seq(0)).expect("a step");
        }
    }

    fn append(&mut self, count: u32) {
        let first_seq = self.live.journal.writer.next_seq();
        let meta = FrameMeta { first_seq, count, at: NOW, durability: self.durability, mark: false };
        self.live.journal.writer.append(&mut self.frame, meta).expect("written");
    }

    fn enter_creation(&mut self, stock: u64) {
        let entry = created(stock);
        self.live.book.apply(&entry);
        self.frame.clear();
        codec::encode(self.frame.body_mut(), &entry.event);
        self.append(1);
    }
}

fn append_and_sync(c: &mut Criterion) {
    let mut group = c.benchmark_group("journal");
    for size in [1u32, 64, 256] {
        let folder = temporary();
        let mut journal = Journal::new(folder.path(), Durability::Disk);
        journal.enter_creation(1_000_000);
        let mut body = Vec::new();
        let batch: Vec<_> = (0..u64::from(size)).map(claim).collect();
        decide_batch(&mut journal.live.book, &batch, &mut body);
        group.throughput(Throughput::Elements(size.into()));
        group.bench_function(format!("append and sync {size}"), |b| {
            b.iter_custom(|rounds| {
                let mut time = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    journal.prepare();
                    journal.frame.clear();
                    journal.frame.body_mut().extend_from_slice(&body);
                    let start = tick();
                    journal.append(size);
                    journal.live.journal.writer.sync().expect("synced");
                    time += start.elapsed();
                }
                time
            });
        });
    }
    group.finish();
}

/// Writes `records` claims in batches; gives the last seq and a hash of the frames.
fn write(folder: &Path, records: u64) -> (Seq, u32) {
    let mut journal = Journal::new(folder, Durability::Memory);
    journal.enter_creation(records);
    let (mut next, mut hash) = (0, 0);
    while next < records {
        let size = (records - next).min(BATCH as u64);
        let batch: Vec<_> = (next..next + size).map(claim).collect();
        next += size;
        journal.frame.clear();
        decide_batch(&mut journal.live.book, &batch, journal.frame.body_mut());
        hash = crc32c::crc32c_append(hash, journal.frame.body());
        journal.prepare();
        journal.append(size as u32);
    }
    journal.live.journal.writer.sync().expect("synced");
    // Full segments are synced behind the writer; a restart should find nothing left to do but read.
    while matches!(journal.live.journal.janitor.step(Seq(0)), Ok(Step::Worked | Step::Ready(_))) {}
    (journal.live.book.last_seq(), hash)
}

fn recovery(records: u64) {
    let folder = temporary();
    let start = tick();
    let (last, hash) = write(folder.path(), records);
    figure("journal.write", millions(records, start.elapsed()), "M records/s, made, decided and written");
    for (name, cursor) in [("drained", last), ("undrained", Seq(0))] {
        let start = tick();
        let live = open(folder.path(), Some(cursor));
        let time = start.elapsed();
        assert_eq!(live.book.campaigns()[0].winners().len(), records);
        assert_eq!(live.pending.entries(), last.0 - cursor.0);
        let seconds = time.as_secs_f64();
        figure(&format!("journal.recovery_{name}"), seconds, &format!("s for {records} records (target 5 for 10 M)"));
        figure(&format!("journal.recovery_{name}_rate"), millions(records, time), "M records/s");
    }
    result_hash("journal", hash);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    recovery(records());
    append_and_sync(&mut criterion);
    criterion.final_summary();
}
