//! The drain against a database that fails in every way it may.

use std::sync::Mutex;

use super::*;
use crate::queue::codec::{self, FrameContext};
use crate::sale::{CampaignId, Durability, Event, Timestamp};
use crate::store::Mode;
use crate::store::sqlite::SqliteStore;
use crate::workers::fake::{self, FakeStore, Fault, Inside, publish, publish_events, published};

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A drain over `entries` claims and a database set up by `set`.
fn drain(entries: u64, batch_max: usize, set: impl FnOnce(&mut Inside)) -> Drain<FakeStore> {
    let published = published();
    let mut drain = Drain::new(FakeStore::with(set), published.clone(), batch_max, 1);
    drain.names = Box::new(|_| Some((CampaignId::parse("sale").unwrap(), None, false)));
    if entries > 0 {
        publish(&published, 1, entries);
    }
    drain
}

/// Steps until idle; gives every step. Whatever happens, nothing is retired that the database has not.
fn run(drain: &mut Drain<FakeStore>) -> Vec<Step> {
    let mut steps = Vec::new();
    loop {
        let step = block(drain.step());
        assert!(drain.published.pending.retired() <= drain.store.inside().cursor, "retired on a guess: {step:?}");
        steps.push(step.clone());
        assert!(steps.len() < 200, "it does not end: {:?}", &steps[190..]);
        if matches!(step, Step::Idle | Step::Fenced { .. }) {
            return steps;
        }
    }
}

fn balance(drain: &Drain<FakeStore>) -> (u64, u64, u64) {
    let balance = drain.published.pending.balance(CampaignNo(0));
    assert_eq!(balance.money_persisted, balance.persisted as i64 * 10);
    assert_eq!(balance.money_dead, balance.dead as i64 * 10);
    (balance.accepted, balance.persisted, balance.dead)
}

fn outage(step: &Step) -> bool {
    matches!(step, Step::Backoff { error: StoreError::Outage(_), .. })
}

#[test]
fn entries_become_rows_in_order_a_batch_a_transaction() {
    let mut drain = drain(2_500, 1_000, |_| {});
    let wrote = |rows| Step::Wrote { rows, dead: 0 };
    assert_eq!(run(&mut drain), [wrote(1_000), wrote(1_000), wrote(500), Step::Idle]);
    let inside = drain.store.inside();
    assert_eq!(inside.claims.keys().map(|s| s.0).collect::<Vec<_>>(), (1..=2_500).collect::<Vec<_>>());
    assert_eq!(inside.attempts.len(), 3);
    drop(inside);
    assert_eq!((drain.published.pending.retired(), balance(&drain)), (Seq(2_500), (0, 2_500, 0)));
    assert_eq!(drain.published.metrics.drain_rows.get(), 2_500);
}

#[test]
fn a_batch_whose_reply_was_lost_is_sent_again_unchanged_and_counts_once() {
    for (fault, new) in [(Fault::ReplyLost, 0), (Fault::CommitLost, 10)] {
        let mut drain = drain(10, 100, |inside| inside.writes = [fault].into());
        assert!(matches!(block(drain.step()), Step::Backoff { error: StoreError::Unknown(_), .. }));
        assert_eq!((drain.published.pending.retired(), balance(&drain)), (Seq(0), (10, 0, 0)), "not on a guess");
        let before = drain.store.inside().claims.len();
        assert_eq!(before, 10 - new);
        // More has come meanwhile, and must not get into the batch that may be there already.
        publish(&drain.published, 11, 15);
        run(&mut drain);
        let attempts = drain.store.inside().attempts.clone();
        assert_eq!(attempts[0], attempts[1], "{fault:?}");
        assert_eq!(attempts[2], (Seq(10), Seq(15), vec![]));
        assert_eq!(balance(&drain), (0, 15, 0), "{fault:?}");
    }
}

#[test]
fn a_lost_reply_of_a_batch_with_dead_rows_keeps_those_dead_rows() {
    let mut drain = drain(10, 100, |inside| {
        inside.poison = [4].into();
        inside.writes = [Fault::None, Fault::ReplyLost, Fault::Outage].into();
    });
    let steps = run(&mut drain);
    assert!(matches!(steps[0], Step::Backoff { error: StoreError::Unknown(_), .. }), "{steps:?}");
    assert!(outage(&steps[1]), "{steps:?}");
    assert_eq!(steps[2], Step::Wrote { rows: 10, dead: 1 }, "the outage between must not forget them");
    assert_eq!(balance(&drain), (0, 9, 1));
    assert_eq!(drain.store.inside().dead, [Seq(4)].into());
}

#[test]
fn dead_rows_of_an_attempt_that_did_not_happen_are_judged_anew() {
    let mut drain = drain(10, 100, |inside| {
        inside.poison = [4].into();
        inside.writes = [Fault::None, Fault::Outage].into();
    });
    assert!(outage(&block(drain.step())));
    drain.store.inside().poison.clear();
    assert_eq!(run(&mut drain)[0], Step::Wrote { rows: 10, dead: 0 }, "the row was mended meanwhile");
}

#[test]
fn one_poison_row_among_a_thousand_blocks_nothing() {
    let mut drain = drain(1_000, 1_000, |inside| inside.poison = [617].into());
    assert_eq!(run(&mut drain), [Step::Wrote { rows: 1_000, dead: 1 }, Step::Idle]);
    let probes = drain.store.inside().probes;
    assert!(probes <= 14, "{probes} probes");
    assert_eq!(drain.store.inside().dead, [Seq(617)].into());
    assert_eq!((drain.store.inside().claims.len(), balance(&drain)), (999, (0, 999, 1)));
}

#[test]
fn several_poison_rows_go_and_the_rest_is_written_in_one_transaction() {
    let poison: Vec<u64> = vec![1, 2, 500, 999, 1_000];
    let mut drain = drain(1_000, 1_000, |inside| inside.poison = poison.iter().copied().collect());
    assert_eq!(run(&mut drain), [Step::Wrote { rows: 1_000, dead: 5 }, Step::Idle]);
    assert_eq!(drain.store.inside().dead, poison.iter().map(|&s| Seq(s)).collect());
    assert_eq!(drain.store.inside().attempts.len(), 2);
}

#[test]
fn a_lone_poison_row_goes_when_a_trial_row_passes() {
    let mut drain = drain(1, 100, |inside| inside.poison = [1].into());
    assert_eq!(run(&mut drain), [Step::Wrote { rows: 1, dead: 1 }, Step::Idle]);
}

#[test]
fn when_even_a_trial_row_is_refused_no_row_is_blamed() {
    for entries in [1, 1_000] {
        let mut drain = drain(entries, 1_000, |inside| (inside.refuse_all, inside.refuse_canary) = (true, true));
        for _ in 0..20 {
            assert!(outage(&block(drain.step())));
        }
        assert_eq!((drain.store.inside().dead.len(), balance(&drain)), (0, (entries, 0, 0)));
        (drain.store.inside().refuse_all, drain.store.inside().refuse_canary) = (false, false);
        run(&mut drain);
        assert_eq!(balance(&drain), (0, entries, 0));
    }
}

#[test]
fn when_every_row_of_a_batch_is_refused_it_is_an_outage() {
    let mut drain = drain(1_000, 1_000, |inside| inside.refuse_all = true);
    for _ in 0..5 {
        assert!(outage(&block(drain.step())));
    }
    assert_eq!(drain.store.inside().dead.len(), 0);
    drain.store.inside().refuse_all = false;
    run(&mut drain);
    assert_eq!(balance(&drain), (0, 1_000, 0));
}

#[test]
fn a_run_of_poison_rows_as_long_as_a_batch_ends_at_the_next_good_row() {
    let mut drain = drain(2, 2, |inside| inside.poison = [1, 2].into());
    assert!(outage(&block(drain.step())) && outage(&block(drain.step())));
    publish(&drain.published, 3, 4);
    let steps = run(&mut drain);
    assert!(steps.contains(&Step::Wrote { rows: 4, dead: 2 }), "{steps:?}");
    publish(&drain.published, 5, 8);
    assert_eq!(run(&mut drain)[0], Step::Wrote { rows: 2, dead: 0 }, "batches are of their usual size again");
}

#[test]
fn a_run_of_poison_rows_as_long_as_the_longest_batch_goes_when_patience_has_ended() {
    let mut drain = drain(9, 2, |inside| inside.poison = (1..=9).collect());
    drain.poison_max = 8;
    let mut refusals = 0;
    let first = loop {
        match block(drain.step()) {
            Step::Backoff { .. } => refusals += 1,
            step => break step,
        }
        assert!(refusals <= limits::POISON_PATIENCE + 5, "it never ends");
    };
    assert!(refusals >= limits::POISON_PATIENCE, "{refusals}: it may be a table that somebody mends");
    assert_eq!(first, Step::Wrote { rows: 8, dead: 8 });
    publish(&drain.published, 10, 10);
    assert_eq!(run(&mut drain)[0], Step::Wrote { rows: 2, dead: 1 });
}

#[test]
fn ends_of_claims_that_are_not_there_are_no_outage_however_many_they_are() {
    let mut drain = drain(0, 4, |_| {});
    publish_events(&drain.published, 1, (100..109).map(|claim| moved(claim, Fate::Expired)));
    let steps = run(&mut drain);
    assert!(!steps.iter().any(outage), "{steps:?}");
    assert_eq!(drain.store.inside().dead.len(), 9);
}

#[test]
fn ends_that_their_rows_wait_for_are_an_outage_when_the_table_refuses_all_of_them() {
    let mut drain = drain(4, 4, |inside| inside.poison = (5..=8).collect());
    run(&mut drain);
    publish_events(&drain.published, 5, (1..=4).map(|claim| moved(claim, Fate::Cancelled)));
    for _ in 0..5 {
        assert!(outage(&block(drain.step())));
    }
    assert_eq!(drain.store.inside().dead.len(), 0);
}

#[test]
fn an_outage_in_the_middle_of_the_search_starts_it_again_later() {
    let mut drain = drain(1_000, 1_000, |inside| {
        inside.poison = [300, 301].into();
        inside.probes_until = Some(6);
    });
    assert!(outage(&block(drain.step())));
    assert_eq!(balance(&drain), (1_000, 0, 0));
    drain.store.inside().probes_until = None;
    assert_eq!(run(&mut drain), [Step::Wrote { rows: 1_000, dead: 2 }, Step::Idle]);
}

#[test]
fn a_fenced_drain_writes_nothing_any_more() {
    let mut drain = drain(10, 5, |inside| inside.writes = [Fault::None, Fault::Fenced].into());
    let steps = run(&mut drain);
    assert!(matches!(&steps[..], [Step::Wrote { rows: 5, dead: 0 }, Step::Fenced { .. }]), "{steps:?}");
    for _ in 0..3 {
        assert!(matches!(block(drain.step()), Step::Fenced { .. }));
    }
    assert_eq!((drain.store.inside().attempts.len(), balance(&drain)), (2, (5, 5, 0)));
}

#[test]
fn a_start_takes_over_what_the_database_has() {
    let mut first = drain(10, 4, |inside| inside.poison = [2].into());
    assert_eq!(block(first.step()), Step::Wrote { rows: 4, dead: 1 });
    // The process ends, the journal is replayed, a new drain meets the same database.
    let published = published();
    publish(&published, 1, 10);
    let mut second = Drain::new(first.store.clone(), published, 100, 2);
    second.names = Box::new(|_| Some((CampaignId::parse("sale").unwrap(), None, false)));
    second.store.inside().binds_to_fail = 2;
    assert!(outage(&block(second.bind(7))) && outage(&block(second.bind(7))));
    assert_eq!(block(second.bind(7)), Step::Idle);
    assert_eq!((second.published.pending.retired(), balance(&second)), (Seq(4), (6, 3, 1)));
    assert_eq!(run(&mut second), [Step::Wrote { rows: 6, dead: 0 }, Step::Idle]);
    assert_eq!(balance(&second), (0, 9, 1));
}

#[test]
fn a_batch_that_someone_else_finished_is_taken_over_with_the_databases_sums() {
    let mut first = drain(10, 10, |inside| inside.poison = [2].into());
    let mut second = Drain::new(first.store.clone(), published(), 10, 2);
    second.names = Box::new(|_| Some((CampaignId::parse("sale").unwrap(), None, false)));
    publish(&second.published, 1, 10);
    run(&mut first);
    assert_eq!(run(&mut second).len(), 2);
    assert_eq!(balance(&second), (0, 9, 1));
}

#[test]
fn a_database_that_knows_more_than_the_journal_is_refused() {
    let mut drain = drain(0, 10, |inside| inside.cursor = Seq(150));
    // Whatever is accepted meanwhile has positions that the database believes to have.
    publish(&drain.published, 1, 200);
    let step = block(drain.bind(7));
    assert!(matches!(&step, Step::Fenced { error } if error.to_string().contains("150")), "{step:?}");
    assert!(matches!(block(drain.step()), Step::Fenced { .. }));
    assert_eq!(drain.published.pending.entries(), 200);
}

#[test]
fn a_campaign_without_a_name_is_waited_for_and_seen() {
    let mut drain = drain(3, 10, |_| {});
    drain.names = Box::new(|_| None);
    assert!(outage(&block(drain.step())));
    drain.names = Box::new(|_| Some((CampaignId::parse("sale").unwrap(), None, false)));
    assert_eq!(run(&mut drain)[0], Step::Wrote { rows: 3, dead: 0 });
}

#[test]
fn caches_hear_of_a_batch_after_its_commit_and_before_it_is_retired() {
    struct Heard(Arc<Published>, Arc<FakeStore>, Mutex<Vec<usize>>);
    impl Refresh for Heard {
        fn on_persisted(&self, rows: &[Row]) {
            assert_eq!(self.1.inside().cursor, rows.last().unwrap().seq());
            assert!(self.0.pending.retired() < rows[0].seq());
            self.2.lock().unwrap().push(rows.len());
        }
    }
    let drain = drain(7, 5, |inside| inside.writes = [Fault::ReplyLost].into());
    let heard = Arc::new(Heard(drain.published.clone(), drain.store.clone(), Mutex::default()));
    let mut drain = drain.with_refresh(heard.clone());
    run(&mut drain);
    assert_eq!(*heard.2.lock().unwrap(), [5, 2]);
}

#[test]
fn retries_are_counted_and_their_waits_grow_then_start_anew() {
    let mut drain = drain(1, 10, |inside| inside.writes = vec![Fault::Outage; 30].into());
    let steps = run(&mut drain);
    let waits: Vec<_> =
        steps.iter().filter_map(|s| if let Step::Backoff { wait, .. } = s { Some(*wait) } else { None }).collect();
    let (least, most) = (limits::RETRY_MIN_MILLIS, limits::RETRY_MAX_MILLIS);
    assert!(waits.len() == 30 && waits.iter().all(|w| (least..=most).contains(&(w.as_millis() as u64))));
    assert_eq!(drain.published.metrics.drain_retries.get(), 30);
    publish(&drain.published, 2, 2);
    drain.store.inside().writes = [Fault::Outage].into();
    let Step::Backoff { wait, .. } = block(drain.step()) else { panic!() };
    assert!(wait.as_millis() as u64 <= 3 * least);
}

fn moved(claim: u64, to: Fate) -> Event {
    Event::Moved(fake::moved(claim, to))
}

/// Accepted, persisted, settled, returned, dead.
fn sums(drain: &Drain<FakeStore>) -> [u64; 5] {
    let balance = drain.published.pending.balance(CampaignNo(0));
    let money = [balance.money_persisted, balance.money_settled, balance.money_returned, balance.money_dead];
    let units = [balance.accepted, balance.persisted, balance.settled, balance.returned, balance.dead];
    assert_eq!(money.map(|m| m as u64), [units[1] * 10, units[2] * 10, units[3] * 10, units[4] * 10]);
    units
}

#[test]
fn ends_move_their_rows_sums() {
    let mut drain = drain(10, 4, |_| {});
    publish_events(
        &drain.published,
        11,
        [moved(1, Fate::Settled), moved(9, Fate::Cancelled), moved(10, Fate::Expired)],
    );
    run(&mut drain);
    assert_eq!(sums(&drain), [0, 7, 1, 2, 0]);
}

#[test]
fn the_end_of_a_dead_claim_goes_with_it_and_the_databases_sums_count() {
    for (to, after) in [(Fate::Settled, [0, 9, 0, 0, 1]), (Fate::Cancelled, [0, 9, 0, 1, 0])] {
        for batch_max in [100, 5] {
            let mut drain = drain(10, batch_max, |inside| inside.poison = [4].into());
            publish_events(&drain.published, 11, [moved(4, to)]);
            let steps = run(&mut drain);
            let dead: usize =
                steps.iter().map(|step| if let Step::Wrote { dead, .. } = step { *dead } else { 0 }).sum();
            assert_eq!((dead, sums(&drain)), (1, after), "{to:?} in batches of {batch_max}");
            assert!(drain.uncounted);
            assert_eq!(drain.published.metrics.drain_rows.get(), 10);
        }
    }
}

#[test]
fn the_end_of_a_claim_that_nobody_knows_is_a_dead_letter_of_its_own() {
    let mut drain = drain(3, 100, |_| {});
    publish_events(&drain.published, 4, [moved(99, Fate::Settled), moved(2, Fate::Settled)]);
    assert_eq!(run(&mut drain)[0], Step::Wrote { rows: 5, dead: 1 });
    assert_eq!(drain.store.inside().dead, [Seq(4)].into());
    assert_eq!(sums(&drain), [0, 2, 1, 0, 0]);
}

#[test]
fn a_second_and_other_end_of_a_dead_claim_is_found_and_the_drain_goes_on() {
    let mut drain = drain(3, 100, |inside| inside.poison = [2].into());
    publish_events(&drain.published, 4, [moved(2, Fate::Settled), moved(2, Fate::Settled), moved(2, Fate::Expired)]);
    assert_eq!(run(&mut drain)[0], Step::Wrote { rows: 6, dead: 2 });
    assert_eq!(drain.store.inside().dead, [Seq(2), Seq(6)].into());
    assert_eq!(sums(&drain), [0, 2, 0, 0, 1]);
}

#[test]
fn a_table_that_refuses_every_claim_is_an_outage_although_their_ends_prove_nothing() {
    let mut drain = drain(10, 100, |inside| inside.poison = (1..=10).collect());
    publish_events(&drain.published, 11, (1..=10).map(|claim| moved(claim, Fate::Settled)));
    assert!(outage(&block(drain.step())));
    assert_eq!(drain.store.inside().dead.len(), 0);
}

#[test]
fn a_committed_batch_waits_for_the_sums_and_is_not_sent_again() {
    let mut drain = drain(10, 100, |inside| {
        inside.poison = [4].into();
        inside.totals_to_fail = 3;
    });
    publish_events(&drain.published, 11, [moved(4, Fate::Cancelled), moved(5, Fate::Settled)]);
    for _ in 0..3 {
        assert!(outage(&block(drain.step())));
        assert_eq!(drain.published.pending.retired(), Seq(0), "nothing is retired without its sums");
    }
    let sent = drain.store.inside().attempts.len();
    assert_eq!(run(&mut drain)[0], Step::Wrote { rows: 12, dead: 1 });
    assert_eq!(drain.store.inside().attempts.len(), sent);
    assert_eq!(sums(&drain), [0, 8, 1, 1, 0]);
}

#[test]
fn a_lost_reply_of_a_batch_with_ends_takes_the_databases_sums() {
    let mut drain = drain(10, 5, |inside| {
        inside.poison = [4].into();
        inside.writes = [Fault::None, Fault::None, Fault::None, Fault::ReplyLost].into();
    });
    publish_events(&drain.published, 11, [moved(4, Fate::Cancelled), moved(5, Fate::Expired)]);
    let steps = run(&mut drain);
    assert!(matches!(steps[2], Step::Backoff { error: StoreError::Unknown(_), .. }), "{steps:?}");
    assert_eq!(sums(&drain), [0, 8, 0, 2, 0]);
}

/// What the fake takes on trust, seen in a real database: the trial row passes and leaves nothing, and a row that
/// another one excludes is found.
#[test]
fn a_real_database_takes_the_trial_row_and_gives_up_one_of_two_that_exclude_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("forebay.db").display());
    let published = published();
    let store = Arc::new(SqliteStore::open(&url, Mode::ReadWrite).unwrap());
    let mut drain = Drain::new(store.clone(), published.clone(), 100, 1);
    drain.names = Box::new(|_| Some((CampaignId::parse("sale").unwrap(), None, false)));
    let mut body = Vec::new();
    for seq in 1..=40 {
        let mut claim = fake::claim(seq, 0);
        if seq == 30 {
            claim.user = fake::claim(7, 0).user;
        }
        codec::encode_claim(&mut body, &claim);
    }
    let context = FrameContext { first_seq: Seq(1), at: Timestamp(1_000_000), durability: Durability::Disk };
    published.pending.publish(&body, 40, &context, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        store.migrate().await.unwrap();
        assert_eq!(drain.bind(7).await, Step::Idle);
        assert_eq!(store.probe(&batch::canary()).await, Ok(()));
        assert_eq!((store.totals().await, store.scan(None, Seq(0), 10).await), (Ok(vec![]), Ok(vec![])));
        assert_eq!(drain.step().await, Step::Wrote { rows: 40, dead: 1 });
        assert_eq!(drain.step().await, Step::Idle);
        let dead = store.dead_claims(Seq(0), 10).await.unwrap();
        assert_eq!(dead.iter().map(|row| row.claim.seq).collect::<Vec<_>>(), [Seq(30)]);
        assert_eq!(store.scan(None, Seq(0), 100).await.unwrap().len(), 39);
        store.close().await;
    });
    let balance = published.pending.balance(CampaignNo(0));
    assert_eq!((balance.accepted, balance.persisted, balance.dead), (0, 39, 1));
}

#[cfg(feature = "testing")]
#[test]
fn the_planted_bug_loses_a_batch_whose_commit_did_not_happen() {
    let mut drain = drain(10, 100, |inside| inside.writes = [Fault::CommitLost].into());
    plant::set(Some(Bug::BlindCommitRetry));
    let step = block(drain.step());
    plant::set(None);
    assert_eq!(step, Step::Wrote { rows: 10, dead: 0 });
    assert!(drain.published.pending.retired() > drain.store.inside().cursor);
}
