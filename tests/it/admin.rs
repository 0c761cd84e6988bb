//! The admin listener: campaigns and their changes, the balance, the export, and what machines ask.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::Request;
use crate::support::sale::{claim, claim_of, flash_sale, limited, red_packet};
use crate::support::{Site, within};

#[test]
fn creating_a_campaign_twice_is_one_campaign_and_a_different_one_is_refused() {
    let server = crate::shared();
    let sale = flash_sale("admin-twice", 10);
    let first = server.create(&sale);
    assert_eq!(first.header("location"), Some("/admin/v1/campaigns/admin-twice"));
    let again = server.ask_admin(&Request::post("/admin/v1/campaigns", &sale));
    assert_eq!((again.status, again.json()), (200, first.json()));
    let mut same = sale.clone();
    same["opens_at"] = json!("2020-01-01T08:00:00+08:00");
    assert_eq!(server.ask_admin(&Request::post("/admin/v1/campaigns", &same)).status, 200, "the same instant");
    let other = flash_sale("admin-twice", 11);
    server.ask_admin(&Request::post("/admin/v1/campaigns", &other)).expect(409, "campaign-exists");
    let shown = server.ask_admin(&Request::get("/admin/v1/campaigns/admin-twice"));
    assert_eq!((shown.status, &shown.json()["stock"]), (200, &json!(10)));
    let all = server.ask_admin(&Request::get("/admin/v1/campaigns")).json();
    assert!(all["campaigns"].as_array().unwrap().iter().any(|c| c["id"] == "admin-twice"));
}

#[test]
fn a_creation_is_retried_by_its_key_even_after_a_change() {
    let server = crate::shared();
    let create = |stock| Request::post("/admin/v1/campaigns", &flash_sale("admin-key", stock)).key("c1");
    assert_eq!(server.ask_admin(&create(10)).status, 201);
    assert_eq!(server.change("admin-key", &json!({"add_stock": 5})).status, 200);
    let again = server.ask_admin(&create(10));
    assert_eq!((again.status, &again.json()["stock"]), (200, &json!(15)));
    server.ask_admin(&create(11)).expect(422, "idempotency-key-reused");
}

#[test]
fn a_campaign_is_paused_opened_rewindowed_and_closed_for_good() {
    let server = crate::shared();
    server.create(&flash_sale("admin-states", 10));
    let mut version = 1;
    let mut change = |change: Value, state: &str| {
        let answer = server.change("admin-states", &change);
        let campaign = answer.json();
        assert_eq!((answer.status, campaign["state"].as_str()), (200, Some(state)), "{change}: {campaign}");
        assert!(campaign["version"].as_i64().unwrap() >= version, "{campaign}");
        version = campaign["version"].as_i64().unwrap();
    };
    change(json!({"state": "paused"}), "paused");
    change(json!({"state": "open"}), "open");
    change(json!({"opens_at": "2098-01-01T00:00:00Z"}), "scheduled");
    change(json!({"opens_at": "2020-01-01T00:00:00Z", "closes_at": "2020-02-01T00:00:00Z"}), "ended");
    change(json!({"closes_at": "2099-01-01T00:00:00+02:00"}), "open");
    server.claimed("admin-states", "u1");
    change(json!({"state": "closed"}), "closed");
    change(json!({"state": "closed"}), "closed");
    for after in [json!({"state": "open"}), json!({"state": "paused"}), json!({"add_stock": 1})] {
        let refused = server.change("admin-states", &after);
        assert_eq!(refused.expect(409, "wrong-state").field("state"), "closed", "{after}");
    }
    server.call(&claim("admin-states", "u2")).expect(409, "ended");
}

#[test]
fn a_retried_restock_counts_once() {
    let server = crate::shared();
    server.create(&flash_sale("admin-restock", 10));
    let restock =
        |add: i64| Request::patch("/admin/v1/campaigns/admin-restock", &json!({ "add_stock": add })).key("night-1");
    for _ in 0..3 {
        let answer = server.ask_admin(&restock(5));
        assert_eq!((answer.status, &answer.json()["stock"]), (200, &json!(15)));
    }
    server.ask_admin(&restock(6)).expect(422, "idempotency-key-reused");
    let balance = server.balance("admin-restock");
    assert_eq!((&balance["stock"], &balance["free"]), (&json!(15), &json!(15)));
    assert_eq!(server.change("admin-restock", &json!({"add_stock": 5})).json()["stock"], 20, "without a key it counts");
}

#[test]
fn stock_is_taken_back_down_to_what_is_free_and_no_further() {
    let server = crate::shared();
    server.create(&flash_sale("admin-back", 10));
    (0..4).for_each(|no| drop(server.claimed("admin-back", &format!("u{no}"))));
    let refused = server.change("admin-back", &json!({"add_stock": -7}));
    assert_eq!(refused.expect(400, "invalid-request").field("field"), "add_stock");
    let taken = server.change("admin-back", &json!({"add_stock": -6})).json();
    assert_eq!((&taken["stock"], &taken["free"], &taken["stock_version"]), (&json!(4), &json!(0), &json!(2)));
    assert_eq!(server.call(&claim("admin-back", "late")).expect(409, "sold-out").json()["stock_version"], 2);
}

#[test]
fn a_red_packet_grows_by_shares_and_money_together() {
    let server = crate::shared();
    server.create(&red_packet("admin-packet", 3, 30));
    let grown = server.change("admin-packet", &json!({"add_stock": 2, "add_total": 70}));
    assert_eq!((grown.status, &grown.json()["stock"]), (200, &json!(5)), "{}", grown.text());
    let sum: i64 = (0..5).map(|no| server.claimed("admin-packet", &format!("u{no}"))["amount"].as_i64().unwrap()).sum();
    assert_eq!(sum, 100);
    let balance = server.drained("admin-packet");
    assert_eq!(balance["money"]["stock"], 100);
    assert_eq!(balance["money"]["persisted"], 100);
}

#[test]
fn the_balance_names_every_place_where_a_unit_can_be() {
    let server = crate::shared();
    server.create(&limited("admin-balance", 10, 3));
    assert_eq!(server.call(&claim_of("admin-balance", "u1", 3).key("k")).status, 202);
    let balance = server.drained("admin-balance");
    let units = json!({"stock": 10, "free": 7, "accepted": 0, "persisted": 3, "settled": 0, "returned": 0, "dead": 0,
        "error": 0});
    for (name, value) in units.as_object().unwrap() {
        assert_eq!(&balance[name], value, "{name} in {balance}");
        assert!(balance["money"].get(name).is_some(), "money.{name} in {balance}");
    }
    assert_eq!(balance["campaign"], "admin-balance");
    assert_eq!(balance["money"]["persisted"], 2970);
}

#[test]
fn the_export_has_a_line_a_claim() {
    let server = crate::shared();
    server.create(&limited("admin-csv", 2_000, 1_000));
    for no in 0..600 {
        assert_eq!(server.call(&claim_of("admin-csv", "u1", 1).key(&format!("k{no}"))).status, 202);
    }
    server.drained("admin-csv");
    let answer = server.ask_admin(&Request::get("/admin/v1/campaigns/admin-csv/claims.csv"));
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("text/csv"), "{:?}", answer.headers);
    let text = answer.text();
    let mut lines = text.lines();
    let columns: Vec<_> = lines.next().unwrap().split(',').collect();
    for column in ["claim_id", "campaign", "quantity", "amount", "currency", "status", "seq", "accepted_at"] {
        assert!(columns.contains(&column), "{column} in {columns:?}");
    }
    let id = columns.iter().position(|c| *c == "claim_id").unwrap();
    let ids: std::collections::HashSet<_> = lines.map(|l| l.split(',').nth(id).unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 600);
}

#[test]
fn who_did_what_is_written_down() {
    let site = Site::new();
    let server = site.start();
    let by = |request: Request, name: &str| server.ask_admin(&request.header("X-Forebay-Actor", name)).status;
    assert_eq!(by(Request::post("/admin/v1/campaigns", &flash_sale("log", 10)), "ada"), 201);
    assert_eq!(by(Request::patch("/admin/v1/campaigns/log", &json!({"state": "paused"})), "bob"), 200);
    let log = within(Duration::from_secs(20), "the log is in the database", || {
        let rows = site.sql("SELECT by, action, campaign FROM campaign_log ORDER BY seq");
        (rows.len() == 2).then_some(rows)
    });
    assert_eq!(log, [["ada", "created", "log"], ["bob", "changed", "log"]]);
}

#[test]
fn machines_are_told_that_it_lives_is_ready_and_what_it_is() {
    let server = crate::shared();
    for path in ["/livez", "/readyz"] {
        let answer = server.ask_admin(&Request::get(path));
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("x-request-id").is_some(), "{path}");
    }
    let version = server.ask_admin(&Request::get("/version")).json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_metrics_have_the_contracts_names_and_no_buyers() {
    let server = crate::shared();
    server.create(&flash_sale("admin-metrics", 10));
    server.claimed("admin-metrics", "metric-buyer");
    server.call(&claim("admin-metrics", "metric-buyer")).expect(409, "already-claimed");
    server.call(&claim("nowhere", "metric-buyer")).expect(404, "unknown-campaign");
    server.drained("admin-metrics");
    let text = server.ask_admin(&Request::get("/metrics")).text();
    for name in [
        "claims_total{",
        "refusals_total{",
        "ack_seconds_bucket",
        "ack_seconds_count",
        "commit_batch_entries",
        "journal_sync_seconds",
        "journal_bytes",
        "buffer_entries",
        "buffer_oldest_age_seconds",
        "drain_rows_total",
        "drain_batch_seconds",
        "drain_retries_total",
        "dead_letters",
        "stock_free{",
        "conservation_error{",
        "cache_requests_total{",
        "connections",
        "limiter_keys",
        "fenced",
        "build_info",
    ] {
        let name = format!("forebay_{name}");
        assert!(text.lines().any(|l| l.starts_with(&name)), "{name} is not in\n{text}");
    }
    assert!(!text.contains("metric-buyer"), "a buyer is in the metrics");
    let metric = |name: &str| server.metric(name);
    assert_eq!(metric("forebay_claims_total{campaign=\"admin-metrics\",outcome=\"accepted\"}"), Some(1.0));
    assert_eq!(metric("forebay_claims_total{campaign=\"admin-metrics\",outcome=\"already-claimed\"}"), Some(1.0));
    assert_eq!(metric("forebay_stock_free{campaign=\"admin-metrics\"}"), Some(9.0));
    assert_eq!(metric("forebay_conservation_error{campaign=\"admin-metrics\"}"), Some(0.0));
    assert_eq!(metric("forebay_fenced"), Some(0.0));
    assert!(metric("forebay_refusals_total{reason=\"unknown-campaign\"}").unwrap() >= 1.0);
    assert!(metric("forebay_drain_rows_total").unwrap() >= 1.0);
    assert!(metric("forebay_ack_seconds_count").unwrap() >= 1.0);
}
