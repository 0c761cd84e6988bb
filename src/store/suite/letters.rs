//! What is done about dead letters.

use super::ends::{beside, check_in, end, row_fault, status, sums};
use super::{batch, changed, claim, committed, created, everything};
use crate::sale::{CampaignNo, ClaimStatus, Fate, Money, Seq, Units};
use crate::store::{ClaimRow, DeadRow, Dealt, LetterEnd, Row, Store};

fn dead<const N: usize>(places: [usize; N]) -> [DeadRow; N] {
    places.map(|index| DeadRow { index, reason: format!("row {index} is \"poison\"") })
}

async fn open<S: Store>(store: &S) -> Vec<u64> {
    let letters = store.dead_letters(0, 100).await.unwrap();
    assert_eq!(store.dead_count().await, Ok(letters.len() as u64));
    letters.iter().map(|letter| letter.id).collect()
}

async fn dead_claims<S: Store>(store: &S) -> Vec<ClaimRow> {
    store.dead_claims(Seq(0), 100).await.unwrap()
}

pub(in crate::store) async fn the_end_of_a_claim_that_dies_in_the_same_batch_goes_with_it<S: Store>(store: S) {
    let (a, b, c) = (claim(2, "a"), claim(3, "b"), claim(4, "c"));
    let mut rows = vec![created(1, 10), Row::Claim(a), Row::Claim(b), Row::Claim(c)];
    rows.extend([end(5, &b, Fate::Settled), end(6, &c, Fate::Cancelled), end(7, &a, Fate::Settled)]);
    assert_eq!(store.write(&batch(0, rows), &dead([2, 3])).await, beside(1));
    assert_eq!(sums(&store).await, [0, 1, 1, 1]);
    assert_eq!((open(&store).await.len(), dead_claims(&store).await), (1, vec![b]));
    assert_eq!(status(&store, &b).await, Some(ClaimStatus::Settled));
    assert_eq!(status(&store, &c).await, Some(ClaimStatus::Cancelled));
    assert_eq!(status(&store, &a).await, Some(ClaimStatus::Settled));
}

pub(in crate::store) async fn a_dead_claim_comes_to_its_end_where_it_is<S: Store>(store: S) {
    let (a, b, c) = (claim(2, "a"), claim(3, "b"), claim(4, "c"));
    let rows = vec![created(1, 10), Row::Claim(a), Row::Claim(b), Row::Claim(c)];
    assert_eq!(store.write(&batch(0, rows), &dead([1, 2, 3])).await, committed(0));
    assert_eq!(status(&store, &a).await, Some(ClaimStatus::Accepted));
    let rows = vec![end(5, &a, Fate::Settled), end(6, &b, Fate::Expired)];
    assert_eq!(store.write(&batch(4, rows), &[]).await, beside(0));
    assert_eq!(sums(&store).await, [0, 0, 1, 2]);
    assert_eq!(dead_claims(&store).await, [a, c]);
    assert_eq!(open(&store).await.len(), 2);
    assert_eq!(store.requeue(2).await, Ok(Dealt::Closed(LetterEnd::Expired)));
    for (row, expected) in [(a, ClaimStatus::Settled), (b, ClaimStatus::Expired), (c, ClaimStatus::Accepted)] {
        assert_eq!(status(&store, &row).await, Some(expected));
    }
    // Again: nothing. Another end: that row's fault.
    let rows = vec![end(7, &a, Fate::Settled), end(8, &b, Fate::Expired)];
    assert_eq!(store.write(&batch(6, rows), &[]).await, beside(0));
    assert_eq!(sums(&store).await, [0, 0, 1, 2]);
    row_fault(store.probe(&[end(9, &a, Fate::Cancelled)]).await, "is settled");
    row_fault(store.probe(&[end(9, &b, Fate::Settled)]).await, "is expired");
    let mut wrong = c;
    wrong.claim.quantity = Units(2);
    row_fault(store.probe(&[end(9, &wrong, Fate::Settled)]).await, "quantity");
}

pub(in crate::store) async fn a_dead_claim_settled_and_requeued_in_each_order_becomes_the_same_row<S: Store>(store: S) {
    let (a, b) = (claim(2, "a"), claim(3, "b"));
    assert_eq!(
        store.write(&batch(0, vec![created(1, 2), Row::Claim(a), Row::Claim(b)]), &dead([1, 2])).await,
        committed(0)
    );
    let ids = open(&store).await;
    // The one: paid, then a row. The other: a row, then paid.
    assert_eq!(store.write(&batch(3, vec![end(4, &a, Fate::Settled)]), &[]).await, beside(0));
    assert_eq!(store.requeue(ids[0]).await, Ok(Dealt::Done));
    assert_eq!(sums(&store).await, [0, 1, 0, 1]);
    assert_eq!(store.requeue(ids[1]).await, Ok(Dealt::Done));
    assert_eq!(sums(&store).await, [1, 1, 0, 0]);
    assert_eq!(store.write(&batch(4, vec![end(5, &b, Fate::Settled)]), &[]).await, committed(0));
    assert_eq!(sums(&store).await, [0, 2, 0, 0]);
    for row in [a, b] {
        let there = store.claim(row.claim.claim_id).await.unwrap().unwrap();
        assert_eq!((there.row, there.status), (row, ClaimStatus::Settled));
        assert_eq!(store.claims_of(&row.claim.user, None, 10).await.unwrap().len(), 1, "given once");
    }
    assert_eq!((open(&store).await, dead_claims(&store).await), (vec![], vec![]));
    assert_eq!(store.scan(None, Seq(0), 10).await.unwrap().len(), 2);
    let before = everything(&store).await;
    for (id, end) in
        [(ids[0], Some(LetterEnd::Requeued)), (ids[1], Some(LetterEnd::Requeued)), (999, None), (u64::MAX, None)]
    {
        let said = Ok(end.map_or(Dealt::Unknown, Dealt::Closed));
        assert_eq!((store.requeue(id).await, store.discard(id, "ann", "x").await), (said.clone(), said));
        assert_eq!((store.dead_letter(id).await, store.closed_letter(id).await), (Ok(None), Ok(end)));
    }
    assert_eq!((everything(&store).await, sums(&store).await), (before, [0, 2, 0, 0]));
    // A row like any other: its hold is taken, and its end comes once.
    row_fault(store.probe(&[Row::Claim(claim(6, "a"))]).await, "UNIQUE");
    row_fault(store.probe(&[end(6, &a, Fate::Cancelled)]).await, "is settled");
}

pub(in crate::store) async fn a_dead_claim_given_back_is_closed_and_cannot_be_requeued<S: Store>(store: S) {
    let a = claim(1, "a");
    assert_eq!(store.write(&batch(0, vec![Row::Claim(a)]), &dead([0])).await, committed(0));
    let id = open(&store).await[0];
    let Row::End(mut given_back) = end(2, &a, Fate::Cancelled) else { unreachable!("an end's row") };
    given_back.moved.reason = "sold elsewhere".into();
    assert_eq!(store.write(&batch(1, vec![Row::End(given_back)]), &[]).await, beside(0));
    assert_eq!(sums(&store).await, [0, 0, 1, 0]);
    assert_eq!(store.requeue(id).await, Ok(Dealt::Closed(LetterEnd::Dropped)));
    assert_eq!(store.discard(id, "ann", "again").await, Ok(Dealt::Closed(LetterEnd::Dropped)));
    assert_eq!(store.dead_letter(id).await, Ok(None));
    assert_eq!(status(&store, &a).await, Some(ClaimStatus::Cancelled));
    // Its hold was never taken.
    assert_eq!(store.write(&batch(2, vec![Row::Claim(claim(3, "a"))]), &[]).await, committed(1));
    assert_eq!(status(&store, &a).await, Some(ClaimStatus::Cancelled));
}

pub(in crate::store) async fn a_letter_that_the_tables_still_refuse_stays<S: Store>(store: S) {
    let (a, b) = (claim(2, "u"), claim(3, "u"));
    let rows = vec![created(1, 2), Row::Claim(a), Row::Claim(b)];
    assert_eq!(store.write(&batch(0, rows), &dead([2])).await, committed(1));
    let id = open(&store).await[0];
    let before = everything(&store).await;
    let refused = store.requeue(id).await;
    assert!(matches!(&refused, Ok(Dealt::Refused(text)) if text.to_lowercase().contains("unique")), "{refused:?}");
    assert_eq!((everything(&store).await, open(&store).await), (before, vec![id]));
    // Too little stock is seen in the sums only.
    let rows = vec![end(4, &a, Fate::Cancelled), changed(5, r#"{"add_stock":-2}"#)];
    assert_eq!(store.write(&batch(3, rows), &[]).await, committed(0));
    let refused = store.requeue(id).await;
    assert!(matches!(&refused, Ok(Dealt::Refused(text)) if text.contains("held_within_stock")), "{refused:?}");
    assert_eq!(sums(&store).await, [0, 0, 1, 1]);
    assert_eq!(store.write(&batch(5, vec![changed(6, r#"{"add_stock":1}"#)]), &[]).await, committed(0));
    assert_eq!(store.requeue(id).await, Ok(Dealt::Done));
    assert_eq!(sums(&store).await, [1, 0, 1, 0]);
    assert_eq!(status(&store, &b).await, Some(ClaimStatus::Persisted));
}

pub(in crate::store) async fn a_dead_end_is_requeued_once_its_claim_is_there<S: Store>(store: S) {
    let (a, b, lost) = (claim(1, "a"), claim(2, "b"), claim(99, "x"));
    let rows = vec![Row::Claim(a), Row::Claim(b), end(3, &a, Fate::Cancelled), end(4, &b, Fate::Expired)];
    let rows = rows.into_iter().chain([end(5, &lost, Fate::Settled)]).collect();
    // The second claim is dead as well, its end too.
    assert_eq!(store.write(&batch(0, rows), &dead([1, 2, 3, 4])).await, committed(1));
    assert_eq!(sums(&store).await, [1, 0, 0, 1]);
    let ids = open(&store).await;
    assert_eq!(store.requeue(ids[1]).await, Ok(Dealt::Done));
    assert_eq!(status(&store, &a).await, Some(ClaimStatus::Cancelled));
    assert_eq!(sums(&store).await, [0, 0, 1, 1]);
    assert_eq!(store.requeue(ids[2]).await, Ok(Dealt::Done), "its claim is a letter, which that closes");
    assert_eq!(status(&store, &b).await, Some(ClaimStatus::Expired));
    assert_eq!(sums(&store).await, [0, 0, 2, 0]);
    let refused = store.requeue(ids[3]).await;
    assert!(matches!(&refused, Ok(Dealt::Refused(text)) if text.contains("neither")), "{refused:?}");
    assert_eq!(open(&store).await, [ids[3]]);
}

pub(in crate::store) async fn a_dead_creation_is_requeued_under_the_changes_that_came_after_it<S: Store>(store: S) {
    let rows = vec![created(1, 1), Row::Claim(claim(2, "a")), changed(3, r#"{"add_stock":5,"state":"paused"}"#)];
    assert_eq!(store.write(&batch(0, rows), &dead([0])).await, committed(1));
    assert_eq!(store.write(&batch(3, vec![changed(4, r#"{"add_stock":-4}"#)]), &[]).await, committed(0));
    let id = open(&store).await[0];
    assert_eq!(store.requeue(id).await, Ok(Dealt::Done));
    let again = Dealt::Closed(LetterEnd::Requeued);
    assert_eq!((store.requeue(id).await, open(&store).await), (Ok(again), vec![]));
    // 1 + 5 − 4 units, of which one is held.
    assert_eq!(store.write(&batch(4, vec![Row::Claim(claim(5, "b"))]), &[]).await, committed(1));
    row_fault(store.probe(&[Row::Claim(claim(6, "c"))]).await, "held_within_stock");
    row_fault(store.probe(&[created(6, 1)]).await, "is there already");
    assert_eq!(sums(&store).await, [2, 0, 0, 0]);
}

pub(in crate::store) async fn a_dead_change_is_requeued_behind_later_ones<S: Store>(store: S) {
    let rows = vec![created(1, 1), changed(2, r#"{"add_stock":2,"state":"paused"}"#), changed(3, r#"{"add_stock":1}"#)];
    assert_eq!(store.write(&batch(0, rows), &dead([1])).await, committed(0));
    assert_eq!(store.requeue(open(&store).await[0]).await, Ok(Dealt::Done));
    let rows = (4..=7).map(|seq| Row::Claim(claim(seq, &format!("u{seq}")))).collect();
    assert_eq!(store.write(&batch(3, rows), &[]).await, committed(4));
    row_fault(store.probe(&[Row::Claim(claim(8, "x"))]).await, "held_within_stock");
}

pub(in crate::store) async fn a_dead_check_in_is_requeued_with_its_points<S: Store>(store: S) {
    let a = check_in(1, "u", 20_000);
    assert_eq!(store.write(&batch(0, vec![Row::Claim(a)]), &dead([0])).await, committed(0));
    assert_eq!(dead_claims(&store).await, [a]);
    assert_eq!(store.claim(a.claim.claim_id).await.unwrap().map(|c| c.row), Some(a));
    assert_eq!(store.requeue(open(&store).await[0]).await, Ok(Dealt::Done));
    assert_eq!(store.claim(a.claim.claim_id).await.unwrap().map(|c| c.row), Some(a), "as a check-in");
    row_fault(store.probe(&[Row::Claim(check_in(2, "u", 20_000))]).await, "UNIQUE");
    let totals = store.totals().await.unwrap();
    let seen = (totals[0].persisted, totals[0].persisted_money, totals[0].dead, totals[0].dead_money);
    assert_eq!(seen, (Units(1), Money(10), Units(0), Money(0)));
}

pub(in crate::store) async fn letters_are_listed_page_by_page_and_told_whole<S: Store>(store: S) {
    let (a, b) = (claim(2, "a"), claim(3, "b"));
    let rows = vec![created(1, 9), Row::Claim(a), Row::Claim(b), end(4, &b, Fate::Settled), Row::Claim(claim(5, "c"))];
    assert_eq!(store.write(&batch(0, rows), &dead([0, 1, 3, 4])).await, committed(1));
    let all = store.dead_letters(0, 100).await.unwrap();
    assert_eq!(all.iter().map(|l| l.kind.as_str()).collect::<Vec<_>>(), ["campaign", "claim", "end", "claim"]);
    assert_eq!(all.iter().map(|l| l.seq.0).collect::<Vec<_>>(), [1, 2, 4, 5]);
    let first = store.dead_letters(0, 3).await.unwrap();
    assert_eq!(first, all[..3]);
    assert_eq!(store.dead_letters(first[2].id, 3).await.unwrap(), all[3..]);
    assert_eq!(store.dead_letters(u64::MAX, 3).await, Ok(vec![]));
    for letter in &all {
        assert_eq!(store.dead_letter(letter.id).await, Ok(Some(letter.clone())));
        assert!(letter.reason.contains("\"poison\"") && letter.campaign.is_some_and(|id| id.as_str() == "sale"));
        assert!(serde_json::from_str::<serde_json::Value>(&letter.payload).unwrap()["campaign_no"] == 0);
    }
    let seen = (all[1].claim_id, all[1].user, all[1].quantity, all[1].amount, all[1].at);
    let claim = a.claim;
    assert_eq!(seen, (Some(claim.claim_id), Some(claim.user), Some(Units(1)), Some(Money(990)), claim.accepted_at));
    assert_eq!((all[2].claim_id, all[2].user), (Some(b.claim.claim_id), None));
    assert_eq!((all[0].claim_id, all[0].user, all[0].quantity, all[0].amount), (None, None, None, None));
}

pub(in crate::store) async fn a_text_with_a_nul_of_an_older_journal_is_kept_visibly<S: Store>(store: S) {
    let a = claim(2, "a");
    let mut creation = created(1, 9);
    if let Row::Campaign(row) = &mut creation {
        row.detail = row.detail.replace("A sale", "A\\u0000sale");
    }
    let rows = vec![creation, Row::Claim(a), changed(3, r#"{"add_stock":1}"#)];
    assert_eq!(store.write(&batch(0, rows), &dead([1, 2])).await, committed(0));
    let Row::End(mut given_back) = end(4, &a, Fate::Cancelled) else { unreachable!("an end's row") };
    given_back.moved.reason = "sold\0elsewhere".into();
    assert_eq!(store.write(&batch(3, vec![Row::End(given_back)]), &[]).await, beside(0));
    assert_eq!(status(&store, &a).await, Some(ClaimStatus::Cancelled));
    assert_eq!(store.discard(open(&store).await[0], "ann", "no\0use").await, Ok(Dealt::Done));
    assert_eq!(store.write(&batch(4, vec![Row::Claim(claim(5, "b"))]), &[]).await, committed(1));
    assert!(open(&store).await.is_empty());
}

pub(in crate::store) async fn letters_of_claims_and_ends_are_not_discarded_and_the_others_are<S: Store>(store: S) {
    let (a, b) = (claim(2, "a"), claim(3, "b"));
    let mut rows = vec![created(1, 9), Row::Claim(a), Row::Claim(b)];
    rows.extend([end(4, &claim(99, "x"), Fate::Settled), end(5, &a, Fate::Settled)]);
    assert_eq!(store.write(&batch(0, rows), &dead([0, 1, 3])).await, beside(1));
    assert_eq!(store.write(&batch(5, vec![end(6, &b, Fate::Cancelled)]), &dead([0])).await, committed(0));
    let ids = open(&store).await;
    let dropped = Ok(Dealt::Closed(LetterEnd::Dropped));
    assert_eq!(store.discard(ids[1], "ann", "enough").await, Ok(Dealt::Unknown));
    assert_eq!(store.closed_letter(ids[0]).await, Ok(None));
    assert_eq!(store.discard(ids[0], "ann", "enough: requeued").await, Ok(Dealt::Done));
    assert_eq!(store.discard(ids[0], "ann", "").await, dropped);
    assert_eq!(store.requeue(ids[0]).await, dropped);
    // Without an end's letter its row would hold for good what is free already.
    assert_eq!(store.discard(ids[3], "ann", "").await, Ok(Dealt::Unknown));
    // One that nothing waits for could never be closed otherwise.
    assert_eq!(store.discard(ids[2], "ann", "no such claim").await, Ok(Dealt::Done));
    assert_eq!((open(&store).await, dead_claims(&store).await), (vec![ids[1], ids[3]], vec![a]));
    let totals = store.totals().await.unwrap();
    assert_eq!((totals[0].no, totals[0].dead), (CampaignNo(0), Units(1)));
}
