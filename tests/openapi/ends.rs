//! How claims end, what is in carts, and what the database would not take.

use serde_json::{Value, json};

use crate::held::Held;
use crate::support::http::{Answer, Request};
use crate::support::sale::{check_in, claim, claim_of, coupon, end, flash_sale, limited};
use crate::support::{Server, Site, eventually};

/// The rows of two units are refused, and the cart of "stuck", and the ends of its claims.
pub const REFUSE: &str = "CREATE TRIGGER refuse_claim BEFORE INSERT ON claims WHEN NEW.quantity = 2 \
                          BEGIN SELECT RAISE(ABORT, 'this row is refused'); END; \
                          CREATE TRIGGER refuse_line BEFORE INSERT ON cart_items WHEN NEW.user_id = 'stuck' \
                          BEGIN SELECT RAISE(ABORT, 'this line is refused'); END; \
                          CREATE TRIGGER refuse_end BEFORE UPDATE ON claims WHEN NEW.user_id = 'stuck' \
                          BEGIN SELECT RAISE(ABORT, 'this end is refused'); END";

/// Where the dead letters are.
pub const LETTERS: &str = "/admin/v1/dead-letters";

/// The two operations that end a claim, and their words.
pub const ENDS: [(&str, &str); 2] = [("cancelClaim", "cancel"), ("settleClaim", "settle")];

/// Adds one to a cart.
pub fn add(user: &str, sku: &str) -> Request {
    change(user, &json!({"sku": sku, "op": "add"}))
}

fn change(user: &str, body: &Value) -> Request {
    Request::post(&format!("/v1/carts/{user}/items"), body)
}

/// What gives a letter up.
pub fn drop_letter(id: &Value) -> Request {
    Request::post(&format!("{LETTERS}/{id}/drop"), &json!({"reason": "the buyer's account is gone"}))
}

/// What writes a letter again.
pub fn requeue(id: &Value) -> Request {
    Request::new("POST", &format!("{LETTERS}/{id}/requeue"))
}

pub fn ends_and_carts(held: &Held) {
    let site = Site::new().text("antiscalper.user_rate", "300/h");
    let server = site.start();
    ends(held, &server);
    carts(held, &server);
}

fn ends(held: &Held, server: &Server) {
    let mut ticket = coupon("ticket", 10);
    ticket["reservation_ttl"] = json!("15m");
    for campaign in [flash_sale("sale", 100), ticket, check_in("daily", "Asia/Shanghai")] {
        held.ask(server, "createCampaign", &Request::post("/admin/v1/campaigns", &campaign), 201, "");
    }
    let claimed = |campaign, user: &str| held.ask(server, "claim", &claim(campaign, user), 202, "").json();
    for ((id, what), other) in ENDS.into_iter().zip(["settle", "cancel"]) {
        for campaign in ["sale", "ticket"] {
            let one = claimed(campaign, what);
            let first = held.ask(server, id, &end(&one, what), 200, "");
            let again = held.ask(server, id, &end(&one, what), 200, "");
            assert_eq!(first.json(), again.json());
            let other = held.ask(
                server,
                if id == ENDS[0].0 { ENDS[1].0 } else { ENDS[0].0 },
                &end(&one, other),
                409,
                "wrong-state",
            );
            assert_eq!(other.field("state"), first.field("status"));
            let path = format!("/v1/claims/{}", first.field("claim_id"));
            assert_eq!(held.ask(server, "readClaim", &Request::get(&path), 200, "").json(), first.json());
        }
        let final_one = claimed("daily", what);
        held.ask(server, id, &end(&final_one, what), 409, "wrong-state");
        let one = claimed("sale", &format!("{what}-later"));
        let path = format!("/v1/claims/{}/{what}", one["claim_id"].as_str().expect("checked before"));
        held.ask(server, id, &Request::post(&path, &json!({})), 400, "invalid-request");
        for (segment, slug) in [("0192f0c1-7d2e-8c3a-8f00-3a6b1c2d4e5f", "unknown-claim"), ("%ff", "not-found")] {
            held.ask(server, id, &Request::new("POST", &format!("/v1/claims/{segment}/{what}")), 404, slug);
        }
    }
    for campaign in ["sale", "ticket", "daily"] {
        server.drained(campaign);
        let path = format!("/admin/v1/campaigns/{campaign}");
        let balance = held.ask(server, "readBalance", &Request::get(&format!("{path}/balance")), 200, "").json();
        assert_eq!(balance["money"]["unclaimed"], Value::Null, "{balance}");
        let of_sale = (campaign != "daily").then_some((1, 1));
        let (settled, returned) = of_sale.unwrap_or((0, 0));
        assert_eq!((&balance["settled"], &balance["returned"]), (&json!(settled), &json!(returned)), "{balance}");
        held.ask(server, "exportClaims", &Request::get(&format!("{path}/claims.csv")), 200, "");
        for id in ["readCampaign", "adminReadCampaign"] {
            let path = if id == "readCampaign" { format!("/v1/campaigns/{campaign}") } else { path.clone() };
            let one = held.ask(server, id, &Request::get(&path), 200, "");
            assert_eq!(one.json()["free"].is_null(), campaign == "daily");
        }
    }
    held.ask(server, "readCampaigns", &Request::get("/v1/campaigns"), 200, "");
    held.ask(server, "readClaimsOfUser", &Request::get("/v1/users/settle/claims"), 200, "");
    let close = Request::patch("/admin/v1/campaigns/sale", &json!({"state": "closed"}));
    held.ask(server, "changeCampaign", &close, 200, "");
    let over = Request::get("/admin/v1/campaigns/sale/balance");
    let money = &held.ask(server, "readBalance", &over, 200, "").json()["money"];
    assert_eq!((&money["unclaimed"], money["free"].is_u64()), (&money["free"], true), "{money}");
}

fn carts(held: &Held, server: &Server) {
    let ask = |request: Request, status, slug| held.ask(server, "changeCart", &request, status, slug);
    let read = |path: &str, status, slug| held.ask(server, "readCart", &Request::get(path), status, slug);
    assert_eq!(read("/v1/carts/nobody", 200, "").json()["items"], json!([]));
    let first = ask(add("u1", "s1").key("k"), 202, "");
    let again = ask(add("u1", "s1").key("k"), 202, "");
    let replayed = |answer: &Answer| answer.header("idempotency-replayed").map(str::to_owned);
    assert_eq!((&first.body, replayed(&first), replayed(&again)), (&again.body, None, Some("true".to_owned())));
    ask(add("u1", "s2").key("k"), 422, "idempotency-key-reused");
    ask(change("u1", &json!({"sku": "s\"\\2", "op": "set", "quantity": 3})), 202, "");
    ask(change("u1", &json!({"sku": "s1", "op": "remove"})), 202, "");
    for bad in [json!({}), json!({"sku": "s1", "op": "take"}), json!({"sku": "s1", "op": "remove", "quantity": 1})] {
        ask(change("u1", &bad), 400, "invalid-request");
    }
    ask(add("a%20b", "s1"), 400, "invalid-request");
    ask(add("%ff", "s1"), 404, "not-found");
    let post = |media: &str, body: String| Request::new("POST", "/v1/carts/u1/items").body(media, body);
    ask(post("application/json", " ".repeat(17 * 1024)), 413, "too-large");
    ask(post("text/plain", "{}".into()), 415, "unsupported-media-type");
    (0..200).for_each(|n| drop(ask(add("full", &format!("s{n}")), 202, "")));
    ask(add("full", "one-too-many"), 409, "cart-full");
    eventually("the rate is used up", || {
        let answer = server.call(&add("full", "s1"));
        held.check("changeCart", &answer);
        answer.slug() == "rate-limited"
    });
    for user in ["u1", "full"] {
        let cart = read(&format!("/v1/carts/{user}"), 200, "");
        let tag = cart.header("etag").expect("checked before");
        let same = Request::get(&format!("/v1/carts/{user}")).header("If-None-Match", tag);
        held.ask(server, "readCart", &same, 304, "");
    }
    read("/v1/carts/a%20b", 400, "invalid-request");
    read("/v1/carts/%ff", 404, "not-found");
}

/// A server whose database refused the claims of `users`, two units each, in the campaign "dead"; and the letters.
pub fn with_letters(site: &Site, users: &[&str]) -> (Server, Vec<Value>) {
    let server = site.start();
    server.create(&limited("dead", 10_000, 3));
    server.drained("dead");
    site.sql(REFUSE);
    for user in users {
        server.call(&claim_of("dead", user, 2).key("k")).expect(202, "");
    }
    dead(&server, users.len());
    let found = letters(&server);
    (server, found)
}

/// Waits for so many letters. A batch of which nothing can be written counts as an outage, so something sound comes along.
fn dead(server: &Server, count: usize) {
    eventually("the letters", || {
        server.call(&add("sound", "s1")).expect(202, "");
        letters(server).len() == count
    });
}

fn letters(server: &Server) -> Vec<Value> {
    let all = server.ask_admin(&Request::get(LETTERS)).json();
    all["dead_letters"].as_array().expect("a list").clone()
}

pub fn dead_letters(held: &Held) {
    let site = Site::new();
    let (server, claims) = with_letters(&site, &["u1", "u2", "u3"]);
    let list = |query: &str, status, slug| {
        held.ask(&server, "readDeadLetters", &Request::get(&format!("{LETTERS}{query}")), status, slug)
    };
    let first = list("?limit=1", 200, "");
    let second = list(&format!("?limit=1&cursor={}", first.field("next_cursor")), 200, "");
    assert_eq!((&first.json()["dead_letters"][0], &second.json()["dead_letters"][0]), (&claims[0], &claims[1]));
    for bad in ["?limit=0", "?limit=101", "?cursor=x", "?cursor=0", "?limit=1&limit=2"] {
        list(bad, 400, "invalid-request");
    }
    let stuck = held.ask(&server, "claim", &claim("dead", "stuck").key("k"), 202, "").json();
    server.drained("dead");
    held.ask(&server, "cancelClaim", &end(&stuck, "cancel"), 200, "");
    held.ask(&server, "changeCart", &add("stuck", "s1"), 202, "");
    dead(&server, 5);
    let all = list("", 200, "").json();
    let kinds: Vec<_> = all["dead_letters"].as_array().expect("checked before").iter().map(|l| &l["kind"]).collect();
    assert_eq!(kinds, ["claim", "claim", "claim", "end", "cart"]);
    assert_eq!(all["dead_letters"][4]["campaign"], Value::Null);

    let [of_claim, of_settled, of_given_up] = [&claims[0]["id"], &claims[1]["id"], &claims[2]["id"]];
    let again = |request: Request, status, slug| held.ask(&server, "requeueDeadLetter", &request, status, slug);
    again(requeue(of_claim), 409, "wrong-state");
    site.sql("DROP TRIGGER refuse_claim");
    again(requeue(of_claim), 200, "");
    again(requeue(of_claim).key("retry"), 200, "");
    again(requeue(of_claim).key("a b"), 400, "invalid-request");
    again(requeue(&json!(999)), 404, "not-found");
    held.ask(&server, "dropDeadLetter", &drop_letter(of_claim), 409, "wrong-state");
    for nothing in ["x", "0", "+1", "-1"] {
        again(Request::new("POST", &format!("{LETTERS}/{nothing}/requeue")), 404, "not-found");
        held.ask(
            &server,
            "dropDeadLetter",
            &Request::new("POST", &format!("{LETTERS}/{nothing}/drop")),
            404,
            "not-found",
        );
    }

    let give_up = |request: Request, status, slug| held.ask(&server, "dropDeadLetter", &request, status, slug);
    give_up(drop_letter(of_given_up).header("X-Forebay-Actor", "ada"), 200, "");
    let of_cart = &all["dead_letters"][4]["id"];
    give_up(drop_letter(of_cart), 200, "");
    give_up(drop_letter(of_cart).key("retry"), 200, "");
    again(requeue(of_cart), 409, "wrong-state");
    give_up(drop_letter(&all["dead_letters"][3]["id"]), 409, "wrong-state");
    give_up(drop_letter(&json!(999)), 404, "not-found");
    held.ask(&server, "settleClaim", &end(&claims[1], "settle"), 200, "");
    give_up(drop_letter(of_settled), 409, "wrong-state");
    let path = format!("{LETTERS}/{of_settled}/drop");
    give_up(Request::post(&path, &json!({"reason": " "})), 400, "invalid-request");
    give_up(Request::new("POST", &path).body("application/json", " ".repeat(65 * 1024)), 413, "too-large");
    give_up(Request::new("POST", &path).body("text/plain", "{}"), 415, "unsupported-media-type");
}
