//! What a recovery changes in the rows, and what it reads of dead letters.

use super::{fresh, shell};
use crate::sale::{CampaignNo, ClaimStatus, Fate, Seq, Timestamp, Units};
use crate::store::suite::ends::{beside, end, row_fault, status, sums};
use crate::store::suite::{JOURNAL, batch, changed, claim, committed, created};
use crate::store::{DeadRow, Dealt, EndRow, Mend, Position, Recovery, Row, Store};

fn at(cursor: u64) -> Position {
    Position { journal: JOURNAL, cursor: Seq(cursor) }
}

fn loss() -> Recovery {
    Recovery { at: Timestamp(0), action: "loss", lost: Some((Seq(5), Seq(9))), detail: serde_json::json!({}) }
}

fn ended(row: Row) -> EndRow {
    match row {
        Row::End(end) => end,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn known_ends_reach_rows_and_letters_and_ends_of_lost_claims_are_nothing() {
    let (_dir, store) = fresh().await;
    let (a, b, c, lost) = (claim(2, "a"), claim(3, "b"), claim(4, "c"), claim(7, "lost"));
    let rows = vec![created(1, 10), Row::Claim(a), Row::Claim(b), Row::Claim(c)];
    let dead = [DeadRow { index: 3, reason: "poison".into() }];
    assert_eq!(store.write(&batch(0, rows), &dead).await, committed(2));
    row_fault(store.probe(&[end(10, &lost, Fate::Expired)]).await, "neither a row nor a dead letter");
    let ends =
        vec![ended(end(9, &a, Fate::Cancelled)), ended(end(9, &b, Fate::Settled)), ended(end(9, &c, Fate::Cancelled))];
    let mend = Mend { ends, lost: vec![lost.claim.claim_id], ..Mend::default() };
    assert_eq!(store.rebind(Some(at(4)), at(9), &mend, &loss()).await, Ok(false));
    assert_eq!(store.bind(JOURNAL).await, Ok(at(9)));
    assert_eq!(sums(&store).await, [0, 1, 2, 0]);
    for (row, to) in [(a, ClaimStatus::Cancelled), (b, ClaimStatus::Settled), (c, ClaimStatus::Cancelled)] {
        assert_eq!(status(&store, &row).await, Some(to));
    }
    // The hold is free for the buyer's next claim; what was lost has nothing to end.
    let rows = vec![end(10, &lost, Fate::Expired), Row::Claim(claim(11, "a"))];
    assert_eq!(store.write(&batch(9, rows), &[]).await, beside(1));
    assert_eq!(store.dead_count().await, Ok(0));
}

#[tokio::test]
async fn the_letter_of_an_end_can_be_closed_once_nothing_waits_for_it() {
    let (_dir, store) = fresh().await;
    let (a, b, nobody) = (claim(2, "a"), claim(3, "b"), claim(9, "nobody"));
    let rows = vec![created(1, 10), Row::Claim(a), Row::Claim(b), end(4, &b, Fate::Settled)];
    assert_eq!(store.write(&batch(0, rows), &[]).await, committed(2));
    let rows = vec![end(5, &a, Fate::Cancelled), end(6, &b, Fate::Cancelled), end(7, &nobody, Fate::Expired)];
    let dead: Vec<_> = (0..3).map(|index| DeadRow { index, reason: "poison".into() }).collect();
    assert_eq!(store.write(&batch(4, rows), &dead).await, committed(0));
    assert_eq!(store.discard(1, "ann", "x").await, Ok(Dealt::Unknown), "its row still holds what it says to be free");
    assert_eq!(store.discard(2, "ann", "it was paid").await, Ok(Dealt::Done), "its row has come to another end");
    assert_eq!(store.discard(3, "ann", "it is nobody's").await, Ok(Dealt::Done), "there is nothing to end");
    assert_eq!(store.requeue(1).await, Ok(Dealt::Done));
    assert_eq!(store.dead_count().await, Ok(0));
}

#[tokio::test]
async fn letters_that_were_closed_still_tell_what_the_book_had_entered() {
    let (_dir, store) = fresh().await;
    let (a, b) = (claim(3, "a"), claim(4, "b"));
    let rows = vec![created(1, 1), changed(2, r#"{"add_stock":5}"#), Row::Claim(a), Row::Claim(b)];
    let dead = [1, 3].map(|index| DeadRow { index, reason: "poison".into() });
    assert_eq!(store.write(&batch(0, rows), &dead).await, committed(1));
    assert_eq!(store.write(&batch(4, vec![end(5, &b, Fate::Cancelled)]), &[]).await, beside(0));
    assert_eq!(store.discard(1, "ann", "not this time").await, Ok(Dealt::Done));
    assert_eq!(store.dead_claims(Seq(0), 10).await, Ok(vec![]), "none holds units");
    let all = store.dead_claims_and_fates(Seq(0), 10).await;
    assert_eq!(all, Ok(vec![(b, ClaimStatus::Cancelled)]), "its key is remembered all the same");
    let campaigns = store.campaign_records().await.unwrap();
    assert_eq!((campaigns[0].no, campaigns[0].spec.stock), (CampaignNo(0), Units(6)));
}

#[tokio::test]
async fn a_log_that_another_program_reads_is_not_left_behind() {
    let (_dir, store) = fresh().await;
    assert_eq!(store.write(&batch(0, vec![created(1, 10)]), &[]).await, committed(0));
    let mut reader = shell(&store).await;
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM claims").execute(&mut reader).await.unwrap();
    assert_eq!(store.write(&batch(1, vec![Row::Claim(claim(2, "a"))]), &[]).await, committed(1));
    let refused = store.fold().await.unwrap_err().to_string();
    assert!(refused.contains("another program"), "{refused}");
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    assert_eq!(store.fold().await, Ok(()));
    let mut log = store.path().as_os_str().to_owned();
    log.push("-wal");
    assert_eq!(std::fs::metadata(log).map(|found| found.len()).unwrap_or(0), 0, "the file alone is the database");
}
