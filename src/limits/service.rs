//! Limits of what a service manager is told.

use super::{IDLE_MARK_MILLIS, WORK_BEAT_MILLIS};

/// For how long a thread whose loop comes round by itself may stand still, in milliseconds: the longest of them rests for
/// [`IDLE_MARK_MILLIS`], the drain has the lowest priority beside a busy core. Half of the manager's own `WatchdogSec` counts
/// where that is longer.
pub const PULSE_MILLIS: u64 = 3_000;
const _: () = assert!(PULSE_MILLIS >= 2 * IDLE_MARK_MILLIS);

/// The same for threads that talk to Redis, in milliseconds. Between two counts lies at most one attempt to connect, to resolve
/// the name first (the resolver's usual two rounds of two servers take 20 s), and an answer of at most `redis.timeout`, 30 s.
pub const PULSE_REDIS_MILLIS: u64 = 90_000;

/// The same for the worker of shared mode, in milliseconds: it may wait for the database, but never for longer than this.
pub const PULSE_WORKER_MILLIS: u64 = WORK_BEAT_MILLIS;

/// How often a thread that only drives tasks counts, in milliseconds.
pub const PULSE_TICK_MILLIS: u64 = 500;
const _: () = assert!(PULSE_TICK_MILLIS * 2 < PULSE_MILLIS);

/// How often threads are looked at, and the manager is told, in milliseconds, and the least: a quarter of `WatchdogSec`
/// where that is between them.
pub const SERVICE_TELL_MILLIS: (u64, u64) = (50, 2_000);

/// For how much longer a start or a stop asks the manager each time, in milliseconds: several looks, so that a busy machine
/// misses none.
pub const SERVICE_EXTEND_MILLIS: u64 = 30_000;
const _: () = assert!(SERVICE_EXTEND_MILLIS >= 10 * SERVICE_TELL_MILLIS.1);

/// What a stop may take beyond its graces, in milliseconds: a snapshot that is being written is finished.
pub const SERVICE_STOP_SLACK_MILLIS: u64 = 60_000;
