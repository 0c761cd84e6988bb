//! The winners' table with its index and its list of what falls due, against plain lists: claims come, are settled, are
//! given back and leave their places to others, in tables that are full, wrap around and grow.

use std::collections::{BTreeSet, HashMap, HashSet};

use forebay::queue::dues::{Dues, Link, Links};
use forebay::queue::index::Index;
use forebay::queue::winners::{Held, Kept, Winners};
use forebay::sale::{ClaimId, Money, Timestamp, Units, UserHash};
use proptest::prelude::*;

use crate::cases;
use crate::support::NOON;

/// Few addresses, some at the very end of the table so that runs wrap around, and few fingerprints.
fn colliding_user() -> impl Strategy<Value = UserHash> {
    let address = prop_oneof![0u64..3, (1u64 << 40) - 3..1 << 40, 1u64 << 39..(1 << 39) + 2];
    (address, 0u64..3).prop_map(|(address, print)| UserHash(u128::from(address) << 88 | u128::from(print)))
}

pub fn any_user() -> impl Strategy<Value = UserHash> {
    prop_oneof![colliding_user(), any::<u128>().prop_map(UserHash)]
}

#[derive(Debug, Clone)]
enum Op {
    /// A buyer, units, a hold, and the microseconds since the claim before.
    Insert(UserHash, u32, u32, i64),
    Remove(prop::sample::Index),
    Settle(prop::sample::Index),
    Grow(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        50 => (any_user(), 1u32..1_000, 0u32..1_000, 0i64..3).prop_map(|(u, q, h, t)| Op::Insert(u, q, h, t)),
        25 => index().prop_map(Op::Remove),
        8 => index().prop_map(Op::Settle),
        2 => (1u64..30).prop_map(Op::Grow),
    ]
}

/// What is held, in the order in which it came.
#[derive(Default)]
struct List {
    claims: Vec<(UserHash, Kept)>,
    gone: Vec<ClaimId>,
    room: u64,
    now: i64,
    order: u32,
}

struct Tables {
    winners: Winners,
    list: List,
    amounts: bool,
    dues: bool,
}

impl Tables {
    fn new(claims: u64, amounts: bool, dues: bool) -> Self {
        let list = List { room: claims, now: NOON.0, ..List::default() };
        Self { winners: Winners::new(Units(claims), amounts, dues), list, amounts, dues }
    }

    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let list = &mut self.list;
        let len = list.claims.len();
        match op {
            Op::Insert(user, quantity, hold, later) => {
                prop_assert_eq!(self.winners.has_room(), (len as u64) < list.room);
                if len as u64 == list.room {
                    return Ok(());
                }
                list.now += later;
                // Every third is a stranger: its id was made with another key.
                let maker = if list.order.is_multiple_of(3) { UserHash(!user.0) } else { *user };
                let claim_id = ClaimId::new(NOON, maker, u64::from(list.order));
                let held = Held { claim_id, quantity: *quantity, hold: *hold, order: list.order, settled: false };
                let (amount, due) = (Money(i64::from(*quantity) * 3 - 1), Timestamp(list.now));
                list.order += 1;
                self.winners.insert(*user, &held, Some(amount), self.dues.then_some(due));
                let (amount, due) = (self.amounts.then_some(amount), self.dues.then_some(due));
                list.claims.push((*user, {
                    let (fingerprint, address) = (user.fingerprint(), user.address());
                    Kept { fingerprint, address, held, amount, due }
                }));
            }
            Op::Remove(at) if len > 0 => {
                let (_, mut kept) = list.claims.remove(at.index(len));
                kept.due = None;
                prop_assert_eq!(self.winners.remove(kept.held.claim_id), Some(kept));
                prop_assert_eq!(self.winners.remove(kept.held.claim_id), None, "it is gone");
                list.gone.push(kept.held.claim_id);
            }
            Op::Settle(at) if len > 0 => {
                let kept = &mut list.claims[at.index(len)].1;
                (kept.held.settled, kept.due) = (true, None);
                prop_assert_eq!(self.winners.settle(kept.held.claim_id), Some(*kept));
            }
            Op::Grow(more) => {
                self.winners.grow(Units(*more));
                list.room += more;
            }
            Op::Remove(_) | Op::Settle(_) => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let (table, list) = (&self.winners, &self.list);
        prop_assert_eq!((table.len(), table.is_empty()), (list.claims.len() as u64, list.claims.is_empty()));
        let mut by_user: HashMap<UserHash, HashSet<ClaimId>> = HashMap::new();
        for (user, kept) in &list.claims {
            prop_assert_eq!(table.find(kept.held.claim_id), Some(*kept));
            prop_assert_eq!(kept.user(), UserHash(user.0 & KNOWN));
            by_user.entry(*user).or_default().insert(kept.held.claim_id);
        }
        for (user, ids) in by_user {
            let seen: Vec<_> = table.of(user).map(|held| held.claim_id).collect();
            prop_assert_eq!(seen.len(), ids.len(), "none lost, none double");
            prop_assert!(seen.iter().all(|id| ids.contains(id)));
        }
        for id in &list.gone {
            prop_assert_eq!(table.find(*id), None);
        }
        let (mut all, mut expected): (Vec<_>, Vec<_>) = (table.iter().collect(), Vec::new());
        expected.extend(list.claims.iter().map(|(_, kept)| *kept));
        all.sort_by_key(|kept| kept.held.order);
        prop_assert_eq!(all, expected);
        let due = list.claims.iter().map(|(_, kept)| *kept).find(|kept| kept.due.is_some());
        prop_assert_eq!(table.first_due(), due, "the oldest that must be settled");
        Ok(())
    }
}

/// What an id and a fingerprint tell of a hash.
const KNOWN: u128 = u128::MAX << 88 | u64::MAX as u128;

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn the_winners_are_a_list_from_which_claims_come_and_go(
        first in 1u64..40,
        ops in prop::collection::vec(op(), 1..250),
        strangers in prop::collection::vec(any_user(), 20),
        amounts: bool,
        dues: bool,
    ) {
        let mut tables = Tables::new(first, amounts, dues);
        for (n, op) in ops.iter().enumerate() {
            tables.step(op)?;
            if n % 4 == 0 {
                tables.check()?;
            }
        }
        tables.check()?;
        for (n, stranger) in strangers.into_iter().enumerate() {
            if tables.list.claims.iter().all(|(user, _)| *user != stranger) {
                prop_assert_eq!(tables.winners.of(stranger).count(), 0);
            }
            prop_assert_eq!(tables.winners.find(ClaimId::new(NOON, stranger, 1_000_000 + n as u64)), None);
        }
        // What falls due leaves in the order in which it came.
        let due: Vec<_> = tables.list.claims.iter().filter(|(_, k)| k.due.is_some()).map(|(_, k)| k.held.order).collect();
        let left = std::iter::from_fn(|| tables.winners.first_due().and_then(|k| tables.winners.remove(k.held.claim_id)));
        prop_assert_eq!(left.map(|kept| kept.held.order).collect::<Vec<_>>(), due);
    }

    #[test]
    fn a_table_that_is_always_full_keeps_its_claims_through_any_number_of_returns(
        size in 1u64..24,
        users in prop::collection::vec((any_user(), any::<prop::sample::Index>()), 200),
    ) {
        let mut tables = Tables::new(size, true, true);
        for (user, at) in users {
            if tables.list.claims.len() as u64 == size {
                tables.step(&Op::Remove(at))?;
            }
            tables.step(&Op::Insert(user, 1, 0, 1))?;
            tables.check()?;
        }
    }

    #[test]
    fn the_index_is_a_set_of_places_by_hash(
        entries in 1u64..60,
        ops in prop::collection::vec((any_user(), any::<prop::sample::Index>(), 0u8..5), 1..300),
    ) {
        let (index, mut there) = (Index::new(entries), HashMap::new());
        let mut free: BTreeSet<usize> = (0..entries as usize).collect();
        for (user, at, what) in ops {
            let mut places: Vec<usize> = there.keys().copied().collect();
            places.sort_unstable();
            if (what < 2 || free.is_empty()) && !places.is_empty() {
                let place = places[at.index(places.len())];
                index.remove(there[&place], place, |place| there[&place]);
                there.remove(&place);
                free.insert(place);
            } else if let Some(place) = free.pop_first() {
                let hash = user.address() << 24;
                index.insert(hash, place);
                there.insert(place, hash);
            }
            for (place, hash) in &there {
                prop_assert_eq!(index.candidates(*hash).filter(|found| found == place).count(), 1);
                prop_assert!(index.candidates(*hash).all(|found| there.contains_key(&found)), "what is gone is gone");
            }
        }
    }

    #[test]
    fn what_falls_due_is_a_list_in_the_order_in_which_it_came(
        ops in prop::collection::vec((0u32..40, any::<bool>()), 1..300),
    ) {
        let (mut dues, mut links, mut list) = (Dues::default(), Places(vec![Link::default(); 40]), Vec::new());
        for (now, (at, goes)) in (1i64..).zip(ops) {
            if goes || list.contains(&(at, links.0[at as usize].due())) {
                dues.unlink(at, &mut links);
                list.retain(|(other, _)| *other != at);
            } else {
                dues.push(at, Timestamp(now), &mut links);
                list.push((at, Some(Timestamp(now))));
            }
            prop_assert_eq!(dues.first(), list.first().map(|(at, _)| *at));
            for (at, link) in links.0.iter().enumerate() {
                let expected = list.iter().find(|(other, _)| *other == at as u32).and_then(|(_, due)| *due);
                prop_assert_eq!(link.due(), expected);
            }
        }
        let all = std::iter::from_fn(|| dues.first().inspect(|&at| dues.unlink(at, &mut links)));
        prop_assert_eq!(all.collect::<Vec<_>>(), list.into_iter().map(|(at, _)| at).collect::<Vec<_>>());
    }
}

struct Places(Vec<Link>);

impl Links for Places {
    fn link(&mut self, at: u32) -> &mut Link {
        &mut self.0[at as usize]
    }
}

#[test]
#[should_panic(expected = "more claims than stock")]
fn a_claim_beyond_the_stock_is_a_bug_and_not_a_lost_winner() {
    let mut table = Winners::new(Units(1), false, false);
    for n in 0..2 {
        let claim_id = ClaimId::new(NOON, UserHash(n), n as u64);
        let held = Held { claim_id, quantity: 1, hold: 0, order: n as u32, settled: false };
        table.insert(UserHash(n), &held, None, None);
    }
}
