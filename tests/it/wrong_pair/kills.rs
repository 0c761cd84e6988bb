//! Killed on the way: in the very first start, and at each step of a recovery.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use super::{content, goes_on, recover, sell_on, site, used};
use crate::support::sale::flash_sale;
use crate::support::{PATIENCE, Site};

/// Runs `forebay recover --yes` with arguments until it kills itself at `point`.
pub fn killed(site: &Site, arguments: &[&str], point: &str) {
    let mut command = site.command(["recover", "--yes"].into_iter().chain(arguments.iter().copied()));
    let output = command.env("FOREBAY_CRASH_AT", point).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "{point} was never reached: {output:?}");
}

/// Repeated after a kill at `point`, the recovery finishes, and a sale goes on with what the first `held` buyers have.
fn repeated(site: &Site, arguments: &[&str], point: &str, held: u32) {
    killed(site, arguments, point);
    let before = content(site);
    let (status, text) = {
        let mut server = site.spawn(&[]);
        match server.ready() {
            Ok(()) => (None, String::new()),
            Err(status) => (Some(status), server.log_tail()),
        }
    };
    if status.is_some() {
        assert!(text.contains("forebay recover"), "{point}: {text}");
        assert!(content(site) == before, "{point}: the refused start has changed something");
        let (code, text) = recover(site, &[arguments, &["--yes"]].concat());
        assert_eq!(code, Some(0), "{point}: {text}");
    }
    goes_on(site, held);
}

#[test]
fn a_rebuilding_that_is_killed_anywhere_is_finished_by_the_next_one() {
    for point in [
        "recover.folder:1",
        "journal.identity:1",
        "journal.identity:2",
        "journal.segment_prepared:1",
        "journal.snapshot_before_rename:1",
        "recover.folder:2",
        "recover.noted",
        "recover.old_away",
        "recover.in_place",
        "recover.before_commit",
        "recover.after_commit",
        "drained.before_rename",
        "recover.remembered",
    ] {
        let site = site();
        used(&site);
        let copy = site.folder.path().join("copy");
        super::copy_folder(&site.data(), &copy);
        sell_on(&site, 40, 60);
        fs::remove_dir_all(site.data()).unwrap();
        fs::rename(copy, site.data()).unwrap();
        repeated(&site, &[], point, 60);
        assert!(
            !site.data().join("recovering").exists() && !site.data().join("journal.recovering").exists(),
            "{point}"
        );
    }
}

#[test]
fn an_acceptance_that_is_killed_anywhere_is_finished_by_the_next_one() {
    for point in ["recover.migrated", "recover.before_commit", "recover.after_commit", "drained.before_rename"] {
        let site = site();
        used(&site);
        fs::remove_file(site.store()).unwrap();
        repeated(&site, &[], point, 40);
    }
}

#[test]
fn setting_a_database_aside_that_is_killed_anywhere_is_finished_by_the_next_one() {
    for point in ["recover.database_away", "recover.migrated", "recover.after_commit"] {
        let [mine, other] = [site(), site()];
        used(&mine);
        used(&other);
        fs::copy(other.store(), mine.store()).unwrap();
        killed(&mine, &["--keep", "journal"], point);
        let (code, text) = recover(&mine, &["--yes"]);
        assert_eq!(code, Some(0), "{point}: {text}");
        goes_on(&mine, 40);
    }
}

#[test]
fn a_kill_during_the_very_first_start_is_no_wrong_pair() {
    for point in [
        "journal.identity:1",
        "journal.identity:2",
        "journal.segment_prepared:1",
        "journal.segment_prepared:2",
        "journal.after_write:1",
        "store.before_commit:1",
        "store.after_commit:1",
        "drained.before_rename:1",
    ] {
        let site = site();
        let mut server = site.spawn(&[("FOREBAY_CRASH_AT", point)]);
        if server.ready().is_ok() {
            // Written down by whoever asks; the server may die of it.
            let create = crate::support::http::Request::post("/admin/v1/campaigns", &flash_sale("first", 10));
            let _ = crate::support::http::once(server.admin, &create, PATIENCE);
        }
        assert_eq!(server.wait(PATIENCE).signal(), Some(9), "{point}: {}", server.log_tail());
        drop(server);
        let (code, text) = recover(&site, &[]);
        assert_eq!(code, Some(0), "{point}: {text}");
        let server = site.start();
        let _ = server.ask_admin(&crate::support::http::Request::post("/admin/v1/campaigns", &flash_sale("first", 10)));
        server.claimed("first", "u1");
        assert_eq!(server.drained("first")["persisted"], 1, "{point}");
        assert!(server.stop().success());
    }
}
