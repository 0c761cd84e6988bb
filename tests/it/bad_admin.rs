//! Campaigns that could never be run, and changes that can't be made: refused by the name of the field, nothing kept.

use serde_json::{Value, json};

use crate::support::http::Request;
use crate::support::sale::{flash_sale, red_packet};

/// `base` with `change` laid over it; null takes nothing away, it is a value.
fn with(mut base: Value, change: Value) -> Value {
    for (name, value) in change.as_object().expect("an object") {
        base[name] = value.clone();
    }
    base
}

fn without(mut base: Value, name: &str) -> Value {
    base.as_object_mut().expect("an object").remove(name);
    base
}

fn campaigns() -> Vec<(&'static str, Value, &'static str)> {
    let sale = || flash_sale("never", 10);
    let packet = |p: Value| with(red_packet("never", 10, 1_000), json!({ "red_packet": p }));
    let huge = 9_007_199_254_740_991_i64;
    vec![
        ("no object", json!([]), ""),
        ("null", json!(null), ""),
        ("id missing", without(sale(), "id"), "id"),
        ("id null", with(sale(), json!({"id": null})), "id"),
        ("id empty", with(sale(), json!({"id": ""})), "id"),
        ("id with a slash", with(sale(), json!({"id": "a/b"})), "id"),
        ("id too long", with(sale(), json!({"id": "c".repeat(65)})), "id"),
        ("kind missing", without(sale(), "kind"), "kind"),
        ("kind unknown", with(sale(), json!({"kind": "auction"})), "kind"),
        ("kind a number", with(sale(), json!({"kind": 1})), "kind"),
        ("title too long", with(sale(), json!({"title": "t".repeat(201)})), "title"),
        ("title a number", with(sale(), json!({"title": 1})), "title"),
        ("opens_at missing", without(sale(), "opens_at"), "opens_at"),
        ("opens_at without an offset", with(sale(), json!({"opens_at": "2026-11-20T12:00:00"})), "opens_at"),
        ("opens_at of another century", with(sale(), json!({"opens_at": "+99999-01-01T00:00:00Z"})), "opens_at"),
        ("opens_at on February 30", with(sale(), json!({"opens_at": "2026-02-30T00:00:00Z"})), "opens_at"),
        ("opens_at a number", with(sale(), json!({"opens_at": 1_700_000_000})), "opens_at"),
        ("closes_at missing", without(sale(), "closes_at"), "closes_at"),
        ("closes_at before opens_at", with(sale(), json!({"closes_at": "2019-01-01T00:00:00Z"})), "closes_at"),
        ("closes_at at opens_at", with(sale(), json!({"closes_at": "2020-01-01T00:00:00Z"})), "closes_at"),
        ("limit 0", with(sale(), json!({"per_user_limit": 0})), "per_user_limit"),
        ("limit negative", with(sale(), json!({"per_user_limit": -1})), "per_user_limit"),
        ("limit 1,001", with(sale(), json!({"per_user_limit": 1_001})), "per_user_limit"),
        ("limit a fraction", with(sale(), json!({"per_user_limit": 1.5})), "per_user_limit"),
        ("stock missing", without(sale(), "stock"), "stock"),
        ("stock null", with(sale(), json!({"stock": null})), "stock"),
        ("stock 0", with(sale(), json!({"stock": 0})), "stock"),
        ("stock negative", with(sale(), json!({"stock": -5})), "stock"),
        ("stock a text", with(sale(), json!({"stock": "10"})), "stock"),
        ("stock a fraction", with(sale(), json!({"stock": 10.5})), "stock"),
        ("stock beyond 32 bits", with(sale(), json!({"stock": 4_294_967_296_i64, "price": 1})), "stock"),
        ("stock that memory can't hold", with(sale(), json!({"stock": 4_294_967_295_i64, "price": 1})), "stock"),
        ("price negative", with(sale(), json!({"price": -1})), "price"),
        ("price a fraction", with(sale(), json!({"price": 9.9})), "price"),
        ("price × stock overflows", with(sale(), json!({"price": huge})), "price"),
        ("price beyond 64 bits", with(sale(), json!({"price": 1e30})), "price"),
        ("price without a currency", with(sale(), json!({"currency": null})), "currency"),
        ("currency in small letters", with(sale(), json!({"currency": "cny"})), "currency"),
        ("currency of four letters", with(sale(), json!({"currency": "CNYX"})), "currency"),
        ("a packet in a sale", with(sale(), json!({"red_packet": {"total": 1}})), "red_packet"),
        ("check_in in a sale", with(sale(), json!({"check_in": {"points": 1, "time_zone": "UTC"}})), "check_in"),
        ("check_in without a zone", with(sale(), json!({"check_in": {"points": 10}})), "check_in.time_zone"),
        ("unknown field", with(sale(), json!({"discount": 5})), "discount"),
        ("state at creation", with(sale(), json!({"state": "paused"})), "state"),
        ("packet missing", without(red_packet("never", 10, 100), "red_packet"), "red_packet"),
        ("packet with a price", with(red_packet("never", 10, 100), json!({"price": 5})), "price"),
        ("packet without a currency", without(red_packet("never", 10, 100), "currency"), "currency"),
        ("packet without a total", packet(json!({"min": 1})), "red_packet.total"),
        (
            "a packet as a list",
            with(red_packet("never", 10, 100), json!({"red_packet": [100, 1, null, "even"]})),
            "red_packet",
        ),
        ("total 0", packet(json!({"total": 0})), "red_packet.total"),
        ("total negative", packet(json!({"total": -100})), "red_packet.total"),
        ("total beyond 2^53", packet(json!({"total": huge + 1})), "red_packet.total"),
        ("less than a minor unit a share", packet(json!({"total": 9})), "red_packet.min"),
        ("min × shares above the total", packet(json!({"total": 1_000, "min": 101})), "red_packet.min"),
        ("min 0", packet(json!({"total": 1_000, "min": 0})), "red_packet.min"),
        ("min negative", packet(json!({"total": 1_000, "min": -1})), "red_packet.min"),
        ("max × shares below the total", packet(json!({"total": 1_000, "max": 99})), "red_packet.max"),
        ("max below min", packet(json!({"total": 1_000, "min": 50, "max": 49})), "red_packet.max"),
        ("split unknown", packet(json!({"total": 1_000, "split": "fair"})), "red_packet.split"),
        ("packet's unknown field", packet(json!({"total": 1_000, "seed": 1})), "red_packet.seed"),
    ]
}

fn titles() -> impl Iterator<Item = (&'static str, Value, &'static str)> {
    let of = |(name, title)| (name, with(flash_sale("never", 10), json!({ "title": title })), "title");
    [("title with a line break", "a\nsale"), ("title with a NUL", "a\0sale")].into_iter().map(of)
}

#[test]
fn an_unsound_campaign_is_refused_by_the_name_of_the_field() {
    let server = crate::shared();
    let mut wrong = Vec::new();
    for (name, body, field) in campaigns().into_iter().chain(titles()) {
        let answer = server.ask_admin(&Request::post("/admin/v1/campaigns", &body));
        if answer.status != 400 || answer.slug() != "invalid-request" || answer.field("field") != field {
            wrong.push(format!("{name}: {} {}", answer.status, answer.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.ask_admin(&Request::get("/admin/v1/campaigns/never")).expect(404, "unknown-campaign");
}

#[test]
fn an_unsound_change_is_refused_and_changes_nothing() {
    let server = crate::shared();
    server.create(&flash_sale("bad-change", 10));
    server.create(&red_packet("bad-change-packet", 10, 1_000));
    let before = server.ask_admin(&Request::get("/admin/v1/campaigns/bad-change")).json();
    let sale = "bad-change";
    let packet = "bad-change-packet";
    let cases = [
        (sale, json!({}), ""),
        (sale, json!([]), ""),
        (sale, json!({"state": "ended"}), "state"),
        (sale, json!({"state": null, "stock": 5}), "stock"),
        (sale, json!({"state": 1}), "state"),
        (sale, json!({"state": {"paused": null}}), "state"),
        (sale, json!(["paused"]), ""),
        (sale, json!({"add_stock": "5"}), "add_stock"),
        (sale, json!({"add_stock": 1.5}), "add_stock"),
        (sale, json!({"add_stock": -11}), "add_stock"),
        (sale, json!({"add_stock": i64::MAX}), "add_stock"),
        (sale, json!({"add_stock": i64::MIN}), "add_stock"),
        (sale, json!({"add_stock": 1, "add_total": 100}), "add_total"),
        (sale, json!({"price": 1}), "price"),
        (sale, json!({"per_user_limit": 2}), "per_user_limit"),
        (sale, json!({"opens_at": "soon"}), "opens_at"),
        (sale, json!({"closes_at": "2019-01-01T00:00:00Z"}), "closes_at"),
        (sale, json!({"opens_at": "2100-01-01T00:00:00Z"}), "closes_at"),
        (packet, json!({"add_stock": 5}), "add_total"),
        (packet, json!({"add_stock": 1_000, "add_total": 1}), "add_total"),
    ];
    let mut wrong = Vec::new();
    for (campaign, change, field) in cases {
        let answer = server.change(campaign, &change);
        if answer.status != 400 || answer.slug() != "invalid-request" || answer.field("field") != field {
            wrong.push(format!("{change}: {} {}", answer.status, answer.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(server.ask_admin(&Request::get("/admin/v1/campaigns/bad-change")).json(), before);
}

#[test]
fn the_admin_listener_is_as_careful_with_paths_media_and_methods() {
    let server = crate::shared();
    let sale = flash_sale("never", 10).to_string();
    let post = |media: &str, body: &str| Request::new("POST", "/admin/v1/campaigns").body(media, body);
    let large = format!("{sale}{}", " ".repeat(64 * 1024));
    for (request, status, slug) in [
        (post("text/plain", &sale), 415, "unsupported-media-type"),
        (post("application/json", &large), 413, "too-large"),
        (post("application/json", &sale[..20]), 400, "invalid-request"),
        (post("application/json", "{\"id\":\"never\",\"id\":\"never\"}"), 400, "invalid-request"),
        (post("application/json", &sale).key("a b"), 400, "invalid-request"),
        (Request::new("PUT", "/admin/v1/campaigns"), 405, "method-not-allowed"),
        (Request::new("DELETE", "/admin/v1/campaigns/never"), 405, "method-not-allowed"),
        (Request::get("/admin/v1/campaigns/never"), 404, "unknown-campaign"),
        (Request::get("/admin/v1/campaigns/%20"), 404, "unknown-campaign"),
        (Request::get("/admin/v1/campaigns/never/balance"), 404, "unknown-campaign"),
        (Request::get("/admin/v1/campaigns/never/claims.csv"), 404, "unknown-campaign"),
        (Request::patch("/admin/v1/campaigns/never", &json!({"state": "paused"})), 404, "unknown-campaign"),
        (Request::get("/admin/v1/nothing"), 404, "not-found"),
        (Request::get("/v1/campaigns"), 404, "not-found"),
        (Request::post("/v1/campaigns/bad/claims", &json!({"user": "u"})), 404, "not-found"),
    ] {
        let answer = server.ask_admin(&request);
        assert_eq!((answer.status, answer.slug().as_str()), (status, slug), "{request:?}: {}", answer.text());
    }
    server.ask_admin(&Request::get("/admin/v1/campaigns/never")).expect(404, "unknown-campaign");
}
