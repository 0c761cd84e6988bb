//! A front-end thread's side of the buffer: it submits, and hands outcomes to the requests that wait for them.
//!
//! Submitting transfers ownership: a future that is dropped loses the reply, never the claim. One slot a waiting request
//! in a slab of this thread's own, so that an outcome costs no allocation and no wake across threads; the sequencer is
//! rung once for all that gathers while the thread is busy taking more.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::command::{Command, Outcome};
use super::sequencer::{Submission, Ticket};
use super::{Mailbox, Shared};
use crate::limits;
use crate::sale::{ClaimId, UserId};

/// The longest that commands gather.
const GATHER: Duration = Duration::from_micros(limits::GATHER_MICROS);

/// Why a command was not taken. Nothing was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// More come than are decided, the queue to the sequencer is full, or this thread waits for as many outcomes as it may.
    #[error("too many commands wait for the sequencer")]
    Overloaded,
    /// Durability can't be given any more.
    #[error("nothing can be made durable any more")]
    NotDurable,
}

/// What a request gets to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What was decided, durably.
    Decided(Outcome),
    /// Not decided, or not known durable, within the deadline. The command goes on.
    Late,
}

#[derive(Debug)]
enum Slot {
    Free,
    Waiting {
        waker: Option<Waker>,
        since: Instant,
        claim: Option<(ClaimId, UserId)>,
    },
    Done(Outcome),
    /// The deadline has passed and the request has not taken note yet; the outcome may have arrived since.
    Late {
        claim: Option<(ClaimId, UserId)>,
        arrived: bool,
    },
    /// Nobody waits any more; the outcome is still to come.
    Abandoned {
        claim: Option<(ClaimId, UserId)>,
    },
}

/// One thread's side.
pub struct Front {
    no: u16,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox<(Ticket, Outcome)>>,
    slots: RefCell<Vec<(u32, Slot)>>,
    free: RefCell<Vec<u32>>,
    /// Commands submitted since the sequencer was rung.
    unrung: Cell<usize>,
    /// When the first of them was.
    round: Cell<Instant>,
    waker: RefCell<Option<Waker>>,
}

impl Front {
    pub(super) fn new(no: u16, shared: Arc<Shared>) -> Rc<Self> {
        let mailbox = shared.mailboxes[no as usize].clone();
        Rc::new(Self {
            no,
            shared,
            mailbox,
            slots: RefCell::default(),
            free: RefCell::default(),
            unrung: Cell::new(0),
            round: Cell::new(crate::clock::tick()),
            waker: RefCell::default(),
        })
    }

    /// Submits a command. From here on it is the buffer's, whatever becomes of the caller.
    ///
    /// # Errors
    /// [`SubmitError`]: it was not taken.
    pub fn submit(self: &Rc<Self>, command: Command) -> Result<Waiting, SubmitError> {
        if self.shared.published.fenced.load(Ordering::Relaxed) {
            return Err(SubmitError::NotDurable);
        }
        let (claim, may_wait) = match &command {
            Command::Claim(claim) => (Some((claim.claim_id, claim.user)), false),
            Command::Cart(_) => (None, false),
            // Who pays, gives back, operates or asks what became of a claim is not turned away for those who want one.
            Command::Move(_) | Command::Admin(_) | Command::Look(_) => (None, true),
        };
        if !may_wait && !self.shared.overload.admits(|| self.shared.queue.len()) {
            return Err(SubmitError::Overloaded);
        }
        let unrung = self.unrung.get();
        if unrung == 0 {
            // One look at the clock for all that gathers: it was ready at about the same time.
            self.round.set(crate::clock::tick());
        }
        let slot = self.take_slot().ok_or(SubmitError::Overloaded)?;
        let mut slots = self.slots.borrow_mut();
        let generation = slots[slot as usize].0;
        let ticket = Ticket { front: self.no, slot, generation };
        if self.shared.queue.push(Submission { ticket, command }).is_err() {
            self.free.borrow_mut().push(slot);
            return Err(SubmitError::Overloaded);
        }
        slots[slot as usize].1 = Slot::Waiting { waker: None, since: self.round.get(), claim };
        drop(slots);
        self.unrung.set(unrung + 1);
        if unrung == 0
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
        Ok(Waiting { front: self.clone(), slot, finished: false })
    }

    fn take_slot(&self) -> Option<u32> {
        if let Some(slot) = self.free.borrow_mut().pop() {
            return Some(slot);
        }
        let mut slots = self.slots.borrow_mut();
        if slots.len() >= limits::QUEUE_MAX {
            return None;
        }
        slots.push((0, Slot::Free));
        Some(slots.len() as u32 - 1)
    }

    fn give_back(&self, slots: &mut [(u32, Slot)], slot: u32) {
        let place = &mut slots[slot as usize];
        *place = (place.0.wrapping_add(1), Slot::Free);
        self.free.borrow_mut().push(slot);
    }

    /// The request goes; its slot stays until the outcome has arrived.
    fn leave(&self, slots: &mut [(u32, Slot)], slot: u32) {
        let place = &mut slots[slot as usize].1;
        match place {
            Slot::Waiting { claim, .. } | Slot::Late { claim, arrived: false } => {
                *place = Slot::Abandoned { claim: *claim };
            }
            _ => self.give_back(slots, slot),
        }
    }

    /// Commands whose outcome is not known yet.
    pub fn in_flight(&self) -> usize {
        self.slots.borrow().len() - self.free.borrow().len()
    }

    /// Rings the sequencer and delivers outcomes, for ever. Spawn it once on this thread.
    ///
    /// A sync costs the same whatever it covers, so commands gather as long as each round of the scheduler, its look for
    /// new input included, brings more of them, but at most for [`limits::GATHER_MICROS`]. A thread with time to spare
    /// rings after one fruitless look.
    pub async fn run(self: Rc<Self>) {
        let mut mail = Vec::new();
        loop {
            let gathered = self.until_submitted(&mut mail).await;
            // Woken again only after the runtime has looked for new input.
            tokio::task::yield_now().await;
            if self.unrung.get() == gathered || self.round.get().elapsed() >= GATHER {
                self.unrung.set(0);
                self.shared.bell.ring();
            }
        }
    }

    /// Delivers outcomes until there are commands that the sequencer was not rung for; gives their number.
    async fn until_submitted(&self, mail: &mut Vec<(Ticket, Outcome)>) -> usize {
        std::future::poll_fn(|cx| {
            if self.waker.borrow().as_ref().is_none_or(|w| !w.will_wake(cx.waker())) {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
            }
            while self.mailbox.poll_take(cx, mail).is_ready() {
                self.open(mail);
            }
            match self.unrung.get() {
                0 => Poll::Pending,
                gathered => Poll::Ready(gathered),
            }
        })
        .await
    }

    fn open(&self, mail: &mut Vec<(Ticket, Outcome)>) {
        let now = crate::clock::tick();
        let mut slots = self.slots.borrow_mut();
        for (ticket, outcome) in mail.drain(..) {
            let (generation, slot) = &mut slots[ticket.slot as usize];
            assert_eq!(*generation, ticket.generation, "an outcome for a slot that was given back");
            match slot {
                Slot::Waiting { waker, since, claim } => {
                    self.shared.published.metrics.ack.observe_time(now.saturating_duration_since(*since));
                    if let (Outcome::Unknown, Some((id, user))) = (&outcome, &claim) {
                        self.shared.unknowns.add(*id, *user);
                    }
                    let waker = waker.take();
                    *slot = Slot::Done(outcome);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                Slot::Late { claim, arrived } => {
                    self.resolve(claim, &outcome);
                    *arrived = true;
                }
                Slot::Abandoned { claim } => {
                    self.resolve(claim, &outcome);
                    self.give_back(&mut slots, ticket.slot);
                }
                Slot::Free | Slot::Done(_) => unreachable!("one outcome a submission"),
            }
        }
    }

    fn resolve(&self, claim: &Option<(ClaimId, UserId)>, outcome: &Outcome) {
        if let Some((id, _)) = claim {
            self.shared.unknowns.resolve(*id, outcome);
        }
    }

    /// Answers what has waited longer than the deadline: late. Call it a few times a second.
    pub fn sweep(&self) {
        let (now, deadline) = (crate::clock::tick(), self.shared.ack_deadline);
        for (_, slot) in self.slots.borrow_mut().iter_mut() {
            if let Slot::Waiting { waker, since, claim } = slot
                && now.saturating_duration_since(*since) >= deadline
            {
                if let Some((id, user)) = claim {
                    self.shared.unknowns.add(*id, *user);
                }
                let (waker, claim) = (waker.take(), *claim);
                *slot = Slot::Late { claim, arrived: false };
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }
}

/// Waits for an outcome. Dropping it loses the reply only.
pub struct Waiting {
    front: Rc<Front>,
    slot: u32,
    finished: bool,
}

impl Future for Waiting {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let front = self.front.clone();
        let mut slots = front.slots.borrow_mut();
        let slot = &mut slots[self.slot as usize].1;
        match slot {
            Slot::Waiting { waker, .. } => {
                if waker.as_ref().is_none_or(|w| !w.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Slot::Done(_) => {
                let Slot::Done(outcome) = std::mem::replace(slot, Slot::Free) else { unreachable!() };
                self.finished = true;
                front.give_back(&mut slots, self.slot);
                Poll::Ready(Answer::Decided(outcome))
            }
            Slot::Late { .. } => {
                self.finished = true;
                front.leave(&mut slots, self.slot);
                Poll::Ready(Answer::Late)
            }
            Slot::Free | Slot::Abandoned { .. } => unreachable!("polled after it was finished"),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.front.leave(&mut self.front.slots.borrow_mut(), self.slot);
    }
}
