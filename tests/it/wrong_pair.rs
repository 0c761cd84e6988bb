//! A journal and a database that do not belong together: nothing starts, the message says what each side is, and `forebay
//! recover` mends what can be mended, without deleting anything.

mod copies;
mod forks;
mod interrupted;
mod kills;
mod losses;
mod processes;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::http::Request;
use crate::support::sale::{claim, end, flash_sale, red_packet};
use crate::support::sql::try_sql;
use crate::support::{Server, Site, stderr, stdout};

/// A site whose database lies beside its data folder.
fn site() -> Site {
    let site = Site::new();
    let path = site.folder.path().join("shop.db");
    site.text("store.url", &format!("sqlite:{}", path.display()))
}

/// Every file of both sides with its bytes, but for locks, and for what reading a database leaves beside it.
fn content(site: &Site) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![site.folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !["LOCK", "server.log", "test.toml"].contains(&&*name)
                && ![".lock", "-shm", ".tmp"].iter().any(|end| name.ends_with(end))
            {
                let bytes = fs::read(&path).unwrap();
                if !(name.ends_with("-wal") && bytes.is_empty()) {
                    all.insert(path, bytes);
                }
            }
        }
    }
    all
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_folder(&path, &to) } else { assert!(fs::copy(&path, &to).is_ok()) }
    }
}

/// Claims one each for the numbered buyers, and waits until they are rows.
fn sell(server: &Server, numbers: std::ops::Range<u32>) {
    for no in numbers {
        server.claimed("pair", &format!("u{no}"));
        if no % 10 == 0 {
            server.claimed("packet", &format!("u{no}"));
        }
    }
    server.drained("pair");
    server.drained("packet");
}

/// Has sold to the first 40 buyers, and is stopped.
fn used(site: &Site) {
    let server = site.start();
    server.create(&flash_sale("pair", 1_000));
    server.create(&red_packet("packet", 100, 10_000));
    sell(&server, 0..40);
    assert!(server.stop().success());
}

/// Sells to the buyers up to `to`, and stops.
fn sell_on(site: &Site, from: u32, to: u32) {
    let server = site.start();
    sell(&server, from..to);
    assert!(server.stop().success());
}

/// The start is refused with these words, and changes nothing.
fn refused(site: &Site, words: &[&str]) -> String {
    let before = content(site);
    let (status, text) = site.refuse();
    assert_eq!(status.code(), Some(1), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
    let mut after = content(site);
    // A data folder that was not there is made, and nothing in it.
    after.retain(|path, _| !before.contains_key(path) || before[path] != after_bytes(path));
    assert!(after.is_empty(), "the refused start has changed {:?}", after.keys());
    text
}

fn after_bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

/// Runs `forebay recover` with arguments; gives the exit code and what it said.
fn recover(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let output = site.run(["recover"].into_iter().chain(arguments.iter().copied()));
    (output.status.code(), format!("{}{}", stdout(&output), stderr(&output)))
}

/// Without --yes nothing is changed; with it, and `arguments`, the pair is right. Gives what was said.
fn recovered(site: &Site, arguments: &[&str]) -> String {
    let before = content(site);
    let (code, text) = recover(site, arguments);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--yes does it"), "{text}");
    assert_eq!(content(site).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert!(content(site) == before, "it was only asked");
    let (code, text) = recover(site, &[arguments, &["--yes"]].concat());
    assert_eq!(code, Some(0), "{text}");
    let after = content(site);
    for (path, bytes) in &before {
        let there = after.get(path) == Some(bytes);
        let is_database = path.to_str().unwrap().ends_with("shop.db");
        let aside = || after.iter().any(|(p, b)| b == bytes && p.to_str().unwrap().contains(".before-recover-"));
        assert!(there || is_database || aside(), "{} is gone: {text}", path.display());
    }
    let (code, again) = recover(site, &[]);
    assert_eq!(code, Some(0), "{again}");
    assert!(again.contains("the pair is right"), "{again}");
    text
}

/// A sale goes on: the first `held` buyers are refused, later ones get something, all becomes rows, and the books balance.
fn goes_on(site: &Site, held: u32) {
    let server = site.start();
    for no in 0..held {
        server.call(&claim("pair", &format!("u{no}"))).expect(409, "already-claimed");
    }
    sell(&server, 500..540);
    assert_eq!(server.balance("pair")["persisted"], held + 40);
    assert_eq!(server.balance("packet")["money"]["error"], 0);
    assert!(server.stop().success());
    audited(site);
    let rows =
        try_sql(&site.store(), "SELECT count(*), count(DISTINCT seq), count(DISTINCT claim_id) FROM claims").unwrap();
    let all = (held + held.div_ceil(10) + 40 + 4).to_string();
    assert_eq!(rows, [[all.clone(), all.clone(), all]]);
}

fn audited(site: &Site) {
    let audit = site.run(["audit"]);
    assert_eq!(audit.status.code(), Some(0), "{}{}", stdout(&audit), stderr(&audit));
}

#[test]
fn a_right_pair_needs_nothing() {
    let site = site();
    let (code, text) = recover(&site, &[]);
    assert_eq!(code, Some(0), "nothing is there yet: {text}");
    used(&site);
    for arguments in [&[][..], &["--yes"]] {
        let before = content(&site);
        let (code, text) = recover(&site, arguments);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("the pair is right") && content(&site) == before, "{text}");
    }
    goes_on(&site, 40);
}

#[test]
fn a_journal_whose_database_is_gone_fills_a_new_one() {
    for how in ["missing", "empty", "new"] {
        let site = site();
        used(&site);
        let database = site.store();
        fs::rename(&database, site.folder.path().join("away")).unwrap();
        match how {
            "missing" => {}
            "empty" => drop(fs::File::create(&database).unwrap()),
            _ => assert!(site.run(["migrate"]).status.success()),
        }
        let says = if how == "missing" { "is not there" } else { "is new and belongs to no journal" };
        refused(&site, &["the journal is without its database", "up to entry 46", says, "`forebay recover`"]);
        let text = recovered(&site, &[]);
        assert!(text.contains("every entry that the database lacks: 46"), "{how}: {text}");
        goes_on(&site, 40);
    }
}

#[test]
fn an_older_copy_of_the_database_gets_the_rest_from_the_journal() {
    let site = site();
    used(&site);
    let backup = site.folder.path().join("backup");
    fs::copy(site.store(), &backup).unwrap();
    sell_on(&site, 40, 80);
    fs::copy(&backup, site.store()).unwrap();
    refused(&site, &["the database is an older copy", "up to entry 46", "up to entry 90", "`forebay recover`"]);
    let text = recovered(&site, &[]);
    assert!(text.contains("every entry that the database lacks: 44"), "{text}");
    goes_on(&site, 80);
}

#[test]
fn a_database_without_its_journal_gets_a_new_one_and_holders_are_still_known() {
    for how in ["the folder is gone", "only the journal is gone"] {
        let site = site();
        used(&site);
        let gone = if how == "the folder is gone" { site.data() } else { site.journal() };
        fs::rename(&gone, site.folder.path().join("away")).unwrap();
        refused(&site, &["the database is without its journal", "holds no journal", "up to entry 46"]);
        let text = recovered(&site, &[]);
        assert!(text.contains("2 campaigns, 44 claims, 44 units") && text.contains("idempotency keys"), "{text}");
        assert_eq!(text.contains("keys of receipts"), how == "the folder is gone", "{text}");
        goes_on(&site, 40);
        let least = try_sql(&site.store(), "SELECT min(seq) FROM claims WHERE user_id = 'u500'").unwrap();
        assert!(least[0][0].parse::<u64>().unwrap() > 1_000_000_000, "no position is used twice");
    }
}

#[test]
fn an_older_copy_of_the_journal_is_replaced_by_one_from_the_database() {
    let site = site();
    used(&site);
    let copy = site.folder.path().join("copy");
    copy_folder(&site.data(), &copy);
    let key = |user: &str| claim("pair", user).header("idempotency-key", "once");
    let server = site.start();
    let first = server.call(&key("keyed"));
    assert_eq!(first.status, 202, "{}", first.text());
    sell(&server, 40..80);
    assert!(server.stop().success());
    fs::remove_dir_all(site.data()).unwrap();
    fs::rename(&copy, site.data()).unwrap();
    refused(&site, &["the journal is an older copy", "up to entry 91", "entries 1 to 46"]);
    let text = recovered(&site, &[]);
    assert!(text.contains("2 campaigns, 89 claims") && !text.contains("idempotency keys"), "{text}");
    let server = site.start();
    let again = server.call(&key("keyed"));
    assert_eq!((again.status, again.header("idempotency-replayed")), (202, Some("true")), "the secret is the same");
    assert_eq!(again.body, first.body);
    for no in 0..80 {
        server.call(&claim("pair", &format!("u{no}"))).expect(409, "already-claimed");
    }
    assert!(server.stop().success());
    audited(&site);
}

#[test]
fn ends_of_claims_outlive_the_journal() {
    let site = site();
    let server = site.start();
    server.create(&flash_sale("pair", 1_000));
    let mut packet = red_packet("packet", 100, 10_000);
    packet["reservation_ttl"] = "24h".into();
    server.create(&packet);
    let claims: Vec<Value> = ["paid", "back", "kept"].map(|user| server.claimed("pair", user)).into();
    let shares: Vec<Value> = ["paid", "back", "kept"].map(|user| server.claimed("packet", user)).into();
    for all in [&claims, &shares] {
        assert_eq!(server.call(&end(&all[0], "settle")).status, 200);
        assert_eq!(server.call(&end(&all[1], "cancel")).status, 200);
    }
    let before = ["pair", "packet"].map(|id| server.drained(id));
    let version = server.call(&Request::get("/v1/campaigns/pair")).json()["stock_version"].as_u64().unwrap();
    assert!(server.stop().success());
    fs::remove_dir_all(site.data()).unwrap();
    recovered(&site, &[]);
    let server = site.start();
    assert_eq!(["pair", "packet"].map(|id| server.balance(id)), before, "nothing moved");
    let now = server.call(&Request::get("/v1/campaigns/pair")).json();
    assert!(now["stock_version"].as_u64().unwrap() > version, "{now}");
    for user in ["paid", "kept"] {
        server.call(&claim("pair", user)).expect(409, "already-claimed");
    }
    // A claim whose id was made with the lost secret ends like any other.
    assert_eq!(server.call(&end(&claims[2], "settle")).json()["status"], "settled");
    server.call(&end(&claims[0], "cancel")).expect(409, "wrong-state");
    assert_eq!(server.call(&end(&shares[2], "cancel")).json()["status"], "cancelled");
    server.claimed("packet", "kept");
    server.claimed("pair", "back");
    let balance = server.drained("packet");
    assert_eq!((&balance["returned"], &balance["money"]["error"]), (&2.into(), &0.into()), "{balance}");
    assert!(server.stop().success());
    audited(&site);
}

#[test]
fn where_both_hold_entries_somebody_must_say_which_stays() {
    for keep in ["journal", "database"] {
        let [mine, other] = [site(), site()];
        used(&mine);
        used(&other);
        sell_on(&other, 40, 80);
        fs::copy(other.store(), mine.store()).unwrap();
        refused(&mine, &["journal and database belong to others", "up to entry 46", "up to entry 90"]);
        let before = content(&mine);
        let (code, text) = recover(&mine, &["--yes"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("--keep journal") && text.contains("--keep database"), "{text}");
        assert!(content(&mine) == before, "nothing was said to stay");
        recovered(&mine, &["--keep", keep]);
        let names: Vec<_> = content(&mine).into_keys().map(|path| path.display().to_string()).collect();
        let aside = if keep == "journal" { "shop.db.before-recover-" } else { "journal.before-recover-" };
        assert!(names.iter().any(|name| name.contains(aside)), "{names:?}");
        goes_on(&mine, if keep == "journal" { 40 } else { 80 });
    }
}

#[test]
fn what_a_newer_forebay_wrote_is_left_alone() {
    let site = site();
    used(&site);
    let drained = site.data().join("drained");
    let whole = fs::read(&drained).unwrap();
    let body = "forebay-drained 2 something new";
    fs::write(&drained, format!("{body} {:08x}\n", crate::folders::crc32c(body.as_bytes()))).unwrap();
    refused(&site, &["drained", "newer forebay"]);
    let before = content(&site);
    let (code, text) = recover(&site, &["--yes"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("newer forebay") && content(&site) == before, "{text}");
    fs::write(&drained, whole).unwrap();
    try_sql(&site.store(), "PRAGMA user_version = 99").unwrap();
    refused(&site, &["newer forebay", "99"]);
    let (code, text) = recover(&site, &["--yes"]);
    assert!(code == Some(1) && text.contains("newer forebay"), "{text}");
}

#[test]
fn a_damaged_memory_of_the_database_is_refused_and_written_anew() {
    let site = site();
    used(&site);
    fs::write(site.data().join("drained"), "forebay-drained 1 gone").unwrap();
    refused(&site, &["drained is damaged", "`forebay recover`"]);
    recovered(&site, &[]);
    goes_on(&site, 40);
}
