//! What an active worker does now and then besides: it registers gates, serves wishes about dead letters, and
//! lets carts go that the database has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::gates;
use super::lease::Lease;
use super::term::{Break, Term};
use crate::cache::shared::news;
use crate::cache::touched::Touched;
use crate::clock::{Seldom, tick};
use crate::limits;
use crate::queue::HashKey;
use crate::queue::letters::{LetterDone, LetterWish};
use crate::queue::redis::client::Connection;
use crate::queue::redis::wishes::{self, Wish};
use crate::sale::UserId;
use crate::store::{Database, StoreError};

/// Something that is due after a pause, by a clock that only runs forward.
#[derive(Debug)]
struct Every {
    pause: Duration,
    next: Instant,
}

impl Every {
    fn millis(pause: u64) -> Self {
        Self { pause: Duration::from_millis(pause), next: tick() }
    }

    fn is_due(&mut self) -> bool {
        let now = tick();
        let due = now >= self.next;
        if due {
            self.next = now + self.pause;
        }
        due
    }
}

/// What outlives a term.
pub(super) struct Chores {
    handle: Handle,
    store: Arc<Database>,
    key: HashKey,
    gates: Every,
    registering: Option<JoinHandle<Result<Vec<gates::Change>, StoreError>>>,
    /// Gates could not be registered.
    unregistered: Seldom,
    wishes: Every,
    wish: Option<(wishes::Asked, JoinHandle<LetterDone>)>,
    carts: Every,
    /// Buyers of whose carts everything is in the database, perhaps.
    settled: Vec<UserId>,
    /// Buyers whose carts the database has changed by itself.
    moved: Vec<UserId>,
}

impl Chores {
    pub(super) fn new(handle: Handle, store: Arc<Database>, key: HashKey) -> Self {
        Self {
            handle,
            store,
            key,
            gates: Every::millis(limits::WORK_GATES_MILLIS),
            registering: None,
            unregistered: Seldom::new(),
            wishes: Every::millis(limits::WORK_WISH_MILLIS),
            wish: None,
            carts: Every::millis(limits::WORK_CARTS_MILLIS),
            settled: Vec::new(),
            moved: Vec::new(),
        }
    }

    /// Registers gates that have come and gone, without waiting for the database.
    pub(super) fn register(&mut self, connection: &mut Connection, lease: &Lease) -> Result<(), Break> {
        if let Some(work) = self.registering.take_if(|work| work.is_finished()) {
            match self.handle.block_on(work) {
                Ok(Ok(changes)) => gates::tell(connection, &changes)?,
                Ok(Err(error)) => {
                    if let Some(others) = self.unregistered.is_due(Duration::from_millis(limits::WORK_TELL_MILLIS)) {
                        tracing::warn!(%error, others, "gates can't be registered: new ones wait");
                    }
                }
                Err(error) => tracing::error!(%error, "registering gates has failed"),
            }
        }
        if self.registering.is_none() && self.gates.is_due() {
            let seen = gates::read(connection)?;
            let by = format!("worker {}", lease.worker);
            self.registering = Some(self.handle.spawn(gates::register(self.store.clone(), seen, by)));
        }
        Ok(())
    }

    /// Takes a wish about a dead letter to the drain, and its answer back.
    pub(super) fn serve(&mut self, connection: &mut Connection, term: &Term) -> Result<(), Break> {
        if let Some((asked, work)) = self.wish.take_if(|(_, work)| work.is_finished()) {
            let done = self.handle.block_on(work).unwrap_or(LetterDone::Unavailable);
            // After a failure, too: it may have been committed all the same.
            if !matches!(done, LetterDone::Unknown | LetterDone::Closed(_) | LetterDone::Refused(_)) {
                // No position tells of it. Where it can't be said, what gates remember grows old by itself.
                if let Err(error) = news::tell(connection, &[Touched::Changed]) {
                    tracing::warn!(%error, "gates are not told of a dead letter: they see its row a little later");
                }
                if let Wish::Requeue { cart: Some(buyer) } = &asked.wish {
                    self.moved.push(*buyer);
                    self.forget_carts(connection)?;
                }
            }
            wishes::answer(connection, &asked, &done)?;
        }
        if self.wish.is_none()
            && self.wishes.is_due()
            && let Some(asked) = wishes::next(connection)?
        {
            let published = term.published.clone();
            let (id, wish) = (asked.id, self.letter_wish(&asked.wish));
            let work = self.handle.spawn(async move { published.letters.ask(id, wish).await });
            self.wish = Some((asked, work));
        }
        Ok(())
    }

    fn letter_wish(&self, wish: &Wish) -> LetterWish {
        match wish {
            Wish::Requeue { cart } => LetterWish::Requeue { cart: cart.map(|user| self.key.user(&user)) },
            Wish::Discard { by, reason } => {
                LetterWish::Discard { by: by.as_str().into(), reason: reason.as_str().into() }
            }
        }
    }

    /// Has Redis forget carts that the database has changed by itself; one of which something waits, later.
    fn forget_carts(&mut self, connection: &mut Connection) -> Result<(), Break> {
        let mut later = Vec::new();
        while let Some(buyer) = self.moved.last() {
            let answer = connection.call("forget_cart", &[buyer.as_bytes()])?;
            let is_done = matches!(answer.first(), Some(redis::Value::Int(1)));
            later.extend(self.moved.pop().filter(|_| !is_done));
        }
        self.moved = later;
        Ok(())
    }

    /// These buyers' operations are retired.
    pub(super) fn retired(&mut self, buyers: Vec<UserId>) {
        self.settled.extend(buyers);
    }

    /// Lets carts expire that nobody uses.
    pub(super) fn settle_carts(&mut self, connection: &mut Connection) -> Result<(), Break> {
        if !self.carts.is_due() && self.settled.len() < limits::WORK_CARTS_MAX {
            return Ok(());
        }
        self.forget_carts(connection)?;
        self.settled.sort_unstable();
        self.settled.dedup();
        let millis = limits::WORK_CART_MILLIS.to_string();
        while !self.settled.is_empty() {
            let from = self.settled.len().saturating_sub(limits::WORK_CARTS_MAX);
            let mut args = vec![millis.as_bytes()];
            args.extend(self.settled[from..].iter().map(UserId::as_bytes));
            connection.call("settle_carts", &args)?;
            self.settled.truncate(from);
        }
        Ok(())
    }
}
