//! Who uses which connection: one writer, a few readers, and a few readers of the replica if there is one.
//!
//! Each call's work runs on a [`Lane`] to its end, whoever waits for it. A connection is *taken* for each call and put back
//! only after a call that ended cleanly; otherwise it is closed, the server rolls back what was begun, and the next call opens
//! a fresh one. An answer that does not come is waited for as long as the server's own timeouts allow and some more; then the
//! connection is given up on: another takes its place, and its work stays behind with it until the network lets go of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{PgConnection, Row as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::fold::Owner;
use super::super::{Row, StoreError};
use super::connection::{Purpose, Target, close};
use super::days::{self, Days};
use super::error::before;
use super::lane::{Hanging, Lane, Waited, closed};
use super::pair;
use super::write::Clean;
use crate::clock::tick;
use crate::config::PartitionBy;
use crate::limits;
use crate::sale::LocalDay;

/// A future that owns what it needs but the connection.
pub(super) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The writer's connection, and whether its session holds the database's lock.
type Slot = Arc<tokio::sync::Mutex<Option<(PgConnection, bool)>>>;

/// Connections to one server that read.
struct Pool {
    target: Target,
    purpose: Purpose,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<PgConnection>>,
    hanging: Hanging,
}

/// What the work on the lanes shares.
pub(super) struct Sessions {
    /// The server that decides.
    target: Target,
    readers: Pool,
    replica: Option<Pool>,
    /// Not before this is the replica asked again.
    replica_from: Mutex<Option<Instant>>,
    writer: Mutex<Slot>,
    /// Whether a writer must hold the database's lock.
    is_locked: AtomicBool,
    /// Who [`super::super::Store::bind`] tied it to.
    owner: Mutex<Option<Arc<Owner>>>,
    /// The last change that readers may have been told of; none where that is not known, and no replica can be trusted.
    changes: Mutex<Option<i64>>,
    /// Partitions of claims; none where the table is one.
    days: Option<Mutex<Days>>,
    /// Writes whose answer nobody waits for any more.
    hanging: Hanging,
    is_closed: AtomicBool,
    /// What the server's administrator sees of our sessions.
    who: String,
}

impl Sessions {
    pub(super) fn new(target: Target, replica: Option<Target>, by: PartitionBy, who: String) -> Self {
        let pool = |target, purpose| Pool {
            target,
            purpose,
            turns: Arc::new(Semaphore::new(limits::STORE_READERS_MAX)),
            idle: Mutex::default(),
            hanging: Hanging::default(),
        };
        Self {
            readers: pool(target.clone(), Purpose::Read),
            replica: replica.map(|replica| pool(replica, Purpose::Replica)),
            replica_from: Mutex::default(),
            target,
            writer: Mutex::default(),
            is_locked: AtomicBool::new(false),
            owner: Mutex::default(),
            changes: Mutex::default(),
            days: (by == PartitionBy::Day).then(Mutex::default),
            hanging: Hanging::default(),
            is_closed: AtomicBool::new(false),
            who,
        }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn owner(&self) -> Option<Arc<Owner>> {
        held(&self.owner).clone()
    }

    pub(super) fn set_owner(&self, owner: Owner) {
        *held(&self.owner) = Some(Arc::new(owner));
    }

    /// A transaction that is this change is about to be committed, or was: from now on nobody may read anything older.
    pub(super) fn tell(&self, change: i64) {
        let mut changes = held(&self.changes);
        *changes = Some(changes.map_or(change, |known| known.max(change)));
    }

    /// From now on a writer must hold the database's lock.
    pub(super) fn demand_lock(&self, yes: bool) {
        self.is_locked.store(yes, Ordering::SeqCst);
    }

    /// Has `lane` run `work` on the writer connection, alone, for at most `limit`. `work` says whether the connection is still
    /// clean.
    pub(super) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        lane: &Lane,
        limit: Duration,
        work: impl for<'a> FnOnce(&'a mut PgConnection) -> Boxed<'a, (Result<T, StoreError>, Clean)> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sessions, mine, slot) = (self.clone(), Waited::default(), held(&self.writer).clone());
        let (watching, waited, ours) = (self.clone(), mine.clone(), slot.clone());
        let work = async move {
            let done = sessions.write_in(&slot, work).await;
            sessions.hanging.ended(&mine);
            done
        };
        let give_up = move || {
            if watching.hanging.gives_up(&waited) {
                let mut writer = held(&watching.writer);
                if Arc::ptr_eq(&writer, &ours) {
                    *writer = Slot::default();
                }
            }
        };
        let done = lane.watch(limit, work, give_up).await?.unwrap_or_else(|| {
            Err(StoreError::Unknown(format!("no answer within {limit:?}; the connection is given up on")))
        });
        done.map_err(|error| self.target.named(error))
    }

    async fn write_in<T>(
        &self,
        slot: &Slot,
        work: impl for<'a> FnOnce(&'a mut PgConnection) -> Boxed<'a, (Result<T, StoreError>, Clean)> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut slot = slot.lock().await;
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(closed());
        }
        let is_locked = self.is_locked.load(Ordering::SeqCst);
        let mut sql = match slot.take() {
            Some((sql, has_lock)) if has_lock || !is_locked => sql,
            other => {
                if let Some((sql, _)) = other {
                    close(sql).await;
                }
                self.open_writer(is_locked).await?
            }
        };
        let (result, clean) = work(&mut sql).await;
        if matches!(result, Err(StoreError::Outage(_) | StoreError::Unknown(_) | StoreError::Fenced(_))) {
            *held(&self.changes) = None;
        }
        if clean == Clean::Yes {
            *slot = Some((sql, is_locked));
        } else {
            close(sql).await;
        }
        result
    }

    async fn open_writer(&self, is_locked: bool) -> Result<PgConnection, StoreError> {
        let (mut sql, _) = self.target.open(if is_locked { Purpose::Lock } else { Purpose::Write }).await?;
        if !is_locked {
            return Ok(sql);
        }
        // A session that has just ended, of ours or of a process that was killed, may hold it a moment longer.
        let until = tick() + Duration::from_millis(limits::STORE_LOCK_MILLIS);
        loop {
            let Some(holder) = pair::lock(&mut sql).await? else { return Ok(sql) };
            if holder.name == self.who && tick() + Duration::from_millis(limits::STORE_LOCK_MILLIS / 2) >= until {
                pair::terminate(&mut sql, &holder).await;
            }
            if tick() >= until {
                let error = self.overtaken(&mut sql, &holder).await;
                close(sql).await;
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(limits::STORE_LOCK_POLL_MILLIS)).await;
        }
    }

    /// Another process holds the database. For one that has not been bound yet, or was overtaken, that is the end.
    async fn overtaken(&self, sql: &mut PgConnection, holder: &pair::Holder) -> StoreError {
        let text = format!(
            "it is held by {} on {} (server process {}): one process at a time; stop that one first, or use another database",
            holder.name, holder.address, holder.pid
        );
        let Some(owner) = self.owner() else { return StoreError::Fenced(text) };
        let epoch = sqlx::query_scalar("SELECT epoch FROM forebay_meta").fetch_optional(sql).await;
        match epoch {
            Ok(Some(epoch)) if epoch != owner.epoch => owner.overtaken(epoch),
            _ => StoreError::Outage(text),
        }
    }

    /// Has `lane` read on one of the reader connections: of the replica, if it is as far as anything that readers may have
    /// been told of and `may_be_replica` says so; otherwise of the server that decides.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        lane: &Lane,
        may_be_replica: bool,
        work: impl for<'a> Fn(&'a mut PgConnection) -> Boxed<'a, Result<T, StoreError>> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let (sessions, mine) = (self.clone(), Waited::default());
        let (watching, waited) = (self.clone(), mine.clone());
        let limit = Duration::from_millis(limits::STORE_HANG_MILLIS);
        let work = async move {
            let work = Arc::new(work);
            if may_be_replica && let Some(read) = sessions.read_replica(&work).await {
                sessions.readers.ended(&mine, None);
                return Ok(read);
            }
            let (result, turn) = sessions.readers.read(&*work).await;
            sessions.readers.ended(&mine, turn);
            result
        };
        let done = lane.watch(limit, work, move || watching.readers.gives_up(&waited)).await?;
        let done = done.unwrap_or_else(|| Err(StoreError::Outage(format!("no answer within {limit:?}"))));
        done.map_err(|error| self.target.named(error))
    }

    fn wanted_of_replica(&self) -> Option<(String, i64)> {
        self.replica.as_ref()?;
        let change = (*held(&self.changes))?;
        let journal = self.owner()?.journal.clone();
        let is_resting = held(&self.replica_from).is_some_and(|from| tick() < from);
        (!is_resting).then_some((journal, change))
    }

    /// Reads of the replica, as work of its own; none where it can't be used now, is behind, or takes too long.
    async fn read_replica<T: Send + 'static>(
        self: &Arc<Self>,
        work: &Arc<impl for<'a> Fn(&'a mut PgConnection) -> Boxed<'a, Result<T, StoreError>> + Send + Sync + 'static>,
    ) -> Option<T> {
        let replica = self.replica.as_ref()?;
        let (journal, change) = self.wanted_of_replica()?;
        let turn = replica.turns.clone().try_acquire_owned().ok()?;
        let (sessions, work, mine) = (self.clone(), work.clone(), Waited::default());
        let waited = mine.clone();
        let reading = tokio::spawn(async move {
            let replica = sessions.replica.as_ref()?;
            let read = replica.read_if_far_enough(&journal, change, &*work).await;
            replica.ended(&mine, Some(turn));
            Some(read)
        });
        let limit = Duration::from_millis(limits::STORE_REPLICA_MILLIS);
        match tokio::time::timeout(limit, reading).await {
            Ok(Ok(Some(Ok(read)))) => {
                *held(&self.replica_from) = None;
                read
            }
            Ok(Ok(Some(Err(error)))) => self.rest(replica, &error),
            Ok(_) => None,
            Err(_) => {
                replica.gives_up(&waited);
                self.rest(replica, &StoreError::Outage(format!("no answer within {limit:?}")))
            }
        }
    }

    /// Leaves the replica alone for a moment.
    fn rest<T>(&self, replica: &Pool, error: &StoreError) -> Option<T> {
        held(&replica.idle).clear();
        let pause = Duration::from_millis(limits::STORE_REPLICA_PAUSE_MILLIS);
        if held(&self.replica_from).replace(tick() + pause).is_none() {
            let name = replica.target.name();
            tracing::warn!(%error, name, "the replica can't be used; reads go to the database itself while that is so");
        }
        None
    }

    /// Makes the partitions that the claims in `rows` want, and the next day's. What can't be made now is made later.
    pub(super) async fn make_days(&self, sql: &mut PgConnection, rows: &[Row]) {
        let Some(days) = &self.days else { return };
        let missing = held(days).missing(rows);
        for day in missing {
            match days::make(sql, day).await {
                Ok(()) => held(days).made(day),
                Err(StoreError::Row(error)) => {
                    tracing::warn!(error, day = %LocalDay(day), "a day gets no partition: claims of it stand with the others");
                    held(days).made(day);
                }
                Err(error) => {
                    tracing::warn!(%error, day = %LocalDay(day), "no partition for a day yet; its claims stand with the others");
                    held(days).failed(day);
                }
            }
        }
    }

    /// Closes every connection that nobody uses, and refuses all further calls.
    pub(super) async fn close(self: Arc<Self>) {
        self.is_closed.store(true, Ordering::SeqCst);
        for pool in [Some(&self.readers), self.replica.as_ref()].into_iter().flatten() {
            pool.turns.close();
            let idle = std::mem::take(&mut *held(&pool.idle));
            for sql in idle {
                close(sql).await;
            }
        }
        let slot = held(&self.writer).clone();
        // A transaction under way is waited for, by whoever waits for this.
        let writer = slot.lock().await.take();
        if let Some((sql, _)) = writer {
            close(sql).await;
        }
    }
}

impl Pool {
    /// Nobody waits for a read any more. The turn of whoever hangs goes to somebody else, and does not come back.
    fn gives_up(&self, waited: &Waited) {
        if self.hanging.gives_up(waited) {
            self.turns.add_permits(1);
        }
    }

    /// A read has ended, with its turn: that of one that was given up on is somebody else's already.
    fn ended(&self, waited: &Waited, turn: Option<OwnedSemaphorePermit>) {
        if self.hanging.ended(waited) {
            return;
        }
        match turn.or_else(|| self.turns.clone().try_acquire_owned().ok()) {
            Some(turn) => turn.forget(),
            None => tracing::debug!("one more connection for reads stays in use"),
        }
    }

    /// Reads, if this server belongs to `journal` and is as far as `change`. It only ever goes on: what it has when it is asked
    /// it still has when it is read.
    async fn read_if_far_enough<T>(
        &self,
        journal: &str,
        change: i64,
        work: &(impl for<'a> Fn(&'a mut PgConnection) -> Boxed<'a, Result<T, StoreError>> + Send + Sync),
    ) -> Result<Option<T>, StoreError> {
        let idle = held(&self.idle).pop();
        let mut sql = match idle {
            Some(sql) => sql,
            None => self.target.open(self.purpose).await?.0,
        };
        let text = "SELECT journal, changes FROM forebay_meta";
        let row = sqlx::query(text).fetch_optional(&mut sql).await.map_err(before)?;
        let read = match row.map(|row| (row.get::<String, _>(0), row.get::<i64, _>(1))) {
            Some((theirs, changes)) if theirs == journal && changes >= change => Some(work(&mut sql).await?),
            _ => None,
        };
        held(&self.idle).push(sql);
        Ok(read)
    }

    /// Reads; gives the turn back to the caller. A connection that was idle may be long dead, and then a fresh one is tried.
    async fn read<T>(
        &self,
        work: &(impl for<'a> Fn(&'a mut PgConnection) -> Boxed<'a, Result<T, StoreError>> + Send + Sync),
    ) -> (Result<T, StoreError>, Option<OwnedSemaphorePermit>) {
        let limit = Duration::from_millis(limits::STORE_BUSY_MILLIS);
        let turn = match tokio::time::timeout(limit, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(_)) => return (Err(closed()), None),
            Err(_) => {
                let text = format!("all {} connections for reads were in use for {limit:?}", limits::STORE_READERS_MAX);
                return (Err(StoreError::Outage(text)), None);
            }
        };
        let idle = held(&self.idle).pop();
        if let Some(mut sql) = idle {
            if let Ok(read) = work(&mut sql).await {
                held(&self.idle).push(sql);
                return (Ok(read), Some(turn));
            }
            held(&self.idle).clear();
        }
        let (mut sql, _) = match self.target.open(self.purpose).await {
            Ok(opened) => opened,
            Err(error) => return (Err(error), Some(turn)),
        };
        let result = work(&mut sql).await;
        if result.is_ok() {
            held(&self.idle).push(sql);
        }
        (result, Some(turn))
    }
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
