//! What a gate knows of the partition: its lanes, its poller and its front ends share it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;

use tokio::sync::watch;

use super::super::{Balance, Published};
use super::client::Server;
use crate::clock::{Clock, steady_micros};
use crate::limits;
use crate::sale::{CampaignNo, Seq, Timestamp};

/// Why nothing is taken now, as far as an operator has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// Redis has not been reached yet, or can't be now.
    Away(String),
    /// The partition is not open: a worker is about to open it, or there is none.
    Opening(String),
    /// It will not be without somebody: what is wrong.
    Stuck(String),
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    id: u128,
    server: Server,
    published: Arc<Published>,
    /// Under which epoch the partition is open to this gate; 0 while it is not.
    epoch: AtomicU64,
    ready_lanes: AtomicUsize,
    entries: AtomicU64,
    /// Whether Redis has so much room that other things than claims may be kept there.
    spare_memory: AtomicBool,
    /// Microseconds to add to the steady clock for Redis' time; as long as nothing is known, for the system's.
    offset: AtomicI64,
    /// The gate's own journal can't be written any more.
    failed: AtomicBool,
    closed: Mutex<Closed>,
    poller: Mutex<Option<Thread>>,
    /// The campaigns' balances as they were last read.
    balances: Mutex<BTreeMap<CampaignNo, Balance>>,
    /// Up to where everything is in the database, for whoever asks; and for whoever waits for it.
    retired: AtomicU64,
    retiring: watch::Sender<Seq>,
}

impl Gate {
    /// A gate that has seen nothing of Redis yet.
    pub fn new(id: u128, server: Server, published: Arc<Published>) -> Arc<Self> {
        published.fenced.store(true, Ordering::SeqCst);
        published.metrics.fenced.set(1);
        let offset = crate::clock::SystemClock.now().0 - steady_micros();
        Arc::new(Self {
            id,
            server,
            published,
            epoch: AtomicU64::new(0),
            ready_lanes: AtomicUsize::new(0),
            entries: AtomicU64::new(0),
            spare_memory: AtomicBool::new(false),
            offset: AtomicI64::new(offset),
            failed: AtomicBool::new(false),
            closed: Mutex::new(Closed::Away("not reached yet".to_owned())),
            poller: Mutex::new(None),
            balances: Mutex::default(),
            retired: AtomicU64::new(0),
            retiring: watch::channel(Seq(0)).0,
        })
    }

    /// What its front ends see.
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Where Redis is.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Who it is, to Redis and to the database.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// The same in words: 32 hexadecimal digits.
    pub fn name(&self) -> String {
        format!("{:032x}", self.id)
    }

    /// The epoch under which the partition is open to this gate; none while it is not.
    pub fn epoch(&self) -> Option<u64> {
        Some(self.epoch.load(Ordering::SeqCst)).filter(|&epoch| epoch != 0)
    }

    /// The partition is open under `epoch`, and this gate may take part.
    pub fn open(&self, epoch: u64) {
        if self.epoch.swap(epoch, Ordering::SeqCst) != epoch {
            tracing::info!(epoch, "the partition is open");
        }
        self.update();
    }

    /// It is not, for this reason.
    pub fn close(&self, why: Closed) {
        let was_open = self.epoch.swap(0, Ordering::SeqCst) != 0;
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if was_open || *closed != why {
            match &why {
                Closed::Away(why) => tracing::warn!(why, "Redis is away: nothing is taken until it is back"),
                Closed::Opening(why) => tracing::warn!(why, "the partition is not open: nothing is taken"),
                Closed::Stuck(why) => tracing::error!(why, "nothing is taken"),
            }
            *closed = why;
        }
        drop(closed);
        self.update();
    }

    /// Has the poller look at once: a lane was told that the partition is not open any more.
    pub fn look(&self) {
        if let Some(poller) = &*self.poller.lock().unwrap_or_else(PoisonError::into_inner) {
            poller.unpark();
        }
    }

    /// The calling thread is the one that [`Self::look`] wakes.
    pub(super) fn attach(&self) {
        *self.poller.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
    }

    /// Why nothing is taken; none while something is.
    pub fn why_closed(&self) -> Option<Closed> {
        let is_closed = self.epoch().is_none() || self.failed.load(Ordering::SeqCst);
        is_closed.then(|| self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// A lane is connected to the open partition now, or is not any more.
    pub(super) fn lane(&self, is_ready: bool) {
        if is_ready {
            self.ready_lanes.fetch_add(1, Ordering::SeqCst);
        } else {
            self.ready_lanes.fetch_sub(1, Ordering::SeqCst);
        }
        self.update();
    }

    /// The gate's journal can't be written any more: what Redis accepts can't be acknowledged here, for good.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
        self.update();
    }

    /// Whether commands can be carried out now.
    pub fn is_up(&self) -> bool {
        !self.published.fenced.load(Ordering::SeqCst)
    }

    /// Publishes whether commands can be carried out. Several threads do so at once, and the last one to write must not have
    /// looked before another one's change: so it looks again.
    fn update(&self) {
        loop {
            let is_up = self.can_be_up();
            self.published.fenced.store(!is_up, Ordering::SeqCst);
            self.published.metrics.fenced.set(u64::from(!is_up));
            if self.can_be_up() == is_up {
                return;
            }
        }
    }

    fn can_be_up(&self) -> bool {
        let has_lanes = self.ready_lanes.load(Ordering::SeqCst) > 0;
        self.epoch().is_some() && has_lanes && !self.failed.load(Ordering::SeqCst)
    }

    /// What Redis said of itself.
    pub(super) fn saw(&self, at: Timestamp, retired: Seq, entries: u64) {
        self.offset.store(at.0 - steady_micros(), Ordering::Relaxed);
        self.entries.store(entries, Ordering::Relaxed);
        self.saw_retired(retired);
    }

    /// Redis said that everything up to `seq` is in the database. Positions never go back, whatever Redis forgets. Before an answer
    /// that came with it is given to anybody: who sees that something does not wait any more must find it in the database.
    pub(super) fn saw_retired(&self, seq: Seq) {
        if self.retired.fetch_max(seq.0, Ordering::SeqCst) < seq.0 {
            self.retiring.send_if_modified(|last| std::mem::replace(last, seq.max(*last)) < seq);
        }
    }

    /// How much of the memory that it may use Redis has used; `most` is 0 where it may use all there is.
    pub fn saw_memory(&self, used: u64, most: u64) {
        let is_spare = most == 0 || used < most / 100 * limits::CACHE_MEMORY_PERCENT;
        self.spare_memory.store(is_spare, Ordering::Relaxed);
        self.published.metrics.redis_used.set(used);
        self.published.metrics.redis_max.set(most);
    }

    /// Whether Redis had so much room when it was last asked that other things than claims may be kept there.
    pub fn has_spare_memory(&self) -> bool {
        self.spare_memory.load(Ordering::Relaxed)
    }

    /// The balances that were read now.
    pub(super) fn saw_balances(&self, read: impl IntoIterator<Item = (CampaignNo, Balance)>) {
        self.balances.lock().unwrap_or_else(PoisonError::into_inner).extend(read);
    }

    /// A campaign's balance as it was last read, a while ago; none before that.
    pub fn balance(&self, no: CampaignNo) -> Option<Balance> {
        self.balances.lock().unwrap_or_else(PoisonError::into_inner).get(&no).copied()
    }

    /// Entries that waited when it was last asked.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Up to where everything was in the database when Redis last said so, to whichever thread of this gate.
    pub fn retired(&self) -> Seq {
        Seq(self.retired.load(Ordering::SeqCst))
    }

    /// Tells when that moves.
    pub fn watch_retired(&self) -> watch::Receiver<Seq> {
        self.retiring.subscribe()
    }
}

/// Redis' clock, as far as this process can tell: windows are judged by it wherever a gate judges them, whatever the
/// machine's own clock says.
#[derive(Debug, Clone)]
pub struct GateClock(pub Arc<Gate>);

impl Clock for GateClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.offset.load(Ordering::Relaxed) + steady_micros())
    }
}
