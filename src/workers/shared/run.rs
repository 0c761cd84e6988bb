//! The worker's thread: it prepares the database, takes the lease, works through a term, and begins again.
//!
//! It never waits for the database while entries flow: the drain has a thread of its own, everything else is asked in the
//! background. So Redis hears of it whatever the database does.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::chores::Chores;
use super::lease::{self, Lease};
use super::state::{Phase, WorkerState};
use super::term::{self, Break, Term};
use super::{Stopping, WorkerSettings};
use crate::clock::tick;
use crate::limits;
use crate::pulse;
use crate::queue::HashKey;
use crate::queue::redis::client::{Connection, Server};
use crate::queue::redis::protocol;
use crate::sale::Seq;
use crate::store::Database;
use crate::workers::DrainHandle;

pub(super) struct Worker {
    pub(super) server: Server,
    pub(super) store: Arc<Database>,
    pub(super) settings: WorkerSettings,
    pub(super) lease: Arc<Lease>,
    pub(super) state: Arc<WorkerState>,
    pub(super) stopping: Arc<Stopping>,
    pub(super) runtime: Handle,
}

/// What the thread holds while it runs.
struct Running {
    chores: Chores,
    connection: Option<Connection>,
    /// When Redis is tried again, and the pause after that.
    retry: (Instant, Duration),
    term: Option<Term>,
    /// Whether Redis was away since the term last spoke to it.
    was_away: bool,
    /// The drain of a term that is over, until nothing that it began is under way.
    ending: Option<(DrainHandle, String)>,
    /// Up to where entries are still taken, once it is to end.
    last: Option<Seq>,
    /// The last entry that Redis had when it was last looked at, and when that is due again.
    seq: Seq,
    look: Instant,
    /// The pause after which entries are looked for next where there were none.
    rest: Duration,
}

const IDLE: Duration = Duration::from_millis(limits::WORK_IDLE_MILLIS);
const REST: Duration = Duration::from_millis(limits::WORK_REST_MILLIS);
const STANDBY: Duration = Duration::from_millis(limits::WORK_STANDBY_MILLIS);

impl Worker {
    /// Works until it is told to end; how many entries wait then that the database has not got.
    pub(super) fn run(mut self) -> u64 {
        if !self.prepare() {
            self.state.set(Phase::Stopped);
            return 0;
        }
        // Not before: until here it waits for the database, for as long as that is away.
        let patience = Duration::from_millis(limits::PULSE_WORKER_MILLIS);
        let _pulse = self.settings.metrics.clone().pulses.enter("worker", patience);
        let key = HashKey(self.settings.secrets.hash_key);
        let mut running = Running {
            chores: Chores::new(self.runtime.clone(), self.store.clone(), key),
            connection: None,
            retry: (tick(), Duration::from_millis(limits::WORK_RETRY_MILLIS.0)),
            term: None,
            was_away: false,
            ending: None,
            last: None,
            seq: Seq(0),
            look: tick(),
            rest: IDLE,
        };
        while !self.is_over(&running) {
            let pause = if self.lease.paused.load(Ordering::Relaxed) { IDLE } else { self.turn(&mut running) };
            self.lease.beat();
            pulse::beat();
            self.stopping.wait(pause);
        }
        let left = self.end(running);
        self.state.set(Phase::Stopped);
        left
    }

    /// Makes the database ready; whether that was done before it was to end.
    fn prepare(&mut self) -> bool {
        let mut pause = Duration::from_millis(limits::WORK_RETRY_MILLIS.0);
        loop {
            let ready = self.runtime.block_on(async {
                self.store.migrate().await?;
                self.store.put_secrets(&self.settings.secrets).await
            });
            match ready {
                Ok(stand) => {
                    self.settings.secrets = stand;
                    return true;
                }
                Err(error) => self.state.set(Phase::Preparing(error.to_string())),
            }
            self.lease.beat();
            if self.stopping.wait(pause) {
                return false;
            }
            pause = (pause * 2).min(Duration::from_millis(limits::WORK_RETRY_MILLIS.1));
        }
    }

    /// One turn; how long to wait for the next.
    fn turn(&self, running: &mut Running) -> Duration {
        if let Some(term) = &mut running.term
            && let Err(why) = term.check_drain()
        {
            self.broken(running, why);
        }
        if self.lease.is_lost() && running.term.is_some() {
            self.broken(running, Break::Over("the lease was lost".to_owned()));
        }
        if let Some((drain, why)) = running.ending.take()
            && !drain.has_ended()
        {
            self.state.set(Phase::Ending(why.clone()));
            running.ending = Some((drain, why));
            return IDLE;
        }
        let Some(mut connection) = self.connected(running) else { return IDLE };
        let worked = self.work(running, &mut connection);
        match worked {
            Ok(pause) => {
                running.connection = Some(connection);
                running.retry.1 = Duration::from_millis(limits::WORK_RETRY_MILLIS.0);
                pause
            }
            Err(Break::Away(error)) => {
                // Whatever the answer would have been: the connection may still bring it, so it is of no use any more.
                self.away(running, error.to_string());
                IDLE
            }
            Err(why) => {
                running.connection = Some(connection);
                self.broken(running, why)
            }
        }
    }

    fn connected(&self, running: &mut Running) -> Option<Connection> {
        if running.connection.is_none() && tick() < running.retry.0 {
            return None;
        }
        match running.connection.take().map_or_else(|| self.server.connect(), Ok) {
            Ok(connection) => Some(connection),
            Err(error) => {
                self.away(running, error.to_string());
                None
            }
        }
    }

    fn away(&self, running: &mut Running, why: String) {
        running.was_away = true;
        running.retry.0 = tick() + running.retry.1;
        running.retry.1 = (running.retry.1 * 2).min(Duration::from_millis(limits::WORK_RETRY_MILLIS.1));
        self.state.set(Phase::Away(why));
    }

    /// Ends the term; how long to wait before the next.
    fn broken(&self, running: &mut Running, why: Break) -> Duration {
        self.lease.drop_it();
        let (words, pause) = match why {
            Break::Stuck(words) => {
                self.state.set(Phase::Stuck(words.clone()));
                (words, Duration::from_millis(limits::WORK_STUCK_MILLIS))
            }
            Break::Over(words) => (words, STANDBY),
            Break::Away(error) => (error.to_string(), STANDBY),
        };
        if let Some(term) = running.term.take() {
            tracing::warn!(why = words, "the worker's term is over");
            let drain = term.into_drain();
            drain.begin_stop();
            running.ending = Some((drain, words));
        }
        pause
    }

    fn work(&self, running: &mut Running, connection: &mut Connection) -> Result<Duration, Break> {
        if running.term.is_none() {
            return self.stand_by(running, connection);
        }
        let Some(term) = &mut running.term else { return Ok(IDLE) };
        if std::mem::take(&mut running.was_away)
            && let Err(why) = term.check_again(connection, &self.lease)
        {
            running.was_away = matches!(why, Break::Away(_));
            return Err(why);
        }
        // An opening waits for gates that only this can have registered.
        running.chores.register(connection, &self.lease)?;
        if !term.is_active() {
            let phase = term.prepare(connection, (&self.lease, &self.store, &self.runtime), &self.settings)?;
            // What is laid out anew is laid out at once; gates are waited for.
            let is_busy = term.is_opening() && !matches!(&phase, Phase::Opening(what) if what.starts_with("waiting"));
            self.state.set(phase);
            return Ok(if is_busy { Duration::ZERO } else { IDLE });
        }
        self.state.set(Phase::Active { epoch: term.epoch });
        let more = term.feed(connection, &self.lease, running.last)?;
        let buyers = term.retire(connection, &self.lease)?;
        running.chores.retired(buyers);
        running.chores.serve(connection, term)?;
        running.chores.settle_carts(connection)?;
        if tick() >= running.look {
            running.look = tick() + Duration::from_millis(limits::WORK_GATES_MILLIS);
            running.seq = term::status(connection)?.seq;
        }
        self.state.set_backlog(term.backlog(running.seq));
        if self.stopping.is_set() && running.last.is_none() {
            running.last = Some(term::status(connection)?.seq);
        }
        let is_idle = !more && term.backlog(running.seq).ahead == 0;
        running.rest = if is_idle { (running.rest * 2).min(REST) } else { IDLE };
        Ok(if more { Duration::ZERO } else { running.rest })
    }

    /// Takes the lease, if nobody has it.
    fn stand_by(&self, running: &mut Running, connection: &mut Connection) -> Result<Duration, Break> {
        if self.stopping.is_set() {
            return Ok(IDLE);
        }
        let micros = self.lease.micros();
        let args = ["", &self.lease.worker, "0", "0", &micros].map(str::as_bytes);
        let taken = protocol::taken(&connection.call("take", &args)?)?;
        if taken.is_none() {
            self.state.set(Phase::Standby);
            return Ok(STANDBY);
        }
        running.was_away = false;
        self.lease.taken();
        match Term::begin(&self.store, &self.settings) {
            Ok(term) => running.term = Some(term),
            Err(error) => return Err(Break::Stuck(format!("the drain can't be started: {error}"))),
        }
        Ok(Duration::ZERO)
    }

    /// Whether it is to end, and has done what it can.
    fn is_over(&self, running: &Running) -> bool {
        let Some(deadline) = self.stopping.deadline() else { return false };
        let Some(term) = running.term.as_ref().filter(|term| term.is_active()) else { return true };
        tick() >= deadline || running.last.is_some_and(|last| term.ahead.told >= last)
    }

    /// Ends the drain, tells Redis what that has brought, and gives the lease back.
    fn end(&self, running: Running) -> u64 {
        drop(running.ending);
        let deadline = self.stopping.deadline().unwrap_or_else(tick);
        let Some(mut term) = running.term else {
            self.lease.drop_it();
            return 0;
        };
        term.stop_drain(deadline.saturating_duration_since(tick()));
        let connection = running.connection.map_or_else(|| self.server.connect(), Ok);
        let Ok(mut connection) = connection else { return term.published.pending.entries() };
        if term.is_active()
            && let Err(why) = term.retire(&mut connection, &self.lease)
        {
            tracing::warn!(?why, "Redis was not told what the database has: the next worker will find out");
        }
        self.lease.drop_it();
        let _ = lease::give_back(&mut connection, &self.lease);
        match term::status(&mut connection) {
            Ok(status) => status.seq.0 - status.retired.0,
            Err(_) => term.published.pending.entries(),
        }
    }
}
