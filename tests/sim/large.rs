//! Worlds without faults that grow large: faults keep a world small, and some bugs need a large one.

use crate::disk::End;
use crate::model::Definition;
use crate::plan::{Asked, SECOND};
use crate::record::Trace;
use crate::world::World;

/// Claims of a large world.
const CLAIMS: u64 = 50_000;

fn grow(seed: u64) -> World {
    let mut world = World::new(seed, Trace::default());
    world.options.segment_bytes = 64 * 1024 + 8 * seed;
    world.options.frame_max = 16 * 1024;
    world.max_entries = 1_000_000;
    world.batches = (100, 200);
    world.faulty = false;
    world.boot();
    let (opens, closes) = (world.clock, world.clock + 3_600 * SECOND);
    let name = "large".to_owned();
    let (price, packet, check_in, ttl) = (Some(990), None, None, None);
    let def = Definition { name, opens, closes, limit: 1, stock: CLAIMS, price, packet, check_in, coupon: false, ttl };
    world.submit(vec![Asked::Define(def, None)]);
    let mut rounds = 0;
    while world.model.sales[0].free() > 0 {
        let asked = (0..100).map(|_| world.newcomer(0)).collect();
        world.submit(asked);
        world.clock += 1_000;
        world.janitor(12);
        if rounds % 3 == seed % 3 {
            world.drain(4);
        }
        if rounds % 97 == 96 {
            world.mark();
            world.check();
        }
        rounds += 1;
        assert!(rounds < 2 * CLAIMS / 100, "P6: it does not sell out");
    }
    world
}

#[test]
fn fifty_thousand_claims_survive_a_power_cut_and_all_become_rows() {
    for seed in [1, 2, 3] {
        let mut world = grow(seed);
        world.check();
        world.die(End::PowerCutLosingAll);
        world.check();
        world.settle();
        let totals = world.totals();
        assert!(totals.get("segments trimmed") > 10, "vacuous: {}", totals.table());
        assert!(totals.get("snapshots") > 5, "vacuous: {}", totals.table());
        assert_eq!(totals.get("claims held at the end"), CLAIMS);
    }
}
