//! Buyers who never stop, in threads of this process, which no fault touches: some that go to any gate and do everything
//! that buyers do, and a probe at each gate that only claims, by which it is known what that gate answers when.
//!
//! Every answer is written down as it comes. Whoever was not told an outcome asks again, at any gate, until it is known, or
//! gives up.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::events::Events;
use crate::lane::{Lane, Probe};
use crate::orders::{Ledger, Sold};
use crate::support::within;

/// Buyers that do everything.
const LANES: usize = 8;

/// How often a probe asks.
pub const PROBE_EVERY: Duration = Duration::from_millis(25);

/// What the buyers of one scenario buy.
#[derive(Debug, Clone)]
pub struct Campaigns {
    /// What all of them begin with.
    pub tag: String,
    /// One a buyer, never sold out.
    pub sale: Sold,
    /// Some a buyer, each order under a key.
    pub keyed: Sold,
    /// One a buyer, sold out soon.
    pub small: Sold,
    /// A red packet.
    pub packet: Sold,
}

impl Campaigns {
    /// With names that begin with `tag`.
    pub fn named(tag: &str) -> Self {
        let sold = |name: &str, stock, limit, total| Sold { id: format!("{tag}-{name}"), stock, limit, total };
        Self {
            tag: tag.to_owned(),
            sale: sold("sale", 1_000_000, 1, None),
            keyed: sold("keyed", 100_000, 3, None),
            small: sold("small", 60, 1, None),
            packet: sold("packet", 80, 1, Some(12_345)),
        }
    }

    /// All of them.
    pub fn all(&self) -> [&Sold; 4] {
        [&self.sale, &self.keyed, &self.small, &self.packet]
    }
}

/// What all lanes know.
pub struct Common {
    /// The gates' public listeners.
    pub gates: Vec<SocketAddr>,
    /// What is sold.
    pub campaigns: Campaigns,
    /// What the probes were told.
    pub events: Events,
    /// Claims that were acknowledged so far.
    pub acks: AtomicUsize,
    /// Whether buyers begin nothing new.
    is_held: AtomicBool,
    is_over: AtomicBool,
    /// Operations a second of all lanes together.
    rate: AtomicU64,
    /// Gates that nobody goes to, as bits.
    closed: AtomicU64,
    /// Buyers that several lanes want to be, so far.
    pub contested: AtomicUsize,
    /// Lanes that are between two orders while held.
    idle: AtomicUsize,
}

impl Common {
    /// Whether the load ends.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Whether nobody goes to this gate.
    pub fn is_closed(&self, gate: usize) -> bool {
        self.closed.load(Ordering::Relaxed) & 1 << gate != 0
    }

    /// The pause between two operations of one lane.
    pub fn pause(&self) -> Duration {
        Duration::from_secs_f64(LANES as f64 / self.rate.load(Ordering::Relaxed) as f64)
    }

    /// Waits while nothing new may begin; false where the load ends.
    pub fn may_go_on(&self) -> bool {
        if self.is_held.load(Ordering::SeqCst) && !self.is_over() {
            self.idle.fetch_add(1, Ordering::SeqCst);
            while self.is_held.load(Ordering::SeqCst) && !self.is_over() {
                std::thread::sleep(Duration::from_millis(2));
            }
            self.idle.fetch_sub(1, Ordering::SeqCst);
        }
        !self.is_over()
    }
}

/// The load; it ends when dropped.
pub struct Load {
    common: Arc<Common>,
    lanes: Vec<JoinHandle<()>>,
    ledgers: Arc<Mutex<Ledger>>,
    began: Instant,
    held: Duration,
}

impl Load {
    /// Starts it: `rate` operations a second beside the probes. `seed` decides what buyers do.
    pub fn start(gates: Vec<SocketAddr>, campaigns: Campaigns, rate: u64, seed: u64) -> Self {
        let count = gates.len();
        let common = Arc::new(Common {
            gates,
            campaigns,
            events: Events::default(),
            acks: AtomicUsize::new(0),
            is_held: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            rate: AtomicU64::new(rate),
            closed: AtomicU64::new(0),
            contested: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
        });
        let ledgers = Arc::new(Mutex::new(Ledger::default()));
        let run = |work: Box<dyn FnOnce(Arc<Common>) -> Ledger + Send>| {
            let (common, ledgers) = (common.clone(), ledgers.clone());
            std::thread::spawn(move || {
                let ledger = work(common);
                ledgers.lock().unwrap_or_else(PoisonError::into_inner).join(ledger);
            })
        };
        let buyers = (0..LANES).map(|no| run(Box::new(move |common| Lane::new(common, no, seed).run())));
        let mut lanes: Vec<_> = buyers.collect();
        lanes.extend((0..count).map(|gate| run(Box::new(move |common| Probe::new(common, gate).run()))));
        Self { common, lanes, ledgers, began: Instant::now(), held: Duration::ZERO }
    }

    /// The probes' events.
    pub fn events(&self) -> &Events {
        &self.common.events
    }

    /// What is sold.
    pub fn campaigns(&self) -> &Campaigns {
        &self.common.campaigns
    }

    /// Claims that were acknowledged so far.
    pub fn acks(&self) -> usize {
        self.common.acks.load(Ordering::SeqCst)
    }

    /// How long it has run, but for the times in which it was held.
    pub fn time(&self) -> Duration {
        self.began.elapsed() - self.held
    }

    /// Changes how many operations a second there are.
    pub fn set_rate(&self, rate: u64) {
        self.common.rate.store(rate, Ordering::Relaxed);
    }

    /// Nobody goes to a gate any more, or again: as a load balancer has it that was told so.
    pub fn close(&self, gate: usize, yes: bool) {
        if yes {
            self.common.closed.fetch_or(1 << gate, Ordering::SeqCst);
        } else {
            self.common.closed.fetch_and(!(1 << gate), Ordering::SeqCst);
        }
    }

    /// Lets everybody finish what was begun, and begin nothing new.
    pub fn hold(&mut self) {
        let begin = Instant::now();
        self.common.is_held.store(true, Ordering::SeqCst);
        within(Duration::from_secs(60), "buyers come to rest", || {
            (self.common.idle.load(Ordering::SeqCst) == self.lanes.len()).then_some(())
        });
        self.held += begin.elapsed();
    }

    /// Goes on.
    pub fn go_on(&mut self) {
        self.common.is_held.store(false, Ordering::SeqCst);
    }

    /// Ends it: what was asked and told.
    pub fn finish(mut self) -> Ledger {
        self.end();
        std::mem::take(&mut self.ledgers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.common.is_over.store(true, Ordering::SeqCst);
        for lane in self.lanes.drain(..) {
            if lane.join().is_err() && !std::thread::panicking() {
                panic!("a buyer panicked");
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}
