//! The suite once more over claims that are partitioned by day, and what is particular to them.

use super::server::{Postgres, Scratch};
use super::{PostgresStore, fenced, store_of};
use crate::config::PartitionBy;
use crate::sale::{Fate, Seq};
use crate::store::suite::ends::{end, row_fault};
use crate::store::suite::{self, JOURNAL, batch, claim, claims, committed, created};
use crate::store::{Mode, Row, Store};

fn store_by_day(scratch: &Scratch) -> PostgresStore {
    PostgresStore::open(&scratch.url(), None, PartitionBy::Day, Mode::ReadWrite).expect("a URL")
}

async fn fresh() -> (Scratch, PostgresStore) {
    let scratch = Postgres::scratch();
    let store = store_by_day(&scratch);
    assert_eq!(store.migrate().await, Ok(super::super::schema::MIGRATIONS.len() as u32));
    assert_eq!(store.migrate().await, Ok(0));
    assert_eq!(store.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(0)));
    (scratch, store)
}

suite::store_suite! { fresh }

/// The suite's claims are of 2025-11-20.
const DAYS: &str = "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid \
                    WHERE inhparent = 'claims'::regclass ORDER BY relname";

#[tokio::test]
async fn days_are_made_ahead_and_a_day_without_a_partition_refuses_nothing() {
    let (scratch, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 5), &[]).await, committed(5));
    assert_eq!(scratch.sql(DAYS), [["claims_20251120"], ["claims_20251121"], ["claims_of_other_days"]]);
    assert_eq!(scratch.sql("SELECT count(*) FROM claims_20251120"), [["5"]]);
    scratch.sql("DROP TABLE claims_20251120");
    assert_eq!(store.write(&claims(5, 5), &[]).await, committed(5));
    assert_eq!(scratch.sql("SELECT count(*) FROM claims_of_other_days"), [["5"]]);
    assert_eq!(store.scan(None, Seq(0), 100).await.map(|rows| rows.len()), Ok(5));
    // A reader of the table holds the making of a partition up, and no batch.
    let (scratch, store) = fresh().await;
    let mut reader = Postgres::shared().shell(&scratch.name);
    std::io::Write::write_all(reader.stdin.as_mut().unwrap(), b"BEGIN; SELECT count(*) FROM claims;\n").unwrap();
    let reads = "SELECT count(*) FROM pg_locks WHERE relation = 'claims_of_other_days'::regclass AND granted";
    while scratch.sql(reads) != [["1"]] {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(store.write(&claims(0, 5), &[]).await, committed(5));
    assert_eq!(scratch.sql("SELECT count(*) FROM claims_of_other_days"), [["5"]]);
    reader.kill().unwrap();
    reader.wait().unwrap();
}

#[tokio::test]
async fn a_day_that_can_get_no_partition_keeps_no_other_from_its_own() {
    let (scratch, store) = fresh().await;
    // A row of the first day stands with those of other days: then it gets no partition any more.
    scratch.sql("ALTER TABLE claims RENAME TO elsewhere; ALTER TABLE claims_of_other_days RENAME TO claims");
    assert_eq!(store.write(&claims(0, 5), &[]).await, committed(5));
    scratch.sql("ALTER TABLE claims RENAME TO claims_of_other_days; ALTER TABLE elsewhere RENAME TO claims");
    store.close().await;
    let store = store_by_day(&scratch);
    assert_eq!(store.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(5)));
    assert_eq!(store.write(&claims(5, 5), &[]).await, committed(5));
    assert_eq!(scratch.sql(DAYS), [["claims_20251121"], ["claims_of_other_days"]]);
    assert_eq!(scratch.sql("SELECT count(*) FROM claims_of_other_days"), [["10"]]);
}

#[tokio::test]
async fn one_claim_a_hold_holds_beyond_the_day_and_follows_what_is_done_by_hand() {
    let (scratch, store) = fresh().await;
    let (a, mut b) = (claim(2, "u"), claim(3, "u"));
    // The buyer's next claim, two days later.
    b.claim.claim_id = crate::sale::ClaimId::new(
        crate::sale::Timestamp(a.claim.accepted_at.0 + 2 * 86_400_000_000),
        crate::sale::UserHash(7),
        7,
    );
    assert_eq!(store.write(&batch(0, vec![created(1, 9), Row::Claim(a)]), &[]).await, committed(1));
    row_fault(store.probe(&[Row::Claim(b)]).await, "claims_one_per_hold");
    // Whatever the search path of whoever does it.
    scratch
        .sql("SET search_path = pg_catalog; UPDATE public.claims SET hold = NULL, status = 'cancelled' WHERE seq = 2");
    assert_eq!(store.write(&batch(2, vec![Row::Claim(b)]), &[]).await, committed(1));
    assert_eq!(scratch.sql("SELECT claim_id FROM claim_holds"), [[b.claim.claim_id.to_string()]]);
    assert_eq!(store.write(&batch(3, vec![end(4, &b, Fate::Settled)]), &[]).await, committed(0));
    assert_eq!(scratch.sql("SELECT count(*) FROM claim_holds"), [["1"]], "what is paid is held");
    scratch.sql("DELETE FROM claims WHERE seq = 3");
    assert_eq!(scratch.sql("SELECT count(*) FROM claim_holds"), [["0"]]);
    scratch.sql("ALTER TABLE claims_20251121 RENAME TO \"Black Friday\"");
    assert_eq!(store.set_aside("before_recover_y").await, Ok(()));
    assert_eq!(scratch.sql("SELECT count(*) FROM before_recover_y.claims"), [["1"]]);
    let functions = "SELECT DISTINCT pronamespace::regnamespace FROM pg_proc WHERE proname LIKE 'forebay_claims%'";
    assert_eq!(scratch.sql(functions), [["before_recover_y"]]);
    assert_eq!(store.migrate().await, Ok(super::super::schema::MIGRATIONS.len() as u32), "the names are free again");
}

#[tokio::test]
async fn how_claims_are_divided_is_decided_once() {
    let (scratch, store) = fresh().await;
    store.close().await;
    fenced(store_of(&scratch.url(), Mode::ReadWrite).migrate().await, "store.partition_by = \"day\"");
    let scratch = Postgres::scratch();
    assert_eq!(
        store_of(&scratch.url(), Mode::ReadWrite).migrate().await,
        Ok(super::super::schema::MIGRATIONS.len() as u32)
    );
    fenced(store_by_day(&scratch).migrate().await, "store.partition_by = \"none\"");
}
