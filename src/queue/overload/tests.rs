//! The meter beside buffers on paper, in simulated time: what is let in, how long that takes, and what is refused.

use super::*;

/// A buffer that takes up to `batch` commands at a time with each of its `lanes`; a batch takes `fixed` and `each` command of it
/// adds to that. Where lanes share what each command costs, as all of a gate share one Redis, only the fixed part overlaps.
#[derive(Clone, Copy)]
struct Paper {
    batch: usize,
    lanes: usize,
    fixed: u64,
    each: u64,
}

impl Paper {
    fn floor(self) -> usize {
        if self.batch == limits::LANE_BATCH_MAX { limits::OVERLOAD_LANES_FLOOR } else { limits::BATCH_MAX }
    }

    /// Commands a second.
    fn capacity(self) -> f64 {
        let full = self.batch as f64;
        let alone = full / (self.fixed as f64 + full * self.each as f64) * self.lanes as f64;
        alone.min(1.0 / self.each as f64) * 1e6
    }
}

#[derive(Default)]
struct Seen {
    /// From submitted to answered, microseconds.
    waits: Vec<u64>,
    refused: usize,
}

impl Seen {
    fn quantile(&mut self, q: f64) -> u64 {
        self.waits.sort_unstable();
        self.waits[((self.waits.len() - 1) as f64 * q) as usize]
    }
}

/// A batch that is on its way: until and since when, when its commands were submitted, and whether it is a probe's.
#[derive(Clone)]
struct Batch {
    until: u64,
    since: u64,
    submitted: Vec<u64>,
    is_probe: bool,
}

/// Time in microseconds, in steps of one.
struct Run {
    paper: Paper,
    meter: Meter,
    start: Instant,
    now: u64,
    due: f64,
    queue: std::collections::VecDeque<u64>,
    lanes: Vec<Option<Batch>>,
    shared_until: u64,
    refused: bool,
}

impl Run {
    fn new(paper: Paper) -> Self {
        Self {
            paper,
            meter: Meter::new(paper.floor()),
            start: tick(),
            now: 0,
            due: 0.0,
            queue: Default::default(),
            lanes: vec![None; paper.lanes],
            shared_until: 0,
            refused: false,
        }
    }

    fn under_way(&self) -> usize {
        self.queue.len() + self.lanes.iter().flatten().map(|batch| batch.submitted.len()).sum::<usize>()
    }

    /// Offers `rate` commands a second for `micros`.
    fn offer(&mut self, rate: f64, micros: u64) -> Seen {
        let mut seen = Seen::default();
        let end = self.now + micros;
        while self.now < end {
            self.due += rate / 1e6;
            while self.due >= 1.0 {
                self.due -= 1.0;
                if self.meter.most != FREE && self.under_way() >= self.meter.most {
                    self.refused = true;
                    seen.refused += 1;
                } else {
                    self.queue.push_back(self.now);
                }
            }
            for lane in 0..self.lanes.len() {
                self.work(lane, &mut seen);
            }
            self.now += 1;
        }
        seen
    }

    fn at(&self, micros: u64) -> Instant {
        self.start + Duration::from_micros(micros)
    }

    fn work(&mut self, lane: usize, seen: &mut Seen) {
        if let Some(batch) = self.lanes[lane].take_if(|batch| batch.until <= self.now) {
            seen.waits.extend(batch.submitted.iter().map(|submitted| batch.until - submitted));
            self.meter.answered(Duration::from_micros(batch.until - batch.since), batch.is_probe);
        }
        if self.lanes[lane].is_some() || self.queue.is_empty() {
            return;
        }
        let count = self.queue.len().min(self.paper.batch);
        let submitted: Vec<u64> = self.queue.drain(..count).collect();
        self.shared_until = self.shared_until.max(self.now) + count as u64 * self.paper.each;
        let until = self.shared_until + self.paper.fixed;
        self.lanes[lane] = Some(Batch { until, since: self.now, submitted, is_probe: false });
        let is_more = count == self.paper.batch && !self.queue.is_empty();
        let take =
            Take { taken: count, is_more, under_way: self.under_way(), refused: std::mem::take(&mut self.refused) };
        self.meter.took(self.at(self.now), take);
        if let Some(batch) = &mut self.lanes[lane] {
            batch.is_probe = self.meter.probe.is_some() && take.under_way <= self.meter.floor;
        }
    }
}

/// Slow and fast ones, bounded by what a command costs and by what a batch costs.
const BUFFERS: [(&str, Paper); 5] = [
    ("a sequencer on a fast disk", Paper { batch: 4_096, lanes: 1, fixed: 150, each: 2 }),
    ("a sequencer on a slow disk", Paper { batch: 4_096, lanes: 1, fixed: 40_000, each: 2 }),
    ("lanes to a Redis of their own", Paper { batch: 256, lanes: 2, fixed: 600, each: 10 }),
    ("lanes to a Redis that many gates use", Paper { batch: 256, lanes: 2, fixed: 1_000, each: 150 }),
    ("lanes to a Redis with a slow disk", Paper { batch: 256, lanes: 2, fixed: 30_000, each: 6 }),
];

const SECOND: u64 = 1_000_000;

#[test]
fn under_overload_all_that_can_be_decided_is_and_who_is_let_in_waits_no_longer_than_usual() {
    for (name, paper) in BUFFERS {
        let capacity = paper.capacity();
        let mut usual = Run::new(paper).offer(capacity * 0.8, 3 * SECOND);
        assert_eq!(usual.refused, 0, "{name}: at 0.8 of what it can do");
        let usual = usual.quantile(0.99);
        for factor in [1.5, 3.0, 10.0] {
            let mut run = Run::new(paper);
            run.offer(capacity * 0.5, SECOND);
            // The first second is the burst that it takes in.
            run.offer(capacity * factor, SECOND);
            let mut seen = run.offer(capacity * factor, 3 * SECOND);
            let goodput = seen.waits.len() as f64 / 3.0;
            assert!(goodput >= 0.9 * capacity, "{name}, {factor} times: {goodput} of {capacity} a second");
            assert!(seen.refused > 0, "{name}, {factor} times");
            let full = (paper.fixed + paper.batch as u64 * paper.each) * 2;
            let bound = (2 * usual).max(limits::OVERLOAD_TARGET_MILLIS * 2_000).max(full);
            let p99 = seen.quantile(0.99);
            assert!(p99 <= bound, "{name}, {factor} times: {p99} µs, usually {usual}, bound {bound}");
            // When it ends, it ends at once: as soon as what it had let in is decided, all that comes is taken.
            run.offer(capacity * 0.5, SECOND / 10);
            let after = run.offer(capacity * 0.5, SECOND);
            assert_eq!(after.refused, 0, "{name}, after {factor} times");
            run.offer(capacity * 0.5, SECOND);
            assert_eq!(run.meter.most, FREE, "{name}, after {factor} times");
        }
    }
}

#[test]
fn the_burst_of_an_opening_is_taken_in_whole() {
    for (name, paper) in BUFFERS {
        let capacity = paper.capacity();
        let mut run = Run::new(paper);
        run.offer(capacity * 0.2, SECOND);
        // Eighty milliseconds' work within twenty, out of nothing.
        let burst = run.offer(capacity * 4.0, 20_000);
        assert_eq!(burst.refused, 0, "{name}");
        assert_eq!(run.offer(capacity * 0.5, SECOND).refused, 0, "{name}");
    }
}

#[test]
fn what_stands_for_long_is_refused_also_where_little_more_comes_than_is_decided() {
    let (_, paper) = BUFFERS[2];
    let mut run = Run::new(paper);
    let seen = run.offer(paper.capacity() * 1.1, 5 * SECOND);
    assert!(seen.refused > 0);
    assert!(run.under_way() <= run.meter.bound());
}

#[test]
fn it_follows_a_buffer_that_becomes_slower_and_faster_again() {
    let (_, fast) = BUFFERS[2];
    let slow = Paper { each: 100, ..fast };
    let mut run = Run::new(fast);
    run.offer(fast.capacity() * 0.5, SECOND);
    run.paper = slow;
    run.offer(fast.capacity() * 0.5, 2 * SECOND);
    let mut seen = run.offer(fast.capacity() * 0.5, 2 * SECOND);
    assert!(seen.waits.len() as f64 / 2.0 >= 0.9 * slow.capacity());
    assert!(seen.quantile(0.99) <= 150_000, "{} µs", seen.quantile(0.99));
    run.paper = fast;
    run.offer(fast.capacity() * 0.5, SECOND);
    assert_eq!(run.offer(fast.capacity() * 0.5, SECOND).refused, 0);
}

/// A disk grows slow in the midst of it: what was under way at once before would leave it idle now, and less and less would be.
#[test]
fn it_follows_a_take_that_costs_more_and_less_again_while_too_much_is_asked() {
    for fixed in [10_000, 30_000, 80_000] {
        let (_, fast) = BUFFERS[2];
        let slow = Paper { fixed, ..fast };
        let mut run = Run::new(fast);
        run.offer(fast.capacity() * 3.0, 2 * SECOND);
        run.paper = slow;
        run.offer(fast.capacity() * 3.0, 2 * SECOND);
        let mut seen = run.offer(fast.capacity() * 3.0, 10 * SECOND);
        let goodput = seen.waits.len() as f64 / 10.0;
        assert!(goodput >= 0.9 * slow.capacity(), "{fixed}: {goodput} of {} a second", slow.capacity());
        assert!(seen.quantile(0.99) <= 5 * fixed, "{fixed}: {} µs", seen.quantile(0.99));
        run.paper = fast;
        run.offer(fast.capacity() * 3.0, 6 * SECOND);
        let mut seen = run.offer(fast.capacity() * 3.0, 4 * SECOND);
        assert!(seen.waits.len() as f64 / 4.0 >= 0.9 * fast.capacity());
        assert!(
            seen.quantile(0.99) <= limits::OVERLOAD_TARGET_MILLIS * 2_000,
            "{fixed}, and back: {} µs",
            seen.quantile(0.99)
        );
        run.offer(fast.capacity() * 0.5, SECOND / 10);
        assert_eq!(run.offer(fast.capacity() * 0.5, 2 * SECOND).refused, 0, "{fixed}, afterwards");
        assert_eq!(run.meter.most, FREE);
    }
}

#[test]
fn a_batch_that_is_not_answered_counts_as_under_way() {
    let overload = Arc::new(Overload::new(1));
    let first = overload.set_out(3, 0);
    assert_eq!(overload.taken(), 3);
    drop(overload.set_out(2, 0));
    assert_eq!(overload.taken(), 3);
    drop(first);
    assert_eq!(overload.taken(), 0);
    assert!(overload.admits(|| usize::MAX), "nothing stands, so nothing is refused");
    overload.most.store(10, Ordering::Relaxed);
    let taken = overload.set_out(0, 0);
    overload.most.store(10, Ordering::Relaxed);
    assert!(overload.admits(|| 9));
    assert!(!overload.admits(|| 10));
    drop(taken);
}

#[test]
fn one_stall_does_not_make_a_target_of_it() {
    let mut meter = Meter::new(64);
    for _ in 0..100 {
        meter.answered(Duration::from_millis(2), false);
    }
    meter.answered(Duration::from_secs(30), false);
    assert!(meter.target() < Duration::from_millis(60), "{:?}", meter.target());
    for _ in 0..100 {
        meter.answered(Duration::from_secs(30), false);
    }
    assert!(meter.target() <= BURST * 3, "{:?}", meter.target());
}
