//! What only SQL can show of ends, points and dead letters: redelivery, the tables' own guards, an older file.

use sqlx::SqliteConnection;

use super::super::schema::{APPLICATION_ID, MIGRATIONS};
use super::super::{Mode, SqliteStore};
use super::{fresh, run, shell, store_in};
use crate::sale::{ClaimStatus, Fate, Seq};
use crate::store::suite::ends::{beside, check_in, cuts, end, row_fault, status, sums};
use crate::store::suite::{JOURNAL, batch, changed, claim, committed, created, everything};
use crate::store::{Batch, CampaignRow, DeadRow, Dealt, Row, Store};

/// Everything in the tables, as text.
async fn tables(store: &SqliteStore) -> Vec<String> {
    let mut sql = shell(store).await;
    let mut all = Vec::new();
    for text in [
        "SELECT concat_ws(' ', seq, claim_id, status, coalesce(hold, '-'), ended_seq, ended_at, ended_by) FROM claims",
        "SELECT concat_ws(' ', seq, user_id, campaign, campaign_no, local_day, points, claim_id) FROM points_ledger",
        "SELECT concat_ws(' ', id, seq, kind, status, ended_seq, resolution, resolved_at, resolved_by) FROM dead_letters",
    ] {
        all.extend(sqlx::query_scalar::<_, String>(text).fetch_all(&mut sql).await.unwrap());
    }
    all
}

#[tokio::test]
async fn rows_that_are_delivered_again_with_their_ends_change_nothing() {
    let (a, b, c, d) = (claim(1, "u"), claim(3, "u"), claim(5, "u"), check_in(7, "u", 20_000));
    let mut rows = vec![Row::Claim(a), end(2, &a, Fate::Cancelled), Row::Claim(b), end(4, &b, Fate::Settled)];
    let mut third = c;
    third.claim.hold = 1;
    rows.extend([Row::Claim(third), end(6, &third, Fate::Expired), Row::Claim(d)]);
    let mut reference: Option<(Vec<String>, String)> = None;
    for (one, two) in cuts(rows.len()) {
        let (_dir, store) = fresh().await;
        let part = |from: usize, to: usize| Batch {
            after: Seq(from as u64),
            upto: Seq(to as u64),
            rows: rows[from..to].to_vec(),
            mark: 0,
        };
        for (from, to) in [(0, one), (one, two), (two, rows.len())].into_iter().filter(|(from, to)| from < to) {
            assert!(store.write(&part(from, to), &[]).await.is_ok());
        }
        let after = (tables(&store).await, everything(&store).await);
        assert_eq!(*reference.get_or_insert(after.clone()), after, "cut at {one} and {two}");
        // A cursor that went back under rows that did not; the same batches, and other ones.
        for (from, to) in [(one, two), (two, rows.len()), (0, rows.len())].into_iter().filter(|(from, to)| from < to) {
            let back = sqlx::AssertSqlSafe(format!("UPDATE forebay_meta SET cursor = {from}"));
            sqlx::raw_sql(back).execute(&mut shell(&store).await).await.unwrap();
            let again = store.write(&part(from, to), &[]).await;
            assert!(again == committed(0) || again == beside(0), "{again:?}");
            run(&mut shell(&store).await, "UPDATE forebay_meta SET cursor = 7").await;
            assert_eq!((tables(&store).await, everything(&store).await), after, "{from} to {to} again");
        }
    }
    let (tables, _) = reference.unwrap();
    let has = |start: &str| tables.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(has(&format!("1 {} cancelled - 2 2025-11-20T", a.claim.claim_id)), 1, "{tables:#?}");
    assert_eq!(has(&format!("3 {} settled 0 4 2025-11-20T", b.claim.claim_id)), 1, "{tables:#?}");
    assert_eq!(has(&format!("7 u daily 1 2024-10-04 10 {}", d.claim.claim_id)), 1, "{tables:#?}");
}

#[tokio::test]
async fn a_claim_that_is_there_already_gives_its_hold_to_the_next_one() {
    let (_dir, store) = fresh().await;
    let (a, b) = (claim(1, "u"), claim(3, "u"));
    assert_eq!(store.write(&batch(0, vec![Row::Claim(a)]), &[]).await, committed(1));
    run(&mut shell(&store).await, "UPDATE forebay_meta SET cursor = 0").await;
    let rows = vec![Row::Claim(a), end(2, &a, Fate::Cancelled), Row::Claim(b)];
    assert_eq!(store.probe(&rows).await, Ok(()));
    assert_eq!(store.write(&batch(0, rows), &[]).await, committed(1));
    assert_eq!(sums(&store).await, [1, 0, 1, 0]);
}

#[tokio::test]
async fn the_tables_own_guards_hold() {
    let (_dir, store) = fresh().await;
    let (a, b) = (claim(2, "a"), claim(3, "b"));
    let rows = vec![created(1, 10), Row::Claim(a), Row::Claim(b), end(4, &a, Fate::Settled)];
    assert_eq!(store.write(&batch(0, rows), &[]).await, committed(2));
    let mut sql = shell(&store).await;
    run(&mut sql, "UPDATE campaigns SET total = 2000").await;
    row_fault(store.probe(&[Row::Claim(claim(5, "c"))]).await, "paid_within_total");
    // Sums that someone changed by hand would go below nothing.
    run(&mut sql, "UPDATE campaigns SET persisted_units = 0").await;
    row_fault(store.probe(&[end(5, &b, Fate::Cancelled)]).await, "units_of_claims");
    run(&mut sql, "UPDATE campaigns SET persisted_units = 1, persisted_money = 5").await;
    row_fault(store.probe(&[end(5, &b, Fate::Settled)]).await, "money_of_claims");
    // Points are once a day even where the claim's own key would let them through.
    let d = check_in(5, "a", 20_000);
    assert_eq!(store.write(&batch(4, vec![Row::Claim(d)]), &[]).await, committed(1));
    run(&mut sql, "UPDATE claims SET hold = NULL WHERE seq = 5").await;
    row_fault(store.probe(&[Row::Claim(check_in(6, "a", 20_000))]).await, "points_ledger");
}

#[tokio::test]
async fn letters_say_what_became_of_them() {
    let (_dir, store) = fresh().await;
    let (a, b, c) = (claim(1, "a"), claim(2, "b"), claim(3, "c"));
    let dead = [0, 1, 2, 3].map(|index| DeadRow { index, reason: "poison".into() });
    let rows = vec![Row::Claim(a), Row::Claim(b), Row::Claim(c), end(4, &claim(99, "x"), Fate::Settled)];
    assert_eq!(store.write(&batch(0, rows), &dead).await, committed(0));
    let Row::End(mut given_back) = end(5, &a, Fate::Cancelled) else { panic!("an end's row") };
    given_back.moved.reason = "sold elsewhere".into();
    let rows = vec![Row::End(given_back), end(6, &b, Fate::Expired), end(7, &c, Fate::Settled)];
    assert_eq!(store.write(&batch(4, rows), &[]).await, beside(0));
    assert_eq!(store.requeue(3).await, Ok(Dealt::Done));
    assert_eq!(store.discard(4, "ann", "no such claim").await, Ok(Dealt::Done));
    type Letter = (String, Option<String>, Option<String>, Option<i64>);
    let text = "SELECT status, resolution, resolved_by, ended_seq FROM dead_letters ORDER BY id";
    let letters: Vec<Letter> = sqlx::query_as(text).fetch_all(&mut shell(&store).await).await.unwrap();
    let letter = |status: &str, resolution: &str, by: Option<&str>, ended| {
        (status.to_owned(), Some(resolution.to_owned()), by.map(str::to_owned), ended)
    };
    assert_eq!(
        letters,
        [
            letter("cancelled", "cancelled: sold elsewhere", Some("orders"), Some(5)),
            letter("expired", "expired", Some(""), Some(6)),
            letter("settled", "requeued", None, Some(7)),
            letter("accepted", "discarded: no such claim", Some("ann"), None),
        ]
    );
    let row: (i64, String, i64) = sqlx::query_as("SELECT ended_seq, ended_by, hold FROM claims")
        .fetch_one(&mut shell(&store).await)
        .await
        .unwrap();
    assert_eq!(row, (7, "orders".to_owned(), 0));
}

async fn campaign_row(sql: &mut SqliteConnection) -> (Option<i64>, String, String, i64) {
    let text = "SELECT stock, state, closes_at, seq FROM campaigns WHERE id = 'sale'";
    sqlx::query_as(text).fetch_one(sql).await.unwrap()
}

#[tokio::test]
async fn a_requeued_change_leaves_the_last_word_to_later_ones_and_a_release_closes() {
    let (_dir, store) = fresh().await;
    let dead = [0, 1].map(|index| DeadRow { index, reason: "poison".into() });
    let rows = vec![
        created(1, 10),
        changed(2, r#"{"add_stock":5,"state":"paused","closes_at":"2026-12-01T00:00:00Z"}"#),
        changed(3, r#"{"add_stock":2,"state":"open"}"#),
    ];
    assert_eq!(store.write(&batch(0, rows), &dead).await, committed(0));
    let mut sql = shell(&store).await;
    for id in [2, 1] {
        assert_eq!(store.requeue(id).await, Ok(Dealt::Done));
    }
    let closes = "2026-12-01T00:00:00.000000Z".to_owned();
    assert_eq!(campaign_row(&mut sql).await, (Some(17), "open".to_owned(), closes.clone(), 3));
    let Row::Campaign(row) = changed(4, r#"{"state":"closed"}"#) else { panic!("a campaign's row") };
    let released = Row::Campaign(CampaignRow { action: "released", by: "forebay".into(), ..row });
    assert_eq!(store.write(&batch(3, vec![released]), &[]).await, committed(0));
    assert_eq!(campaign_row(&mut sql).await, (Some(17), "closed".to_owned(), closes, 4));
    let logged: Vec<(i64, String)> =
        sqlx::query_as("SELECT seq, action FROM campaign_log ORDER BY seq").fetch_all(&mut sql).await.unwrap();
    let word = |seq, action: &str| (seq, action.to_owned());
    assert_eq!(logged, [word(1, "created"), word(2, "changed"), word(3, "changed"), word(4, "released")]);
}

/// A file as the first version left it: two claims, one of them dead, and a campaign.
async fn first_version(store: &SqliteStore) {
    let mut sql = {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(store.path()).create_if_missing(true);
        <SqliteConnection as sqlx::Connection>::connect_with(&options).await.expect("a connection")
    };
    run(&mut sql, MIGRATIONS[0]).await;
    let (a, b) = (claim(2, "a").claim, claim(3, "b").claim);
    let key = b.key.map_or("null".to_owned(), |k| format!("\"{:032x}\"", k.0));
    let payload = format!(
        r#"{{"claim_id":"{}","campaign":"sale","campaign_no":0,"user":"b","quantity":1,"amount":990,"currency":"CNY",
            "hold":0,"receipt_key":1,"idempotency_key":{key},"seq":3,"accepted_at":"{}","durability":"{}"}}"#,
        b.claim_id,
        b.accepted_at,
        b.durability.as_str()
    );
    let key: String = a.key.unwrap().0.to_be_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        "INSERT INTO claims VALUES (2, '{}', 'sale', 0, 'a', 1, 990, 'CNY', 'persisted', '{}', 0, 1, '{}', x'{key}'); \
         INSERT INTO dead_letters VALUES (1, 3, 'claim', '{}', 'sale', 'b', 1, 990, '{}', 'poison', '{payload}'); \
         INSERT INTO campaigns VALUES (0, 'sale', 'flash_sale', 'A sale', 'open', '2026-11-20T12:00:00.000000Z', \
         '2026-11-21T12:00:00.000000Z', 1, 2, 'CNY', 990, NULL, '{{}}', 1, '2026-11-20T12:00:00.000000Z', 1, 990, 1, 990); \
         INSERT INTO forebay_meta VALUES (1, '{JOURNAL:032x}', 3, 1); \
         PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1",
        a.claim_id,
        a.accepted_at,
        a.durability.as_str(),
        b.claim_id,
        b.accepted_at,
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut sql).await.unwrap();
}

#[tokio::test]
async fn a_file_of_the_first_version_is_brought_up_to_date_with_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path(), Mode::ReadWrite);
    first_version(&store).await;
    let refused = store.bind(JOURNAL).await;
    assert!(refused.unwrap_err().to_string().contains("forebay migrate"));
    assert_eq!(
        (store.migrate().await, store.migrate().await),
        (Ok(super::super::schema::MIGRATIONS.len() as u32 - 1), Ok(0))
    );
    assert_eq!(store.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(3)));
    let (a, b) = (claim(2, "a"), claim(3, "b"));
    assert_eq!(sums(&store).await, [1, 0, 0, 1]);
    assert_eq!(store.scan(None, Seq(0), 10).await.unwrap().iter().map(|c| c.row).collect::<Vec<_>>(), [a]);
    assert_eq!(
        (status(&store, &a).await, status(&store, &b).await),
        (Some(ClaimStatus::Persisted), Some(ClaimStatus::Accepted))
    );
    assert_eq!(store.dead_claims(Seq(0), 10).await, Ok(vec![b]));
    assert_eq!(store.dead_count().await, Ok(1));
    // And it goes on: the guards of the new table, an end, the buyer's next claim, the old letter.
    let next = claim(5, "a");
    row_fault(store.probe(&[Row::Claim(claim(4, "c")), Row::Claim(claim(5, "d"))]).await, "held_within_stock");
    let rows = vec![end(4, &a, Fate::Expired), Row::Claim(next)];
    assert_eq!(store.write(&batch(3, rows), &[]).await, committed(1));
    assert_eq!(store.requeue(1).await, Ok(Dealt::Done));
    assert_eq!(sums(&store).await, [2, 0, 1, 0]);
}
