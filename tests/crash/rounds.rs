//! Killed again and again under load, at random instants and at named points.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::client::Client;
use crate::ledger::{self, Ledger, Sold};
use crate::support::http::Request;
use crate::support::sale::{flash_sale, limited, red_packet};
use crate::support::{Server, Site};

/// Rounds of a usual run.
const ROUNDS: u64 = 36;
/// The most rounds between two judgements.
const SERIES: u64 = 200;

/// The points, each with the most visits to let pass first.
const POINTS: [(&str, u64); 7] = [
    ("journal.after_write", 300),
    ("journal.after_sync", 300),
    ("store.before_commit", 8),
    ("store.after_commit", 8),
    ("journal.segment_prepared", 3),
    ("journal.trim", 2),
    ("journal.snapshot_before_rename", 1),
];

/// How long a round waits for its point, in milliseconds: the drain, behind most of them, gives way to all else on a busy machine.
const POINT_MILLIS: u64 = 6_000;

/// A number from the environment.
pub fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Creates campaigns of a round, which a few hundred buyers sell out, and tells the client.
pub fn open_sales(server: &Server, client: &mut Client, round: u64, campaigns: &mut Vec<Sold>) {
    let mut open = |definition: serde_json::Value, kind: &str| {
        let id = definition["id"].as_str().expect("an id").to_owned();
        let request = Request::post("/admin/v1/campaigns", &definition);
        let Ok(answer) = crate::support::http::once(server.admin, &request, Duration::from_secs(5)) else { return };
        if answer.status == 201 || answer.status == 200 {
            let stock = definition["stock"].as_i64().expect("a stock");
            client.sell(&id, kind);
            campaigns.push(Sold { id, stock, total: definition["red_packet"]["total"].as_i64() });
        }
    };
    if round == 0 {
        open(flash_sale("base", 1_000_000), "one");
        open(limited("base-keyed", 1_000_000, 3), "keyed");
    }
    open(flash_sale(&format!("sale-{round}"), 150), "one");
    open(red_packet(&format!("packet-{round}"), 100, 12_345), "packet");
}

struct Tally {
    hit_in_flight: u64,
    points: BTreeMap<&'static str, u64>,
}

/// The most rounds run it with tiny segments, so that they rotate, are trimmed and get snapshots within seconds.
pub fn run() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let (rounds, seed) = (number("FOREBAY_CRASH_ROUNDS", ROUNDS), number("FOREBAY_CRASH_SEED", now));
    println!("crash rounds: FOREBAY_CRASH_ROUNDS={rounds} FOREBAY_CRASH_SEED={seed}");
    series(rounds, SERIES).into_iter().zip(seed..).for_each(|(rounds, seed)| judged(rounds, seed));
}

/// Splits so many rounds into nearly equal series of at most `most`. Each is judged by itself, on folders of its own: a long run tells what
/// it has found by then, and its ledger stays short enough to be read every round.
pub fn series(rounds: u64, most: u64) -> Vec<u64> {
    assert!(rounds > 0, "no rounds prove nothing");
    let count = rounds.div_ceil(most);
    (0..count).map(|no| rounds / count + u64::from(no < rounds % count)).collect()
}

fn judged(rounds: u64, seed: u64) {
    println!("crash rounds: {rounds} with FOREBAY_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::new().env("FOREBAY_SEGMENT_BYTES", "2162688");
    let path = site.folder.path().join("ledger");
    let mut client = Client::start(&site, &path, 12, Duration::ZERO);
    let mut campaigns = Vec::new();
    let mut tally = Tally { hit_in_flight: 0, points: BTreeMap::new() };
    for round in 0..rounds {
        let point = (round % 2 == 1).then(|| POINTS[(round / 2) as usize % POINTS.len()]);
        one_round(&site, &mut client, round, point, &mut random, &mut campaigns, &mut tally);
    }
    let server = site.start();
    client.stop();
    let ledger = Ledger::read(&path);
    println!(
        "crash rounds: {rounds} kills, {} in flight, points {:?}, {} acks, {:?} ends and units in carts, {} answers lost, \
         refused {:?}",
        tally.hit_in_flight,
        tally.points,
        ledger.acks(),
        ledger.others(),
        ledger.lost,
        ledger.refused
    );
    ledger.settle(&site, server, &campaigns);
    assert!(tally.hit_in_flight >= rounds / 2, "only {} of {rounds} kills hit requests in flight", tally.hit_in_flight);
    let hit: u64 = tally.points.values().sum();
    assert!(hit >= rounds / 6 && tally.points.len() >= 4, "too few named points were reached: {:?}", tally.points);
    assert!(ledger.acks() as u64 >= rounds * 50, "only {} claims were acknowledged", ledger.acks());
    let (ends, clicks) = ledger.others();
    assert!(ends as u64 >= rounds * 2 && clicks as u64 >= rounds * 5, "{ends} ends and {clicks} units in carts only");
    assert!(ledger.refused.get("sold-out").is_some_and(|&n| n > 0), "nothing was sold out: {:?}", ledger.refused);
}

fn one_round(
    site: &Site,
    client: &mut Client,
    round: u64,
    point: Option<(&'static str, u64)>,
    random: &mut StdRng,
    campaigns: &mut Vec<Sold>,
    tally: &mut Tally,
) {
    let path = site.folder.path().join("ledger");
    let at = point.map(|(name, most)| format!("{name}:{}", random.random_range(1..=most)));
    let environment: Vec<_> = at.iter().map(|at| ("FOREBAY_CRASH_AT", at.as_str())).collect();
    let mut server = site.spawn(&environment);
    if server.ready().is_ok() {
        open_sales(&server, client, round, campaigns);
    }
    let before = ledger::lost(&path);
    let wait = if point.is_some() { POINT_MILLIS } else { random.random_range(20..500) };
    let end = std::time::Instant::now() + Duration::from_millis(wait);
    while std::time::Instant::now() < end && server.ended().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    if let (Some(status), Some((name, _))) = (server.ended(), point) {
        assert_eq!(status.signal(), Some(9), "round {round} at {at:?}: {status}\n{}", server.log_tail());
        *tally.points.entry(name).or_default() += 1;
    }
    assert!(point.is_some() || server.ended().is_none(), "round {round}: it ended\n{}", server.log_tail());
    server.kill();
    // The lanes notice at once: their connections are reset.
    std::thread::sleep(Duration::from_millis(100));
    tally.hit_in_flight += u64::from(ledger::lost(&path) > before);
}
