//! A run of waiting entries in their journal bytes, with two small indexes: by claim id and by buyer.
//!
//! Both are open-addressing tables of 16-bit places in the chunk. A claim id starts with the millisecond at which it was
//! made, so the chunk's first and last millisecond tell whether an id can be in it at all: a look-up among thousands of
//! chunks opens one or two.

use super::codec::{self, FrameContext};
use crate::limits::CHUNK_ENTRIES;
use crate::sale::{Claim, ClaimId, Entry, Event, Seq, Timestamp, UserHash, UserId};

const INDEX: usize = CHUNK_ENTRIES * 2;
const _: () = assert!(INDEX.is_power_of_two() && CHUNK_ENTRIES < u16::MAX as usize);

/// The run.
#[derive(Debug)]
pub struct Chunk {
    first: Seq,
    bytes: Vec<u8>,
    starts: Vec<u32>,
    frames: Vec<(u32, FrameContext)>,
    millis: (u64, u64),
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
            millis: (u64::MAX, 0),
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
        self.millis = (u64::MAX, 0);
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
        let Some(id) = codec::claim_id(entry) else { return };
        if self.by_id.is_empty() {
            (self.by_id, self.by_user) = (vec![0; INDEX].into(), vec![0; INDEX].into());
        }
        self.millis = (self.millis.0.min(id.millis()), self.millis.1.max(id.millis()));
        enter(&mut self.by_id, id_home(id), place);
        enter(&mut self.by_user, id.address() as usize, place);
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

    fn claim(&self, place: usize) -> Option<Claim> {
        match self.entry(place).event {
            Event::Claimed(claim) => Some(claim),
            _ => None,
        }
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

    /// The claim with this id.
    pub fn find(&self, id: ClaimId) -> Option<Claim> {
        if !(self.millis.0..=self.millis.1).contains(&id.millis()) {
            return None;
        }
        let mut places = candidates(&self.by_id, id_home(id));
        let place = places.find(|&p| codec::claim_id(&self.bytes[self.starts[p] as usize..]) == Some(id))?;
        self.claim(place)
    }

    /// A buyer's claims, appended to `out` oldest first.
    pub fn of(&self, user: &UserId, hash: UserHash, out: &mut Vec<Claim>) {
        let from = out.len();
        let claims = candidates(&self.by_user, hash.address() as usize).filter_map(|p| self.claim(p));
        out.extend(claims.filter(|claim| claim.user == *user));
        out[from..].sort_by_key(|claim| claim.seq);
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
