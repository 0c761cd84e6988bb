//! The sequencer's own work, without the disk: decide, encode, apply; and the memory that it takes.
//!
//! `cargo bench --bench book`. Besides criterion's groups it prints `figure` lines over `FOREBAY_BENCH_RECORDS`
//! winners. Only the work itself is timed: the commands of a batch are made before the clock starts, as a front end
//! makes them on another core.

mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use forebay::clock::tick;
use forebay::queue::book::Book;
use forebay::queue::codec::FrameContext;
use forebay::queue::winners::Winners;
use forebay::queue::{Pending, codec};
use forebay::sale::{Durability, Event, Seq, Units};
use support::{BATCH, NOW, book, claim, decide_batch, figure, millions, records, resident, result_hash};

/// A book that takes fresh buyers, batch after batch.
struct Rush {
    book: Book,
    next: u64,
    frame: Vec<u8>,
    hash: u32,
}

impl Rush {
    fn new(stock: u64) -> Self {
        Self { book: book(stock), next: 0, frame: Vec::with_capacity(BATCH * 128), hash: 0 }
    }

    /// Decides about `claims` claims of fresh buyers; gives the time that took.
    fn run(&mut self, claims: u64) -> Duration {
        let (mut time, end) = (Duration::ZERO, self.next + claims);
        while self.next < end {
            let size = (end - self.next).min(BATCH as u64);
            let batch: Vec<_> = (self.next..self.next + size).map(claim).collect();
            self.next += size;
            self.frame.clear();
            let start = tick();
            let accepted = decide_batch(&mut self.book, &batch, &mut self.frame);
            time += start.elapsed();
            assert_eq!(u64::from(accepted), size, "every fresh buyer gets a unit");
            self.hash = crc32c::crc32c_append(self.hash, &self.frame);
        }
        time
    }
}

fn fresh_buyers(c: &mut Criterion) {
    let mut group = c.benchmark_group("book");
    group.throughput(Throughput::Elements(BATCH as u64));
    let stock = 1_000_000;
    let mut rush = Rush::new(stock);
    group.bench_function("decide, encode and apply 256 fresh buyers", |b| {
        b.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                if rush.next + BATCH as u64 > stock {
                    rush = Rush::new(stock);
                }
                time += rush.run(BATCH as u64);
            }
            time
        });
    });
    let mut sold = Rush::new(BATCH as u64);
    sold.run(BATCH as u64);
    let (winners, others): (Vec<_>, Vec<_>) = (0..BATCH as u64).map(|n| (claim(n), claim(n + 1_000_000))).unzip();
    group.bench_function("tell 256 winners of their claims", |b| {
        b.iter(|| decide_batch(&mut sold.book, black_box(&winners), &mut Vec::new()));
    });
    group.bench_function("tell 256 strangers that it is sold out", |b| {
        b.iter(|| decide_batch(&mut sold.book, black_box(&others), &mut Vec::new()));
    });
    group.finish();
}

/// Throughput with many winners against none, in a book of the same capacity and in a small one.
fn with_many_winners(records: u64) {
    let sample = records / 10;
    let mut small = Rush::new(sample);
    let small = millions(sample, small.run(sample));
    figure("book.rate_small", small, &format!("M/s, a book of {sample}, empty at first"));
    let mut rush = Rush::new(records * 2);
    let empty = millions(sample, rush.run(sample));
    figure("book.rate_empty", empty, &format!("M/s, a book of {}, empty at first", records * 2));
    rush.run(records - sample);
    let many = millions(sample, rush.run(sample));
    figure("book.rate_many", many, &format!("M/s, the same with {records} winners"));
    figure("book.ratio_many_to_empty", many / empty, "(target 0.9)");
    figure("book.ratio_many_to_small", many / small, "");
    result_hash("book.many", rush.hash);
}

/// A sold-out book: bytes a winner, and the rate at its fullest.
fn sold_out(records: u64) {
    let before = resident();
    let mut rush = Rush::new(records);
    rush.run(records - records / 10);
    let full = millions(records / 10, rush.run(records / 10));
    figure("book.rate_last_tenth", full, "M/s, the last tenth before it is sold out");
    figure("book.winner_resident", (resident() - before) as f64 / records as f64, "B a winner (target 48)");
    let computed = Winners::bytes_for(Units(records), false, false) as f64 / records as f64;
    figure("book.winner_computed", computed, "B a winner");
    assert_eq!(rush.book.campaigns()[0].free, Units(0));
    result_hash("book.sold_out", rush.hash);
}

/// Entries that wait for the database: bytes each.
fn waiting(records: u64, batch: u64) {
    let count = records / 10;
    let rush = Rush::new(count);
    let mut hash = 0;
    let before = resident();
    let pending = Pending::new(Seq(1));
    let mut body = Vec::new();
    for first in (0..count).step_by(batch as usize) {
        let size = batch.min(count - first);
        body.clear();
        for n in first..first + size {
            let command = claim(n);
            let verdict = rush.book.decide(NOW, Durability::Disk, &command);
            let forebay::queue::book::Verdict::Accept(mut claim) = verdict else { panic!("refused") };
            claim.seq = Seq(n + 2);
            codec::encode(&mut body, &Event::Claimed(claim));
        }
        let context =
            FrameContext { first_seq: Seq(first + 2), at: NOW.plus_micros(first as i64), durability: Durability::Disk };
        pending.publish(&body, size as u32, &context, &[]);
        hash = crc32c::crc32c_append(hash, &body);
    }
    let resident = (resident() - before) as f64 / count as f64;
    figure(
        &format!("pending.entry_resident_{batch}"),
        resident,
        &format!("B an entry, frames of {batch} (target 128)"),
    );
    figure(&format!("pending.entry_counted_{batch}"), pending.bytes() as f64 / count as f64, "B an entry");
    assert_eq!(pending.entries(), count);
    result_hash(&format!("pending.{batch}"), hash);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    // Memory first: what criterion allocates would count as reused room.
    for batch in [256, 16, 1] {
        waiting(records(), batch);
    }
    sold_out(records());
    with_many_winners(records());
    fresh_buyers(&mut criterion);
    criterion.final_summary();
}
