//! Limits of shared mode's workers.

use super::{LETTER_PATIENCE_MILLIS, STORE_HANG_MILLIS};

/// Entries that a worker has read ahead of the database: 20 MB at most, and half a second of the fastest database, so that
/// it never waits for Redis. A backlog of any length beyond that stays in Redis.
pub const WORK_AHEAD_MAX: u64 = 65_536;

/// Batches that a worker reads ahead where that is less: more would only be read again by the next one after a takeover.
pub const WORK_AHEAD_BATCHES: u64 = 8;

/// Entries that are taken from Redis in one call: 200 KB, for which Redis does nothing else for half a millisecond.
pub const WORK_TAKE_MAX: u64 = 2_000;

/// How long a worker sleeps where there is nothing to do, in milliseconds: so much later an entry may reach the database.
pub const WORK_IDLE_MILLIS: u64 = 5;

/// The same where there has been nothing to do for a while, in milliseconds: each look costs Redis some 50 µs.
pub const WORK_REST_MILLIS: u64 = 20;

/// How often a worker looks for wishes of operators', in milliseconds.
pub const WORK_WISH_MILLIS: u64 = 50;

/// How long one that stands by sleeps between two attempts at the lease, in milliseconds: so long nobody may work after a
/// lease has ended.
pub const WORK_STANDBY_MILLIS: u64 = 100;

/// The pauses between attempts to reach Redis, in milliseconds: the first one, and the longest.
pub const WORK_RETRY_MILLIS: (u64, u64) = (20, 1_000);

/// How long a worker that needs somebody's help waits before it looks again, in milliseconds.
pub const WORK_STUCK_MILLIS: u64 = 5_000;

/// Milliseconds after which a lease is not prolonged any more because the worker's own thread does not move. It never waits
/// for the database for longer than this.
pub const WORK_BEAT_MILLIS: u64 = 2 * STORE_HANG_MILLIS;

/// Milliseconds without a batch, a refusal or an outage, while entries wait, after which a worker gives its lease up: the
/// database answers nothing at all, and another worker's connection may be better.
pub const WORK_HUNG_MILLIS: u64 = 2 * STORE_HANG_MILLIS;

/// How often a worker looks which gates have come and gone, in milliseconds. A gate's first claims wait for it.
pub const WORK_GATES_MILLIS: u64 = 200;

/// How often at most a worker says in the log that it can't, in milliseconds.
pub const WORK_TELL_MILLIS: u64 = 10_000;

/// Campaigns whose names are read in one call.
pub const WORK_NAMES_MAX: usize = 500;

/// For how long a cart stays in Redis after it is in the database and nobody uses it, in milliseconds.
pub const WORK_CART_MILLIS: u64 = 600_000;

/// Carts that are told of in one call.
pub const WORK_CARTS_MAX: usize = 500;

/// Wishes about dead letters that may wait for a worker; beyond it the gate answers that it is not available.
pub const WISHES_MAX: usize = 64;

/// Milliseconds that a gate waits for what became of a wish: the worker's own patience, and the way there and back.
pub const WISH_PATIENCE_MILLIS: u64 = LETTER_PATIENCE_MILLIS + 2_000;

/// Milliseconds that Redis' answer to a wait may come after the end of that wait.
pub const WISH_SLACK_MILLIS: u64 = 1_000;

/// How often carts of which nothing waits any more are told to Redis, in milliseconds.
pub const WORK_CARTS_MILLIS: u64 = 1_000;
