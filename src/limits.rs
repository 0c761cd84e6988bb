//! Every limit of the engine has its one name here, with where the number comes from. What an operator may change is
//! in [`crate::config`]; these hold for every installation.

// ---- the buffer ----------------------------------------------------------------------------------------------------

/// Claims that may wait for the sequencer. 65,536 is half a second of a core's top rate (≈ 130,000 a second): a queue
/// that is fuller than that only makes every caller wait longer for the same refusals. Beyond it: 503 `overloaded`.
pub const QUEUE_MAX: usize = 65_536;

/// Commands that the sequencer decides before it writes and syncs. At 60 bytes a claim a full batch is about 256 KiB,
/// one write that a disk takes in one go.
pub const SEQUENCER_BATCH_MAX: usize = 4_096;

/// The largest encoded entry, in bytes. A claim is at most 128; a campaign's definition with its title is the largest.
pub const ENTRY_MAX: usize = 16 * 1024;

/// Entries a sealed chunk of waiting entries holds; a chunk is the unit in which retired entries leave memory.
pub const CHUNK_ENTRIES: usize = 4_096;

// ---- the journal ---------------------------------------------------------------------------------------------------

/// Bytes of one journal segment. 64 MiB holds about a million claims: small enough to recycle within a sale, large
/// enough that a rotation is rare.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// The largest frame: a full batch of plain claims, or one campaign's definition.
pub const FRAME_MAX: usize = 1024 * 1024;

const _: () = assert!(SEQUENCER_BATCH_MAX * 160 + ENTRY_MAX <= FRAME_MAX);
const _: () = assert!((FRAME_MAX as u64) * 8 <= SEGMENT_BYTES);

/// Zeroed segments that stand ready behind the one being written. Two, so that one can be taken while the next is made.
pub const SPARE_SEGMENTS: usize = 2;

/// Bytes written at a time while a segment is zeroed: a slice that delays a sync behind it by less than a millisecond
/// on a disk that writes 300 MB/s.
pub const PREPARE_SLICE_BYTES: usize = 256 * 1024;

/// Sealed segments that the last snapshot does not cover before the next one is made: recovery replays at most about
/// twice this many segments.
pub const SNAPSHOT_EVERY_SEGMENTS: u64 = 4;

// ---- campaigns -----------------------------------------------------------------------------------------------------

/// Campaigns a node keeps, closed ones included.
pub const CAMPAIGNS_MAX: usize = 100_000;

/// Characters of a campaign's title.
pub const TITLE_MAX: usize = 200;

/// Admin idempotency keys remembered a campaign; the oldest gives way.
pub const ADMIN_KEYS_MAX: usize = 4_096;

/// Units (or shares) of one campaign: what 32 bits count.
pub const STOCK_MAX: u64 = u32::MAX as u64;

/// Units a buyer may be allowed to hold in one campaign. A buyer's claims lie side by side in the book and are read in
/// a row, so this bounds how long one look-up can take.
pub const PER_USER_LIMIT_MAX: u64 = 1_000;

// ---- limits on callers ---------------------------------------------------------------------------------------------

/// Requests a second, minute or hour that a rate may allow. A limiter counts in ticks of 1,024 ns, and a million a second
/// is one tick each: beyond it the interval between two could no longer be told.
pub const RATE_MAX: u32 = 1_000_000;

/// Entries of the forwarding headers that are followed from the right. Real chains have under ten; a caller behind a
/// trusted proxy could otherwise make us read thousands.
pub const FORWARDED_HOPS_MAX: usize = 32;

// ---- the store -----------------------------------------------------------------------------------------------------

/// Rows of the largest bulk insert, a power of four. From 200 rows on the time a row hardly falls any further, and 256
/// rows stay far below SQLite's 32,766 parameters a statement.
pub const STORE_INSERT_ROWS: usize = 256;

/// Connections that read a SQLite database at once, a thread each. Reads are cached and microseconds long: four keep
/// two cores busy while one waits for the disk.
pub const STORE_READERS_MAX: usize = 4;

/// Milliseconds that SQLite itself waits for a lock of another process. Longer than any short transaction of a shell
/// beside us; beyond it the workers back off.
pub const STORE_BUSY_MILLIS: u64 = 2_000;

/// KiB of pages that the SQLite writer keeps. The buyers' index is hit at random: 64 MiB hold that of a million claims,
/// which would otherwise be read from the disk again for every row.
pub const STORE_PAGE_CACHE_KIB: u64 = 64 * 1024;

/// Pages of 4 KiB in SQLite's write-ahead log before they are moved into the file. A batch of 1,000 claims changes about
/// as many pages, most of them again and again: 16 MiB let several batches share one move.
pub const STORE_CHECKPOINT_PAGES: u64 = 4_000;

// ---- HTTP ----------------------------------------------------------------------------------------------------------

/// Bytes of a request body; a claim is under 100.
pub const BODY_MAX: usize = 16 * 1024;

/// Characters of an `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_MAX: usize = 128;

/// The longest `wait` of a status read, in seconds.
pub const WAIT_MAX_SECS: u64 = 30;

/// The most items of one page of a list.
pub const PAGE_MAX: u32 = 100;

/// The items of a page where none is asked for.
pub const PAGE_DEFAULT: u32 = 40;

// ---- waiting -------------------------------------------------------------------------------------------------------

/// Claims remembered as unknown after their callers were told so: a full queue's worth, twice.
pub const UNKNOWN_MAX: usize = QUEUE_MAX * 2;

/// How often late answers are looked for, in milliseconds: a deadline is kept to within this.
pub const SWEEP_MILLIS: u64 = 50;

/// How long the sequencer waits with nothing to do before it writes a mark, in milliseconds.
pub const IDLE_MARK_MILLIS: u64 = 1_000;

/// How long a body may take to arrive, in milliseconds. A claim's body comes with its head; a minute-long upload of 16 KiB
/// is an attack or a broken network.
pub const BODY_DEADLINE_MILLIS: u64 = 10_000;
