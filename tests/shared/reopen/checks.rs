//! What must hold of a partition and its database, counted from the entries alone.

use std::collections::BTreeMap;

use forebay::queue::codec;
use forebay::queue::redis::protocol::{self, item, layout};
use forebay::sale::{Claim, ClaimId, Entry, Event, Fate, Moved, Seq, UserId};
use redis::Value;

use super::world::World;
use forebay::store::Store;

/// What is held of a campaign, and what was given.
#[derive(Debug, Default)]
struct Sum {
    held: BTreeMap<ClaimId, (Claim, bool)>,
}

impl Sum {
    fn units(&self) -> u64 {
        self.held.values().map(|(claim, _)| claim.quantity.0).sum()
    }

    fn money(&self) -> i64 {
        self.held.values().map(|(claim, _)| claim.amount.map_or(0, |amount| amount.0)).sum()
    }
}

fn sums(entries: &[Entry], campaigns: usize) -> Vec<Sum> {
    let mut all: Vec<Sum> = (0..campaigns).map(|_| Sum::default()).collect();
    for entry in entries {
        match &entry.event {
            Event::Claimed(claim) => {
                let before = all[claim.campaign.0 as usize].held.insert(claim.claim_id, (*claim, false));
                assert!(before.is_none(), "claim {} twice", claim.claim_id);
            }
            Event::Moved(moved) => {
                let held = &mut all[moved.campaign.0 as usize].held;
                match moved.to {
                    Fate::Settled => held.get_mut(&moved.claim_id).expect("a claim that is held").1 = true,
                    _ => drop(held.remove(&moved.claim_id).expect("a claim that is held")),
                }
            }
            _ => {}
        }
    }
    all
}

/// Every entry there is, in order: the database's, then what waits.
pub fn all(world: &mut World) -> Vec<Entry> {
    let waiting = world.waiting();
    let entries: Vec<Entry> = world.written.iter().cloned().chain(waiting).collect();
    for (entry, seq) in entries.iter().zip(1..) {
        assert_eq!(entry.seq.0, seq, "positions are dense");
    }
    assert!(entries.windows(2).all(|pair| pair[0].at <= pair[1].at), "time goes back");
    for (seq, acked) in &world.acked {
        let entry = &entries[seq.0 as usize - 1];
        let mut bytes = Vec::new();
        codec::encode(&mut bytes, &entry.event);
        let (at, expected) = item(acked).expect("an item");
        assert_eq!((entry.at, &bytes[..]), (at, expected), "what was acknowledged at {seq}");
    }
    entries
}

fn number(world: &mut World, no: usize, field: &str) -> i64 {
    match world.ask("HGET", &format!("c:{no}"), &[field]) {
        Value::BulkString(text) => String::from_utf8(text).expect("text").parse().expect("a number"),
        other => panic!("{field}: {other:?}"),
    }
}

fn shares(world: &mut World, key: &str) -> Vec<i64> {
    let Value::Array(all) = world.ask("LRANGE", key, &["0", "-1"]) else { panic!("a list") };
    let share = |value: &Value| match value {
        Value::BulkString(text) => std::str::from_utf8(text).expect("text").parse().expect("a share"),
        other => panic!("{other:?}"),
    };
    all.iter().map(share).collect()
}

/// Whoever reads the campaigns from the beginning, page by page, sees all of them: a gate that starts, a worker that takes over, the audit.
fn check_pages(world: &mut World) {
    let (mut since, mut seen) = (Seq(0), Vec::new());
    loop {
        let answer = world.connection.call("changes", &[since.to_string().as_bytes(), b"2"]).expect("open");
        let changes = protocol::changes(&answer).expect("an answer");
        seen.extend(changes.campaigns.iter().map(|campaign| campaign.no.0));
        since = changes.seq;
        if changes.campaigns.len() < 2 {
            break;
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..world.specs.len() as u32).collect::<Vec<_>>(), "campaigns that a reader sees");
}

/// What Redis says is what the entries come to.
pub fn check(world: &mut World) {
    check_pages(world);
    let entries = all(world);
    let sums = sums(&entries, world.specs.len());
    for (no, sum) in sums.iter().enumerate() {
        let spec = world.specs[no].clone();
        if !spec.has_stock() {
            continue;
        }
        assert!(sum.units() <= spec.stock.0, "{} is oversold: {} of {}", spec.id, sum.units(), spec.stock);
        assert_eq!(number(world, no, "free"), (spec.stock.0 - sum.units()) as i64, "{}", spec.id);
        let mut by_user: BTreeMap<UserId, Vec<&(Claim, bool)>> = BTreeMap::new();
        for held in sum.held.values() {
            by_user.entry(held.0.user).or_default().push(held);
        }
        assert_eq!(world.ask("HLEN", &format!("h:{no}"), &[]), Value::Int(by_user.len() as i64));
        for (user, mut held) in by_user {
            held.sort_by_key(|(claim, _)| claim.seq);
            let units: u64 = held.iter().map(|(claim, _)| claim.quantity.0).sum();
            assert!(units <= spec.per_user_limit.0, "{user} holds {units} of {}", spec.id);
            let record = |(claim, settled): &&(Claim, bool)| {
                let (claim_id, quantity, hold) = (claim.claim_id, claim.quantity.0 as u32, claim.hold);
                let hold = layout::Hold { claim_id, quantity, hold, settled: *settled, amount: claim.amount };
                hold.pack()
            };
            let expected: Vec<u8> = held.iter().flat_map(record).collect();
            assert_eq!(world.ask("HGET", &format!("h:{no}"), &[user.as_str()]), Value::BulkString(expected));
        }
        if let Some(packet) = spec.red_packet {
            let left = packet.total.0 - sum.money();
            assert_eq!(number(world, no, "left"), left);
            let (fresh, back) = (shares(world, &format!("s:{no}")), shares(world, &format!("r:{no}")));
            assert_eq!(number(world, no, "returned"), back.len() as i64);
            assert_eq!((fresh.len() + back.len()) as u64, spec.stock.0 - sum.units());
            assert_eq!(fresh.iter().chain(&back).sum::<i64>(), left, "the shares are what is left");
        }
    }
    check_waiting(world);
}

/// The sums of what waits, and where it is found.
fn check_waiting(world: &mut World) {
    let waiting = world.waiting();
    let (mut claims, mut found) = (vec![(0, 0); world.specs.len()], BTreeMap::<[u8; 6], Vec<Seq>>::new());
    for entry in &waiting {
        if let Event::Claimed(claim) = &entry.event {
            let (units, last) = &mut claims[claim.campaign.0 as usize];
            (*units, *last) = (*units + claim.quantity.0 as i64, entry.seq.0 as i64);
        }
        match &entry.event {
            Event::Claimed(Claim { claim_id, .. }) | Event::Moved(Moved { claim_id, .. }) => {
                found.entry(claim_id.tag()).or_default().push(entry.seq);
            }
            _ => {}
        }
    }
    for (no, (expected, upto)) in claims.into_iter().enumerate() {
        assert_eq!(number(world, no, "waiting"), expected);
        let last = number(world, no, "last");
        assert!(last >= upto, "campaign {no} was last changed at {last}, and has a claim at {upto}");
    }
    for (tag, seqs) in found {
        assert_eq!(world.look(tag), seqs);
    }
}

/// The database has what the entries come to, and refused none of it.
pub fn check_database(world: &mut World) {
    let entries = all(world);
    let sums = sums(&entries, world.specs.len());
    assert_eq!(world.wait(world.store.dead_count()), Ok(0), "dead letters");
    let totals = world.wait(world.store.totals()).expect("sums");
    assert_eq!(totals.len(), sums.len());
    for (total, sum) in totals.iter().zip(&sums) {
        assert_eq!(total.persisted.0 + total.settled.0, sum.units(), "{}", total.campaign);
        assert_eq!(total.persisted_money.0 + total.settled_money.0, sum.money(), "{}", total.campaign);
    }
}
