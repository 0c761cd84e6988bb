//! Reads: a claim with its long poll, campaigns and their tags, a buyer's claims page by page.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::{Answer, Request};
use crate::support::sale::{claim_of, flash_sale, limited};
use crate::support::sql::Lock;
use crate::support::{Server, Site, within};

fn read(server: &Server, id: &Value, query: &str) -> Answer {
    let id = id.as_str().expect("a claim's id");
    server.call(&Request::get(&format!("/v1/claims/{id}{query}")))
}

#[test]
fn a_claim_becomes_persisted_and_its_tag_tells() {
    let server = crate::shared();
    server.create(&flash_sale("reads-claim", 10));
    let claim = server.claimed("reads-claim", "u1");
    let id = &claim["claim_id"];
    let persisted = read(server, id, "?wait=30");
    assert_eq!((persisted.status, persisted.field("status")), (200, "persisted".to_owned()));
    let mut expected = claim.clone();
    (expected["status"], expected["version"]) = (json!("persisted"), json!(2));
    assert_eq!(persisted.json(), expected, "nothing else changes, the receipt included");
    let tag = persisted.header("etag").expect("a tag").to_owned();
    let path = format!("/v1/claims/{}", id.as_str().unwrap());
    let same = server.call(&Request::get(&path).header("If-None-Match", &tag));
    assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some(tag.as_str())));
    let other = server.call(&Request::get(&path).header("If-None-Match", "\"other\""));
    assert_eq!(other.status, 200);
    let start = Instant::now();
    let ended = server.call(&Request::get(&format!("{path}?wait=2")).header("If-None-Match", &tag));
    assert_eq!(ended.status, 304, "a wait ends with the state as it is");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_long_poll_ends_when_the_row_is_there_and_not_before() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("poll", 10));
    server.drained("poll");
    let lock = Lock::take(&site.database());
    let claim = server.claimed("poll", "u1");
    let id = &claim["claim_id"];
    let now = read(&server, id, "");
    assert_eq!((now.status, now.field("status")), (200, "accepted".to_owned()), "what is not persisted is readable");
    assert_eq!(now.json(), claim);
    let held = read(&server, id, "?wait=1");
    assert_eq!(held.field("status"), "accepted", "the wait is over, the row is not there");
    std::thread::scope(|scope| {
        let start = Instant::now();
        let waiting = scope.spawn(|| read(&server, id, "?wait=30"));
        let path = format!("/v1/claims/{}?wait=30", id.as_str().unwrap());
        let request = Request::get(&path).header("If-None-Match", now.header("etag").unwrap());
        let server = &server;
        let tagged = scope.spawn(move || server.call(&request));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!waiting.is_finished() && !tagged.is_finished(), "there is nothing to tell yet");
        lock.release();
        for answer in [waiting.join().unwrap(), tagged.join().unwrap()] {
            assert_eq!((answer.status, answer.field("status")), (200, "persisted".to_owned()));
        }
        assert!(start.elapsed() < Duration::from_secs(25), "it did not come with the row but with the end of the wait");
    });
    assert_eq!(site.number("SELECT count(*) FROM claims"), 1);
}

#[test]
fn a_campaign_shows_its_state_and_its_tag_changes_with_it() {
    let server = crate::shared();
    server.create(&flash_sale("reads-sale", 10));
    let path = "/v1/campaigns/reads-sale";
    let first = server.call(&Request::get(path));
    let campaign = first.json();
    for (name, value) in [
        ("id", json!("reads-sale")),
        ("kind", json!("flash_sale")),
        ("title", json!("a sale")),
        ("per_user_limit", json!(1)),
        ("stock", json!(10)),
        ("currency", json!("CNY")),
        ("price", json!(990)),
        ("red_packet", Value::Null),
        ("check_in", Value::Null),
        ("reservation_ttl", Value::Null),
        ("state", json!("open")),
        ("free", json!(10)),
        ("stock_version", json!(1)),
        ("version", json!(1)),
    ] {
        assert_eq!(campaign[name], value, "{name}");
    }
    let opens_at = first.field("opens_at");
    assert!(opens_at.starts_with("2020-01-01T00:00:00") && opens_at.ends_with('Z'), "{opens_at}");
    let tag = first.header("etag").unwrap().to_owned();
    let unchanged = server.call(&Request::get(path).header("If-None-Match", &tag));
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    server.claimed("reads-sale", "u1");
    let later = within(Duration::from_secs(10), "the sale shows one unit less", || {
        let answer = server.call(&Request::get(path).header("If-None-Match", &tag));
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(later.json()["free"], 9);
    let all = server.call(&Request::get("/v1/campaigns"));
    let listed = all.json()["campaigns"].as_array().unwrap().iter().any(|c| c["id"] == "reads-sale");
    assert!(all.status == 200 && listed && all.header("etag").is_some());
}

#[test]
fn a_buyers_claims_come_newest_first_page_by_page() {
    let server = crate::shared();
    server.create(&limited("reads-many", 1_000, 100));
    let nobody = server.call(&Request::get("/v1/users/reads-nobody/claims"));
    assert_eq!((nobody.status, nobody.json()), (200, json!({"claims": [], "next_cursor": null})));
    let mut seqs = Vec::new();
    for no in 0..25 {
        let answer = server.call(&claim_of("reads-many", "reads-buyer", 1).key(&format!("k{no}")));
        assert_eq!(answer.status, 202, "{}", answer.text());
        seqs.insert(0, answer.json()["seq"].as_u64().unwrap());
    }
    let mut found = Vec::new();
    let mut path = "/v1/users/reads-buyer/claims?limit=10".to_owned();
    let mut pages = 0;
    loop {
        let page = server.call(&Request::get(&path)).json();
        let claims = page["claims"].as_array().unwrap();
        assert!(claims.len() <= 10);
        assert!(claims.iter().all(|c| c["user"] == "reads-buyer" && c["receipt"].is_string()), "{page}");
        found.extend(claims.iter().map(|c| c["seq"].as_u64().unwrap()));
        pages += 1;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/users/reads-buyer/claims?limit=10&cursor={cursor}");
    }
    assert_eq!((found, pages), (seqs.clone(), 3));
    let all = server.call(&Request::get("/v1/users/reads-buyer/claims")).json();
    assert_eq!(all["claims"].as_array().unwrap().len(), 25, "40 are a page where none is asked for");
    assert_eq!(all["claims"][0]["seq"], seqs[0]);
}

#[test]
fn a_buyer_sees_what_it_was_told_before_any_row_is_written() {
    let site = Site::new();
    let server = site.start();
    server.create(&limited("told", 100, 10));
    let mut ids = Vec::new();
    let claim = |no: usize| server.call(&claim_of("told", "u1", 1).key(&format!("k{no}"))).field("claim_id");
    (0..3).for_each(|no| ids.insert(0, claim(no)));
    server.drained("told");
    let path = "/v1/users/u1/claims";
    assert_eq!(server.call(&Request::get(path)).json()["claims"].as_array().unwrap().len(), 3);
    let lock = Lock::take(&site.database());
    for no in 3..6 {
        ids.insert(0, claim(no));
        let page = server.call(&Request::get(path)).json();
        let shown: Vec<_> = page["claims"].as_array().unwrap().iter().map(|c| c["claim_id"].clone()).collect();
        assert_eq!(shown, ids, "the cached page has what is waiting");
    }
    lock.release();
    server.drained("told");
    within(Duration::from_secs(10), "all are persisted", || {
        let page = server.call(&Request::get(path)).json();
        let claims = page["claims"].as_array().unwrap();
        assert_eq!(claims.len(), 6);
        claims.iter().all(|c| c["status"] == "persisted").then_some(())
    });
}
