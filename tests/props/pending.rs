//! The waiting entries against a plain queue, with the conservation equation at every step.

use std::collections::BTreeSet;

use forebay::queue::codec::{self, FrameContext};
use forebay::queue::pending::{End, StockNow, Waiting};
use forebay::queue::{Balance, Pending};
use forebay::sale::{CampaignNo, Claim, Durability, Entry, Event, Fate, Money, Moved, Seq, Timestamp, Units};
use proptest::prelude::*;

use crate::cases;
use crate::support::{HASH, NOON, claim, decided, user};

const STOCK: u64 = 1_000_000;
const TOTAL: i64 = 1 << 40;
const BUYERS: u32 = 12;

/// An entry of a frame.
#[derive(Debug, Clone)]
enum Item {
    /// Campaign, buyer, units.
    Claim(u32, u32, u32),
    /// One of the claims that may come to this end does; none may where there is none.
    End(prop::sample::Index, Fate),
}

#[derive(Debug, Clone)]
enum Op {
    Publish(Vec<Item>),
    /// The database took the front entries; the claims whose place is in the set became dead letters.
    Retire(usize, BTreeSet<usize>),
    /// The database turns out to have this share of what waits.
    RetireTo(u64),
}

fn item() -> impl Strategy<Value = Item> {
    let fate = prop::sample::select(vec![Fate::Settled, Fate::Cancelled, Fate::Expired]);
    prop_oneof![
        5 => (0u32..3, 0..BUYERS, 1u32..4).prop_map(|(no, buyer, units)| Item::Claim(no, buyer, units)),
        3 => (any::<prop::sample::Index>(), fate).prop_map(|(which, fate)| Item::End(which, fate)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop::collection::vec(item(), 1..40).prop_map(Op::Publish),
        3 => (1usize..60, prop::collection::btree_set(0usize..60, 0..5)).prop_map(|(n, dead)| Op::Retire(n, dead)),
        1 => (0u64..=100).prop_map(Op::RetireTo),
    ]
}

/// Units and money.
type Sum = (u64, i64);

#[derive(Default)]
struct Model {
    /// All entries that ever came, in order.
    all: Vec<Entry>,
    retired: usize,
    /// Places of claims that became dead letters.
    dead: BTreeSet<usize>,
}

impl Model {
    fn waiting(&self) -> &[Entry] {
        &self.all[self.retired..]
    }

    fn claims(&self) -> impl Iterator<Item = (usize, &Claim)> {
        self.all.iter().enumerate().filter_map(|(at, entry)| match &entry.event {
            Event::Claimed(claim) => Some((at, claim)),
            _ => None,
        })
    }

    /// The place of a claim's end, and what it is.
    fn end_of(&self, claim: &Claim) -> Option<(usize, Fate)> {
        self.all.iter().enumerate().find_map(|(at, entry)| match &entry.event {
            Event::Moved(moved) if moved.claim_id == claim.claim_id => Some((at, moved.to)),
            _ => None,
        })
    }

    /// The sum of a campaign's claims for which `counts` says so: its place, and its end's.
    fn sum(&self, no: u32, counts: impl Fn(usize, Option<(usize, Fate)>) -> bool) -> Sum {
        let mine = self.claims().filter(|(at, claim)| claim.campaign.0 == no && counts(*at, self.end_of(claim)));
        mine.fold((0, 0), |sum, (_, claim)| (sum.0 + claim.quantity.0, sum.1 + claim.amount.map_or(0, |a| a.0)))
    }

    /// What the database's sums must be.
    fn database(&self, no: u32) -> Balance {
        let there = |at: usize| at < self.retired;
        let ended = |end: Option<(usize, Fate)>| end.filter(|(at, _)| there(*at)).map(|(_, fate)| fate);
        let of = |fate: Option<Fate>, dead: bool| {
            self.sum(no, |at, end| there(at) && ended(end) == fate && self.dead.contains(&at) == dead)
        };
        let add = |a: Sum, b: Sum| (a.0 + b.0, a.1 + b.1);
        let (persisted, settled) = (of(None, false), of(Some(Fate::Settled), false));
        // A claim in the dead letters that was paid is there still; one that was given back holds nothing.
        let dead = add(of(None, true), of(Some(Fate::Settled), true));
        let gone = |fate| add(of(Some(fate), false), of(Some(fate), true));
        let returned = add(gone(Fate::Cancelled), gone(Fate::Expired));
        Balance {
            persisted: persisted.0,
            money_persisted: persisted.1,
            settled: settled.0,
            money_settled: settled.1,
            returned: returned.0,
            money_returned: returned.1,
            dead: dead.0,
            money_dead: dead.1,
            ..Balance::default()
        }
    }

    fn databases(&self) -> Vec<(CampaignNo, Balance)> {
        (0..3).map(|no| (CampaignNo(no), self.database(no))).collect()
    }

    fn stock(&self, no: u32) -> StockNow {
        let (units, money) = self.sum(no, |_, end| !end.is_some_and(|(_, fate)| fate.returns_units()));
        let (stock, free) = (Units(STOCK), Units(STOCK - units));
        let (total, left) = (Money(TOTAL), Money(TOTAL - money));
        StockNow { no: CampaignNo(no), stock, free, total, left }
    }

    /// What an item is, if it can be.
    fn event(&self, item: &Item, at: Timestamp) -> Option<Event> {
        let seq = self.all.len() as u64 + 1;
        match item {
            Item::Claim(no, buyer, quantity) => {
                let command = claim(*no, *buyer, *quantity, seq * 777);
                let mut claim = decided(&command, seq, Some(i64::from(*quantity) * 9));
                claim.accepted_at = at;
                Some(Event::Claimed(claim))
            }
            Item::End(which, to) => {
                let open: Vec<_> = self.claims().filter(|(_, claim)| self.end_of(claim).is_none()).collect();
                let (_, claim) = open.get(which.index(open.len().max(1)))?;
                let (by, reason) = ("orders".into(), Box::default());
                let Claim { claim_id, campaign, quantity, amount, .. } = **claim;
                Some(Event::Moved(Moved { claim_id, campaign, quantity, amount, to: *to, by, reason }))
            }
        }
    }
}

fn publish(pending: &Pending, model: &mut Model, items: &[Item]) {
    let first_seq = Seq(model.all.len() as u64 + 1);
    let at = Timestamp(NOON.0 + first_seq.0 as i64 * 10);
    let (mut body, mut count) = (Vec::new(), 0);
    for item in items {
        let Some(event) = model.event(item, at) else { continue };
        codec::encode(&mut body, &event);
        model.all.push(Entry { seq: Seq(model.all.len() as u64 + 1), at, event });
        count += 1;
    }
    let stock: Vec<_> = (0..3).map(|no| model.stock(no)).collect();
    let context = FrameContext { first_seq, at, durability: Durability::Disk };
    pending.publish(&body, count, &context, &stock);
}

fn step(pending: &Pending, model: &mut Model, op: &Op) -> Result<(), TestCaseError> {
    match op {
        Op::Publish(items) => publish(pending, model, items),
        Op::Retire(max, dead) => {
            let lease = pending.lease(*max);
            prop_assert_eq!(lease.is_none(), model.waiting().is_empty());
            let Some(lease) = lease else { return Ok(()) };
            prop_assert_eq!(lease.after, Seq(model.retired as u64));
            let expected: Vec<_> = model.waiting().iter().take(*max).cloned().collect();
            prop_assert_eq!(&lease.entries, &expected);
            let again = pending.lease(*max);
            prop_assert_eq!(again.as_ref(), Some(&lease), "a lease that is not retired comes again");
            let is_claim = |i: &usize| matches!(expected.get(*i).map(|e| &e.event), Some(Event::Claimed(_)));
            let dead: Vec<_> = dead.iter().copied().filter(is_claim).collect();
            model.dead.extend(dead.iter().map(|i| model.retired + i));
            let is_dead = |moved: &Moved| {
                let mut dead = model.claims().filter(|(at, _)| model.dead.contains(at));
                dead.any(|(_, claim)| claim.claim_id == moved.claim_id)
            };
            let meets_dead = expected.iter().any(|e| matches!(&e.event, Event::Moved(moved) if is_dead(moved)));
            model.retired += expected.len();
            if meets_dead {
                // Only the database's own sums tell what an end did that met a dead letter.
                pending.retire_to(Seq(model.retired as u64), &model.databases());
            } else {
                pending.retire(&lease, &dead);
            }
        }
        Op::RetireTo(percent) => {
            model.retired += (model.waiting().len() as u64 * percent / 100) as usize;
            pending.retire_to(Seq(model.retired as u64), &model.databases());
        }
    }
    check(pending, model)
}

/// What waits, of the entries for which `fits` says so.
fn waiting(model: &Model, fits: impl Fn(&Claim) -> bool) -> Waiting {
    let mut found = Waiting::default();
    for (at, entry) in model.all.iter().enumerate().skip(model.retired) {
        match &entry.event {
            Event::Claimed(claim) if fits(claim) => found.claims.push(*claim),
            Event::Moved(moved) => {
                let of = model.claims().find(|(_, claim)| claim.claim_id == moved.claim_id);
                if of.is_some_and(|(_, claim)| fits(claim)) {
                    found.ends.push(End { seq: Seq(at as u64 + 1), moved: moved.clone() });
                }
            }
            _ => {}
        }
    }
    found
}

fn check(pending: &Pending, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(pending.entries(), model.waiting().len() as u64);
    prop_assert_eq!(pending.retired(), Seq(model.retired as u64));
    prop_assert_eq!(pending.oldest(), model.waiting().first().map(|entry| entry.at));
    for (_, claim) in model.claims().step_by(7) {
        prop_assert_eq!(pending.find(claim.claim_id), waiting(model, |c| c.claim_id == claim.claim_id));
    }
    for buyer in 0..BUYERS {
        let (name, hash) = (user(buyer), HASH.user(&user(buyer)));
        prop_assert_eq!(pending.of(&name, hash), waiting(model, |c| c.user == name), "oldest first");
    }
    (0..3).try_for_each(|no| check_balance(&pending.balance(CampaignNo(no)), model, no))
}

fn check_balance(balance: &Balance, model: &Model, no: u32) -> Result<(), TestCaseError> {
    prop_assert_eq!((balance.error(), balance.money_error()), (0, 0), "{:?}", balance);
    let (here, database) = (model.retired, model.database(no));
    let waits = |end: Option<(usize, Fate)>, settles| {
        end.is_some_and(|(at, fate)| at >= here && (fate == Fate::Settled) == settles)
    };
    // Ends count at once, wherever their claims are.
    let settling = model.sum(no, |_, end| waits(end, true));
    prop_assert_eq!(balance.settled, database.settled + settling.0);
    prop_assert_eq!(balance.money_settled, database.money_settled + settling.1);
    let returning = model.sum(no, |_, end| waits(end, false));
    prop_assert_eq!(balance.returned, database.returned + returning.0);
    prop_assert_eq!(balance.money_returned, database.money_returned + returning.1);
    let accepted = model.sum(no, |at, _| at >= here);
    prop_assert!(balance.accepted <= accepted.0 && balance.money_accepted <= accepted.1);
    if settling.0 + returning.0 == 0 {
        prop_assert_eq!((balance.accepted, balance.money_accepted), accepted);
        prop_assert_eq!((balance.persisted, balance.dead), (database.persisted, database.dead));
        prop_assert_eq!((balance.money_persisted, balance.money_dead), (database.money_persisted, database.money_dead));
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn what_waits_is_a_queue_that_can_be_looked_into(ops in prop::collection::vec(op(), 1..30)) {
        let (pending, mut model) = (Pending::new(Seq(0)), Model::default());
        for op in &ops {
            step(&pending, &mut model, op)?;
        }
    }

    #[test]
    fn frames_that_the_database_has_in_part_are_taken_from_there_on(
        frames in prop::collection::vec(prop::collection::vec(item(), 1..20), 1..8),
        percent in 0u64..=100,
    ) {
        // Once without the database, to know how many there are.
        let mut known = Model::default();
        frames.iter().for_each(|frame| publish(&Pending::new(Seq(0)), &mut known, frame));
        let cursor = known.all.len() as u64 * percent / 100;
        let (pending, mut model) = (Pending::new(Seq(cursor)), Model::default());
        frames.iter().for_each(|frame| publish(&pending, &mut model, frame));
        model.retired = cursor as usize;
        pending.retire_to(Seq(cursor), &model.databases());
        check(&pending, &model)?;
        step(&pending, &mut model, &Op::Retire(1_000, BTreeSet::new()))?;
    }
}

#[test]
fn leases_cross_from_one_chunk_into_the_next() {
    let (pending, mut model) = (Pending::new(Seq(0)), Model::default());
    for frame in 0..100u32 {
        let claims: Vec<_> = (0..100).map(|n| Item::Claim(frame % 3, n % BUYERS, 1)).collect();
        publish(&pending, &mut model, &claims);
    }
    let before = pending.bytes();
    for max in [4_000, 300, 1, 4_096, 1_603] {
        let lease = pending.lease(max).unwrap();
        assert_eq!(lease.entries.len(), max);
        assert_eq!(lease.entries[0].seq, lease.after.next());
        assert!(lease.entries.windows(2).all(|w| w[1].seq == w[0].seq.next()));
        pending.retire(&lease, &[]);
    }
    assert_eq!((pending.entries(), pending.lease(1), pending.oldest()), (0, None, None));
    assert!(pending.bytes() < before / 2, "chunks that are retired leave memory");
    assert_eq!(pending.balance(CampaignNo(1)).error(), 0);
}

#[test]
#[should_panic(expected = "a gap")]
fn a_gap_between_frames_is_a_bug_and_not_a_lost_claim() {
    let (pending, mut model) = (Pending::new(Seq(0)), Model::default());
    publish(&pending, &mut model, &[Item::Claim(0, 1, 1)]);
    model.all.push(model.all[0].clone());
    publish(&pending, &mut model, &[Item::Claim(0, 2, 1)]);
}
