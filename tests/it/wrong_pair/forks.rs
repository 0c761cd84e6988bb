//! Two copies of one pair that went on apart: the same id, positions that fit, and other entries behind them.

use std::fs;
use std::path::PathBuf;

use super::{audited, content, copy_folder, goes_on, recover, recovered, refused, sell_on, used};
use crate::support::Site;
use crate::support::sale::claim;
use crate::support::sql::try_sql;

/// A site whose database stands at entry 68 by way of a copy of its folder, while its own journal has gone on to 86 without
/// the database.
fn forked() -> Site {
    let site = Site::new();
    let (there, away): (PathBuf, PathBuf) = (site.folder.path().join("mount"), site.folder.path().join("away"));
    fs::create_dir(&there).unwrap();
    let site = site.text("store.url", &format!("sqlite:{}", there.join("shop.db").display()));
    used(&site);
    let twin = Site::new();
    copy_folder(&site.data(), &twin.data());
    let twin = twin.text("store.url", &format!("sqlite:{}", site.store().display()));
    sell_on(&twin, 40, 60);
    fs::rename(&there, &away).unwrap();
    let server = site.start();
    for no in 200..240 {
        server.claimed("pair", &format!("u{no}"));
    }
    server.kill();
    fs::rename(&away, &there).unwrap();
    refused(&site, &["went on apart", "up to entry 68", "`forebay recover`"]);
    site
}

#[test]
fn a_journal_and_a_database_that_went_on_apart_are_refused_and_somebody_says_which_stays() {
    let site = forked();
    let before = content(&site);
    let (code, text) = recover(&site, &["--yes"]);
    assert_eq!(code, Some(1), "{text}");
    for part in ["--keep journal", "--keep database", "up to 46", "86 and 68"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(content(&site) == before, "nothing was said to stay");
    let text = recovered(&site, &["--keep", "database"]);
    let gone = format!("campaign pair: 40 claims, 40 units, {} minor units are only in the journal", 40 * 990);
    assert!(text.contains(&gone), "{text}");
    goes_on(&site, 60);
}

#[test]
fn the_journal_of_two_that_went_on_apart_can_stay() {
    let site = forked();
    let (_, text) = recover(&site, &["--keep", "journal"]);
    assert!(text.contains("shop.db is set aside"), "{text}");
    recovered(&site, &["--keep", "journal"]);
    let server = site.start();
    for no in 200..240 {
        server.call(&claim("pair", &format!("u{no}"))).expect(409, "already-claimed");
    }
    assert_eq!(server.drained("pair")["persisted"], 80);
    assert!(server.stop().success());
    audited(&site);
    let rows = try_sql(&site.store(), "SELECT count(*) FROM claims WHERE user_id = 'u50'").unwrap();
    assert_eq!(rows, [["0"]], "what the other copy sold is in the database that was set aside");
}

#[test]
fn a_shorter_copy_with_entries_of_its_own_is_named_before_it_is_replaced() {
    let site = super::site();
    used(&site);
    let twin = Site::new();
    copy_folder(&site.data(), &twin.data());
    let twin = twin.text("store.url", &format!("sqlite:{}", site.store().display()));
    // Its own ten entries are acknowledged and never drained.
    let away = site.folder.path().join("away.db");
    fs::rename(site.store(), &away).unwrap();
    fs::create_dir(site.store()).unwrap();
    let server = site.start();
    for no in 200..210 {
        server.claimed("pair", &format!("u{no}"));
    }
    server.kill();
    fs::remove_dir(site.store()).unwrap();
    fs::rename(&away, site.store()).unwrap();
    sell_on(&twin, 40, 60);
    refused(&site, &["the journal is an older copy"]);
    let (code, text) = recover(&site, &["--yes"]);
    assert_eq!(code, Some(1), "{text}");
    let gone = format!("campaign pair: 10 claims, 10 units, {} minor units are only in the journal", 10 * 990);
    assert!(text.contains(&gone) && text.contains("--accept-loss"), "{text}");
    recovered(&site, &["--accept-loss"]);
    goes_on(&site, 60);
}
