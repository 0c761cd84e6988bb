//! What `forebay doctor` measures, and from when on it warns.

use super::{ADMIN_CONNECTIONS_MAX, CONNECTIONS_MAX, FRAME_MAX, HEAD_MAX, SEGMENT_BYTES};

/// Seconds that `forebay doctor` measures for, unless it is told otherwise: a disk shows its outliers within thousands of
/// syncs, and nobody waits longer for an answer before a sale.
pub const DOCTOR_SECONDS: u64 = 10;

/// The most seconds that it may be told to.
pub const DOCTOR_SECONDS_MAX: u64 = 300;

/// Bytes of one sync that is measured: the smallest frame of the journal takes a page.
pub const DOCTOR_SYNC_BYTES: usize = 4_096;

/// Bytes of the zero-filled file that the syncs go into, over and over, as into a recycled segment.
pub const DOCTOR_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Syncs after which the disk is known: the 99th percentile rests on 200 of them.
pub const DOCTOR_SYNCS_MAX: usize = 20_000;

/// Claims in a batch that the doctor decides at a time: what 64 and 256 connections have under way, as in the figures of
/// docs/performance.md.
pub const DOCTOR_BATCHES: [usize; 2] = [64, 256];

/// Claims after which their rate is known, for each size of batch. Both together fill most of one journal segment.
pub const DOCTOR_CLAIMS_MAX: u64 = 400_000;

const _: () = assert!(2 * DOCTOR_CLAIMS_MAX * 64 + 4 * (FRAME_MAX as u64) <= SEGMENT_BYTES);

/// Winners whose memory is measured: 20 to 55 MB, which single pages and what an allocator rounds up do not blur.
pub const DOCTOR_WINNERS: u64 = 500_000;

/// Bytes that must be free on a disk before the doctor writes there: twice what it takes, so that it never takes the last
/// of a running server's.
pub const DOCTOR_FREE_MIN: u64 = 1024 * 1024 * 1024;

/// A median sync below this, in microseconds, has reached no disk: the fastest drives with a battery behind their cache
/// take about as long for the command alone.
pub const SYNC_SUSPECT_MICROS: u64 = 20;

/// A sync of this long at the 99th percentile, in milliseconds, is what buyers notice: a claim waits for up to two.
pub const SYNC_SLOW_MILLIS: u64 = 20;

/// A jump of the wall clock beside the monotone one, in milliseconds, that is told. Both are slewed alike, so anything but
/// the delay between two looks is a step.
pub const CLOCK_STEP_MILLIS: u64 = 5;

/// A jump, in milliseconds, that moves the opening of a sale visibly.
pub const CLOCK_JUMP_MILLIS: u64 = 1_000;

/// Files that the server may have open at the peak: all connections of both listeners, and a thousand for journal,
/// database and sockets that are being closed.
pub const OPEN_FILES_NEEDED: u64 = CONNECTIONS_MAX + ADMIN_CONNECTIONS_MAX + 1_000;

/// Bytes that a waiting entry may take in memory: with a buyer's name of 64 bytes, a key and an amount, in small frames.
pub const WAITING_ENTRY_BYTES: u64 = 128;

/// Bytes that a busy connection takes in memory: its read buffer and its request.
pub const CONNECTION_BYTES: u64 = HEAD_MAX as u64 + 8 * 1024;

/// Empty calls of Redis whose round trip is measured: some dozens show the outliers of a network, and take no time.
pub const DOCTOR_PINGS: usize = 50;

/// Claims in one call of Redis, as a gate under load sends them.
pub const DOCTOR_CALL: usize = 64;

/// Claims after which Redis is known, each of the two kinds. They take it some 50 MB, one kind after the other.
pub const DOCTOR_REDIS_CLAIMS_MAX: u64 = 100_000;

/// Claims at least, however long that takes: fewer would be kept in another, denser form than those of a sale.
pub const DOCTOR_REDIS_CLAIMS_MIN: u64 = 2_048;

/// Bytes that Redis must have free below what counts as full before the doctor writes there: twice what it takes.
pub const DOCTOR_REDIS_FREE_MIN: u64 = 128 * 1024 * 1024;

/// How long an answer of Redis' is waited for, in milliseconds: a slow one is to be measured and not to be missed.
pub const DOCTOR_REDIS_PATIENCE_MILLIS: u64 = 10_000;

/// After how long Redis itself removes what a killed doctor has left there, in milliseconds: twice the longest run.
pub const DOCTOR_REDIS_EXPIRY_MILLIS: u64 = 2 * DOCTOR_SECONDS_MAX * 1_000;

/// A round trip to Redis above this in the median, in microseconds, is one to another building: buyers wait for it, and a lane
/// stands still for as long.
pub const REDIS_FAR_MICROS: u64 = 2_000;

/// The part of its machine's memory, in percent, that Redis' `maxmemory` should stay below: the rest is for rewriting its file,
/// which copies the pages that are written meanwhile, and for what `maxmemory` does not count.
pub const REDIS_MACHINE_PERCENT: u64 = 75;
