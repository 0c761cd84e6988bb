//! The keys, the chunk index and the holders' filter against plain maps.

use std::collections::HashMap;

use forebay::limits::CHUNK_ENTRIES;
use forebay::queue::Replay;
use forebay::queue::chunk::Chunk;
use forebay::queue::codec::{self, FrameContext};
use forebay::queue::filter::HolderFilter;
use forebay::queue::keys::Keys;
use forebay::queue::pending::Waiting;
use forebay::sale::{ClaimId, Durability, KeyHash, Money, Seq, Timestamp, Units};
use proptest::prelude::*;

use crate::cases;
use crate::support::{NOON, claim, decided, user};
use crate::winners::any_user;

proptest! {
    #![proptest_config(cases(200))]

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
    let find = |id, after| {
        let mut found = Waiting::default();
        chunk.find(id, after, &mut found);
        found
    };
    for claim in &claims {
        assert_eq!(find(claim.claim_id, Seq(0)), Waiting { claims: vec![*claim], ..Waiting::default() });
        assert_eq!(find(claim.claim_id, claim.seq), Waiting::default(), "it is retired");
    }
    for buyer in 0..buyers + 5 {
        let mut seen = Waiting::default();
        chunk.of(&user(buyer), crate::support::HASH.user(&user(buyer)), Seq(0), &mut seen);
        let expected: Vec<_> = claims.iter().filter(|c| c.user == user(buyer)).copied().collect();
        assert_eq!(seen.claims, expected, "oldest first");
    }
    for n in 0..2_000 {
        assert_eq!(find(claim(2, n % buyers, 1, 1_000_000 + u64::from(n)).claim_id, Seq(0)), Waiting::default());
    }
    let mut read = Vec::new();
    chunk.read_after(Seq(4_000), 50, &mut read);
    assert_eq!(read.iter().map(|e| e.seq.0).collect::<Vec<_>>(), (4_001..=4_050).collect::<Vec<_>>());
    assert_eq!((chunk.time_after(Seq(4_095)), chunk.time_after(Seq(4_096))), (Some(NOON), None));
}
