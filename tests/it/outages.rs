//! The database locked, broken, moved away, not writable: claims are taken all the same, the lag is visible, and
//! everything drains afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::support::http::{Connection, Request};
use crate::support::sale::{batch_for, claim, flash_sale};
use crate::support::sql::Lock;
use crate::support::{Server, Site, eventually};

const CLAIMS: usize = 300;

/// Takes claims that must all be acknowledged.
fn sell(server: &Server, from: usize) {
    let mut connection = Connection::open(server.public).unwrap();
    for no in from..from + CLAIMS {
        let answer = connection.call(&claim("outage", &format!("u{no}"))).unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
}

/// Sells while `broken` holds, sees the lag, then lets `mend` run and waits for the rows.
fn through(site: &Site, broken: impl FnOnce(), mend: impl FnOnce()) {
    let server = site.start();
    server.create(&flash_sale("outage", 100_000));
    sell(&server, 0);
    server.drained("outage");
    broken();
    sell(&server, CLAIMS);
    eventually("the lag is visible", || {
        let age = server.metric("forebay_buffer_oldest_age_seconds").unwrap_or_default();
        server.metric("forebay_buffer_entries") == Some(CLAIMS as f64) && age > 0.5
    });
    let balance = server.balance("outage");
    assert_eq!((&balance["accepted"], &balance["dead"]), (&json!(CLAIMS), &json!(0)), "an outage is no poison");
    eventually("it is tried again", || server.metric("forebay_drain_retries_total").is_some_and(|n| n >= 1.0));
    assert_eq!(server.ask_admin(&Request::get("/livez")).status, 200);
    mend();
    let balance = server.drained("outage");
    assert_eq!((&balance["persisted"], &balance["dead"]), (&json!(2 * CLAIMS), &json!(0)), "{balance}");
    assert_eq!(site.number("SELECT count(*) FROM claims"), 2 * CLAIMS as i64);
    sell(&server, 2 * CLAIMS);
    assert_eq!(server.drained("outage")["persisted"], 3 * CLAIMS);
    assert!(server.stop().success());
    let audit = site.run(["audit"]);
    assert_eq!(audit.status.code(), Some(0), "{}{}", crate::support::stdout(&audit), crate::support::stderr(&audit));
}

#[test]
fn a_locked_database_delays_rows_and_loses_none() {
    let site = Site::new();
    let lock = std::cell::RefCell::new(None);
    let take = || *lock.borrow_mut() = Some(Lock::take(&site.database()));
    through(&site, take, || lock.take().expect("it was taken").release());
}

#[test]
fn listeners_rest_while_the_database_is_far_behind_and_only_then() {
    const BATCHES: usize = 21;
    let site = Site::new().set("buffer.max_entries", 400_000);
    let server = site.start();
    let rests = || server.metric("forebay_ingest_rests_total").unwrap();
    server.create(&flash_sale("outage", 100_000));
    sell(&server, 0);
    server.drained("outage");
    assert_eq!(rests(), 0.0);
    let lock = Lock::take(&site.database());
    let mut connection = Connection::open(server.public).unwrap();
    for no in 0..BATCHES {
        assert_eq!(connection.call(&batch_for("outage", &format!("ahead-{no}-"), 1_000)).unwrap().status, 200);
    }
    sell(&server, CLAIMS);
    assert!(rests() > 0.0, "a twentieth of the buffer waits, and rows came a moment ago");
    let mut sold = 2 * CLAIMS;
    eventually("nobody rests for a database that takes nothing", || {
        let before = rests();
        sell(&server, sold);
        sold += CLAIMS;
        rests() == before
    });
    lock.release();
    assert_eq!(server.drained("outage")["persisted"], sold + BATCHES * 1_000);
    let before = rests();
    sell(&server, sold);
    assert_eq!(rests(), before, "nobody rests for a few entries");
    assert!(server.stop().success());
}

#[test]
fn a_table_that_is_gone_delays_rows_and_loses_none() {
    let site = Site::new();
    let rename = |from: &str, to: &str| drop(site.sql(&format!("ALTER TABLE {from} RENAME TO {to}")));
    through(&site, || rename("claims", "claims_away"), || rename("claims_away", "claims"));
}

#[test]
fn a_table_that_takes_nothing_is_an_outage_and_no_poison() {
    let site = Site::new();
    let trigger = "CREATE TRIGGER closed BEFORE INSERT ON claims BEGIN SELECT RAISE(ABORT, 'nothing is taken'); END";
    through(&site, || drop(site.sql(trigger)), || drop(site.sql("DROP TRIGGER closed")));
}

#[test]
fn a_database_that_was_moved_away_and_back_gets_all_its_rows() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("outage", 100_000));
    sell(&server, 0);
    server.drained("outage");
    let away = site.folder.path().join("away");
    fs::create_dir(&away).unwrap();
    let files = ["forebay.db", "forebay.db-wal", "forebay.db-shm"];
    let moved = |from: &std::path::Path, to: &std::path::Path| {
        for file in files {
            let _ = fs::rename(from.join(file), to.join(file));
        }
    };
    moved(&site.data(), &away);
    sell(&server, CLAIMS);
    server.kill();
    moved(&away, &site.data());
    let server = site.start();
    assert_eq!(server.drained("outage")["persisted"], 2 * CLAIMS);
    assert_eq!(site.number("SELECT count(*) FROM claims"), 2 * CLAIMS as i64);
}

#[test]
fn a_start_without_a_usable_database_takes_claims_and_drains_later() {
    let site = Site::new();
    let folder = site.folder.path().join("elsewhere");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("shop.db");
    let site = site.text("store.url", &format!("sqlite:{}", path.display()));
    let server = site.start();
    server.create(&flash_sale("outage", 100_000));
    sell(&server, 0);
    server.drained("outage");
    assert!(server.stop().success());
    let lock = Lock::take(&path);
    let server = site.start();
    sell(&server, CLAIMS);
    let first = server.call(&claim("outage", "u0"));
    first.expect(409, "already-claimed");
    lock.release();
    assert_eq!(server.drained("outage")["persisted"], 2 * CLAIMS);
    let rows = crate::support::sql::try_sql(&path, "SELECT count(*), count(DISTINCT user_id) FROM claims").unwrap();
    assert_eq!(rows, [["600", "600"]]);
}

#[test]
fn a_database_of_another_journal_or_program_is_never_written_to() {
    let first = Site::new();
    let server = first.start();
    server.create(&flash_sale("mine", 10));
    server.claimed("mine", "u1");
    server.drained("mine");
    assert!(server.stop().success());
    let url = format!("sqlite:{}", first.database().display());
    let second = Site::new().text("store.url", &url);
    let (status, text) = second.refuse();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("journal") && text.contains("database"), "{text}");
    assert_eq!(first.number("SELECT count(*) FROM claims"), 1);

    let foreign = second.folder.path().join("foreign.db");
    crate::support::sql::try_sql(&foreign, "CREATE TABLE precious (a); INSERT INTO precious VALUES (1)").unwrap();
    let third = Site::new().text("store.url", &format!("sqlite:{}", foreign.display()));
    let (status, text) = third.refuse();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("another program"), "{text}");
    let tables = crate::support::sql::try_sql(&foreign, "SELECT name FROM sqlite_master").unwrap();
    assert_eq!(tables, [["precious"]]);
}

#[test]
fn nobody_else_can_read_the_secrets() {
    let site = Site::new();
    let server = site.start();
    let mut checked = 0;
    let mut folders = vec![site.data()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".key") || name.ends_with("identity") {
                let open = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o077 != 0;
                assert!(!open(&path) || !open(path.parent().unwrap()), "{name} can be read by others");
                assert!(!open(&path) || !name.ends_with(".key"), "{name} can be read by others");
                checked += 1;
            }
        }
    }
    assert!(checked >= 2, "the receipt key and the identity");
    drop(server);
}
