//! Limits of the stores: how much they hold, and how long they wait.

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

/// Milliseconds that a PostgreSQL server may take for one statement before it ends it itself: far more than any batch takes,
/// and few enough that a stuck one is tried again before anybody looks.
pub const STORE_STATEMENT_MILLIS: u64 = 60_000;

/// Milliseconds after which a PostgreSQL server ends a transaction whose session has fallen silent, of those that look at many
/// rows or make tables.
pub const STORE_IDLE_MILLIS: u64 = 30_000;

/// The same of those that write: so long may the row that every batch locks stay locked by a worker that stands still, after
/// which another one has taken over. Between two statements of a batch pass microseconds.
pub const STORE_WRITE_IDLE_MILLIS: u64 = 3_000;

/// Seconds of silence after which a PostgreSQL server asks whether a session is still there.
pub const STORE_KEEPALIVE_SECS: u64 = 10;

/// Milliseconds that opening a connection to a server may take. A start without its database waits so long, a few times.
pub const STORE_CONNECT_MILLIS: u64 = 5_000;

/// Milliseconds after which an answer of a PostgreSQL server is not waited for any more: it would have ended the statement
/// itself long before, so the network, or the server, has lost the connection.
pub const STORE_HANG_MILLIS: u64 = 90_000;
const _: () = assert!(STORE_HANG_MILLIS > STORE_STATEMENT_MILLIS + STORE_CONNECT_MILLIS + STORE_LOCK_MILLIS);

/// Calls of a kind (writes, reads, reads of the replica) that may hang in the network with nobody waiting for them, before
/// others of that kind have to wait behind them.
pub const STORE_GIVEN_UP_MAX: usize = 8;

/// Milliseconds that a start waits for the database's lock: a session of a process that was killed ends within that time,
/// unless it is in the middle of a long statement.
pub const STORE_LOCK_MILLIS: u64 = 4_000;

/// How often the database's lock is tried meanwhile, in milliseconds.
pub const STORE_LOCK_POLL_MILLIS: u64 = 50;

/// Seconds that making tables on a PostgreSQL server may take, or a recovery's look at all rows: a later version may have to
/// make an index on a large table.
pub const STORE_MIGRATE_SECS: u64 = 3_600;

/// Milliseconds that a stop waits for a PostgreSQL server to say goodbye.
pub const STORE_CLOSE_MILLIS: u64 = 2_000;

/// Milliseconds that a store's thread waits at its end for look-ups of names, which can't be interrupted.
pub const STORE_LANE_END_MILLIS: u64 = 100;

/// Milliseconds that making a day's partition waits for whoever reads the table: it is made a day ahead, and can be made later.
pub const STORE_PARTITION_LOCK_MILLIS: u64 = 200;

/// Seconds until a day's partition that could not be made is tried again.
pub const STORE_PARTITION_PAUSE_SECS: u64 = 60;

/// Milliseconds that a replica may take for a read before the database itself is asked: the caller waits for both.
pub const STORE_REPLICA_MILLIS: u64 = 2_000;

/// Milliseconds for which a replica that failed is not asked: each read would otherwise pay for finding that out.
pub const STORE_REPLICA_PAUSE_MILLIS: u64 = 5_000;
