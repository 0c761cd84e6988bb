//! Carts: each acknowledged operation counts once, through any batch, outage and kill.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::{Answer, Connection, Request};
use crate::support::sql::Lock;
use crate::support::{Server, Site, eventually, within};

fn op(user: &str, sku: &str, what: &str, quantity: Option<i64>) -> Request {
    let mut body = json!({"sku": sku, "op": what});
    if let Some(quantity) = quantity {
        body["quantity"] = quantity.into();
    }
    Request::post(&format!("/v1/carts/{user}/items"), &body)
}

fn add(user: &str, sku: &str, quantity: i64) -> Request {
    op(user, sku, "add", Some(quantity))
}

fn done(answer: &Answer) -> Value {
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()
}

fn cart(server: &Server, user: &str) -> Value {
    let answer = server.call(&Request::get(&format!("/v1/carts/{user}")));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("etag"), Some(format!("\"{}\"", answer.json()["version"]).as_str()));
    answer.json()
}

/// What is in a cart, by sku.
fn lines(server: &Server, user: &str) -> Vec<(String, i64)> {
    let items = cart(server, user)["items"].as_array().unwrap().clone();
    items.iter().map(|i| (i["sku"].as_str().unwrap().to_owned(), i["quantity"].as_i64().unwrap())).collect()
}

fn rows(site: &Site, user: &str) -> Vec<Vec<String>> {
    site.sql(&format!("SELECT sku, quantity FROM cart_items WHERE user_id = '{user}' ORDER BY sku"))
}

#[test]
fn three_adds_are_three_and_a_reader_sees_them_at_once() {
    let server = crate::shared();
    assert_eq!(cart(server, "carts-nobody"), json!({"user": "carts-nobody", "version": 0, "items": []}));
    let mut version = 0;
    for n in 1..=3 {
        let answer = done(&server.call(&add("carts-u1", "s1", 1)));
        assert_eq!(
            (&answer["user"], &answer["sku"], &answer["durability"]),
            (&json!("carts-u1"), &json!("s1"), &json!("disk"))
        );
        assert!(answer["version"].as_u64().unwrap() > version);
        version = answer["version"].as_u64().unwrap();
        let seen = cart(server, "carts-u1");
        assert_eq!((&seen["version"], &seen["items"]), (&json!(version), &json!([{"sku": "s1", "quantity": n}])));
    }
    for (what, quantity, left) in [("set", Some(7), vec![("s1".to_owned(), 7)]), ("remove", None, vec![])] {
        done(&server.call(&op("carts-u1", "s1", what, quantity)));
        assert_eq!(lines(server, "carts-u1"), left);
    }
    done(&server.call(&op("carts-u1", "never", "remove", None)));
    let seen = cart(server, "carts-u1");
    assert!(seen["version"].as_u64().unwrap() > version && seen["items"] == json!([]));
    let tag = format!("\"{}\"", seen["version"]);
    let same = server.call(&Request::get("/v1/carts/carts-u1").header("If-None-Match", &tag));
    assert_eq!(same.status, 304);
}

#[test]
fn a_burst_of_clicks_becomes_one_row_a_line_and_survives_a_kill() {
    let site = Site::new();
    let server = site.start();
    let lock = Lock::take(&site.database());
    let mut connection = Connection::open(server.public).unwrap();
    for n in 0..300 {
        let request = add(&format!("u{}", n % 3), ["s1", "s2", "a\"b\\c"][n / 3 % 3], 1 + (n as i64 % 2));
        assert_eq!(connection.call(&request).unwrap().status, 202);
    }
    let before: Vec<_> = (0..3).map(|u| cart(&server, &format!("u{u}"))).collect();
    let total = |server: &Server| (0..3).flat_map(|u| lines(server, &format!("u{u}"))).map(|(_, n)| n).sum::<i64>();
    assert_eq!(total(&server), 450);
    server.kill();
    drop(lock);
    let server = site.start();
    for (u, cart_before) in before.iter().enumerate() {
        assert_eq!(cart(&server, &format!("u{u}")), *cart_before, "what was acknowledged is there after a kill");
    }
    // The carts are not in use after a restart: the next click loads them first.
    for u in 0..3 {
        done(&server.call(&add(&format!("u{u}"), "s1", 1_000)));
    }
    assert_eq!(total(&server), 3_450);
    eventually("every line is one row", || site.number("SELECT coalesce(sum(quantity), 0) FROM cart_items") == 3_450);
    assert_eq!(site.number("SELECT count(*) FROM cart_items"), 9);
    let versions = (0..3).map(|u| cart(&server, &format!("u{u}"))["version"].as_i64().unwrap());
    assert_eq!(versions.max().unwrap(), site.number("SELECT max(seq) FROM cart_items"));
    assert_eq!(rows(&site, "u0")[0][0], "a\"b\\c");
}

#[test]
fn a_cart_is_right_while_batches_land_between_two_reads() {
    let site = Site::new().set("workers.batch_max", 7).text("cache.local_ttl", "1s");
    let server = site.start();
    for n in 1..=400 {
        done(&server.call(&add("u1", "s1", 1)));
        assert_eq!(lines(&server, "u1"), [("s1".to_owned(), n)], "neither lost nor doubled");
    }
    drop(server);
    let server = site.start();
    for n in 401..=420 {
        done(&server.call(&add("u1", "s1", 1)));
        assert_eq!(lines(&server, "u1"), [("s1".to_owned(), n)]);
    }
}

#[test]
fn a_retried_click_counts_once_even_after_a_restart() {
    let site = Site::new();
    let server = site.start();
    let request = add("u1", "s1", 2).key("click-1");
    let first = server.call(&request);
    let version = done(&first)["version"].clone();
    let again = server.call(&request);
    assert_eq!((again.status, &again.body), (202, &first.body));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    server.kill();
    let server = site.start();
    let again = server.call(&request);
    assert_eq!((again.status, again.json()["version"].clone()), (202, version));
    assert_eq!(lines(&server, "u1"), [("s1".to_owned(), 2)]);
    server.call(&add("u1", "s1", 3).key("click-1")).expect(422, "idempotency-key-reused");
    done(&server.call(&add("u2", "s1", 3).key("click-1")));
}

#[test]
fn a_cart_has_its_bounds_and_says_so() {
    let server = crate::shared();
    let mut connection = Connection::open(server.public).unwrap();
    for n in 0..200 {
        assert_eq!(connection.call(&add("carts-full", &format!("s{n}"), 1)).unwrap().status, 202);
    }
    server.call(&add("carts-full", "s200", 1)).expect(409, "cart-full");
    done(&server.call(&add("carts-full", "s7", 999_999)));
    server.call(&add("carts-full", "s7", 1)).expect(409, "cart-full");
    done(&server.call(&op("carts-full", "s0", "set", Some(0))));
    done(&server.call(&add("carts-full", "s200", 1)));
    assert_eq!(lines(server, "carts-full").len(), 200);
    let path = "/v1/carts/carts-bad/items";
    for (body, field) in [
        (json!({"sku": "s", "op": "add", "quantity": 0}), "quantity"),
        (json!({"sku": "s", "op": "add", "quantity": 1_000_001}), "quantity"),
        (json!({"sku": "s", "op": "set"}), "quantity"),
        (json!({"sku": "s", "op": "remove", "quantity": 1}), "quantity"),
        (json!({"sku": "s", "op": "take"}), "op"),
        (json!({"sku": "a b", "op": "add"}), "sku"),
        (json!({"sku": "x".repeat(65), "op": "add"}), "sku"),
        (json!({"op": "add"}), "sku"),
        (json!({"sku": "s", "op": "add", "user": "u"}), "user"),
    ] {
        let answer = server.call(&Request::post(path, &body));
        answer.expect(400, "invalid-request");
        assert_eq!(answer.field("field"), field, "{body}");
    }
    server.call(&add("a%20b", "s", 1)).expect(400, "invalid-request");
    server.call(&Request::get(path)).expect(405, "method-not-allowed");
    server.call(&Request::post("/v1/carts/carts-bad", &json!({}))).expect(405, "method-not-allowed");
    assert_eq!(cart(server, "carts-bad")["items"], json!([]));
}

#[test]
fn carts_are_changed_while_the_database_is_locked_and_all_is_written_afterwards() {
    let site = Site::new();
    let server = site.start();
    done(&server.call(&add("old", "s1", 5)));
    eventually("the first is a row", || site.number("SELECT count(*) FROM cart_items") == 1);
    let lock = Lock::take(&site.database());
    for n in 0..20 {
        done(&server.call(&add("old", "s1", 1)));
        done(&server.call(&add(&format!("new{n}"), "s1", 1)));
    }
    assert_eq!(lines(&server, "old"), [("s1".to_owned(), 25)]);
    lock.release();
    within(Duration::from_secs(30), "all is written", || {
        (site.number("SELECT coalesce(sum(quantity), 0) FROM cart_items") == 45).then_some(())
    });
}

#[test]
fn a_line_that_the_database_refused_can_be_written_later_unless_the_cart_went_on() {
    let site = Site::new();
    let server = site.start();
    done(&server.call(&add("first", "s1", 1)));
    eventually("the tables are there", || site.number("SELECT count(*) FROM cart_items") == 1);
    site.sql(
        "CREATE TRIGGER refuse BEFORE INSERT ON cart_items WHEN NEW.quantity = 13 \
         BEGIN SELECT RAISE(ABORT, 'no thirteen'); END",
    );
    // The earlier of two clicks in one batch must not go down with the later one.
    let lock = Lock::take(&site.database());
    done(&server.call(&op("u1", "s1", "set", Some(2))));
    done(&server.call(&op("u1", "s1", "set", Some(13))));
    done(&server.call(&op("u2", "s1", "set", Some(13))));
    done(&server.call(&op("u2", "s2", "set", Some(5))));
    lock.release();
    let letters = within(Duration::from_secs(30), "two letters", || {
        let letters = server.ask_admin(&Request::get("/admin/v1/dead-letters")).json()["dead_letters"].clone();
        (letters.as_array().unwrap().len() == 2).then_some(letters)
    });
    assert_eq!(rows(&site, "u1"), [["s1", "2"]]);
    assert_eq!(rows(&site, "u2"), [["s2", "5"]]);
    assert!(site.run(["audit"]).status.success());
    site.sql("DROP TRIGGER refuse");
    let requeue = |at: usize| {
        let path = format!("/admin/v1/dead-letters/{}/requeue", letters[at]["id"]);
        server.ask_admin(&Request::post(&path, &json!({})))
    };
    assert_eq!(requeue(0).status, 200, "{letters}");
    eventually("the line is a row", || rows(&site, "u1") == [["s1", "13"]]);
    let refused = requeue(1);
    refused.expect(409, "wrong-state");
    assert!(refused.text().contains("gone on"), "{}", refused.text());
    let path = format!("/admin/v1/dead-letters/{}/drop", letters[1]["id"]);
    assert_eq!(server.ask_admin(&Request::post(&path, &json!({"reason": "set anew"}))).status, 200);
}
