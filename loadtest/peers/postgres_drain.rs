//! What the drain's path into PostgreSQL costs, against a bare COPY of the same rows into the same table and against the other
//! ways to bring a batch in. It starts a private server that syncs its commits.
//!
//! `cargo run --release --example postgres_drain -- [ROWS] [BATCH]`, by default 200,000 rows in batches of 1,000.

#[path = "../../tests/support/postgres.rs"]
mod postgres;

use std::time::Instant;

use forebay::config::PartitionBy;
use forebay::sale::{
    CampaignId, CampaignNo, Claim, ClaimId, Currency, Durability, Money, Seq, Timestamp, Units, UserHash, UserId,
};
use forebay::store::postgres::PostgresStore;
use forebay::store::{Batch, CampaignRow, ClaimRow, Mode, Row, Store};
use postgres::Postgres;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};

const COLUMNS: &str = "seq, claim_id, campaign, campaign_no, user_id, quantity, amount, currency, status, accepted_at, \
                       hold, receipt_key, durability, idempotency_key, ended_seq, ended_at, ended_by";

fn claim(seq: u64) -> Row {
    let at = Timestamp(1_763_640_000_000_000 + seq as i64 * 10);
    let spread = u128::from(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let claim = Claim {
        claim_id: ClaimId::new(at, UserHash(spread << 64), seq),
        campaign: CampaignNo(0),
        user: UserId::parse(&format!("user-{:016x}", spread as u64)).expect("a user"),
        quantity: Units(1),
        amount: Some(Money(990)),
        hold: 0,
        receipt_key: 1,
        key: None,
        seq: Seq(seq),
        accepted_at: at,
        durability: Durability::Disk,
    };
    let campaign = CampaignId::parse("sale").expect("a campaign");
    Row::Claim(ClaimRow { claim, campaign, currency: Currency::parse("CNY"), is_check_in: false })
}

fn batches(rows: u64, size: u64) -> Vec<Batch> {
    let detail = r#"{"id":"sale","kind":"flash_sale","title":"","opens_at":"2020-01-01T00:00:00Z",
        "closes_at":"2099-01-01T00:00:00Z","stock":1000000000,"currency":"CNY","price":990}"#;
    let id = CampaignId::parse("sale").expect("a campaign");
    let (action, by, detail) = ("created", String::new(), detail.to_owned());
    let created = CampaignRow { no: CampaignNo(0), id, seq: Seq(1), at: Timestamp(0), action, by, detail };
    let mut all = vec![Batch { after: Seq(0), upto: Seq(1), rows: vec![Row::Campaign(created)], mark: 0 }];
    for first in (2..rows + 2).step_by(size as usize) {
        let last = (first + size - 1).min(rows + 1);
        let rows = (first..=last).map(claim).collect();
        all.push(Batch { after: Seq(first - 1), upto: Seq(last), rows, mark: 0 });
    }
    all
}

/// Rows a second.
fn rate(rows: u64, begun: Instant) -> f64 {
    rows as f64 / begun.elapsed().as_secs_f64()
}

async fn drained(server: &Postgres, url: &str, by: PartitionBy, rows: u64, size: u64) -> f64 {
    server.sql("shop", "DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    let store = PostgresStore::open(url, None, by, Mode::ReadWrite).expect("a URL");
    store.migrate().await.expect("tables");
    store.bind(1).await.expect("a binding");
    let batches = batches(rows, size);
    let begun = Instant::now();
    for batch in &batches {
        store.write(batch, &[]).await.expect("a commit");
    }
    let rate = rate(rows, begun);
    store.close().await;
    rate
}

/// The rows that are there, copied once more into the emptied table: by the server itself, from a file, in one statement.
async fn copied(server: &Postgres, sql: &mut PgConnection, rows: u64) -> f64 {
    let file = server.data().join("rows").display().to_string();
    server.sql("shop", &format!("COPY (SELECT {COLUMNS} FROM claims ORDER BY seq) TO '{file}' (FORMAT BINARY)"));
    server.sql("shop", "TRUNCATE claims; CHECKPOINT");
    let text = format!("COPY claims ({COLUMNS}) FROM '{file}' (FORMAT BINARY)");
    let begun = Instant::now();
    sql.execute(sqlx::AssertSqlSafe(text)).await.expect("a copy");
    rate(rows, begun)
}

/// Another way: each batch from the table `kept`, which stands for what the client sends.
async fn other(server: &Postgres, sql: &mut PgConnection, size: u64, rows: u64, way: &[String]) -> f64 {
    server.sql("shop", "TRUNCATE claims; CHECKPOINT");
    let begun = Instant::now();
    for first in (2..rows + 2).step_by(size as usize) {
        sql.execute("BEGIN").await.expect("a transaction");
        for text in way {
            let text = text.replace("FIRST", &first.to_string()).replace("LAST", &(first + size - 1).to_string());
            sql.execute(sqlx::AssertSqlSafe(text)).await.expect("a batch");
        }
        sql.execute("COMMIT").await.expect("a commit");
    }
    rate(rows, begun)
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().expect("a number"));
    let (rows, size) = (arguments.next().unwrap_or(200_000), arguments.next().unwrap_or(1_000));
    let server = Postgres::start(&["fsync=on", "max_wal_size=4GB", "shared_buffers=256MB"]);
    server.sql("postgres", "CREATE DATABASE shop");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for round in 1..=3 {
            let by_day = drained(&server, &server.url("shop"), PartitionBy::Day, rows, size).await;
            let tcp = drained(&server, &server.url("shop"), PartitionBy::None, rows, size).await;
            let socket = drained(&server, &server.socket_url("shop"), PartitionBy::None, rows, size).await;
            let mut sql = PgConnection::connect(&server.socket_url("shop")).await.expect("a connection");
            let copied = copied(&server, &mut sql, rows).await;
            server.sql(
                "shop",
                "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT * FROM claims; \
                                CREATE INDEX ON kept (seq); ANALYZE kept",
            );
            let insert = format!("INSERT INTO claims ({COLUMNS}) SELECT {COLUMNS} FROM");
            let some = "WHERE seq BETWEEN FIRST AND LAST ORDER BY seq";
            let known = "ON CONFLICT (claim_id) DO NOTHING";
            let plain = other(&server, &mut sql, size, rows, &[format!("{insert} kept {some}")]).await;
            let conflict = other(&server, &mut sql, size, rows, &[format!("{insert} kept {some} {known}")]).await;
            sql.execute("CREATE TEMP TABLE IF NOT EXISTS t (LIKE claims) ON COMMIT DELETE ROWS")
                .await
                .expect("a table");
            let way = [format!("INSERT INTO t SELECT * FROM kept {some}"), format!("{insert} t {known}")];
            let temporary = other(&server, &mut sql, size, rows, &way).await;
            println!(
                "round {round}: drain by TCP {tcp:.0}/s, by socket {socket:.0}/s, by day {by_day:.0}/s; \
                 COPY of all rows {copied:.0}/s; ratios {:.2}, {:.2}",
                tcp / copied,
                socket / copied
            );
            println!(
                "  of rows that are on the server already, {size} a transaction: INSERT {plain:.0}/s, with ON CONFLICT \
                 {conflict:.0}/s, through a temporary table {temporary:.0}/s"
            );
        }
    });
}
