//! Numbers that the engine counts while it runs: plain atomics, one line at the call site. How they look to a scraper is
//! the admin listener's business.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::pulse::Pulses;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Nothing counted yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

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

/// Threads that count apart from each other; a further one shares the numbers of one of them, which costs time alone.
pub const SHARDS: usize = 32;

/// Kinds of answers that are told apart, at most.
pub const ANSWERS: usize = 48;

/// Counters that every request moves. Each thread has a set of its own, on cache lines that no other writes: one set would
/// go from core to core with every answer.
#[derive(Debug, Default)]
pub struct Answers {
    shards: [Shard; SHARDS],
    next: AtomicUsize,
}

#[derive(Debug)]
#[repr(align(128))]
struct Shard([Counter; ANSWERS]);

impl Default for Shard {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Answers {
    /// A set for a thread that is about to count.
    pub fn shard(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % SHARDS
    }

    /// Counts an answer of `kind`, below [`ANSWERS`].
    pub fn count(&self, shard: usize, kind: usize) {
        self.shards[shard].0[kind].add(1);
    }

    /// How many there were of `kind`, all threads together.
    pub fn sum(&self, kind: usize) -> u64 {
        self.shards.iter().map(|shard| shard.0[kind].get()).sum()
    }
}

/// Lines of the log since the process began. The log is the process's and so are they.
#[derive(Debug)]
pub struct Logged {
    /// Something is wrong: somebody has to look.
    pub errors: Counter,
    /// Something is not as it should be, and is dealt with.
    pub warnings: Counter,
}

/// See [`Logged`].
pub static LOGGED: Logged = Logged { errors: Counter::new(), warnings: Counter::new() };

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
    /// The threads that the node can't do without, and whether they turn.
    pub pulses: Pulses,
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
    /// Connections of the public listener that were let in.
    pub connections_opened: Counter,
    /// Those of them that were ended because the other side was too slow, by what it was slow at, in the order of the front
    /// end's own table.
    pub connections_cut: [Counter; 4],
    /// How often a listener had to wait because the process had no descriptor or memory for another connection.
    pub accept_pauses: Counter,
    /// How often a front-end thread rested, to leave its core to a drain that is far behind.
    pub ingest_rests: Counter,
    /// Answers by listener and status, in the order of the front end's own table.
    pub answers: Answers,
    /// Entries of a gate's own journal that are not known to be in the database.
    pub kept_entries: Gauge,
    /// Bytes that Redis uses, as of the last look.
    pub redis_used: Gauge,
    /// Bytes that Redis may use; 0 where it may use all there are, and before the first look.
    pub redis_max: Gauge,
    /// Connections that were turned away: because there were too many, and because their address had its share.
    pub connections_refused: [Counter; 2],
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
            pulses: Pulses::default(),
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
            connections_opened: Counter::default(),
            connections_cut: Default::default(),
            accept_pauses: Counter::default(),
            ingest_rests: Counter::default(),
            answers: Answers::default(),
            kept_entries: Gauge::default(),
            redis_used: Gauge::default(),
            redis_max: Gauge::default(),
            connections_refused: Default::default(),
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
    fn threads_count_answers_apart_and_the_sum_has_all() {
        let answers = Answers::default();
        let shards: Vec<_> = (0..=SHARDS).map(|_| answers.shard()).collect();
        assert_eq!((shards[0], shards[1], shards[SHARDS]), (0, 1, 0), "one thread too many shares the first's");
        std::thread::scope(|scope| {
            for shard in &shards {
                scope.spawn(|| (0..1_000).for_each(|_| answers.count(*shard, 3)));
            }
        });
        assert_eq!((answers.sum(3), answers.sum(4)), (1_000 * (SHARDS as u64 + 1), 0));
        assert_eq!(align_of::<Shard>() % 128, 0);
    }

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
