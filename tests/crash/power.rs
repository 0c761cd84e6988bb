//! The power is cut under load, again and again: what was written and not synced is gone, in the journal, in the database and in the
//! folders that name their files. `FOREBAY_POWER_CUTS` and `FOREBAY_CRASH_SEED` make longer or repeated runs.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::client::Client;
use crate::ledger::Ledger;
use crate::rounds::{number, open_sales, series};
use crate::small_disk::SmallDisk;
use crate::support::{Site, eventually};

const CUTS: u64 = 8;
/// The most cuts between two judgements.
const SERIES: u64 = 50;

pub fn run() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let (cuts, seed) = (number("FOREBAY_POWER_CUTS", CUTS), number("FOREBAY_CRASH_SEED", now));
    println!("power cuts: FOREBAY_POWER_CUTS={cuts} FOREBAY_CRASH_SEED={seed}");
    series(cuts, SERIES).into_iter().zip(seed..).for_each(|(cuts, seed)| judged(cuts, seed));
}

fn judged(cuts: u64, seed: u64) {
    println!("power cuts: {cuts} with FOREBAY_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let place = tempfile::tempdir().expect("a temporary folder");
    // A sparse file: rows and journal of a long run have room, and take what they need.
    let disk = SmallDisk::make(place.path(), 512 + 16 * cuts);
    let data = disk.folder.join("data");
    let site = Site::new().env("FOREBAY_SEGMENT_BYTES", "2162688");
    let site = site.text("buffer.data_dir", data.to_str().expect("a path"));
    let site = site.text("store.url", &format!("sqlite:{}", data.join("forebay.db").display()));
    let path = site.folder.path().join("ledger");
    let mut client = Client::start(&site, &path, 12, Duration::ZERO);
    let (mut campaigns, mut in_flight, mut young) = (Vec::new(), 0, 0);
    for round in 0..cuts {
        let server = site.start();
        open_sales(&server, &mut client, round, &mut campaigns);
        let before = Ledger::read(&path);
        let (acks, open) = (before.acks(), before.unknown.len() + before.lost);
        // Of the first moments, too: a start writes more kinds of files than the claims that follow.
        let is_young = random.random_ratio(1, 4);
        if !is_young {
            eventually("claims are acknowledged", || Ledger::read(&path).acks() > acks);
            std::thread::sleep(Duration::from_millis(random.random_range(20..800)));
        }
        let canary = disk.folder.join(format!("canary-{round}"));
        fs::write(&canary, "written, and not synced").expect("the disk has power");
        disk.cut();
        // It notices by itself, at the next write at the latest; who waits for that is no test of a power cut.
        server.kill();
        disk.power_up();
        let kept = fs::read(&canary).unwrap_or_default();
        assert!(kept.is_empty(), "round {round}: the power was not cut: what was not synced is there");
        std::thread::sleep(Duration::from_millis(100));
        let after = Ledger::read(&path);
        in_flight += u64::from(after.unknown.len() + after.lost > open);
        young += u64::from(is_young);
    }
    let server = site.start();
    client.stop();
    let ledger = Ledger::read(&path);
    println!(
        "power cuts: {cuts}, {in_flight} with requests in flight, {young} right after a start, {} acks, {:?} ends and units in \
         carts, {} answers lost, {} unknown",
        ledger.acks(),
        ledger.others(),
        ledger.lost,
        ledger.unknown.len()
    );
    let acks = ledger.acks() as u64;
    ledger.settle(&site, server, &campaigns);
    assert!(in_flight >= cuts / 2, "only {in_flight} of {cuts} cuts hit requests in flight");
    assert!(acks >= cuts * 20, "only {acks} claims were acknowledged");
}
