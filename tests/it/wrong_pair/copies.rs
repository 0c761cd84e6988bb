//! Both sides are older copies, or one is and the other is gone, while the folder still remembers how far the database was.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::kills::killed;
use super::{copy_folder, goes_on, recover, recovered, refused, sell_on, site, used};
use crate::support::Site;
use crate::support::http::Request;
use crate::support::sql::try_sql;

/// Copies of both sides from after 46, 68 and 90 entries; the folder remembers 90.
struct Copies {
    site: Site,
    folder: PathBuf,
}

fn copies() -> Copies {
    let site = site();
    let folder = site.folder.path().join("copies");
    used(&site);
    let keep = |entries: &str| {
        copy_folder(&site.journal(), &folder.join(entries).join("journal"));
        fs::copy(site.store(), folder.join(entries).join("shop.db")).unwrap();
    };
    keep("46");
    sell_on(&site, 40, 60);
    keep("68");
    sell_on(&site, 60, 80);
    Copies { site, folder }
}

impl Copies {
    fn put_back(&self, journal: &str, database: &str) {
        fs::remove_dir_all(self.site.journal()).unwrap();
        copy_folder(&self.folder.join(journal).join("journal"), &self.site.journal());
        fs::copy(self.folder.join(database).join("shop.db"), self.site.store()).unwrap();
        // Otherwise the copies would be searched for, and found, beside the data.
        fs::rename(&self.folder, self.site.folder.path().join(".copies")).unwrap();
    }
}

/// The loss of the entries `first` to 90 is named and must be accepted; then everything of the first `held` buyers is there.
fn given_up(site: &Site, first: u64, held: u32) {
    let (code, text) = recover(site, &["--yes"]);
    assert_eq!(code, Some(1), "{text}");
    let named = format!("the entries {first} to 90 ({}) are in neither side", 91 - first);
    assert!(text.contains(&named) && text.contains("--accept-loss"), "{text}");
    recovered(site, &["--accept-loss"]);
    goes_on(site, held);
    let rows =
        try_sql(&site.store(), "SELECT first_seq, last_seq FROM recoveries WHERE first_seq IS NOT NULL").unwrap();
    assert_eq!(rows, [[first.to_string(), "90".to_owned()]]);
    let twice = "SELECT count(*) FROM claims WHERE seq > 68 AND seq <= 1000000000";
    assert_eq!(try_sql(&site.store(), twice).unwrap(), [["0"]], "no position is used twice");
}

#[test]
fn two_equal_copies_below_what_is_remembered_go_on_behind_it_with_their_campaigns_as_they_are() {
    let copies = copies();
    copies.put_back("46", "46");
    let site = copies.site;
    refused(&site, &["the database is an older copy"]);
    let campaigns = || try_sql(&site.store(), "SELECT id, state, stock, total, seq FROM campaigns").unwrap();
    let before = campaigns();
    let (code, text) = recover(&site, &["--accept-loss"]);
    assert!(code == Some(1) && text.contains("2 campaigns, 44 claims"), "{text}");
    assert_eq!(campaigns(), before);
    given_up(&site, 47, 40);
}

#[test]
fn a_database_below_its_journal_below_what_is_remembered_gets_the_rest_first() {
    let copies = copies();
    copies.put_back("68", "46");
    refused(&copies.site, &["the database is an older copy"]);
    given_up(&copies.site, 69, 60);
}

#[test]
fn filling_a_database_and_making_a_journal_from_it_is_finished_wherever_it_was_killed() {
    for point in ["recover.before_commit", "recover.bound", "recover.drained", "recover.noted", "recover.in_place"] {
        let copies = copies();
        copies.put_back("68", "46");
        let site = copies.site;
        killed(&site, &["--accept-loss"], point);
        let (code, text) = recover(&site, &["--accept-loss", "--yes"]);
        assert_eq!(code, Some(0), "{point}: {text}");
        goes_on(&site, 60);
    }
}

#[test]
fn a_journal_below_its_database_below_what_is_remembered_is_the_older_copy() {
    let copies = copies();
    copies.put_back("46", "68");
    given_up(&copies.site, 69, 60);
}

#[test]
fn without_its_journal_a_database_below_what_is_remembered_is_a_loss() {
    let copies = copies();
    copies.put_back("68", "68");
    fs::remove_dir_all(copies.site.journal()).unwrap();
    refused(&copies.site, &["the database is without its journal"]);
    given_up(&copies.site, 69, 60);
}

#[test]
fn a_journal_without_its_identity_is_set_aside_when_the_database_is_to_stay() {
    for file in ["identity", "the first segment"] {
        let site = site();
        used(&site);
        let name = if file == "identity" { file } else { "00000000000000000001.seg" };
        let path = site.journal().join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
        refused(&site, &["damaged"]);
        let (code, text) = recover(&site, &["--yes"]);
        assert!(
            code == Some(1) && text.contains("can't be read") && text.contains("--keep database"),
            "{file}: {text}"
        );
        recovered(&site, &["--keep", "database"]);
        goes_on(&site, 40);
    }
}

#[test]
fn a_journal_that_is_made_anew_twice_has_versions_that_nobody_has_seen() {
    let site = site();
    used(&site);
    let mut last = 0;
    for no in 0..3 {
        let server = site.start();
        assert_eq!(server.change("pair", &json!({"add_stock": 5})).status, 200);
        let version = server.call(&Request::get("/v1/campaigns/pair")).json()["version"].as_u64().unwrap();
        assert!(version > last + 1, "{version} after {last}");
        last = version;
        server.drained("pair");
        assert!(server.stop().success());
        fs::rename(site.data(), site.folder.path().join(format!("gone-{no}"))).unwrap();
        recovered(&site, &[]);
    }
}

#[test]
fn a_database_behind_a_link_is_set_aside_where_it_is() {
    let [mine, other] = [site(), site()];
    used(&mine);
    used(&other);
    let behind = mine.folder.path().join("disk.db");
    fs::copy(other.store(), &behind).unwrap();
    fs::remove_file(mine.store()).unwrap();
    std::os::unix::fs::symlink(&behind, mine.store()).unwrap();
    recovered(&mine, &["--keep", "journal"]);
    assert!(fs::symlink_metadata(mine.store()).unwrap().is_symlink(), "the link stays");
    let names = fs::read_dir(mine.folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().any(|name| name.starts_with("disk.db.before-recover-")));
    goes_on(&mine, 40);
}

#[test]
fn a_database_that_cannot_be_locked_is_looked_at_all_the_same() {
    let [mine, other] = [site(), site()];
    used(&mine);
    used(&other);
    fs::copy(other.store(), mine.store()).unwrap();
    let lock = mine.folder.path().join("shop.db.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    refused(&mine, &["journal and database belong to others"]);
}

#[test]
fn before_the_very_first_start_there_is_nothing_to_recover_but_what_is_damaged() {
    let site = Site::new();
    let site = {
        let path = site.folder.path().join("none").join("shop.db");
        site.text("store.url", &format!("sqlite:{}", path.display()))
    };
    let (code, text) = recover(&site, &[]);
    assert!(code == Some(0) && text.contains("the pair is right"), "{text}");
    let site = super::site();
    fs::create_dir(site.data()).unwrap();
    fs::write(site.data().join("drained"), "forebay-drained 1 gone").unwrap();
    refused(&site, &["drained is damaged", "`forebay recover`"]);
    recovered(&site, &[]);
    drop(site.start());
}
