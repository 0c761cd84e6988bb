//! The buffer between the front end and the workers. Knows neither HTTP nor SQL.
//!
//! [`Buffer`] is what both sides see: a front end submits through its [`Front`] and reads campaigns and waiting claims,
//! the drain takes leases and retires them. Behind it stand one lock-free queue, one sequencer thread and the journal.

pub mod book;
pub mod campaign;
pub mod carts;
pub mod change;
pub mod chunk;
pub mod codec;
pub mod command;
pub mod drained;
pub mod dues;
pub mod filter;
pub mod front;
pub mod handoff;
mod image;
pub mod in_memory;
pub mod index;
pub mod janitor;
pub mod journal;
pub mod keys;
pub mod ledger;
pub mod letters;
mod looks;
pub mod mark;
pub mod overload;
pub mod pending;
pub mod published;
pub mod rebuild;
pub mod recover;
pub mod redis;
pub mod run;
pub mod sequencer;
pub mod sweep;
pub mod unknowns;
pub mod views;
pub mod winners;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;

pub use self::book::{Book, HashKey};
pub use self::command::{
    AdminAction, AdminCommand, AdminDone, AdminRefusal, CartCommand, CartOutcome, ClaimCommand, Command, Look, Looked,
    MoveCommand, MoveDone, MoveRefusal, Outcome, Refusal, Replay,
};
pub use self::front::{Answer, Front, SubmitError, Waiting};
pub use self::handoff::{Doorbell, Mailbox};
pub use self::ledger::Balance;
pub use self::looks::{Away, CartNow};
use self::overload::Overload;
pub use self::pending::{Lease, Pending};
use self::redis::gate::Gate;
pub use self::sequencer::{Published, Replies, Sequencer, Settings, Submission, Ticket};
pub use self::unknowns::Unsettled;
pub use self::views::{CampaignView, ClaimOutcome};
use crate::limits;
use crate::metrics::Metrics;
use crate::sale::{ClaimId, Seq, UserHash, UserId};

/// The primitives that the hand-off is made of; the model checker has its own.
pub(crate) mod sync {
    pub use std::sync::Mutex;
    pub use std::sync::atomic::{AtomicU8, Ordering};
    pub use std::thread::{Thread, park, park_timeout};
}

/// What front ends, sequencer and drain share.
pub(crate) struct Shared {
    queue: ArrayQueue<Submission>,
    bell: Doorbell,
    overload: Arc<Overload>,
    mailboxes: Vec<Arc<Mailbox<(Ticket, Outcome)>>>,
    published: Arc<Published>,
    /// What this process knows of the Redis in which many of them have their buffer; none where the buffer is its own.
    gate: Option<Arc<Gate>>,
    unknowns: unknowns::Unknowns,
    ack_deadline: Duration,
    max_entries: u64,
    hash_key: HashKey,
    stop: AtomicBool,
}

/// The buffer.
#[derive(Clone)]
pub struct Buffer(Arc<Shared>);

/// How a buffer is set up.
#[derive(Debug, Clone, Copy)]
pub struct BufferSettings {
    /// Threads that will submit.
    pub fronts: u16,
    /// How long a submission may wait before its caller is told that the outcome is unknown.
    pub ack_deadline: Duration,
    /// Entries that may wait for the database.
    pub max_entries: u64,
    /// The data folder's secret.
    pub hash_key: HashKey,
}

impl Buffer {
    /// A buffer over what the sequencer publishes.
    pub fn new(settings: BufferSettings, published: Arc<Published>) -> Self {
        Self::over(settings, published, None)
    }

    /// A gate's side of a buffer in Redis.
    pub fn shared(settings: BufferSettings, published: Arc<Published>, gate: Arc<Gate>) -> Self {
        Self::over(settings, published, Some(gate))
    }

    fn over(settings: BufferSettings, published: Arc<Published>, gate: Option<Arc<Gate>>) -> Self {
        Self(Arc::new(Shared {
            queue: ArrayQueue::new(limits::QUEUE_MAX),
            bell: Doorbell::default(),
            overload: Arc::new(Overload::new(if gate.is_some() {
                limits::OVERLOAD_LANES_FLOOR
            } else {
                limits::BATCH_MAX
            })),
            mailboxes: (0..settings.fronts).map(|_| Arc::default()).collect(),
            published,
            gate,
            unknowns: unknowns::Unknowns::default(),
            ack_deadline: settings.ack_deadline,
            max_entries: settings.max_entries,
            hash_key: settings.hash_key,
            stop: AtomicBool::new(false),
        }))
    }

    /// A thread's side; each number below `fronts` once, on the thread that will use it.
    pub fn front(&self, no: u16) -> Rc<Front> {
        Front::new(no, self.0.clone())
    }

    /// The campaigns as they are now.
    pub fn campaigns(&self) -> arc_swap::Guard<Arc<views::Index>> {
        self.0.published.views.load()
    }

    /// The waiting entries: leases, retiring, balances.
    pub fn pending(&self) -> &Pending {
        &self.0.published.pending
    }

    /// What is wanted of dead letters.
    pub fn letters(&self) -> &letters::Letters {
        &self.0.published.letters
    }

    /// The numbers.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.published.metrics
    }

    /// How buyers and keys are hashed.
    pub fn hash_key(&self) -> HashKey {
        self.0.hash_key
    }

    /// Whether a buyer may have a cart; `false` is certain.
    pub fn may_have_cart(&self, hash: UserHash) -> bool {
        self.0.gate.is_some() || self.0.published.cart_owners.may_have(hash)
    }

    /// A claim whose caller was told that the outcome is unknown.
    pub fn unsettled(&self, id: ClaimId) -> Option<(UserId, Unsettled)> {
        self.0.unknowns.get(id)
    }

    /// Entries that may wait for the database.
    pub fn max_entries(&self) -> u64 {
        self.0.max_entries
    }

    /// Whether claims are refused for want of room where they are kept: on the journal's disk, or in Redis' memory.
    pub fn is_out_of_room(&self) -> bool {
        self.0.published.disk_full.load(Ordering::Relaxed)
    }

    /// Whether claims are refused because too many entries wait, or the journal's disk is full.
    pub fn is_full(&self) -> bool {
        self.entries() >= self.0.max_entries || self.is_out_of_room()
    }

    /// Entries that wait for the database.
    pub fn entries(&self) -> u64 {
        self.0.gate.as_ref().map_or_else(|| self.pending().entries(), |gate| gate.entries())
    }

    /// Whether the database is far behind, where this process is the one that writes to it.
    pub fn is_behind(&self) -> bool {
        let far = (self.0.max_entries / limits::BEHIND_PART).max(limits::BEHIND_MIN);
        self.0.gate.is_none() && self.pending().entries() >= far
    }

    /// Whether claims are refused because more come than are decided.
    pub fn is_overloaded(&self) -> bool {
        self.0.overload.is_on()
    }

    /// Commands that wait for a decision, and those of them that are being decided.
    pub fn under_way(&self) -> (u64, u64) {
        let taken = self.0.overload.taken();
        ((self.0.queue.len() + taken) as u64, taken as u64)
    }

    /// Whether durability can't be given any more.
    pub fn is_fenced(&self) -> bool {
        self.0.published.fenced.load(Ordering::SeqCst)
    }

    /// The last entry that is in the database.
    pub fn retired(&self) -> Seq {
        self.0.gate.as_ref().map_or_else(|| self.pending().retired(), |gate| gate.retired())
    }

    /// What this process knows of the Redis in which many of them have their buffer; none where the buffer is its own.
    pub fn gate(&self) -> Option<&Arc<Gate>> {
        self.0.gate.as_ref()
    }

    /// Lets the sequencer end once its queue is empty. Call it when nobody submits any more.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::SeqCst);
        self.0.bell.ring();
    }
}
