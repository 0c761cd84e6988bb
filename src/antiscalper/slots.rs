//! Rate-limit state in fixed memory: a [`StateStore`] for governor that never grows, however many keys attack it.
//!
//! One `AtomicU64` a key: 24 bits of tag and the theoretical arrival time (TAT) in 40 bits of ticks of 1,024 ns. Eight
//! slots are a bucket, and a bucket is one cache line, so a check costs one cache miss. Nothing is allocated after
//! [`BoundedStore::new`], which also touches the memory, so that no page fault waits in the first minute of a sale.
//!
//! - **Time comes from governor's own closure.** `measure_and_replace` is not told the time, but `f(None)` is what a
//!   fresh key would get: its new TAT is `now + t`, a point in time as good as `now`. So the store needs no clock, and
//!   can never disagree with the decision about what time it is. The closure is pure and inlined: asking twice is cheap.
//! - **Eviction.** A full bucket gives up the slot with the smallest TAT. That is a fully replenished one (TAT in the
//!   past) wherever there is one, which costs nobody anything and is not counted: the closure could not tell it from a
//!   fresh key. Otherwise it is the key that has taken least: evicting a punished key would reset it, and a punished
//!   key has the largest TAT. A flood of new keys thus evicts itself.
//! - **Rounding.** TATs are rounded up to a tick: never more than the burst, never stricter than one tick. With clock
//!   and quota on the grid of ticks, as [`super::rates`] has them, nothing is rounded at all.
//! - **Wrap-around.** 40 bits of ticks are 13 days. A TAT is read as the point nearest to now, which is right within 6.5
//!   days; a sweep every 39 hours pulls what lies further back up to the recent past. Quotas must replenish within
//!   `STALE_TICKS` (19 hours); the longest that can be configured is an hour.
//! - **Collisions.** Two keys that meet in a bucket and in the tag share a quota: with a full store 8 in 2^24 of the
//!   keys. The key is a keyed hash, so that nobody can choose to collide.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use governor::nanos::Nanos;
use governor::state::StateStore;

/// Nanoseconds of one tick.
pub const TICK_NANOS: u64 = 1 << 10;

const TAT_BITS: u32 = 40;
const TAT_MASK: u64 = (1 << TAT_BITS) - 1;
const WAYS: usize = 8;

/// Ticks between two sweeps, as a power of two: an eighth of the circle (39 hours).
const GENERATION_BITS: u32 = TAT_BITS - 3;

/// Ticks before now beyond which a sweep calls a TAT stale (19 hours).
const STALE_TICKS: u64 = 1 << (GENERATION_BITS - 1);

/// What is not stale after a sweep is still read rightly three generations later, the latest moment of the next sweep.
const _: () = assert!(STALE_TICKS + (3 << GENERATION_BITS) < 1 << (TAT_BITS - 1));

/// Buckets looked at to estimate how many slots are occupied: 256 KiB, which a scrape may read.
const SAMPLE_BUCKETS: usize = 4_096;

/// Eight slots, one cache line. A word of 0 is an empty slot.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

const _: () = assert!(size_of::<Bucket>() == 64);

/// What a write replaced, so that it can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    bucket: usize,
    way: usize,
    before: u64,
    after: u64,
}

thread_local! {
    /// The last write of this thread. It leaves through here because governor's interface has no room for it.
    static LAST_WRITE: Cell<Written> = const { Cell::new(Written { bucket: 0, way: 0, before: 0, after: 0 }) };
}

#[derive(Debug)]
struct Slots {
    buckets: Box<[Bucket]>,
    /// The generation of the last sweep; read by every check, written every 39 hours.
    generation: CachePadded<AtomicU64>,
    evictions: CachePadded<AtomicU64>,
}

/// The store; a clone is another handle to the same slots.
#[derive(Debug, Clone)]
pub struct BoundedStore(Arc<Slots>);

/// The same slots, never written: governor's answer of what *would* happen.
#[derive(Debug)]
pub struct ReadOnly(Arc<Slots>);

impl BoundedStore {
    /// Room for `max_keys` keys, rounded up to a whole bucket of 8: 8 bytes a key. At least one bucket.
    pub fn new(max_keys: usize) -> Self {
        let count = max_keys.div_ceil(WAYS).clamp(1, u32::MAX as usize);
        let buckets = (0..count).map(|_| Bucket::default()).collect();
        Self(Arc::new(Slots { buckets, generation: CachePadded::default(), evictions: CachePadded::default() }))
    }

    /// A view for a limiter that only looks.
    pub fn read_only(&self) -> ReadOnly {
        ReadOnly(Arc::clone(&self.0))
    }

    /// Keys there is room for.
    pub fn capacity(&self) -> usize {
        self.0.buckets.len() * WAYS
    }

    /// Occupied slots, replenished keys that nobody has displaced yet included: exact up to 32,768 slots, beyond that
    /// estimated from as many, evenly spread.
    pub fn len(&self) -> usize {
        let buckets = &self.0.buckets;
        let stride = buckets.len().div_ceil(SAMPLE_BUCKETS);
        let sampled = buckets.len().div_ceil(stride);
        let occupied = buckets.iter().step_by(stride).map(Bucket::occupied).sum::<usize>();
        occupied * buckets.len() / sampled
    }

    /// Whether no key was ever admitted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys that lost their state although they had not replenished, since the start.
    pub fn evictions(&self) -> u64 {
        self.0.evictions.load(Ordering::Relaxed)
    }

    /// What this thread's last successful `measure_and_replace` wrote (in whichever store it was).
    pub fn last_write() -> Written {
        LAST_WRITE.get()
    }

    /// Takes a write to this store back, unless the slot has changed since: then the unit stays taken, because giving
    /// it back could let one more than the burst through.
    pub fn undo(&self, written: Written) {
        self.0.buckets[written.bucket].swap(written.way, written.after, written.before);
    }
}

impl StateStore for BoundedStore {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let fresh = f(None)?.1;
        let horizon = ticks(fresh);
        self.0.sweep_if_due(horizon);
        let (index, tag) = self.0.locate(*key);
        let bucket = &self.0.buckets[index];
        loop {
            let words = bucket.load();
            let found = find(&words, tag);
            let way = found.unwrap_or_else(|| victim(&words, horizon));
            let before = words[way];
            let (value, next) = f(found.map(|_| unpack(before, horizon)))?;
            let after = pack(tag, next);
            if !bucket.swap(way, before, after) {
                continue;
            }
            if found.is_none() {
                // Two threads may have brought the same key into two slots. Every swap and load is sequentially
                // consistent, so at least one of them sees the other here, and steps back.
                if bucket.has_twin(tag, way) && bucket.swap(way, after, before) {
                    continue;
                }
                let replenished = before == 0 || matches!(f(Some(unpack(before, horizon))), Ok((_, n)) if n == fresh);
                if !replenished {
                    self.0.evictions.fetch_add(1, Ordering::Relaxed);
                }
            }
            LAST_WRITE.set(Written { bucket: index, way, before, after });
            return Ok(value);
        }
    }
}

impl StateStore for ReadOnly {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let horizon = ticks(f(None)?.1);
        self.0.sweep_if_due(horizon);
        let (index, tag) = self.0.locate(*key);
        let words = self.0.buckets[index].load();
        f(find(&words, tag).map(|way| unpack(words[way], horizon))).map(|(value, _)| value)
    }
}

impl Slots {
    /// The bucket and the tag of a key: from bits that do not overlap. A tag is never 0, so that no word of a key is.
    fn locate(&self, key: u64) -> (usize, u64) {
        let index = ((key & u64::from(u32::MAX)) * self.buckets.len() as u64) >> 32;
        (index as usize, (key >> TAT_BITS).max(1))
    }

    fn sweep_if_due(&self, horizon: u64) {
        let generation = horizon >> GENERATION_BITS;
        let swept = self.generation.load(Ordering::Relaxed);
        if generation > swept {
            self.sweep(swept, generation, horizon);
        }
    }

    /// Pulls every stale TAT up to [`STALE_TICKS`] before now: as replenished as before, and never mistaken for one
    /// ahead. After three generations without a single check every TAT is that old, and can no longer be read.
    #[cold]
    fn sweep(&self, swept: u64, generation: u64, horizon: u64) {
        if self.generation.compare_exchange(swept, generation, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return; // another thread does it
        }
        let stale = -(STALE_TICKS as i64);
        for bucket in &self.buckets {
            for (way, word) in bucket.load().into_iter().enumerate() {
                if word != 0 && (generation - swept >= 3 || offset(word, horizon) < stale) {
                    let pulled = word & !TAT_MASK | horizon.wrapping_sub(STALE_TICKS) & TAT_MASK;
                    bucket.swap(way, word, pulled); // a slot that changed meanwhile is not stale
                }
            }
        }
    }
}

impl Bucket {
    fn load(&self) -> [u64; WAYS] {
        std::array::from_fn(|way| self.0[way].load(Ordering::SeqCst))
    }

    fn swap(&self, way: usize, before: u64, after: u64) -> bool {
        self.0[way].compare_exchange(before, after, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn has_twin(&self, tag: u64, way: usize) -> bool {
        tagged(&self.load(), tag) & !(1 << way) != 0
    }

    fn occupied(&self) -> usize {
        self.0.iter().filter(|word| word.load(Ordering::Relaxed) != 0).count()
    }
}

/// The slot of a tag. Without branches, as is [`victim`]: where a key lies is random, and every wrong guess of the
/// processor costs as much as the eight comparisons.
fn find(words: &[u64; WAYS], tag: u64) -> Option<usize> {
    let hits = tagged(words, tag);
    (hits != 0).then(|| hits.trailing_zeros() as usize)
}

/// A bit for each slot with the tag.
fn tagged(words: &[u64; WAYS], tag: u64) -> u32 {
    (0..WAYS).fold(0, |hits, way| hits | u32::from(words[way] >> TAT_BITS == tag) << way)
}

/// The first empty slot, otherwise the one with the smallest TAT: the minimum of TAT and place in one number, the TAT
/// counted from the far side of the circle.
fn victim(words: &[u64; WAYS], horizon: u64) -> usize {
    let behind = horizon.wrapping_sub(1 << (TAT_BITS - 1));
    let rank = |way: usize| {
        let age = words[way].wrapping_sub(behind) & TAT_MASK;
        let occupied = u64::from(words[way] != 0).wrapping_neg();
        ((age + 1) & occupied) * WAYS as u64 + way as u64
    };
    let least = (1..WAYS).fold(rank(0), |least, way| least.min(rank(way)));
    (least % WAYS as u64) as usize
}

/// Ticks from the horizon to the slot's TAT: the way around the circle that is shorter.
fn offset(word: u64, horizon: u64) -> i64 {
    const UNUSED: u32 = u64::BITS - TAT_BITS;
    (word.wrapping_sub(horizon) << UNUSED).cast_signed() >> UNUSED
}

fn unpack(word: u64, horizon: u64) -> Nanos {
    Nanos::from(horizon.saturating_add_signed(offset(word, horizon)).saturating_mul(TICK_NANOS))
}

fn pack(tag: u64, tat: Nanos) -> u64 {
    tag << TAT_BITS | ticks(tat) & TAT_MASK
}

fn ticks(time: Nanos) -> u64 {
    time.as_u64().div_ceil(TICK_NANOS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 100;

    /// GCRA as governor computes it, in ticks: a unit each `T` ticks, `burst` at once.
    fn take(store: &BoundedStore, key: u64, now: u64, burst: u64) -> bool {
        store.measure_and_replace(&key, gcra(now, burst)).is_ok()
    }

    fn gcra(now: u64, burst: u64) -> impl Fn(Option<Nanos>) -> Result<((), Nanos), ()> {
        move |tat| {
            let tat = tat.map_or(now, |tat| tat.as_u64() / TICK_NANOS);
            if now < tat.saturating_sub(T * (burst - 1)) {
                Err(())
            } else {
                Ok(((), ((tat.max(now) + T) * TICK_NANOS).into()))
            }
        }
    }

    fn key(tag: u64) -> u64 {
        tag << TAT_BITS // bucket 0
    }

    #[test]
    fn a_full_bucket_gives_up_the_key_that_took_least() {
        let store = BoundedStore::new(8);
        assert_eq!(store.capacity(), 8);
        for tag in 1..=8 {
            let units = if tag == 5 { 1 } else { 2 + tag % 2 };
            assert!((0..units).all(|_| take(&store, key(tag), 1_000, 10)));
        }
        assert_eq!((store.len(), store.evictions()), (8, 0));
        assert!(take(&store, key(9), 1_000, 1));
        assert_eq!((store.len(), store.evictions()), (8, 1));
        let kept = |tag| find(&store.0.buckets[0].load(), tag).is_some();
        assert!((1..=9).all(|tag| kept(tag) == (tag != 5)));
    }

    #[test]
    fn a_replenished_key_makes_room_and_is_not_counted() {
        let store = BoundedStore::new(8);
        assert!((1..=8).all(|tag| take(&store, key(tag), 1_000, 1)));
        assert!((9..=16).all(|tag| take(&store, key(tag), 1_000 + T, 1)));
        assert_eq!((store.len(), store.evictions()), (8, 0));
        assert!(take(&store, key(17), 1_000 + 2 * T - 1, 1));
        assert_eq!(store.evictions(), 1);
    }

    #[test]
    fn times_stay_right_across_the_wrap_of_the_ticks_and_any_silence() {
        let hour = 3_600_000_000_000 / TICK_NANOS;
        for silence in [hour, 30 * hour, 100 * hour, 312 * hour, 313 * hour, 1_000 * hour, 10_000 * hour] {
            let store = BoundedStore::new(64);
            let mut now = 5;
            for _ in 0..60 {
                for tag in 1..=3 {
                    assert!(take(&store, key(tag), now, 2) && take(&store, key(tag), now, 2), "{silence} at {now}");
                    assert!(!take(&store, key(tag), now, 2), "{silence} at {now}");
                    assert!(take(&store, key(tag), now + T, 2), "{silence} at {now}");
                }
                now += silence;
            }
            assert_eq!(store.evictions(), 0);
        }
    }

    #[test]
    fn a_key_that_slept_for_any_time_is_as_fresh_as_a_new_one_while_others_are_busy() {
        let hour = 3_600_000_000_000 / TICK_NANOS;
        for sleep in (1..800).step_by(7) {
            let store = BoundedStore::new(8);
            assert!(take(&store, key(1), 0, 1));
            (1..=sleep).for_each(|h| assert!(take(&store, key(2), h * hour, 1)));
            assert!(take(&store, key(1), sleep * hour, 1), "after {sleep} hours");
        }
    }

    #[test]
    fn an_undone_write_leaves_the_slot_as_it_was_unless_it_moved_on() {
        let store = BoundedStore::new(8);
        assert!(take(&store, key(1), 0, 3));
        assert!(take(&store, key(1), 0, 3));
        store.undo(BoundedStore::last_write());
        assert!(take(&store, key(1), 0, 3));
        let second = BoundedStore::last_write();
        assert!(take(&store, key(1), 0, 3));
        store.undo(second);
        assert!(!take(&store, key(1), 0, 3));
    }

    #[test]
    fn a_key_brought_into_two_slots_at_once_keeps_one() {
        let store = BoundedStore::new(8);
        let calls = Cell::new(0);
        let raced = |tat: Option<Nanos>| {
            // The second call comes after the bucket was read and before it is written: here the other thread strikes.
            if calls.replace(calls.get() + 1) == 1 {
                store.0.buckets[0].0[3].store(pack(7, (T * TICK_NANOS).into()), Ordering::SeqCst);
            }
            gcra(0, 2)(tat)
        };
        assert!(store.measure_and_replace(&key(7), raced).is_ok());
        assert_eq!(store.len(), 1);
        assert!(!take(&store, key(7), 0, 2), "both units are taken");
    }

    #[test]
    fn looking_takes_nothing() {
        let store = BoundedStore::new(8);
        let view = store.read_only();
        assert!((0..5).all(|_| view.measure_and_replace(&key(1), gcra(0, 1)).is_ok()));
        assert!(store.is_empty());
        assert!(take(&store, key(1), 0, 1));
        assert!(view.measure_and_replace(&key(1), gcra(0, 1)).is_err());
    }

    #[test]
    fn an_off_grid_time_is_rounded_towards_refusing_by_less_than_a_tick() {
        for nanos in [0, 1, 1_023, 1_024, 1_025, 987_654_321] {
            let read = unpack(pack(7, nanos.into()), ticks(nanos.into())).as_u64();
            assert!(read >= nanos && read - nanos < TICK_NANOS, "{nanos} became {read}");
        }
    }
}
