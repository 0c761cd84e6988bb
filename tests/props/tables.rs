//! The winners, the keys, the chunk index and the holders' filter against plain maps.

use std::collections::{HashMap, HashSet};

use forebay::limits::CHUNK_ENTRIES;
use forebay::queue::Replay;
use forebay::queue::chunk::Chunk;
use forebay::queue::codec::{self, FrameContext};
use forebay::queue::filter::HolderFilter;
use forebay::queue::keys::Keys;
use forebay::queue::winners::{Held, Winners};
use forebay::sale::{ClaimId, Durability, KeyHash, Money, Seq, Timestamp, Units, UserHash};
use proptest::prelude::*;

use crate::cases;
use crate::support::{NOON, claim, decided, user};

/// Few addresses, some at the very end of the table so that runs wrap around, and few fingerprints.
fn colliding_user() -> impl Strategy<Value = UserHash> {
    let address = prop_oneof![0u64..3, (1u64 << 40) - 3..1 << 40, 1u64 << 39..(1 << 39) + 2];
    (address, 0u64..3).prop_map(|(address, print)| UserHash(u128::from(address) << 88 | u128::from(print)))
}

fn any_user() -> impl Strategy<Value = UserHash> {
    prop_oneof![colliding_user(), any::<u128>().prop_map(UserHash)]
}

type Naive = HashMap<UserHash, Vec<(Held, i64)>>;

fn same_winners(table: &Winners, model: &Naive, amounts: bool) -> Result<(), TestCaseError> {
    for (&user, claims) in model {
        let seen: HashSet<_> = table.of(user).map(|h| h.claim_id).collect();
        prop_assert_eq!(seen.len(), claims.len());
        for (held, amount) in claims {
            prop_assert!(table.of(user).any(|h| h == *held));
            prop_assert_eq!(table.find(held.claim_id), Some((*held, amounts.then_some(Money(*amount)))));
        }
    }
    let all: HashSet<_> = table.iter().map(|(print, held, _)| (print, held.claim_id)).collect();
    let expected = model.iter().flat_map(|(u, claims)| claims.iter().map(|(h, _)| (u.fingerprint(), h.claim_id)));
    prop_assert_eq!(all, expected.collect::<HashSet<_>>());
    Ok(())
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn the_winners_are_a_map_from_buyers_to_claims_up_to_the_last_unit(
        first in 1u64..40,
        restocks in prop::collection::vec(1u64..30, 0..4),
        users in prop::collection::vec((any_user(), 1u32..1_000, 0u32..1_000), 160),
        strangers in prop::collection::vec(any_user(), 20),
        amounts: bool,
    ) {
        let mut table = Winners::new(Units(first), amounts);
        let mut model = Naive::new();
        let (mut room, mut restocks) = (first, restocks.into_iter());
        for (order, (user, quantity, hold)) in users.into_iter().enumerate() {
            if room == 0 {
                same_winners(&table, &model, amounts)?;
                let Some(more) = restocks.next() else { break };
                table.grow(Units(more));
                room = more;
            }
            let claim_id = ClaimId::new(NOON, user, order as u64);
            let held = Held { claim_id, quantity, hold, order: order as u32 };
            let amount = i64::from(quantity) * 3 - 1;
            table.insert(user, &held, Some(Money(amount)));
            model.entry(user).or_default().push((held, amount));
            room -= 1;
        }
        same_winners(&table, &model, amounts)?;
        prop_assert_eq!(table.len(), model.values().map(Vec::len).sum::<usize>() as u64);
        prop_assert_eq!(table.is_empty(), model.is_empty());
        for (n, stranger) in strangers.into_iter().enumerate() {
            if !model.contains_key(&stranger) {
                prop_assert_eq!(table.of(stranger).count(), 0);
            }
            prop_assert_eq!(table.find(ClaimId::new(NOON, stranger, 1_000 + n as u64)), None);
        }
    }

    #[test]
    fn the_keys_are_a_map_to_the_first_answer(
        first in 1u64..40,
        more in 1u64..40,
        keys in prop::collection::hash_set(
            prop_oneof![(0u128..3, 0u128..40).prop_map(|(h, l)| h << 126 | l), any::<u128>()], 40..80),
        answers in prop::collection::vec(
            (any::<[u8; 16]>(), any::<u32>(), prop::option::of(0i64..i64::MAX), any::<u16>(), any::<u64>(),
             any::<i64>(),
             any::<bool>()), 80),
    ) {
        let mut table = Keys::new(Units(first));
        table.grow(Units(more));
        let keys: Vec<_> = keys.into_iter().collect();
        let mut model = HashMap::new();
        for (&key, (id, quantity, amount, receipt_key, seq, at, memory)) in
            keys.iter().zip(answers).take((first + more) as usize)
        {
            let durability = if memory { Durability::Memory } else { Durability::Disk };
            let (amount, seq, at) = (amount.map(Money), Seq(seq), Timestamp(at));
            let replay = Replay { claim_id: ClaimId(id), quantity, amount, receipt_key, seq, at, durability };
            prop_assert_eq!(table.get(KeyHash(key)), None);
            table.insert(KeyHash(key), &replay);
            model.insert(key, replay);
        }
        for key in keys {
            prop_assert_eq!(table.get(KeyHash(key)), model.get(&key).copied());
        }
        let all: HashMap<_, _> = table.iter().map(|(key, replay)| (key.0, replay)).collect();
        prop_assert_eq!(all, model);
    }

    #[test]
    fn a_filter_of_any_size_forgets_nobody(holders in 0u64..500, users in prop::collection::vec(any_user(), 0..400)) {
        let filter = HolderFilter::new(Units(holders));
        for (n, user) in users.iter().enumerate() {
            filter.insert(*user);
            prop_assert!(users[..=n].iter().all(|u| filter.may_hold(*u)));
        }
    }
}

#[test]
#[should_panic(expected = "more claims than stock")]
fn a_claim_beyond_the_stock_is_a_bug_and_not_a_lost_winner() {
    let mut table = Winners::new(Units(1), false);
    for n in 0..2 {
        let claim_id = ClaimId::new(NOON, UserHash(n), n as u64);
        table.insert(UserHash(n), &Held { claim_id, quantity: 1, hold: 0, order: n as u32 }, None);
    }
}

#[test]
fn a_full_chunk_finds_each_of_its_claims_by_id_and_by_buyer() {
    let buyers = 700;
    let context = |n: u64| FrameContext { first_seq: Seq(n / 64 * 64 + 1), at: NOON, durability: Durability::Disk };
    let mut chunk = Chunk::new(Seq(1));
    let claims: Vec<_> = (0..CHUNK_ENTRIES as u64)
        .map(|n| decided(&claim(2, (n * n) as u32 % buyers, 1 + n as u32 % 3, n), n + 1, Some(n as i64)))
        .collect();
    for (n, claim) in claims.iter().enumerate() {
        assert!(!chunk.is_full());
        assert_eq!(chunk.last_seq(), Seq(n as u64));
        let mut bytes = Vec::new();
        codec::encode_claim(&mut bytes, claim);
        chunk.push(&bytes, &context(n as u64));
    }
    assert!(chunk.is_full());
    for claim in &claims {
        assert_eq!(chunk.find(claim.claim_id), Some(*claim));
    }
    for buyer in 0..buyers + 5 {
        let mut seen = Vec::new();
        chunk.of(&user(buyer), crate::support::HASH.user(&user(buyer)), &mut seen);
        let expected: Vec<_> = claims.iter().filter(|c| c.user == user(buyer)).copied().collect();
        assert_eq!(seen, expected, "oldest first");
    }
    for n in 0..2_000 {
        assert_eq!(chunk.find(claim(2, n % buyers, 1, 1_000_000 + u64::from(n)).claim_id), None);
    }
    let mut read = Vec::new();
    chunk.read_after(Seq(4_000), 50, &mut read);
    assert_eq!(read.iter().map(|e| e.seq.0).collect::<Vec<_>>(), (4_001..=4_050).collect::<Vec<_>>());
    assert_eq!((chunk.time_after(Seq(4_095)), chunk.time_after(Seq(4_096))), (Some(NOON), None));
}
