//! Batches of claims: an outcome a claim, in order, each what the claim alone would have got; and what is refused whole.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::{Answer, Connection, Request};
use crate::support::sale::{batch, batch_for, claim, claim_of, flash_sale, limited, outcomes, red_packet, word};
use crate::support::{Server, Site, Tool, eventually, stderr, stdout};

fn words(answer: &Answer) -> Vec<String> {
    outcomes(answer).iter().map(word).collect()
}

/// Claims a batch that must be answered.
fn ask(server: &Server, campaign: &str, claims: Value) -> Vec<Value> {
    outcomes(&server.call(&batch(campaign, &claims)))
}

#[test]
fn every_claim_has_an_outcome_of_its_own_in_its_own_place() {
    let server = crate::shared();
    server.create(&limited("batch-mixed", 100, 3));
    server.call(&claim_of("batch-mixed", "holder", 3).key("h")).expect(202, "");
    let got = ask(
        server,
        "batch-mixed",
        json!([
            {"user": "u0", "idempotency_key": "a"},
            {"user": "holder", "idempotency_key": "b"},
            {"user": "a b", "idempotency_key": "c"},
            {"user": "u3", "quantity": 4, "idempotency_key": "d"},
            {"user": "u4", "quantity": -1, "idempotency_key": "e"},
            {"user": "u5", "idempotency_key": ""},
            {"user": "u6"},
            {"user": "u7", "quantity": 3, "idempotency_key": "g"},
        ]),
    );
    let seen: Vec<_> = got.iter().map(|o| (word(o), o["problem"]["field"].as_str().unwrap_or_default())).collect();
    let invalid = |field: &'static str| ("invalid-request".to_owned(), field);
    assert_eq!(
        seen,
        [
            ("claimed".to_owned(), ""),
            ("already-claimed".to_owned(), ""),
            invalid("claims[2].user"),
            invalid("claims[3].quantity"),
            invalid("claims[4].quantity"),
            invalid("claims[5].idempotency_key"),
            invalid("claims[6].idempotency_key"),
            ("claimed".to_owned(), ""),
        ]
    );
    for (no, user, quantity) in [(0, "u0", 1), (7, "u7", 3)] {
        let claim = &got[no]["claim"];
        assert_eq!((&claim["user"], &claim["quantity"]), (&json!(user), &json!(quantity)), "{claim}");
        let read = server.call(&Request::get(&format!("/v1/claims/{}", claim["claim_id"].as_str().unwrap())));
        assert_eq!((read.status, &read.json()["receipt"]), (200, &claim["receipt"]));
    }
    assert_eq!(server.balance("batch-mixed")["free"], 93);
}

#[test]
fn a_claims_problem_is_the_document_that_it_gets_alone() {
    let server = crate::shared();
    let window = |id: &str, opens: &str, closes: &str| {
        let mut sale = flash_sale(id, 10);
        (sale["opens_at"], sale["closes_at"]) = (json!(opens), json!(closes));
        server.create(&sale);
    };
    window("batch-early", "2098-01-01T00:00:00Z", "2099-01-01T00:00:00Z");
    window("batch-late", "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z");
    server.create(&flash_sale("batch-held", 10));
    server.change("batch-held", &json!({"state": "paused"}));
    server.create(&flash_sale("batch-out", 1));
    server.claimed("batch-out", "winner");
    server.create(&flash_sale("batch-twice", 10));
    server.claimed("batch-twice", "u1");
    for (campaign, user, slug) in [
        ("batch-early", "u1", "not-open"),
        ("batch-late", "u1", "ended"),
        ("batch-held", "u1", "paused"),
        ("batch-out", "u1", "sold-out"),
        ("batch-out", "winner", "already-claimed"),
        ("batch-twice", "u1", "already-claimed"),
    ] {
        let alone = server.call(&claim(campaign, user)).json();
        let got = ask(server, campaign, json!([{"user": user}]));
        assert_eq!((word(&got[0]).as_str(), &got[0]["problem"]), (slug, &alone));
    }
}

#[test]
fn a_repeated_batch_gets_the_same_claims_back_byte_for_byte() {
    let server = crate::shared();
    server.create(&limited("batch-replay", 100, 2));
    let one = batch("batch-replay", &json!([{"user": "u1", "quantity": 2, "idempotency_key": "order-1"}]));
    let first = server.call(&one).text();
    let again = server.call(&one).text();
    assert_eq!(again, first.replace("\"replayed\":false", "\"replayed\":true"));
    let alone = server.call(&claim_of("batch-replay", "u1", 2).key("order-1"));
    assert_eq!(alone.header("idempotency-replayed"), Some("true"), "a member's key is the header's");
    assert_eq!(first, format!("{{\"outcomes\":[{{\"claim\":{},\"replayed\":false}}]}}", alone.text()));
    let other = server.call(&claim("batch-replay", "u2").key("order-2"));
    let claims = json!([{"user": "u2", "idempotency_key": "order-2"},
        {"user": "u2", "quantity": 2, "idempotency_key": "order-2"}, {"user": "u3", "idempotency_key": "order-2"}]);
    let got = ask(server, "batch-replay", claims);
    assert_eq!(got.iter().map(word).collect::<Vec<_>>(), ["replayed", "idempotency-key-reused", "claimed"]);
    assert_eq!(got[0]["claim"], other.json());
}

#[test]
fn claims_of_one_buyer_are_decided_in_their_order() {
    let server = crate::shared();
    server.create(&limited("batch-order", 4, 3));
    let of = |quantity: i64, key: &str| json!({"user": "u1", "quantity": quantity, "idempotency_key": key});
    let claims = json!([of(2, "a"), of(2, "b"), of(1, "c"), of(2, "a"), of(1, "d"),
        {"user": "u2", "quantity": 2, "idempotency_key": "e"}, {"user": "u2", "idempotency_key": "f"}]);
    let got = ask(server, "batch-order", claims);
    let expected = ["claimed", "already-claimed", "claimed", "replayed", "already-claimed", "sold-out", "claimed"]
        .map(str::to_owned);
    assert_eq!(got.iter().map(word).collect::<Vec<_>>(), expected);
    assert_eq!(got[3]["claim"], got[0]["claim"]);
    assert_eq!(got[1]["problem"]["claim_id"], got[0]["claim"]["claim_id"], "the oldest");
    assert!(got[0]["claim"]["seq"].as_u64() < got[2]["claim"]["seq"].as_u64());
}

#[test]
fn a_thousand_claims_of_the_longest_names_are_one_batch() {
    let server = crate::shared();
    let id = "s".repeat(64);
    server.create(&limited(&id, 2_000, 2));
    let user = |no: usize| format!("{no:0>64}");
    let key = |no: usize| format!("{no:k>128}");
    let claims = (0..1_000).map(|no| json!({"user": user(no), "quantity": 2, "idempotency_key": key(no)})).collect();
    let got = ask(server, &id, claims);
    assert_eq!(got.len(), 1_000);
    for (no, outcome) in got.iter().enumerate() {
        assert_eq!((word(outcome), &outcome["claim"]["user"]), ("claimed".to_owned(), &json!(user(no))), "{no}");
    }
    let seqs: Vec<_> = got.iter().map(|o| o["claim"]["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted(), "decided in another order than they stood");
    assert_eq!(server.drained(&id)["persisted"], 2_000);
}

#[test]
fn a_red_packet_is_shared_out_by_a_batch_to_the_last_minor_unit() {
    let server = crate::shared();
    server.create(&red_packet("batch-packet", 50, 1_000));
    let answer = server.call(&batch_for("batch-packet", "u", 60));
    let got = outcomes(&answer);
    let sum: i64 = got.iter().filter_map(|o| o["claim"]["amount"].as_i64()).sum();
    assert_eq!(sum, 1_000);
    assert_eq!(words(&answer)[50..], ["sold-out"; 10]);
}

#[test]
fn what_is_no_batch_is_refused_whole_and_claims_nothing() {
    let server = crate::shared();
    server.create(&flash_sale("batch-bad", 100));
    let path = "/v1/campaigns/batch-bad/claims:batch";
    let body = |text: &str| Request::new("POST", path).body("application/json", text);
    let many = |count: usize| batch_for("batch-bad", "u", count);
    let claims = r#"{"claims":[{"user":"u1"},{"user":"u2"}]}"#;
    for (request, status, slug, field) in [
        (body(""), 400, "invalid-request", ""),
        (body(r#"[{"user":"u1"}]"#), 400, "invalid-request", ""),
        (body(r#"{"user":"u1"}"#), 400, "invalid-request", "user"),
        (body(r#"{"claims":[]}"#), 400, "invalid-request", "claims"),
        (
            body(r#"{"claims":[{"user":"u1"},{"user":"u2","quantity":"1"}]}"#),
            400,
            "invalid-request",
            "claims[1].quantity",
        ),
        (body(r#"{"claims":[{"user":"u1"},{"user":"u2","price":1}]}"#), 400, "invalid-request", "claims[1].price"),
        (body(r#"{"claims":[{"user":"u1"},{"user":"u2","user":"u3"}]}"#), 400, "invalid-request", "claims[1].user"),
        (body(r#"{"claims":[{"user":"u1"}],"x":1}"#), 400, "invalid-request", "x"),
        (many(1_001), 400, "invalid-request", "claims"),
        (body(claims).key("k"), 400, "invalid-request", "Idempotency-Key"),
        (body(&format!("{claims}{}", " ".repeat(256 * 1024))), 413, "too-large", ""),
        (Request::new("POST", path).body("text/plain", claims), 415, "unsupported-media-type", ""),
        (Request::new("GET", path), 405, "method-not-allowed", ""),
        (batch_for("nowhere", "u", 2), 404, "unknown-campaign", ""),
        (batch_for("%ff", "u", 2), 404, "unknown-campaign", ""),
        (Request::post("/v1/campaigns/batch-bad/claims:batch/", &json!({})), 404, "not-found", ""),
        (Request::post("/v1/campaigns/batch-bad/claims:cancel", &json!({})), 404, "not-found", ""),
    ] {
        let answer = server.call(&request);
        let refused = answer.expect(status, slug);
        assert_eq!(refused.field("field"), field, "{}", refused.text());
        if status == 405 {
            assert_eq!(refused.header("allow"), Some("POST"));
        }
    }
    assert_eq!(server.balance("batch-bad")["free"], 100);
    assert_eq!(words(&server.call(&body(&format!("{claims}{}", " ".repeat(200 * 1024))))), ["claimed"; 2]);
}

#[test]
fn a_batch_is_so_many_claims_to_the_limits_by_user_and_by_address() {
    let site = Site::new().text("antiscalper.user_rate", "2/h").text("antiscalper.address_rate", "6/h");
    let server = site.start();
    server.create(&flash_sale("rates", 100));
    let user = |name: &str| json!({"user": name});
    let got = ask(&server, "rates", json!([user("u1"), user("u1"), user("u1"), user("u2"), user("a b")]));
    let seen: Vec<_> = got.iter().map(word).collect();
    assert_eq!(seen, ["claimed", "already-claimed", "rate-limited", "claimed", "invalid-request"]);
    let wait = got[2]["problem"]["retry_after"].as_u64().expect("when to come back");
    assert!((1..=1_800).contains(&wait), "{wait}");
    let alone = server.call(&claim("rates", "u1"));
    let header: u64 = alone.expect(429, "rate-limited").header("retry-after").unwrap().parse().unwrap();
    assert_eq!(alone.json()["retry_after"], header);
    let seen = words(&server.call(&batch_for("rates", "v", 5)));
    assert_eq!(
        seen,
        ["claimed", "claimed", "claimed", "rate-limited", "rate-limited"],
        "three had gone by this address"
    );
}

#[test]
fn the_numbers_count_claims_and_not_batches() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("numbers", 5));
    let claims =
        json!([{"user": "u1"}, {"user": "u1"}, {"user": "u2"}, {"user": "a b"}, {"user": "u3", "quantity": 2}]);
    ask(&server, "numbers", claims);
    server.call(&batch("numbers", &json!([]))).expect(400, "invalid-request");
    let claims = |outcome: &str| {
        server
            .metric(&format!("forebay_claims_total{{campaign=\"numbers\",outcome=\"{outcome}\"}}"))
            .unwrap_or_default()
    };
    let refused = |reason: &str| server.metric(&format!("forebay_refusals_total{{reason=\"{reason}\"}}")).unwrap();
    assert_eq!((claims("accepted"), claims("already-claimed")), (2.0, 1.0));
    assert_eq!((refused("already-claimed"), refused("invalid-request")), (1.0, 3.0));
    assert_eq!(server.metric("forebay_claim_batches"), Some(0.0), "none is under way");
}

/// Makes every sync of the journal take a second, until it is stopped.
fn slow_disk(server: &Server) -> Tool {
    let thread = server.thread("sequencer").to_string();
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=1000000"]);
    let tool = Tool::start(command.args(["-p", &thread]).stdin(Stdio::null()).stderr(Stdio::null()));
    let status = format!("/proc/{}/task/{thread}/status", server.pid());
    eventually("strace holds the thread", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        text.lines().any(|l| l.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
    });
    tool
}

#[test]
fn a_client_that_goes_away_loses_answers_and_no_claims() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("gone", 1_000));
    let slow = slow_disk(&server);
    let mut connection = Connection::open(server.public).unwrap();
    connection.send(&batch_for("gone", "u", 100).bytes()).unwrap();
    eventually("the batch is under way", || server.metric("forebay_claim_batches") == Some(1.0));
    // Its body came with its head; until it is submitted it is not the server's.
    std::thread::sleep(Duration::from_millis(200));
    drop(connection);
    eventually("nobody waits for it", || server.metric("forebay_claim_batches") == Some(0.0));
    eventually("all of them are claimed", || server.balance("gone")["free"] == 900);
    slow.stop();
    assert_eq!(server.drained("gone")["persisted"], 100);
    assert_eq!(words(&server.call(&batch_for("gone", "u", 2))), ["already-claimed"; 2]);
}

#[test]
fn kill_9_keeps_every_claim_that_a_batch_was_told_of() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("nine", 10_000));
    let mut told = Vec::new();
    for no in 0..10 {
        told.extend(outcomes(&server.call(&batch_for("nine", &format!("u{no}-"), 100))));
    }
    server.kill();
    assert!(told.iter().all(|outcome| word(outcome) == "claimed"));
    let server = site.start();
    let balance = server.drained("nine");
    assert_eq!((&balance["persisted"], &balance["free"]), (&json!(1_000), &json!(9_000)));
    for outcome in &told {
        let claim = &outcome["claim"];
        let read = server.call(&Request::get(&format!("/v1/claims/{}", claim["claim_id"].as_str().unwrap()))).json();
        assert_eq!((&read["receipt"], &read["seq"]), (&claim["receipt"], &claim["seq"]), "{claim}");
    }
}

#[test]
fn beyond_so_many_batches_at_once_the_next_is_refused_and_single_claims_go_on() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("crowd", 1_000));
    let whole = batch_for("crowd", "u", 2).bytes();
    let (begun, rest) = whole.split_at(whole.len() - 1);
    let mut waiting: Vec<_> = (0..forebay::limits::BATCHES_MAX)
        .map(|_| {
            let mut connection = Connection::open(server.public).unwrap();
            connection.send(begun).unwrap();
            connection
        })
        .collect();
    let under_way = forebay::limits::BATCHES_MAX as f64;
    eventually("all have their places", || server.metric("forebay_claim_batches") == Some(under_way));
    let refused = server.call(&batch_for("crowd", "v", 2));
    assert_eq!(refused.expect(503, "overloaded").header("retry-after"), Some("1"));
    assert_eq!(server.call(&claim("crowd", "w")).status, 202);
    let mut last = waiting.pop().unwrap();
    last.send(rest).unwrap();
    assert_eq!(words(&last.answer().unwrap().unwrap()), ["claimed"; 2]);
    assert_eq!(words(&server.call(&batch_for("crowd", "v", 2))), ["claimed"; 2], "a place was free again");
    drop(waiting);
    eventually("all have left", || server.metric("forebay_claim_batches") == Some(0.0));
}

/// The README's first block of `language`.
fn example(language: &str) -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md");
    let (_, block) = text.split_once(&format!("\n```{language}\n")).expect("an example");
    block.split("\n```").next().unwrap_or_default().to_owned()
}

#[test]
fn the_readmes_python_claims_a_batch() {
    let server = crate::shared();
    server.create(&flash_sale("readme", 1_000));
    let script =
        example("python").replace("127.0.0.1:8080", &server.public.to_string()).replace("sample-sale", "readme");
    let run = || Command::new("python3").args(["-c", &script]).output().expect("python3");
    for balance in [900, 900] {
        let output = run();
        assert!(output.status.success(), "{}", stderr(&output));
        let lines: Vec<_> = stdout(&output).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 100, "{lines:?}");
        assert!(lines[99].starts_with("u99 has "), "{lines:?}");
        assert_eq!(server.balance("readme")["free"], balance, "a repetition claims nothing more");
    }
}
