//! What is told of figures that are given: a table of what is wrong and what is said.

use super::super::figures::{
    ClaimFigures, ClaimRate, ClockFigures, Machine, RedisCalls, RedisFigures, RedisServer, RedisWeak, RoundTrips,
    RowFigures, StoreServer, SyncFigures, WinnerFigures,
};
use super::*;
use crate::config::{FileText, Overrides};

fn config(text: &str) -> Config {
    Config::from_parts(Some(FileText { name: "test", text }), [], &Overrides::default()).unwrap()
}

/// A machine with nothing to complain about.
fn sound() -> Figures {
    let disk = || FileSystem { name: "ext4".to_owned(), free_bytes: 100 << 30 };
    Figures {
        machine: Machine {
            data_dir: "data".into(),
            store: "data/forebay.db".into(),
            server: None,
            file_system: disk(),
            store_file_system: Some(disk()),
            store_server: None,
            same_disk: true,
            open_files: 1 << 20,
            memory_available_bytes: Some(24 << 30),
            memory_book_bytes: 8 << 30,
        },
        sync: SyncFigures {
            count: 1_000,
            bytes: 4_096,
            median_seconds: 100e-6,
            p99_seconds: 400e-6,
            max_seconds: 0.01,
            processor_seconds: 50e-6,
        },
        claims: ClaimFigures {
            rates: vec![
                ClaimRate { batch: 64, claims: 1, per_second: 500_000.0, processor_seconds: 1e-6 },
                ClaimRate { batch: 256, claims: 1, per_second: 1_100_000.0, processor_seconds: 0.5e-6 },
            ],
            journal_bytes: 60.0,
            waiting_bytes: 70.0,
        },
        rows: RowFigures {
            batch: 1_000,
            rows: 1,
            per_second: 100_000.0,
            transaction_median_seconds: 0.01,
            transaction_max_seconds: 0.02,
            bytes: 300.0,
        },
        winners: Some(WinnerFigures {
            winners: 1,
            table_bytes: 111.0,
            resident_bytes: 38.4,
            resident_bytes_with_key: 109.0,
        }),
        redis: None,
        clock: ClockFigures { seconds: 8.0, step_seconds: 0.0, ntp: Ntp::Synchronised },
    }
}

#[test]
fn a_sound_machine_has_nothing_dangerous() {
    let all = findings(&config(""), &sound());
    assert!(all.iter().all(|f| f.severity == Severity::Fine && f.advice.is_empty()), "{all:#?}");
    assert_eq!(all.len(), 10);
}

#[test]
fn each_danger_is_named_with_what_to_do() {
    type Break = fn(&mut Figures, &mut Config);
    let cases: [(&str, Severity, Break); 20] = [
        ("durability", Severity::Danger, |_, c| c.buffer.durability = Durability::Memory),
        ("sync", Severity::Danger, |f, _| f.sync.median_seconds = 19e-6),
        ("sync", Severity::Danger, |f, _| f.sync.max_seconds = 5.0),
        ("sync", Severity::Warning, |f, _| f.sync.p99_seconds = 0.021),
        ("data-file-system", Severity::Danger, |f, _| f.machine.file_system.name = "tmpfs".into()),
        ("data-file-system", Severity::Danger, |f, _| f.machine.file_system.name = "overlay".into()),
        ("data-file-system", Severity::Danger, |f, _| f.machine.file_system.name = "nfs".into()),
        ("data-file-system", Severity::Warning, |f, _| f.machine.file_system.name = "btrfs".into()),
        ("store-file-system", Severity::Danger, |f, _| {
            f.machine.store_file_system.as_mut().unwrap().name = "nfs".into()
        }),
        ("disk-space", Severity::Danger, |f, _| f.machine.file_system.free_bytes = 1 << 30),
        ("disk-space", Severity::Warning, |f, _| f.machine.file_system.free_bytes = 3 << 30),
        ("memory", Severity::Danger, |f, _| {
            f.machine.memory_available_bytes = Some(1_500 << 20);
            f.machine.memory_book_bytes = 500 << 20;
        }),
        ("memory", Severity::Warning, |f, _| {
            f.machine.memory_available_bytes = Some(3 << 30);
            f.machine.memory_book_bytes = 1 << 30;
        }),
        ("memory", Severity::Warning, |f, _| f.machine.memory_available_bytes = None),
        ("open-files", Severity::Danger, |f, _| f.machine.open_files = limits::OPEN_FILES_NEEDED - 1),
        ("callers", Severity::Danger, |_, c| c.ingest.listen = ([0, 0, 0, 0], 8_080).into()),
        ("callers", Severity::Warning, |_, c| c.ingest.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()]),
        ("clock", Severity::Danger, |f, _| f.clock.step_seconds = 1.0),
        ("clock", Severity::Warning, |f, _| f.clock.step_seconds = 0.005),
        ("time-source", Severity::Warning, |f, _| f.clock.ntp = Ntp::Unsynchronised),
    ];
    for (check, severity, broken) in cases {
        let (mut figures, mut config) = (sound(), config(""));
        broken(&mut figures, &mut config);
        let all = findings(&config, &figures);
        let bad: Vec<_> = all.iter().filter(|f| f.severity != Severity::Fine).collect();
        assert_eq!(bad.len(), 1, "{check}: {all:#?}");
        assert_eq!((bad[0].check, bad[0].severity), (check, severity), "{all:#?}");
        assert!(!bad[0].advice.is_empty(), "{check}");
        assert_eq!(all[0].check, check, "the worst comes first");
    }
}

#[test]
fn what_a_running_server_has_taken_is_not_missing() {
    let mut figures = sound();
    figures.machine.memory_available_bytes = Some(1_500 << 20);
    figures.machine.memory_book_bytes = 500 << 20;
    figures.machine.server = Some(17);
    let all = findings(&config(""), &figures);
    assert_eq!((all[0].check, all[0].severity), ("memory", Severity::Warning), "{all:#?}");
    assert!(all.iter().any(|f| f.check == "server" && f.what.contains("process 17")), "{all:#?}");
}

#[test]
fn advice_on_memory_names_a_number_that_fits() {
    let mut figures = sound();
    figures.machine.memory_available_bytes = Some(3 << 30);
    figures.machine.memory_book_bytes = 1 << 30;
    let mut config = config("");
    let all = findings(&config, &figures);
    let number = all[0].advice.split("max_entries to ").nth(1).and_then(|rest| rest.split(' ').next());
    config.buffer.max_entries = number.and_then(|n| n.parse().ok()).expect("a number");
    assert!(findings(&config, &figures).iter().all(|f| f.severity == Severity::Fine));
}

#[test]
fn a_sale_is_as_large_as_memory_buffer_and_drain_allow() {
    let sale = Sale::of(&config("[buffer]\nmax_entries = 1_000_000"), &sound(), None).unwrap();
    assert_eq!(sale.units, Some((8u64 << 30) / 111));
    assert_eq!(sale.claims_per_second, 1_100_000.0);
    assert_eq!(sale.seconds_until_full, Some(1.0));
    assert!((sale.seconds_until_full_without_drain - 1.0 / 1.1).abs() < 1e-9);
    assert_eq!(sale.journal_bytes_per_hour, 1_100_000.0 * 60.0 * 3_600.0);
    let mut slow = sound();
    slow.claims.rates[1].per_second = 90_000.0;
    assert_eq!(Sale::of(&config(""), &slow, None).unwrap().seconds_until_full, None, "the drain keeps up");
    let asked = Sale::of(&config("[buffer]\nmax_entries = 1_000_000"), &slow, Some(200_000)).unwrap();
    assert_eq!((asked.seconds_until_full, asked.seconds_until_full_without_drain), (Some(10.0), 5.0));
}

#[test]
fn a_server_that_may_lose_commits_is_named() {
    let server = |weak: &[&str], others: &[&str], is_replica| {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Some(StoreServer { version: "15.4".into(), weak: words(weak), weak_for_others: words(others), is_replica })
    };
    for (server, severity, word) in [
        (server(&[], &[], false), Severity::Fine, "15.4"),
        (server(&["fsync = off: bad"], &[], false), Severity::Danger, "fsync"),
        (server(&[], &["synchronous_commit = off: bad"], false), Severity::Warning, "synchronous_commit"),
        (server(&[], &[], true), Severity::Danger, "repeats"),
    ] {
        let mut figures = sound();
        (figures.machine.store_server, figures.machine.store_file_system) = (server, None);
        let all = findings(&config(""), &figures);
        let found = all.iter().find(|f| f.check == "store-server").unwrap();
        assert!(found.severity == severity && found.what.contains(word), "{found:?}");
        assert!(!all.iter().any(|f| f.check == "store-file-system"));
    }
}

const SHARED: &str = "[buffer]\nkind = \"redis\"\nmax_entries = 1_000_000\n[redis]\nurl = \"unix:///r\"\n";

/// A gate's machine and a Redis with nothing to complain about.
fn sound_redis() -> Figures {
    let server = RedisServer {
        version: "7.0.15".to_owned(),
        has_functions: true,
        is_primary: true,
        weak: Vec::new(),
        maxmemory_bytes: 4_000_000_000,
        used_bytes: 80_000_000,
        machine_bytes: Some(16_000_000_000),
        file_failed: false,
    };
    let calls = RedisCalls {
        batch: 64,
        claims: 100_000,
        per_second: 50_000.0,
        call_median_seconds: 0.001,
        call_max_seconds: 0.02,
        processor_seconds: Some(5e-6),
        waiting_bytes: 300.0,
        held_bytes: 200.0,
        waiting_bytes_with_key: 400.0,
        held_bytes_with_key: 360.0,
    };
    let round_trip = RoundTrips { count: 50, median_seconds: 100e-6, max_seconds: 0.001 };
    let redis = RedisFigures { name: "/r".to_owned(), server, round_trip, calls: Some(calls) };
    Figures { redis: Some(redis), winners: None, ..sound() }
}

#[test]
fn a_sound_redis_has_nothing_dangerous() {
    let all = findings(&config(SHARED), &sound_redis());
    assert!(all.iter().all(|f| f.severity == Severity::Fine && f.advice.is_empty()), "{all:#?}");
    let redis: Vec<_> = all.iter().map(|f| f.check).filter(|check| check.starts_with("redis")).collect();
    assert_eq!(redis, ["redis", "redis-settings", "redis-memory", "redis-round-trip", "redis-calls"]);
}

#[test]
fn each_danger_of_redis_is_named_with_what_to_do() {
    type Break = fn(&mut RedisFigures);
    let weak = |is_accepted| RedisWeak { what: "it forgets".into(), name: Some("appendonly=no".into()), is_accepted };
    let (refused, accepted) = (weak(false), weak(true));
    let cases: [(&str, Severity, Break); 12] = [
        ("redis", Severity::Danger, |r| (r.server.has_functions, r.calls) = (false, None)),
        ("redis", Severity::Danger, |r| (r.server.is_primary, r.calls) = (false, None)),
        ("redis", Severity::Danger, |r| (r.server.file_failed, r.calls) = (true, None)),
        ("redis-memory", Severity::Danger, |r| r.server.maxmemory_bytes = 0),
        ("redis-memory", Severity::Danger, |r| (r.server.maxmemory_bytes, r.server.machine_bytes) = (0, None)),
        ("redis-memory", Severity::Danger, |r| r.server.machine_bytes = Some(4_000_000_000)),
        ("redis-memory", Severity::Danger, |r| (r.server.used_bytes, r.calls) = (3_600_000_000, None)),
        ("redis-memory", Severity::Warning, |r| r.server.machine_bytes = Some(5_000_000_000)),
        ("redis-memory", Severity::Warning, |r| r.server.used_bytes = 3_400_000_000),
        ("redis-round-trip", Severity::Warning, |r| r.round_trip.median_seconds = 0.003),
        ("redis-calls", Severity::Danger, |r| r.calls.as_mut().unwrap().call_max_seconds = 1.0),
        ("redis-calls", Severity::Warning, |r| r.calls.as_mut().unwrap().call_median_seconds = 0.021),
    ];
    let mut all: Vec<(&str, Severity, Figures)> = Vec::new();
    for (check, severity, broken) in cases {
        let mut figures = sound_redis();
        broken(figures.redis.as_mut().unwrap());
        all.push((check, severity, figures));
    }
    for (weak, severity) in [(refused, Severity::Danger), (accepted, Severity::Warning)] {
        let mut figures = sound_redis();
        figures.redis.as_mut().unwrap().server.weak.push(weak);
        all.push(("redis-settings", severity, figures));
    }
    for (check, severity, figures) in all {
        let found = findings(&config(SHARED), &figures);
        let bad: Vec<_> = found.iter().filter(|f| f.severity != Severity::Fine).collect();
        assert_eq!(bad.len(), 1, "{check}: {found:#?}");
        assert_eq!((bad[0].check, bad[0].severity), (check, severity), "{found:#?}");
        assert!(!bad[0].advice.is_empty(), "{check}");
    }
}

#[test]
fn a_redis_that_takes_nothing_makes_no_sale() {
    let mut figures = sound_redis();
    figures.redis.as_mut().unwrap().calls = None;
    assert_eq!(Sale::of(&config(SHARED), &figures, None), None);
}

#[test]
fn redis_holds_what_its_memory_and_the_rate_allow() {
    // 92 % of 4 GB, without the 80 MB that are used: 3.6 GB of room.
    let sale = Sale::of(&config(SHARED), &sound_redis(), Some(200_000)).unwrap();
    let redis = sale.redis.unwrap();
    assert_eq!((redis.room_bytes, redis.is_bounded), (Some(3_600_000_000), true));
    assert_eq!((redis.waiting_entries, redis.waiting_entries_with_key), (Some(12_000_000), Some(9_000_000)));
    assert_eq!((redis.held_claims, redis.held_claims_with_key), (Some(18_000_000), Some(10_000_000)));
    assert_eq!(sale.units, redis.held_claims);
    // A second brings 100,000 claims into the database, which stay held, and leaves 100,000 waiting: 50 MB.
    assert_eq!(redis.seconds_until_full, Some(72.0));
    assert_eq!(redis.seconds_until_full_without_drain, Some(60.0));
    assert_eq!((sale.buffer_entries, sale.seconds_until_full), (1_000_000, Some(10.0)));
    assert_eq!((sale.claims_per_second, sale.rate_per_second), (50_000.0, 200_000.0));

    let mut small = sound_redis();
    small.redis.as_mut().unwrap().server.used_bytes = 3_560_000_000;
    let sale = Sale::of(&config(SHARED), &small, None).unwrap();
    assert_eq!(sale.buffer_entries, 400_000, "120 MB of room bound the buffer, not max_entries");
    assert_eq!(sale.redis.unwrap().seconds_until_full, Some(12.0), "the drain keeps up, and what it drained is held");

    let mut unknown = sound_redis();
    let server = &mut unknown.redis.as_mut().unwrap().server;
    (server.maxmemory_bytes, server.machine_bytes) = (0, None);
    let sale = Sale::of(&config(SHARED), &unknown, None).unwrap();
    assert_eq!((sale.units, sale.buffer_entries), (None, 1_000_000));
    let redis = sale.redis.unwrap();
    assert_eq!((redis.room_bytes, redis.seconds_until_full, redis.is_bounded), (None, None, false));
}
