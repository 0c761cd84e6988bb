//! A recovery that was interrupted, and a side that was exchanged before it could go on.

use std::fs;

use super::kills::killed;
use super::{content, copy_folder, goes_on, recover, recovered, sell_on, site, used};
use crate::support::Site;

/// The journal is an older copy, and a recovery was killed when it had just noted what it would do. Gives the newer journal.
fn interrupted() -> (Site, std::path::PathBuf) {
    let site = site();
    used(&site);
    let (copy, newer) = (site.folder.path().join("copy"), site.folder.path().join("newer"));
    copy_folder(&site.journal(), &copy);
    fs::copy(site.store(), site.folder.path().join("backup")).unwrap();
    sell_on(&site, 40, 60);
    fs::rename(site.journal(), &newer).unwrap();
    fs::rename(&copy, site.journal()).unwrap();
    killed(&site, &[], "recover.noted");
    let (status, text) = site.refuse();
    assert!(status.code() == Some(1) && text.contains("was interrupted"), "{text}");
    (site, newer)
}

/// What was begun is given up, without a change to the pair.
fn given_up(site: &Site, why: &str) {
    let before = content(site);
    let (code, text) = recover(site, &[]);
    assert!(code == Some(1) && text.contains(why) && text.contains("--yes gives it up"), "{text}");
    assert!(content(site) == before, "it was only asked");
    let (code, text) = recover(site, &["--yes"]);
    assert!(code == Some(1) && text.contains("it is given up"), "{text}");
    assert!(!site.data().join("recovering").exists() && !site.data().join("journal.recovering").exists());
}

#[test]
fn what_was_found_and_is_lost_is_told_again_when_it_goes_on() {
    let (site, _) = interrupted();
    let (code, text) = recover(&site, &[]);
    assert!(code == Some(1) && text.contains("2 campaigns, 66 claims") && text.contains("--yes goes on"), "{text}");
    let (code, text) = recover(&site, &["--yes"]);
    assert!(code == Some(0) && text.contains("2 campaigns, 66 claims"), "{text}");
    assert!(text.contains("journal is now ") && text.contains("journal.before-recover-"), "{text}");
    goes_on(&site, 60);
}

#[test]
fn with_another_database_it_is_given_up_and_planned_anew() {
    let (site, _) = interrupted();
    fs::copy(site.folder.path().join("backup"), site.store()).unwrap();
    given_up(&site, "the database was exchanged since");
    // The folder still remembers that its database had more.
    recovered(&site, &["--accept-loss"]);
    goes_on(&site, 40);
}

#[test]
fn with_the_right_journal_put_back_it_is_given_up_and_nothing_is_set_aside() {
    let (site, newer) = interrupted();
    fs::remove_dir_all(site.journal()).unwrap();
    fs::rename(newer, site.journal()).unwrap();
    given_up(&site, "was exchanged since");
    let (code, text) = recover(&site, &[]);
    assert!(code == Some(0) && text.contains("the pair is right"), "{text}");
    goes_on(&site, 60);
}

#[test]
fn a_journal_that_is_a_link_is_not_replaced() {
    let site = site();
    used(&site);
    fs::rename(site.data(), site.folder.path().join("gone")).unwrap();
    let elsewhere = site.folder.path().join("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::create_dir(site.data()).unwrap();
    std::os::unix::fs::symlink(&elsewhere, site.journal()).unwrap();
    let (code, text) = recover(&site, &["--yes"]);
    assert!(code == Some(1) && text.contains("is a link"), "{text}");
    assert!(!site.data().join("recovering").exists(), "nothing is under way");
    fs::remove_file(site.journal()).unwrap();
    recovered(&site, &[]);
    goes_on(&site, 40);
}
