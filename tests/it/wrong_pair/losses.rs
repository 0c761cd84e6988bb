//! Entries that are in neither side, and how keeping the journal spares one of that.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use super::{content, recover, recovered, refused, site};
use crate::support::http::Request;
use crate::support::sale::{batch, claim, end, flash_sale, outcomes, word};
use crate::support::sql::try_sql;
use crate::support::{Server, Site, eventually, stdout};

const EACH: usize = 1_000;

/// Sells to so many thousands of buyers with long names, from thousand `from` on.
fn sell_thousands(server: &Server, from: usize, thousands: usize) {
    for thousand in from..from + thousands {
        let buyers: Vec<_> = (0..EACH).map(|no| json!({"user": format!("{:0>60}", thousand * EACH + no)})).collect();
        eventually("they have what they claim", || {
            let answers = outcomes(&server.call(&batch("pair", &json!(buyers))));
            let words: BTreeSet<_> = answers.iter().map(word).collect();
            let of = |word: &String| ["claimed", "already-claimed", "buffer-full", "overloaded"].contains(&&**word);
            assert!(words.iter().all(of), "{words:?}");
            // Segments this small fill faster than they are made ready.
            !words.contains("buffer-full") && !words.contains("overloaded")
        });
    }
    server.drained("pair");
}

/// Sells so much that segments come and go, with a copy of the database from after the first 10,000; then the database is
/// that copy.
fn put_back(site: &Site) {
    put_back_with(site, |_| (), |_, ()| ());
}

/// The same; `before` is done at the beginning, and `within` among the first entries that the copy lacks.
fn put_back_with<T>(site: &Site, before: impl FnOnce(&Server) -> T, within: impl FnOnce(&Server, T)) {
    let server = site.start();
    server.create(&flash_sale("pair", 1_000_000));
    let begun = before(&server);
    sell_thousands(&server, 0, 10);
    assert!(server.stop().success());
    let backup = site.folder.path().join("backup");
    fs::copy(site.store(), &backup).unwrap();
    let server = site.start();
    assert_eq!(server.change("pair", &json!({"add_stock": 500})).status, 200);
    within(&server, begun);
    sell_thousands(&server, 10, 190);
    // The janitor has had its turn.
    eventually("a snapshot is there", || {
        let names = fs::read_dir(site.journal()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.into_iter().any(|name| name.ends_with(".snap"))
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(server.stop().success());
    fs::copy(&backup, site.store()).unwrap();
}

/// With the smallest segments there are.
fn small() -> Site {
    site().env("FOREBAY_SEGMENT_BYTES", "2162688")
}

#[test]
fn a_journal_that_is_kept_fills_a_database_from_a_backup() {
    let site = small().text("buffer.keep_journal", "1h");
    put_back(&site);
    refused(&site, &["the database is an older copy", "up to entry 10001", "entries from 1 on"]);
    let text = recovered(&site, &[]);
    assert!(text.contains("every entry that the database lacks: 190001"), "{text}");
    let server = site.start();
    assert_eq!(server.drained("pair")["persisted"], 200_000);
    assert!(server.stop().success());
    super::audited(&site);
}

#[test]
fn lost_entries_are_named_never_hidden_and_given_up_only_when_asked() {
    let site = small();
    put_back(&site);
    refused(&site, &["the database is an older copy", "up to entry 10001"]);
    let before = content(&site);
    let (code, text) = recover(&site, &["--yes"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(content(&site) == before, "nobody has accepted a loss");
    let part = |from: &str, to: &str| text.split(from).nth(1).and_then(|t| t.split(to).next()).map(str::to_owned);
    let last: u64 = part("the entries 10002 to ", " (").expect("the stretch").parse().unwrap();
    let lost: u64 = part("campaign pair: ", " claims").expect("the claims").parse().unwrap();
    // The restock was the first of them.
    assert_eq!(lost, last - 10_002, "{text}");
    let text = recovered(&site, &["--accept-loss"]);
    assert!(text.contains(&format!("{lost} claims, {lost} units, {} minor units are lost", lost * 990)), "{text}");
    let server = site.start();
    eventually("the rest is drained", || {
        let answer = server.ask_admin(&Request::get("/admin/v1/campaigns/pair/balance")).json();
        answer["accepted"] == 0
    });
    let balance = server.ask_admin(&Request::get("/admin/v1/campaigns/pair/balance")).json();
    assert_eq!(balance["error"].as_i64(), Some(lost as i64), "{balance}");
    assert_eq!(balance["persisted"], 200_000 - lost, "{balance}");
    assert_eq!(server.metric("forebay_conservation_error{campaign=\"pair\"}"), Some(lost as f64));
    assert_eq!(server.metric("forebay_dead_letters"), Some(0.0), "the restock went into the row");
    assert!(server.stop().success());
    let audit = site.run(["audit"]);
    assert_eq!(audit.status.code(), Some(1));
    let text = stdout(&audit);
    assert!(text.contains(&format!("campaign pair: {lost} units")), "{text}");
    assert!(text.contains(&format!("accepted as lost: entries 10002 to {last}")), "{text}");
    let rows = try_sql(&site.store(), "SELECT action, first_seq, last_seq FROM recoveries").unwrap();
    assert_eq!(rows, [["loss".to_owned(), "10002".to_owned(), last.to_string()]]);
}

#[test]
fn ends_within_lost_entries_reach_their_rows() {
    let site = small();
    let before = |server: &Server| ["back", "paid", "kept"].map(|user| server.claimed("pair", user));
    put_back_with(&site, before, |server, [back, paid, _]| {
        assert_eq!(server.call(&end(&back, "cancel")).status, 200);
        assert_eq!(server.call(&end(&paid, "settle")).status, 200);
    });
    let text = recovered(&site, &["--accept-loss"]);
    assert!(text.contains("2 claims of the database came to their end"), "{text}");
    let status = |user: &str| {
        let sql = format!("SELECT status, hold IS NULL FROM claims WHERE user_id = '{user}' ORDER BY seq");
        try_sql(&site.store(), &sql).unwrap()
    };
    assert_eq!(
        (status("back"), status("paid")),
        (vec![["cancelled", "1"].map(str::to_owned).to_vec()], vec![["settled", "0"].map(str::to_owned).to_vec()])
    );
    assert_eq!(status("kept"), [["persisted", "0"]]);
    let server = site.start();
    server.claimed("pair", "back");
    server.call(&claim("pair", "paid")).expect(409, "already-claimed");
    eventually("all is drained", || {
        let answer = server.ask_admin(&Request::get("/admin/v1/campaigns/pair/balance")).json();
        answer["accepted"] == 0
    });
    assert_eq!(server.metric("forebay_dead_letters"), Some(0.0));
    assert!(server.stop().success());
    assert_eq!(status("back"), [["cancelled", "1"], ["persisted", "0"]]);
}
