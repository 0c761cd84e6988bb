//! The lease of the partition, prolonged by a thread that does nothing else: no transaction, however slow, and no backlog,
//! however long, lets it run out.
//!
//! The lease only says who should work. Whoever has lost it without knowing yet does no harm: the database takes no batch
//! of an older binding, and Redis no word of a worker that is not the one.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::steady_micros;
use crate::limits;
use crate::queue::redis::client::{CallError, Connection, Server};
use crate::queue::redis::protocol::{self, Word};

/// What the worker's thread and the lease's share.
#[derive(Debug)]
pub(super) struct Lease {
    /// Who has it: this start of this process, and no other.
    pub(super) worker: String,
    pub(super) length: Duration,
    held: Mutex<Held>,
    changed: Condvar,
    /// When the worker's thread last moved, by the steady clock.
    beat: AtomicI64,
    /// Set by tests: as if this process did not run.
    pub(super) paused: AtomicBool,
}

#[derive(Debug, Default)]
struct Held {
    is_held: bool,
    is_lost: bool,
    ends: bool,
}

impl Lease {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            worker: format!("{:032x}", rand::random::<u128>()),
            length,
            held: Mutex::default(),
            changed: Condvar::new(),
            beat: AtomicI64::new(steady_micros()),
            paused: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds, as the library is told.
    pub(super) fn micros(&self) -> String {
        self.length.as_micros().to_string()
    }

    /// The worker's thread moves.
    pub(super) fn beat(&self) {
        self.beat.store(steady_micros(), Ordering::Relaxed);
    }

    /// It was taken: from now on it is prolonged.
    pub(super) fn taken(&self) {
        let mut held = self.lock();
        (held.is_held, held.is_lost) = (true, false);
        self.changed.notify_all();
    }

    /// It is not to be prolonged any more.
    pub(super) fn drop_it(&self) {
        (self.lock().is_held) = false;
        self.changed.notify_all();
    }

    /// Whether Redis has said that it is another's, or over.
    pub(super) fn is_lost(&self) -> bool {
        self.lock().is_lost
    }

    fn end(&self) {
        self.lock().ends = true;
        self.changed.notify_all();
    }

    /// Waits `pause`, or for a change; whether to prolong it then, and whether to end.
    fn wait(&self, pause: Duration) -> (bool, bool) {
        let held = self.lock();
        let idle = |held: &mut Held| !held.ends && held.is_held && !held.is_lost;
        let (held, _) = if held.is_held && !held.is_lost {
            self.changed.wait_timeout_while(held, pause, idle).unwrap_or_else(PoisonError::into_inner)
        } else {
            let rest = Duration::from_millis(limits::WORK_STANDBY_MILLIS);
            self.changed
                .wait_timeout_while(held, rest, |h| !h.ends && !h.is_held)
                .unwrap_or_else(PoisonError::into_inner)
        };
        (held.is_held && !held.is_lost, held.ends)
    }

    fn is_moving(&self) -> bool {
        steady_micros() - self.beat.load(Ordering::Relaxed) < limits::WORK_BEAT_MILLIS as i64 * 1_000
            && !self.paused.load(Ordering::Relaxed)
    }
}

/// The thread. Dropping it ends it.
pub(super) struct LeaseThread {
    lease: Arc<Lease>,
    thread: Option<JoinHandle<()>>,
}

impl LeaseThread {
    pub(super) fn spawn(server: Server, lease: Arc<Lease>) -> io::Result<Self> {
        let ours = lease.clone();
        let thread = std::thread::Builder::new().name("lease".to_owned()).spawn(move || run(&server, &ours))?;
        Ok(Self { lease, thread: Some(thread) })
    }
}

impl Drop for LeaseThread {
    fn drop(&mut self) {
        self.lease.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(server: &Server, lease: &Lease) {
    let third = lease.length / 3;
    let retry = Duration::from_millis(limits::WORK_RETRY_MILLIS.0);
    let (mut connection, mut pause) = (None::<Connection>, third);
    loop {
        let (is_held, ends) = lease.wait(pause);
        if ends {
            return;
        }
        pause = third;
        if !is_held || !lease.is_moving() {
            continue;
        }
        if connection.is_none() {
            connection = server.connect().ok();
        }
        let Some(open) = &mut connection else {
            pause = retry;
            continue;
        };
        match prolong(open, lease) {
            Ok(Word::Ok) => {}
            Ok(Word::Lost | Word::Conflict | Word::More) => lease.lock().is_lost = true,
            // Redis is away: it says itself, when it is back, whether the lease is still ours.
            Err(_) => (connection, pause) = (None, retry),
        }
    }
}

/// Prolongs it, and nothing else.
pub(super) fn prolong(connection: &mut Connection, lease: &Lease) -> Result<Word, CallError> {
    told(connection, lease, &lease.micros())
}

/// Gives it back.
pub(super) fn give_back(connection: &mut Connection, lease: &Lease) -> Result<Word, CallError> {
    told(connection, lease, "0")
}

fn told(connection: &mut Connection, lease: &Lease, micros: &str) -> Result<Word, CallError> {
    let args = ["", &lease.worker, "", "", micros, ""].map(str::as_bytes);
    let answer = connection.call("retire", &args)?;
    protocol::word(&answer).map_err(|error| CallError::Protocol(error.0))
}
