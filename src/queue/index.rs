//! A hash index of fixed size: from a hash to the places of a table of records.
//!
//! Open addressing with linear probing, four bytes a slot: the place plus one in the low bits, the rest of the word a tag
//! of the hash, so that most strangers are told apart without a look at their records. Never rehashed.
//!
//! The records lie in the order in which they came, so only the index is touched at random. Its pages are zeroed by the
//! system when they are first written, which can take tens of microseconds each; [`ColdPages`] lets another thread do
//! that before the sale reaches them, although the sequencer owns the index: slots are atomic, and adding nothing to one
//! changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use zerocopy::FromZeros;

/// The index.
#[derive(Debug)]
pub struct Index {
    slots: Arc<Vec<AtomicU32>>,
    place_bits: u32,
}

impl Index {
    /// An index for `entries` places.
    pub fn new(entries: u64) -> Self {
        let place_bits = u64::BITS - entries.leading_zeros();
        assert!(place_bits <= u32::BITS, "places are 32 bits");
        Self { slots: Arc::new(zeroed(slots_for(entries) as usize)), place_bits }
    }

    /// The bytes of an index for `entries` places.
    pub fn bytes_for(entries: u64) -> u64 {
        slots_for(entries) * size_of::<AtomicU32>() as u64
    }

    /// Enters `place` under `hash`.
    ///
    /// # Panics
    /// Where it is full, which the size rules out.
    pub fn insert(&self, hash: u64, place: usize) {
        let word = self.tag(hash) | (place as u32 + 1);
        let free = self.run(hash).find(|&at| self.load(at) == 0).expect("three eighths of the slots are always free");
        self.slots[free].store(word, Ordering::Relaxed);
    }

    /// Takes `place` out from under `hash`; `hash_of` tells under which hash a place was entered. What was pushed aside by it
    /// moves up (Knuth, The Art of Computer Programming, volume 3, algorithm 6.4R), so that a table in which claims come
    /// and go for ever never fills with marks of what was there.
    ///
    /// # Panics
    /// Where it is not there.
    pub fn remove(&self, hash: u64, place: usize, hash_of: impl Fn(usize) -> u64) {
        let (word, mask) = (self.tag(hash) | (place as u32 + 1), self.place_mask());
        let mut hole = self.run(hash).find(|&at| self.load(at) == word).expect("a place that was entered");
        let (mut at, len) = (hole, self.slots.len());
        loop {
            at = if at + 1 == len { 0 } else { at + 1 };
            let word = self.load(at);
            if word == 0 {
                break;
            }
            let home = self.home(hash_of((word & mask) as usize - 1));
            // How far behind its home the entry is, and how far behind the hole: it may move up to the hole, not beyond
            // its home.
            let distance = |from: usize| if at >= from { at - from } else { at + len - from };
            if distance(home) >= distance(hole) {
                self.slots[hole].store(word, Ordering::Relaxed);
                hole = at;
            }
        }
        self.slots[hole].store(0, Ordering::Relaxed);
    }

    /// Places that may be `hash`'s, in no order; every place that is its is among them.
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let (tag, mask) = (self.tag(hash), self.place_mask());
        let words = self.run(hash).map(|at| self.load(at)).take_while(|&word| word != 0);
        words.filter(move |word| word & !mask == tag).map(move |word| (word & mask) as usize - 1)
    }

    /// The word at `hash`'s home: reading it ahead brings its cache line.
    pub fn touch(&self, hash: u64) -> u32 {
        self.load(self.home(hash))
    }

    /// Its pages.
    pub fn cold_pages(&self) -> ColdPages {
        ColdPages::Words(self.slots.clone())
    }

    fn load(&self, at: usize) -> u32 {
        self.slots[at].load(Ordering::Relaxed)
    }

    /// Lemire's range reduction: the hash scaled to the number of slots, without a division.
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    fn run(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let (home, len) = (self.home(hash), self.slots.len());
        (home..len).chain(0..home)
    }

    fn place_mask(&self) -> u32 {
        ((1u64 << self.place_bits) - 1) as u32
    }

    /// The high bits of the hash choose the slot; these lie below those that can.
    fn tag(&self, hash: u64) -> u32 {
        ((hash >> 24) as u32).checked_shl(self.place_bits).unwrap_or(0)
    }
}

/// Five eighths of the slots are used at most: four slots are read where a stranger is looked for in a full index.
fn slots_for(entries: u64) -> u64 {
    entries + entries / 5 * 3 + 4
}

/// Zeroed memory whose pages the system gives when they are first written.
pub fn zeroed<T: FromZeros>(len: usize) -> Vec<T> {
    // Failing means that the address space is used up; campaigns are refused long before by their declared need.
    T::new_vec_zeroed(len).unwrap_or_else(|_| panic!("no memory for {len} × {} bytes", size_of::<T>()))
}

/// Memory that has not been written yet.
#[derive(Debug, Clone)]
pub enum ColdPages {
    /// An index's slots.
    Words(Arc<Vec<AtomicU32>>),
    /// A filter's.
    LongWords(Arc<Vec<AtomicU64>>),
}

impl ColdPages {
    /// Has the system give `pages` pages from page `from` on, without changing what is in them; gives the page to go on with,
    /// none at the end. For a thread that has time: a page can take a tenth of a millisecond.
    pub fn warm(&self, from: usize, pages: usize) -> Option<usize> {
        const PAGE: usize = 4_096;
        // Hidden from the compiler, which turns adding a known nothing into a read; and a page that was only read is not
        // given yet.
        let nothing = std::hint::black_box(0u32);
        let all = match self {
            Self::Words(words) => {
                let each = words.iter().step_by(PAGE / size_of::<AtomicU32>());
                each.skip(from).take(pages).for_each(|word| {
                    word.fetch_or(nothing, Ordering::Relaxed);
                });
                words.len().div_ceil(PAGE / size_of::<AtomicU32>())
            }
            Self::LongWords(words) => {
                let each = words.iter().step_by(PAGE / size_of::<AtomicU64>());
                each.skip(from).take(pages).for_each(|word| {
                    word.fetch_or(nothing.into(), Ordering::Relaxed);
                });
                words.len().div_ceil(PAGE / size_of::<AtomicU64>())
            }
        };
        Some(from + pages).filter(|next| *next < all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_made_in_portions_and_nothing_in_them_changes() {
        // 1,604 slots: two pages, the second not whole.
        let index = Index::new(1_000);
        index.insert(7 << 40, 3);
        let before: Vec<usize> = index.candidates(7 << 40).collect();
        let cold = index.cold_pages();
        assert_eq!((cold.warm(0, 1), cold.warm(1, 1)), (Some(1), None));
        assert_eq!((cold.warm(0, 2), cold.warm(0, 9), cold.warm(9, 1)), (None, None, None));
        assert_eq!(index.candidates(7 << 40).collect::<Vec<_>>(), before);
        assert_eq!(before, [3]);
    }
}
