//! Every limit of the engine has its one name here, with where the number comes from. What an operator may change is
//! in [`crate::config`]; these hold for every installation.

mod caches;
mod doctor;
mod overload;
mod service;
mod shared;
mod shared_log;
mod store;
mod workers;

pub use caches::*;
pub use doctor::*;
pub use overload::*;
pub use service::*;
pub use shared::*;
pub use shared_log::*;
pub use store::*;
pub use workers::*;

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

/// Chunks whose memory is kept for the next ones: 300 KB each, about what a batch of the drain frees.
pub const SPARE_CHUNKS: usize = 8;

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

/// The same while no segment stands ready behind the one being written: a sync behind it waits some 7 ms, which is better
/// than claims refused for want of room. With the small slice a segment took two seconds beside a saturated core, and
/// batches of claims fill one in less.
pub const URGENT_SLICE_BYTES: usize = 2 * 1024 * 1024;

/// Pages of new tables that the janitor makes at a time, between two pieces of other work: up to some tens of milliseconds.
pub const WARM_PAGES: usize = 256;

/// The pause between two slices, in milliseconds: 20 MB of segments a second, four times what a core's claims take.
pub const PREPARE_PAUSE_MILLIS: u64 = 10;

/// Bytes that must be free on the journal's disk while covered segments are kept for `buffer.keep_journal`: room for the
/// database beside it, and for several segments that claims need.
pub const KEEP_JOURNAL_FREE_MIN: u64 = 1024 * 1024 * 1024;

const _: () = assert!(KEEP_JOURNAL_FREE_MIN >= (SPARE_SEGMENTS as u64 + 2) * SEGMENT_BYTES);

/// How often the file is written that says how far the database is known to be, in milliseconds.
pub const DRAINED_MILLIS: u64 = 1_000;

/// Positions that `forebay recover` leaves out behind the last one it knows of, when it makes a journal anew: more than any
/// journal can have given out without the database, so that none is used twice.
pub const RECOVER_SEQ_SKIP: u64 = 1_000_000_000;

/// By how much it raises the versions of campaigns, which grow by one a change: a version that somebody has seen must not
/// come again with another content.
pub const RECOVER_VERSION_SKIP: u64 = 1_000_000;

/// Rows that it reads from the database at a time.
pub const RECOVER_PAGE: u32 = 10_000;

/// Attempts of a batch before it gives up: it can be run again, and somebody is waiting.
pub const RECOVER_ATTEMPTS: u32 = 10;

/// Sealed segments that the last snapshot does not cover before the next one is made: recovery replays at most about
/// twice this many segments.
pub const SNAPSHOT_EVERY_SEGMENTS: u64 = 4;

// ---- campaigns -----------------------------------------------------------------------------------------------------

/// Campaigns a node keeps, closed ones included.
pub const CAMPAIGNS_MAX: usize = 100_000;

/// How many times the memory that a start may promise to campaigns a snapshot's may take: campaigns made on a larger machine
/// are loaded, because tables that nobody fills take no memory; what no machine of this kind could hold is refused.
pub const IMAGE_ROOM: u64 = 16;

/// Characters of a campaign's title.
pub const TITLE_MAX: usize = 200;

/// Admin idempotency keys remembered a campaign; the oldest gives way.
pub const ADMIN_KEYS_MAX: usize = 4_096;

/// Units (or shares) of one campaign: what 32 bits count.
pub const STOCK_MAX: u64 = u32::MAX as u64;

/// Units a buyer may be allowed to hold in one campaign. A buyer's claims lie side by side in the book and are read in
/// a row, so this bounds how long one look-up can take.
pub const PER_USER_LIMIT_MAX: u64 = 1_000;

/// Lines of a cart, and units of one line: the contract's.
pub const CART_LINES_MAX: usize = 200;

/// See [`CART_LINES_MAX`].
pub const CART_QUANTITY_MAX: u32 = 1_000_000;

/// Carts, and lines of carts, that the book keeps in a generation, of which there are two: what nobody has touched for one to
/// two generations is read from the database when it is touched again. More carts than commands can wait, twice over, so
/// that no cart leaves while a command that was submitted before its first one waits.
pub const CARTS_YOUNG: usize = 262_144;

/// See [`CARTS_YOUNG`].
pub const CART_LINES_YOUNG: usize = 1_048_576;

/// How long a generation of carts, or of their idempotency keys, lasts at least, in microseconds: keys of cart operations
/// are remembered for 10 to 20 minutes.
pub const CART_GENERATION_MICROS: i64 = 600_000_000;

/// Idempotency keys of cart operations in a generation; beyond that a keyed operation is answered 503 `buffer-full`.
pub const CART_KEYS_YOUNG: u64 = 2_097_152;

/// Buyers with a cart for whom the filter has room at least: 2 MB. With ten times as many every buyer may have one, which costs
/// a look into the database at the first click.
pub const CART_OWNERS_MIN: u64 = 1_000_000;

/// Buyers with a cart that are read from the database at a time after a start.
pub const CART_OWNERS_PAGE: u32 = 1_000;

/// Points that one check-in may give.
pub const POINTS_MAX: i64 = 1_000_000;

/// The shortest and the longest time in which a claim must be settled, in microseconds: 1 second, 30 days.
pub const RESERVATION_TTL_MICROS: (i64, i64) = (1_000_000, 30 * 86_400_000_000);

/// Buyers of a check-in campaign for whom there is room from the start; there is room for more when they come.
pub const CHECK_IN_BUYERS: u64 = 65_536;

/// Local days for which the front end can tell who may have checked in without asking. Longer than that no check-in should
/// wait for the database.
pub const FILTER_DAYS: u32 = 7;

/// Claims that one batch lets expire: the sweep of many that are due at once delays no answer by more than a batch.
pub const EXPIRE_MAX: usize = 1_024;

/// How often the sequencer looks for claims that are due and campaigns that may leave memory, in milliseconds.
pub const SWEEP_DUE_MILLIS: u64 = 100;

/// Campaigns that one look for those that may leave memory takes in turn.
pub const SWEEP_CAMPAIGNS: usize = 1_024;

/// A difference between the wall clock's step and the steady clock's, in microseconds, that counts as a jump: until it is
/// undone no reservation expires.
pub const CLOCK_JUMP_MICROS: i64 = 5_000_000;

/// Wishes about dead letters that wait for the drain.
pub const LETTER_WISHES_MAX: usize = 64;

/// How long a wish about a dead letter waits for the drain, in milliseconds.
pub const LETTER_PATIENCE_MILLIS: u64 = 8_000;

/// Bytes of the reason for which an operator drops a dead letter.
pub const REASON_MAX: usize = 200;

// ---- limits on callers ---------------------------------------------------------------------------------------------

/// Requests a second, minute or hour that a rate may allow. A limiter counts in ticks of 1,024 ns, and a million a second
/// is one tick each: beyond it the interval between two could no longer be told.
pub const RATE_MAX: u32 = 1_000_000;

/// Entries of the forwarding headers that are followed from the right. Real chains have under ten; a caller behind a
/// trusted proxy could otherwise make us read thousands.
pub const FORWARDED_HOPS_MAX: usize = 32;

// ---- the workers ---------------------------------------------------------------------------------------------------

/// The shortest wait before a batch is tried again, in milliseconds: a lock that another process holds for one short
/// transaction is gone by then.
pub const RETRY_MIN_MILLIS: u64 = 50;

/// The longest wait before a batch is tried again, in milliseconds: how late the drain may notice that the database is
/// back, against how often a broken one is asked.
pub const RETRY_MAX_MILLIS: u64 = 5_000;

/// Entries of the largest batch in which the workers look for a row that passes, when they have found none in smaller
/// ones: what `workers.batch_max` may be at most.
pub const POISON_LEASE_MAX: usize = 10_000;

/// How often a batch of so many rows is refused row by row, while a trial row passes, before they are dead letters: some five
/// minutes of [`RETRY_MAX_MILLIS`], in which a table that somebody broke for a moment is mended. Without it so many rows
/// that will never pass would keep all others out for ever.
pub const POISON_PATIENCE: u32 = 60;

/// How nice the drain's thread is (0 to 19). At 19 it gets a seventieth of a core that one other thread wants (weight 15
/// against 1,024) and all of one that nobody wants: it gives way to the burst and never stops.
pub const DRAIN_NICE: i32 = 19;

/// How often the drain looks for entries while there are none, in milliseconds. 200 looks a second cost a core less
/// than 0.1 %; a signal from the sequencer would cost it a wake a batch, on the path of every acknowledgement.
pub const DRAIN_POLL_MILLIS: u64 = 5;

/// How long the drain lets entries gather that do not fill a batch, in milliseconds: at most 100 small transactions a
/// second, each of which costs the disk about two syncs.
pub const DRAIN_GATHER_MILLIS: u64 = 10;

/// How long beyond its deadline a stopping drain may take for the transaction it is in, in milliseconds: SQLite's own
/// wait for a lock, and a slow commit. Beyond it the thread is left to itself; the journal has what it did not write.
pub const DRAIN_STOP_SLACK_MILLIS: u64 = STORE_BUSY_MILLIS + 3_000;

/// How often it is looked whether the drain's thread is still there, in milliseconds: soon enough for a supervisor, too
/// rare to be seen beside claims.
pub const DRAIN_LOOK_MILLIS: u64 = 1_000;

/// What a node that can't go on gives requests under way and the drain, in milliseconds, where `shutdown.grace` is not less:
/// as long as a claim waits for its outcome by default. Nothing depends on it, and a supervisor waits to start the next.
pub const FATAL_GRACE_MILLIS: u64 = 5_000;

/// How often the dead letters are counted after new ones came, in milliseconds.
pub const DEAD_COUNT_MILLIS: u64 = 1_000;

// ---- the caches ----------------------------------------------------------------------------------------------------

/// Claims that the local cache holds, in each of its two tables: about 400 bytes each, 25 MiB in each table.
pub const CACHE_CLAIMS_MAX: u64 = 65_536;

/// Stamps that tell a cache entry from an outdated one: two keys with one stamp cost a read more, now and then. With
/// 1,000 keys written a batch, one in 65 of the others shares one; 512 KiB in each table.
pub const CACHE_STAMPS: usize = 65_536;

// ---- HTTP ----------------------------------------------------------------------------------------------------------

/// Bytes of a request body; a claim is under 100.
pub const BODY_MAX: usize = 16 * 1024;

/// Bytes of a batch's body: 1,000 claims of the longest users with the longest keys are 241,000.
pub const BATCH_BODY_MAX: usize = 256 * 1024;

/// Claims of one batch. A front-end thread decides and answers them in one go, and a thousand are about two milliseconds
/// in which it does nothing else.
pub const BATCH_MAX: usize = 1_000;

/// Batches under way, all threads together, from before the body is read until the answer has been handed to the connection.
/// Each takes at most about 800 KiB (body, what is read from it and what is submitted; later what is submitted and the
/// answer), so all of them 400 MiB. Beyond it: 503 `overloaded` for the whole batch, before its body is read.
pub const BATCHES_MAX: usize = 512;

/// Members of a batch that are written into its answer before the thread's other requests have a turn: a tenth of a
/// millisecond of receipts.
pub const BATCH_TURN: usize = 128;

const _: () = assert!(BATCH_MAX <= SEQUENCER_BATCH_MAX && BATCH_MAX < QUEUE_MAX);

/// Bytes of an answer that a connection takes at a time. hyper copies what it takes into a buffer that grows to the largest
/// piece and stays with the connection; an answer to a hundred claims (43 KB) still goes out in one write.
pub const REPLY_PIECE: usize = 64 * 1024;

/// Connections of the public listener, all threads together. Of the 20,000 files a process may usually have open, the
/// journal, the database and the admin listener take under a hundred; the rest is room for sockets that are being
/// closed or refused. Beyond it: a 503 `overloaded`, written to the fresh connection, which is closed at once.
pub const CONNECTIONS_MAX: u64 = 16_384;

/// Files that the journal, the database and Redis may have open: under a hundred, counted generously.
pub const OWN_FILES: u64 = 128;

/// Connections of the public listener where so many files may be open: what the rest of the process needs is kept back, for a
/// journal that finds no descriptor for its next segment stops the node, and whoever opened the connections would have stopped
/// the sale. Where there are few at all, connections get a quarter.
pub const fn connections_max(open_files: u64) -> u64 {
    let room = open_files.saturating_sub(OWN_FILES + ADMIN_CONNECTIONS_MAX);
    let room = if room > open_files / 4 { room } else { open_files / 4 };
    if room < CONNECTIONS_MAX { room } else { CONNECTIONS_MAX }
}

const _: () = assert!(connections_max(OPEN_FILES_NEEDED) == CONNECTIONS_MAX);
const _: () = assert!(connections_max(1_024) == 640 && connections_max(256) == 64);

/// Connections of the admin listener: operators and scrapers.
pub const ADMIN_CONNECTIONS_MAX: u64 = 256;

const _: () = assert!(OPEN_FILES_NEEDED < 20_000);

/// Requests under way, all public threads together, each its share, answers that HTTP/2 holds back included: as many as there
/// may be connections, twice over, so that only HTTP/2's many on one connection ever meet it. Each holds its head and a claim's
/// body, at most 32 KiB, or an answer, a page of claims at most twice that. Beyond it: 503 `overloaded`, before the body is read,
/// for connections with more than [`CROWDED_REQUESTS`]: were it for all, 128 connections could refuse a sale to everybody.
pub const REQUESTS_MAX: u32 = 2 * CONNECTIONS_MAX as u32;

const _: () = assert!(REQUESTS_MAX as usize * (HEAD_MAX + BODY_MAX) <= 1 << 30);

// A thread's share lets in at least one connection's streams, whatever the number of threads.
const _: () = assert!(REQUESTS_MAX / THREADS_MAX as u32 >= 128);

/// Requests that a connection may have under way when there are more than [`REQUESTS_MAX`]: a few, as browsers and services that
/// don't multiplex have. With all connections at that, there are three times as many at most.
pub const CROWDED_REQUESTS: u32 = 4;

/// Threads of the front end that may be configured.
pub const THREADS_MAX: usize = 256;

/// Connections that the kernel keeps ready for one listening socket; it cuts this to `net.core.somaxconn` (4,096 by
/// default), a tenth of a second of new connections on one core.
pub const BACKLOG: i32 = 4_096;

/// Bytes of a request's line and headers, and over HTTP/1.1 of the buffer they are read into. Beyond it: 431; so it is
/// beyond 100 header lines, hyper's own limit, which costs nothing as long as it is left alone.
pub const HEAD_MAX: usize = 16 * 1024;

/// Requests under way on one HTTP/2 connection. A service that batches for its buyers needs hundreds; more would let one
/// connection fill the sequencer's queue.
pub const H2_STREAMS_MAX: u32 = 256;

/// Streams that an HTTP/2 peer may reset before we looked at them, until the connection ends (CVE-2023-44487).
pub const H2_RESETS_MAX: usize = 32;

/// Streams of an HTTP/2 connection that we may have to reset for errors of its peer until the connection ends (CVE-2025-8671:
/// a reset that the peer provokes is not one of its own). No sound client makes any; a proxy that passes its callers' errors
/// on may make a few.
pub const H2_ERRORS_MAX: usize = 32;

/// How long an answer over HTTP/2 may take from its first byte to the moment when the last one is sent, in milliseconds, give
/// or take a quarter. Its reader's windows hold it back in our memory, and neither the socket nor hyper tells of its progress,
/// so this is the time for all of it: an answer of 430 KB to a batch at 29 KB/s, a page of claims at 3 KB/s.
pub const H2_ANSWER_MILLIS: u64 = 20_000;

/// Bytes that one HTTP/2 connection may have under way to us: all streams' bodies within one window. A stream's own window is
/// a batch's body, so that one is not sent in sixteen round trips.
pub const H2_WINDOW: u32 = 1024 * 1024;

const _: () = assert!(BATCH_BODY_MAX <= H2_WINDOW as usize);

/// How often connections are looked at, in milliseconds: their deadlines are kept to within this.
pub const CONNECTION_TICK_MILLIS: u64 = 100;

/// From the connection to its first byte, in milliseconds.
pub const FIRST_BYTE_MILLIS: u64 = 10_000;

/// From a request's first byte to the end of its headers, in milliseconds.
pub const HEAD_DEADLINE_MILLIS: u64 = 10_000;

/// How long a peer may take nothing of what it is sent, in milliseconds.
pub const WRITE_STALL_MILLIS: u64 = 10_000;

/// Bytes a second at which a peer must take an answer that the socket does not hold, beyond the time of [`WRITE_STALL_MILLIS`]:
/// half of a thin mobile line. Without it one byte every nine seconds would keep an answer in memory for days.
pub const ANSWER_RATE_MIN: u64 = 4 * 1024;

/// How long a connection may stay without a request, in milliseconds: longer than the 60 s after which load balancers
/// usually give up their side, so that they never send into a connection that we are closing.
pub const IDLE_MILLIS: u64 = 75_000;

/// How often an HTTP/2 peer is asked whether it is still there, in milliseconds; as long again for its answer. With a body that
/// drips for all of its time before, a peer that says nothing more is gone within 30 s, whatever it has open.
pub const H2_PING_MILLIS: u64 = 8_000;

const _: () = assert!(BODY_DEADLINE_MILLIS + 2 * H2_PING_MILLIS < 30_000);

/// Bytes that the kernel may hold of what a connection is sent (it sets aside twice as many, for its own). Left to itself it
/// grows to 4 MiB a connection, 64 GiB for all, and a peer that reads nothing is noticed only when that is full. An answer to a
/// batch (430 KB) leaves in a few turns.
pub const SOCKET_SEND_BYTES: usize = 128 * 1024;

/// The first and the longest pause of a listener that is out of descriptors or memory, in milliseconds.
pub const ACCEPT_PAUSE_MILLIS: (u64, u64) = (50, 1_000);

/// How often at most a front end says in the log that reads of the database fail, in milliseconds; their number is in the metrics.
pub const READ_TELL_MILLIS: u64 = 10_000;

/// How often at most such a listener says so in the log, in milliseconds; `forebay_accept_pauses_total` has each time.
pub const ACCEPT_TELL_MILLIS: u64 = 10_000;

/// Status reads that wait for a change at the same time. Beyond it they are answered at once.
pub const WAITERS_MAX: usize = 10_000;

/// How often a request that waits for a row to change looks again, in milliseconds.
pub const END_POLL_MILLIS: u64 = 1_000;

/// How often a read looks again at a claim whose outcome is unknown, in milliseconds; no entry announces that change.
pub const UNKNOWN_POLL_MILLIS: u64 = 200;

/// How long after its window a campaign keeps the metrics that only a running sale needs, in microseconds: a day, so that the
/// morning after still sees the night. Without an end, every campaign there ever was would cost a scraper twice as many series.
pub const SHOWN_AFTER_END_MICROS: i64 = 86_400_000_000;

/// Rows that an export reads from the database at a time: about 100 KiB of text.
pub const EXPORT_PAGE: u32 = 500;

/// Bytes of an admin request's body.
pub const ADMIN_BODY_MAX: usize = 64 * 1024;

/// Characters of the name by which an operator is written down.
pub const ACTOR_MAX: usize = 64;

/// Characters of an `X-Request-Id`.
pub const REQUEST_ID_MAX: usize = 128;

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

/// Tasks that a front-end thread polls before it looks for new events: as many as a busy thread's connections, so that a
/// look brings many events at once.
pub const EVENT_INTERVAL: u32 = 256;

/// The part of `buffer.max_entries` from which on the database is far behind: 500,000 entries of the default.
pub const BEHIND_PART: u64 = 20;

/// Entries that are not far behind however small the buffer is: a drain that gathers, or has a slow commit, leaves thousands.
pub const BEHIND_MIN: u64 = 20_000;

/// How long nothing came into a database that is away rather than behind, in milliseconds: longer than a slow commit.
pub const BEHIND_STILL_MILLIS: u64 = 2_000;

/// How far apart a front-end thread's looks at its sockets are while the database is far behind, in microseconds; docs/performance.md
/// has what others do.
pub const INGEST_REST_MICROS: u64 = 1_000;

/// How long freed memory is kept before it goes back to the system, in milliseconds. The allocator's default of 10 gives it
/// back between two bursts, and every page that is taken again is a fault.
pub const PURGE_DELAY_MILLIS: u64 = 10_000;

/// How often late answers are looked for, in milliseconds: a deadline is kept to within this.
pub const SWEEP_MILLIS: u64 = 50;

/// The longest that a front-end thread which is busy taking claims lets them gather before it rings the sequencer, in
/// microseconds. A sync costs about 50 µs of processor whatever it covers. From 100 to 600 µs measure the same at 64 and at
/// 256 connections: what ends the wait is mostly a round that brings no more.
pub const GATHER_MICROS: u64 = 200;

/// How long the sequencer waits with nothing to do before it writes a mark, in milliseconds.
pub const IDLE_MARK_MILLIS: u64 = 1_000;

/// How long a body may take to arrive, in milliseconds. A claim's body comes with its head; a minute-long upload of 16 KiB,
/// or of a batch's 256 KiB, is an attack or a broken network.
pub const BODY_DEADLINE_MILLIS: u64 = 10_000;

// ---- campaigns for a CDN -------------------------------------------------------------------------------------------

/// How often `forebay export --watch` asks for the campaigns, in milliseconds: a change is written within a second.
pub const EXPORT_POLL_MILLIS: u64 = 500;

/// Exported files that are kept, the current one among them: a reader that has an older pointer still finds its file.
pub const EXPORT_KEPT: usize = 3;

// ---- threads -------------------------------------------------------------------------------------------------------

/// How much the background threads give way (`nice`, 0 to 19): a tenth of the weight of the threads that acknowledge.
pub const BACKGROUND_NICE: i32 = 10;

/// How long the janitor rests with nothing to do, in milliseconds: a segment lasts seconds at the top rate.
pub const JANITOR_IDLE_MILLIS: u64 = 100;

/// How long the janitor waits after a failure or on a full disk, in milliseconds.
pub const JANITOR_RETRY_MILLIS: u64 = 500;
