//! Crash images: where a seed's run changes the disk, the process is ended inside that very change, once for each of them and for
//! each thing that may be left, and everything is held against the model as ever. Chance finds the places that are visited often;
//! this visits all of them, those inside a recovery too.

use std::sync::atomic::{AtomicU64, Ordering};

use forebay::plant::{self, Bug};

use crate::disk::End;
use crate::record::Trace;
use crate::runner::attempt;
use crate::seeds::from_env;
use crate::world::{Shape, World};

/// Long enough for segments to rotate, for a snapshot and for several starts; short enough to be run some thousand times.
const SHAPE: Shape = Shape { operations: 120, faults: 0 };

const ENDS: [End; 3] = [End::Kill, End::PowerCut, End::PowerCutLosingAll];

/// Seeds of the usual run.
const SEEDS: u64 = 8;

/// Changes of the disk that a seed makes before its faults end.
fn sites(seed: u64) -> u64 {
    let mut world = World::new(seed, Trace::default());
    let whole = attempt(&mut world, |world| world.run(SHAPE));
    assert_eq!(whole, Ok(()), "seed {seed} without a crash of its own");
    world.sites
}

/// Runs a seed that dies in its `site`-th change.
fn image(seed: u64, site: u64, end: End) -> Result<(), String> {
    let run = |trace| {
        let mut world = World::new(seed, trace);
        world.image = end;
        world.disk.image(Some(site));
        let result = attempt(&mut world, |world| world.run(SHAPE));
        (world, result)
    };
    let (world, result) = run(Trace::default());
    // Up to its crash the run is the one in which changes were counted.
    let died = world.totals().get("crash in the chosen change");
    result.and_then(|()| if died == 1 { Ok(()) } else { Err("vacuous: it did not die there".to_owned()) }).map_err(|why| {
        let (again, _) = run(Trace::new(true, false));
        let trace = again.trace.last();
        format!("seed {seed}, a crash in change {site} that leaves {end:?}: {why}\nthe last lines of its trace:\n{trace}")
    })
}

/// All images of a seed; how many there are.
fn images(seed: u64) -> Result<u64, String> {
    let sites = sites(seed);
    for site in 1..=sites {
        for end in ENDS {
            image(seed, site, end)?;
        }
    }
    Ok(sites * ENDS.len() as u64)
}

#[test]
fn a_crash_in_any_change_of_the_disk_breaks_no_promise() {
    let first = from_env("FOREBAY_SIM_FIRST").unwrap_or(1);
    let seeds = from_env("FOREBAY_SIM_IMAGES").unwrap_or(SEEDS);
    let (next, made) = (AtomicU64::new(first), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            let images = images(seed).unwrap_or_else(|broken| panic!("{broken}"));
            made.fetch_add(images, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    let made = made.into_inner();
    println!("{made} crash images of {seeds} seeds from {first}");
    assert!(made >= seeds * 200, "vacuous: {made} images of {seeds} seeds");
}

/// Whether the images of the usual seeds find a bug.
fn find(bug: Bug) {
    let clean: Vec<u64> = (1..=SEEDS).map(sites).collect();
    plant::set(Some(bug));
    let broken = (1..=SEEDS).zip(clean).find_map(|(seed, sites)| {
        (1..=sites).flat_map(|site| ENDS.map(|end| (site, end))).find_map(|(site, end)| image(seed, site, end).err())
    });
    plant::set(None);
    let Some(broken) = broken else { panic!("{bug:?} was not found by any image of {SEEDS} seeds") };
    assert!(!broken.contains("vacuous"), "{bug:?} was not found, a run was vacuous: {broken}");
    println!("{bug:?} found: {}", broken.lines().next().unwrap_or_default());
}

#[test]
fn images_find_an_answer_before_its_sync() {
    find(Bug::AckBeforeSync);
}

#[test]
fn images_find_a_missing_sync_of_the_folder() {
    find(Bug::MissingDirSync);
}
