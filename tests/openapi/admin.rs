//! Campaigns on the admin listener, and what machines ask there.

use serde_json::json;

use crate::held::Held;
use crate::support::http::Request;
use crate::support::sale::{claim, flash_sale, red_packet};
use crate::support::{Server, Site};

const ALL: &str = "/admin/v1/campaigns";

pub fn campaigns(held: &Held) {
    let site = Site::new();
    let server = site.start();
    create(held, &server);
    change(held, &server);
    for user in ["u1", "u2", "u3"] {
        server.claimed("sale", user);
        server.claimed("packet", user);
    }
    server.drained("sale");
    server.drained("packet");
    read(held, &server);
    for (id, path) in [("live", "/livez"), ("ready", "/readyz"), ("metrics", "/metrics"), ("version", "/version")] {
        held.ask(&server, id, &Request::get(path), 200, "");
    }
}

fn create(held: &Held, server: &Server) {
    let sale = flash_sale("sale", 100);
    let create = |request: Request, status, slug| held.ask(server, "createCampaign", &request, status, slug);
    let post = |body: &str| Request::new("POST", ALL).body("application/json", body);
    let new = create(Request::post(ALL, &sale).key("k1").header("X-Forebay-Actor", "ada"), 201, "");
    assert_eq!(new.header("location"), Some("/admin/v1/campaigns/sale"));
    create(Request::post(ALL, &sale), 200, "");
    create(Request::post(ALL, &flash_sale("sale", 101)), 409, "campaign-exists");
    create(Request::post(ALL, &flash_sale("sale", 101)).key("k1"), 422, "idempotency-key-reused");
    create(Request::post(ALL, &red_packet("packet", 10, 1_000)), 201, "");
    let mut even = red_packet("even", 10, 1_000);
    even["red_packet"] = json!({"total": 1_000, "min": 50, "max": 150, "split": "even"});
    create(Request::post(ALL, &even), 201, "");
    create(Request::post(ALL, &sale).header("X-Forebay-Actor", "a b"), 400, "invalid-request");
    create(post("{"), 400, "invalid-request");
    create(post(&" ".repeat(65 * 1024)), 413, "too-large");
    create(Request::new("POST", ALL).body("text/plain", "{}"), 415, "unsupported-media-type");
}

fn change(held: &Held, server: &Server) {
    let one = |id: &str| format!("{ALL}/{id}");
    let change = |request: Request, status, slug| held.ask(server, "changeCampaign", &request, status, slug);
    let restock = json!({"add_stock": 5});
    let first = change(Request::patch(&one("sale"), &restock).key("r1"), 200, "");
    let again = change(Request::patch(&one("sale"), &restock).key("r1"), 200, "");
    assert_eq!((&first.json()["stock"], &again.json()["stock"]), (&json!(105), &json!(105)));
    change(Request::patch(&one("sale"), &json!({"add_stock": 6})).key("r1"), 422, "idempotency-key-reused");
    change(Request::patch(&one("packet"), &json!({"add_stock": 5, "add_total": 500})), 200, "");
    let window = json!({"opens_at": "2020-01-02T00:00:00+08:00", "closes_at": "2098-01-01T00:00:00Z", "state": null});
    change(Request::patch(&one("sale"), &window), 200, "");
    change(Request::patch(&one("sale"), &json!({})), 400, "invalid-request");
    change(Request::patch(&one("nowhere"), &restock), 404, "unknown-campaign");
    change(Request::patch(&one("even"), &json!({"state": "closed"})), 200, "");
    change(Request::patch(&one("even"), &json!({"state": "open"})), 409, "wrong-state");
    let body = |media: &str, body: String| Request::new("PATCH", &one("sale")).body(media, body);
    change(body("application/json", " ".repeat(65 * 1024)), 413, "too-large");
    change(body("text/plain", "{}".into()), 415, "unsupported-media-type");
}

fn read(held: &Held, server: &Server) {
    held.ask(server, "adminReadCampaigns", &Request::get(ALL), 200, "");
    for campaign in ["sale", "packet", "even"] {
        let path = format!("{ALL}/{campaign}");
        let answer = held.ask(server, "adminReadCampaign", &Request::get(&path), 200, "");
        let tag = answer.header("etag").expect("checked before");
        held.ask(server, "adminReadCampaign", &Request::get(&path).header("If-None-Match", tag), 304, "");
        held.ask(server, "readBalance", &Request::get(&format!("{path}/balance")), 200, "");
        let export = held.ask(server, "exportClaims", &Request::get(&format!("{path}/claims.csv")), 200, "");
        let lines = if campaign == "even" { 1 } else { 4 };
        assert_eq!(export.text().lines().count(), lines, "{}", export.text());
    }
    for (id, path) in [("adminReadCampaign", ""), ("readBalance", "/balance"), ("exportClaims", "/claims.csv")] {
        for campaign in ["nowhere", "%ff", "%20"] {
            held.ask(server, id, &Request::get(&format!("{ALL}/{campaign}{path}")), 404, "unknown-campaign");
        }
    }
    server.call(&claim("even", "u")).expect(409, "ended");
}
