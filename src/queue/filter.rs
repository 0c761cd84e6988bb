//! Who may hold a claim: a filter of fixed size that the front end asks before it refuses on the spot.
//!
//! A holder is always in it, and is in it before its answer leaves; a few others are too (below one in a hundred), and
//! the sequencer tells those the truth. Sixteen bits a unit of stock, four of them set within one word a holder
//! (a blocked Bloom filter: one cache line a look-up).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::index::{ColdPages, zeroed};
use crate::sale::{Units, UserHash};

/// The filter of one campaign.
#[derive(Debug)]
pub struct HolderFilter {
    words: Arc<Vec<AtomicU64>>,
}

impl HolderFilter {
    /// A filter for `holders` holders.
    pub fn new(holders: Units) -> Self {
        Self { words: Arc::new(zeroed((holders.0 / 4 + 1) as usize)) }
    }

    /// Remembers a holder.
    pub fn insert(&self, user: UserHash) {
        let (at, mask) = self.place(user);
        self.words[at].fetch_or(mask, Ordering::Release);
    }

    /// Whether `user` may be a holder; `false` is certain.
    pub fn may_hold(&self, user: UserHash) -> bool {
        let (at, mask) = self.place(user);
        self.words[at].load(Ordering::Acquire) & mask == mask
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        (self.words.len() * size_of::<AtomicU64>()) as u64
    }

    /// Its pages.
    pub fn cold_pages(&self) -> ColdPages {
        ColdPages::LongWords(self.words.clone())
    }

    fn place(&self, user: UserHash) -> (usize, u64) {
        // Only what the book keeps of a buyer's hash, so that a recovered book fills the same bits.
        let at = ((u128::from(user.address()) * self.words.len() as u128) >> 40) as usize;
        let bit = |n: u32| 1u64 << ((user.fingerprint() >> (6 * n)) & 63);
        (at, bit(0) | bit(1) | bit(2) | bit(3))
    }
}

/// Who may have a cart. Until everybody who has one was entered, everybody may.
#[derive(Debug, Default)]
pub struct CartOwners {
    filter: ArcSwapOption<HolderFilter>,
    is_complete: AtomicBool,
}

impl CartOwners {
    /// Begins with room for `owners`; who changes a cart from now on is entered.
    pub fn begin(&self, owners: Units) {
        self.filter.store(Some(Arc::new(HolderFilter::new(owners))));
    }

    /// Remembers an owner.
    pub fn insert(&self, user: UserHash) {
        if let Some(filter) = &*self.filter.load() {
            filter.insert(user);
        }
    }

    /// Everybody who has a cart was entered.
    pub fn complete(&self) {
        self.is_complete.store(true, Ordering::Release);
    }

    /// Whether `user` may have a cart; `false` is certain.
    pub fn may_have(&self, user: UserHash) -> bool {
        !self.is_complete.load(Ordering::Acquire) || self.filter.load().as_ref().is_none_or(|f| f.may_hold(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::book::HashKey;
    use crate::sale::UserId;

    #[test]
    fn a_holder_is_always_found_and_few_others_are() {
        let (key, filter) = (HashKey([7; 16]), HolderFilter::new(Units(10_000)));
        let user = |n: u32| key.user(&UserId::parse(&format!("u{n}")).unwrap());
        (0..10_000).for_each(|n| filter.insert(user(n)));
        assert!((0..10_000).all(|n| filter.may_hold(user(n))));
        let wrong = (10_000..110_000).filter(|&n| filter.may_hold(user(n))).count();
        assert!(wrong < 1_500, "{wrong} of 100,000 strangers pass");
    }
}
