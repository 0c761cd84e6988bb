//! The entries that are durable here and not yet known to be in the database, in order.
//!
//! The sequencer publishes a batch after its sync and before its answers; the drain takes leases from the front and
//! retires them; reads find a claim here until then, so that a buyer always sees what it was told. Entries stay in their
//! journal bytes, in chunks of at most [`limits::CHUNK_ENTRIES`]: about 55 bytes a plain claim and 12 of indexes.
//!
//! The sequencer needs the lock once a batch, and the drain runs at a low priority: whatever the drain does under the lock
//! takes a fraction of a microsecond, or a claim would wait until the scheduler gives the drain its next turn. So it only
//! clones and drops handles there; decoding, summing and freeing happen outside.
//!
//! The conservation ledger lives under the same lock, so that `stock = free + accepted + persisted + settled + dead` is
//! read whole: a unit that moves from one place to the next is never seen in both, nor in neither.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::chunk::Chunk;
use super::codec::FrameContext;
use super::ledger::{Balance, Ledger, Sums};
use crate::limits;
use crate::sale::{CampaignNo, Carted, Claim, ClaimId, Entry, Money, Moved, Seq, Units, UserHash, UserId};

/// The oldest entries that are not in the database, for one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The last entry that was retired before.
    pub after: Seq,
    /// The entries after it, dense and in order; at least one.
    pub entries: Vec<Entry>,
}

/// What the book says of a campaign after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StockNow {
    /// The campaign.
    pub no: CampaignNo,
    /// All units.
    pub stock: Units,
    /// Units nobody holds.
    pub free: Units,
    /// A red packet's total, or price × stock of a sale; 0 where claims carry no amount.
    pub total: Money,
    /// A red packet's money that nobody holds, or price × free.
    pub left: Money,
}

/// What waits of a claim, or of a buyer: oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Acceptances.
    pub claims: Vec<Claim>,
    /// Ends of claims, of these and of others that are rows already.
    pub ends: Vec<End>,
    /// Operations on the buyer's cart, with their positions.
    pub carts: Vec<(Seq, Carted)>,
}

impl Waiting {
    /// The end of a claim, if it waits.
    pub fn end_of(&self, id: ClaimId) -> Option<&End> {
        self.ends.iter().find(|end| end.moved.claim_id == id)
    }
}

/// The end of a claim that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its position.
    pub seq: Seq,
    /// What became of which claim.
    pub moved: Moved,
}

/// The waiting entries.
#[derive(Debug)]
pub struct Pending {
    inner: Mutex<Inner>,
    entries: AtomicU64,
    retired: AtomicU64,
    oldest: AtomicI64,
}

#[derive(Debug)]
struct Inner {
    /// Full, or leased: they change no more.
    sealed: VecDeque<Arc<Chunk>>,
    /// Takes what comes.
    open: Option<Chunk>,
    /// Memory of chunks that are done with.
    spare: Vec<Chunk>,
    retired: Seq,
    last: Seq,
    ledger: Ledger,
    /// Whether anything was published yet.
    begun: bool,
}

impl Pending {
    /// Nothing waits; everything up to `retired` is in the database.
    pub fn new(retired: Seq) -> Self {
        let inner = Inner {
            sealed: VecDeque::new(),
            open: None,
            spare: Vec::new(),
            retired,
            last: retired,
            ledger: Ledger::default(),
            begun: false,
        };
        Self {
            inner: Mutex::new(inner),
            entries: AtomicU64::new(0),
            retired: AtomicU64::new(retired.0),
            oldest: AtomicI64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere must not take the reads and the drain with it: the data is consistent between calls.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame's entries; `body` holds `count` of them, the first with `context.first_seq`. What is retired already
    /// is left out.
    ///
    /// # Panics
    /// Where the frame does not follow the last one.
    pub fn publish(&self, body: &[u8], count: u32, context: &FrameContext, stock: &[StockNow]) {
        let mut inner = self.lock();
        if count > 0 {
            if !std::mem::replace(&mut inner.begun, true) {
                // A journal is trimmed only up to what its database has, so what is missing before its first entry is
                // there, although the database could not be asked at the start.
                let before = Seq(context.first_seq.0 - 1);
                inner.retired = inner.retired.max(before);
                inner.last = inner.last.max(before);
            }
            assert!(context.first_seq <= inner.last.next(), "a gap after {} before {}", inner.last, context.first_seq);
            inner.append(body, count, context);
        }
        for now in stock {
            inner.ledger.set_stock(now);
        }
        self.update(&inner);
    }

    /// The front entries, at most `max` of them.
    pub fn lease(&self, max: usize) -> Option<Lease> {
        let (after, chunks) = self.lock().front(max as u64);
        let mut entries = Vec::new();
        for chunk in &chunks {
            chunk.read_after(after, max - entries.len(), &mut entries);
        }
        (!entries.is_empty()).then_some(Lease { after, entries })
    }

    /// Tells that a lease is in the database, all but the entries at the places `dead`, which are in its dead letters.
    ///
    /// # Panics
    /// Where the lease is not the front.
    pub fn retire(&self, lease: &Lease, dead: &[usize]) {
        let mut sums = Sums::default();
        for (i, entry) in lease.entries.iter().enumerate() {
            sums.add(&entry.event, dead.contains(&i));
        }
        let mut inner = self.lock();
        assert_eq!(lease.after, inner.retired, "leases are retired in order");
        inner.ledger.retire(&sums);
        let freed = inner.retire_to(lease.after.plus(lease.entries.len() as u64));
        self.update(&inner);
        drop(inner);
        let spare: Vec<_> = freed.into_iter().filter_map(Arc::into_inner).map(|chunk| chunk.reuse(Seq(0))).collect();
        if !spare.is_empty() {
            let mut inner = self.lock();
            let room = limits::SPARE_CHUNKS.saturating_sub(inner.spare.len());
            inner.spare.extend(spare.into_iter().take(room));
        }
    }

    /// Tells that the database has everything up to `cursor`, with the sums per campaign that it keeps: at start, when
    /// it turns out to know more than this process did.
    pub fn retire_to(&self, cursor: Seq, database: &[(CampaignNo, Balance)]) {
        let mut inner = self.lock();
        while inner.retired < cursor {
            let behind = cursor.0 - inner.retired.0;
            let (after, chunks) = inner.front(behind);
            let Some(chunk) = chunks.first() else { break };
            let (mut gone, mut sums) = (Vec::new(), Sums::default());
            chunk.read_after(after, (cursor.0 - after.0) as usize, &mut gone);
            gone.iter().for_each(|entry| sums.add(&entry.event, false));
            inner.ledger.forget(&sums);
            inner.retire_to(chunk.last_seq().min(cursor));
        }
        inner.retired = inner.retired.max(cursor);
        inner.last = inner.last.max(cursor);
        if inner.open.as_ref().is_some_and(|open| open.last_seq() <= cursor) {
            inner.open = None;
        }
        for (no, balance) in database {
            inner.ledger.set_database(*no, balance);
        }
        self.update(&inner);
    }

    fn update(&self, inner: &Inner) {
        self.entries.store(inner.last.0 - inner.retired.0, Ordering::Release);
        self.retired.store(inner.retired.0, Ordering::Release);
        let oldest = inner.chunks().next().and_then(|c| c.time_after(inner.retired));
        self.oldest.store(oldest.map_or(0, |t| t.0), Ordering::Release);
    }

    /// Entries that wait.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Acquire)
    }

    /// The last entry that is durably in the database. What may be trimmed follows from it.
    pub fn retired(&self) -> Seq {
        Seq(self.retired.load(Ordering::Acquire))
    }

    /// When the oldest waiting entry was decided.
    pub fn oldest(&self) -> Option<crate::sale::Timestamp> {
        Some(self.oldest.load(Ordering::Acquire)).filter(|&t| t != 0).map(crate::sale::Timestamp)
    }

    /// What waits of a claim: its acceptance, its end, or both.
    pub fn find(&self, id: ClaimId) -> Waiting {
        self.search(|chunk, after, found| chunk.find(id, after, found))
    }

    /// What waits of a buyer's claims and cart, oldest first.
    pub fn of(&self, user: &UserId, hash: UserHash) -> Waiting {
        self.search(|chunk, after, found| chunk.of(user, hash, after, found))
    }

    /// Looks through all chunks. Only the open one is looked through under the lock, which the sequencer needs; the others
    /// change no more, and what is retired meanwhile is in the database before it could be missed.
    fn search(&self, look: impl Fn(&Chunk, Seq, &mut Waiting)) -> Waiting {
        let inner = self.lock();
        let (after, sealed) = (inner.retired, Vec::from_iter(inner.sealed.iter().cloned()));
        let mut latest = Waiting::default();
        if let Some(open) = &inner.open {
            look(open, after, &mut latest);
        }
        drop(inner);
        let mut found = Waiting::default();
        sealed.iter().for_each(|chunk| look(chunk, after, &mut found));
        found.claims.append(&mut latest.claims);
        found.ends.append(&mut latest.ends);
        found.carts.append(&mut latest.carts);
        found
    }

    /// The last entry that is in the database, and, as of then, the database's sums of the campaigns of which they have changed
    /// since the last time: of all, the first time. The other sums are zeroes.
    pub(crate) fn take_stored(&self) -> (Seq, Vec<(CampaignNo, Balance)>) {
        let mut inner = self.lock();
        (inner.retired, inner.ledger.take_stored())
    }

    /// The balance of a campaign, read whole.
    pub fn balance(&self, no: CampaignNo) -> Balance {
        self.lock().ledger.balance(no)
    }

    /// The bytes that the waiting entries take, indexes included.
    pub fn bytes(&self) -> u64 {
        self.lock().chunks().map(Chunk::bytes).sum()
    }
}

impl Inner {
    fn append(&mut self, body: &[u8], count: u32, context: &FrameContext) {
        let mut at = 0;
        for index in 0..u64::from(count) {
            let len = super::codec::skip(&body[at..]).expect("a frame that was encoded or checked");
            let seq = context.first_seq.plus(index);
            if seq > self.last {
                self.append_one(&body[at..at + len], seq, context);
            }
            at += len;
        }
    }

    fn append_one(&mut self, bytes: &[u8], seq: Seq, context: &FrameContext) {
        if self.open.as_ref().is_some_and(Chunk::is_full) {
            self.seal();
        }
        let spare = &mut self.spare;
        let fresh = || spare.pop().map_or_else(|| Chunk::new(seq), |chunk| chunk.reuse(seq));
        self.open.get_or_insert_with(fresh).push(bytes, context);
        if let Some(sums) = super::codec::sums(bytes) {
            self.ledger.enter(&sums);
        }
        self.last = seq;
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.sealed.iter().map(|chunk| &**chunk).chain(&self.open)
    }

    fn seal(&mut self) {
        self.sealed.extend(self.open.take().map(Arc::new));
    }

    /// What is retired, and the chunks that hold the next `max` entries; they are sealed by that.
    fn front(&mut self, max: u64) -> (Seq, Vec<Arc<Chunk>>) {
        if self.sealed.back().is_none_or(|chunk| chunk.last_seq() < self.retired.plus(max)) {
            self.seal();
        }
        let last = self.retired.plus(max);
        let needed = self.sealed.iter().take_while(|chunk| chunk.first_seq() <= last);
        (self.retired, needed.cloned().collect())
    }

    /// Gives the chunks that nobody needs any more, for the caller to free.
    fn retire_to(&mut self, upto: Seq) -> Vec<Arc<Chunk>> {
        self.retired = upto;
        let gone = self.sealed.iter().take_while(|chunk| chunk.last_seq() <= upto).count();
        self.sealed.drain(..gone).collect()
    }
}
