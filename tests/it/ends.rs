//! The end of a claim: settled, cancelled, expired; what comes back, and what a buyer may do then.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::{Answer, Request};
use crate::support::sale::{claim, claim_of, end, flash_sale, limited, red_packet};
use crate::support::sql::Lock;
use crate::support::{Server, Site, eventually, within};

fn status(server: &Server, claim: &Value) -> Value {
    let id = claim["claim_id"].as_str().unwrap();
    let answer = server.call(&Request::get(&format!("/v1/claims/{id}")));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Ends a claim, which must go well, and gives the claim as the answer shows it.
fn ended(server: &Server, claim: &Value, what: &str) -> Value {
    let answer = server.call(&end(claim, what));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn wrong_state(answer: &Answer, state: &str) {
    answer.expect(409, "wrong-state");
    assert_eq!(answer.field("state"), state);
}

#[test]
fn a_claim_is_settled_or_cancelled_once_and_a_repetition_changes_nothing() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("ends", 10));
    // While the database is away the claims are in the buffer only; afterwards they are rows.
    for when in ["waiting", "persisted"] {
        let lock = (when == "waiting").then(|| Lock::take(&site.database()));
        let [paid, back] = ["paid", "back"].map(|user| server.claimed("ends", &format!("{user}-{when}")));
        if lock.is_none() {
            server.drained("ends");
        }
        let settled = ended(&server, &paid, "settle");
        assert_eq!((&settled["status"], &settled["version"]), (&json!("settled"), &json!(3)));
        assert_eq!(settled["receipt"], paid["receipt"]);
        let free = server.balance("ends")["free"].as_i64().unwrap();
        let cancelled = ended(&server, &back, "cancel");
        assert_eq!(cancelled["status"], "cancelled");
        assert_eq!(server.balance("ends")["free"], free + 1);
        for round in 0..2 {
            assert_eq!(ended(&server, &paid, "settle"), settled, "{round}");
            assert_eq!(ended(&server, &back, "cancel"), cancelled, "{round}");
            wrong_state(&server.call(&end(&paid, "cancel")), "settled");
            wrong_state(&server.call(&end(&back, "settle")), "cancelled");
            assert_eq!(server.balance("ends")["free"], free + 1);
        }
        drop(lock);
        let balance = server.drained("ends");
        assert_eq!(status(&server, &paid), settled);
        assert_eq!(status(&server, &back), cancelled);
        assert_eq!(balance["error"], 0);
        assert_eq!(balance["money"]["error"], 0);
    }
    let balance = within(Duration::from_secs(20), "the ends are rows", || {
        let rows = site.number("SELECT count(*) FROM claims WHERE status IN ('settled', 'cancelled')");
        (rows == 4).then(|| server.balance("ends"))
    });
    for (name, units) in [("stock", 10), ("free", 8), ("persisted", 0), ("settled", 2), ("returned", 2), ("dead", 0)] {
        assert_eq!(balance[name], units, "{name}: {balance}");
    }
    assert_eq!(balance["money"]["settled"], 1_980);
    assert_eq!(site.number("SELECT count(*) FROM claims WHERE status = 'cancelled' AND hold IS NULL"), 2);
    assert!(site.run(["audit"]).status.success());
}

#[test]
fn a_buyer_may_claim_again_after_a_cancel_whatever_is_in_the_database_by_then() {
    let site = Site::new();
    let server = site.start();
    server.create(&limited("again", 100, 2));
    for (round, locked) in [(0, false), (1, true), (2, false)] {
        let lock = locked.then(|| Lock::take(&site.database()));
        let taken = |n: i64, key: &str| server.call(&claim_of("again", "u1", n).key(&format!("{key}-{round}")));
        let both = taken(2, "a").json();
        taken(1, "b").expect(409, "already-claimed");
        ended(&server, &both, "cancel");
        let first = taken(1, "c").json();
        ended(&server, &first, "cancel");
        let [second, third] = ["d", "e"].map(|key| taken(1, key).json());
        let refused = taken(1, "f");
        refused.expect(409, "already-claimed");
        assert_eq!(refused.field("claim_id"), second["claim_id"].as_str().unwrap());
        let replay = taken(2, "a");
        assert_eq!((replay.status, replay.json()), (202, both), "a key gives the first answer, even after a cancel");
        ended(&server, &second, "cancel");
        ended(&server, &third, "cancel");
        drop(lock);
        server.drained("again");
    }
    eventually("every end is a row", || site.number("SELECT count(*) FROM claims WHERE status = 'cancelled'") == 12);
    assert_eq!(site.number("SELECT count(*) FROM dead_letters"), 0);
    assert_eq!(server.balance("again")["free"], 100);
    let claims = server.call(&Request::get("/v1/users/u1/claims?limit=100")).json();
    let shown = claims["claims"].as_array().unwrap();
    assert!(shown.len() == 12 && shown.iter().all(|claim| claim["status"] == "cancelled"), "{claims}");
}

#[test]
fn a_key_gives_its_first_answer_after_a_cancel_a_sell_out_and_a_restart() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("keyed", 1));
    let request = claim("keyed", "u1").key("order-1");
    let first = server.call(&request);
    ended(&server, &first.json(), "cancel");
    server.claimed("keyed", "u2");
    server.drained("keyed");
    server.kill();
    let server = site.start();
    let replay = server.call(&request);
    assert_eq!((replay.status, &replay.body), (202, &first.body));
    server.call(&claim("keyed", "u1").key("order-2")).expect(409, "sold-out");
    server.call(&claim("keyed", "u1")).expect(409, "sold-out");
}

#[test]
fn sold_out_is_undone_by_a_return_with_a_new_version() {
    let server = crate::shared();
    server.create(&flash_sale("ends-soldout", 1));
    let held = server.claimed("ends-soldout", "u1");
    let refused = server.call(&claim("ends-soldout", "u2"));
    refused.expect(409, "sold-out");
    ended(server, &held, "cancel");
    let second = server.claimed("ends-soldout", "u2");
    let again = server.call(&claim("ends-soldout", "u3"));
    again.expect(409, "sold-out");
    let version = |answer: &Answer| answer.json()["stock_version"].as_u64().unwrap();
    assert!(version(&again) > version(&refused), "a new sold-out can be told from the old one");
    assert_eq!(second["user"], "u2");
}

#[test]
fn shares_that_come_back_go_out_again_with_the_same_amounts() {
    let server = crate::shared();
    server.create(&red_packet("ends-packet", 8, 1_000));
    let first: Vec<Value> = (0..8).map(|n| server.claimed("ends-packet", &format!("u{n}"))).collect();
    let mut given: Vec<i64> = first.iter().map(|claim| claim["amount"].as_i64().unwrap()).collect();
    assert_eq!(given.iter().sum::<i64>(), 1_000);
    let back: Vec<i64> =
        first[2..5].iter().map(|claim| ended(server, claim, "cancel")["amount"].as_i64().unwrap()).collect();
    assert_eq!(back, given[2..5]);
    assert_eq!(server.balance("ends-packet")["money"]["free"], back.iter().sum::<i64>());
    let again: Vec<i64> =
        (0..3).map(|n| server.claimed("ends-packet", &format!("v{n}"))["amount"].as_i64().unwrap()).collect();
    let (mut a, mut b) = (back.clone(), again);
    a.sort_unstable();
    b.sort_unstable();
    assert_eq!(a, b);
    server.call(&claim("ends-packet", "late")).expect(409, "sold-out");
    let change = server.change("ends-packet", &json!({"state": "closed"}));
    assert_eq!(change.status, 200);
    ended(server, &first[0], "cancel");
    let balance = server.drained("ends-packet");
    assert_eq!(balance["money"]["unclaimed"], given.remove(0), "what nobody claimed is stated once it is over");
}

#[test]
fn a_claim_that_nobody_settles_expires_and_one_that_is_settled_in_time_does_not() {
    let site = Site::new().text("campaigns.settle_grace", "0s");
    let server = site.start();
    let mut sale = flash_sale("expiring", 40);
    sale["reservation_ttl"] = json!("2s");
    server.create(&sale);
    let claims: Vec<Value> = (0..40).map(|n| server.claimed("expiring", &format!("u{n}"))).collect();
    for paid in &claims[..10] {
        ended(&server, paid, "settle");
    }
    server.call(&claim("expiring", "late")).expect(409, "sold-out");
    let balance = within(Duration::from_secs(20), "thirty claims expire", || {
        let balance = server.balance("expiring");
        (balance["free"] == 30).then_some(balance)
    });
    assert_eq!((&balance["settled"], &balance["returned"]), (&json!(10), &json!(30)));
    let expired = status(&server, &claims[20]);
    assert_eq!((&expired["status"], &expired["version"]), (&json!("expired"), &json!(3)));
    wrong_state(&server.call(&end(&claims[20], "settle")), "expired");
    assert_eq!(status(&server, &claims[3])["status"], "settled");
    server.claimed("expiring", "u20");
    eventually("they are rows", || site.number("SELECT count(*) FROM claims WHERE status = 'expired'") == 30);
    assert!(site.run(["audit"]).status.success());
}

#[test]
fn a_payment_within_the_grace_wins_and_expiry_goes_on_after_a_kill() {
    let site = Site::new().text("campaigns.settle_grace", "4s");
    let server = site.start();
    let mut sale = flash_sale("grace", 4);
    sale["reservation_ttl"] = json!("1s");
    server.create(&sale);
    let [late, lost] = ["u1", "u2"].map(|user| server.claimed("grace", user));
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(ended(&server, &late, "settle")["status"], "settled", "after its time, within the grace");
    server.kill();
    let server = site.start();
    eventually("the other expires after the restart", || status(&server, &lost)["status"] == "expired");
    assert_eq!(status(&server, &late)["status"], "settled");
    assert_eq!(server.balance("grace")["free"], 3);
}

#[test]
fn ends_are_refused_by_what_is_wrong_with_them() {
    let server = crate::shared();
    server.create(&flash_sale("ends-bad", 10));
    let claim = server.claimed("ends-bad", "u1");
    let id = claim["claim_id"].as_str().unwrap();
    for what in ["cancel", "settle"] {
        let path = format!("/v1/claims/{id}/{what}");
        let get = server.call(&Request::get(&path));
        get.expect(405, "method-not-allowed");
        assert_eq!(get.header("allow"), Some("POST"));
        server.call(&Request::post(&path, &json!({"amount": 1}))).expect(400, "invalid-request");
        for unknown in ["0192f0c1-7d2e-8c3a-8f00-3a6b1c2d4e5f", "x", "0192f0c1", "%2F"] {
            let answer = server.call(&Request::new("POST", &format!("/v1/claims/{unknown}/{what}")));
            assert_eq!(answer.status, 404, "{unknown}: {}", answer.text());
        }
    }
    server.call(&Request::new("POST", &format!("/v1/claims/{id}/expire"))).expect(404, "not-found");
    assert_eq!(status(server, &claim)["claim_id"], id);
    assert_eq!(server.balance("ends-bad")["free"], 9);
}

#[test]
fn a_reader_that_waits_is_told_of_the_end() {
    let server = crate::shared();
    server.create(&flash_sale("ends-wait", 10));
    let claim = server.claimed("ends-wait", "u1");
    server.drained("ends-wait");
    let path = format!("/v1/claims/{}?wait=30", claim["claim_id"].as_str().unwrap());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.call(&Request::get(&path).header("If-None-Match", "\"2\"")));
        std::thread::sleep(Duration::from_millis(300));
        ended(server, &claim, "settle");
        let answer = waiting.join().unwrap();
        assert_eq!((answer.status, answer.field("status")), (200, "settled".to_owned()));
    });
}

#[test]
fn a_reader_that_waits_for_a_row_is_told_of_an_end_before_it() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("early", 10));
    server.drained("early");
    let lock = Lock::take(&site.database());
    let claim = server.claimed("early", "u1");
    let path = format!("/v1/claims/{}?wait=20", claim["claim_id"].as_str().unwrap());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.call(&Request::get(&path)));
        std::thread::sleep(Duration::from_millis(300));
        ended(&server, &claim, "cancel");
        let answer = waiting.join().unwrap();
        assert_eq!((answer.status, answer.field("status")), (200, "cancelled".to_owned()));
    });
    lock.release();
}
