//! Claims and reads of the public listener.

use serde_json::json;

use crate::held::Held;
use crate::support::http::Request;
use crate::support::sale::{batch, batch_for, claim, claim_of, flash_sale, limited, outcomes, red_packet, word};
use crate::support::{Server, Site};

pub fn claims_and_reads(held: &Held) {
    let site = Site::new().text("antiscalper.user_rate", "2/h");
    let server = site.start();
    server.create(&flash_sale("sale", 100));
    server.create(&red_packet("packet", 10, 1_000));
    let mut free = flash_sale("free", 10);
    (free["price"], free["currency"]) = (json!(null), json!(null));
    server.create(&free);
    accepted(held, &server);
    refused(held, &server);
    batches(held, &server);
    read_claims(held, &server);
    read_campaigns(held, &server);
}

fn accepted(held: &Held, server: &Server) {
    for campaign in ["sale", "packet", "free"] {
        let one = held.ask(server, "claim", &claim(campaign, &format!("{campaign}-winner")).key("k1"), 202, "");
        let again = held.ask(server, "claim", &claim(campaign, &format!("{campaign}-winner")).key("k1"), 202, "");
        assert_eq!((&one.body, again.header("idempotency-replayed")), (&again.body, Some("true")));
        assert_eq!(one.header("location"), Some(format!("/v1/claims/{}", one.field("claim_id")).as_str()));
        assert_eq!(one.header("idempotency-replayed"), None);
    }
}

fn refused(held: &Held, server: &Server) {
    let refuse = |request: Request, status, slug| held.ask(server, "claim", &request, status, slug);
    let post = |media: &str, body: String| Request::new("POST", "/v1/campaigns/sale/claims").body(media, body);
    refuse(claim("sale", "twice"), 202, "");
    refuse(claim("sale", "twice"), 409, "already-claimed");
    refuse(claim("sale", "twice"), 429, "rate-limited");
    refuse(claim("sale", "a b"), 400, "invalid-request");
    refuse(claim_of("sale", "u", 2), 400, "invalid-request");
    refuse(post("application/json", "{\"user\":\"u\",\"amount\":1}".into()), 400, "invalid-request");
    refuse(post("application/json", " ".repeat(17 * 1024)), 413, "too-large");
    refuse(post("text/plain", "{}".into()), 415, "unsupported-media-type");
    refuse(claim("nowhere", "u"), 404, "unknown-campaign");
    refuse(claim("%ff", "u"), 404, "unknown-campaign");
    server.create(&flash_sale("one", 1));
    refuse(claim("one", "first"), 202, "");
    refuse(claim("one", "second"), 409, "sold-out");
    let mut later = flash_sale("later", 1);
    later["opens_at"] = "2098-01-01T00:00:00Z".into();
    server.create(&later);
    let answer = refuse(claim("later", "u"), 409, "not-open");
    assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
    let mut past = flash_sale("past", 1);
    past["closes_at"] = "2020-01-02T00:00:00Z".into();
    server.create(&past);
    refuse(claim("past", "u"), 409, "ended");
    server.create(&flash_sale("held", 1));
    server.change("held", &json!({"state": "paused"}));
    refuse(claim("held", "u"), 409, "paused");
    server.create(&limited("three", 10, 3));
    refuse(claim("three", "u"), 400, "invalid-request");
    refuse(claim_of("three", "buyer", 1).key("k"), 202, "");
    refuse(claim_of("three", "buyer", 2).key("k"), 422, "idempotency-key-reused");
}

fn batches(held: &Held, server: &Server) {
    let ask = |request: Request, words: &[&str]| {
        let answer = held.ask(server, "claimBatch", &request, 200, "");
        assert_eq!(outcomes(&answer).iter().map(word).collect::<Vec<_>>(), words, "{}", answer.text());
    };
    let claims = json!([
        {"user": "b1", "idempotency_key": "k"}, {"user": "b1", "idempotency_key": "k"}, {"user": "b1"}, {"user": "b2"},
        {"user": "b2"}, {"user": "a b"}, {"user": "b3", "quantity": 0}, {"user": "b3", "idempotency_key": ""},
    ]);
    let mixed = ["claimed", "replayed", "rate-limited", "claimed", "already-claimed"];
    ask(batch("sale", &claims), &[&mixed[..], &["invalid-request"; 3][..]].concat());
    ask(batch_for("packet", "p", 2), &["claimed", "claimed"]);
    ask(batch_for("free", "p", 1), &["claimed"]);
    let reused = json!([{"user": "b4", "idempotency_key": "k"}, {"user": "b4", "quantity": 2, "idempotency_key": "k"}]);
    ask(batch("three", &reused), &["claimed", "idempotency-key-reused"]);
    for (campaign, slug) in [("one", "sold-out"), ("later", "not-open"), ("past", "ended"), ("held", "paused")] {
        ask(batch_for(campaign, "b", 1), &[slug]);
    }
    let refuse = |request: Request, status, slug| held.ask(server, "claimBatch", &request, status, slug);
    let post = |media: &str, body: String| Request::new("POST", "/v1/campaigns/sale/claims:batch").body(media, body);
    refuse(batch("sale", &json!([])), 400, "invalid-request");
    refuse(batch_for("sale", "c", 1).key("k"), 400, "invalid-request");
    refuse(post("application/json", " ".repeat(257 * 1024)), 413, "too-large");
    refuse(post("text/plain", "{}".into()), 415, "unsupported-media-type");
    refuse(batch_for("nowhere", "c", 1), 404, "unknown-campaign");
}

fn read_claims(held: &Held, server: &Server) {
    let read = |path: &str, status, slug| held.ask(server, "readClaim", &Request::get(path), status, slug);
    // A buyer has two requests here.
    for (campaign, user) in [("sale", "reader"), ("packet", "reader"), ("free", "another")] {
        let id = server.call(&claim(campaign, user)).field("claim_id");
        let path = format!("/v1/claims/{id}");
        let known = Request::get(&format!("{path}?wait=30")).header("If-None-Match", "\"1\"");
        let answer = held.ask(server, "readClaim", &known, 200, "");
        assert_eq!((answer.header("etag"), answer.field("status").as_str()), (Some("\"2\""), "persisted"));
        held.ask(server, "readClaim", &Request::get(&path).header("If-None-Match", "\"2\""), 304, "");
    }
    read("/v1/claims/nothing", 404, "unknown-claim");
    read("/v1/claims/0192f0c1-7d2e-8c3a-8f00-3a6b1c2d4e5f", 404, "unknown-claim");
    read("/v1/claims/0192f0c1-7d2e-8c3a-8f00-3a6b1c2d4e5f?wait=31", 400, "invalid-request");
    read("/v1/claims/%ff", 404, "not-found");
    let list = |path: &str, status, slug| held.ask(server, "readClaimsOfUser", &Request::get(path), status, slug);
    let first = list("/v1/users/reader/claims?limit=1", 200, "");
    let cursor = first.field("next_cursor");
    let second = list(&format!("/v1/users/reader/claims?limit=1&cursor={cursor}"), 200, "");
    assert_ne!(first.json()["claims"][0]["seq"], second.json()["claims"][0]["seq"]);
    list("/v1/users/nobody/claims", 200, "");
    for bad in ["/v1/users/a%20b/claims", "/v1/users/u/claims?limit=0", "/v1/users/u/claims?cursor=x"] {
        list(bad, 400, "invalid-request");
    }
    list("/v1/users/%ff/claims", 404, "not-found");
}

fn read_campaigns(held: &Held, server: &Server) {
    let all = held.ask(server, "readCampaigns", &Request::get("/v1/campaigns"), 200, "");
    let tag = all.header("etag").expect("checked before").to_owned();
    held.ask(server, "readCampaigns", &Request::get("/v1/campaigns").header("If-None-Match", &tag), 304, "");
    for campaign in all.json()["campaigns"].as_array().expect("checked before") {
        let path = format!("/v1/campaigns/{}", campaign["id"].as_str().expect("checked before"));
        let one = held.ask(server, "readCampaign", &Request::get(&path), 200, "");
        assert_eq!(&one.json(), campaign);
        let tag = one.header("etag").expect("checked before");
        held.ask(server, "readCampaign", &Request::get(&path).header("If-None-Match", tag), 304, "");
    }
    held.ask(server, "readCampaign", &Request::get("/v1/campaigns/nowhere"), 404, "unknown-campaign");
    held.ask(server, "readCampaign", &Request::get("/v1/campaigns/%ff"), 404, "not-found");
}
