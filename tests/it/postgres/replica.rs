//! Reads from a replica: nobody is told less than somebody was told before, however far behind it is.

use rustix::process::Signal;
use serde_json::json;

use super::Sale;
use crate::support::eventually;
use crate::support::http::Request;
use crate::support::postgres::Postgres;
use crate::support::sale::end;

#[test]
fn a_replica_is_read_as_far_as_it_is_and_never_unsays_anything() {
    let postgres = Postgres::start(&[]);
    postgres.sql("postgres", "CREATE DATABASE shop");
    let mut replica = postgres.replica();
    let mut sale = Sale::on(&postgres.url("shop"));
    sale.site = sale.site.text("store.replica_url", &replica.url("shop")).text("cache.local_ttl", "0s");
    let server = sale.begin();
    sale.sell(&server, 20);
    server.drained("sale");
    let show = |no: usize| {
        let id = sale.acknowledged[no]["claim_id"].as_str().unwrap();
        server.call(&Request::get(&format!("/v1/claims/{id}"))).json()["status"].as_str().unwrap_or("none").to_owned()
    };
    let readers = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'forebay%'";
    eventually("the replica is read", || {
        assert_eq!(show(0), "persisted");
        replica.sql("postgres", readers) != [["0"]]
    });
    // It stands still: what becomes of claims from here on only the database itself knows.
    replica.sql("postgres", "SELECT pg_wal_replay_pause()");
    eventually("the replica stands still", || {
        replica.sql("postgres", "SELECT pg_get_wal_replay_pause_state()") == [["paused"]]
    });
    for no in 0..10 {
        assert_eq!(server.call(&end(&sale.acknowledged[no], "settle")).status, 200);
        assert_eq!(show(no), "settled");
    }
    let add = Request::post("/v1/carts/u1/items", &json!({"sku": "s1", "op": "add", "quantity": 2}));
    assert_eq!(server.call(&add).status, 202);
    eventually("all is drained", || server.metric("forebay_buffer_entries") == Some(0.0));
    for no in 0..20 {
        assert_eq!(show(no), if no < 10 { "settled" } else { "persisted" });
    }
    assert_eq!(server.call(&Request::get("/v1/carts/u1")).json()["items"], json!([{"sku": "s1", "quantity": 2}]));
    assert_eq!(replica.sql("shop", "SELECT count(*) FROM claims WHERE status = 'settled'"), [["0"]], "it is behind");
    replica.sql("postgres", "SELECT pg_wal_replay_resume()");
    eventually("it has come after", || {
        replica.sql("shop", "SELECT count(*) FROM claims WHERE status = 'settled'") == [["10"]]
    });
    assert_eq!(show(3), "settled");
    // It does not answer, though its port does: that costs one reader a moment.
    replica.signal(Signal::STOP);
    for no in 0..20 {
        assert_eq!(show(no), if no < 10 { "settled" } else { "persisted" });
    }
    replica.signal(Signal::CONT);
    // And gone for good.
    replica.crash();
    for no in 0..20 {
        assert_eq!(show(no), if no < 10 { "settled" } else { "persisted" });
    }
    assert!(server.stop().success());
    let audit = sale.site.run(["audit"]);
    assert_eq!(audit.status.code(), Some(0), "{}", crate::support::stdout(&audit));
}
