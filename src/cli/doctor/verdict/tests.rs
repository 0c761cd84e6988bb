//! What is told of figures that are given: a table of what is wrong and what is said.

use super::super::figures::{
    ClaimFigures, ClaimRate, ClockFigures, Machine, RowFigures, StoreServer, SyncFigures, WinnerFigures,
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
        rows: RowFigures { batch: 1_000, rows: 1, per_second: 100_000.0, bytes: 300.0 },
        winners: WinnerFigures { winners: 1, table_bytes: 111.0, resident_bytes: 38.4, resident_bytes_with_key: 109.0 },
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
    let sale = Sale::of(&config("[buffer]\nmax_entries = 1_000_000"), &sound());
    assert_eq!(sale.units, (8u64 << 30) / 111);
    assert_eq!(sale.claims_per_second, 1_100_000.0);
    assert_eq!(sale.seconds_until_full, Some(1.0));
    assert!((sale.seconds_until_full_without_drain - 1.0 / 1.1).abs() < 1e-9);
    assert_eq!(sale.journal_bytes_per_hour, 1_100_000.0 * 60.0 * 3_600.0);
    let mut slow = sound();
    slow.claims.rates[1].per_second = 90_000.0;
    assert_eq!(Sale::of(&config(""), &slow).seconds_until_full, None, "the drain keeps up");
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
