//! The suite of all stores over a private server, and what only a server can do wrong.

#[path = "../../../tests/support/postgres.rs"]
mod server;

use server::{Postgres, Scratch};

use super::PostgresStore;
use crate::config::PartitionBy;
use crate::sale::{Seq, Timestamp, Units, UserId};
use crate::store::suite::{self, JOURNAL, batch, changed, claim, claims, committed, created};
use crate::store::{GateState, Looked, Mend, Mode, Position, Recovery, Row, Store, StoreError, Written};

fn store_of(url: &str, mode: Mode) -> PostgresStore {
    PostgresStore::open(url, None, PartitionBy::None, mode).expect("a URL")
}

async fn fresh() -> (Scratch, PostgresStore) {
    let scratch = Postgres::scratch();
    let store = store_of(&scratch.url(), Mode::ReadWrite);
    assert_eq!(store.migrate().await, Ok(super::schema::MIGRATIONS.len() as u32));
    assert_eq!(store.migrate().await, Ok(0));
    assert_eq!(store.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(0)));
    (scratch, store)
}

suite::store_suite! { fresh }

mod by_day;
mod foreign;

fn outage<T: std::fmt::Debug>(result: Result<T, StoreError>, word: &str) {
    assert!(matches!(&result, Err(StoreError::Outage(text)) if text.contains(word)), "{word}: {result:?}");
}

fn fenced<T: std::fmt::Debug>(result: Result<T, StoreError>, word: &str) {
    assert!(matches!(&result, Err(StoreError::Fenced(text)) if text.contains(word)), "{word}: {result:?}");
}

const FIVE: Result<Written, StoreError> = Ok(Written::Committed { new_claims: 5, moved_dead: false });

#[tokio::test]
async fn a_missing_table_is_an_outage_until_it_is_back() {
    let (scratch, store) = fresh().await;
    scratch.sql("ALTER TABLE claims RENAME TO elsewhere");
    outage(store.write(&claims(0, 5), &[]).await, "42P01");
    outage(store.probe(&claims(0, 5).rows).await, "put it back");
    scratch.sql("ALTER TABLE elsewhere RENAME TO claims");
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
}

#[tokio::test]
async fn sessions_that_were_ended_are_opened_anew() {
    let (scratch, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
    assert_eq!(store.scan(None, Seq(0), 10).await.map(|rows| rows.len()), Ok(5));
    scratch.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'forebay%' \
                 AND datname = current_database()",
    );
    assert_eq!(store.scan(None, Seq(0), 10).await.map(|rows| rows.len()), Ok(5), "a read tries a fresh connection");
    outage(store.write(&claims(5, 5), &[]).await, "ended the session");
    assert_eq!(store.write(&claims(5, 5), &[]).await, FIVE);
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_an_outage_and_still_read() {
    let (scratch, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
    let name = &scratch.name;
    scratch.sql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    let again = store_of(&scratch.url(), Mode::ReadWrite);
    assert_eq!(again.migrate().await, Ok(0), "there is nothing to do, and that needs no writing");
    outage(again.bind(JOURNAL).await, "takes no writes");
    assert_eq!(again.position().await.map(|p| p.map(|p| p.cursor)), Ok(Some(Seq(5))));
    assert_eq!(again.scan(None, Seq(0), 10).await.map(|rows| rows.len()), Ok(5));
}

#[tokio::test]
async fn databases_that_are_not_ours_are_named() {
    let scratch = Postgres::scratch();
    let store = store_of(&scratch.url(), Mode::ReadWrite);
    outage(store.bind(JOURNAL).await, "forebay migrate");
    scratch.sql("CREATE TABLE orders (id bigint)");
    assert_eq!(store.look().await, Ok(Looked::Empty), "tables with other names are no matter");
    scratch.sql("CREATE TABLE carts (id bigint)");
    fenced(store.migrate().await, "another program");
    fenced(store.look().await, "another program");
    let url = scratch.url().replace(&scratch.name, "nowhere");
    outage(store_of(&url, Mode::ReadWrite).look().await, "create the database");
    let url = format!("{}?options=-csearch_path%3Dnowhere", scratch.url());
    outage(store_of(&url, Mode::ReadWrite).migrate().await, "search path");
    assert!(
        PostgresStore::open("postgres://a:hunter2@[x/y", None, PartitionBy::None, Mode::ReadWrite)
            .is_err_and(|e| { e.to_string().contains("store.url") && !e.to_string().contains("hunter2") })
    );
}

#[tokio::test]
async fn a_database_of_a_newer_binary_is_refused() {
    let (scratch, store) = fresh().await;
    store.close().await;
    outage(store.totals().await, "closed");
    scratch.sql("UPDATE forebay_schema SET version = 99");
    let store = store_of(&scratch.url(), Mode::ReadWrite);
    fenced(store.migrate().await, "version 99");
    fenced(store.bind(JOURNAL).await, "newer");
}

#[tokio::test]
async fn a_reader_beside_the_writer_sees_and_changes_nothing_but_reads() {
    let (scratch, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
    let reader = store_of(&scratch.url(), Mode::ReadOnly);
    assert_eq!(reader.scan(None, Seq(0), 10).await, store.scan(None, Seq(0), 10).await);
    outage(reader.bind(JOURNAL).await, "reading only");
    outage(reader.migrate().await, "reading only");
    assert_eq!(store.set_gate(1, GateState::Active, "w", Timestamp(1)).await, Ok(GateState::Active));
    assert_eq!((reader.gates().await, reader.secrets().await), (store.gates().await, Ok(None)));
    outage(reader.set_gate(1, GateState::Left, "w", Timestamp(1)).await, "reading only");
    assert_eq!(store.write(&claims(5, 5), &[]).await, FIVE);
    assert_eq!(reader.totals().await.map(|t| t[0].persisted), Ok(Units(10)));
}

#[tokio::test]
async fn tables_of_the_first_version_are_brought_up_to_date() {
    let scratch = Postgres::scratch();
    scratch.sql(&format!(
        "{}; INSERT INTO forebay_schema VALUES (1, 1, 'none'); \
         INSERT INTO forebay_meta VALUES (1, '{JOURNAL:032x}', 5, 1)",
        super::schema::MIGRATIONS[0]
    ));
    let store = store_of(&scratch.url(), Mode::ReadWrite);
    outage(store.bind(JOURNAL).await, "forebay migrate");
    let missing = super::schema::MIGRATIONS.len() as u32 - 1;
    assert_eq!((store.migrate().await, store.migrate().await), (Ok(missing), Ok(0)));
    assert_eq!(store.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(5)));
    assert_eq!(store.set_gate(1, GateState::Active, "w", Timestamp(1)).await, Ok(GateState::Active));
}

#[tokio::test]
async fn rows_that_are_there_already_are_not_counted_twice() {
    let (scratch, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 600), &[]).await, committed(600));
    scratch.sql("UPDATE forebay_meta SET cursor = 0");
    let more = claims(0, 700);
    assert_eq!(store.write(&more, &[]).await, committed(100));
    assert_eq!(store.totals().await.map(|t| t[0].persisted), Ok(Units(700)));
    scratch.sql("UPDATE forebay_meta SET cursor = 0; UPDATE claims SET amount = 1 WHERE seq = 5");
    let error = store.write(&more, &[]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Row(text) if text.contains("entry 5")), "{error}");
}

#[tokio::test]
async fn a_claim_given_back_lets_its_buyer_claim_again() {
    let (scratch, store) = fresh().await;
    assert_eq!(store.write(&batch(0, vec![created(1, 5), Row::Claim(claim(2, "u"))]), &[]).await, committed(1));
    scratch.sql("UPDATE claims SET status = 'cancelled', hold = NULL");
    assert_eq!(store.write(&batch(2, vec![Row::Claim(claim(3, "u"))]), &[]).await, committed(1));
    assert_eq!(store.probe(&[Row::Claim(claim(2, "u"))]).await, Ok(()));
    assert_eq!(store.claims_of(&UserId::parse("u").unwrap(), None, 9).await.map(|c| c.len()), Ok(2));
}

#[tokio::test]
async fn a_campaigns_row_follows_its_changes() {
    let (scratch, store) = fresh().await;
    let rows = vec![created(1, 10), changed(2, r#"{"add_stock":5,"state":"paused"}"#), Row::Claim(claim(3, "u"))];
    assert!(store.write(&batch(0, rows), &[]).await.is_ok());
    let later =
        vec![changed(4, r#"{"add_stock":-3}"#), changed(5, r#"{"closes_at":"2026-12-01T00:00:00Z","state":"open"}"#)];
    assert!(store.write(&batch(3, later), &[]).await.is_ok());
    let text =
        "SELECT stock, state, closes_at AT TIME ZONE 'UTC', persisted_units, persisted_money, seq FROM campaigns";
    assert_eq!(scratch.sql(text), [["12", "open", "2026-12-01 00:00:00", "1", "990", "5"]]);
    let text = "SELECT seq, accepted_at AT TIME ZONE 'UTC', hold, status FROM claims";
    assert_eq!(scratch.sql(text), [["3", "2025-11-20 12:00:00.000003", "0", "persisted"]]);
}

#[tokio::test]
async fn a_later_binding_fences_the_one_before_it() {
    let (scratch, older) = fresh().await;
    assert_eq!(older.write(&claims(0, 5), &[]).await, FIVE);
    let newer = store_of(&scratch.url(), Mode::ReadWrite);
    assert_eq!(newer.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(5)));
    fenced(older.write(&claims(5, 5), &[]).await, "taken the database over");
    assert_eq!(newer.write(&claims(5, 5), &[]).await, FIVE);
    fenced(older.write(&claims(5, 5), &[]).await, "taken the database over");
    assert_eq!(older.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(10)), "whoever starts again is the newer one");
    fenced(newer.write(&claims(10, 5), &[]).await, "taken the database over");
}

#[tokio::test]
async fn one_process_at_a_time_has_the_database_and_the_other_is_told_whose_it_is() {
    let (scratch, first) = fresh().await;
    assert_eq!(first.lock().await, Ok(()));
    assert_eq!(first.lock().await, Ok(()), "it has it already");
    let second = store_of(&scratch.url(), Mode::ReadWrite);
    fenced(second.lock().await, &format!("forebay process {}", std::process::id()));
    // A session that is lost takes the lock with it, and the next one has it again.
    scratch.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'forebay%' \
                 AND datname = current_database()",
    );
    outage(first.write(&claims(0, 5), &[]).await, "ended the session");
    assert_eq!(first.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(0)));
    assert_eq!(first.write(&claims(0, 5), &[]).await, FIVE);
    first.close().await;
    assert_eq!(second.lock().await, Ok(()));
}

#[tokio::test]
async fn a_database_changes_its_journal_once_and_only_from_what_it_was() {
    let (scratch, store) = fresh().await;
    assert_eq!(store.look().await, Ok(Looked::Bound(Position { journal: JOURNAL, cursor: Seq(0) }, None)));
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
    let (from, to) = (Position { journal: JOURNAL, cursor: Seq(5) }, Position { journal: 7, cursor: Seq(1_000) });
    let recovery =
        Recovery { at: Timestamp(0), action: "loss", lost: Some((Seq(6), Seq(9))), detail: serde_json::json!({}) };
    let elsewhere = Some(Position { cursor: Seq(4), ..from });
    fenced(store.rebind(elsewhere, to, &Mend::default(), &recovery).await, "changed meanwhile");
    fenced(store.rebind(None, to, &Mend::default(), &recovery).await, "changed meanwhile");
    assert_eq!(store.rebind(Some(from), to, &Mend::default(), &recovery).await, Ok(false));
    assert_eq!(store.rebind(Some(from), to, &Mend::default(), &recovery).await, Ok(true), "it was done before");
    assert_eq!((store.position().await, store.losses().await), (Ok(Some(to)), Ok(vec![(6, 9)])));
    fenced(store.write(&claims(5, 5), &[]).await, "belongs to journal");
    assert_eq!(store.bind(7).await, Ok(to));
    assert_eq!(store.set_aside("before_recover_x").await, Ok(()));
    assert_eq!(store.look().await, Ok(Looked::Empty));
    assert_eq!(scratch.sql("SELECT count(*) FROM before_recover_x.claims"), [["5"]]);
}

#[tokio::test]
async fn a_server_says_how_well_it_keeps_what_it_is_given() {
    let scratch = Postgres::scratch();
    let facts = store_of(&scratch.url(), Mode::ReadOnly).facts().await.unwrap();
    assert!(!facts.is_replica && !facts.is_encrypted && !facts.version.is_empty(), "{facts:?}");
    let weak: Vec<_> = facts.weak.iter().map(|weak| (weak.setting.as_str(), weak.takes_rows)).collect();
    assert_eq!(weak, [("fsync = off", true)], "as the tests' server is");
    let name = &scratch.name;
    scratch.sql(&format!("ALTER DATABASE {name} SET synchronous_commit = off"));
    let facts = store_of(&scratch.url(), Mode::ReadOnly).facts().await.unwrap();
    assert!(facts.weak.iter().any(|weak| weak.setting == "synchronous_commit = off" && !weak.takes_rows), "{facts:?}");
    let store = store_of(&scratch.url(), Mode::ReadWrite);
    let shown = store.apart(super::Purpose::Migrate, |sql| {
        Box::pin(async move {
            let value = sqlx::query_scalar::<_, String>("SHOW synchronous_commit").fetch_one(sql).await;
            value.map_err(super::error::before)
        })
    });
    assert_eq!(shown.await, Ok("on".to_owned()), "our own sessions' commits are synced whatever the default is");
}

#[tokio::test]
async fn a_connection_is_encrypted_where_that_is_asked_for_or_there_is_none() {
    let server = Postgres::start_encrypted();
    let facts = async |options: &str| {
        let url = format!("{}?{options}", server.url("postgres"));
        store_of(&url, Mode::ReadOnly).facts().await
    };
    assert!(facts("sslmode=require").await.is_ok_and(|facts| facts.is_encrypted));
    // Signed by nobody that is known.
    outage(facts("sslmode=verify-ca").await, "certificate");
    let plain = format!("{}?sslmode=require", Postgres::shared().url("postgres"));
    outage(store_of(&plain, Mode::ReadOnly).facts().await, "TLS");
}
