//! What workers may do and may not, and what stops a partition.

use forebay::queue::book::create_digest;
use forebay::queue::redis::protocol::{self, Retiring, Word};
use forebay::queue::{AdminAction, AdminCommand, ClaimCommand};
use forebay::sale::red_packet::Seed;
use forebay::sale::{Asked, CampaignNo, CampaignSpec, ClaimId, Durability, Money, Seq, Timestamp, UserId};
use redis::cmd;

use crate::draws::{SECOND, START};
use crate::gate::Gate;
use crate::paper::KEY;
use crate::redis::Redis;

pub fn user(n: u32) -> UserId {
    UserId::parse(&format!("u{n}")).expect("a name")
}

pub fn claim(n: u32) -> Vec<u8> {
    let user = user(n);
    let user_hash = KEY.user(&user);
    let claim_id = ClaimId::new(Timestamp(START), user_hash, n.into());
    let (campaign, quantity, receipt_key, key) = (CampaignNo(0), 1, 1, None);
    let command = ClaimCommand { campaign, quantity, receipt_key, user, user_hash, claim_id, key };
    protocol::claim(&command, Durability::Disk, &[])
}

/// A gate on a partition with a red packet of 1,000 shares, and `claims` of them taken.
pub fn gate(redis: &Redis, partition: &str, claims: u32) -> Gate {
    let mut gate = Gate::new(redis.connect(), partition);
    let json = br#"{"id":"p","kind":"red_packet","opens_at":"2020-01-01T00:00:00Z","closes_at":"2040-01-01T00:00:00Z",
        "stock":1000,"currency":"CNY","red_packet":{"total":100000}}"#;
    let (spec, seed) = (CampaignSpec::parse(json).expect("a packet"), Seed([1; 16]));
    let name = gate.lay(&protocol::shares(&spec, &seed, Money(100_000), spec.stock, 0));
    let wish = AdminCommand { asked: Asked::default(), action: AdminAction::Create(spec.clone(), seed) };
    let create = protocol::create(&wish, &spec, seed, create_digest(&spec), &name);
    let all = std::iter::once(create).chain((0..claims).map(claim)).collect();
    let said = gate.submit(START, 1_000_000, all).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(said.last(), Seq(1 + u64::from(claims)));
    gate
}

/// A worker's wish for up to `most` entries at second `at`, for a lease of ten seconds: how many, or that another has it.
fn take(gate: &mut Gate, worker: &str, at: i64, most: usize) -> Option<(u64, usize)> {
    let taken = gate.take(START + at * SECOND, worker, Seq(0), most, 10 * SECOND)?;
    assert!(taken.is_open);
    Some((taken.retired.0, taken.items.len()))
}

/// Tells that everything up to `upto` is in the database, or only that the worker lives; whether that was taken.
fn retire(gate: &mut Gate, worker: &str, at: i64, upto: Option<u64>, lease: i64) -> bool {
    let after = gate.status("").retired;
    let sums = Retiring::new(after).sums(&[]);
    let texts = [
        (START + at * SECOND).to_string(),
        worker.to_owned(),
        gate.epoch.to_string(),
        upto.map_or(String::new(), |upto| upto.to_string()),
        (lease * SECOND).to_string(),
    ];
    let args: Vec<_> = texts.map(String::into_bytes).into_iter().chain([sums]).collect();
    protocol::word(&gate.call("retire", &args).expect("an answer")) == Ok(Word::Ok)
}

#[test]
fn a_lease_is_one_workers_until_it_ends_and_can_be_prolonged() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 9);
    assert_eq!(take(gate, "w1", 0, 4), Some((0, 4)));
    assert_eq!(take(gate, "w2", 9, 4), None, "w1 has until second 10");
    assert!(retire(gate, "w1", 9, None, 10), "it lives");
    assert_eq!(take(gate, "w2", 18, 4), None);
    assert_eq!(take(gate, "w1", 18, 4), Some((0, 4)), "the same entries again");
    assert_eq!(take(gate, "w2", 28, 5), Some((0, 5)), "w1 has not been heard of for ten seconds");
    assert!(!retire(gate, "w1", 28, Some(4), 10), "its lease is over and another's");
    assert!(retire(gate, "w2", 28, Some(5), 10));
    assert_eq!(take(gate, "w2", 29, 100), Some((5, 5)), "what is retired is gone");
}

#[test]
fn a_lease_that_is_over_a_wrong_epoch_and_a_position_that_is_none_are_refused() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 9);
    assert!(!retire(gate, "w1", 0, Some(1), 10), "never taken");
    assert_eq!(take(gate, "w1", 0, 4), Some((0, 4)));
    assert!(!retire(gate, "w1", 10, Some(4), 10), "over, though nobody else has taken it");
    assert_eq!(take(gate, "w1", 10, 4), Some((0, 4)));
    for (upto, what) in [(11, "beyond the last entry"), (u64::MAX >> 12, "far beyond it")] {
        assert!(!retire(gate, "w1", 11, Some(upto), 10), "{what}");
    }
    let epoch = std::mem::replace(&mut gate.epoch, 9);
    assert!(!retire(gate, "w1", 11, Some(4), 10), "an epoch that is over");
    gate.epoch = epoch;
    assert!(retire(gate, "w1", 11, Some(4), 0), "and it is given back");
    assert!(!retire(gate, "w1", 11, Some(3), 10), "a position that was retired");
    assert_eq!(take(gate, "w2", 11, 2), Some((4, 2)));
}

#[test]
fn entries_come_in_order_and_each_once_through_any_number_of_workers() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 200);
    let (mut seen, mut at) = (0, 0);
    while seen < 201 {
        let worker = format!("w{}", at % 7);
        let (after, count) = take(gate, &worker, at * 11, 13).expect("the lease before is over");
        assert_eq!(after, seen);
        // Every third worker dies before it can tell.
        if at % 3 != 0 {
            seen += count as u64;
            assert!(retire(gate, &worker, at * 11 + 1, Some(seen), 0));
        }
        at += 1;
    }
    assert_eq!(take(gate, "last", at * 11, 13), Some((201, 0)));
}

#[test]
fn a_fault_in_the_middle_fences_the_partition() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 3);
    let _: i64 = cmd("DEL").arg(format!("{}s:0", gate.prefix)).query(&mut gate.connection).expect("deleted");
    let ask = |gate: &mut Gate, n| gate.submit(START, 1_000, vec![claim(n)]).expect_err("no answer");
    let error = ask(gate, 7);
    assert!(error.contains("FENCED") && error.contains("share"), "{error}");
    let error = ask(gate, 8);
    assert!(error.contains("REFUSED") && error.contains("FENCED"), "{error}");
    assert_eq!(gate.waiting(Seq(1)).len(), 4, "nothing of it is on its way to the database");
}

#[test]
fn a_full_redis_refuses_a_whole_call_and_keeps_what_it_has() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 3);
    let _: () = cmd("CONFIG").arg("SET").arg("maxmemory").arg("1mb").query(&mut gate.connection).expect("a limit");
    let batch = |from| (from..from + 50).map(claim);
    let before = gate.waiting(Seq(1));
    let error = gate.submit(START, 1_000, batch(100).collect()).expect_err("no room");
    assert!(error.contains("OOM"), "{error}");
    assert_eq!(gate.waiting(Seq(1)), before);
    assert_eq!((gate.field(CampaignNo(0), "free"), gate.shares("s", CampaignNo(0)).len()), (997, 997));
    // Workers go on: they make room.
    assert_eq!(take(gate, "w1", 0, 4), Some((0, 4)));
    assert!(retire(gate, "w1", 1, Some(4), 10));
    let _: () = cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").query(&mut gate.connection).expect("no limit");
    let said = gate.submit(START, 1_000, batch(100).collect()).expect("room");
    assert_eq!((said.last(), said.answers.len()), (Seq(54), 50));
}

#[test]
fn a_gate_of_another_epoch_an_empty_partition_and_another_layout_are_told_apart() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 0);
    let ask = |gate: &mut Gate, epoch: u64| {
        let mine = std::mem::replace(&mut gate.epoch, epoch);
        let refused = gate.submit(START, 1_000, vec![claim(1)]).expect_err("refused");
        gate.epoch = mine;
        refused
    };
    assert!(ask(gate, 0).contains("EPOCH 1"));
    let meta = format!("{}meta", gate.prefix);
    let _: i64 = cmd("HSET").arg(&meta).arg("layout").arg("99").query(&mut gate.connection).expect("set");
    assert!(ask(gate, 1).contains("LAYOUT 99"));
    let _: i64 = cmd("DEL").arg(&meta).query(&mut gate.connection).expect("deleted");
    assert!(ask(gate, 1).contains("EMPTY"));
}
