//! A run of waiting entries in their journal bytes, with two small indexes: by claim id and by buyer.
//!
//! Both are open-addressing tables of 16-bit places in the chunk. A claim id starts with the millisecond at which it was
//! made, so the chunk's first and last millisecond tell whether an id can be in it at all: a look-up among thousands of
//! chunks opens one or two. The ends of claims are in the same tables, under the same id and buyer, with a span of
//! milliseconds of their own: they may be of claims that were made long before.

use super::codec::{self, FrameContext};
use super::pending::{End, Waiting};
use crate::limits::CHUNK_ENTRIES;
use crate::sale::{ClaimId, Entry, Event, Seq, Timestamp, UserHash, UserId};

const INDEX: usize = CHUNK_ENTRIES * 2;
const _: () = assert!(INDEX.is_power_of_two() && CHUNK_ENTRIES < u16::MAX as usize);

/// The run.
#[derive(Debug)]
pub struct Chunk {
    first: Seq,
    bytes: Vec<u8>,
    starts: Vec<u32>,
    frames: Vec<(u32, FrameContext)>,
    /// The first and last millisecond of the claims' ids, and of the ids of claims that came to an end.
    millis: [(u64, u64); 2],
    by_id: Box<[u16]>,
    by_user: Box<[u16]>,
}

impl Chunk {
    /// An empty run that begins at `first`.
    pub fn new(first: Seq) -> Self {
        Self {
            first,
            bytes: Vec::new(),
            starts: Vec::new(),
            frames: Vec::new(),
            millis: [(u64::MAX, 0); 2],
            by_id: Box::default(),
            by_user: Box::default(),
        }
    }

    /// The same memory for a run that begins at `first`: what is given back and taken again at every turn costs the
    /// sequencer a page fault each time.
    pub fn reuse(mut self, first: Seq) -> Self {
        self.first = first;
        self.bytes.clear();
        self.starts.clear();
        self.frames.clear();
        self.millis = [(u64::MAX, 0); 2];
        self.by_id.fill(0);
        self.by_user.fill(0);
        self
    }

    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        self.starts.len() == CHUNK_ENTRIES
    }

    /// The first entry's seq.
    pub fn first_seq(&self) -> Seq {
        self.first
    }

    /// The last entry's seq; the one before the first where there is none.
    pub fn last_seq(&self) -> Seq {
        Seq(self.first.0 + self.starts.len() as u64 - 1)
    }

    /// The bytes it takes.
    pub fn bytes(&self) -> u64 {
        let indexes = (self.by_id.len() + self.by_user.len()) * size_of::<u16>();
        let frames = self.frames.capacity() * size_of::<(u32, FrameContext)>();
        (self.bytes.capacity() + self.starts.capacity() * size_of::<u32>() + frames + indexes) as u64
    }

    /// Adds the next entry.
    pub fn push(&mut self, entry: &[u8], context: &FrameContext) {
        let place = self.starts.len();
        if place == 0 {
            self.bytes.reserve(entry.len());
        }
        if self.frames.last().is_none_or(|(_, last)| last != context) {
            self.frames.push((place as u32, *context));
        }
        self.starts.push(self.bytes.len() as u32);
        self.bytes.extend_from_slice(entry);
        let (claimed, moved) = (codec::claim_id(entry), codec::moved_id(entry));
        let user = claimed.or(moved).map(ClaimId::address).or_else(|| codec::cart_address(entry));
        let Some(user) = user else { return };
        if self.by_id.is_empty() {
            (self.by_id, self.by_user) = (vec![0; INDEX].into(), vec![0; INDEX].into());
        }
        enter(&mut self.by_user, user as usize, place);
        let Some(id) = claimed.or(moved) else { return };
        let span = &mut self.millis[usize::from(moved.is_some())];
        *span = (span.0.min(id.millis()), span.1.max(id.millis()));
        enter(&mut self.by_id, id_home(id), place);
    }

    fn context(&self, place: usize) -> &FrameContext {
        let at = self.frames.partition_point(|(first, _)| *first as usize <= place);
        &self.frames[at - 1].1
    }

    fn entry(&self, place: usize) -> Entry {
        let context = self.context(place);
        let seq = Seq(self.first.0 + place as u64);
        let bytes = &self.bytes[self.starts[place] as usize..];
        codec::decode(bytes, context, seq.0 - context.first_seq.0).expect("an entry that was encoded or checked").0
    }

    /// Appends the entries with a seq above `after` to `out`, at most `max`.
    pub fn read_after(&self, after: Seq, max: usize, out: &mut Vec<Entry>) {
        let skip = (after.0 + 1).saturating_sub(self.first.0) as usize;
        out.extend((skip..self.starts.len()).take(max).map(|place| self.entry(place)));
    }

    /// When the first entry with a seq above `after` was decided.
    pub fn time_after(&self, after: Seq) -> Option<Timestamp> {
        let place = (after.0 + 1).saturating_sub(self.first.0) as usize;
        (place < self.starts.len()).then(|| self.context(place).at)
    }

    /// Adds to `found` the acceptance and the end of the claim with this id, where their seqs are above `after`.
    pub fn find(&self, id: ClaimId, after: Seq, found: &mut Waiting) {
        if !self.millis.iter().any(|(first, last)| (*first..=*last).contains(&id.millis())) {
            return;
        }
        for place in candidates(&self.by_id, id_home(id)) {
            let bytes = &self.bytes[self.starts[place] as usize..];
            if codec::claim_id(bytes).or_else(|| codec::moved_id(bytes)) == Some(id) {
                self.add(place, after, found);
            }
        }
    }

    /// Adds to `found` a buyer's acceptances, ends of claims and operations on the cart with a seq above `after`, oldest
    /// first.
    pub fn of(&self, user: &UserId, hash: UserHash, after: Seq, found: &mut Waiting) {
        let (claims, ends, carts) = (found.claims.len(), found.ends.len(), found.carts.len());
        candidates(&self.by_user, hash.address() as usize).for_each(|place| self.add(place, after, found));
        // Of the ends it is enough that no other buyer shares the 40 bits of address; whose claim each is of, its id says.
        let mine = found.claims.split_off(claims).into_iter().filter(|claim| claim.user == *user);
        found.claims.extend(mine);
        found.ends.retain(|end| end.moved.claim_id.address() == hash.address());
        found.claims[claims..].sort_by_key(|claim| claim.seq);
        found.ends[ends..].sort_by_key(|end| end.seq);
        let mine = found.carts.split_off(carts).into_iter().filter(|(_, carted)| carted.user == *user);
        found.carts.extend(mine);
        found.carts[carts..].sort_by_key(|(seq, _)| *seq);
    }

    fn add(&self, place: usize, after: Seq, found: &mut Waiting) {
        let entry = self.entry(place);
        match entry.event {
            _ if entry.seq <= after => {}
            Event::Claimed(claim) => found.claims.push(claim),
            Event::Moved(moved) => found.ends.push(End { seq: entry.seq, moved }),
            Event::Carted(carted) => found.carts.push((entry.seq, carted)),
            _ => {}
        }
    }
}

fn id_home(id: ClaimId) -> usize {
    // The random low bits of the id, with the buyer's address mixed in.
    let low = u64::from_be_bytes(std::array::from_fn(|i| id.0[i + 8]));
    (low ^ (low >> 34)) as usize
}

fn enter(index: &mut [u16], home: usize, place: usize) {
    let free = (0..INDEX).map(|i| (home + i) & (INDEX - 1)).find(|&at| index[at] == 0);
    index[free.expect("an index twice as large as the chunk")] = place as u16 + 1;
}

fn candidates(index: &[u16], home: usize) -> impl Iterator<Item = usize> + '_ {
    (0..index.len()).map(move |i| index[(home + i) & (INDEX - 1)]).take_while(|&p| p != 0).map(|p| p as usize - 1)
}
