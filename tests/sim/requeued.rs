//! Dead letters that are requeued at the worst moment, step by step.

use crate::carts::{Click, Put};
use crate::database::Fault;
use crate::disk::End;
use crate::model::{Ask, Definition, Fate};
use crate::plan::{Asked, SECOND, id};
use crate::record::Trace;
use crate::world::World;

/// A world without faults but those that a test arms, with a sale of two units.
fn calm() -> World {
    let mut world = World::new(7, Trace::default());
    (world.faulty, world.ticking, world.max_entries) = (false, false, 1_000_000);
    world.batches = (60, 60);
    world.boot();
    world.janitor(20);
    let (opens, closes) = (world.clock, world.clock + 3_600 * SECOND);
    let (packet, check_in, ttl) = (None, None, None);
    let (name, price) = ("sale".to_owned(), Some(990));
    let def = Definition { name, opens, closes, limit: 1, stock: 2, price, packet, check_in, coupon: false, ttl };
    world.submit(vec![Asked::Define(def, None)]);
    world
}

fn restart(world: &mut World) {
    world.die(End::Kill);
    world.janitor(20);
}

fn ask(world: &mut World, user: &str) -> Ask {
    let (user, random) = (user.to_owned(), world.plan.fresh_id());
    Ask { sale: 0, user, units: 1, key: None, id: id(world.clock, random), receipt_key: 1 }
}

fn click(world: &mut World, no: u64, sku: &str, put: Put) {
    let click = Click { no, buyer: "b0".to_owned(), sku: sku.to_owned(), put, key: None };
    world.submit(vec![Asked::Click(click)]);
    world.finish_clicks();
    world.check();
}

/// The line of `b0`'s cart, as it is acknowledged and read.
fn line(world: &mut World, sku: &str) -> u64 {
    world.check_carts();
    let retired = world.life.as_ref().map_or(0, |life| life.published.pending.retired().0);
    world.model.shown("b0", retired).lines.get(sku).copied().unwrap_or(0)
}

/// Mends everything and requeues the only letter.
fn requeue(world: &mut World) {
    world.db.mend_all();
    world.ask_for(1, true);
    world.drain(4);
    world.check();
    assert!(world.db.letter(1).is_some_and(|letter| letter.closed.is_some()), "it is a row");
}

/// A line of three in the dead letters, and a process that does not know of it.
fn with_a_lost_line() -> World {
    let mut world = calm();
    click(&mut world, 1, "s0", Put::Add(1));
    click(&mut world, 2, "poison", Put::Set(3));
    world.drain(4);
    world.check();
    assert_eq!((line(&mut world, "s0"), line(&mut world, "poison")), (1, 0), "the row is refused");
    restart(&mut world);
    world.drain(4);
    world
}

#[test]
fn a_requeued_line_is_read_by_a_buyer_who_had_no_other() {
    let mut world = calm();
    click(&mut world, 1, "poison", Put::Set(3));
    // A good row, which tells a poison row from a broken table.
    let last = ask(&mut world, "u1");
    world.submit(vec![Asked::Claim(last)]);
    world.drain(4);
    restart(&mut world);
    while world
        .life
        .as_ref()
        .is_some_and(|life| life.published.cart_owners.may_have(world.key.user(&crate::convert::user_id("b0"))))
    {
        world.drain(1);
    }
    assert_eq!(line(&mut world, "poison"), 0);
    requeue(&mut world);
    assert_eq!(line(&mut world, "poison"), 3);
    click(&mut world, 2, "poison", Put::Add(1));
    assert_eq!(line(&mut world, "poison"), 4);
}

#[test]
fn the_next_click_on_a_requeued_line_adds_to_it() {
    let mut world = with_a_lost_line();
    // Loads the cart as it is without the line. Its row would be the later one, if it were there.
    click(&mut world, 3, "s0", Put::Add(1));
    requeue(&mut world);
    assert_eq!(line(&mut world, "poison"), 3);
    click(&mut world, 4, "poison", Put::Add(1));
    assert_eq!((line(&mut world, "s0"), line(&mut world, "poison")), (2, 4));
}

#[test]
fn a_claim_that_ends_before_the_ledger_hears_of_its_requeue_is_counted_once() {
    let mut world = calm();
    let (poison, other) = (ask(&mut world, "poison1"), ask(&mut world, "u2"));
    world.submit(vec![Asked::Claim(poison.clone()), Asked::Claim(other.clone())]);
    world.submit(vec![Asked::End(other, Fate::Cancelled)]);
    world.drain(4);
    world.check();
    world.db.mend_all();
    world.submit(vec![Asked::End(poison, Fate::Cancelled)]);
    // The row is there, its reply is lost, and the sums can't be read; then the database is well again, and takes the end.
    world.db.arm(Fault::GoneAfter(1));
    world.ask_for(1, true);
    for _ in 0..6 {
        world.drain(1);
        world.check();
    }
    let balance = world.life.as_ref().map(|life| life.published.pending.balance(forebay::sale::CampaignNo(0)));
    let counted = balance.map(|b| (b.free, b.persisted, b.dead, b.returned));
    assert_eq!(counted, Some((2, 0, 0, 2)));
}
