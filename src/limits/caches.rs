//! Limits of the caches of shared mode, and of what gates hear of the rows that workers write.

/// Entries that one message tells of: 10 KB, which a gate goes through in some 0.1 ms.
pub const TOUCHED_MAX: usize = 2_000;

/// How often the thread that hears messages looks whether it is to end, in milliseconds.
pub const NEWS_LOOK_MILLIS: u64 = 200;

/// How long nothing may be heard while entries are known to be retired before the connection counts as dead, in
/// milliseconds: a cut cable says nothing, and a gate that hears nothing reads everything anew with every batch.
pub const NEWS_DEAF_MILLIS: u64 = 2_000;

/// The pause between two attempts to hear, in milliseconds.
pub const NEWS_RETRY_MILLIS: u64 = 500;

/// How long a read waits for the cache in Redis, in milliseconds: a row is there within a few, so that a Redis that is slower
/// than this is of no use to a reader.
pub const CACHE_REDIS_MILLIS: u64 = 50;

/// For how long the cache in Redis is left alone after it failed or was too slow, in milliseconds.
pub const CACHE_PAUSE_MILLIS: u64 = 1_000;

/// Questions that may wait for the cache in Redis; beyond it the database is asked.
pub const CACHE_ASKS_MAX: usize = 4_096;

/// Questions of one call: with values of a claim's size 20 KB, for which Redis does nothing else for some 50 µs; with pages of the
/// largest size 3 MB.
pub const CACHE_AT_ONCE: usize = 64;

/// Bytes of the largest value that is kept in Redis: a page of 101 claims with long names.
pub const CACHE_VALUE_MAX: usize = 48 * 1024;

/// Bytes that a gate writes into the cache in Redis in one lifetime of what it writes (`cache.redis_ttl`), keys and Redis' own
/// [`CACHE_VALUE_OVERHEAD`] included. So it never holds more than twice this of a gate's, whoever asks for what: forty
/// thousand claims, and a hundredth of a Redis of 2 GiB.
pub const CACHE_WRITTEN_MAX: usize = 8 * 1024 * 1024;

/// What a key costs Redis besides its name and its value, in bytes: the entries of two tables, and two headers.
pub const CACHE_VALUE_OVERHEAD: usize = 128;

/// From which part of its `maxmemory` on nothing is written into the cache in Redis: long before claims are refused.
pub const CACHE_MEMORY_PERCENT: u64 = 75;

const _: () = assert!(CACHE_VALUE_MAX * 8 <= CACHE_WRITTEN_MAX);
const _: () = assert!(CACHE_MEMORY_PERCENT < super::MEMORY_FULL_PERCENT);
