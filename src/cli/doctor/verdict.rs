//! What the figures mean: what is dangerous and what to do about it, and how large a sale fits. Pure.

mod redis;

use serde::Serialize;

use super::figures::{Figures, FileSystem, Ntp, StoreServer};
use super::report::{bytes, seconds};
use crate::antiscalper::Rate;
use crate::config::{AdminAddr, Auth, Config};
use crate::limits;
use crate::sale::Durability;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Not what one would want on the night.
    Warning,
    /// Acknowledged claims may be lost, or the sale stands still.
    Danger,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, a word that scripts may rely on.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What to do; empty where it is fine.
    pub advice: String,
}

impl Finding {
    fn fine(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, severity: Severity::Fine, what: what.into(), advice: String::new() }
    }

    fn bad(check: &'static str, severity: Severity, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, severity, what: what.into(), advice: advice.into() }
    }
}

/// Everything that was looked at, the worst first.
pub fn findings(config: &Config, figures: &Figures) -> Vec<Finding> {
    let machine = &figures.machine;
    let mut all = vec![
        durability(config),
        sync(config, figures),
        file_system("data-file-system", &machine.file_system),
        disk_space(config, figures),
        memory(config, figures),
        open_files(machine.open_files),
        callers(config),
        clock(figures),
        time_source(figures.clock.ntp),
    ];
    all.extend(machine.store_file_system.as_ref().map(|disk| file_system("store-file-system", disk)));
    all.extend(machine.store_server.iter().flat_map(store_server));
    all.extend(figures.redis.iter().flat_map(|found| redis::findings(config, found)));
    all.extend(machine.server.map(|process| {
        let what = format!("process {process} runs on this data folder: the figures are of what it leaves");
        Finding::fine("server", what)
    }));
    all.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    all
}

fn durability(config: &Config) -> Finding {
    match config.buffer.durability {
        Durability::Disk => Finding::fine("durability", "a claim is synced before it is acknowledged"),
        Durability::Memory => Finding::bad(
            "durability",
            Severity::Danger,
            "buffer.durability = \"memory\": a power cut takes claims that were acknowledged",
            "set buffer.durability = \"disk\"",
        ),
    }
}

fn sync(config: &Config, figures: &Figures) -> Finding {
    let sync = &figures.sync;
    let found = |what| format!("a sync takes {} in the median, {what}", seconds(sync.median_seconds));
    if sync.median_seconds < limits::SYNC_SUSPECT_MICROS as f64 / 1e6 {
        return Finding::bad(
            "sync",
            Severity::Danger,
            found("faster than any disk: what was synced is gone after a power cut"),
            "put buffer.data_dir on a disk whose syncs reach it: no tmpfs, no cache without a battery, no \
             virtual disk whose host ignores flushes, no mount option nobarrier",
        );
    }
    if sync.max_seconds >= config.ingest.ack_deadline.as_secs_f64() {
        return Finding::bad(
            "sync",
            Severity::Danger,
            found(&format!("but one took {}: claims are answered outcome-unknown", seconds(sync.max_seconds))),
            "give the journal a disk of its own, or raise ingest.ack_deadline",
        );
    }
    if sync.p99_seconds > limits::SYNC_SLOW_MILLIS as f64 / 1e3 {
        return Finding::bad(
            "sync",
            Severity::Warning,
            found(&format!("but {} at the 99th percentile, which buyers wait for", seconds(sync.p99_seconds))),
            "give the journal a faster disk, or one of its own",
        );
    }
    Finding::fine("sync", found(&format!("{} at the 99th percentile", seconds(sync.p99_seconds))))
}

fn file_system(check: &'static str, found: &FileSystem) -> Finding {
    let key = if check == "data-file-system" { "buffer.data_dir" } else { "store.url" };
    let (severity, why) = match found.name.as_str() {
        "tmpfs" | "ramfs" => (Severity::Danger, "it is memory, and empty after a restart of the machine"),
        "overlay" => (Severity::Danger, "it is a container's own layer, and gone with the container"),
        "nfs" | "cifs" | "smb" | "9p" | "ceph" => {
            (Severity::Danger, "it is another machine's: locks and syncs are no better than the network")
        }
        "fuse" => (Severity::Warning, "a program serves it: whether a sync reaches a disk is for that program to say"),
        "vfat" => (Severity::Warning, "it has no journal of its own"),
        "btrfs" | "zfs" | "bcachefs" => {
            (Severity::Warning, "it copies on write: what is prepared ahead makes no sync faster")
        }
        name => return Finding::fine(check, format!("{key} is on {name}")),
    };
    let advice = match found.name.as_str() {
        "overlay" => format!("mount a volume on a local disk for {key}"),
        _ => format!("put {key} on ext4 or xfs on a local disk"),
    };
    Finding::bad(check, severity, format!("{key} is on {}: {why}", found.name), advice)
}

/// What a database server says of itself.
fn store_server(server: &StoreServer) -> Vec<Finding> {
    let check = "store-server";
    let mut all = Vec::new();
    if server.is_replica {
        let what = "store.url names a server that repeats another's writes and takes none";
        all.push(Finding::bad(
            check,
            Severity::Danger,
            what,
            "name the server that it follows, and this one in replica_url",
        ));
    }
    for (severity, weak) in [(Severity::Danger, &server.weak), (Severity::Warning, &server.weak_for_others)] {
        all.extend(weak.iter().map(|what| {
            Finding::bad(check, severity, format!("the database's server has {what}"), "turn it on in postgresql.conf")
        }));
    }
    if all.is_empty() {
        all.push(Finding::fine(check, format!("PostgreSQL {} syncs what it commits", server.version)));
    }
    all
}

fn disk_space(config: &Config, figures: &Figures) -> Finding {
    let (entries, machine) = (config.buffer.max_entries as f64, &figures.machine);
    // Twice the segments between two snapshots wait for being covered, one is written, and the spares stand ready.
    let segments = 2 * limits::SNAPSHOT_EVERY_SEGMENTS + 1 + limits::SPARE_SEGMENTS as u64;
    let journal = entries * figures.claims.journal_bytes + (segments * limits::SEGMENT_BYTES) as f64;
    let rows = entries * figures.rows.bytes;
    let free = machine.file_system.free_bytes as f64;
    let store = match &machine.store_file_system {
        Some(_) if machine.same_disk => free - journal,
        Some(disk) => disk.free_bytes as f64,
        // A server's disk can't be looked at from here.
        None => f64::INFINITY,
    };
    let need = format!(
        "{} waiting entries (buffer.max_entries) take {} in the journal, and {} as rows",
        config.buffer.max_entries,
        bytes(journal),
        bytes(rows)
    );
    if free < journal {
        let what = format!("{need}; {} are free: a full disk refuses claims", bytes(free));
        return Finding::bad("disk-space", Severity::Danger, what, "make room, or lower buffer.max_entries");
    }
    if store < rows {
        let what = format!("{need}; the database's disk has {} for them: the drain would stop", bytes(store));
        return Finding::bad("disk-space", Severity::Warning, what, "make room, or put store.url on a larger disk");
    }
    Finding::fine("disk-space", format!("{need}; {} are free", bytes(free)))
}

fn memory(config: &Config, figures: &Figures) -> Finding {
    let machine = &figures.machine;
    let limited = [config.antiscalper.user_rate, config.antiscalper.address_rate];
    let limiters = limited.iter().filter(|rate| **rate != Rate::Off).count() * config.antiscalper.max_keys * 8;
    if figures.redis.is_some() {
        return redis::gate_memory(figures, limiters as u64);
    }
    let Some(available) = machine.memory_available_bytes else {
        let what = "the system does not tell how much memory is available; 1 GiB is assumed";
        return Finding::bad("memory", Severity::Warning, what, "mount /proc");
    };
    // The book's third, as much again for the book that a snapshot replays into, and the rest for everything else.
    let rest = (available - 2 * machine.memory_book_bytes.min(available / 2)) as f64;
    let entries = config.buffer.max_entries as f64;
    let likely = entries * figures.claims.waiting_bytes;
    let others = (limits::CONNECTIONS_MAX * limits::CONNECTION_BYTES) as f64 + limiters as f64;
    let most = entries * limits::WAITING_ENTRY_BYTES as f64 + others;
    let found = format!(
        "{} are available: {} for the book, as much for snapshots, {} for the rest, of which {} waiting entries \
         (buffer.max_entries) take {} and {} at most with all connections",
        bytes(available as f64),
        bytes(machine.memory_book_bytes as f64),
        bytes(rest),
        config.buffer.max_entries,
        bytes(likely),
        bytes(most),
    );
    let fitting = ((rest - others).max(0.0) / limits::WAITING_ENTRY_BYTES as f64) as u64 / 1_000 * 1_000;
    let advice = match fitting {
        0 => "give the machine more memory".to_owned(),
        n => format!("give the machine more memory, or set buffer.max_entries to {n} or less"),
    };
    // Beside a running server, what it has taken already is not available, and it needs that only once.
    match () {
        () if rest < likely && machine.server.is_none() => Finding::bad("memory", Severity::Danger, found, advice),
        () if rest < most => Finding::bad("memory", Severity::Warning, found, advice),
        () => Finding::fine("memory", found),
    }
}

fn open_files(most: u64) -> Finding {
    let (need, connections) = (limits::OPEN_FILES_NEEDED, limits::CONNECTIONS_MAX);
    let room = limits::connections_max(most);
    if most >= need {
        return Finding::fine("open-files", format!("{most} files may be open, {need} are needed at most"));
    }
    Finding::bad(
        "open-files",
        Severity::Danger,
        format!(
            "{most} files may be open here, but {connections} connections need {need}: buyers beyond {room} are refused"
        ),
        format!("raise the limit where the server is started: LimitNOFILE={need} of its unit, or ulimit -n {need}"),
    )
}

fn callers(config: &Config) -> Finding {
    let ingest = &config.ingest;
    let beyond = !ingest.listen.ip().to_canonical().is_loopback();
    let open_admin = ingest.admin_token.is_empty() && ingest.admin_listen.is_beyond_loopback();
    if open_admin {
        let what = format!("the admin listener on {} asks for no token", ingest.admin_listen);
        return Finding::bad("callers", Severity::Danger, what, "set ingest.admin_token, or listen on loopback");
    }
    match ingest.auth {
        Auth::Open if beyond => Finding::bad(
            "callers",
            Severity::Danger,
            format!("ingest.auth = \"open\" on {}: anybody claims in anybody's name", ingest.listen),
            "set ingest.auth = \"service\", or listen on loopback",
        ),
        Auth::Open if !ingest.trusted_proxies.is_empty() => Finding::bad(
            "callers",
            Severity::Warning,
            "ingest.auth = \"open\" behind a proxy: whoever passes it claims in anybody's name",
            "set ingest.auth = \"service\", or see to it that the proxy lets only your own services through",
        ),
        Auth::Open => Finding::fine("callers", "anybody may claim, from this machine only"),
        Auth::Service | Auth::Session => {
            let admin = if matches!(ingest.admin_listen, AdminAddr::Unix(_)) { "a Unix socket" } else { "TCP" };
            Finding::fine("callers", format!("callers need a credential; operators come by {admin}"))
        }
    }
}

fn clock(figures: &Figures) -> Finding {
    let clock = &figures.clock;
    let moved = format!("the clock jumped by {} within {}", seconds(clock.step_seconds), seconds(clock.seconds));
    let advice = "have a time service slew the clock instead of setting it, well before the sale";
    if clock.step_seconds >= limits::CLOCK_JUMP_MILLIS as f64 / 1e3 {
        return Finding::bad("clock", Severity::Danger, format!("{moved}: sales open and close by it"), advice);
    }
    if clock.step_seconds >= limits::CLOCK_STEP_MILLIS as f64 / 1e3 {
        return Finding::bad("clock", Severity::Warning, moved, advice);
    }
    Finding::fine("clock", format!("the clock ran evenly for {}", seconds(clock.seconds)))
}

fn time_source(ntp: Ntp) -> Finding {
    match ntp {
        Ntp::Synchronised => Finding::fine("time-source", "systemd-timesyncd has synchronised the clock"),
        Ntp::Unsynchronised => Finding::bad(
            "time-source",
            Severity::Warning,
            "systemd-timesyncd runs, but has not synchronised the clock: sales open and close by it",
            "see `timedatectl timesync-status`",
        ),
        Ntp::Unknown => Finding::fine(
            "time-source",
            "unknown: no time service says in a file whether the clock is synchronised; ask `timedatectl` or `chronyc`",
        ),
    }
}

/// How large a sale fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sale {
    /// Units that the book's memory, or Redis', holds, over all campaigns together; none where Redis' is not known.
    pub units: Option<u64>,
    /// Claims a second that one core decides and makes durable, without HTTP; with Redis that Redis decides over one
    /// connection.
    pub claims_per_second: f64,
    /// The rate that the rest is worked out for: the one that was given, else the measured one.
    pub rate_per_second: f64,
    /// Rows a second that the drain writes while the machine has time for it.
    pub rows_per_second: f64,
    /// Entries that may wait: `buffer.max_entries`, or as many as Redis holds.
    pub buffer_entries: u64,
    /// Seconds of a burst at that rate until the buffer is full; none where the drain keeps up.
    pub seconds_until_full: Option<f64>,
    /// The same while the burst leaves the drain no time.
    pub seconds_until_full_without_drain: f64,
    /// Bytes of journal that such a burst writes in an hour. They are written, not kept: segments are used again.
    pub journal_bytes_per_hour: f64,
    /// What Redis holds; none where nothing is in it.
    pub redis: Option<RedisSale>,
}

/// What of a sale Redis holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RedisSale {
    /// Bytes that claims may take beside what is there, before gates refuse more; none where neither Redis nor its machine
    /// has a bound that is known.
    pub room_bytes: Option<u64>,
    /// Whether that is `maxmemory`'s bound, and not where the machine ends.
    pub is_bounded: bool,
    /// Claims that may wait for the database, if nothing else is there.
    pub waiting_entries: Option<u64>,
    /// The same of claims with an idempotency key.
    pub waiting_entries_with_key: Option<u64>,
    /// Claims that it holds once they are in the database: until their campaign is released.
    pub held_claims: Option<u64>,
    /// The same of claims with an idempotency key.
    pub held_claims_with_key: Option<u64>,
    /// Seconds at the rate until its memory is full, while the drain brings what it can into the database.
    pub seconds_until_full: Option<f64>,
    /// The same without a drain.
    pub seconds_until_full_without_drain: Option<f64>,
}

impl Sale {
    /// What follows from the figures, at `rate` claims a second or at the measured rate. None where claims could not be
    /// measured, because Redis takes none.
    pub fn of(config: &Config, figures: &Figures, rate: Option<u64>) -> Option<Self> {
        let (rows, mut entries) = (figures.rows.per_second, config.buffer.max_entries as u64);
        let claims = match &figures.redis {
            Some(redis) => redis.calls.as_ref()?.per_second,
            None => figures.claims.per_second(),
        };
        let rate = rate.map_or(claims, |rate| rate as f64);
        let redis = figures.redis.as_ref().and_then(|redis| {
            let calls = redis.calls.as_ref()?;
            Some(redis::sale(redis, calls, rate, rows))
        });
        let book = |winner: f64| (figures.machine.memory_book_bytes as f64 / winner) as u64;
        let units = match &redis {
            Some(redis) => redis.held_claims,
            None => figures.winners.as_ref().map(|winners| book(winners.table_bytes)),
        };
        entries = entries.min(redis.as_ref().and_then(|redis| redis.waiting_entries).unwrap_or(u64::MAX));
        Some(Self {
            units,
            claims_per_second: claims,
            rate_per_second: rate,
            rows_per_second: rows,
            buffer_entries: entries,
            seconds_until_full: (rate > rows).then(|| entries as f64 / (rate - rows)),
            seconds_until_full_without_drain: entries as f64 / rate,
            journal_bytes_per_hour: rate * figures.claims.journal_bytes * 3_600.0,
            redis,
        })
    }
}

#[cfg(test)]
mod tests;
