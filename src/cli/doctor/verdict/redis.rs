//! What the figures of a Redis mean, and of a gate, which has no book.

use super::super::figures::{Figures, RedisCalls, RedisFigures, RedisServer};
use super::super::report::{bytes, seconds};
use super::{Finding, RedisSale, Severity};
use crate::config::Config;
use crate::limits;

/// What was looked at in Redis.
pub(super) fn findings(config: &Config, redis: &RedisFigures) -> Vec<Finding> {
    let mut all = vec![server(redis)];
    all.extend(settings(&redis.server));
    all.extend([memory(config, redis), round_trip(redis)]);
    all.extend(redis.calls.iter().map(|calls| call(config, calls)));
    all
}

fn server(redis: &RedisFigures) -> Finding {
    let (check, server, name) = ("redis", &redis.server, &redis.name);
    let danger = |what: String, advice: &str| Finding::bad(check, Severity::Danger, what, advice);
    match () {
        () if !server.has_functions => danger(
            format!("{name} is version {}, which has no functions", server.version),
            "install Redis 7.0 or newer",
        ),
        () if !server.is_primary => danger(
            format!("{name} repeats another's writes and takes none"),
            "name the server that it follows in redis.url",
        ),
        () if server.file_failed => danger(
            format!("{name} could not write its file: it takes nothing until it can"),
            "see its log; make room on its disk, or mend the disk",
        ),
        () => Finding::fine(check, format!("{name} is version {} and takes writes", server.version)),
    }
}

fn settings(server: &RedisServer) -> Vec<Finding> {
    let check = "redis-settings";
    let weak = server.weak.iter().map(|weak| {
        let set = "have redis.conf say appendonly yes, appendfsync always, maxmemory-policy noeviction";
        match &weak.name {
            Some(name) if weak.is_accepted => {
                Finding::bad(check, Severity::Warning, format!("{} (accepted as {name})", weak.what), set)
            }
            Some(name) => {
                let advice = format!("{set}; or accept it: redis.accept = [\"{name}\"]. Until then no gate starts");
                Finding::bad(check, Severity::Danger, weak.what.clone(), advice)
            }
            None => Finding::bad(check, Severity::Danger, weak.what.clone(), set),
        }
    });
    let mut all: Vec<_> = weak.collect();
    if all.is_empty() && server.has_functions {
        all.push(Finding::fine(check, "it syncs its append-only file before it answers, and evicts nothing"));
    }
    all
}

fn memory(config: &Config, redis: &RedisFigures) -> Finding {
    let (check, server) = ("redis-memory", &redis.server);
    let danger = |what: String, advice: &str| Finding::bad(check, Severity::Danger, what, advice);
    let (most, used) = (server.maxmemory_bytes, bytes(server.used_bytes as f64));
    let machine = server.machine_bytes;
    let of_machine = machine.map_or(String::new(), |all| format!(" of the machine's {}", bytes(all as f64)));
    let share = |all: u64| all / 100 * limits::REDIS_MACHINE_PERCENT;
    if most == 0 {
        let what = format!(
            "no maxmemory is set: {used} are used, gates never see that it is full, and it takes claims until its machine{} \
             has no memory and ends it",
            machine.map_or(String::new(), |all| format!(", which has {},", bytes(all as f64)))
        );
        let advice = match machine {
            Some(all) => format!("set maxmemory to {} or less", mebibytes(share(all))),
            None => "set maxmemory".to_owned(),
        };
        return danger(what, &advice);
    }
    if machine.is_some_and(|all| most >= all) {
        let what = format!("maxmemory is {}, all{of_machine}: it is ended before it is full", bytes(most as f64));
        return danger(what, &format!("set maxmemory to {} or less", mebibytes(share(machine.unwrap_or(most)))));
    }
    let room = server.room_bytes().unwrap_or(u64::MAX);
    if redis.calls.is_none() && room < limits::DOCTOR_REDIS_FREE_MIN {
        let what = format!(
            "{used} of maxmemory {} are used: {} are left before gates refuse claims, too little to measure in",
            bytes(most as f64),
            bytes(room as f64)
        );
        return danger(what, "give it more memory, or see what takes it");
    }
    let entries = config.buffer.max_entries as f64;
    let need = redis.calls.as_ref().map_or(0.0, |calls| entries * calls.waiting_bytes_with_key);
    let found = format!(
        "maxmemory is {}{of_machine}, {used} are used; {} waiting entries (buffer.max_entries) take {}",
        bytes(most as f64),
        config.buffer.max_entries,
        bytes(need)
    );
    let (severity, advice) = match () {
        () if machine.is_some_and(|all| most > share(all)) => {
            let why = "it needs memory beside that to rewrite its file: set maxmemory to ";
            (Severity::Warning, format!("{why}{} or less", mebibytes(share(machine.unwrap_or(most)))))
        }
        () if need > room as f64 => {
            let fitting = redis.calls.as_ref().map_or(0.0, |calls| room as f64 / calls.waiting_bytes_with_key) as u64;
            let fitting = fitting / 1_000 * 1_000;
            (Severity::Warning, format!("give it more memory, or set buffer.max_entries to {fitting} or less"))
        }
        () => return Finding::fine(check, found),
    };
    Finding::bad(check, severity, found, advice)
}

/// As redis.conf has it.
fn mebibytes(bytes: u64) -> String {
    format!("{}mb", bytes >> 20)
}

fn round_trip(redis: &RedisFigures) -> Finding {
    let (check, trip) = ("redis-round-trip", &redis.round_trip);
    let found =
        format!("it is {} away in the median, {} at most", seconds(trip.median_seconds), seconds(trip.max_seconds));
    if trip.median_seconds * 1e6 > limits::REDIS_FAR_MICROS as f64 {
        let advice = "run gates and workers in the same building as Redis";
        return Finding::bad(check, Severity::Warning, format!("{found}: every claim waits for it"), advice);
    }
    Finding::fine(check, found)
}

fn call(config: &Config, calls: &RedisCalls) -> Finding {
    let check = "redis-calls";
    let (median, most) = (calls.call_median_seconds, calls.call_max_seconds);
    let found =
        format!("a call of {} claims takes {} in the median, {} at most", calls.batch, seconds(median), seconds(most));
    if most >= config.redis.timeout.as_secs_f64() {
        return Finding::bad(
            check,
            Severity::Danger,
            format!("{found}: it would have counted as away, and claims been answered outcome-unknown"),
            "give Redis a processor and a disk of its own, or raise redis.timeout",
        );
    }
    if median > limits::SYNC_SLOW_MILLIS as f64 / 1e3 {
        let advice = "give Redis' append-only file a faster disk, or one of its own";
        return Finding::bad(check, Severity::Warning, format!("{found}, which buyers wait for"), advice);
    }
    Finding::fine(check, found)
}

/// A gate's memory: no book, no snapshots, nothing that waits. A worker's, which reads ahead, is bounded by as little.
pub(super) fn gate_memory(figures: &Figures, limiters: u64) -> Finding {
    let Some(available) = figures.machine.memory_available_bytes else {
        return Finding::bad(
            "memory",
            Severity::Warning,
            "the system does not tell how much is available",
            "mount /proc",
        );
    };
    let most = limits::CONNECTIONS_MAX * limits::CONNECTION_BYTES + limiters;
    let found =
        format!("{} are available; a gate takes {} with all connections", bytes(available as f64), bytes(most as f64));
    if available < most {
        return Finding::bad("memory", Severity::Warning, found, "give the machine more memory");
    }
    Finding::fine("memory", found)
}

/// What of claims Redis holds, and for how long at `rate` claims a second that the database takes `rows` of.
pub(super) fn sale(redis: &RedisFigures, calls: &RedisCalls, rate: f64, rows: f64) -> RedisSale {
    let room = redis.server.room_bytes();
    let number = |each: f64| room.map(|room| (room as f64 / each) as u64);
    let (waiting, held) = (calls.waiting_bytes, calls.held_bytes);
    let drained = rate.min(rows);
    let after = |a_second: f64| room.map(|room| room as f64 / a_second);
    RedisSale {
        room_bytes: room,
        is_bounded: redis.server.maxmemory_bytes > 0,
        waiting_entries: number(waiting),
        waiting_entries_with_key: number(calls.waiting_bytes_with_key),
        held_claims: number(held),
        held_claims_with_key: number(calls.held_bytes_with_key),
        seconds_until_full: after(drained * held + (rate - drained) * waiting),
        seconds_until_full_without_drain: after(rate * waiting),
    }
}
