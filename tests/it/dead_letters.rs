//! Dead letters: listed with reason and payload, written again once mended, given up with a reason.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::Request;
use crate::support::sale::{claim, claim_of, end, limited};
use crate::support::{Server, Site, eventually, stderr, stdout, within};

const REFUSE: &str = "CREATE TRIGGER refuse BEFORE INSERT ON claims WHEN NEW.quantity = 2 \
                      BEGIN SELECT RAISE(ABORT, 'this row is refused'); END";

fn letters(server: &Server) -> Vec<Value> {
    let answer = server.ask_admin(&Request::get("/admin/v1/dead-letters"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["dead_letters"].as_array().unwrap().clone()
}

fn post(server: &Server, id: &Value, what: &str, body: &Value) -> crate::support::http::Answer {
    server.ask_admin(&Request::post(&format!("/admin/v1/dead-letters/{id}/{what}"), body))
}

/// A server whose database refused the claims of `users`, two units each.
fn with_dead(site: &Site, users: &[&str]) -> (Server, Vec<Value>) {
    let server = site.start();
    server.create(&limited("dead", 100, 3));
    server.drained("dead");
    site.sql(REFUSE);
    // One after another: rows that are refused together, and no good one among them, are an outage and no dead letters.
    let one = |user: &&str| {
        let claim = server.call(&claim_of("dead", user, 2).key("k")).json();
        server.drained("dead");
        claim
    };
    let claims = users.iter().map(one).collect();
    let count = users.len();
    within(Duration::from_secs(20), "the letters", || (letters(&server).len() == count).then_some(()));
    (server, claims)
}

#[test]
fn a_letter_tells_all_and_becomes_a_row_once_the_database_takes_it() {
    let site = Site::new();
    let (server, claims) = with_dead(&site, &["u1", "u2"]);
    let found = letters(&server);
    let letter = &found[0];
    for (name, value) in [
        ("kind", json!("claim")),
        ("campaign", json!("dead")),
        ("user", json!("u1")),
        ("quantity", json!(2)),
        ("amount", json!(1_980)),
        ("claim_id", claims[0]["claim_id"].clone()),
        ("seq", claims[0]["seq"].clone()),
    ] {
        assert_eq!(letter[name], value, "{name}: {letter}");
    }
    assert!(letter["reason"].as_str().unwrap().contains("this row is refused"), "{letter}");
    assert_eq!(letter["payload"]["user"], "u1");
    let still = post(&server, &letter["id"], "requeue", &json!({}));
    still.expect(409, "wrong-state");
    assert!(still.text().contains("this row is refused"), "{}", still.text());
    assert_eq!(server.balance("dead")["dead"], 4);
    site.sql("DROP TRIGGER refuse");
    let done = post(&server, &letter["id"], "requeue", &json!({}));
    assert_eq!((done.status, done.field("outcome")), (200, "requeued".to_owned()), "{}", done.text());
    let balance = server.balance("dead");
    assert_eq!((&balance["dead"], &balance["persisted"]), (&json!(2), &json!(2)));
    let path = format!("/v1/claims/{}", claims[0]["claim_id"].as_str().unwrap());
    eventually("the claim is a row", || server.call(&Request::get(&path)).field("status") == "persisted");
    for key in ["retry-1", "retry-1", "another"] {
        let path = format!("/admin/v1/dead-letters/{}/requeue", letter["id"]);
        let again = server.ask_admin(&Request::post(&path, &json!({})).key(key));
        assert_eq!((again.status, again.json()), (200, done.json()), "a repetition is answered as the first was");
    }
    assert_eq!(server.balance("dead"), balance, "and changes nothing");
    let given_up = post(&server, &letter["id"], "drop", &json!({"reason": "too late"}));
    given_up.expect(409, "wrong-state");
    assert_eq!(given_up.field("state"), "requeued");
    post(&server, &json!(999), "requeue", &json!({})).expect(404, "not-found");
    let path = format!("/admin/v1/dead-letters/{}/requeue", letter["id"]);
    server.ask_admin(&Request::post(&path, &json!({})).key("a b")).expect(400, "invalid-request");
    assert_eq!(letters(&server).len(), 1);
    assert!(site.run(["audit"]).status.success());
}

#[test]
fn a_letter_that_is_given_up_gives_its_units_back_on_the_record() {
    let site = Site::new();
    let (server, claims) = with_dead(&site, &["u1", "u2", "u3"]);
    let found = letters(&server);
    let long = "x".repeat(300);
    for bad in
        [json!({}), json!({"reason": ""}), json!({"reason": long}), json!({"reason": "a\0b"}), json!({"why": "x"})]
    {
        post(&server, &found[0]["id"], "drop", &bad).expect(400, "invalid-request");
    }
    let dropped = post(&server, &found[0]["id"], "drop", &json!({"reason": "the buyer's account is gone"}));
    assert_eq!((dropped.status, dropped.field("outcome")), (200, "dropped".to_owned()), "{}", dropped.text());
    let balance = within(Duration::from_secs(20), "the end is in the database", || {
        let balance = server.balance("dead");
        (letters(&server).len() == 2).then_some(balance)
    });
    for (name, units) in [("free", 96), ("dead", 4), ("returned", 2), ("persisted", 0), ("error", 0)] {
        assert_eq!(balance[name], units, "{name}: {balance}");
    }
    for reason in ["the buyer's account is gone", "another reason"] {
        let again = post(&server, &found[0]["id"], "drop", &json!({ "reason": reason }));
        assert_eq!((again.status, again.json()), (200, dropped.json()), "a repetition is answered as the first was");
    }
    let requeued = post(&server, &found[0]["id"], "requeue", &json!({}));
    requeued.expect(409, "wrong-state");
    assert_eq!(requeued.field("state"), "dropped");
    assert_eq!(server.balance("dead"), balance, "and changes nothing");
    let row = &site.sql("SELECT status, resolved_by, resolution FROM dead_letters WHERE resolution IS NOT NULL")[0];
    assert_eq!((row[0].as_str(), row[1].as_str()), ("cancelled", "operator"));
    assert!(row[2].contains("account is gone"), "{row:?}");
    // A service may end a dead claim like any other.
    let settled = server.call(&end(&claims[1], "settle"));
    assert_eq!((settled.status, settled.field("status")), (200, "settled".to_owned()));
    site.sql("DROP TRIGGER refuse");
    let list = stdout(&site.run(["dead-letters", "list"]));
    assert!(list.contains("REASON") && list.contains("u2") && !list.contains("u1"), "{list}");
    let export = stdout(&site.run(["dead-letters", "export"]));
    let first: Value = serde_json::from_str(export.lines().next().unwrap()).unwrap();
    assert_eq!((export.lines().count(), &first["payload"]["user"]), (2, &json!("u2")));
    eventually("the end of the dead claim is in the database", || {
        site.number("SELECT count(*) FROM dead_letters WHERE status = 'settled'") == 1
    });
    let requeued = site.run(["dead-letters", "requeue", &first["id"].to_string()]);
    assert!(requeued.status.success(), "{}", stderr(&requeued));
    assert_eq!(site.number("SELECT count(*) FROM claims WHERE status = 'settled'"), 1);
    let refused = site.run(["dead-letters", "requeue", "999"]);
    assert!(!refused.status.success() && stderr(&refused).contains("no such dead letter"), "{}", stderr(&refused));
    server.kill();
    let server = site.start();
    assert_eq!(server.balance("dead")["settled"], 2);
    server.call(&claim("dead", "u1").key("again"));
    assert!(site.run(["audit"]).status.success());
}
