//! The waiting entries against a plain queue, with the conservation equation at every step.

use std::collections::BTreeSet;

use forebay::queue::codec::{self, FrameContext};
use forebay::queue::pending::StockNow;
use forebay::queue::{Balance, Pending};
use forebay::sale::{CampaignNo, Claim, Durability, Money, Seq, Timestamp, Units};
use proptest::prelude::*;

use crate::cases;
use crate::support::{HASH, NOON, claim, decided, user};

const STOCK: u64 = 1_000_000;
const TOTAL: i64 = 1 << 40;
const BUYERS: u32 = 12;

#[derive(Debug, Clone)]
enum Op {
    /// A frame of claims: campaign, buyer, units.
    Publish(Vec<(u32, u32, u32)>),
    /// The database took the front entries; those whose place is in the set became dead letters.
    Retire(usize, BTreeSet<usize>),
    /// The database turns out to have this share of what waits.
    RetireTo(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop::collection::vec((0u32..3, 0..BUYERS, 1u32..4), 1..40).prop_map(Op::Publish),
        3 => (1usize..60, prop::collection::btree_set(0usize..60, 0..5)).prop_map(|(n, dead)| Op::Retire(n, dead)),
        1 => (0u64..=100).prop_map(Op::RetireTo),
    ]
}

#[derive(Default)]
struct Model {
    /// All claims that ever came, in order: claim, and its frame's time.
    all: Vec<Claim>,
    retired: usize,
    dead: BTreeSet<usize>,
}

impl Model {
    fn waiting(&self) -> &[Claim] {
        &self.all[self.retired..]
    }

    fn sums<'a>(claims: impl Iterator<Item = &'a Claim>, no: u32) -> (u64, i64) {
        let mine = claims.filter(|c| c.campaign.0 == no);
        mine.fold((0, 0), |(units, money), c| (units + c.quantity.0, money + c.amount.map_or(0, |a| a.0)))
    }

    fn database(&self, no: u32) -> Balance {
        let taken = |dead: bool| {
            let all = self.all[..self.retired].iter().enumerate();
            all.filter(move |(i, _)| self.dead.contains(i) == dead).map(|(_, claim)| claim)
        };
        let ((persisted, money_persisted), (dead, money_dead)) =
            (Self::sums(taken(false), no), Self::sums(taken(true), no));
        Balance { persisted, money_persisted, dead, money_dead, ..Balance::default() }
    }

    fn stock(&self, no: u32) -> StockNow {
        let (units, money) = Self::sums(self.all.iter(), no);
        let (stock, free) = (Units(STOCK), Units(STOCK - units));
        let (total, left) = (Money(TOTAL), Money(TOTAL - money));
        StockNow { no: CampaignNo(no), stock, free, total, left }
    }
}

fn publish(pending: &Pending, model: &mut Model, claims: &[(u32, u32, u32)]) {
    let first_seq = Seq(model.all.len() as u64 + 1);
    let at = Timestamp(NOON.0 + first_seq.0 as i64 * 10);
    let mut body = Vec::new();
    for &(no, buyer, quantity) in claims {
        let serial = model.all.len() as u64 * 777;
        let mut claim = decided(&claim(no, buyer, quantity, serial), serial / 777 + 1, Some(i64::from(quantity) * 9));
        claim.accepted_at = at;
        codec::encode_claim(&mut body, &claim);
        model.all.push(claim);
    }
    let stock: Vec<_> = (0..3).map(|no| model.stock(no)).collect();
    let context = FrameContext { first_seq, at, durability: Durability::Disk };
    pending.publish(&body, claims.len() as u32, &context, &stock);
}

fn step(pending: &Pending, model: &mut Model, op: &Op) -> Result<(), TestCaseError> {
    match op {
        Op::Publish(claims) => publish(pending, model, claims),
        Op::Retire(max, dead) => {
            let lease = pending.lease(*max);
            prop_assert_eq!(lease.is_none(), model.waiting().is_empty());
            let Some(lease) = lease else { return Ok(()) };
            prop_assert_eq!(lease.after, Seq(model.retired as u64));
            let expected: Vec<_> = model.waiting().iter().take(*max).map(|c| crate::support::entry(*c)).collect();
            prop_assert_eq!(&lease.entries, &expected);
            let again = pending.lease(*max);
            prop_assert_eq!(again.as_ref(), Some(&lease), "a lease that is not retired comes again");
            let dead: Vec<_> = dead.iter().copied().filter(|&i| i < expected.len()).collect();
            pending.retire(&lease, &dead);
            model.dead.extend(dead.iter().map(|i| model.retired + i));
            model.retired += expected.len();
        }
        Op::RetireTo(percent) => {
            model.retired += (model.waiting().len() as u64 * percent / 100) as usize;
            let sums: Vec<_> = (0..3).map(|no| (CampaignNo(no), model.database(no))).collect();
            pending.retire_to(Seq(model.retired as u64), &sums);
        }
    }
    check(pending, model)
}

fn check(pending: &Pending, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(pending.entries(), model.waiting().len() as u64);
    prop_assert_eq!(pending.retired(), Seq(model.retired as u64));
    prop_assert_eq!(pending.oldest(), model.waiting().first().map(|c| c.accepted_at));
    for (place, claim) in model.all.iter().enumerate() {
        let expected = (place >= model.retired).then_some(*claim);
        prop_assert_eq!(pending.find(claim.claim_id), expected);
    }
    for buyer in 0..BUYERS {
        let expected: Vec<_> = model.waiting().iter().filter(|c| c.user == user(buyer)).copied().collect();
        prop_assert_eq!(pending.of(&user(buyer), HASH.user(&user(buyer))), expected, "oldest first");
    }
    for no in 0..3 {
        let balance = pending.balance(CampaignNo(no));
        prop_assert_eq!((balance.error(), balance.money_error()), (0, 0), "{:?}", balance);
        prop_assert_eq!((balance.accepted, balance.money_accepted), Model::sums(model.waiting().iter(), no));
        let database = model.database(no);
        prop_assert_eq!((balance.persisted, balance.dead), (database.persisted, database.dead));
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
        frames in prop::collection::vec(prop::collection::vec((0u32..3, 0..BUYERS, 1u32..4), 1..20), 1..8),
        percent in 0u64..=100,
    ) {
        let mut model = Model::default();
        let whole: u64 = frames.iter().map(|f| f.len() as u64).sum();
        let cursor = whole * percent / 100;
        let pending = Pending::new(Seq(cursor));
        for frame in &frames {
            publish(&pending, &mut model, frame);
        }
        model.retired = cursor as usize;
        let sums: Vec<_> = (0..3).map(|no| (CampaignNo(no), model.database(no))).collect();
        pending.retire_to(Seq(cursor), &sums);
        check(&pending, &model)?;
        step(&pending, &mut model, &Op::Retire(1_000, BTreeSet::new()))?;
    }
}

#[test]
fn leases_cross_from_one_chunk_into_the_next() {
    let (pending, mut model) = (Pending::new(Seq(0)), Model::default());
    for frame in 0..100u32 {
        let claims: Vec<_> = (0..100).map(|n| (frame % 3, n % BUYERS, 1)).collect();
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
    publish(&pending, &mut model, &[(0, 1, 1)]);
    model.all.push(model.all[0]);
    publish(&pending, &mut model, &[(0, 2, 1)]);
}
