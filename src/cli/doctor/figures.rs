//! What the doctor measures, in base units: seconds, bytes, counts and rates a second. These are the names of the JSON
//! document.

use std::path::PathBuf;

use serde::Serialize;

/// Everything measured.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// The machine and what of it the configuration uses.
    pub machine: Machine,
    /// The disk of `buffer.data_dir`.
    pub sync: SyncFigures,
    /// What one core decides and makes durable.
    pub claims: ClaimFigures,
    /// What the database takes.
    pub rows: RowFigures,
    /// What the book takes; none where Redis decides.
    pub winners: Option<WinnerFigures>,
    /// What Redis does; none where nothing is in it.
    pub redis: Option<RedisFigures>,
    /// The clock over the whole run.
    pub clock: ClockFigures,
}

/// What the system says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Where the journal is, or will be.
    pub data_dir: PathBuf,
    /// Where the database is, or will be.
    pub store: String,
    /// The process that holds the data folder, where the system tells: a running server.
    pub server: Option<u32>,
    /// The file system of `data_dir`, or of the folder in which it will be made.
    pub file_system: FileSystem,
    /// The database's; none of a server's, whose disk is its own business.
    pub store_file_system: Option<FileSystem>,
    /// What the database's server says of itself; none for a file.
    pub store_server: Option<StoreServer>,
    /// Whether both are one.
    pub same_disk: bool,
    /// Files that a process may have open once it has raised its own limit.
    pub open_files: u64,
    /// Bytes of memory that are available now; none where the system does not tell.
    pub memory_available_bytes: Option<u64>,
    /// Bytes that the book's tables may take.
    pub memory_book_bytes: u64,
}

/// A database server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreServer {
    /// Such as 15.4.
    pub version: String,
    /// Settings with which a crash takes commits of ours, and what they do.
    pub weak: Vec<String>,
    /// The same of other programs' commits.
    pub weak_for_others: Vec<String>,
    /// Whether it repeats another's writes, and takes none.
    pub is_replica: bool,
}

/// One file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSystem {
    /// Its name, or its number in hexadecimal where that is not a known one.
    pub name: String,
    /// Bytes that are free for us.
    pub free_bytes: u64,
}

/// Syncs of one page into a zero-filled file, as the journal makes them.
#[derive(Debug, Clone, Serialize)]
pub struct SyncFigures {
    /// How many.
    pub count: usize,
    /// Bytes of each.
    pub bytes: usize,
    /// The middle one.
    pub median_seconds: f64,
    /// The 99th of a hundred.
    pub p99_seconds: f64,
    /// The slowest.
    pub max_seconds: f64,
    /// Processor time of each on the calling thread, its write included.
    pub processor_seconds: f64,
}

/// What book, sequencer and journal do together in this process, without HTTP.
#[derive(Debug, Clone, Serialize)]
pub struct ClaimFigures {
    /// For each size of batch, smallest first.
    pub rates: Vec<ClaimRate>,
    /// Bytes of the journal a claim, frames included, in the largest batches; buyers' names are 16 bytes long.
    pub journal_bytes: f64,
    /// Bytes of memory that an entry takes while it waits for the database.
    pub waiting_bytes: f64,
}

impl ClaimFigures {
    /// In the largest batches.
    pub fn per_second(&self) -> f64 {
        self.rates.last().map_or(0.0, |rate| rate.per_second)
    }
}

/// Claims in batches of one size.
#[derive(Debug, Clone, Serialize)]
pub struct ClaimRate {
    /// Claims in a batch: one write and one sync.
    pub batch: usize,
    /// Claims decided, all accepted.
    pub claims: u64,
    /// Of them a second, each synced.
    pub per_second: f64,
    /// Processor time a claim.
    pub processor_seconds: f64,
}

/// What the drain brings into a fresh database.
#[derive(Debug, Clone, Serialize)]
pub struct RowFigures {
    /// Rows a transaction: `workers.batch_max`.
    pub batch: usize,
    /// Rows written.
    pub rows: u64,
    /// Of them a second, each committed with a sync.
    pub per_second: f64,
    /// The middle transaction, from the first statement to the answer to COMMIT.
    pub transaction_median_seconds: f64,
    /// The slowest.
    pub transaction_max_seconds: f64,
    /// Bytes of the database a row, its indexes included.
    pub bytes: f64,
}

/// Memory of the book.
#[derive(Debug, Clone, Serialize)]
pub struct WinnerFigures {
    /// Winners in the book that was measured.
    pub winners: u64,
    /// Promised a unit when a campaign is created: the winner, its idempotency key and the filter of holders.
    pub table_bytes: f64,
    /// Resident a winner without a key.
    pub resident_bytes: f64,
    /// Resident a winner with one.
    pub resident_bytes_with_key: f64,
}

/// A Redis as the buffer of many gates.
#[derive(Debug, Clone, Serialize)]
pub struct RedisFigures {
    /// Where it is, without user and password.
    pub name: String,
    /// What it says of itself.
    pub server: RedisServer,
    /// From here to it and back, with nothing to do there.
    pub round_trip: RoundTrips,
    /// What it decides; none where it can't be had to.
    pub calls: Option<RedisCalls>,
}

/// What a Redis says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RedisServer {
    /// Such as 7.0.15.
    pub version: String,
    /// Whether it is one of those that have functions.
    pub has_functions: bool,
    /// Whether it takes writes.
    pub is_primary: bool,
    /// Settings that make it forget.
    pub weak: Vec<RedisWeak>,
    /// Bytes that it may use; 0 for no bound.
    pub maxmemory_bytes: u64,
    /// Bytes that it uses.
    pub used_bytes: u64,
    /// Bytes of memory of its machine; none where it does not tell.
    pub machine_bytes: Option<u64>,
    /// Whether its last write to its file failed: it takes no writes then.
    pub file_failed: bool,
}

/// A setting that makes a Redis forget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RedisWeak {
    /// What it does.
    pub what: String,
    /// The name under which it can be accepted in `redis.accept`; none where it can't.
    pub name: Option<String>,
    /// Whether it is.
    pub is_accepted: bool,
}

/// Round trips.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RoundTrips {
    /// How many.
    pub count: usize,
    /// The middle one.
    pub median_seconds: f64,
    /// The slowest.
    pub max_seconds: f64,
}

/// What a Redis decides in a partition of its own, over one connection, call after call, each written to its file as it is
/// set up to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RedisCalls {
    /// Claims a call.
    pub batch: usize,
    /// Claims without a key, all accepted.
    pub claims: u64,
    /// Of them a second.
    pub per_second: f64,
    /// The middle call, from here to Redis and back.
    pub call_median_seconds: f64,
    /// The slowest.
    pub call_max_seconds: f64,
    /// Processor time of Redis' main thread a claim, whatever others had it do included; none where it does not tell.
    pub processor_seconds: Option<f64>,
    /// Bytes of Redis a claim that waits for the database.
    pub waiting_bytes: f64,
    /// Bytes of Redis a claim that is in the database, until its campaign is released.
    pub held_bytes: f64,
    /// The same as `waiting_bytes` with an idempotency key.
    pub waiting_bytes_with_key: f64,
    /// The same as `held_bytes` with an idempotency key.
    pub held_bytes_with_key: f64,
}

/// The wall clock beside the monotone one.
#[derive(Debug, Clone, Serialize)]
pub struct ClockFigures {
    /// How long they were compared.
    pub seconds: f64,
    /// The largest distance that they moved apart.
    pub step_seconds: f64,
    /// Whether the time comes from the network.
    pub ntp: Ntp,
}

/// What the system says of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ntp {
    /// A time service says that it is synchronised.
    Synchronised,
    /// A time service runs and has not synchronised it.
    Unsynchronised,
    /// Nothing that can be read says either.
    Unknown,
}
