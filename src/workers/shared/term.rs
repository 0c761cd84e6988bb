//! One term of the lease: from the binding of the database to the moment at which the lease, the epoch or the database is
//! another's. Whatever it has in memory ends with it.
//!
//! The database is bound first, and only then looked at who has the lease: whoever takes it afterwards binds afterwards, and
//! fences this term. Until then nothing is read of Redis, so nothing can be written under a binding that came too late.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::WorkerSettings;
use super::ahead::{Ahead, Names, Saying, Unreadable};
use super::lease::{self, Lease};
use super::reopen::{Progress, ReopenError, Reopening};
use super::state::{Backlog, Phase};
use crate::cache::shared::news;
use crate::clock::tick;
use crate::limits;
use crate::queue::redis::client::{CallError, Connection, Refused};
use crate::queue::redis::protocol::{self, Status, Word};
use crate::queue::{Pending, Published};
use crate::sale::{Seq, UserId};
use crate::store::{Database, GateState, Row, StoreError};
use crate::workers::drain::{Drain, Refresh};
use crate::workers::{DrainHandle, DrainSettings};

/// Why a term does not go on as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Break {
    /// Redis has no answer: the same again on another connection.
    Away(CallError),
    /// The term is over.
    Over(String),
    /// The term is over, and the next one will end the same way unless somebody does something.
    Stuck(String),
}

impl From<CallError> for Break {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(Refused::Layout(_)) => Self::Stuck(error.to_string()),
            CallError::Refused(why) => Self::Over(why.to_string()),
            error => Self::Away(error),
        }
    }
}

impl From<protocol::ProtocolError> for Break {
    fn from(error: protocol::ProtocolError) -> Self {
        Self::Away(CallError::Protocol(error.0))
    }
}

impl From<Unreadable> for Break {
    fn from(error: Unreadable) -> Self {
        Self::Stuck(error.to_string())
    }
}

/// Nobody has a cache to be told here: front ends are elsewhere, and are told before their entries are retired.
struct Nobody;

impl Refresh for Nobody {
    fn on_persisted(&self, _: &[Row]) {}
}

enum Stage {
    /// The drain is binding the database.
    Binding,
    /// It is bound; it is looked at next what the partition needs.
    Bound,
    /// The partition is being made ready.
    Opening(Box<Underway>),
    Active,
}

/// An opening, and the gates that it waits for.
struct Underway {
    opening: Reopening,
    gates: Vec<u128>,
    /// When they were last asked for: they may be dismissed meanwhile.
    asked: Option<Instant>,
}

impl Underway {
    async fn step(&mut self, connection: &mut Connection, store: &Database) -> Result<Progress, ReopenError> {
        let pause = Duration::from_millis(limits::WORK_GATES_MILLIS);
        if self.asked.is_none_or(|asked| tick().saturating_duration_since(asked) >= pause) {
            // Gates offer nothing for an opening that Redis has forgotten.
            let found = protocol::status(&connection.call("status", &[b""])?)?;
            if self.asked.is_some() && !found.is_open && found.recovery.as_deref() != Some(self.opening.token()) {
                return Err(ReopenError::Lost);
            }
            let all = store.gates().await?;
            self.gates = all.iter().filter(|gate| gate.state == GateState::Active).map(|gate| gate.id).collect();
            self.asked = Some(tick());
        }
        self.opening.step(connection, store, &self.gates).await
    }
}

pub(super) struct Term {
    pub(super) published: Arc<Published>,
    pub(super) names: Arc<Names>,
    pub(super) epoch: u64,
    pub(super) ahead: Ahead,
    drain: DrainHandle,
    stage: Stage,
    /// When the drain was last seen to do anything, and what it had done by then.
    moved: (Instant, (u64, u64, u64)),
    batch_max: u64,
    /// What `metrics.fenced` said before: the drain sets it, and it is others' to say.
    fenced_before: u64,
    is_behind: bool,
    /// Whether it is known that gates are not told what entries have touched.
    is_mute: bool,
}

impl Term {
    /// Begins: the lease is had.
    pub(super) fn begin(store: &Arc<Database>, settings: &WorkerSettings) -> std::io::Result<Self> {
        let mut published = Published::new(Pending::new(Seq(0)));
        published.metrics = settings.metrics.clone();
        let (published, names) = (Arc::new(published), Arc::new(Names::default()));
        let known = names.clone();
        let drain = Drain::new(store.clone(), published.clone(), settings.batch_max, rand::random())
            .with_names(move |no| known.get(no))
            .with_refresh(Arc::new(Nobody));
        // How far the database may be is looked at when it is known what Redis has.
        let drain_settings = DrainSettings {
            journal: settings.secrets.identity,
            batch_max: settings.batch_max,
            recovered: Seq(u64::MAX),
        };
        let prepared = store.clone();
        let prepare = async move || prepared.migrate().await.map(|_| ());
        let fenced_before = settings.metrics.fenced.get();
        let drain = DrainHandle::spawn_drain(drain, drain_settings, prepare)?;
        Ok(Self {
            published,
            names,
            epoch: 0,
            ahead: Ahead::new(Seq(0), settings.durability),
            drain,
            stage: Stage::Binding,
            moved: (tick(), (0, 0, 0)),
            batch_max: settings.batch_max as u64,
            fenced_before,
            is_behind: false,
            is_mute: false,
        })
    }

    /// The drain, to wait for its end, at the end of the term.
    pub(super) fn into_drain(self) -> DrainHandle {
        if self.published.fenced.load(Ordering::SeqCst) {
            self.published.metrics.fenced.set(self.fenced_before);
        }
        self.drain
    }

    /// Has the drain write what it has, for at most so long, and waits for its end.
    pub(super) fn stop_drain(&mut self, grace: Duration) {
        self.drain.finish(grace);
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.stage, Stage::Active)
    }

    /// Ends the term where the database, or its silence, says so; needs no Redis.
    pub(super) fn check_drain(&mut self) -> Result<(), Break> {
        if self.drain.fenced().load(Ordering::SeqCst) {
            let why = "the database is bound to another worker, or is not ours: see the drain's own words above";
            return Err(Break::Over(why.to_owned()));
        }
        let (pending, metrics) = (&self.published.pending, &self.published.metrics);
        let done = (pending.retired().0, metrics.drain_retries.get(), metrics.drain_rows.get());
        let is_idle = pending.entries() == 0 && !matches!(self.stage, Stage::Binding);
        if is_idle || done != self.moved.1 {
            self.moved = (tick(), done);
        }
        if tick().saturating_duration_since(self.moved.0) > Duration::from_millis(limits::WORK_HUNG_MILLIS) {
            let seconds = limits::WORK_HUNG_MILLIS / 1_000;
            return Err(Break::Over(format!("the database has answered nothing for {seconds} s")));
        }
        Ok(())
    }

    /// Goes on until entries flow: tells what it does meanwhile.
    pub(super) fn prepare(
        &mut self,
        connection: &mut Connection,
        (lease, store, asks): (&Lease, &Database, &Handle),
        settings: &WorkerSettings,
    ) -> Result<Phase, Break> {
        match &mut self.stage {
            Stage::Binding if !self.drain.is_bound() => Ok(Phase::Opening("binding the database".to_owned())),
            Stage::Binding => {
                if lease::prolong(connection, lease)? != Word::Ok {
                    return Err(Break::Over("the lease was lost before the database was bound".to_owned()));
                }
                self.stage = Stage::Bound;
                self.look(connection, settings)
            }
            Stage::Bound => {
                let token = format!("{:032x}", rand::random::<u128>());
                let Ok(floor) = asks.block_on(store.bindings()) else {
                    return Ok(Phase::Opening("waiting for the database".to_owned()));
                };
                let opening = Reopening::new(token, settings.durability, floor);
                self.stage = Stage::Opening(Box::new(Underway { opening, gates: Vec::new(), asked: None }));
                Ok(Phase::Opening("looking what Redis has kept".to_owned()))
            }
            Stage::Opening(underway) => match asks.block_on(underway.step(connection, store)) {
                Ok(Progress::Opened { .. }) => {
                    self.stage = Stage::Bound;
                    self.look(connection, settings)
                }
                Ok(Progress::Waiting { gates }) => {
                    let names: Vec<String> = gates.iter().map(|id| format!("{id:032x}")).collect();
                    Ok(Phase::Opening(format!("waiting for what gates have kept: {}", names.join(", "))))
                }
                Ok(Progress::Rebuilding) => Ok(Phase::Opening("laying the partition out anew".to_owned())),
                Err(ReopenError::Redis(error)) => Err(error.into()),
                Err(ReopenError::Store(error @ StoreError::Fenced(_))) => Err(Break::Over(error.to_string())),
                Err(ReopenError::Store(error)) => Ok(Phase::Opening(format!("waiting for the database: {error}"))),
                Err(error @ (ReopenError::Lost | ReopenError::Unbound)) => Err(Break::Over(error.to_string())),
                Err(error) => Err(Break::Stuck(error.to_string())),
            },
            Stage::Active => Ok(Phase::Active { epoch: self.epoch }),
        }
    }

    /// Whether there is more of an opening to do at once.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.stage, Stage::Opening(_))
    }

    /// Whether the partition is open and goes with the database: then entries flow from now on.
    fn look(&mut self, connection: &mut Connection, settings: &WorkerSettings) -> Result<Phase, Break> {
        let status = status(connection)?;
        let (ours, cursor) = (settings.secrets.identity, self.published.pending.retired());
        if let Some(theirs) = status.identity.filter(|theirs| *theirs != ours) {
            return Err(Break::Stuck(format!(
                "the partition in Redis is the database's with the identity {theirs:032x}, this one has {ours:032x}: redis.url \
                 or store.url names another deployment's"
            )));
        }
        if status.is_open && cursor < status.retired {
            return Err(Break::Stuck(format!(
                "the database stands at entry {cursor}, and Redis was told that it has everything up to {}: it was \
                 restored from an older copy, or is another one",
                status.retired
            )));
        }
        if !status.is_open || cursor > status.seq {
            return Ok(Phase::Opening("the partition is not open".to_owned()));
        }
        self.names.read(connection)?;
        self.epoch = status.epoch;
        self.ahead = Ahead::new(status.retired, settings.durability);
        self.stage = Stage::Active;
        Ok(Phase::Active { epoch: self.epoch })
    }

    /// After Redis was away: whether this term goes on.
    pub(super) fn check_again(&self, connection: &mut Connection, lease: &Lease) -> Result<(), Break> {
        let status = status(connection)?;
        if status.worker.as_deref() != Some(&lease.worker) {
            return Err(Break::Over("another worker has taken the lease".to_owned()));
        }
        if self.is_active() && !(status.is_open && status.epoch == self.epoch) {
            return Err(Break::Over("Redis was started anew, or was opened by another worker".to_owned()));
        }
        Ok(())
    }

    /// Reads ahead as far as there is room, not beyond `upto`; whether there is more.
    pub(super) fn feed(
        &mut self,
        connection: &mut Connection,
        lease: &Lease,
        upto: Option<Seq>,
    ) -> Result<bool, Break> {
        let pending = &self.published.pending;
        let most = (self.batch_max * limits::WORK_AHEAD_BATCHES).min(limits::WORK_AHEAD_MAX).max(self.batch_max);
        let room = most.saturating_sub(pending.entries()).min(limits::WORK_TAKE_MAX);
        let room = room.min(upto.map_or(u64::MAX, |upto| upto.0.saturating_sub(self.ahead.fed.0)));
        // A small piece would cost a call for little: the drain has enough until there is room for more.
        if room == 0 || (pending.entries() > 2 * self.batch_max && room < limits::WORK_TAKE_MAX.min(self.batch_max)) {
            return Ok(false);
        }
        let (after, count, micros) = (self.ahead.fed.to_string(), room.to_string(), lease.micros());
        let args = ["", &lease.worker, &after, &count, &micros].map(str::as_bytes);
        let answer = connection.call("take", &args)?;
        let Some(taken) = protocol::taken(&answer)? else {
            return Err(Break::Over("another worker has taken the lease".to_owned()));
        };
        if !taken.is_open || taken.epoch != self.epoch {
            return Err(Break::Over("the partition is not open any more".to_owned()));
        }
        if taken.retired > self.ahead.fed {
            return Err(Break::Over(format!("another worker has retired entries up to {}", taken.retired)));
        }
        self.ahead.feed(&taken, &self.published, &self.names)?;
        self.is_behind = taken.seq > self.ahead.fed;
        Ok(taken.items.len() as u64 == room && self.is_behind)
    }

    /// Tells Redis what the database has by now; the buyers whose carts that is about.
    pub(super) fn retire(&mut self, connection: &mut Connection, lease: &Lease) -> Result<Vec<UserId>, Break> {
        let Some(Saying { upto, sums, touched }) = self.ahead.say(&self.published) else { return Ok(Vec::new()) };
        // Before: who does not find an entry in Redis any more is to know that its row has changed. Where nobody hears it, gates
        // see by the positions that something was not told; so nothing that fails here is a reason not to retire.
        let mute = news::tell(connection, touched).err();
        if let Some(error) = mute.as_ref().filter(|_| !self.is_mute) {
            tracing::warn!(%error, "gates are not told which rows have changed: they ask the database more often");
        }
        self.is_mute = mute.is_some();
        let (epoch, upto, micros) = (self.epoch.to_string(), upto.to_string(), lease.micros());
        let (worker, epoch, upto, micros) =
            (lease.worker.as_bytes(), epoch.as_bytes(), upto.as_bytes(), micros.as_bytes());
        let args = [b"", worker, epoch, upto, micros, sums];
        match protocol::word(&connection.call("retire", &args)?)? {
            Word::Ok => Ok(self.ahead.heard()),
            Word::Lost | Word::Conflict | Word::More => {
                Err(Break::Over("the lease is over, or the partition another one".to_owned()))
            }
        }
    }

    /// What is left, as far as is known without asking.
    pub(super) fn backlog(&self, seq: Seq) -> Backlog {
        let (retired, ahead) = (self.ahead.told, self.published.pending.entries());
        let oldest = self.published.pending.oldest();
        Backlog { waiting: seq.max(self.ahead.fed).0 - retired.0, ahead, retired, oldest }
    }
}

/// How the partition stands.
pub(super) fn status(connection: &mut Connection) -> Result<Status, Break> {
    let answer = connection.call("status", &[b""])?;
    Ok(protocol::status(&answer)?)
}
