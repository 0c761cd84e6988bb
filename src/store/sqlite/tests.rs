//! What only a file can do wrong: locked, read-only, full, damaged, deleted, replaced, another's, too new.

mod ends;
mod recovery;

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use super::{Mode, SqliteStore};
use crate::sale::{Seq, Timestamp, Units, UserId};
use crate::store::suite::{self, JOURNAL, batch, changed, claim, claims, committed, created};
use crate::store::{Batch, GateState, Looked, Mend, Position, Recovery, Row, Store, StoreError, Written};

fn store_in(dir: &Path, mode: Mode) -> SqliteStore {
    SqliteStore::open(&format!("sqlite:{}/forebay.db", dir.display()), mode).expect("a URL")
}

async fn fresh() -> (tempfile::TempDir, SqliteStore) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = store_in(dir.path(), Mode::ReadWrite);
    assert_eq!(store.migrate().await, Ok(super::schema::MIGRATIONS.len() as u32));
    assert_eq!(store.migrate().await, Ok(0));
    assert_eq!(store.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(0)));
    (dir, store)
}

suite::store_suite! { fresh }

/// A shell beside us.
async fn shell(store: &SqliteStore) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(store.path());
    SqliteConnection::connect_with(&options).await.expect("a connection")
}

async fn run(sql: &mut SqliteConnection, text: &'static str) {
    sqlx::raw_sql(text).execute(sql).await.expect(text);
}

fn outage<T: std::fmt::Debug>(result: Result<T, StoreError>, word: &str) {
    assert!(matches!(&result, Err(StoreError::Outage(text)) if text.contains(word)), "{word}: {result:?}");
}

fn fenced<T: std::fmt::Debug>(result: Result<T, StoreError>, word: &str) {
    assert!(matches!(&result, Err(StoreError::Fenced(text)) if text.contains(word)), "{word}: {result:?}");
}

const FIVE: Result<Written, StoreError> = Ok(Written::Committed { new_claims: 5, moved_dead: false });

#[tokio::test]
async fn a_locked_database_is_an_outage_and_reads_go_on() {
    let (_dir, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
    let mut other = shell(&store).await;
    run(&mut other, "BEGIN EXCLUSIVE").await;
    outage(store.write(&claims(5, 5), &[]).await, "locked");
    assert_eq!(store.scan(None, Seq(0), 100).await.map(|rows| rows.len()), Ok(5));
    run(&mut other, "ROLLBACK").await;
    assert_eq!(store.write(&claims(5, 5), &[]).await, FIVE);
}

#[tokio::test]
async fn a_missing_table_is_an_outage_until_it_is_back() {
    let (_dir, store) = fresh().await;
    let mut other = shell(&store).await;
    run(&mut other, "ALTER TABLE claims RENAME TO elsewhere").await;
    outage(store.write(&claims(0, 5), &[]).await, "no such table");
    outage(store.probe(&claims(0, 5).rows).await, "no such table");
    run(&mut other, "ALTER TABLE elsewhere RENAME TO claims").await;
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
}

#[tokio::test]
async fn a_full_database_is_an_outage_until_there_is_room() {
    let (_dir, store) = fresh().await;
    // The page limit belongs to a connection: it is put on the writer itself.
    let limit = |pages: u32| {
        let text = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        store.connections.write(async move |sql: &mut SqliteConnection| {
            let done = sqlx::raw_sql(text).execute(sql).await.map(|_| ()).map_err(super::error::before);
            (done, super::connection::Clean::Yes)
        })
    };
    limit(1).await.unwrap();
    outage(store.write(&claims(0, 3_000), &[]).await, "full");
    assert_eq!(store.scan(None, Seq(0), 10).await, Ok(vec![]));
    assert_eq!(store.write(&claims(0, 3_000), &[]).await, committed(3_000));
}

#[test]
fn a_read_only_file_is_an_outage_and_still_read() {
    // Root writes to anything, but for this thread (and those it starts) we can give that up.
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use std::os::unix::fs::PermissionsExt;
    let work = async {
        let (dir, store) = fresh().await;
        assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
        store.close().await;
        let allow = |file: u32, folder: u32| {
            std::fs::set_permissions(store.path(), PermissionsExt::from_mode(file)).unwrap();
            std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(folder)).unwrap();
        };
        allow(0o444, 0o755);
        let again = store_in(dir.path(), Mode::ReadWrite);
        assert_eq!(again.migrate().await, Ok(0), "there is nothing to do, and that needs no writing");
        outage(again.bind(JOURNAL).await, "writable");
        assert_eq!(again.position().await.map(|p| p.map(|p| p.cursor)), Ok(Some(Seq(5))));
        assert_eq!(again.scan(None, Seq(0), 10).await.map(|rows| rows.len()), Ok(5));
        allow(0o644, 0o755);
        // Whoever read meanwhile may hold on to the shared memory of that time: the attempt that meets it lets go of it.
        let first = again.bind(JOURNAL).await;
        let bound = if first.is_ok() { first } else { again.bind(JOURNAL).await };
        assert_eq!(bound.map(|p| p.cursor), Ok(Seq(5)));
        assert_eq!(again.write(&claims(5, 5), &[]).await, FIVE);
        allow(0o644, 0o555);
        let elsewhere = SqliteStore::open(&format!("sqlite:{}/new.db", dir.path().display()), Mode::ReadWrite).unwrap();
        outage(elsewhere.migrate().await, "may this user write");
        allow(0o644, 0o755);
    };
    let thread = std::thread::spawn(|| {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::DAC_OVERRIDE);
        set_capabilities(None, sets).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    });
    thread.join().unwrap();
}

#[tokio::test]
async fn a_deleted_file_is_an_outage_and_a_restored_one_is_found_again() {
    let (dir, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
    let aside = dir.path().join("aside.db");
    std::fs::rename(store.path(), &aside).unwrap();
    outage(store.write(&claims(5, 5), &[]).await, "put the file back");
    outage(store.scan(None, Seq(0), 10).await, "put the file back");
    assert!(!store.path().exists(), "an empty database was made in its place");
    std::fs::rename(&aside, store.path()).unwrap();
    assert_eq!(store.write(&claims(5, 5), &[]).await, FIVE);
    assert_eq!(store.scan(None, Seq(0), 100).await.map(|rows| rows.len()), Ok(10));
}

#[tokio::test]
async fn an_open_connection_never_writes_into_a_file_that_was_replaced() {
    let (dir, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
    std::fs::write(dir.path().join("other.db"), b"").unwrap();
    std::fs::rename(dir.path().join("other.db"), store.path()).unwrap();
    for tail in ["-wal", "-shm"] {
        std::fs::remove_file(format!("{}{tail}", store.path().display())).unwrap();
    }
    outage(store.write(&claims(5, 5), &[]).await, "empty database");
    outage(store.totals().await, "empty database");
}

#[tokio::test]
async fn files_that_are_not_ours_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path(), Mode::ReadWrite);
    outage(store.bind(JOURNAL).await, "forebay migrate");
    outage(store_in(&dir.path().join("no/such"), Mode::ReadWrite).migrate().await, "is the folder there");
    std::fs::write(store.path(), "This is a text file, long enough to be looked at. ".repeat(100)).unwrap();
    outage(store.migrate().await, "not a SQLite database");
    outage(store.bind(JOURNAL).await, "not a SQLite database");
    std::fs::remove_file(store.path()).unwrap();
    std::fs::write(store.path(), b"").unwrap();
    run(&mut shell(&store).await, "CREATE TABLE contacts (name TEXT)").await;
    fenced(store.migrate().await, "another program");
    fenced(store.bind(JOURNAL).await, "another program");
}

#[tokio::test]
async fn a_database_of_a_newer_binary_is_refused() {
    let (dir, store) = fresh().await;
    store.close().await;
    run(&mut shell(&store).await, "PRAGMA user_version = 99").await;
    let store = store_in(dir.path(), Mode::ReadWrite);
    fenced(store.migrate().await, "version 99");
    fenced(store.bind(JOURNAL).await, "newer");
}

#[tokio::test]
async fn a_reader_beside_the_writer_sees_and_changes_nothing_but_reads() {
    let (dir, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
    let reader = store_in(dir.path(), Mode::ReadOnly);
    assert_eq!(reader.position().await.map(|p| p.map(|p| p.cursor)), Ok(Some(Seq(5))));
    assert_eq!(reader.scan(None, Seq(0), 10).await, store.scan(None, Seq(0), 10).await);
    let refused = reader.bind(JOURNAL).await;
    assert!(matches!(&refused, Err(StoreError::Outage(why)) if why.contains("reading only")), "{refused:?}");
    outage(reader.migrate().await, "reading only");
    assert_eq!(store.set_gate(1, GateState::Active, "w", Timestamp(1)).await, Ok(GateState::Active));
    assert_eq!((reader.gates().await, reader.secrets().await), (store.gates().await, Ok(None)));
    outage(reader.set_gate(1, GateState::Left, "w", Timestamp(1)).await, "reading only");
    assert_eq!(store.write(&claims(5, 5), &[]).await, FIVE);
    assert_eq!(reader.totals().await.map(|t| t[0].persisted), Ok(Units(10)));
}

#[tokio::test]
async fn a_claim_given_back_lets_its_buyer_claim_again() {
    let (_dir, store) = fresh().await;
    assert_eq!(store.write(&batch(0, vec![created(1, 5), Row::Claim(claim(2, "u"))]), &[]).await, committed(1));
    run(&mut shell(&store).await, "UPDATE claims SET status = 'cancelled', hold = NULL").await;
    let again = committed(1);
    assert_eq!(store.write(&batch(2, vec![Row::Claim(claim(3, "u"))]), &[]).await, again);
    // What moved on in the database does not make the first claim another one.
    assert_eq!(store.probe(&[Row::Claim(claim(2, "u"))]).await, Ok(()));
    assert_eq!(store.claims_of(&UserId::parse("u").unwrap(), None, 9).await.map(|c| c.len()), Ok(2));
}

#[tokio::test]
async fn rows_that_are_there_already_are_not_counted_twice() {
    let (_dir, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 600), &[]).await, committed(600));
    run(&mut shell(&store).await, "UPDATE forebay_meta SET cursor = 0").await;
    let more = claims(0, 700);
    assert_eq!(store.write(&more, &[]).await, committed(100));
    assert_eq!(store.totals().await.map(|t| t[0].persisted), Ok(Units(700)));
    run(&mut shell(&store).await, "UPDATE forebay_meta SET cursor = 0; UPDATE claims SET amount = 1 WHERE seq = 5")
        .await;
    let error = store.write(&more, &[]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Row(text) if text.contains("entry 5")), "{error}");
}

#[tokio::test]
async fn a_campaigns_row_follows_its_changes() {
    let (_dir, store) = fresh().await;
    let rows = vec![created(1, 10), changed(2, r#"{"add_stock":5,"state":"paused"}"#), Row::Claim(claim(3, "u"))];
    assert!(store.write(&batch(0, rows), &[]).await.is_ok());
    let later =
        vec![changed(4, r#"{"add_stock":-3}"#), changed(5, r#"{"closes_at":"2026-12-01T00:00:00Z","state":"open"}"#)];
    assert!(store.write(&batch(3, later), &[]).await.is_ok());
    let mut sql = shell(&store).await;
    let seen: (i64, String, String, i64, i64, i64) = sqlx::query_as(
        "SELECT stock, state, closes_at, persisted_units, persisted_money, seq FROM campaigns WHERE id = 'sale'",
    )
    .fetch_one(&mut sql)
    .await
    .unwrap();
    assert_eq!(seen, (12, "open".to_owned(), "2026-12-01T00:00:00.000000Z".to_owned(), 1, 990, 5));
    let logged: Vec<(i64, String, String)> =
        sqlx::query_as("SELECT seq, action, by FROM campaign_log ORDER BY seq").fetch_all(&mut sql).await.unwrap();
    let word = |seq, action: &str| (seq, action.to_owned(), "ops".to_owned());
    assert_eq!(logged, [word(1, "created"), word(2, "changed"), word(4, "changed"), word(5, "changed")]);
}

#[test]
fn only_urls_that_name_a_file_are_taken() {
    for (url, good) in [
        ("sqlite:forebay.db", true),
        ("sqlite:///var/lib/forebay.db", true),
        ("sqlite:a/b.db", true),
        ("postgres://x", false),
        ("sqlite:", false),
        ("sqlite::memory:", false),
        ("sqlite:a.db?mode=ro", false),
    ] {
        assert_eq!(SqliteStore::open(url, Mode::ReadWrite).is_ok(), good, "{url}");
    }
}

#[tokio::test]
async fn a_later_binding_fences_the_one_before_it() {
    let (dir, older) = fresh().await;
    assert_eq!(older.write(&claims(0, 5), &[]).await, FIVE);
    let newer = store_in(dir.path(), Mode::ReadWrite);
    assert_eq!(newer.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(5)));
    let fenced = older.write(&claims(5, 5), &[]).await;
    assert!(matches!(&fenced, Err(StoreError::Fenced(why)) if why.contains("taken the database over")), "{fenced:?}");
    assert_eq!(newer.write(&claims(5, 5), &[]).await, FIVE);
    let fenced = older.write(&claims(5, 5), &[]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced(_))), "a batch that is there is another's: {fenced:?}");
    assert_eq!(older.bind(JOURNAL).await.map(|p| p.cursor), Ok(Seq(10)), "whoever starts again is the newer one");
    assert!(matches!(newer.write(&claims(10, 5), &[]).await, Err(StoreError::Fenced(_))));
}

#[tokio::test]
async fn a_copy_from_before_this_start_is_not_taken_for_a_newer_process() {
    let (_dir, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
    sqlx::raw_sql("UPDATE forebay_meta SET epoch = epoch - 1").execute(&mut shell(&store).await).await.unwrap();
    let fenced = store.write(&claims(5, 5), &[]).await;
    assert!(matches!(&fenced, Err(StoreError::Fenced(why)) if why.contains("put back from a copy")), "{fenced:?}");
}

#[tokio::test]
async fn a_look_tells_whose_a_file_is_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path(), Mode::ReadWrite);
    assert_eq!(store.look().await, Ok(Looked::Missing));
    std::fs::write(store.path(), "").unwrap();
    assert_eq!(store.look().await, Ok(Looked::Empty));
    store.migrate().await.unwrap();
    assert_eq!(store.look().await, Ok(Looked::Unbound));
    store.bind(JOURNAL).await.unwrap();
    assert_eq!(store.write(&Batch { mark: 7, ..claims(0, 5) }, &[]).await, FIVE);
    let here = Position { journal: JOURNAL, cursor: Seq(5) };
    assert_eq!(store.look().await, Ok(Looked::Bound(here, Some(7))));
    store.close().await;
    assert!(!dir.path().join("forebay.db-wal").exists(), "the file alone is the database");
    let nowhere = SqliteStore::open(&format!("sqlite:{}/none/shop.db", dir.path().display()), Mode::ReadWrite).unwrap();
    outage(nowhere.look().await, "none");
}

#[tokio::test]
async fn a_file_changes_its_journal_once_and_only_from_what_it_was() {
    let (_dir, store) = fresh().await;
    assert_eq!(store.write(&claims(0, 5), &[]).await, FIVE);
    let (from, to) = (Position { journal: JOURNAL, cursor: Seq(5) }, Position { journal: 7, cursor: Seq(1_000) });
    let recovery =
        Recovery { at: Timestamp(0), action: "loss", lost: Some((Seq(6), Seq(9))), detail: serde_json::json!({}) };
    let elsewhere = Some(Position { cursor: Seq(4), ..from });
    assert!(matches!(store.rebind(elsewhere, to, &Mend::default(), &recovery).await, Err(StoreError::Fenced(_))));
    assert!(matches!(store.rebind(None, to, &Mend::default(), &recovery).await, Err(StoreError::Fenced(_))));
    assert_eq!(store.rebind(Some(from), to, &Mend::default(), &recovery).await, Ok(false));
    assert_eq!(store.rebind(Some(from), to, &Mend::default(), &recovery).await, Ok(true), "it was done before");
    assert_eq!((store.position().await, store.losses().await), (Ok(Some(to)), Ok(vec![(6, 9)])));
    assert!(matches!(store.write(&claims(5, 5), &[]).await, Err(StoreError::Fenced(_))));
    assert_eq!(store.bind(7).await, Ok(to));
}
