//! From settings to typed values, strictly: a wrong type or a number out of range is a problem, never a clamp.
//!
//! A setting that can't be read takes the first value of its type so that the rest can be looked at too; the whole is
//! refused in the end, and rules that involve a failed key stay silent about it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::{Value, ValueKind};
use ipnet::IpNet;
use serde::Deserialize;

use super::layers::{KNOWN, Layered, Problem, SERVICE_KEYS, Settings, problem};
use super::values::{self, AdminAddr, Auth, BufferKind, PartitionBy, Scope, Secret, ServiceKey, StoreUrl};
use super::{Antiscalper, Buffer, Cache, Campaigns, Config, Ingest, Redis, Shutdown, Store, Workers};
use crate::limits;
use crate::sale::Durability;
use crate::sale::rate::{Rate, RateError};

/// Ranges of what an operator may set; `defaults.toml` tells them, and a test holds it to these.
pub(super) const THREADS: RangeInclusive<usize> = 0..=limits::THREADS_MAX;
pub(super) const CONNECTIONS_PER_ADDRESS: RangeInclusive<usize> = 0..=limits::CONNECTIONS_MAX as usize;
pub(super) const MAX_KEYS: RangeInclusive<usize> = 1_000..=100_000_000;
pub(super) const MAX_ENTRIES: RangeInclusive<usize> = 1_000..=100_000_000;
pub(super) const WORKERS: RangeInclusive<usize> = 0..=64;
pub(super) const BATCH_MAX: RangeInclusive<usize> = 1..=10_000;
/// Durations in their own notation, as messages and the document show them.
pub(super) const ACK_DEADLINE: [&str; 2] = ["100ms", "60s"];
pub(super) const SETTLE_GRACE: [&str; 2] = ["0s", "1h"];
pub(super) const KEEP_JOURNAL: [&str; 2] = ["0s", "720h"];
pub(super) const RELEASE_AFTER: [&str; 2] = ["1m", "8760h"];
pub(super) const LOCAL_TTL: [&str; 2] = ["0s", "60s"];
pub(super) const REDIS_TTL: [&str; 2] = ["0s", "60s"];
pub(super) const REDIS_TIMEOUT: [&str; 2] = ["100ms", "30s"];
pub(super) const REDIS_LEASE: [&str; 2] = ["1s", "60s"];
pub(super) const GRACE: [&str; 2] = ["0s", "10m"];

/// What of Redis' settings makes it forget, by the names under which that can be accepted.
const WEAK_SETTINGS: [&str; 4] = ["appendonly=no", "appendfsync=everysec", "appendfsync=no", "maxmemory-policy"];

const DURABILITIES: [(&str, Durability); 2] = [("disk", Durability::Disk), ("memory", Durability::Memory)];

/// Reads settings and collects what is wrong with them.
pub(super) struct Reader {
    settings: Settings,
    problems: Vec<Problem>,
    failed: BTreeSet<String>,
}

impl Reader {
    pub(super) fn new(layered: Layered) -> Self {
        Self { settings: layered.settings, problems: layered.problems, failed: BTreeSet::new() }
    }

    /// Every problem, in the order of the keys.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        self.problems.sort_by(|a, b| a.key.cmp(&b.key));
        self.problems
    }

    /// Records what is wrong with `key`'s value.
    pub(super) fn refuse(&mut self, key: &str, message: impl Into<String>) {
        let value = self.settings.get(key).cloned().unwrap_or_else(|| Value::new(None, ValueKind::Nil));
        self.problems.push(problem(key, &value, message.into()));
        self.failed.insert(key.to_owned());
    }

    /// Records a problem that is not about one key's whole value.
    pub(super) fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Where `key` was set.
    pub(super) fn origin(&self, key: &str) -> Option<String> {
        self.settings.get(key).and_then(|v| v.origin()).map(str::to_owned)
    }

    /// Whether these keys were all read.
    pub(super) fn sound(&self, keys: &[&str]) -> bool {
        keys.iter().all(|k| !self.failed.contains(*k))
    }

    fn kind(&self, key: &str) -> ValueKind {
        self.settings.get(key).map_or(ValueKind::Nil, |v| v.kind.clone())
    }

    /// A text that `parse` accepts, else the problem and none.
    fn parsed<T>(&mut self, key: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let read = match self.kind(key) {
            ValueKind::String(text) => parse(&text),
            _ => None,
        };
        if read.is_none() {
            self.refuse(key, format!("expected {expected}"));
        }
        read
    }

    fn words<T: Copy>(&mut self, key: &str, words: &[(&'static str, T)]) -> T {
        let list: Vec<_> = words.iter().map(|(w, _)| format!("{w:?}")).collect();
        let expected = format!("one of {}", list.join(", "));
        self.parsed(key, &expected, |text| values::word(words, text)).unwrap_or(words[0].1)
    }

    fn number(&mut self, key: &str, range: RangeInclusive<usize>) -> usize {
        let number = match self.kind(key) {
            ValueKind::I64(n) => usize::try_from(n).ok().filter(|n| range.contains(n)),
            _ => None,
        };
        number.unwrap_or_else(|| {
            self.refuse(key, format!("expected a whole number from {} to {}", range.start(), range.end()));
            *range.start()
        })
    }

    fn duration(&mut self, key: &str, [least, most]: [&str; 2]) -> Duration {
        let bound = |text| values::parse_duration(text).unwrap_or_default();
        let range = bound(least)..=bound(most);
        let expected = format!("a duration such as 500ms, 30s, 15m, 24h, from {least} to {most}");
        self.parsed(key, &expected, |text| values::parse_duration(text).filter(|d| range.contains(d)))
            .unwrap_or(bound(least))
    }

    fn secret(&mut self, key: &str, expected: &str, sound: impl Fn(&str) -> bool) -> Secret {
        self.parsed(key, expected, |text| (text.is_empty() || sound(text)).then(|| Secret::new(text)))
            .unwrap_or_default()
    }

    fn list<T>(&mut self, key: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let ValueKind::Array(items) = self.kind(key) else {
            self.refuse(key, format!("expected a list of texts, each {expected}"));
            return Vec::new();
        };
        let mut out = Vec::with_capacity(items.len());
        for item in &items {
            match &item.kind {
                ValueKind::String(text) if let Some(value) = parse(text) => out.push(value),
                kind => {
                    let wrong = if let ValueKind::String(text) = kind { format!("{text:?}") } else { kind.to_string() };
                    self.refuse(key, format!("{wrong} in the list: expected {expected}"));
                }
            }
        }
        out
    }
}

/// Reads every key.
pub(super) fn read(r: &mut Reader) -> Config {
    let data_dir = r
        .parsed("buffer.data_dir", "the path of a folder", |t| (!t.is_empty() && !t.contains('\0')).then(|| t.into()))
        .unwrap_or_else(|| PathBuf::from("."));
    Config {
        ingest: ingest(r),
        service_keys: service_keys(r),
        antiscalper: Antiscalper {
            user_rate: rate(r, "antiscalper.user_rate"),
            address_rate: rate(r, "antiscalper.address_rate"),
            max_keys: r.number("antiscalper.max_keys", MAX_KEYS),
        },
        store: store(r, &data_dir),
        buffer: Buffer {
            kind: r.words("buffer.kind", &BufferKind::WORDS),
            data_dir,
            durability: r.words("buffer.durability", &DURABILITIES),
            max_entries: r.number("buffer.max_entries", MAX_ENTRIES),
            keep_journal: r.duration("buffer.keep_journal", KEEP_JOURNAL),
        },
        redis: redis(r),
        workers: Workers {
            count: r.number("workers.count", WORKERS),
            batch_max: r.number("workers.batch_max", BATCH_MAX),
        },
        campaigns: Campaigns {
            settle_grace: r.duration("campaigns.settle_grace", SETTLE_GRACE),
            release_after: r.duration("campaigns.release_after", RELEASE_AFTER),
        },
        cache: Cache {
            local_ttl: r.duration("cache.local_ttl", LOCAL_TTL),
            redis_ttl: r.duration("cache.redis_ttl", REDIS_TTL),
        },
        shutdown: Shutdown { grace: r.duration("shutdown.grace", GRACE) },
    }
}

fn ingest(r: &mut Reader) -> Ingest {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let address = "an address as IP:port, such as 127.0.0.1:8080 or [::1]:8080 (a name such as localhost is not one)";
    let admin = "an address as IP:port, such as 127.0.0.1:8081, or a Unix socket as unix:/path (at most 107 bytes)";
    let token = "16 to 1024 visible ASCII characters, or nothing";
    Ingest {
        listen: r.parsed("ingest.listen", address, |t| t.parse().ok()).unwrap_or(loopback),
        admin_listen: r.parsed("ingest.admin_listen", admin, AdminAddr::parse).unwrap_or(AdminAddr::Tcp(loopback)),
        admin_token: r.secret("ingest.admin_token", token, |t| {
            (16..=1024).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic())
        }),
        threads: r.number("ingest.threads", THREADS),
        auth: r.words("ingest.auth", &Auth::WORDS),
        connections_per_address: r.number("ingest.connections_per_address", CONNECTIONS_PER_ADDRESS) as u32,
        trusted_proxies: r.list(
            "ingest.trusted_proxies",
            "a network such as 10.0.0.0/8 or fd00::/8, or one address",
            |t| t.parse::<IpNet>().ok().or_else(|| t.parse().ok().map(|ip: std::net::IpAddr| IpNet::from(ip))),
        ),
        cors_origins: r.list(
            "ingest.cors_origins",
            "an origin such as https://shop.example or http://localhost:3000",
            |t| values::is_origin(t).then(|| t.to_owned()),
        ),
        ack_deadline: r.duration("ingest.ack_deadline", ACK_DEADLINE),
    }
}

fn rate(r: &mut Reader, key: &str) -> Rate {
    let ValueKind::String(text) = r.kind(key) else {
        r.refuse(key, "expected a rate as text, such as \"10/s\", \"600/m\", \"5000/h\", or \"off\"");
        return Rate::Off;
    };
    text.parse().unwrap_or_else(|e: RateError| {
        r.refuse(key, e.to_string());
        Rate::Off
    })
}

fn redis(r: &mut Reader) -> Redis {
    let scheme = |t: &str| ["redis://", "rediss://", "unix://"].iter().any(|s| t.len() > s.len() && t.starts_with(s));
    let node = |t: &str| {
        t.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()).map(|_| t.to_owned())
    };
    let accepted = format!("one of {}", WEAK_SETTINGS.map(|weak| format!("{weak:?}")).join(", "));
    Redis {
        url: r.secret("redis.url", "redis://…, rediss://… or unix://…", scheme),
        nodes: r.list("redis.nodes", "a node as host:port", node),
        sentinels: r.list("redis.sentinels", "a sentinel as host:port", node),
        timeout: r.duration("redis.timeout", REDIS_TIMEOUT),
        lease: r.duration("redis.lease", REDIS_LEASE),
        lanes: r.number("redis.lanes", 0..=limits::LANES_MAX),
        accept: r.list("redis.accept", &accepted, |t| WEAK_SETTINGS.contains(&t).then(|| t.to_owned())),
    }
}

fn store(r: &mut Reader, data_dir: &std::path::Path) -> Store {
    let expected = "sqlite:PATH (a file, without parameters), postgres://… or mysql://…";
    let url = |text: &str| if text.is_empty() { Some(None) } else { StoreUrl::parse(text).map(Some) };
    let main = r.parsed("store.url", expected, url).flatten();
    Store {
        url: main.unwrap_or_else(|| StoreUrl::Sqlite(data_dir.join("forebay.db"))),
        replica_url: r.parsed("store.replica_url", expected, url).flatten(),
        partition_by: r.words("store.partition_by", &PartitionBy::WORDS),
    }
}

#[derive(Deserialize)]
struct RawKey {
    name: String,
    sha256: String,
    scopes: Vec<String>,
}

const RAW_KEY_FIELDS: [&str; 3] = ["name", "sha256", "scopes"];

fn service_keys(r: &mut Reader) -> Vec<ServiceKey> {
    let Some(value) = r.settings.get(SERVICE_KEYS).cloned() else { return Vec::new() };
    let origin = value.origin().map(str::to_owned);
    let ValueKind::Array(tables) = value.kind else {
        r.refuse(SERVICE_KEYS, "expected tables, each written [[service_keys]] with name, sha256 and scopes");
        return Vec::new();
    };
    let mut keys = Vec::with_capacity(tables.len());
    for (index, table) in tables.into_iter().enumerate() {
        match service_key(table) {
            Ok(key) => keys.push(key),
            Err((field, message)) => {
                let dot = if field.is_empty() { "" } else { "." };
                let key = format!("{SERVICE_KEYS}[{index}]{dot}{field}");
                r.problems.push(Problem { key, value: None, origin: origin.clone(), message });
                r.failed.insert(SERVICE_KEYS.to_owned());
            }
        }
    }
    keys
}

/// One key, or the field that is wrong and why. A whole key in place of its hash is a likely slip, so no value is shown.
fn service_key(value: Value) -> Result<ServiceKey, (String, String)> {
    let fail = |field: &str, message: &str| Err((field.to_owned(), message.to_owned()));
    let ValueKind::Table(table) = &value.kind else { return fail("", "expected a table with name, sha256 and scopes") };
    if let Some(field) = table.keys().find(|f| !RAW_KEY_FIELDS.contains(&f.as_str())) {
        let near = RAW_KEY_FIELDS.iter().min_by_key(|known| strsim::damerau_levenshtein(field, known));
        let message = format!("no such key; the nearest known one is {}", near.copied().unwrap_or_default());
        return Err((field.escape_debug().to_string(), message));
    }
    if let Some(field) = RAW_KEY_FIELDS.iter().find(|f| !table.contains_key(**f)) {
        return fail(field, "missing; a service key needs name, sha256 and scopes");
    }
    for field in ["name", "sha256"] {
        if !matches!(table.get(field).map(|v| &v.kind), Some(ValueKind::String(_))) {
            return fail(field, "expected text");
        }
    }
    let raw: RawKey = serde_path_to_error::deserialize(value)
        .map_err(|e| (e.path().to_string(), "expected a list of texts, such as [\"claims:write\"]".to_owned()))?;
    if crate::sale::UserId::parse(&raw.name).is_err() {
        return fail(
            "name",
            "expected 1 to 64 characters of A-Z a-z 0-9 . _ : @ | + = -, the first a letter or a digit",
        );
    }
    let Some(sha256) = values::parse_sha256(&raw.sha256) else {
        return fail("sha256", "expected the SHA-256 of the key: 64 hex digits (`forebay key new` prints it)");
    };
    if raw.scopes.is_empty() {
        return fail("scopes", "expected at least one scope");
    }
    let mut scopes = Vec::with_capacity(raw.scopes.len());
    for text in &raw.scopes {
        let Some(scope) = Scope::parse(text) else {
            let words: Vec<_> = Scope::WORDS.iter().map(|(w, _)| *w).collect();
            return Err(("scopes".to_owned(), format!("{text:?} is no scope; expected among {}", words.join(", "))));
        };
        if scopes.contains(&scope) {
            return Err(("scopes".to_owned(), format!("{text:?} is there twice")));
        }
        scopes.push(scope);
    }
    Ok(ServiceKey { name: raw.name, sha256, scopes })
}

/// Keys that stay at their default, for rules that ask whether something was set.
pub(super) fn is_default(r: &Reader, key: &str) -> bool {
    r.settings.get(key).map(|v| &v.kind) == KNOWN.get(key).map(|v| &v.kind)
}
