//! Each planted bug must be found, soon; and the seeds that found it must hold without it.

use forebay::plant::{self, Bug};

use crate::runner;
use crate::world::SHAPE;

/// Seeds within which every bug must be found.
const WITHIN: u64 = 2_000;

fn find(bug: Bug) {
    plant::set(Some(bug));
    let found = (1..=WITHIN).find_map(|seed| runner::run(seed, SHAPE).err());
    plant::set(None);
    let Some(broken) = found else { panic!("{bug:?} was not found in {WITHIN} seeds") };
    println!("{bug:?} found by seed {} at operation {}: {}", broken.seed, broken.operation, broken.message);
    let vacuous = broken.message.starts_with("vacuous");
    assert!(!vacuous, "{bug:?} was not found, the run was vacuous: {}", broken.report());
    let without = runner::run(broken.seed, SHAPE);
    assert!(
        without.is_ok(),
        "seed {} breaks a promise without {bug:?}: {}",
        broken.seed,
        without.unwrap_err().report()
    );
}

#[test]
fn an_answer_before_its_sync_is_found() {
    find(Bug::AckBeforeSync);
}

#[test]
fn an_early_already_claimed_is_found() {
    find(Bug::EarlyAlreadyClaimed);
}

#[test]
fn an_early_trim_is_found() {
    find(Bug::EarlyTrim);
}

#[test]
fn a_blind_retry_of_a_commit_is_found() {
    find(Bug::BlindCommitRetry);
}

#[test]
fn a_missing_sync_of_the_folder_is_found() {
    find(Bug::MissingDirSync);
}

#[test]
fn a_retried_sync_is_found() {
    find(Bug::RetryAfterEio);
}

#[test]
fn a_window_off_by_one_is_found() {
    find(Bug::WindowOffByOne);
}

#[test]
fn a_reused_position_is_found() {
    find(Bug::ReusedSeq);
}

#[test]
fn a_paid_claim_that_expires_is_found() {
    find(Bug::ExpireAfterSettle);
}

#[test]
fn units_that_come_back_twice_are_found() {
    find(Bug::DoubleReturn);
}

#[test]
fn a_local_day_that_counts_as_two_is_found() {
    find(Bug::CheckInTwoDays);
}

#[test]
fn a_click_that_is_added_once_more_is_found() {
    find(Bug::DoubledCartAdd);
}

#[test]
fn a_requeue_that_nobody_counts_is_found() {
    find(Bug::LostRequeue);
}
