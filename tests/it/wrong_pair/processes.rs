//! Two processes on one database, and a database that turns out wrong while the server runs.

use std::fs;

use super::{copy_folder, recover, recovered, sell, sell_on, site, used};
use crate::support::eventually;
use crate::support::http::Request;
use crate::support::sale::claim;
use crate::support::{Site, tail};

/// A second site on the same database, with a copy of the data folder.
fn twin(first: &Site) -> Site {
    let twin = Site::new();
    copy_folder(&first.data(), &twin.data());
    twin.text("store.url", &format!("sqlite:{}", first.store().display()))
}

#[test]
fn a_second_server_and_a_recovery_are_told_who_has_the_database() {
    let site = site();
    used(&site);
    let second = twin(&site);
    let server = site.start();
    let (status, text) = second.refuse();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("shop.db.lock") && text.contains(&format!("process {}", server.pid())), "{text}");
    for (site, what) in [(&second, "shop.db.lock"), (&site, "LOCK")] {
        let (code, text) = recover(site, &["--yes"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(what) && text.contains("stop that one first"), "{text}");
    }
    sell(&server, 40..50);
    server.kill();
    // The file is still there, the lock is not.
    drop(site.start());
}

#[test]
fn of_two_processes_the_older_one_stops_writing_and_says_so() {
    let site = site();
    used(&site);
    let second = twin(&site);
    let older = site.start();
    // On another machine there would be no lock to see.
    fs::remove_file(site.folder.path().join("shop.db.lock")).unwrap();
    let newer = second.start();
    sell(&newer, 40..50);
    older.claimed("pair", "lost-1");
    eventually("it is fenced", || older.ask_admin(&Request::get("/readyz")).status == 503);
    // What it gave out now could never be drained, and the newer one sells the same.
    older.call(&claim("pair", "never")).expect(503, "not-durable");
    let reasons = older.ask_admin(&Request::get("/readyz")).json()["reasons"].to_string();
    assert!(reasons.contains("database-fenced"), "{reasons}");
    let log = tail(&site.log(), 20);
    assert!(log.contains("another process has taken the database over"), "{log}");
    sell(&newer, 50..60);
    let rows = crate::support::sql::try_sql(&site.store(), "SELECT count(*) FROM claims WHERE user_id = 'lost-1'");
    assert_eq!(rows.unwrap(), [["0"]]);
    drop(older);
    assert!(newer.stop().success());
    super::audited(&second);
}

#[test]
fn a_database_that_comes_back_as_an_older_copy_gets_no_batch() {
    let site = Site::new();
    let (there, away) = (site.folder.path().join("mount"), site.folder.path().join("away"));
    fs::create_dir(&there).unwrap();
    let site = site.text("store.url", &format!("sqlite:{}", there.join("shop.db").display()));
    used(&site);
    let backup = site.folder.path().join("backup");
    fs::copy(site.store(), &backup).unwrap();
    sell_on(&site, 40, 60);
    fs::rename(&there, &away).unwrap();
    let server = site.start();
    server.claimed("pair", "meanwhile");
    server.call(&claim("pair", "u50")).expect(409, "already-claimed");
    fs::create_dir(&there).unwrap();
    fs::copy(&backup, site.store()).unwrap();
    eventually("the drain refuses", || server.ask_admin(&Request::get("/readyz")).status == 503);
    let log = tail(&site.log(), 20);
    assert!(log.contains("the wrong pair") && log.contains("older copy"), "{log}");
    assert_eq!(fs::read(&backup).unwrap(), fs::read(site.store()).unwrap(), "it was not written to");
    server.kill();
    recovered(&site, &[]);
    let server = site.start();
    assert_eq!(server.drained("pair")["persisted"], 61);
    assert!(server.stop().success());
    super::audited(&site);
}
