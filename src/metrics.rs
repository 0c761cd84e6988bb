//! Numbers that the engine counts while it runs: plain atomics, one line at the call site. How they look to a scraper is
//! the admin listener's business.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that is set.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets a histogram has besides the last, unbounded one.
pub const BUCKETS: usize = 16;

/// A histogram with doubling buckets: the first holds what is at most `first`, each next one twice as much.
#[derive(Debug)]
pub struct Histogram {
    first: u64,
    buckets: [AtomicU64; BUCKETS + 1],
    sum: AtomicU64,
}

impl Histogram {
    /// A histogram whose first bucket ends at `first`, at least 1.
    pub fn new(first: u64) -> Self {
        Self { first, buckets: Default::default(), sum: AtomicU64::new(0) }
    }

    /// Counts one value.
    pub fn observe(&self, value: u64) {
        let steps = value.div_ceil(self.first).max(1).next_power_of_two().trailing_zeros() as usize;
        self.buckets[steps.min(BUCKETS)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a duration in nanoseconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The upper bound and the count of each bucket, the unbounded one last with bound `u64::MAX`; and the sum.
    pub fn read(&self) -> (Vec<(u64, u64)>, u64) {
        let bound = |i: usize| if i == BUCKETS { u64::MAX } else { self.first << i };
        let buckets = self.buckets.iter().enumerate().map(|(i, b)| (bound(i), b.load(Ordering::Relaxed)));
        (buckets.collect(), self.sum.load(Ordering::Relaxed))
    }
}

/// Answers of a level of the caches.
#[derive(Debug, Default)]
pub struct CacheCounts {
    /// It had what was asked for.
    pub hits: Counter,
    /// It had nothing, or nothing that could be used.
    pub misses: Counter,
    /// It could not be asked.
    pub away: Counter,
}

/// Everything that is counted, apart from what belongs to one campaign.
#[derive(Debug)]
pub struct Metrics {
    /// From the claim's submission to its outcome's arrival at the front end, nanoseconds.
    pub ack: Histogram,
    /// Entries a journal write.
    pub commit_entries: Histogram,
    /// One sync of the journal, nanoseconds.
    pub journal_sync: Histogram,
    /// Bytes written to the journal.
    pub journal_bytes: Counter,
    /// Bytes of the journal's segments on disk.
    pub journal_disk_bytes: Gauge,
    /// Rows that a commit put into the database.
    pub drain_rows: Counter,
    /// One batch's transaction, nanoseconds.
    pub drain_batch: Histogram,
    /// Batches that had to be tried again.
    pub drain_retries: Counter,
    /// Rows in the dead letters.
    pub dead_letters: Gauge,
    /// Open connections of the public listener.
    pub connections: Gauge,
    /// Answers of the local cache: found, and not.
    pub cache_hits: Counter,
    /// See [`Self::cache_hits`].
    pub cache_misses: Counter,
    /// Answers of the cache in Redis.
    pub cache_redis: CacheCounts,
    /// Answers of the database to whom no cache could answer: answers, and failures as misses.
    pub cache_database: CacheCounts,
    /// Seconds by which the clock is behind the journal's time; 0 where it is not.
    pub clock_behind: Gauge,
    /// Seconds by which the wall clock has leapt, while no reservation expires for it.
    pub clock_leapt: Gauge,
    /// 1 while nothing can be made durable.
    pub fenced: Gauge,
    /// Requests and claims of batches that were refused, by problem type, in the order of the front end's own table.
    pub refusals: [Counter; 32],
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            ack: Histogram::new(50_000),
            commit_entries: Histogram::new(1),
            journal_sync: Histogram::new(25_000),
            journal_bytes: Counter::default(),
            journal_disk_bytes: Gauge::default(),
            drain_rows: Counter::default(),
            drain_batch: Histogram::new(250_000),
            drain_retries: Counter::default(),
            dead_letters: Gauge::default(),
            connections: Gauge::default(),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            cache_redis: CacheCounts::default(),
            cache_database: CacheCounts::default(),
            clock_behind: Gauge::default(),
            clock_leapt: Gauge::default(),
            fenced: Gauge::default(),
            refusals: Default::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lands_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(10);
        for (value, bound) in
            [(0, 10), (10, 10), (11, 20), (20, 20), (21, 40), (10 << 15, 10 << 15), (u64::MAX >> 2, u64::MAX)]
        {
            let before = histogram.read().0;
            histogram.observe(value);
            let after = histogram.read().0;
            let grown: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).map(|(_, b)| b.0).collect();
            assert_eq!(grown, [bound], "{value}");
        }
    }
}
