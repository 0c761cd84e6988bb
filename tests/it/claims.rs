//! The claim endpoint: what an acceptance says, what a repetition says, and every refusal.

use serde_json::{Value, json};

use crate::support::Site;
use crate::support::http::{Connection, Request};
use crate::support::sale::{claim, claim_of, flash_sale, limited, red_packet};

#[test]
fn an_accepted_claim_says_everything_the_contract_promises() {
    let server = crate::shared();
    server.create(&limited("claims-all", 100, 3));
    let answer = server.call(&claim_of("claims-all", "u1", 3).key("k"));
    assert_eq!(answer.status, 202, "{}", answer.text());
    let claim = answer.json();
    let id = claim["claim_id"].as_str().unwrap();
    let names: Vec<_> = claim.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "claim_id",
        "campaign",
        "user",
        "quantity",
        "amount",
        "currency",
        "status",
        "version",
        "seq",
        "accepted_at",
        "durability",
        "receipt",
    ];
    expected.sort_unstable();
    let mut sorted = names;
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert_eq!(answer.header("location"), Some(format!("/v1/claims/{id}").as_str()));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("idempotency-replayed"), None);
    assert!(answer.header("x-request-id").is_some());
    for (name, value) in [
        ("campaign", json!("claims-all")),
        ("user", json!("u1")),
        ("quantity", json!(3)),
        ("amount", json!(2970)),
        ("currency", json!("CNY")),
        ("status", json!("accepted")),
        ("version", json!(1)),
        ("durability", json!("disk")),
    ] {
        assert_eq!(claim[name], value, "{name}");
    }
    assert!(claim["seq"].as_u64().unwrap() > 0);
    let (time, receipt) = (claim["accepted_at"].as_str().unwrap(), claim["receipt"].as_str().unwrap());
    assert!(time.len() == 27 && time.ends_with('Z') && &time[10..11] == "T", "{time}");
    assert!(receipt.starts_with("k1."), "{receipt}");
    let groups: Vec<_> = id.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "no UUID: {id}");
}

#[test]
fn a_request_id_is_echoed_where_it_is_sound_and_made_where_it_is_not() {
    let server = crate::shared();
    let ask = |id: &str| {
        let answer = server.call(&Request::get("/v1/campaigns/nowhere").header("X-Request-Id", id));
        answer.header("x-request-id").map(str::to_owned).expect("every answer has one")
    };
    assert_eq!(ask("order-17.b"), "order-17.b");
    for unsound in ["a b", "", &"x".repeat(200), "a\u{e9}"] {
        let made = ask(unsound);
        assert!(made != unsound && !made.is_empty(), "{unsound:?} became {made:?}");
    }
    assert_ne!(ask(""), ask(""));
}

#[test]
fn a_retry_with_its_key_gets_the_same_bytes_back_whatever_became_of_the_sale() {
    let server = crate::shared();
    server.create(&limited("claims-replay", 4, 2));
    let request = claim_of("claims-replay", "u1", 2).key("order-1");
    let first = server.call(&request);
    assert_eq!(first.status, 202, "{}", first.text());
    let again = |when: &str| {
        let replay = server.call(&request);
        assert_eq!((replay.status, &replay.body), (202, &first.body), "{when}");
        assert_eq!(replay.header("idempotency-replayed"), Some("true"), "{when}");
        assert_eq!(replay.header("location"), first.header("location"), "{when}");
    };
    again("at once");
    let balance = server.drained("claims-replay");
    assert_eq!((&balance["free"], &balance["persisted"]), (&json!(2), &json!(2)));
    again("persisted");
    assert_eq!(server.call(&claim_of("claims-replay", "u2", 2).key("k")).status, 202);
    again("sold out");
    server.change("claims-replay", &json!({"state": "paused"}));
    again("paused");
    server.change("claims-replay", &json!({"state": "closed"}));
    again("closed");
}

#[test]
fn a_key_belongs_to_one_buyer_one_campaign_and_one_payload() {
    let server = crate::shared();
    server.create(&limited("claims-key-a", 100, 3));
    server.create(&limited("claims-key-b", 100, 3));
    let id = |answer: crate::support::http::Answer| {
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.field("claim_id")
    };
    let first = id(server.call(&claim_of("claims-key-a", "u1", 1).key("k")));
    let other_buyer = id(server.call(&claim_of("claims-key-a", "u2", 1).key("k")));
    let other_sale = id(server.call(&claim_of("claims-key-b", "u1", 1).key("k")));
    let other_key = id(server.call(&claim_of("claims-key-a", "u1", 1).key("l")));
    let all = [first, other_buyer, other_sale, other_key];
    assert!((1..4).all(|n| !all[..n].contains(&all[n])), "{all:?}");
    server.call(&claim_of("claims-key-a", "u1", 2).key("k")).expect(422, "idempotency-key-reused");
    let absent = server.call(&claim("claims-key-a", "u1").key("k"));
    assert_eq!((absent.status, absent.field("claim_id")), (202, all[0].clone()), "an absent quantity is 1");
}

#[test]
fn what_a_buyer_has_left_is_all_or_nothing() {
    let server = crate::shared();
    server.create(&limited("claims-left", 100, 3));
    let first = server.call(&claim_of("claims-left", "u1", 2).key("a"));
    let second = server.call(&claim_of("claims-left", "u1", 2).key("b"));
    assert_eq!(second.expect(409, "already-claimed").field("claim_id"), first.field("claim_id"));
    assert_eq!(server.call(&claim_of("claims-left", "u1", 1).key("c")).status, 202);
    let fourth = server.call(&claim_of("claims-left", "u1", 1).key("d"));
    assert_eq!(fourth.expect(409, "already-claimed").field("claim_id"), first.field("claim_id"), "the oldest");
    let beyond = server.call(&claim_of("claims-left", "u2", 4).key("e"));
    assert_eq!(beyond.expect(400, "invalid-request").field("field"), "quantity");
    assert_eq!(server.balance("claims-left")["free"], 97);
}

#[test]
fn more_than_is_free_is_sold_out_and_less_is_still_sold() {
    let server = crate::shared();
    server.create(&limited("claims-out", 5, 3));
    assert_eq!(server.call(&claim_of("claims-out", "u1", 3).key("k")).status, 202);
    let out = server.call(&claim_of("claims-out", "u2", 3).key("k"));
    assert_eq!(out.expect(409, "sold-out").json()["stock_version"], 1);
    assert_eq!(server.call(&claim_of("claims-out", "u2", 2).key("k")).status, 202, "a refusal binds nobody");
    server.call(&claim_of("claims-out", "u3", 1).key("k")).expect(409, "sold-out");
    let holder = server.call(&claim_of("claims-out", "u1", 3).key("other"));
    holder.expect(409, "already-claimed");
}

#[test]
fn outside_its_window_a_campaign_says_which_side() {
    let server = crate::shared();
    let window = |id: &str, opens: &str, closes: &str| {
        let mut sale = flash_sale(id, 10);
        (sale["opens_at"], sale["closes_at"]) = (json!(opens), json!(closes));
        server.create(&sale)
    };
    let created = window("claims-early", "2098-01-01T08:00:00+08:00", "2099-01-01T00:00:00Z");
    assert_eq!(created.field("opens_at")[..19], *"2098-01-01T00:00:00", "any offset in, UTC out");
    assert!(created.field("opens_at").ends_with('Z'));
    let early = server.call(&claim("claims-early", "u1"));
    assert_eq!(early.expect(409, "not-open").field("opens_at")[..19], *"2098-01-01T00:00:00");
    let seconds: u64 = early.header("retry-after").expect("a time to come back").parse().unwrap();
    assert!(seconds > 365 * 86_400, "{seconds}");
    window("claims-late", "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z");
    server.call(&claim("claims-late", "u1")).expect(409, "ended");
    server.create(&flash_sale("claims-held", 10));
    let id = server.claimed("claims-held", "winner")["claim_id"].clone();
    for (state, slug) in [("paused", "paused"), ("closed", "ended")] {
        assert_eq!(server.change("claims-held", &json!({ "state": state })).status, 200);
        server.call(&claim("claims-held", "u1")).expect(409, slug);
        let holder = server.call(&claim("claims-held", "winner"));
        assert_eq!(holder.expect(409, "already-claimed").json()["claim_id"], id, "{state}: a holder is told so");
    }
}

#[test]
fn paths_are_decoded_once_and_ids_may_have_all_their_letters() {
    let server = crate::shared();
    let id = "A0._:@|+=-z";
    server.create(&flash_sale(id, 10));
    let path = "/v1/campaigns/%410._:%40%7C%2B%3D-z/claims";
    let taken = server.call(&Request::post(path, &json!({"user": "U.1_:@|+=-"})));
    assert_eq!(taken.status, 202, "{}", taken.text());
    assert_eq!((taken.field("campaign"), taken.field("user")), (id.to_owned(), "U.1_:@|+=-".to_owned()));
    let longest = "u".repeat(64);
    assert_eq!(server.claimed(id, &longest)["user"], longest.as_str());
}

#[test]
fn a_media_type_may_say_utf_8_and_nothing_else() {
    let server = crate::shared();
    server.create(&flash_sale("claims-media", 10));
    for (no, media) in
        ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\""].iter().enumerate()
    {
        let body = json!({"user": format!("u{no}")}).to_string();
        let request = Request::new("POST", "/v1/campaigns/claims-media/claims").body(media, body);
        assert_eq!(server.call(&request).status, 202, "{media}");
    }
}

#[test]
fn a_claim_without_a_price_has_no_amount() {
    let server = crate::shared();
    let mut free = flash_sale("claims-free", 10);
    (free["price"], free["currency"]) = (Value::Null, Value::Null);
    server.create(&free);
    let claim = server.claimed("claims-free", "u1");
    assert_eq!((&claim["amount"], &claim["currency"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_red_packet_handed_out_completely_sums_to_its_total() {
    let server = crate::shared();
    server.create(&red_packet("claims-packet", 18, 100));
    let mut connection = Connection::open(server.public).unwrap();
    let mut amounts = Vec::new();
    for no in 0..18 {
        let answer = connection.call(&claim("claims-packet", &format!("u{no}"))).unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text());
        amounts.push(answer.json()["amount"].as_i64().unwrap());
    }
    assert!(amounts.iter().all(|&a| a >= 1), "{amounts:?}");
    assert_eq!(amounts.iter().sum::<i64>(), 100, "{amounts:?}");
    server.call(&claim("claims-packet", "late")).expect(409, "sold-out");
    let balance = server.drained("claims-packet");
    assert_eq!((&balance["money"]["persisted"], &balance["money"]["free"]), (&json!(100), &json!(0)), "{balance}");
    assert_eq!(balance["money"]["error"], 0);
}

#[test]
fn memory_durability_is_said_in_every_answer() {
    let site = Site::new().text("buffer.durability", "memory");
    let server = site.start();
    server.create(&limited("memory", 10, 2));
    let request = claim("memory", "u1").key("k");
    let first = server.call(&request).json();
    assert_eq!(first["durability"], "memory");
    assert_eq!(server.call(&request).json()["durability"], "memory", "a replay");
    let id = first["claim_id"].as_str().unwrap();
    assert_eq!(server.call(&Request::get(&format!("/v1/claims/{id}"))).json()["durability"], "memory", "a read");
    server.drained("memory");
    assert_eq!(site.sql("SELECT durability FROM claims"), [["memory"]], "the row");
}

#[test]
fn a_buyer_who_asks_too_often_is_told_when_to_come_back() {
    let site = Site::new().text("antiscalper.user_rate", "3/m").text("antiscalper.address_rate", "20/h");
    let server = site.start();
    server.create(&flash_sale("rate", 100));
    assert_eq!(server.call(&claim("rate", "hasty")).status, 202);
    let answers: Vec<_> = (0..4).map(|_| server.call(&claim("rate", "hasty"))).collect();
    let slugs: Vec<_> = answers.iter().map(|a| a.slug()).collect();
    assert_eq!(slugs, ["already-claimed", "already-claimed", "rate-limited", "rate-limited"]);
    let refused = answers[3].expect(429, "rate-limited");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=21).contains(&wait), "{wait}");
    assert_eq!(refused.header("ratelimit-policy"), Some("\"user\";q=3;w=60"));
    assert!(refused.header("ratelimit").unwrap().starts_with("\"user\";r=0;t="), "{:?}", refused.headers);
    assert_eq!(server.call(&claim("rate", "calm")).status, 202, "others are not held up");
    let by_address = (0..30).map(|no| server.call(&claim("rate", &format!("u{no}")))).find(|a| a.status == 429);
    let policy = by_address.expect("the address has its own rate");
    assert!(policy.header("ratelimit-policy").unwrap().starts_with("\"address\";q=20;w=3600"));
    assert_eq!(server.balance("rate")["stock"], 100);
}
