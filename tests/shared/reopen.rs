//! Openings after Redis has lost something: what gates acknowledged is there, once, at its position, whatever became of Redis.
//!
//! A sale of three campaigns runs through the library, by gates that keep what is accepted, beside a database that is filled now
//! and then. Now and then a gate dies between Redis and its disk, and claims come due. Then Redis is lost, or goes back, and the
//! partition is opened again. `paper` remembers what was acknowledged; `checks` counts what is there.

#[path = "reopen/checks.rs"]
mod checks;
#[path = "reopen/world.rs"]
mod world;

use forebay::workers::shared::reopen::ReopenError;
use world::{Loss, World};

fn run(seed: u64, losses: &[Loss]) {
    let mut world = World::new(seed);
    for loss in losses {
        world.sell(60);
        if *loss == Loss::Old {
            world.copy();
            world.sell(25);
        }
        world.lose(*loss);
        world.reopen();
        checks::check(&mut world);
    }
    world.sell(40);
    checks::check(&mut world);
    world.drain_all();
    checks::check_database(&mut world);
}

#[test]
fn an_intact_redis_goes_on_with_everything_it_had() {
    for seed in 0..4 {
        run(seed, &[Loss::Nothing, Loss::Nothing]);
    }
}

#[test]
fn an_empty_redis_is_filled_from_the_database_and_the_gates() {
    for seed in 10..18 {
        run(seed, &[Loss::All, Loss::All]);
    }
}

#[test]
fn a_redis_that_went_back_gets_what_it_has_forgotten() {
    for seed in 20..28 {
        run(seed, &[Loss::Old, Loss::Old]);
    }
}

#[test]
fn one_loss_after_another() {
    for seed in 30..36 {
        run(seed, &[Loss::Old, Loss::All, Loss::Nothing, Loss::Old]);
    }
}

#[test]
fn an_opening_that_dies_anywhere_is_begun_again() {
    for seed in 40..52 {
        let mut world = World::new(seed);
        world.sell(80);
        if seed % 2 == 0 {
            world.copy();
            world.sell(20);
        }
        world.lose(if seed % 2 == 0 { Loss::Old } else { Loss::All });
        for steps in 1..12 {
            world.die_after(steps);
        }
        world.reopen();
        checks::check(&mut world);
        world.sell(20);
        world.drain_all();
        checks::check_database(&mut world);
    }
}

#[test]
fn a_worker_that_comes_back_when_another_has_opened_changes_nothing() {
    let mut world = World::new(60);
    world.sell(80);
    world.lose(Loss::All);
    let mut late = world.begin();
    for _ in 0..6 {
        world.step(&mut late).expect("a step");
    }
    world.reopen();
    world.sell(10);
    let before = world.dump();
    // What is left of it only reads, until it would write.
    let mut steps = (0..100).map(|_| world.step(&mut late));
    assert!(matches!(steps.find(Result::is_err), Some(Err(ReopenError::Lost))));
    drop(steps);
    assert!(world.dump() == before, "a stopped worker has written");
    checks::check(&mut world);
}
