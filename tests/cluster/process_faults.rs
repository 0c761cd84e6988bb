//! What befalls gates and workers.

use std::time::{Duration, Instant};

use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rustix::process::Signal;

use crate::clock;
use crate::events::Said;
use crate::run::{Run, Scenario};
use crate::support::http::Request;
use crate::support::sale::{claim, end, flash_sale};
use crate::support::{PATIENCE, http, stderr, stdout, within};
use crate::world::{ALL, GATES, WORKERS, World};

/// The lease of a partition, as it is configured.
const LEASE: Duration = Duration::from_secs(2);

/// How long anybody else may need on top of what is promised, on a machine that runs all of this at once.
const SLACK: Duration = Duration::from_secs(8);

/// All that can befall them.
pub const SCENARIOS: &[Scenario] = &[
    ("gates_are_killed_and_started_again", gate_killed),
    ("gates_end_and_start_again_one_after_the_other", gate_restarted),
    ("a_gate_stands_still_and_goes_on", gate_stopped),
    ("gates_and_workers_die_at_named_points", died_at_points),
    ("the_active_worker_is_killed", worker_killed),
    ("the_active_worker_ends_and_the_other_goes_on", worker_ended),
    ("the_active_worker_stands_still_beyond_its_lease", worker_stopped),
    ("no_worker_for_a_while", without_workers),
    ("everything_is_killed_at_once", all_killed),
    ("everything_starts_in_any_order", orders_of_start),
    ("clocks_are_wrong_by_an_hour", wrong_clocks),
    ("a_gate_that_never_comes_back_keeps_an_emptied_redis_closed", lost_gate),
    ("a_gate_that_is_dismissed_while_it_serves_acknowledges_nothing_more", dismissed_alive),
    ("what_a_dismissed_gate_had_is_given_up_and_it_may_not_serve_again", lost_claims),
];

fn gate_killed(run: &mut Run<'_>) {
    run.calm();
    for gate in ALL {
        run.world.gates[gate].kill();
        std::thread::sleep(run.scale.gone / 3);
        run.world.gates[gate].start();
        let up = Instant::now();
        run.world.ready(&[gate]);
        run.again(&[gate], up);
    }
    run.calm();
}

fn gate_restarted(run: &mut Run<'_>) {
    run.calm();
    for gate in ALL {
        run.world.gates[gate].stop();
        run.world.gates[gate].start();
        let up = Instant::now();
        run.world.ready(&[gate]);
        run.again(&[gate], up);
    }
    run.calm();
}

fn gate_stopped(run: &mut Run<'_>) {
    run.calm();
    let others = [0, 2];
    let down = Instant::now();
    run.world.gates[1].signal(Signal::STOP);
    std::thread::sleep(run.scale.still);
    run.world.gates[1].signal(Signal::CONT);
    let up = Instant::now();
    let served = run.load.events().count(&others, down, up, Said::Yes);
    assert!(served > 0, "the other gates stood still, too");
    run.again(&[1], up);
    run.calm();
}

/// The points at which processes die, each with the most visits to let pass first.
const GATE_POINTS: [(&str, u64); 4] =
    [("journal.after_write", 60), ("journal.after_sync", 60), ("journal.segment_prepared", 2), ("journal.trim", 1)];
const WORKER_POINTS: [(&str, u64); 2] = [("store.before_commit", 8), ("store.after_commit", 8)];

/// Starts a process anew so that it dies at a point, and waits for that; false where it did not come there.
fn dies_at(run: &mut Run<'_>, is_gate: bool, no: usize, (point, most): (&str, u64)) -> bool {
    let at = format!("{point}:{}", rand::Rng::random_range(&mut run.random, 1..=most));
    let node = if is_gate { &mut run.world.gates[no] } else { &mut run.world.workers[no] };
    node.kill();
    node.start_with(&[("FOREBAY_CRASH_AT", &at)]);
    let end = Instant::now() + Duration::from_secs(3);
    while node.runs() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    let has_died = !node.runs();
    if has_died {
        node.gone()
    } else {
        node.kill()
    }
    node.start();
    has_died
}

fn died_at_points(run: &mut Run<'_>) {
    run.calm();
    let mut died = 0;
    for round in 0..run.scale.times / 2 {
        let point = GATE_POINTS[..2].choose(&mut run.random).copied().expect("there are points");
        let point = if round % 8 == 7 { GATE_POINTS[2 + round / 8 % 2] } else { point };
        let gate = round % GATES;
        died += u64::from(dies_at(run, true, gate, point));
        let up = Instant::now();
        run.world.ready(&[gate]);
        run.again(&[gate], up);
        let point = WORKER_POINTS.choose(&mut run.random).copied().expect("there are points");
        let worker = run.world.active();
        died += u64::from(dies_at(run, false, worker, point));
    }
    run.drains_on("drains again after");
    run.figures.text("died", died);
    assert!(died >= run.scale.times as u64 / 3, "only {died} died at a point");
    run.calm();
}

fn worker_killed(run: &mut Run<'_>) {
    run.takes_all = true;
    for _ in 0..2 {
        run.calm();
        let active = run.world.active();
        run.world.workers[active].kill();
        let down = Instant::now();
        run.drains_on("taken over after");
        assert!(down.elapsed() < LEASE + SLACK, "the other one took over after {:?}", down.elapsed());
        run.world.workers[active].start();
    }
    run.calm();
}

fn worker_ended(run: &mut Run<'_>) {
    run.takes_all = true;
    run.calm();
    let active = run.world.active();
    run.world.workers[active].stop();
    run.drains_on("taken over after");
    run.world.workers[active].start();
    run.calm();
}

fn worker_stopped(run: &mut Run<'_>) {
    run.takes_all = true;
    run.calm();
    let active = run.world.active();
    run.world.workers[active].signal(Signal::STOP);
    run.drains_on("taken over after");
    std::thread::sleep(run.scale.still.max(LEASE));
    // It wakes in the middle of what it was doing, and another one has gone on with it.
    run.world.workers[active].signal(Signal::CONT);
    run.calm();
    run.drains_on("drains on after");
    run.calm();
}

fn without_workers(run: &mut Run<'_>) {
    run.takes_all = true;
    run.calm();
    run.world.workers.iter_mut().for_each(|worker| worker.kill());
    std::thread::sleep(run.scale.gone);
    run.calm();
    let waiting = run.world.waiting().unwrap_or_default();
    assert!(waiting > 0, "somebody drains");
    run.figures.text("waiting", waiting);
    run.world.workers.iter_mut().for_each(|worker| worker.start());
    run.drains_on("drains again after");
    run.calm();
}

fn kill_all(world: &mut World) {
    let nodes = world.gates.iter_mut().chain(&mut world.workers);
    nodes.for_each(|node| node.kill());
    world.redis.kill();
    world.postgres.crash();
}

fn all_killed(run: &mut Run<'_>) {
    run.calm();
    kill_all(run.world);
    run.world.postgres.run();
    run.world.redis.run(&[]);
    run.world.workers.iter_mut().chain(&mut run.world.gates).for_each(|node| node.start());
    run.again(&ALL, Instant::now());
    run.calm();
}

/// What can be started.
#[derive(Debug, Clone, Copy)]
enum Part {
    Redis,
    Database,
    Gate(usize),
    Worker(usize),
}

fn orders_of_start(run: &mut Run<'_>) {
    let mut parts = vec![Part::Redis, Part::Database];
    parts.extend((0..GATES).map(Part::Gate).chain((0..WORKERS).map(Part::Worker)));
    for _ in 0..run.scale.times / 2 {
        run.calm();
        kill_all(run.world);
        parts.shuffle(&mut run.random);
        println!("cluster: starting {parts:?}");
        for part in &parts {
            match *part {
                Part::Redis => run.world.redis.run(&[]),
                Part::Database => run.world.postgres.run(),
                Part::Gate(no) => run.world.gates[no].start(),
                Part::Worker(no) => run.world.workers[no].start(),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        run.again(&ALL, Instant::now());
    }
    run.calm();
}

fn wrong_clocks(run: &mut Run<'_>) {
    const HOUR: i64 = 3_600;
    run.calm();
    let set = |run: &mut Run<'_>, hours: [i64; 5]| {
        let nodes = run.world.gates.iter_mut().chain(&mut run.world.workers);
        for (node, hours) in nodes.zip(hours) {
            node.stop();
            let environment = clock::off_by(hours * HOUR);
            node.start_with(&environment.each_ref().map(|(name, value)| (*name, value.as_str())));
        }
        let up = Instant::now();
        run.world.ready(&ALL);
        run.again(&ALL, up);
        run.drains_on("drains on after");
        run.calm();
    };
    set(run, [1, -1, 0, -1, 1]);
    let dates = run.world.rows_accepted_between(&run.load.campaigns().tag);
    assert!(dates < 3_000.0, "claims of one minute were accepted {dates} seconds apart");
    // And they go back, and forth.
    set(run, [-1, 1, 0, 1, -1]);
    set(run, [0; 5]);
    let expired = "SELECT count(*) FROM claims WHERE status = 'expired'";
    assert_eq!(run.world.sql(expired), [["0"]], "a wrong clock ends nobody's claim");
}

/// The gate that is lost in the last two scenarios, and those that are left.
const LOST: usize = 1;
const LEFT: [usize; 2] = [0, 2];

/// Starts Redis empty without one of the gates; it stays closed until an operator says that this gate will not come back.
fn dismiss(run: &mut Run<'_>) {
    let id = run.world.gates[LOST].id();
    run.world.gates[LOST].kill();
    run.load.close(LOST, true);
    run.world.redis.kill();
    run.world.redis.forget();
    run.world.redis.run(&[]);
    run.world.store_proxy.refuse(false);
    run.load.go_on();
    let down = Instant::now();
    run.refused(&LEFT, down);
    std::thread::sleep(run.scale.still);
    let served = run.load.events().count(&LEFT, down, Instant::now(), Said::Yes);
    assert_eq!(served, 0, "it opened without what the lost gate may have");
    let dismissed = run.world.gates[0].site.run(["recover", "--dismiss-gate", &id, "--yes"]);
    assert!(dismissed.status.success(), "{}{}", stdout(&dismissed), stderr(&dismissed));
    run.again(&LEFT, Instant::now());
    run.calm();
}

/// The gate comes back as it was, and must not serve; in a folder of its own it is another gate.
fn return_anew(run: &mut Run<'_>) {
    run.world.gates[LOST].start();
    for _ in 0..20 {
        std::thread::sleep(run.scale.gone / 20);
        let (status, _) = run.world.gates[LOST].readiness();
        assert_ne!(status, 200, "it serves though it was dismissed");
    }
    if run.world.gates[LOST].runs() {
        run.world.gates[LOST].kill()
    } else {
        run.world.gates[LOST].gone()
    }
    std::fs::remove_dir_all(run.world.gates[LOST].site.data()).expect("its folder");
    run.world.gates[LOST].start();
    let up = Instant::now();
    run.load.close(LOST, false);
    run.world.ready(&[LOST]);
    run.again(&[LOST], up);
    run.calm();
}

fn lost_gate(run: &mut Run<'_>) {
    run.calm();
    run.load.hold();
    run.world.drained();
    dismiss(run);
    return_anew(run);
}

fn dismissed_alive(run: &mut Run<'_>) {
    run.calm();
    // Nobody who could tell Redis of it is there.
    run.world.workers.iter_mut().for_each(|worker| worker.kill());
    let id = run.world.gates[LOST].id();
    let dismissed = run.world.gates[0].site.run(["recover", "--dismiss-gate", &id, "--yes"]);
    assert!(dismissed.status.success(), "{}{}", stdout(&dismissed), stderr(&dismissed));
    // Answers that were on their way.
    std::thread::sleep(Duration::from_millis(500));
    let after = Instant::now();
    std::thread::sleep(run.scale.gone / 3);
    let served = run.load.events().count(&[LOST], after, Instant::now(), Said::Yes);
    assert_eq!(served, 0, "a dismissed gate has acknowledged claims");
    let (status, why) = run.world.gates[LOST].readiness();
    assert_eq!(status, 503, "{why}");
    let others = run.load.events().count(&LEFT, after, Instant::now(), Said::Yes);
    assert!(others > 0, "the other gates stood still, too");
    run.world.gates[LOST].kill();
    run.load.close(LOST, true);
    run.world.workers.iter_mut().for_each(|worker| worker.start());
    return_anew(run);
}

fn lost_claims(run: &mut Run<'_>) {
    let own = format!("own-{}", run.load.campaigns().tag);
    run.world.create(LEFT[0], &flash_sale(&own, 100));
    run.calm();
    run.world.store_proxy.refuse(true);
    let paid = paid_elsewhere(run, &own);
    run.calm();
    run.load.hold();
    run.given_up.gate = Some(LOST);
    dismiss(run);
    return_anew(run);
    let rows = format!("SELECT claim_id, status FROM claims WHERE campaign = '{own}'");
    let paid = [[paid, "settled".to_owned()]];
    within(PATIENCE, "what was paid at another gate is a row", || (run.world.sql(&rows) == paid).then_some(()));
}

/// The id of a claim that the gate to be lost has acknowledged, and another one that it is paid.
fn paid_elsewhere(run: &Run<'_>, campaign: &str) -> String {
    let ask = |gate: usize, request: &Request, status: u16| {
        let answer = http::once(run.world.gates[gate].site.public, request, PATIENCE).expect("an answer");
        assert_eq!(answer.status, status, "{}", answer.text());
        answer.json()
    };
    let claimed = ask(LOST, &claim(campaign, "payer"), 202);
    ask(LEFT[0], &end(&claimed, "settle"), 200);
    claimed["claim_id"].as_str().expect("an id").to_owned()
}
