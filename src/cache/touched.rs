//! What a worker tells all gates: which buyers' claims and carts the entries of a batch have touched, after the commit and before
//! Redis lets go of the entries. Pure.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | 1: rows were written. 2: rows were changed that no position tells of, and nothing follows |
//! | 8 | the position after which it tells |
//! | 8 | the one up to which it does |
//! | 4 | of how many buyers claims were touched |
//! | 4 | of how many carts |
//! | 5 each | the addresses of the former, which claim ids carry |
//! | 5 each | the addresses of the latter |
//!
//! Numbers are little-endian. What can't be read is another version's: it is as if it had been lost, which gates notice.

use std::collections::BTreeSet;

use crate::limits;
use crate::sale::{Event, Seq};

/// The channel, behind the prefix of the partition's keys.
pub const CHANNEL: &str = "touched";

/// The key beside it, under which is a word that changes whenever rows were changed that no position tells of.
pub const ERA: &str = "cache-era";

const WRITTEN: u8 = 1;
const CHANGED: u8 = 2;
const ADDRESS_BYTES: usize = 5;
const ADDRESS_MAX: u64 = 1 << (8 * ADDRESS_BYTES);

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// The entries after `after` up to `upto` are rows.
    Written {
        /// The position before the first one.
        after: Seq,
        /// The last one.
        upto: Seq,
        /// The addresses of buyers with whose claims that has to do.
        claims: Vec<u64>,
        /// The addresses of buyers with whose carts.
        carts: Vec<u64>,
    },
    /// Rows were changed by an operator.
    Changed,
}

impl Touched {
    /// What `events` have touched, which follow each other after `after`: one message or several, bounded ones.
    pub fn by<'a>(after: Seq, events: impl Iterator<Item = &'a Event>) -> Vec<Self> {
        let mut all = Vec::new();
        let (mut from, mut upto) = (after, after);
        let (mut claims, mut carts) = (BTreeSet::new(), BTreeSet::new());
        let mut cut = |from: &mut Seq, upto: Seq, claims: &mut BTreeSet<u64>, carts: &mut BTreeSet<u64>| {
            let (claims, carts) = (std::mem::take(claims), std::mem::take(carts));
            let (claims, carts) = (claims.into_iter().collect(), carts.into_iter().collect());
            all.push(Self::Written { after: std::mem::replace(from, upto), upto, claims, carts });
        };
        for event in events {
            match event {
                Event::Claimed(claim) => _ = claims.insert(claim.claim_id.address()),
                Event::Moved(moved) => _ = claims.insert(moved.claim_id.address()),
                Event::Carted(carted) => _ = carts.insert(carted.address),
                Event::Created(_) | Event::Changed(_) | Event::Released(_) | Event::Void => {}
            }
            upto = upto.next();
            if upto.0 - from.0 >= limits::TOUCHED_MAX as u64 {
                cut(&mut from, upto, &mut claims, &mut carts);
            }
        }
        if upto > from {
            cut(&mut from, upto, &mut claims, &mut carts);
        }
        all
    }

    /// As it is published.
    pub fn encode(&self) -> Vec<u8> {
        let Self::Written { after, upto, claims, carts } = self else { return vec![CHANGED] };
        let mut bytes = Vec::with_capacity(25 + ADDRESS_BYTES * (claims.len() + carts.len()));
        bytes.push(WRITTEN);
        bytes.extend_from_slice(&after.0.to_le_bytes());
        bytes.extend_from_slice(&upto.0.to_le_bytes());
        bytes.extend_from_slice(&(claims.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(carts.len() as u32).to_le_bytes());
        for address in claims.iter().chain(carts) {
            debug_assert!(*address < ADDRESS_MAX, "an address has 40 bits");
            bytes.extend_from_slice(&address.to_le_bytes()[..ADDRESS_BYTES]);
        }
        bytes
    }

    /// Reads [`Self::encode`]; none where it is something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&CHANGED, []) => Some(Self::Changed),
            (&WRITTEN, rest) => {
                let (after, rest) = rest.split_first_chunk().map(|(n, rest)| (u64::from_le_bytes(*n), rest))?;
                let (upto, rest) = rest.split_first_chunk().map(|(n, rest)| (u64::from_le_bytes(*n), rest))?;
                let (count, rest) = rest.split_first_chunk().map(|(n, rest)| (u32::from_le_bytes(*n), rest))?;
                let (others, rest) = rest.split_first_chunk().map(|(n, rest)| (u32::from_le_bytes(*n), rest))?;
                let (claims, carts) = rest.split_at_checked(count as usize * ADDRESS_BYTES)?;
                if upto <= after || carts.len() != others as usize * ADDRESS_BYTES {
                    return None;
                }
                let (claims, carts) = (addresses(claims), addresses(carts));
                Some(Self::Written { after: Seq(after), upto: Seq(upto), claims, carts })
            }
            _ => None,
        }
    }
}

fn addresses(bytes: &[u8]) -> Vec<u64> {
    let address = |chunk: &[u8]| chunk.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    bytes.chunks_exact(ADDRESS_BYTES).map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sale::{CampaignNo, CartOp, Carted, ClaimId, Fate, Moved, Sku, Timestamp, Units, UserHash, UserId};

    fn moved(address: u64) -> Event {
        let claim_id = ClaimId::new(Timestamp(1_000), UserHash(u128::from(address) << 88), 5);
        let (by, reason) = Default::default();
        let (quantity, amount, campaign) = (Units(1), None, CampaignNo(0));
        Event::Moved(Moved { claim_id, campaign, quantity, amount, to: Fate::Settled, by, reason })
    }

    fn carted(address: u64) -> Event {
        let (user, sku) = (UserId::parse("u").unwrap(), Sku::parse("s").unwrap());
        Event::Carted(Carted { user, sku, op: CartOp::Add(1), quantity: 1, key: None, address })
    }

    #[test]
    fn a_batch_is_told_of_without_a_gap_and_each_buyer_once_a_message() {
        let top = (1 << 40) - 1;
        let events = [moved(7), Event::Void, carted(top), moved(7), moved(0), carted(3)];
        let told = Touched::by(Seq(40), events.iter());
        let (claims, carts) = (vec![0, 7], vec![3, top]);
        assert_eq!(told, [Touched::Written { after: Seq(40), upto: Seq(46), claims, carts }]);
        assert_eq!(Touched::decode(&told[0].encode()).as_ref(), Some(&told[0]));
        assert_eq!(Touched::by(Seq(40), [].iter()), []);

        let many: Vec<_> = (0..2 * limits::TOUCHED_MAX as u64 + 5).map(moved).collect();
        let told = Touched::by(Seq(1), many.iter());
        let mut at = (Seq(1), 0);
        for message in &told {
            let Touched::Written { after, upto, claims, .. } = message else { panic!("{message:?}") };
            assert_eq!((*after, claims.len() as u64), (at.0, upto.0 - after.0));
            assert!(claims.len() <= limits::TOUCHED_MAX);
            at = (*upto, at.1 + claims.len());
            assert_eq!(Touched::decode(&message.encode()).as_ref(), Some(message));
        }
        assert_eq!((told.len(), at), (3, (Seq(1).plus(many.len() as u64), many.len())));
    }

    #[test]
    fn what_is_no_message_is_not_taken_for_one() {
        assert_eq!(Touched::decode(&Touched::Changed.encode()), Some(Touched::Changed));
        let whole = Touched::by(Seq(1), [moved(7), carted(8)].iter())[0].encode();
        for len in 0..whole.len() {
            assert_eq!(Touched::decode(&whole[..len]), None, "{len} bytes");
        }
        for wrong in [&b"\x02x"[..], b"\x03", b"", &[&whole[..], b"x"].concat()] {
            assert_eq!(Touched::decode(wrong), None);
        }
        let mut backwards = whole;
        backwards[1..9].copy_from_slice(&9_u64.to_le_bytes());
        assert_eq!(Touched::decode(&backwards), None);
    }
}
