//! What every store must do, as tests that know nothing but the trait. A database joins by [`store_suite!`].
//!
//! Each case gets a fresh store, bound to [`JOURNAL`]. What becomes of claims after their acceptance is in [`ends`], what is
//! done about dead letters in [`letters`], carts in [`carts`], what many gates share in [`gates`].

pub(super) mod carts;
pub(super) mod ends;
pub(super) mod gates;
pub(super) mod letters;

use super::{Batch, CampaignRow, ClaimRow, DeadRow, Row, Store, StoreError, Written};
use crate::sale::{
    CampaignId, CampaignNo, Claim, ClaimId, ClaimStatus, Currency, Durability, KeyHash, Money, Seq, Timestamp, Units,
    UserHash, UserId,
};

/// The journal that the stores are bound to.
pub(super) const JOURNAL: u128 = 0xfeed;

/// A claim of one unit at 990 by `user`, at position `seq`.
pub(super) fn claim(seq: u64, user: &str) -> ClaimRow {
    let at = Timestamp(1_763_640_000_000_000 + seq as i64);
    let claim = Claim {
        claim_id: ClaimId::new(at, UserHash(u128::from(seq) << 88), seq),
        campaign: CampaignNo(0),
        user: UserId::parse(user).expect("a user"),
        quantity: Units(1),
        amount: Some(Money(990)),
        hold: 0,
        receipt_key: 1,
        key: seq.is_multiple_of(2).then_some(KeyHash(u128::from(seq) << 90)),
        seq: Seq(seq),
        accepted_at: at,
        durability: if seq.is_multiple_of(3) { Durability::Memory } else { Durability::Disk },
    };
    ClaimRow {
        claim,
        campaign: CampaignId::parse("sale").expect("a campaign"),
        currency: Currency::parse("CNY"),
        is_check_in: false,
    }
}

/// The creation of the campaign "sale" with `stock` units.
pub(super) fn created(seq: u64, stock: u64) -> Row {
    let detail = format!(
        r#"{{"id":"sale","kind":"flash_sale","title":"A sale","opens_at":"2026-11-20T12:00:00Z",
            "closes_at":"2026-11-21T12:00:00Z","stock":{stock},"currency":"CNY","price":990}}"#
    );
    campaign(seq, "created", detail)
}

/// A change of the campaign "sale".
pub(super) fn changed(seq: u64, patch: &str) -> Row {
    campaign(seq, "changed", patch.to_owned())
}

fn campaign(seq: u64, action: &'static str, detail: String) -> Row {
    let id = CampaignId::parse("sale").expect("a campaign");
    let at = Timestamp(1_763_640_000_000_000 + seq as i64);
    Row::Campaign(CampaignRow { no: CampaignNo(0), id, seq: Seq(seq), at, action, by: "ops".into(), detail })
}

/// `rows` as the batch that follows `after`.
pub(super) fn batch(after: u64, rows: Vec<Row>) -> Batch {
    let upto = rows.last().map_or(Seq(after), Row::seq);
    Batch { after: Seq(after), upto, rows, mark: 0 }
}

/// `users` claims after `after`, each by another buyer.
pub(super) fn claims(after: u64, count: u64) -> Batch {
    batch(after, (after + 1..=after + count).map(|seq| Row::Claim(claim(seq, &format!("u{seq}")))).collect())
}

pub(super) fn committed(new_claims: u64) -> Result<Written, StoreError> {
    Ok(Written::Committed { new_claims, moved_dead: false })
}

/// Everything that can be read, to compare before and after.
pub(super) async fn everything<S: Store>(store: &S) -> String {
    let rows = store.scan(None, Seq(0), 1_000_000).await;
    let totals = store.totals().await;
    format!("{rows:?} {totals:?} {:?} {:?}", store.dead_claims(Seq(0), 1_000_000).await, store.bind(JOURNAL).await)
}

pub(super) async fn a_batch_lands_whole_and_reads_back_as_it_was<S: Store>(store: S) {
    let mut rows = vec![created(1, 1_000)];
    rows.extend((2..=701).map(|seq| Row::Claim(claim(seq, &format!("u{seq}")))));
    assert_eq!(store.write(&batch(0, rows.clone()), &[]).await, committed(700));
    assert_eq!(store.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(701)));
    let stored = store.scan(None, Seq(0), 10_000).await.unwrap();
    assert_eq!(stored.len(), 700);
    for (stored, sent) in stored.iter().zip(&rows[1..]) {
        assert_eq!((Row::Claim(stored.row), stored.status), (sent.clone(), ClaimStatus::Persisted));
    }
    let id = claim(17, "u17").claim.claim_id;
    assert_eq!(store.claim(id).await.unwrap().map(|c| c.row), Some(claim(17, "u17")));
    assert_eq!(store.claim(claim(9_999, "nobody").claim.claim_id).await, Ok(None));
}

pub(super) async fn a_batch_sent_again_is_recognised<S: Store>(store: S) {
    assert_eq!(store.write(&claims(0, 5), &[]).await, committed(5));
    assert_eq!(store.write(&claims(5, 5), &[]).await, committed(5));
    let before = everything(&store).await;
    assert_eq!(store.write(&claims(5, 5), &[]).await, Ok(Written::AlreadyThere));
    assert_eq!(store.write(&claims(0, 5), &[]).await, Ok(Written::AlreadyThere));
    assert_eq!(everything(&store).await, before);
}

pub(super) async fn a_batch_from_elsewhere_is_fenced<S: Store>(store: S) {
    assert_eq!(store.write(&claims(0, 5), &[]).await, committed(5));
    let before = everything(&store).await;
    for (after, count) in [(6, 1), (3, 5), (100, 2)] {
        let error = store.write(&claims(after, count), &[]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Fenced(text) if text.contains("entry 5")), "{error}");
    }
    let error = store.bind(JOURNAL + 1).await.unwrap_err();
    assert!(matches!(&error, StoreError::Fenced(text) if text.contains("feed") && text.contains("feee")), "{error}");
    assert_eq!(everything(&store).await, before);
}

pub(super) async fn the_same_claim_again_is_fine_and_another_under_its_id_is_not<S: Store>(store: S) {
    // A cursor that went back under rows that did not: two positions for one claim is what a repair by hand leaves.
    assert_eq!(store.write(&batch(0, vec![Row::Claim(claim(7, "u7"))]), &[]).await, committed(1));
    let mut other = claim(8, "u7");
    other.claim.claim_id = claim(7, "u7").claim.claim_id;
    let error = store.write(&batch(7, vec![Row::Claim(other)]), &[]).await.unwrap_err();
    assert!(matches!(error, StoreError::Row(_)), "{error}");
    assert!(matches!(store.probe(&[Row::Claim(other)]).await, Err(StoreError::Row(_))));
    assert_eq!(store.probe(&[Row::Claim(claim(7, "u7")), Row::Claim(claim(8, "u8"))]).await, Ok(()));
    let mut twice = claim(9, "u9");
    twice.claim.claim_id = claim(8, "u8").claim.claim_id;
    let both = [Row::Claim(claim(8, "u8")), Row::Claim(twice)];
    assert!(matches!(store.probe(&both).await, Err(StoreError::Row(_))));
    assert_eq!(store.scan(None, Seq(0), 10).await.unwrap().len(), 1);
}

pub(super) async fn a_buyer_has_one_claim_a_hold<S: Store>(store: S) {
    assert_eq!(store.write(&batch(0, vec![Row::Claim(claim(1, "u"))]), &[]).await, committed(1));
    let before = everything(&store).await;
    let refused = store.write(&batch(1, vec![Row::Claim(claim(2, "v")), Row::Claim(claim(3, "u"))]), &[]).await;
    assert!(matches!(refused, Err(StoreError::Row(_))), "{refused:?}");
    assert_eq!(everything(&store).await, before, "a refused batch left something behind");
    let mut second = claim(3, "u");
    second.claim.hold = 1;
    let rows = vec![Row::Claim(claim(2, "v")), Row::Claim(second)];
    assert_eq!(store.write(&batch(1, rows), &[]).await, committed(2));
}

pub(super) async fn dead_rows_land_with_the_cursor<S: Store>(store: S) {
    let rows = vec![created(1, 10), Row::Claim(claim(2, "a")), Row::Claim(claim(3, "b")), Row::Claim(claim(4, "c"))];
    let dead = [DeadRow { index: 2, reason: "it was poison".into() }];
    assert_eq!(store.write(&batch(0, rows), &dead).await, committed(2));
    assert_eq!(store.dead_count().await, Ok(1));
    assert_eq!(store.dead_claims(Seq(0), 10).await, Ok(vec![claim(3, "b")]));
    assert_eq!(store.dead_claims(Seq(3), 10).await, Ok(vec![]));
    let totals = store.totals().await.unwrap();
    let seen = (totals[0].persisted, totals[0].persisted_money, totals[0].dead, totals[0].dead_money);
    assert_eq!(seen, (Units(2), Money(1_980), Units(1), Money(990)));
    assert_eq!(store.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(4)));
    // A campaign whose creation is dead still counts its rows.
    let mut orphan = claim(6, "d");
    (orphan.claim.campaign, orphan.campaign) = (CampaignNo(1), CampaignId::parse("orphan").unwrap());
    let mut lost = created(5, 10);
    if let Row::Campaign(row) = &mut lost {
        (row.no, row.id) = (CampaignNo(1), CampaignId::parse("orphan").unwrap());
    }
    let dead = [DeadRow { index: 0, reason: "too new".into() }];
    assert_eq!(store.write(&batch(4, vec![lost, Row::Claim(orphan)]), &dead).await, committed(1));
    let totals = store.totals().await.unwrap();
    assert_eq!((totals[1].campaign.as_str(), totals[1].persisted), ("orphan", Units(1)));
    assert_eq!((store.dead_count().await, store.dead_claims(Seq(3), 10).await), (Ok(2), Ok(vec![])));
}

pub(super) async fn a_dead_claim_is_still_its_buyers<S: Store>(store: S) {
    let mut rows = vec![created(1, 100)];
    rows.extend((2..=31).map(|seq| {
        let mut row = claim(seq, "a");
        row.claim.hold = seq as u32;
        Row::Claim(row)
    }));
    rows.push(Row::Claim(claim(32, "b")));
    // The creation is dead too, and every third claim.
    let mut dead: Vec<_> = (0..31).step_by(3).map(|index| DeadRow { index, reason: "poison".into() }).collect();
    dead.push(DeadRow { index: 31, reason: "poison".into() });
    assert_eq!(store.write(&batch(0, rows.clone()), &dead).await, committed(20));
    for (index, row) in rows.iter().enumerate() {
        let Row::Claim(row) = row else { continue };
        let is_dead = dead.iter().any(|d| d.index == index);
        let status = if is_dead { ClaimStatus::Accepted } else { ClaimStatus::Persisted };
        let seen = store.claim(row.claim.claim_id).await.unwrap().map(|c| (c.row, c.status));
        assert_eq!(seen, Some((*row, status)), "row {index}");
    }
    let user = UserId::parse("a").unwrap();
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = store.claims_of(&user, before, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.row.claim.seq);
        assert!(page.len() == 4 || seen.len() == 28, "a short page in the middle");
        seen.extend(page.iter().map(|c| (c.row.claim.seq.0, c.status)));
    }
    let dead_seq = |seq: u64| dead.iter().any(|d| d.index as u64 + 1 == seq);
    let status = |seq| if dead_seq(seq) { ClaimStatus::Accepted } else { ClaimStatus::Persisted };
    assert_eq!(seen, (2..=31).rev().map(|seq| (seq, status(seq))).collect::<Vec<_>>());
    let of_b = store.claims_of(&UserId::parse("b").unwrap(), None, 30).await.unwrap();
    assert_eq!(of_b.iter().map(|c| (c.row, c.status)).collect::<Vec<_>>(), [(claim(32, "b"), ClaimStatus::Accepted)]);
    assert_eq!(store.scan(None, Seq(0), 100).await.unwrap().len(), 20, "a scan is of rows only");
}

pub(super) async fn a_probe_leaves_nothing<S: Store>(store: S) {
    assert_eq!(store.write(&batch(0, vec![created(1, 10)]), &[]).await, committed(0));
    let before = everything(&store).await;
    assert_eq!(store.probe(&claims(1, 3).rows).await, Ok(()));
    let clash = [Row::Claim(claim(2, "u")), Row::Claim(claim(3, "u"))];
    assert!(matches!(store.probe(&clash).await, Err(StoreError::Row(_))));
    assert_eq!(everything(&store).await, before);
    assert_eq!(store.write(&claims(1, 3), &[]).await, committed(3));
}

pub(super) async fn more_than_the_stock_is_refused_and_a_restock_counts<S: Store>(store: S) {
    assert_eq!(store.write(&batch(0, vec![created(1, 3)]), &[]).await, committed(0));
    assert_eq!(store.write(&claims(1, 3), &[]).await, committed(3));
    assert!(matches!(store.write(&claims(4, 1), &[]).await, Err(StoreError::Row(_))));
    // The order within the batch does not matter: what counts is what is true after it.
    let restock = vec![Row::Claim(claim(5, "x")), changed(6, r#"{"add_stock":2}"#), Row::Claim(claim(7, "y"))];
    assert_eq!(store.write(&batch(4, restock), &[]).await, committed(2));
    let paused = vec![changed(8, r#"{"state":"paused"}"#), Row::Claim(claim(9, "z"))];
    assert!(matches!(store.write(&batch(7, paused), &[]).await, Err(StoreError::Row(_))));
    assert!(matches!(store.probe(&[changed(8, "{}")]).await, Err(StoreError::Row(_))), "a change of nothing");
    assert_eq!(store.totals().await.unwrap()[0].persisted, Units(5));
}

pub(super) async fn a_buyers_claims_come_newest_first_page_by_page<S: Store>(store: S) {
    let rows = (1..=250).map(|seq| {
        let mut row = claim(seq, if seq % 5 == 0 { "other" } else { "u" });
        row.claim.hold = seq as u32;
        Row::Claim(row)
    });
    assert_eq!(store.write(&batch(0, rows.collect()), &[]).await, committed(250));
    let user = UserId::parse("u").unwrap();
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = store.claims_of(&user, before, 30).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.row.claim.seq);
        assert!(page.len() == 30 || seen.len() == 180, "a short page in the middle");
        seen.extend(page.iter().map(|c| c.row.claim.seq.0));
    }
    let expected: Vec<u64> = (1..=250).rev().filter(|seq| seq % 5 != 0).collect();
    assert_eq!(seen, expected);
    assert_eq!(store.claims_of(&UserId::parse("nobody").unwrap(), None, 30).await, Ok(vec![]));
}

pub(super) async fn a_scan_follows_the_journal<S: Store>(store: S) {
    let rows = (1..=40).map(|seq| {
        let mut row = claim(seq, &format!("u{seq}"));
        if seq % 4 == 0 {
            (row.claim.campaign, row.campaign) = (CampaignNo(1), CampaignId::parse("b").unwrap());
        }
        Row::Claim(row)
    });
    assert_eq!(store.write(&batch(0, rows.collect()), &[]).await, committed(40));
    let b = CampaignId::parse("b").unwrap();
    let seqs = async |campaign, after, limit| -> Vec<u64> {
        store.scan(campaign, Seq(after), limit).await.unwrap().iter().map(|c| c.row.claim.seq.0).collect()
    };
    assert_eq!(seqs(None, 0, 3).await, [1, 2, 3]);
    assert_eq!(seqs(None, 38, 10).await, [39, 40]);
    assert_eq!(seqs(Some(&b), 4, 3).await, [8, 12, 16]);
    let totals = store.totals().await.unwrap();
    assert_eq!(totals.iter().map(|t| t.persisted.0).collect::<Vec<_>>(), [30, 10]);
}

pub(super) async fn a_write_dropped_anywhere_lands_whole_or_not_at_all<S: Store>(store: S) {
    let mut after = 0;
    for round in 0..60 {
        let next = claims(after, 300);
        {
            let mut write = std::pin::pin!(store.write(&next, &[]));
            for _ in 0..round {
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                if write.as_mut().poll(&mut context).is_ready() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_micros(100 + round * 7));
            }
        }
        let rows = store.scan(None, Seq(after), 1_000).await.unwrap().len();
        assert!(rows == 0 || rows == 300, "{rows} rows after a write dropped at poll {round}");
        let again = store.write(&next, &[]).await;
        assert!(matches!(again, Ok(Written::AlreadyThere)) || again == committed(300), "{again:?}");
        after += 300;
        let totals = store.totals().await.unwrap();
        assert_eq!(totals[0].persisted, Units(after), "round {round}");
    }
    assert_eq!(store.scan(None, Seq(0), 1_000_000).await.unwrap().len() as u64, after);
}

pub(super) async fn a_position_that_nobody_has_is_no_row_and_moves_the_cursor<S: Store>(store: S) {
    let rows = vec![created(1, 10), Row::Void(Seq(2)), Row::Claim(claim(3, "u3")), Row::Void(Seq(4))];
    assert_eq!(store.probe(&rows).await, Ok(()));
    assert_eq!(store.write(&batch(0, rows), &[]).await, committed(1));
    let only = batch(4, vec![Row::Void(Seq(5)), Row::Void(Seq(6))]);
    assert_eq!(store.write(&only, &[]).await, committed(0));
    assert_eq!(store.write(&only, &[]).await, Ok(Written::AlreadyThere));
    assert_eq!(store.write(&batch(6, vec![Row::Claim(claim(7, "u7"))]), &[]).await, committed(1));
    let rows = store.scan(None, Seq(0), 10).await.unwrap();
    assert_eq!(rows.iter().map(|stored| stored.row.claim.seq.0).collect::<Vec<_>>(), [3, 7]);
    assert_eq!((store.bind(JOURNAL).await.map(|p| p.cursor), store.dead_count().await), (Ok(Seq(7)), Ok(0)));
}

/// Runs every case against stores that `$fresh` makes: an async function to `(guard, store)`, the store bound.
macro_rules! store_suite {
    ($fresh:path, $place:path: $($case:ident)*) => {$(
        #[tokio::test]
        async fn $case() {
            use $place as cases;
            let (_guard, store) = $fresh().await;
            cases::$case(store).await;
        }
    )*};
    ($fresh:path) => {
        $crate::store::suite::store_suite! { $fresh, $crate::store::suite:
            a_batch_lands_whole_and_reads_back_as_it_was
            a_position_that_nobody_has_is_no_row_and_moves_the_cursor
            a_batch_sent_again_is_recognised
            a_batch_from_elsewhere_is_fenced
            the_same_claim_again_is_fine_and_another_under_its_id_is_not
            a_buyer_has_one_claim_a_hold
            dead_rows_land_with_the_cursor
            a_dead_claim_is_still_its_buyers
            a_probe_leaves_nothing
            more_than_the_stock_is_refused_and_a_restock_counts
            a_buyers_claims_come_newest_first_page_by_page
            a_scan_follows_the_journal
            a_write_dropped_anywhere_lands_whole_or_not_at_all
        }
        $crate::store::suite::store_suite! { $fresh, $crate::store::suite::ends:
            an_end_moves_its_row_and_its_sums
            claims_and_ends_come_to_the_same_however_they_are_split_into_batches
            an_end_that_comes_again_changes_nothing
            a_batch_with_ends_that_is_sent_again_is_recognised
            another_end_or_one_of_no_claim_is_that_rows_fault
            an_end_with_other_numbers_than_its_claim_is_refused
            one_live_hold_a_buyer_in_whatever_order_the_rows_come
            what_is_paid_counts_against_the_stock_and_what_is_given_back_does_not
            a_check_in_gives_points_once_a_local_day
            check_ins_have_no_stock_to_keep_within
        }
        $crate::store::suite::store_suite! { $fresh, $crate::store::suite::carts:
            of_several_operations_on_a_line_the_last_that_lives_counts
        }
        $crate::store::suite::store_suite! { $fresh, $crate::store::suite::gates:
            a_gate_is_active_until_it_leaves_and_can_come_back
            a_gate_that_was_dismissed_stays_so
            of_secrets_the_first_that_came_count
        }
        $crate::store::suite::store_suite! { $fresh, $crate::store::suite::letters:
            the_end_of_a_claim_that_dies_in_the_same_batch_goes_with_it
            a_dead_claim_comes_to_its_end_where_it_is
            a_dead_claim_settled_and_requeued_in_each_order_becomes_the_same_row
            a_dead_claim_given_back_is_closed_and_cannot_be_requeued
            a_letter_that_the_tables_still_refuse_stays
            a_dead_end_is_requeued_once_its_claim_is_there
            a_dead_creation_is_requeued_under_the_changes_that_came_after_it
            a_dead_change_is_requeued_behind_later_ones
            a_dead_check_in_is_requeued_with_its_points
            letters_are_listed_page_by_page_and_told_whole
            a_text_with_a_nul_of_an_older_journal_is_kept_visibly
            letters_of_claims_and_ends_are_not_discarded_and_the_others_are
        }
    };
}
pub(super) use store_suite;
