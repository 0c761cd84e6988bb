//! What befalls Redis, and the way to it.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::redis::ask;
use crate::run::{Run, Scenario};
use crate::support::http::{Answer, Request};
use crate::support::proxy::{Cut, Proxy};
use crate::support::sale::{claim, flash_sale, limited};
use crate::support::{PATIENCE, free_port, http, within};
use crate::world::{ALL, World};

/// Gates that reach Redis through a proxy.
const PROXIED: &[usize] = &[0, 1];

/// All that can befall it.
pub const SCENARIOS: &[Scenario] = &[
    ("redis_is_killed_and_started_again", killed),
    ("redis_is_killed_in_the_middle_of_a_rewrite_of_its_file", killed_in_a_rewrite),
    ("redis_stands_still", stopped),
    ("redis_comes_back_empty", emptied),
    ("redis_comes_back_empty_and_the_database_has_not_got_the_last_claims", emptied_with_a_backlog),
    ("redis_comes_back_as_it_was_before", old),
    ("redis_comes_back_as_it_was_before_and_the_database_has_not_got_the_last_claims", old_with_a_backlog),
    ("what_another_gate_said_again_outlives_its_own_gate_and_redis", said_again),
    ("redis_is_emptied_by_somebody", flushed),
    ("redis_is_read_anew_from_its_file", reloaded),
    ("a_replica_that_is_behind_takes_over", failed_over),
    ("two_gates_and_a_worker_do_not_reach_redis", refused),
    ("connections_to_redis_break_before_and_after_calls", cut),
    ("redis_closes_all_connections_again_and_again", closed),
    ("redis_is_full", full),
    ("redis_has_no_room_for_connections", crowded),
    ("redis_is_a_replica_for_a_while", read_only),
    ("redis_is_loading_for_long", loading),
    ("redis_is_busy", busy),
    ("redis_forgets_its_functions", without_functions),
];

fn kill(world: &mut World) {
    world.redis.kill();
}

fn start(world: &mut World) {
    world.redis.run(&[]);
}

fn killed(run: &mut Run<'_>) {
    run.calm();
    run.outage(&ALL, run.scale.gone, kill, start);
    run.calm();
    // And at once.
    run.world.redis.kill();
    run.world.redis.run(&[]);
    run.again(&ALL, Instant::now());
    run.calm();
}

fn killed_in_a_rewrite(run: &mut Run<'_>) {
    for pause in [1, 15, 60] {
        run.calm();
        run.world.redis.must(&["BGREWRITEAOF"]);
        std::thread::sleep(Duration::from_millis(pause));
        run.world.redis.kill();
        run.world.redis.run(&[]);
        run.again(&ALL, Instant::now());
    }
    run.calm();
}

fn stopped(run: &mut Run<'_>) {
    run.calm();
    let stop = |world: &mut World| world.redis.signal(Signal::STOP);
    run.outage(&ALL, run.scale.still, stop, |world| world.redis.signal(Signal::CONT));
    run.calm();
}

fn emptied(run: &mut Run<'_>) {
    run.calm();
    let start_empty = |world: &mut World| {
        world.redis.forget();
        world.redis.run(&[]);
    };
    run.outage(&ALL, run.scale.gone, kill, start_empty);
    run.calm();
}

/// Kills Redis and changes its files, while the database is away and the last claims are in Redis and with their gates only.
fn changed_with_a_backlog(run: &mut Run<'_>, change: impl FnOnce(&World)) {
    run.world.store_proxy.refuse(true);
    run.calm();
    let waiting = run.world.waiting();
    assert!(waiting.is_some_and(|waiting| waiting > 0), "{waiting:?} entries wait");
    run.figures.text("waiting", waiting.unwrap_or_default());
    run.world.redis.kill();
    change(run.world);
    run.world.redis.run(&[]);
    run.world.store_proxy.refuse(false);
    run.again(&ALL, Instant::now());
    run.calm();
}

fn emptied_with_a_backlog(run: &mut Run<'_>) {
    run.calm();
    changed_with_a_backlog(run, |world| world.redis.forget());
}

fn old(run: &mut Run<'_>) {
    let copy = run.world.redis.copy();
    run.calm();
    run.world.redis.kill();
    run.world.redis.put_back(&copy);
    run.world.redis.run(&[]);
    run.again(&ALL, Instant::now());
    run.calm();
}

fn old_with_a_backlog(run: &mut Run<'_>) {
    run.calm();
    // Of the backlog a part is in the copy, the rest with the gates.
    run.world.store_proxy.refuse(true);
    run.calm();
    let copy = run.world.redis.copy();
    changed_with_a_backlog(run, |world| world.redis.put_back(&copy));
}

/// Redis takes a claim whose gate never hears of it and dies. Another gate is asked again; its answer.
fn asked_again(run: &mut Run<'_>, request: &Request) -> Answer {
    let fired = run.world.gate_proxies[0].fired();
    run.world.gate_proxies[0].cut_off(Cut::After);
    let (gate, other) = (run.world.gates[0].site.public, run.world.gates[2].site.public);
    let asking = std::thread::spawn({
        let request = request.clone();
        move || http::once(gate, &request, PATIENCE)
    });
    within(PATIENCE, "the call's answer is lost", || (run.world.gate_proxies[0].fired() > fired).then_some(()));
    run.world.gates[0].kill();
    let first = asking.join().expect("no panic");
    assert!(first.is_err(), "{first:?}");
    run.world.gate_proxies[0].refuse(false);
    let answer = http::once(other, request, PATIENCE).expect("an answer");
    run.figures.text("said again", format!("{} {}", answer.status, answer.slug()).trim());
    answer
}

/// Another gate says yes, or that the buyer has it already; then Redis comes back empty. What was said must be true.
fn said_again(run: &mut Run<'_>) {
    let tag = run.load.campaigns().tag.clone();
    let (one, keyed) = (format!("own-{tag}"), format!("own-keyed-{tag}"));
    run.world.create(0, &flash_sale(&one, 100));
    run.world.create(0, &limited(&keyed, 100, 2));
    run.calm();
    run.load.hold();
    run.load.close(0, true);
    run.world.drained();
    run.world.store_proxy.refuse(true);
    let mut said = Vec::new();
    for (campaign, request) in [(&one, claim(&one, "u")), (&keyed, claim(&keyed, "u").key("the-key"))] {
        let answer = asked_again(run, &request);
        if answer.status == 202 || answer.slug() == "already-claimed" {
            said.push((campaign, answer.field("claim_id")));
        } else {
            answer.expect(503, &answer.slug());
        }
        if campaign == &one {
            run.world.gates[0].start();
            run.world.ready(&[0]);
        }
    }
    run.world.redis.kill();
    run.world.redis.forget();
    run.world.redis.run(&[]);
    run.world.store_proxy.refuse(false);
    run.world.gates[0].start();
    let up = Instant::now();
    run.load.close(0, false);
    run.load.go_on();
    run.again(&ALL, up);
    run.calm();
    run.world.drained();
    let rows = |campaign: &str| run.world.sql(&format!("SELECT claim_id FROM claims WHERE campaign = '{campaign}'"));
    let there: Vec<_> = said.iter().map(|(campaign, id)| (campaign, rows(campaign) == [[id.as_str()]])).collect();
    assert!(there.iter().all(|(_, is_there)| *is_there), "told, and there? {there:?}, {}", run.figures);
}

fn flushed(run: &mut Run<'_>) {
    run.calm();
    run.world.redis.must(&["FLUSHALL", "SYNC"]);
    run.again(&ALL, Instant::now());
    run.calm();
    run.world.store_proxy.refuse(true);
    run.calm();
    run.world.redis.must(&["FLUSHALL", "SYNC"]);
    std::thread::sleep(run.scale.calm);
    run.world.store_proxy.refuse(false);
    run.again(&ALL, Instant::now());
    run.calm();
}

fn reloaded(run: &mut Run<'_>) {
    for _ in 0..2 {
        run.calm();
        // With appendonly it loads the file that it has written last.
        run.world.redis.must(&["DEBUG", "LOADAOF"]);
        run.again(&ALL, Instant::now());
    }
    run.calm();
}

/// A Redis that repeats what the first one says takes its place, without what it has not heard of.
fn failed_over(run: &mut Run<'_>) {
    let port = run.world.redis.port;
    let mut replica = crate::redis::Redis::start();
    replica.must(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
    within(PATIENCE, "the replica has all", || {
        (replica.info("replication", "master_link_status").as_deref() == Some("up")).then_some(())
    });
    run.calm();
    replica.signal(Signal::STOP);
    // What is acknowledged now the replica never hears of.
    run.world.store_proxy.refuse(true);
    run.calm();
    run.world.redis.kill();
    replica.signal(Signal::CONT);
    within(PATIENCE, "the replica knows that it is alone", || {
        (replica.info("replication", "master_link_status").as_deref() == Some("down")).then_some(())
    });
    replica.must(&["REPLICAOF", "NO", "ONE"]);
    // Whoever went to the first one goes to it now, and it is the one that scenarios to come do things to.
    replica.must(&["CONFIG", "SET", "port", &port.to_string()]);
    replica.port = port;
    run.world.redis = replica;
    run.world.store_proxy.refuse(false);
    run.again(&ALL, Instant::now());
    run.calm();
}

fn refused(run: &mut Run<'_>) {
    run.calm();
    let refuse =
        |world: &World, yes: bool| world.gate_proxies.iter().chain(&world.worker_proxies).for_each(|p| p.refuse(yes));
    run.outage(PROXIED, run.scale.gone, |world| refuse(world, true), |world| refuse(world, false));
    run.calm();
}

fn fired(world: &World) -> u64 {
    world.gate_proxies.iter().map(Proxy::fired).sum()
}

fn cut(run: &mut Run<'_>) {
    run.calm();
    let before = fired(run.world);
    for no in 0..4 * run.scale.times {
        let proxy = &run.world.gate_proxies[no / 2 % PROXIED.len()];
        let was = proxy.fired();
        proxy.cut(if no % 2 == 0 { Cut::After } else { Cut::Before });
        within(PATIENCE, "a connection breaks at a call", || (proxy.fired() > was).then_some(()));
    }
    let fired = fired(run.world) - before;
    run.figures.text("calls cut", fired);
    run.again(PROXIED, Instant::now());
    run.calm();
}

fn closed(run: &mut Run<'_>) {
    run.calm();
    for _ in 0..2 * run.scale.times {
        run.world.redis.must(&["CLIENT", "KILL", "TYPE", "normal"]);
        std::thread::sleep(Duration::from_millis(70));
    }
    run.again(&ALL, Instant::now());
    run.calm();
}

fn full(run: &mut Run<'_>) {
    run.calm();
    let set = |world: &mut World, limit: &str| drop(world.redis.must(&["CONFIG", "SET", "maxmemory", limit]));
    let before = run.world.retired();
    run.outage(&ALL, run.scale.gone, |world| set(world, "1mb"), |world| set(world, "0"));
    // What is full is emptied: workers make room.
    assert!(run.world.retired() > before, "nothing was drained: {before:?}");
    run.calm();
}

fn crowded(run: &mut Run<'_>) {
    run.calm();
    let mut operator = run.world.redis.connect().expect("a connection");
    let mut tell = |words: &[&str]| ask(&mut operator, words).unwrap_or_else(|e| panic!("{words:?}: {e}"));
    let down = Instant::now();
    tell(&["CONFIG", "SET", "maxclients", "1"]);
    tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    std::thread::sleep(run.scale.gone);
    run.refused(&ALL, down);
    tell(&["CONFIG", "SET", "maxclients", "10000"]);
    run.again(&ALL, Instant::now());
    run.calm();
}

fn read_only(run: &mut Run<'_>) {
    run.calm();
    // Nobody listens there: it keeps what it has.
    let port = free_port().to_string();
    let follow = |world: &mut World| drop(world.redis.must(&["REPLICAOF", "127.0.0.1", &port]));
    let lead = |world: &mut World| drop(world.redis.must(&["REPLICAOF", "NO", "ONE"]));
    run.outage(&ALL, run.scale.gone, follow, lead);
    run.calm();
}

fn loading(run: &mut Run<'_>) {
    run.calm();
    // Each of these keys, in a file of the form in which loading can be slowed down, delays it.
    let fill = "for i = 1, 400 do redis.call('SET', 'filler:' .. i, string.rep('x', 200)) end";
    run.world.redis.must(&["EVAL", fill, "0"]);
    run.world.redis.must(&["BGREWRITEAOF"]);
    within(PATIENCE, "the file is rewritten", || {
        (run.world.redis.info("persistence", "aof_rewrite_in_progress").as_deref() == Some("0")).then_some(())
    });
    let down = Instant::now();
    run.world.redis.kill();
    run.world.redis.run(&["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"]);
    let is_loading = |world: &World| world.redis.ask(&["PING"]).is_err_and(|error| error.code() == Some("LOADING"));
    std::thread::sleep(run.scale.gone);
    assert!(is_loading(run.world), "it has loaded already");
    run.refused(&ALL, down);
    run.world.redis.must(&["CONFIG", "SET", "key-load-delay", "0"]);
    within(PATIENCE, "it has loaded", || (!is_loading(run.world)).then_some(()));
    run.again(&ALL, Instant::now());
    run.world.redis.must(&["EVAL", "for i = 1, 400 do redis.call('DEL', 'filler:' .. i) end", "0"]);
    run.calm();
}

fn busy(run: &mut Run<'_>) {
    run.calm();
    run.world.redis.must(&["CONFIG", "SET", "busy-reply-threshold", "50"]);
    let mut script = run.world.redis.connect().expect("a connection");
    let begin = move |_: &mut World| {
        std::thread::spawn(move || ask(&mut script, &["EVAL", "while true do end", "0"]));
    };
    let end = |world: &mut World| drop(world.redis.must(&["SCRIPT", "KILL"]));
    run.outage(&ALL, run.scale.gone, begin, end);
    run.calm();
}

fn without_functions(run: &mut Run<'_>) {
    run.calm();
    for _ in 0..run.scale.times / 2 {
        run.world.redis.must(&["FUNCTION", "FLUSH", "SYNC"]);
        run.again(&ALL, Instant::now());
        std::thread::sleep(run.scale.calm / 2);
    }
    run.calm();
}
