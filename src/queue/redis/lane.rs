//! A gate's way to Redis: takes what front ends have submitted, has it decided in one call, writes down in the gate's own
//! journal what was accepted, and only then lets the answers go.
//!
//! What arrives while a call is under way goes into the next one, so that a busy gate makes few calls with many commands.
//! Several lanes overlap where there is much to do: while one waits for Redis or for the disk, another takes what has come since.
//! One waits for the bell at a time; it hands the turn over with its first command in hand (`turn`).
//!
//! A call whose answer was lost may have been carried out, and may still be. So a lane that connects anew says so first:
//! the library takes nothing of an older session from then on, and tells whether the last call was carried out.

mod admin;
mod batch;
mod mail;
mod settle;
mod turn;
mod vouch;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::overload;
use super::super::run::Postman;
use super::super::sequencer::{Replies, Submission, Ticket};
use super::super::{Buffer, Outcome, Shared};
use super::client::{CallError, Connection, Refused, Server};
use super::gate::{Closed, Gate};
use super::kept::Kept;
use super::poll::Feed;
use super::protocol::{self, LastCall};
use crate::clock::tick;
use crate::limits;
use crate::plant;
use crate::pulse;
use crate::sale::Durability;
use settle::Unsure;
use turn::{Turn, UnderWay};

/// What all lanes of a gate share.
#[derive(Clone)]
pub struct Lanes {
    /// Where Redis is.
    pub server: Server,
    /// What the gate knows of the partition.
    pub gate: Arc<Gate>,
    /// The gate's own journal.
    pub kept: Arc<Kept>,
    /// The views of the campaigns.
    pub feed: Arc<Feed>,
    /// What acceptances promise.
    pub durability: Durability,
    /// Entries that may wait for the database.
    pub max_entries: u64,
}

impl Lanes {
    /// Starts `count` lanes, at least one. They end after [`Buffer::stop`], when nothing is left to do. Each keeps one of
    /// `guards` until it ends, by a panic too.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn<G: Send + 'static>(
        &self,
        buffer: &Buffer,
        count: usize,
        guard: impl Fn() -> G,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let turn = Arc::new(Turn::default());
        let one = |no| {
            let lane = Lane::new(no, self.clone(), buffer.0.clone(), turn.clone());
            let guard = guard();
            std::thread::Builder::new().name(format!("lane-{no}")).spawn(move || {
                let _guard = guard;
                lane.run();
            })
        };
        (0..count.max(1)).map(one).collect()
    }
}

/// A connection that the library knows as this lane's.
struct Link {
    connection: Connection,
    epoch: u64,
    session: String,
}

struct Lane {
    name: String,
    lanes: Lanes,
    shared: Arc<Shared>,
    turn: Arc<Turn>,
    link: Option<Link>,
    is_ready: bool,
    /// Calls whose callers were told that nobody knows.
    unsure: Vec<Unsure>,
    answers: Vec<(Ticket, Outcome)>,
    /// What was last wrong with the connection, so that it is told once.
    told: String,
}

impl Lane {
    fn new(no: usize, lanes: Lanes, shared: Arc<Shared>, turn: Arc<Turn>) -> Self {
        let name = format!("{}.{no}", lanes.gate.name());
        Self {
            name,
            lanes,
            shared,
            turn,
            link: None,
            is_ready: false,
            unsure: Vec::new(),
            answers: Vec::new(),
            told: String::new(),
        }
    }

    fn run(mut self) {
        let shared = self.shared.clone();
        let mut postman = Postman::new(&shared);
        let mut batch = Vec::with_capacity(limits::LANE_BATCH_MAX);
        let metrics = &self.lanes.gate.published().metrics;
        let patience = Duration::from_millis(limits::PULSE_REDIS_MILLIS);
        let _pulse = metrics.pulses.enter(std::thread::current().name().unwrap_or("lane"), patience);
        loop {
            pulse::beat();
            if !self.lanes.gate.is_up() {
                self.refuse_waiting(&mut postman);
            }
            let mut under_way = None;
            if self.connect() {
                under_way = self.take(&mut batch);
            } else if !self.is_over() {
                std::thread::sleep(Duration::from_millis(limits::LANE_RETRY_MILLIS));
            }
            if !batch.is_empty() {
                plant::crash_point("lane.batch");
                // While it waited for its turn the partition may have been opened anew.
                if self.connect() {
                    self.carry_out(&mut batch, &mut postman);
                } else {
                    let refused =
                        batch.drain(..).map(|submission| (submission.ticket, submission.command.not_durable()));
                    self.answers.extend(refused);
                    postman.deliver(&mut self.answers);
                }
            }
            drop(under_way);
            if self.is_over() {
                self.ready(false);
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst) && self.shared.queue.is_empty()
    }

    /// Takes what has arrived; waits for it a while. Empty where nothing came, or another lane has the turn and ends.
    fn take(&self, batch: &mut Vec<Submission>) -> Option<(UnderWay, overload::UnderWay)> {
        let _turn = self.turn.mine();
        let is_ending = || self.shared.stop.load(Ordering::SeqCst);
        if self.shared.queue.is_empty() && !is_ending() {
            self.shared.bell.attach(std::thread::current());
            self.shared.bell.wait(Some(Duration::from_millis(limits::LANE_IDLE_MILLIS)));
        }
        self.turn.gather(|| self.shared.queue.len() >= limits::LANE_ENOUGH || is_ending());
        self.pop(batch);
        let left = if batch.len() == limits::LANE_BATCH_MAX { self.shared.queue.len() } else { 0 };
        let counted = self.shared.overload.set_out(batch.len(), left);
        (!batch.is_empty()).then(|| (self.turn.set_out(), counted))
    }

    fn pop(&self, batch: &mut Vec<Submission>) {
        while batch.len() < limits::LANE_BATCH_MAX {
            let Some(submission) = self.shared.queue.pop() else { break };
            batch.push(submission);
        }
    }

    /// Answers what is in the queue where nothing can be done about it: nobody waits for a Redis that is away.
    fn refuse_waiting(&mut self, postman: &mut Postman<'_>) {
        while let Some(submission) = self.shared.queue.pop() {
            self.answers.push((submission.ticket, submission.command.not_durable()));
        }
        postman.deliver(&mut self.answers);
    }

    fn ready(&mut self, is_ready: bool) {
        if std::mem::replace(&mut self.is_ready, is_ready) != is_ready {
            self.lanes.gate.lane(is_ready);
        }
    }

    /// Gives the connection up.
    fn disconnect(&mut self) {
        self.link = None;
        self.ready(false);
    }

    /// Whether this lane can make a call: the partition is open, and the library knows the connection.
    fn connect(&mut self) -> bool {
        let Some(epoch) = self.lanes.gate.epoch() else {
            self.ready(false);
            return false;
        };
        if self.link.as_ref().is_some_and(|link| link.epoch == epoch) {
            // The partition may have been closed to this gate meanwhile, and opened again as it was.
            self.ready(true);
            return true;
        }
        self.ready(false);
        match self.hello(epoch) {
            Ok(_) => {
                self.settle_unsure();
                // That may have broken it again.
                let is_ready = self.link.is_some();
                if is_ready {
                    self.told.clear();
                }
                self.ready(is_ready);
                is_ready
            }
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    /// Makes this lane's connection, or the one that it has, the only one from which the library takes anything of it; tells
    /// what it has of the lane's last call.
    fn hello(&mut self, epoch: u64) -> Result<Option<LastCall>, CallError> {
        let mut connection = match self.link.take() {
            Some(link) => link.connection,
            None => self.lanes.server.connect()?,
        };
        let session = format!("{:016x}", rand::random::<u64>());
        let text = epoch.to_string();
        let args: [&[u8]; 4] = [text.as_bytes(), self.name.as_bytes(), session.as_bytes(), b""];
        let answer = connection.call("hello", &args)?;
        let last = protocol::hello(&answer).map_err(|error| CallError::Protocol(error.0))?;
        self.link = Some(Link { connection, epoch, session });
        Ok(last)
    }

    /// What follows from a call that has no answer. The caller has the commands.
    fn failed(&mut self, error: &CallError) {
        let words = error.to_string();
        if self.told != words && *error != CallError::Full {
            tracing::warn!(lane = self.name, error = words, "a lane can't make calls now");
            self.told = words;
        }
        let epoch = self.link.as_ref().map(|link| link.epoch);
        match error {
            CallError::Refused(Refused::Lane) => self.disconnect(),
            CallError::Refused(refused) => {
                self.disconnect();
                // It may have been opened anew since.
                if epoch.is_none() || self.lanes.gate.epoch() == epoch {
                    self.lanes.gate.close(Closed::Opening(refused.to_string()));
                }
                self.lanes.gate.look();
            }
            CallError::Full => {}
            CallError::Unready(_) | CallError::Lost(_) | CallError::Protocol(_) => self.disconnect(),
        }
    }

    /// When a lost answer is given up, and the callers are told that nobody knows.
    fn patience(&self) -> Instant {
        tick() + Duration::from_millis(limits::LANE_SETTLE_MILLIS)
    }
}
