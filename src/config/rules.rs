//! Rules between settings, and what this version does not serve. Looked at after every key was read.

use std::collections::BTreeMap;

use redis::IntoConnectionInfo;

use super::layers::SERVICE_KEYS;
use super::read::{Reader, is_default};
use super::values::{self, AdminAddr, Auth, BufferKind, PartitionBy, StoreUrl};
use super::{Config, Problem};

/// Records every rule that `config` breaks.
pub(super) fn check(config: &Config, r: &mut Reader) {
    listeners(config, r);
    authentication(config, r);
    unserved(config, r);
    workers(config, r);
}

fn workers(config: &Config, r: &mut Reader) {
    if r.sound(&["workers.count", "store.url"]) && config.workers.count > 1 {
        let why = match config.store.url {
            StoreUrl::Sqlite(_) => "SQLite has one writer: more workers could not write sooner",
            StoreUrl::Postgres(_) | StoreUrl::MySql(_) => {
                "one transaction after the other moves the database's position"
            }
        };
        r.refuse("workers.count", format!("expected 0 or 1, because {why}"));
    }
}

fn listeners(config: &Config, r: &mut Reader) {
    let ingest = &config.ingest;
    let both = r.sound(&["ingest.listen", "ingest.admin_listen"]);
    let same = matches!(ingest.admin_listen, AdminAddr::Tcp(a) if a == ingest.listen && a.port() != 0);
    if both && same {
        r.refuse("ingest.admin_listen", "expected another address than ingest.listen: admin routes are never public");
    }
    let sound = r.sound(&["ingest.admin_listen", "ingest.admin_token"]);
    if sound && ingest.admin_listen.is_beyond_loopback() && ingest.admin_token.is_empty() {
        r.refuse(
            "ingest.admin_token",
            format!(
                "expected a token of 16 characters or more, because ingest.admin_listen = \"{}\" is beyond loopback; set \
                 it, or admin_token_file, or listen on 127.0.0.1",
                ingest.admin_listen
            ),
        );
    }
}

fn authentication(config: &Config, r: &mut Reader) {
    let ingest = &config.ingest;
    let open_to_all = ingest.auth == Auth::Open && !values::is_loopback(ingest.listen.ip());
    if r.sound(&["ingest.auth", "ingest.listen"]) && open_to_all {
        r.refuse(
            "ingest.auth",
            format!(
                "expected \"service\", because ingest.listen = \"{}\" is beyond loopback and anybody could claim for \
                 anybody; or listen on 127.0.0.1",
                ingest.listen
            ),
        );
    }
    if ingest.auth == Auth::Session {
        r.refuse("ingest.auth", "this version knows no sessions; expected \"open\" or \"service\"");
    }
    if !r.sound(&[SERVICE_KEYS]) {
        return;
    }
    if ingest.auth == Auth::Service && config.service_keys.is_empty() {
        r.refuse("ingest.auth", "expected at least one [[service_keys]] table; `forebay key new` makes one");
    }
    let (mut names, mut hashes) = (BTreeMap::new(), BTreeMap::new());
    for (index, key) in config.service_keys.iter().enumerate() {
        if let Some(first) = names.insert(&key.name, index) {
            repeated(
                r,
                index,
                "name",
                format!("{:?} is also the name of key {first}; expected unique names", key.name),
            );
        }
        if let Some(first) = hashes.insert(key.sha256, index) {
            repeated(r, index, "sha256", format!("the same key as {first}; expected one table a key"));
        }
    }
}

fn repeated(r: &mut Reader, index: usize, field: &str, message: String) {
    let key = format!("{SERVICE_KEYS}[{index}].{field}");
    let origin = r.origin(SERVICE_KEYS);
    r.add(Problem { key, value: None, origin, message });
}

/// What goes with a buffer in Redis, and with no other.
fn shared_mode(config: &Config, r: &mut Reader) {
    for key in ["redis.nodes", "redis.sentinels"] {
        if r.sound(&[key]) && !is_default(r, key) {
            r.refuse(key, "this version knows a single Redis only; expected an empty list");
        }
    }
    if !r.sound(&["buffer.kind", "redis.url"]) {
        return;
    }
    match (config.buffer.kind, config.redis.url.is_empty()) {
        (BufferKind::Redis, true) => {
            r.refuse("redis.url", "expected redis://…, rediss://… or unix://…, because buffer.kind = \"redis\"");
        }
        (BufferKind::Journal, false) => {
            r.refuse(
                "redis.url",
                "expected nothing, because buffer.kind = \"journal\"; or set buffer.kind = \"redis\"",
            );
        }
        (BufferKind::Redis, false) => {
            if let Err(why) = config.redis.url.expose().into_connection_info() {
                r.refuse("redis.url", format!("it can't be read: {why}"));
            }
        }
        (BufferKind::Journal, true) => {}
    }
}

/// Vocabulary of other versions: known, so that a configuration for it is told why it can't run, not that it is misspelt.
fn unserved(config: &Config, r: &mut Reader) {
    shared_mode(config, r);
    if matches!(config.store.url, StoreUrl::MySql(_)) {
        r.refuse("store.url", "MySQL is not in this version; expected sqlite:PATH, postgres://…, or nothing");
    }
    let is_server = matches!(config.store.url, StoreUrl::Postgres(_));
    if r.sound(&["store.url", "store.partition_by"]) && !is_server && config.store.partition_by != PartitionBy::None {
        r.refuse("store.partition_by", "expected \"none\": only a PostgreSQL database has partitions");
    }
    if !r.sound(&["store.url", "store.replica_url"]) {
        return;
    }
    match (&config.store.url, &config.store.replica_url) {
        (_, None) | (StoreUrl::Postgres(_), Some(StoreUrl::Postgres(_))) => {}
        (StoreUrl::Postgres(_), Some(_)) => r.refuse("store.replica_url", "expected postgres://…, as store.url is"),
        (_, Some(_)) => r.refuse("store.replica_url", "expected nothing: only a PostgreSQL database has a replica"),
    }
}
