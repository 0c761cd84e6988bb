//! What is done at one gate and read at the others, whose caches have what it was before.

use std::time::Duration;

use serde_json::{Value, json};

use crate::run::{Run, Scenario};
use crate::support::http::{self, Answer, Request};
use crate::support::sale::{claim, end, limited};
use crate::support::within;
use crate::world::{ALL, World};

/// How soon a change that no position tells of is seen: what is promised is the lifetime of what is kept, twice.
const SEEN_MAX: Duration = Duration::from_secs(20);

/// All of them.
pub const SCENARIOS: &[Scenario] = &[("what_one_gate_does_the_others_show", shown)];

fn ask(world: &World, gate: usize, request: &Request) -> Answer {
    http::once(world.gates[gate].site.public, request, Duration::from_secs(5)).expect("an answer")
}

fn get(world: &World, gate: usize, path: &str) -> Value {
    let answer = ask(world, gate, &Request::get(path));
    assert_eq!(answer.status, 200, "{path} at gate {gate}: {}", answer.text());
    answer.json()
}

/// Answers of one level of the caches, at all gates.
fn answered(world: &World, level: &str, result: &str) -> u64 {
    let name = format!("forebay_cache_requests_total{{level=\"{level}\",result=\"{result}\"}} ");
    let at = |gate: usize| {
        let text = world.gates[gate].admin(&Request::get("/metrics")).expect("an answer").text();
        let line = text.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name}")).parse::<u64>().expect("a number")
    };
    ALL.into_iter().map(at).sum()
}

/// Reads at all gates, some more than once, until each remembers it.
fn everywhere(world: &World, path: &str, holds: impl Fn(&Value) -> bool) {
    for gate in ALL.into_iter().chain(ALL) {
        let found = get(world, gate, path);
        assert!(holds(&found), "gate {gate} shows of {path}: {found}");
    }
}

fn shown(run: &mut Run<'_>) {
    run.calm();
    let tag = run.load.campaigns().tag.clone();
    let id = format!("own-{tag}");
    let world = &*run.world;
    world.create(0, &limited(&id, 1_000, 1));
    let before = [answered(world, "local", "hit"), answered(world, "redis", "hit")];
    for round in 0..12 {
        let (by, other) = (ALL[round % ALL.len()], ALL[(round + 1) % ALL.len()]);
        let user = format!("reader-{tag}-{round}");
        let (page, cart) = (format!("/v1/users/{user}/claims"), format!("/v1/carts/{user}"));
        everywhere(world, &page, |page| page["claims"] == json!([]));
        everywhere(world, &cart, |cart| cart["items"] == json!([]));

        let answer = ask(world, by, &claim(&id, &user));
        assert_eq!(answer.status, 202, "{}", answer.text());
        let claimed = answer.json();
        let path = format!("/v1/claims/{}", claimed["claim_id"].as_str().expect("an id"));
        let put = json!({"sku": "s1", "op": "set", "quantity": round + 1});
        let answer = ask(world, by, &Request::post(&format!("{cart}/items"), &put));
        assert_eq!(answer.status, 202, "{}", answer.text());
        let has_line = |cart: &Value| cart["items"] == json!([{"sku": "s1", "quantity": round + 1}]);
        everywhere(world, &path, |claim| claim["user"] == user.as_str());
        everywhere(world, &page, |page| page["claims"][0]["claim_id"] == claimed["claim_id"]);
        everywhere(world, &cart, has_line);
        world.drained();
        everywhere(world, &path, |claim| claim["status"] == "persisted");
        everywhere(world, &page, |page| page["claims"][0]["status"] == "persisted");
        everywhere(world, &cart, has_line);

        let answer = ask(world, by, &end(&claimed, if round % 2 == 0 { "settle" } else { "cancel" }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let now = answer.json()["status"].clone();
        assert_eq!(get(world, other, &path)["status"], now, "at once");
        everywhere(world, &page, |page| page["claims"][0]["status"] == now);
        world.drained();
        everywhere(world, &path, |claim| claim["status"] == now);
        everywhere(world, &page, |page| page["claims"][0]["status"] == now);
    }
    let after = [answered(world, "local", "hit"), answered(world, "redis", "hit")];
    run.figures.text("from memory", after[0] - before[0]);
    run.figures.text("from Redis", after[1] - before[1]);
    assert!(after[0] > before[0] && after[1] > before[1], "no cache has answered: {before:?}, {after:?}");
    by_hand(run, &format!("reader-{tag}-0"));
    run.calm();
}

/// Rows that an operator changes are seen within the lifetime of what is kept.
fn by_hand(run: &mut Run<'_>, user: &str) {
    let cart = format!("/v1/carts/{user}");
    // Redis keeps carts that nobody uses for ten minutes; this one is let go now.
    run.world.redis.must(&["DEL", &format!("forebay:{{0}}:t:{user}")]);
    everywhere(run.world, &cart, |cart| cart["items"][0]["quantity"] == 1);
    // And back again: everything is held against everything in the end.
    for quantity in [77, 1] {
        run.world.sql(&format!("UPDATE cart_items SET quantity = {quantity} WHERE user_id = '{user}'"));
        for gate in ALL {
            within(SEEN_MAX, "what was changed by hand is seen", || {
                (get(run.world, gate, &cart)["items"][0]["quantity"] == quantity).then_some(())
            });
        }
    }
}
