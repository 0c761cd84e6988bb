//! Limits of shared mode: a gate's dealings with Redis.

/// Commands of one call. At 6 µs for one that goes by itself a full call holds Redis for 1.5 ms, in which nothing else is done; in
/// bundles it is half of that.
pub const LANE_BATCH_MAX: usize = 256;

/// Lanes of a gate where the configuration says 0: one waits for Redis while the other waits for the disk.
pub const LANES: usize = 2;

/// Commands for which a lane sets out while another is under way. Fewer wait for that one to come back, so that lanes overlap where
/// there is much to do, and where there is little, few calls carry it: a call costs what some forty claims in it do.
pub const LANE_ENOUGH: usize = 64;

/// How often a lane looks whether there is enough, in microseconds.
pub const LANE_LOOK_MICROS: u64 = 500;

/// The longest that commands wait for another lane, in milliseconds: its call may hang.
pub const LANE_GATHER_MILLIS: u64 = 5;

/// The most lanes that a configuration may ask for.
pub const LANES_MAX: usize = 16;

/// How long a lane sleeps where nothing comes, before it looks whether the partition is still open, in milliseconds.
pub const LANE_IDLE_MILLIS: u64 = 100;

/// The pause between two attempts to connect, in milliseconds.
pub const LANE_RETRY_MILLIS: u64 = 10;

/// For how long it is tried to find out what became of a call whose answer was lost, before its callers are told that nobody
/// knows, in milliseconds.
pub const LANE_SETTLE_MILLIS: u64 = 40;

/// How often an operator's wish is worked out anew, because the campaign has changed meanwhile.
pub const LANE_LOOKS_MAX: usize = 50;

/// Shares of a red packet that are laid ready in one command.
pub const LANE_SHARES: usize = 5_000;

/// How long shares that were laid ready stay where nobody takes them, in seconds.
pub const LANE_SHARES_SECS: u64 = 600;

/// How often a gate asks Redis how it is, in milliseconds. Returned stock opens a sale again everywhere within this.
pub const POLL_MILLIS: u64 = 100;

/// Campaigns that are read in one call.
pub const POLL_CAMPAIGNS_MAX: usize = 500;

/// Entries that are offered again in one call.
pub const OFFER_ENTRIES: usize = 500;

/// Recoveries that a gate remembers to have taken part in: more than follow each other before one succeeds.
pub const OFFERS_REMEMBERED: usize = 64;

/// How often Redis' memory is looked at, in milliseconds.
pub const MEMORY_LOOK_MILLIS: u64 = 500;

/// From which part of its `maxmemory` on Redis counts as full: what is left is for workers, and for what is under way.
pub const MEMORY_FULL_PERCENT: u64 = 92;

/// How often a gate looks for campaigns whose holders it should know, in milliseconds.
pub const HOLDERS_LOOK_MILLIS: u64 = 200;

/// Holders that are asked for at a time: 0.2 ms of Redis.
pub const HOLDERS_SCAN: usize = 1_000;

/// The pause between two of these, in milliseconds: a million holders take some five seconds.
pub const HOLDERS_PAUSE_MILLIS: u64 = 4;

/// The pause between two looks for Redis or the database at a start, in milliseconds.
pub const REACH_MILLIS: u64 = 200;

/// How often balances are read for the metrics, in milliseconds, and how many at a time: 0.3 ms of Redis.
pub const BALANCES_MILLIS: u64 = 1_000;

/// See [`BALANCES_MILLIS`].
pub const BALANCES_AT_ONCE: usize = 64;

/// Entries that the audit reads in one go.
pub const SNAPSHOT_ENTRIES: usize = 5_000;

/// The pause before the audit reads Redis again, in milliseconds.
pub const AUDIT_PAUSE_MILLIS: u64 = 100;

/// Every how many looks for claims that are due a gate looks for campaigns that are long over, and at how many.
pub const RELEASE_ROUNDS: u32 = 50;

/// See [`RELEASE_ROUNDS`].
pub const RELEASE_CAMPAIGNS: usize = 64;

/// Claims that expire in one call: 10 µs each, in which Redis does nothing else.
pub const EXPIRE_AT_ONCE: usize = 200;

/// How much older than now a claim's id must be for the claim to be in the database for sure where nothing waited when Redis was
/// last asked, in milliseconds: an id is made before its claim is decided, by as much as a request may wait for that.
pub const VOUCH_MILLIS: i64 = 61_000;
