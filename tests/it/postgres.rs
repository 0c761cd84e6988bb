//! The whole server over PostgreSQL: a sale from HTTP to audited rows, restarts, the wrong pair, what a database server does
//! wrong, and a replica. Each ends with what was acknowledged being there, each claim once, with exact sums.

mod faults;
mod replica;

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::http::{Connection, Request};
use crate::support::postgres::{Postgres, Scratch};
use crate::support::sale::{claim, end, flash_sale};
use crate::support::{Server, Site, stderr, stdout};

/// A sale and what was acknowledged of it.
struct Sale {
    site: Site,
    acknowledged: Vec<Value>,
}

impl Sale {
    fn on(url: &str) -> Self {
        Self { site: Site::new().text("store.url", url), acknowledged: Vec::new() }
    }

    fn begin(&self) -> Server {
        let server = self.site.start();
        server.create(&flash_sale("sale", 100_000));
        server
    }

    /// Claims for `count` more buyers, all of which must be acknowledged.
    fn sell(&mut self, server: &Server, count: usize) {
        let mut connection = Connection::open(server.public).unwrap();
        for no in self.acknowledged.len()..self.acknowledged.len() + count {
            let answer = connection.call(&claim("sale", &format!("u{no}"))).unwrap();
            assert_eq!(answer.status, 202, "{}", answer.text());
            self.acknowledged.push(answer.json());
        }
    }

    /// Drains, stops, and holds rows and acknowledgements against each other.
    fn finish(&self, server: Server, sql: impl Fn(&str) -> Vec<Vec<String>>) {
        let sold = self.acknowledged.len();
        let balance = server.drained("sale");
        assert_eq!((&balance["persisted"], &balance["dead"]), (&json!(sold), &json!(0)), "{balance}");
        assert!(server.stop().success(), "{}", std::fs::read_to_string(self.site.log()).unwrap());
        let expected = [[sold, sold, sold, sold * 990].map(|n| n.to_string())];
        let text = "SELECT count(*), count(DISTINCT claim_id), count(DISTINCT user_id), sum(amount) FROM claims";
        assert_eq!(sql(text), expected);
        let text = "SELECT persisted_units, persisted_units, persisted_units, persisted_money FROM campaigns";
        assert_eq!(sql(text), expected);
        let mut receipts = String::new();
        for claim in &self.acknowledged {
            let _ = writeln!(receipts, "{claim}");
        }
        let path = self.site.folder.path().join("receipts");
        std::fs::write(&path, receipts).unwrap();
        let audit = self.site.run(["audit", "--receipts", path.to_str().unwrap()]);
        assert_eq!(audit.status.code(), Some(0), "{}{}", stdout(&audit), stderr(&audit));
        assert!(stdout(&audit).contains(&format!("{sold} receipts checked")), "{}", stdout(&audit));
    }
}

fn fresh() -> (Scratch, Sale) {
    let scratch = Postgres::scratch();
    let sale = Sale::on(&scratch.url());
    (scratch, sale)
}

#[test]
fn a_sale_goes_from_http_to_audited_rows() {
    let (scratch, mut sale) = fresh();
    let server = sale.begin();
    sale.sell(&server, 1_500);
    server.drained("sale");
    let first = sale.acknowledged[0].clone();
    let id = first["claim_id"].as_str().unwrap();
    let shown = server.call(&Request::get(&format!("/v1/claims/{id}"))).json();
    assert_eq!(
        (&shown["status"], &shown["user"], &shown["receipt"]),
        (&json!("persisted"), &json!("u0"), &first["receipt"])
    );
    let mine = server.call(&Request::get("/v1/users/u7/claims")).json();
    assert_eq!(mine["claims"][0]["claim_id"], sale.acknowledged[7]["claim_id"]);
    let rows = server.ask_admin(&Request::get("/admin/v1/campaigns/sale/claims.csv")).text();
    assert_eq!(rows.lines().count(), 1_501);
    let text =
        "SELECT claim_id, campaign, user_id, quantity, amount, currency, status, seq FROM claims WHERE user_id = 'u0'";
    assert_eq!(scratch.sql(text), [[id, "sale", "u0", "1", "990", "CNY", "persisted", "2"]]);
    let add = Request::post("/v1/carts/u1/items", &json!({"sku": "s1", "op": "add", "quantity": 3}));
    assert_eq!(server.call(&add).status, 202);
    assert_eq!(server.call(&add).status, 202);
    let audit = sale.site.run(["audit"]);
    assert_eq!(audit.status.code(), Some(0), "beside the server: {}{}", stdout(&audit), stderr(&audit));
    sale.finish(server, |text| scratch.sql(text));
    assert_eq!(scratch.sql("SELECT user_id, sku, quantity FROM cart_items"), [["u1", "s1", "6"]]);
    let text = std::fs::read_to_string(sale.site.log()).unwrap();
    assert!(text.contains("fsync = off"), "what is weak about the server is named: {text}");
    let migrate = sale.site.run(["migrate"]);
    assert!(stdout(&migrate).contains("up to date"), "{}{}", stdout(&migrate), stderr(&migrate));
}

#[test]
fn claims_come_to_their_ends_and_buyers_claim_again() {
    let (scratch, mut sale) = fresh();
    let server = sale.begin();
    sale.sell(&server, 40);
    server.drained("sale");
    for (no, claim) in sale.acknowledged.iter().enumerate() {
        let what = if no % 2 == 0 { "settle" } else { "cancel" };
        assert_eq!(server.call(&end(claim, what)).status, 200);
    }
    assert_eq!(server.call(&claim("sale", "u1")).status, 202, "what was given back can be had again");
    crate::support::eventually("all is drained", || server.metric("forebay_buffer_entries") == Some(0.0));
    let balance = server.balance("sale");
    assert_eq!(["settled", "returned", "persisted"].map(|name| balance[name].as_u64().unwrap()), [20, 20, 1]);
    assert!(server.stop().success());
    let text = "SELECT status, count(*), count(hold), count(ended_seq) FROM claims GROUP BY status ORDER BY status";
    let expected = [["cancelled", "20", "0", "20"], ["persisted", "1", "1", "0"], ["settled", "20", "20", "20"]];
    assert_eq!(scratch.sql(text), expected);
    let audit = sale.site.run(["audit"]);
    assert_eq!(audit.status.code(), Some(0), "{}{}", stdout(&audit), stderr(&audit));
}

#[test]
fn a_killed_server_goes_on_where_it_was() {
    let (scratch, mut sale) = fresh();
    let mut server = sale.begin();
    for _ in 0..3 {
        sale.sell(&server, 700);
        server.kill();
        server = sale.site.start();
    }
    sale.sell(&server, 100);
    sale.finish(server, |text| scratch.sql(text));
}

#[test]
fn poison_rows_go_to_the_dead_letters_and_come_back() {
    let (scratch, mut sale) = fresh();
    let server = sale.begin();
    scratch.sql("ALTER TABLE claims ADD CONSTRAINT no_u5 CHECK (user_id NOT IN ('u5', 'u50'))");
    sale.sell(&server, 100);
    let balance = server.drained("sale");
    assert_eq!((&balance["persisted"], &balance["dead"]), (&json!(98), &json!(2)), "{balance}");
    let list = sale.site.run(["dead-letters", "list"]);
    assert!(stdout(&list).contains("no_u5"), "{}{}", stdout(&list), stderr(&list));
    scratch.sql("ALTER TABLE claims DROP CONSTRAINT no_u5");
    for id in ["1", "2"] {
        let done = sale.site.run(["dead-letters", "requeue", id]);
        assert!(done.status.success(), "{}{}", stdout(&done), stderr(&done));
    }
    sale.finish(server, |text| scratch.sql(text));
}

#[test]
fn a_wrong_pair_is_refused_and_recovered_and_one_process_has_the_database() {
    let (scratch, mut sale) = fresh();
    let server = sale.begin();
    sale.sell(&server, 50);
    server.drained("sale");
    let other = Site::new().text("store.url", &scratch.url());
    let (status, text) = other.refuse();
    assert!(status.code() == Some(1) && text.contains("one process at a time"), "{text}");
    assert!(text.contains(&format!("forebay process {}", server.pid())), "{text}");
    assert!(server.stop().success());
    let (status, text) = other.refuse();
    assert!(status.code() == Some(1) && text.contains("the wrong pair"), "{text}");
    // The journal is lost: a new one is made from the rows.
    std::fs::remove_dir_all(sale.site.journal()).unwrap();
    let (status, text) = sale.site.refuse();
    assert!(status.code() == Some(1) && text.contains("without its journal"), "{text}");
    assert!(text.contains(&scratch.name) && text.contains("entry 51"), "{text}");
    let told = sale.site.run(["recover", "--yes"]);
    assert_eq!(told.status.code(), Some(0), "{}{}", stdout(&told), stderr(&told));
    let server = sale.site.start();
    server.call(&claim("sale", "u0")).expect(409, "already-claimed");
    assert!(server.stop().success());
    let told = sale.site.run(["recover"]);
    assert!(stdout(&told).contains("nothing to recover"), "{}{}", stdout(&told), stderr(&told));
}

#[test]
fn a_strangers_database_is_set_aside_in_a_schema_of_its_own() {
    let (scratch, mut first) = fresh();
    let server = first.begin();
    first.sell(&server, 10);
    server.drained("sale");
    assert!(server.stop().success());
    let elsewhere = Postgres::scratch();
    let mut sale = Sale::on(&elsewhere.url());
    sale.site = sale.site.text("buffer.keep_journal", "24h");
    let server = sale.begin();
    sale.sell(&server, 20);
    server.drained("sale");
    assert!(server.stop().success());
    sale.site = sale.site.text("store.url", &scratch.url());
    let (status, text) = sale.site.refuse();
    assert!(status.code() == Some(1) && text.contains("belong to others"), "{text}");
    let told = sale.site.run(["recover", "--keep", "journal", "--yes"]);
    assert_eq!(told.status.code(), Some(0), "{}{}", stdout(&told), stderr(&told));
    let server = sale.site.start();
    sale.finish(server, |text| scratch.sql(text));
    let aside = scratch.sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'before_recover_%'");
    assert!(stdout(&told).contains(&aside[0][0]), "{}", stdout(&told));
    assert_eq!(scratch.sql(&format!("SELECT count(*) FROM {}.claims", aside[0][0])), [["10"]]);
}

#[test]
fn the_doctor_measures_the_configured_server_and_leaves_nothing_on_it() {
    let (scratch, sale) = fresh();
    let told = sale.site.run(["doctor", "--json", "--seconds", "1"]);
    let document: Value = serde_json::from_str(&stdout(&told)).unwrap_or_else(|e| panic!("{e}: {}", stderr(&told)));
    assert_eq!(told.status.code(), Some(1), "the tests' server does not sync: {document:#}");
    assert!(document["figures"]["rows"]["per_second"].as_f64().unwrap() > 0.0);
    assert!(document["figures"]["rows"]["bytes"].as_f64().unwrap() > 100.0, "{document:#}");
    let found = document["findings"].as_array().unwrap().iter().find(|f| f["check"] == "store-server").unwrap();
    assert!(found["severity"] == "danger" && found["what"].as_str().unwrap().contains("fsync"), "{found}");
    assert_eq!(scratch.sql("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'forebay%'"), [["0"]]);
}
