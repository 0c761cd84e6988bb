//! Sales in which nothing fails: what they cost and how soon every gate hears of what happened at another.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::run::{Run, Scenario};
use crate::support::http::{self, Answer, Request};
use crate::support::sale::{batch, claim, end, flash_sale};
use crate::support::within;
use crate::world::{ALL, World};

/// How soon every gate must know that there is stock again: what is promised is a second.
const REOPENS_MAX: Duration = Duration::from_secs(5);

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    ("a_sale_in_which_nothing_fails", plain),
    ("refusals_of_a_sold_out_sale_cost_redis_nothing", sold_out),
    ("stock_that_comes_back_is_sold_by_every_gate", restocked),
];

fn plain(run: &mut Run<'_>) {
    run.takes_all = true;
    batches_are_decided_in_their_order(run.world, &run.load.campaigns().tag);
    for _ in 0..3 {
        run.calm();
    }
}

/// One with a key goes another way to Redis than one without, and neither overtakes the other.
fn batches_are_decided_in_their_order(world: &World, tag: &str) {
    let id = format!("order-{tag}");
    world.create(0, &flash_sale(&id, 100));
    let both = json!([{"user": "u", "idempotency_key": "k"}, {"user": "u"}, {"user": "v"}, {"user": "v", "idempotency_key": "k"}]);
    for is_repeated in [false, true] {
        let answer = ask(world, 0, &batch(&id, &both)).json();
        let outcomes = answer["outcomes"].as_array().expect("outcomes").clone();
        let told: Vec<_> =
            outcomes.iter().map(|one| (one["replayed"].as_bool(), one["problem"]["claim_id"].as_str())).collect();
        let held = outcomes[0]["claim"]["claim_id"].as_str();
        assert_eq!(told[..2], [(Some(is_repeated), None), (None, held)], "{answer}");
        let other = outcomes[2]["claim"]["claim_id"].as_str().or(told[2].1);
        assert!(other.is_some() && told[3] == (None, other), "{answer}");
    }
}

fn ask(world: &World, gate: usize, request: &Request) -> Answer {
    http::once(world.gates[gate].site.public, request, Duration::from_secs(5)).expect("an answer")
}

/// A sale of the scenario's own, sold out; its name and the claims of those who were first.
fn sell_out(run: &mut Run<'_>, stock: i64) -> (String, Vec<serde_json::Value>) {
    let id = format!("own-{}", run.load.campaigns().tag);
    run.world.create(0, &flash_sale(&id, stock));
    let mut claims = Vec::new();
    for no in 0..stock {
        let answer = ask(run.world, no as usize % ALL.len(), &claim(&id, &format!("first{no}")));
        assert_eq!(answer.status, 202, "{}", answer.text());
        claims.push(answer.json());
    }
    for gate in ALL {
        within(REOPENS_MAX, "every gate knows that it is sold out", || {
            let answer = ask(run.world, gate, &claim(&id, "late"));
            (answer.slug() == "sold-out").then_some(())
        });
    }
    (id, claims)
}

/// Calls of functions that Redis has had so far.
fn calls(world: &World) -> u64 {
    let line = world.redis.info("commandstats", "cmdstat_fcall").expect("it was called");
    let calls = line.split(',').find_map(|part| part.strip_prefix("calls=")).expect("a number of calls");
    calls.parse().expect("a number")
}

fn sold_out(run: &mut Run<'_>) {
    const REFUSALS: usize = 600;
    run.calm();
    run.load.hold();
    let (id, first) = sell_out(run, 20);
    winners_are_told(run.world, &id, &first);
    run.world.drained();
    // What workers and gates ask for all the time.
    let (start, before) = (Instant::now(), calls(run.world));
    std::thread::sleep(Duration::from_secs(1));
    let usual = (calls(run.world) - before) as f64 / start.elapsed().as_secs_f64();
    let (start, before) = (Instant::now(), calls(run.world));
    for gate in ALL {
        let mut connection = http::Connection::open(run.world.gates[gate].site.public).expect("a connection");
        for no in 0..REFUSALS / ALL.len() {
            let answer = connection.call(&claim(&id, &format!("r{no}"))).expect("an answer");
            answer.expect(409, "sold-out");
        }
    }
    let (took, asked) = (start.elapsed(), calls(run.world) - before);
    let expected = usual * took.as_secs_f64();
    run.figures.text("refusals", format!("{REFUSALS} in {:.0} ms", took.as_secs_f64() * 1e3));
    run.figures.text("calls", format!("{asked}, without them {expected:.0}"));
    assert!((asked as f64) < expected * 1.5 + 60.0, "{asked} calls, without the refusals it were {expected:.0}");
    // Gates know by now who holds claims, and ask Redis about nobody else.
    winners_are_told(run.world, &id, &first);
    run.load.go_on();
    run.calm();
}

/// Whoever has a claim and asks again is told of it, at every gate, whatever became of the sale.
fn winners_are_told(world: &World, id: &str, first: &[serde_json::Value]) {
    for gate in ALL {
        for (no, held) in first.iter().enumerate() {
            let answer = ask(world, gate, &claim(id, &format!("first{no}")));
            answer.expect(409, "already-claimed");
            assert_eq!(answer.json()["claim_id"], held["claim_id"], "buyer {no} at gate {gate}");
        }
    }
}

/// Waits until the gate says yes to somebody; how long that took.
fn sells(world: &World, gate: usize, id: &str, since: Instant, who: &str) -> Duration {
    let mut no = 0;
    within(REOPENS_MAX, &format!("gate {gate} sells what came back"), || {
        no += 1;
        let answer = ask(world, gate, &claim(id, &format!("{who}-{no}")));
        assert!(answer.status == 202 || answer.slug() == "sold-out", "{}", answer.text());
        (answer.status == 202).then_some(())
    });
    since.elapsed()
}

fn restocked(run: &mut Run<'_>) {
    let (id, claims) = sell_out(run, 12);
    let mut slowest = Duration::ZERO;
    for by in ALL {
        run.world.change(by, &id, &json!({"add_stock": ALL.len()}));
        let since = Instant::now();
        for gate in ALL {
            slowest = slowest.max(sells(run.world, gate, &id, since, &format!("restock-{by}-{gate}")));
        }
    }
    run.figures.time("restocked within", Some(slowest));
    let mut slowest = Duration::ZERO;
    for (no, gate) in ALL.into_iter().enumerate() {
        let by = (gate + 1) % ALL.len();
        let answer = ask(run.world, by, &end(&claims[no], "cancel"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        slowest = slowest.max(sells(run.world, gate, &id, Instant::now(), &format!("cancel-{gate}")));
    }
    run.figures.time("given back within", Some(slowest));
    run.calm();
    let rows = run.world.drained();
    run.figures.time("drained", Some(rows));
    let stock = 12 + 9;
    let sum = format!("SELECT sum(quantity) FROM claims WHERE campaign = '{id}' AND status = 'persisted'");
    assert_eq!(run.world.sql(&sum), [[stock.to_string()]], "all is sold again");
    let balance = run.world.balance(0, &id);
    assert_eq!((&balance["error"], &balance["free"], &balance["persisted"]), (&json!(0), &json!(0), &json!(stock)));
}
