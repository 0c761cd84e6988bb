//! What others make of the database: its encoding, triggers and constraints of theirs, another start, the URL's own wishes.

use super::server::Postgres;
use super::{FIVE, fenced, fresh, store_of};
use crate::config::PartitionBy;
use crate::sale::Seq;
use crate::store::postgres::PostgresStore;
use crate::store::suite::ends::row_fault;
use crate::store::suite::{JOURNAL, batch, claims, committed, created};
use crate::store::{DeadRow, Dealt, Mode, Store};

#[tokio::test]
async fn a_database_of_another_encoding_is_refused_before_anything_is_written() {
    let server = Postgres::shared();
    server.sql("postgres", "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    let store = store_of(&server.url("latin"), Mode::ReadWrite);
    fenced(store.migrate().await, "LATIN1");
    fenced(store.look().await, "must be UTF8");
    store.close().await;
    server.sql("postgres", "DROP DATABASE latin");
}

/// Makes a constraint that looks only at COMMIT, and minds the buyer u3.
const LATE: &str = "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                    IF NEW.user_id = 'u3' THEN RAISE check_violation USING MESSAGE = 'not u3'; END IF; RETURN NULL; END $$; \
                    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON claims DEFERRABLE INITIALLY DEFERRED \
                    FOR EACH ROW EXECUTE FUNCTION late()";

#[tokio::test]
async fn a_constraint_that_looks_only_at_commit_blames_its_row_all_the_same() {
    let (scratch, store) = fresh().await;
    scratch.sql(LATE);
    let five = claims(0, 5);
    row_fault(store.write(&five, &[]).await, "not u3");
    row_fault(store.probe(&five.rows).await, "not u3");
    row_fault(store.probe(&five.rows[2..3]).await, "not u3");
    assert_eq!(store.probe(&five.rows[..2]).await, Ok(()));
    let dead = [DeadRow { index: 2, reason: "not u3".into() }];
    assert_eq!(store.write(&five, &dead).await, committed(4));
    assert!(matches!(store.requeue(1).await, Ok(Dealt::Refused(why)) if why.contains("not u3")));
    scratch.sql("DROP TRIGGER late ON claims");
    assert_eq!(store.requeue(1).await, Ok(Dealt::Done));
}

#[tokio::test]
async fn a_trigger_that_leaves_rows_out_is_named_and_nothing_is_written() {
    let (scratch, store) = fresh().await;
    scratch.sql(
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.user_id = 'u3' THEN RETURN NULL; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER forget BEFORE INSERT ON claims FOR EACH ROW EXECUTE FUNCTION forget()",
    );
    row_fault(store.write(&claims(0, 5), &[]).await, "4 of 5 rows");
    row_fault(store.probe(&claims(0, 5).rows[2..3]).await, "0 of 1 rows");
    assert_eq!(store.scan(None, Seq(0), 10).await.map(|rows| rows.len()), Ok(0));
    scratch.sql("DROP TRIGGER forget ON claims");
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
}

#[tokio::test]
async fn a_start_that_was_overtaken_deals_with_no_letters() {
    let (scratch, older) = fresh().await;
    let dead = [DeadRow { index: 0, reason: "poison".into() }];
    assert_eq!(older.write(&batch(0, vec![created(1, 9)]), &dead).await, committed(0));
    let newer = store_of(&scratch.url(), Mode::ReadWrite);
    assert_eq!(newer.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(1)));
    fenced(older.requeue(1).await, "taken the database over");
    fenced(older.discard(1, "ann", "enough").await, "taken the database over");
    assert_eq!(newer.dead_count().await, Ok(1));
    scratch.sql("UPDATE forebay_meta SET journal = '0000000000000000000000000000beef'");
    fenced(newer.requeue(1).await, "belongs to journal");
    fenced(newer.discard(1, "ann", "enough").await, "belongs to journal");
    assert_eq!(newer.dead_count().await, Ok(1));
}

#[tokio::test]
async fn a_session_bears_our_name_whatever_the_url_says() {
    let scratch = Postgres::scratch();
    let url = format!("{}?application_name=shop", scratch.url());
    let store = PostgresStore::open(&url, None, PartitionBy::None, Mode::ReadWrite).expect("a URL");
    assert_eq!(store.migrate().await, Ok(super::super::schema::MIGRATIONS.len() as u32));
    assert_eq!(store.lock().await, Ok(()));
    let names = "SELECT count(*), count(*) FILTER (WHERE application_name LIKE 'forebay process%') FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name <> 'psql'";
    assert_eq!(scratch.sql(names), [["1", "1"]]);
}
