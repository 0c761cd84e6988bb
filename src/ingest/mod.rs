//! The front end: HTTP in, commands and reads out. Never meets the workers; what they share is the buffer.
//!
//! One thread a core, each with its own listener, its own runtime and its own [`Door`]; nothing is shared on the path of a
//! claim but the queue and the published campaigns.

pub mod admin;
pub mod auth;
pub mod batch;
pub mod batch_body;
pub mod body;
mod carts;
pub mod claim_path;
pub mod connection;
pub mod cors;
mod dead_letters;
mod document;
mod ends;
pub mod export;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod listen;
pub mod ops;
mod pace;
pub mod reads;
pub mod reply;
pub mod request;
pub mod routes;
mod scrape;
pub mod server;
pub mod session;
pub mod waits;
pub mod wire;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hyper::header::HeaderValue;
use hyper::{HeaderMap, Response};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::reply::Problem;
use crate::antiscalper::Antiscalper;
use crate::antiscalper::address::TrustedProxies;
use crate::antiscalper::guests::Guests;
use crate::cache::local::LocalCache;
use crate::clock::Clock;
use crate::queue::{Buffer, Front};
use crate::receipts::KeyRing;
use crate::sale::{Durability, Seq, Timestamp};
use crate::store::Database;

/// What all front-end threads share.
pub struct App {
    /// The buffer.
    pub buffer: Buffer,
    /// The database, for reads.
    pub store: Arc<Database>,
    /// Reads of the last seconds.
    pub cache: Arc<LocalCache>,
    /// What receipts are signed with.
    pub receipts: KeyRing,
    /// Who has asked too often.
    pub antiscalper: Antiscalper,
    /// Whose forwarding headers are believed.
    pub proxies: TrustedProxies,
    /// Whether limits by address are on; without them nobody's address is looked for.
    pub by_address: bool,
    /// Connections that there may be at a time.
    pub connections_max: u64,
    /// Who holds how many connections, where that is limited.
    pub guests: Option<Arc<Guests>>,
    /// Who may call.
    pub auth: auth::Authenticator,
    /// Whose pages may read what the public listener answers; none where that is nobody's.
    pub cors: Option<cors::Cors>,
    /// The operator's token; none on loopback.
    pub admin_token: Option<auth::TokenDigest>,
    /// The time.
    pub clock: Box<dyn Clock>,
    /// What acceptances promise.
    pub durability: Durability,
    /// The last entry in the database, for those who wait for theirs.
    pub retired: tokio::sync::watch::Receiver<Seq>,
    /// Whether there is a public listener; a worker of shared mode has none.
    pub takes_claims: bool,
    /// Whether recovery is done.
    pub ready: AtomicBool,
    /// Whether the node is going down.
    pub draining: AtomicBool,
    /// Whether the drain has ended for good because the database is not ours to write to.
    pub drain_fenced: Arc<AtomicBool>,
    /// What brings entries into the database, where that is in this process and the buffer in Redis.
    pub worker: Option<Box<dyn Fn() -> WorkerNow + Send + Sync>>,
    /// Reads that wait for a claim to change.
    pub waiters: AtomicUsize,
    /// Batches of claims under way.
    pub batches: AtomicUsize,
    /// Folders on the disks whose room is told, and by which name.
    pub disks: Vec<(&'static str, PathBuf)>,
}

/// What brings entries of a shared buffer into the database, as far as this process does it.
#[derive(Debug, Clone)]
pub struct WorkerNow {
    /// Whether it works, or would at once.
    pub is_ready: bool,
    /// Whether it is the one at work.
    pub is_active: bool,
    /// What it does, in words.
    pub words: String,
    /// The same in a word, of which there are few.
    pub phase: &'static str,
    /// Entries that are not in the database, as far as it knows.
    pub waiting: u64,
    /// When the oldest of them was decided that it has read.
    pub oldest: Option<Timestamp>,
    /// The last one that is.
    pub retired: Seq,
}

impl App {
    /// What brings entries into the database, where this process does nothing else.
    pub fn worker_alone(&self) -> Option<WorkerNow> {
        self.worker.as_ref().filter(|_| !self.takes_claims).map(|worker| worker())
    }

    /// Whether the node is going down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The address that limits count, where any do.
    pub fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        self.by_address.then(|| {
            let lines = |name: &'static str| headers.get_all(name).iter().map(|v| v.to_str().unwrap_or_default());
            self.proxies.client_address(peer, lines("x-forwarded-for"), lines("forwarded"))
        })
    }
}

/// One thread's way into the engine.
pub struct Door {
    /// What all threads share.
    pub app: Arc<App>,
    /// This thread's side of the buffer.
    pub front: Rc<Front>,
    random: RefCell<StdRng>,
    request: Cell<u64>,
    /// Where this thread counts answers.
    shard: usize,
}

impl Door {
    /// A door for the calling thread.
    pub fn new(app: Arc<App>, front: Rc<Front>) -> Rc<Self> {
        let mut random = StdRng::from_os_rng();
        let request = Cell::new(random.random());
        let shard = app.buffer.metrics().answers.shard();
        Rc::new(Self { app, front, random: RefCell::new(random), request, shard })
    }

    /// Counts an answer of one of the listeners.
    pub(crate) fn answered<B>(&self, is_public: bool, reply: &Response<B>) {
        self.app.buffer.metrics().answers.count(self.shard, reply::kind_of(is_public, reply));
    }

    /// Counts a refusal that is written without the service: the head could not be read, or there was no place for the connection.
    pub(crate) fn refused(&self, is_public: bool, problem: &Problem) {
        let metrics = self.app.buffer.metrics();
        metrics.refusals[problem.index()].add(1);
        metrics.answers.count(self.shard, problem.kind_of(is_public));
    }

    /// 64 bits that nobody can guess.
    pub fn random(&self) -> u64 {
        self.random.borrow_mut().random()
    }

    /// A request id: 16 hexadecimal digits, different for each request of this node.
    pub fn request_id(&self) -> HeaderValue {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let id = self.request.get();
        // An odd step visits every 64-bit number once before it repeats.
        self.request.set(id.wrapping_add(0x9e37_79b9_7f4a_7c15));
        let text: [u8; 16] = std::array::from_fn(|i| HEX[(id >> (60 - 4 * i)) as usize & 15]);
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
    }
}
