//! The thread that keeps a gate up to date: whether the partition is open, the campaigns, how much waits, and what of the
//! gate's own journal is to be offered again to a Redis that has come back with less.

mod balances;
mod sweeps;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::{Value, cmd};

use balances::Balances;
pub use sweeps::Sweeping;
use sweeps::Sweeps;

use super::client::{CallError, Connection, Server};
use super::gate::{Closed, Gate};
use super::kept::Kept;
use super::poll::Feed;
use super::protocol::{self, GateState, Status, Word};
use crate::clock::tick;
use crate::limits;
use crate::pulse;
use crate::sale::Seq;

/// What the thread works with.
pub struct Poller {
    /// Where Redis is.
    pub server: Server,
    /// What it keeps up to date.
    pub gate: Arc<Gate>,
    /// The gate's own journal.
    pub kept: Arc<Kept>,
    /// The campaigns.
    pub feed: Arc<Feed>,
    /// Whose partition it must be.
    pub identity: u128,
    /// What time brings about.
    pub sweeping: Sweeping,
}

/// The running thread.
pub struct PollerThread {
    stop: Arc<Mutex<Option<Instant>>>,
    thread: JoinHandle<bool>,
}

impl PollerThread {
    /// Starts it; it keeps `guard` until it ends, by a panic too.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn(poller: Poller, guard: impl Send + 'static) -> io::Result<Self> {
        let stop: Arc<Mutex<Option<Instant>>> = Arc::default();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("gate".to_owned()).spawn(move || {
            let _guard = guard;
            poller.gate.attach();
            let patience = Duration::from_millis(limits::PULSE_REDIS_MILLIS);
            let _pulse = poller.gate.published().metrics.pulses.enter("gate", patience);
            let offered = Vec::new();
            let (balances, sweeps) = (Balances::default(), Sweeps::default());
            let mut rounds = Rounds {
                poller,
                connection: None,
                offered,
                has_returned: false,
                is_leaving: false,
                memory: None,
                is_full: false,
                balances,
                sweeps,
            };
            loop {
                pulse::beat();
                rounds.round();
                if let Some(until) = *stopped.lock().unwrap_or_else(PoisonError::into_inner) {
                    let has_left = rounds.leave();
                    if has_left || tick() >= until {
                        return has_left;
                    }
                }
                std::thread::park_timeout(Duration::from_millis(limits::POLL_MILLIS));
            }
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends it, once everything that this gate has acknowledged is in the database: then it leaves, and no opening waits for
    /// it. After `patience` it ends all the same, and is waited for. Tells whether it has left. Nobody submits any more.
    pub fn stop(self, patience: Duration) -> bool {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(tick() + patience);
        self.thread.thread().unpark();
        // A panic there is its guard's news.
        self.thread.join().unwrap_or(false)
    }
}

struct Rounds {
    poller: Poller,
    connection: Option<Connection>,
    /// The recoveries in which this gate has offered what it keeps.
    offered: Vec<String>,
    /// Whether this gate, which had left, has asked to be one again.
    has_returned: bool,
    /// Whether it has said that it leaves, or tried to.
    is_leaving: bool,
    /// When Redis' memory was last looked at, and whether it is nearly full.
    memory: Option<Instant>,
    is_full: bool,
    balances: Balances,
    sweeps: Sweeps,
}

impl Rounds {
    fn round(&mut self) {
        let looked = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.poller.server.connect(),
        };
        let outcome = looked.and_then(|mut connection| self.look(&mut connection).map(|()| connection));
        match outcome {
            Ok(connection) => self.connection = Some(connection),
            Err(error) => self.poller.gate.close(Closed::Away(error.to_string())),
        }
    }

    fn look(&mut self, connection: &mut Connection) -> Result<(), CallError> {
        let name = self.poller.gate.name();
        let answer = connection.call("status", &[name.as_bytes()])?;
        let status = protocol::status(&answer).map_err(|error| CallError::Protocol(error.0))?;
        let gate = self.poller.gate.clone();
        if let Some(other) = status.identity.filter(|found| *found != self.poller.identity) {
            gate.close(Closed::Stuck(format!(
                "this Redis holds the buffer of {other:032x}, the database is {:032x}'s: one of the two URLs is wrong",
                self.poller.identity
            )));
            return Ok(());
        }
        if status.is_open {
            gate.saw(status.at, status.retired, status.entries);
            self.poller.kept.retired(status.retired);
            self.join(connection, &status)?;
        } else {
            self.wait_for_opening(connection, &status)?;
        }
        let metrics = &gate.published().metrics;
        metrics.journal_disk_bytes.set(self.poller.kept.bytes());
        metrics.kept_entries.set(self.poller.kept.unretired());
        if gate.epoch().is_some() {
            self.poller.feed.refresh(connection)?;
            self.watch_memory(connection)?;
            let has_room = !self.is_full && self.poller.kept.has_room();
            gate.published().disk_full.store(!has_room, Ordering::Relaxed);
            self.balances.read(connection, &gate)?;
            self.sweeps.look(connection, (&gate, &self.poller.kept), self.poller.sweeping, status.at)?;
        }
        Ok(())
    }

    /// The partition is open: to this gate, too, unless it was opened without what this gate has acknowledged.
    fn join(&mut self, connection: &mut Connection, status: &Status) -> Result<(), CallError> {
        let (gate, kept) = (self.poller.gate.clone(), self.poller.kept.clone());
        if gate.epoch() == Some(status.epoch) {
            // It may have said so itself, without hearing that it was heard.
            if status.gate == GateState::Left && !self.is_leaving {
                self.has_returned = true;
                gate.close(Closed::Stuck(format!("gate {} was dismissed while it served", gate.name())));
            }
            return Ok(());
        }
        let has_part = self.offered.contains(&status.opened_by)
            || kept.last().is_none_or(|(epoch, _)| epoch == status.epoch)
            || self.owes_nothing()
            || self.has_all(connection, status.retired)?;
        match status.gate {
            GateState::Known if has_part => {
                self.has_returned = false;
                // Before anybody is let in: a campaign that is not known yet would be answered as one that is not there.
                self.poller.feed.restart();
                self.poller.feed.refresh(connection)?;
                gate.open(status.epoch);
            }
            GateState::New | GateState::Unknown => {
                gate.close(Closed::Opening("a worker has still to write this gate down in the database".to_owned()));
            }
            GateState::Left if self.owes_nothing() && !self.has_returned => {
                self.has_returned = true;
                self.say(connection, GateState::New)?;
                gate.close(Closed::Opening("this gate had left, and asks to be one again".to_owned()));
            }
            GateState::Known | GateState::Left => gate.close(Closed::Stuck(format!(
                "gate {} was dismissed, or the partition was opened without what it keeps: set its data folder aside and \
                 start a new one",
                gate.name()
            ))),
        }
        Ok(())
    }

    /// Whether everything that this gate has acknowledged is in the database.
    fn owes_nothing(&self) -> bool {
        self.poller.kept.unretired() == 0
    }

    /// Whether Redis has, at its position, everything that this gate keeps after `retired`: then the partition was opened with it,
    /// although this process does not remember to have offered it.
    fn has_all(&self, connection: &mut Connection, retired: Seq) -> Result<bool, CallError> {
        let kept = self.poller.kept.after(retired).map_err(|error| CallError::Unready(error.to_string()))?;
        let (list, meta) = (connection.key("list"), connection.key("meta"));
        for run in kept.chunk_by(|a, b| a.seq.next() == b.seq).flat_map(|run| run.chunks(limits::OFFER_ENTRIES)) {
            let first = run[0].seq.0 - retired.0 - 1;
            let mut both = redis::pipe();
            both.atomic().cmd("HGET").arg(&meta).arg("retired");
            both.cmd("LRANGE").arg(&list).arg(first).arg(first + run.len() as u64 - 1);
            let answer = connection.pipeline(&both)?;
            let [now, Value::Array(items)] = &answer[..] else { return Ok(false) };
            // It has moved on meanwhile: look again the next time.
            if protocol::bytes(now).is_ok_and(|now| now != retired.0.to_string().as_bytes()) {
                return Ok(false);
            }
            let expected = run.iter().map(|kept| protocol::layout::item(kept.at, &kept.bytes));
            let found = items.iter().map(|item| protocol::bytes(item).unwrap_or_default().to_vec());
            if !expected.eq(found) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes down what this gate is.
    fn say(&self, connection: &mut Connection, state: GateState) -> Result<(), CallError> {
        let key = connection.key("gates");
        let name = self.poller.gate.name();
        connection.command(cmd("HSET").arg(key).arg(name).arg(state.word())).map(|_| ())
    }

    /// Leaves, if nothing is owed; whether it has.
    fn leave(&mut self) -> bool {
        let gate = self.poller.gate.clone();
        if gate.epoch().is_none() || !self.owes_nothing() {
            return false;
        }
        let Some(mut connection) = self.connection.take() else { return false };
        self.is_leaving = true;
        self.say(&mut connection, GateState::Left).is_ok()
    }

    /// It is not open: a worker will open it, once every gate has offered what it keeps.
    fn wait_for_opening(&mut self, connection: &mut Connection, status: &Status) -> Result<(), CallError> {
        let why = match (&status.fenced, &status.recovery) {
            (_, Some(_)) => "it is being opened anew".to_owned(),
            (Some(why), None) => format!("it is fenced: {why}"),
            (None, None) => "Redis was started anew, or is new, and no worker has opened it yet".to_owned(),
        };
        self.poller.gate.close(Closed::Opening(why));
        let (Some(token), Some(base)) = (status.recovery.clone(), status.recovery_base) else { return Ok(()) };
        if self.offered.contains(&token) || !self.offer(connection, &token, base)? {
            return Ok(());
        }
        if self.offered.len() >= limits::OFFERS_REMEMBERED {
            self.offered.remove(0);
        }
        self.offered.push(token);
        Ok(())
    }

    /// Offers what this gate keeps after `base`; whether that opening is still under way.
    fn offer(&self, connection: &mut Connection, token: &str, base: Seq) -> Result<bool, CallError> {
        let (gate, kept) = (self.poller.gate.name(), &self.poller.kept);
        let unread = |error: super::kept::KeptError| {
            self.poller.gate.close(Closed::Stuck(format!("the gate's journal can't be read: {error}")));
            CallError::Unready(error.to_string())
        };
        let all = kept.after(base).map_err(unread)?;
        // Those of one call lie side by side; other gates have those in between.
        for run in all.chunk_by(|a, b| a.seq.next() == b.seq).flat_map(|run| run.chunks(limits::OFFER_ENTRIES)) {
            let items: Vec<Vec<u8>> = run.iter().map(|kept| protocol::layout::item(kept.at, &kept.bytes)).collect();
            let first = run[0].seq.0.to_string();
            let head = [token.as_bytes(), gate.as_bytes(), first.as_bytes()];
            let args: Vec<&[u8]> = head.into_iter().chain(items.iter().map(|item| &item[..])).collect();
            if !self.is_taken(&connection.call("offer", &args)?)? {
                return Ok(false);
            }
        }
        let (epoch, last) = kept.last().unwrap_or((0, Seq(0)));
        let (epoch, last) = (epoch.to_string(), last.0.to_string());
        let args = [token.as_bytes(), gate.as_bytes(), epoch.as_bytes(), last.as_bytes()];
        let is_taken = self.is_taken(&connection.call("offered", &args)?)?;
        tracing::info!(entries = all.len(), after = base.0, is_taken, "offered what this gate has acknowledged");
        Ok(is_taken)
    }

    fn is_taken(&self, answer: &[Value]) -> Result<bool, CallError> {
        match protocol::word(answer).map_err(|error| CallError::Protocol(error.0))? {
            Word::Ok => Ok(true),
            Word::Lost | Word::More => Ok(false),
            Word::Conflict => {
                self.poller.gate.close(Closed::Stuck(
                    "another gate has acknowledged something else at the same position: Redis has given it out twice"
                        .to_owned(),
                ));
                Ok(false)
            }
        }
    }

    /// Has claims refused before Redis has no memory left: then it would refuse them half-way through a call, all at once.
    fn watch_memory(&mut self, connection: &mut Connection) -> Result<(), CallError> {
        let pause = Duration::from_millis(limits::MEMORY_LOOK_MILLIS);
        if self.memory.is_some_and(|last| tick().saturating_duration_since(last) < pause) {
            return Ok(());
        }
        self.memory = Some(tick());
        let Value::BulkString(info) = connection.command(cmd("INFO").arg("memory"))? else { return Ok(()) };
        let info = String::from_utf8_lossy(&info);
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let (used, most) = (field("used_memory"), field("maxmemory"));
        self.poller.gate.saw_memory(used, most);
        let is_full = most > 0 && used > most / 100 * limits::MEMORY_FULL_PERCENT;
        let was_full = std::mem::replace(&mut self.is_full, is_full);
        if is_full && !was_full {
            tracing::error!(used, most, "Redis is nearly full: claims are refused until workers have made room");
        } else if was_full && !is_full {
            tracing::info!(used, most, "Redis has room again");
        }
        Ok(())
    }
}
