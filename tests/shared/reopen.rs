//! Openings after Redis has lost something: what gates acknowledged is there, once, at its position, whatever became of Redis.
//!
//! A sale of three campaigns runs through the library, by gates that keep what is accepted, beside a database that is filled now
//! and then. Now and then a gate dies between Redis and its disk, and claims come due. Then Redis is lost, or goes back, and the
//! partition is opened again. `paper` remembers what was acknowledged; `checks` counts what is there.

#[path = "reopen/checks.rs"]
mod checks;
#[path = "reopen/world.rs"]
mod world;

use forebay::sale::{Claim, Entry, Event, Fate, Moved};
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

/// A buyer takes two units and gives them back, by way of a gate that dies before it has kept that; takes one of them again, and
/// the other. Then Redis is lost. Both later claims were acknowledged, and the first holds nothing any more.
#[test]
fn an_end_that_was_lost_shows_in_the_claims_that_took_its_place() {
    for is_drained in [false, true] {
        let mut world = World::new(70);
        let first = world.claim_of(world::PLENTY, 1, 2);
        world.submit(vec![first], true);
        let Some(Event::Claimed(held)) = checks::all(&mut world).pop().map(|entry| entry.event) else {
            panic!("no claim")
        };
        if is_drained {
            world.drain_all();
        }
        world.submit(vec![World::end_of(&held, Fate::Cancelled)], false);
        for _ in 0..2 {
            let again = world.claim_of(world::PLENTY, 1, 1);
            world.submit(vec![again], true);
        }
        world.lose(Loss::All);
        world.reopen();
        checks::check(&mut world);
        let entries = checks::all(&mut world);
        let ends: Vec<&Moved> = entries
            .iter()
            .filter_map(|entry| if let Event::Moved(moved) = &entry.event { Some(moved) } else { None })
            .collect();
        let [end] = ends[..] else { panic!("{ends:?}") };
        assert_eq!((end.claim_id, end.to, &*end.by), (held.claim_id, Fate::Cancelled, "forebay worker"));
        assert_eq!(
            entries.last().map(|entry| entry.seq.0),
            Some(held.seq.0 + 3),
            "it took the position that was its own"
        );
        world.drain_all();
        checks::check_database(&mut world);
    }
}

/// Two of three claims are given back, and one of these ends is lost; the next claim takes two units in the place of the other.
/// Which one is gone can't be told, so none is ended that the buyer may hold.
#[test]
fn a_lost_end_is_not_guessed_where_it_may_be_that_of_a_claim_that_is_held() {
    let mut world = World::new(73);
    for _ in 0..3 {
        let claim = world.claim_of(world::THREE, 1, 1);
        world.submit(vec![claim], true);
    }
    let claimed = |entry: Entry| if let Event::Claimed(claim) = entry.event { Some(claim) } else { None };
    let claims: Vec<Claim> = checks::all(&mut world).into_iter().filter_map(claimed).collect();
    world.submit(vec![World::end_of(&claims[0], Fate::Cancelled)], true);
    world.submit(vec![World::end_of(&claims[2], Fate::Cancelled)], false);
    let two = world.claim_of(world::THREE, 1, 2);
    world.submit(vec![two], true);
    world.lose(Loss::All);
    world.reopen();
    let ended = |entry: Entry| if let Event::Moved(moved) = entry.event { Some(moved.claim_id) } else { None };
    let ends: Vec<_> = checks::all(&mut world).into_iter().filter_map(ended).collect();
    assert_eq!(ends, [claims[0].claim_id]);
    world.drain_all();
    checks::check_database(&mut world);
}

/// Campaigns that are in the database, and of which nobody has claimed anything: those of tomorrow.
#[test]
fn campaigns_without_claims_are_there_for_whoever_comes_later() {
    let mut world = World::new(72);
    world.drain_all();
    world.lose(Loss::All);
    world.reopen();
    checks::check(&mut world);
    let claim = world.claim_of(world::PLENTY, 1, 1);
    world.submit(vec![claim], true);
    checks::check(&mut world);
}

/// What a paid claim holds stays where it is: nothing that was lost can have given it back.
#[test]
fn a_lost_end_is_never_that_of_a_paid_claim() {
    let mut world = World::new(71);
    let claims: Vec<_> = (0..2).map(|_| world.claim_of(world::PLENTY, 1, 1)).collect();
    claims.into_iter().for_each(|claim| world.submit(vec![claim], true));
    let claims: Vec<Claim> = checks::all(&mut world)
        .into_iter()
        .filter_map(|entry| if let Event::Claimed(claim) = entry.event { Some(claim) } else { None })
        .collect();
    world.submit(vec![World::end_of(&claims[0], Fate::Settled)], true);
    world.submit(vec![World::end_of(&claims[1], Fate::Cancelled)], false);
    let again = world.claim_of(world::PLENTY, 1, 1);
    world.submit(vec![again], true);
    world.lose(Loss::All);
    world.reopen();
    checks::check(&mut world);
    let ended =
        |entry: Entry| if let Event::Moved(moved) = entry.event { Some((moved.claim_id, moved.to)) } else { None };
    let ends: Vec<_> = checks::all(&mut world).into_iter().filter_map(ended).collect();
    assert_eq!(ends, [(claims[0].claim_id, Fate::Settled), (claims[1].claim_id, Fate::Cancelled)]);
    world.drain_all();
    checks::check_database(&mut world);
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
