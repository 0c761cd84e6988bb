//! What becomes of claims after their acceptance, and check-ins.

use super::{batch, campaign, changed, claim, claims, committed, created, everything};
use crate::sale::{CampaignId, CampaignNo, ClaimStatus, Currency, Fate, Money, Moved, Seq, Timestamp, Units, UserId};
use crate::store::{CampaignRow, ClaimRow, EndRow, Row, Store, StoreError, Totals, Written};

/// The end of `of` at position `seq`.
pub(in crate::store) fn end(seq: u64, of: &ClaimRow, to: Fate) -> Row {
    let claim = &of.claim;
    let moved = Moved {
        claim_id: claim.claim_id,
        campaign: claim.campaign,
        quantity: claim.quantity,
        amount: claim.amount,
        to,
        by: if to == Fate::Expired { Box::default() } else { "orders".into() },
        reason: Box::default(),
    };
    Row::End(EndRow { seq: Seq(seq), at: Timestamp(1_763_640_100_000_000 + seq as i64), campaign: of.campaign, moved })
}

/// A check-in for 10 points on the day of number `day`.
pub(in crate::store) fn check_in(seq: u64, user: &str, day: u32) -> ClaimRow {
    let mut row = claim(seq, user);
    (row.claim.campaign, row.campaign) = (CampaignNo(1), CampaignId::parse("daily").unwrap());
    (row.claim.hold, row.claim.amount, row.currency, row.is_check_in) = (day, Some(Money(10)), None, true);
    row
}

fn created_check_in(seq: u64) -> Row {
    let detail = r#"{"id":"daily","kind":"check_in","title":"","opens_at":"2026-11-20T12:00:00Z",
        "closes_at":"2027-11-20T12:00:00Z","check_in":{"points":10,"time_zone":"Asia/Shanghai"}}"#;
    let Row::Campaign(row) = campaign(seq, "created", detail.to_owned()) else { unreachable!("a campaign's row") };
    Row::Campaign(CampaignRow { no: CampaignNo(1), id: CampaignId::parse("daily").unwrap(), ..row })
}

/// What a write gives that met an end which did not move a row.
pub(in crate::store) fn beside(new_claims: u64) -> Result<Written, StoreError> {
    Ok(Written::Committed { new_claims, moved_dead: true })
}

/// Persisted, settled, returned, dead: units, each of which costs 990.
pub(in crate::store) async fn sums<S: Store>(store: &S) -> [u64; 4] {
    let totals = store.totals().await.unwrap();
    units(totals.iter().find(|t| t.no == CampaignNo(0)).expect("the sale"))
}

fn units(t: &Totals) -> [u64; 4] {
    let units = [t.persisted, t.settled, t.returned, t.dead].map(|u| u.0);
    let money = [t.persisted_money, t.settled_money, t.returned_money, t.dead_money].map(|m| m.0 as u64);
    assert_eq!(money, units.map(|u| u * 990));
    units
}

pub(in crate::store) async fn status<S: Store>(store: &S, row: &ClaimRow) -> Option<ClaimStatus> {
    let by_id = store.claim(row.claim.claim_id).await.unwrap();
    let of_user = store.claims_of(&row.claim.user, None, 100).await.unwrap();
    let listed = of_user.iter().find(|c| c.row.claim.claim_id == row.claim.claim_id);
    assert_eq!(by_id.as_ref(), listed, "found by id as in the buyer's list");
    by_id.map(|c| c.status)
}

pub(in crate::store) fn row_fault<T: std::fmt::Debug>(result: Result<T, StoreError>, word: &str) {
    assert!(
        matches!(&result, Err(StoreError::Row(text)) if text.to_lowercase().contains(&word.to_lowercase())),
        "{word}: {result:?}"
    );
}

pub(in crate::store) async fn an_end_moves_its_row_and_its_sums<S: Store>(store: S) {
    let rows: Vec<_> = (2..=5).map(|seq| claim(seq, &format!("u{seq}"))).collect();
    let all = [created(1, 4)].into_iter().chain(rows.iter().map(|row| Row::Claim(*row))).collect();
    assert_eq!(store.write(&batch(0, all), &[]).await, committed(4));
    let ends = [Fate::Settled, Fate::Cancelled, Fate::Expired];
    let ends = ends.into_iter().zip(0..).map(|(to, i)| end(6 + i as u64, &rows[i], to)).collect();
    assert_eq!(store.write(&batch(5, ends), &[]).await, committed(0));
    assert_eq!(sums(&store).await, [1, 1, 2, 0]);
    let expected = [ClaimStatus::Settled, ClaimStatus::Cancelled, ClaimStatus::Expired, ClaimStatus::Persisted];
    for (row, expected) in rows.iter().zip(expected) {
        assert_eq!(status(&store, row).await, Some(expected));
    }
    let scanned = store.scan(None, Seq(0), 10).await.unwrap();
    assert_eq!(scanned.iter().map(|c| c.status).collect::<Vec<_>>(), expected);
}

/// A buyer's three claims one after another with what becomes of the first two, in campaign number `no`, from position
/// `after` on; and what must be there afterwards.
fn story(no: u32, after: u64, first: Option<Fate>, second: Option<Fate>) -> (Vec<Row>, Vec<(u64, ClaimStatus)>) {
    let id = CampaignId::parse(&format!("c{no}")).unwrap();
    let mine = |seq: u64, user: &str, hold: u32| {
        let mut row = claim(after + seq, user);
        (row.claim.campaign, row.campaign, row.claim.hold) = (CampaignNo(no), id, hold);
        row
    };
    let lives = |fate: Option<Fate>| !fate.is_some_and(Fate::returns_units);
    let (a, b) = (mine(1, "u", 0), mine(3, "u", u32::from(lives(first))));
    let c = mine(5, "u", u32::from(lives(first)) + u32::from(lives(second)));
    let then = |seq: u64, of: &ClaimRow, fate: Option<Fate>| match fate {
        Some(fate) => end(after + seq, of, fate),
        None => Row::Claim(mine(seq, "another", seq as u32)),
    };
    let rows = vec![Row::Claim(a), then(2, &a, first), Row::Claim(b), then(4, &b, second), Row::Claim(c)];
    let status = |fate: Option<Fate>| fate.map_or(ClaimStatus::Persisted, Fate::status);
    let mut expected = vec![(1, status(first)), (3, status(second)), (5, ClaimStatus::Persisted)];
    expected.extend([(2, first), (4, second)].iter().filter(|f| f.1.is_none()).map(|f| (f.0, ClaimStatus::Persisted)));
    expected.sort_unstable_by_key(|(seq, _)| *seq);
    (rows, expected)
}

/// Every way to cut `rows` rows into one, two or three batches: where the second and the third begin.
pub(in crate::store) fn cuts(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |first| (first..rows).map(move |second| (first, second)))
}

pub(in crate::store) async fn claims_and_ends_come_to_the_same_however_they_are_split_into_batches<S: Store>(store: S) {
    let fates = [None, Some(Fate::Settled), Some(Fate::Cancelled)];
    let (mut no, mut after) = (0, 0);
    for (first, second) in fates.iter().flat_map(|first| fates.map(|second| (*first, second))) {
        for (one, two) in cuts(5) {
            let (rows, expected) = story(no, after, first, second);
            for part in [&rows[..one], &rows[one..two], &rows[two..]] {
                if part.is_empty() {
                    continue;
                }
                let part = batch(part[0].seq().0 - 1, part.to_vec());
                let written = store.write(&part, &[]).await;
                assert!(matches!(written, Ok(Written::Committed { moved_dead: false, .. })), "{written:?}");
            }
            let about = format!("{first:?} and {second:?}, cut at {one} and {two}");
            let id = CampaignId::parse(&format!("c{no}")).unwrap();
            let there = store.scan(Some(&id), Seq(0), 100).await.unwrap();
            let there: Vec<_> = there.iter().map(|c| (c.row.claim.seq.0 - after, c.status)).collect();
            assert_eq!(there, expected, "{about}");
            let totals = store.totals().await.unwrap();
            let count = |of: &[ClaimStatus]| expected.iter().filter(|(_, status)| of.contains(status)).count() as u64;
            let returned = count(&[ClaimStatus::Cancelled, ClaimStatus::Expired]);
            let sums = [count(&[ClaimStatus::Persisted]), count(&[ClaimStatus::Settled]), returned, 0];
            assert_eq!(units(&totals[no as usize]), sums, "{about}");
            (no, after) = (no + 1, after + 5);
        }
    }
}

pub(in crate::store) async fn an_end_that_comes_again_changes_nothing<S: Store>(store: S) {
    let (a, b) = (claim(1, "u"), claim(4, "u"));
    let rows = vec![Row::Claim(a), end(2, &a, Fate::Cancelled)];
    assert_eq!(store.write(&batch(0, rows), &[]).await, committed(1));
    // Once more at another position, as a repair by hand would leave it; then a repetition behind the buyer's next claim.
    assert_eq!(store.write(&batch(2, vec![end(3, &a, Fate::Cancelled)]), &[]).await, beside(0));
    let rows = vec![Row::Claim(b), end(5, &a, Fate::Cancelled), end(6, &b, Fate::Settled), end(7, &b, Fate::Settled)];
    assert_eq!(store.write(&batch(3, rows), &[]).await, beside(1));
    assert_eq!(sums(&store).await, [0, 1, 1, 0]);
    assert_eq!(status(&store, &a).await, Some(ClaimStatus::Cancelled));
    assert_eq!(status(&store, &b).await, Some(ClaimStatus::Settled));
}

pub(in crate::store) async fn a_batch_with_ends_that_is_sent_again_is_recognised<S: Store>(store: S) {
    let (a, b) = (claim(1, "u"), claim(3, "u"));
    let rows = vec![Row::Claim(a), end(2, &a, Fate::Expired), Row::Claim(b), end(4, &b, Fate::Settled)];
    assert_eq!(store.write(&batch(0, rows.clone()), &[]).await, committed(2));
    let before = everything(&store).await;
    assert_eq!(store.write(&batch(0, rows), &[]).await, Ok(Written::AlreadyThere));
    assert_eq!(everything(&store).await, before);
}

pub(in crate::store) async fn another_end_or_one_of_no_claim_is_that_rows_fault<S: Store>(store: S) {
    let (a, b) = (claim(1, "a"), claim(2, "b"));
    let rows = vec![Row::Claim(a), Row::Claim(b), end(3, &a, Fate::Settled)];
    assert_eq!(store.write(&batch(0, rows), &[]).await, committed(2));
    let before = everything(&store).await;
    row_fault(store.write(&batch(3, vec![end(4, &a, Fate::Cancelled)]), &[]).await, "is settled");
    row_fault(store.write(&batch(3, vec![end(4, &claim(99, "x"), Fate::Settled)]), &[]).await, "neither");
    let two = [end(4, &b, Fate::Expired), end(5, &b, Fate::Settled)];
    row_fault(store.probe(&two).await, "is expired");
    let here = claim(4, "c");
    row_fault(store.probe(&[Row::Claim(here), end(5, &here, Fate::Settled), end(6, &here, Fate::Expired)]).await, "is");
    assert_eq!(everything(&store).await, before);
    assert_eq!(store.probe(&two[..1]).await, Ok(()));
}

pub(in crate::store) async fn an_end_with_other_numbers_than_its_claim_is_refused<S: Store>(store: S) {
    let a = claim(1, "a");
    assert_eq!(store.write(&batch(0, vec![Row::Claim(a)]), &[]).await, committed(1));
    for change in [|row: &mut ClaimRow| row.claim.quantity = Units(2), |row: &mut ClaimRow| row.claim.amount = None] {
        let mut other = a;
        change(&mut other);
        row_fault(store.probe(&[end(2, &other, Fate::Cancelled)]).await, "quantity");
        let (mut here, mut wrong) = (claim(2, "b"), claim(2, "b"));
        change(&mut wrong);
        row_fault(store.probe(&[Row::Claim(here), end(3, &wrong, Fate::Cancelled)]).await, "quantity");
        change(&mut here);
        assert_eq!(store.probe(&[Row::Claim(here), end(3, &wrong, Fate::Cancelled)]).await, Ok(()));
    }
}

pub(in crate::store) async fn one_live_hold_a_buyer_in_whatever_order_the_rows_come<S: Store>(store: S) {
    let (a, b, c) = (claim(1, "u"), claim(2, "u"), claim(4, "u"));
    assert_eq!(store.write(&batch(0, vec![Row::Claim(a)]), &[]).await, committed(1));
    row_fault(store.probe(&[Row::Claim(b)]).await, "UNIQUE");
    // The next claim before the end of the one whose hold it takes, and behind it.
    assert_eq!(store.write(&batch(1, vec![Row::Claim(b), end(3, &a, Fate::Cancelled)]), &[]).await, committed(1));
    row_fault(store.probe(&[Row::Claim(c)]).await, "UNIQUE");
    row_fault(store.probe(&[end(4, &b, Fate::Settled), Row::Claim(c)]).await, "UNIQUE");
    assert_eq!(store.write(&batch(3, vec![Row::Claim(c), end(5, &b, Fate::Expired)]), &[]).await, committed(1));
    let (d, e) = (claim(6, "u"), claim(7, "u"));
    row_fault(store.probe(&[end(5, &c, Fate::Cancelled), Row::Claim(d), Row::Claim(e)]).await, "UNIQUE");
    let rows = [end(5, &c, Fate::Cancelled), Row::Claim(d), Row::Claim(e), end(8, &d, Fate::Cancelled)];
    assert_eq!(store.probe(&rows).await, Ok(()));
    assert_eq!(sums(&store).await, [1, 0, 2, 0]);
}

pub(in crate::store) async fn what_is_paid_counts_against_the_stock_and_what_is_given_back_does_not<S: Store>(
    store: S,
) {
    let (a, b, c) = (claim(2, "a"), claim(3, "b"), claim(4, "c"));
    let rows = vec![created(1, 2), Row::Claim(a), Row::Claim(b), end(4, &a, Fate::Settled)];
    assert_eq!(store.write(&batch(0, rows), &[]).await, committed(2));
    let next = claim(5, "c");
    row_fault(store.probe(&[Row::Claim(next)]).await, "held_within_stock");
    assert_eq!(store.probe(&[Row::Claim(next), end(6, &b, Fate::Cancelled)]).await, Ok(()));
    assert_eq!(store.probe(&[Row::Claim(next), end(6, &next, Fate::Expired)]).await, Ok(()));
    row_fault(store.probe(&[Row::Claim(next), end(6, &next, Fate::Settled)]).await, "held_within_stock");
    row_fault(store.probe(&[changed(5, r#"{"add_stock":-1}"#)]).await, "held_within_stock");
    let rows = vec![end(5, &b, Fate::Expired), changed(6, r#"{"add_stock":-1}"#)];
    assert_eq!(store.write(&batch(4, rows), &[]).await, committed(0));
    assert_eq!(sums(&store).await, [0, 1, 1, 0]);
    row_fault(store.probe(&[Row::Claim(c)]).await, "held_within_stock");
}

pub(in crate::store) async fn a_check_in_gives_points_once_a_local_day<S: Store>(store: S) {
    let first = check_in(2, "u", 20_000);
    let rows = vec![created_check_in(1), Row::Claim(first), Row::Claim(check_in(3, "v", 20_000))];
    assert_eq!(store.write(&batch(0, rows), &[]).await, committed(2));
    row_fault(store.probe(&[Row::Claim(check_in(4, "u", 20_000))]).await, "UNIQUE");
    row_fault(
        store.probe(&[Row::Claim(check_in(4, "w", 20_000)), Row::Claim(check_in(5, "w", 20_000))]).await,
        "UNIQUE",
    );
    row_fault(store.probe(&[Row::Claim(check_in(4, "w", 70_000))]).await, "is of day 70000");
    assert_eq!(store.write(&batch(3, vec![Row::Claim(check_in(4, "u", 20_001))]), &[]).await, committed(1));
    assert_eq!(store.claim(first.claim.claim_id).await.unwrap().map(|c| c.row), Some(first));
    let mine = store.claims_of(&UserId::parse("u").unwrap(), None, 10).await.unwrap();
    assert_eq!(mine.iter().map(|c| c.row).collect::<Vec<_>>(), [check_in(4, "u", 20_001), first]);
    let totals = store.totals().await.unwrap();
    assert_eq!((totals[0].persisted, totals[0].persisted_money), (Units(3), Money(30)));
}

pub(in crate::store) async fn check_ins_have_no_stock_to_keep_within<S: Store>(store: S) {
    let rows = (2..=1_001).map(|seq| Row::Claim(check_in(seq, &format!("u{seq}"), 20_000)));
    let rows: Vec<_> = [created_check_in(1)].into_iter().chain(rows).collect();
    assert_eq!(store.write(&batch(0, rows.clone()), &[]).await, committed(1_000));
    let there = store.scan(None, Seq(0), 2_000).await.unwrap();
    assert!(there.iter().zip(&rows[1..]).all(|(c, row)| Row::Claim(c.row) == *row));
    // Beside claims of a sale, whose rows are no check-ins.
    let mixed = vec![Row::Claim(check_in(1_002, "x", 20_000)), Row::Claim(claim(1_003, "x"))];
    assert_eq!(store.write(&batch(1_001, mixed), &[]).await, committed(2));
    assert_eq!(store.write(&claims(1_003, 300), &[]).await, committed(300));
    let last = store.scan(None, Seq(1_001), 2).await.unwrap();
    assert_eq!(
        last.iter().map(|c| (c.row.is_check_in, c.row.currency)).collect::<Vec<_>>(),
        [(true, None), (false, Currency::parse("CNY")),]
    );
}
