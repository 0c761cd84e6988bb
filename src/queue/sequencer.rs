//! The single writer: receive, decide, append, sync, publish, answer.
//!
//! Nothing leaves before the sync that covers the state it was decided on: not an acceptance, and not a refusal that
//! would reveal one. After one failed write or sync nothing is acknowledged any more (fail stop): what was in that batch
//! is unknown, because its bytes may survive; all that comes later is not durable.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::book::{AdminVerdict, Book, Verdict};
use super::carts::{CartBase, CartVerdict};
use super::codec::{self, FrameContext};
use super::command::{
    AdminCommand, AdminRefusal, CartCommand, CartOutcome, Command, Looked, MoveCommand, MoveDone, MoveRefusal, Outcome,
    Refusal,
};
use super::journal::disk::Disk;
use super::journal::{FrameBuffer, FrameMeta, JournalError, Room, Writer};
use super::pending::StockNow;
pub use super::published::Published;
use super::sweep::{Look, Sweep};
use crate::limits;
use crate::plant::{self, Bug};
use crate::sale::{CampaignNo, Carted, Durability, Entry, Event, Moved, Seq, Timestamp, UserHash};

/// Who waits for an outcome: a front end, a place in it, and how often that place was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The front end's number.
    pub front: u16,
    /// The place.
    pub slot: u32,
    /// Its use.
    pub generation: u32,
}

/// A command and who waits for its outcome.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Who waits.
    pub ticket: Ticket,
    /// What is asked.
    pub command: Command,
}

/// How the sequencer is set up.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What acceptances promise.
    pub durability: Durability,
    /// Entries that may wait for the database.
    pub max_entries: u64,
    /// For how long after its time a claim may still be settled, in microseconds.
    pub settle_grace: i64,
    /// How long after its end a campaign leaves memory, in microseconds.
    pub release_after: i64,
}

/// Takes the answers of a batch.
pub trait Replies {
    /// Hands over all of `answers`, which is empty afterwards.
    fn deliver(&mut self, answers: &mut Vec<(Ticket, Outcome)>);
}

/// The single writer.
pub struct Sequencer<D: Disk> {
    book: Book,
    writer: Writer<D>,
    published: Arc<Published>,
    settings: Settings,
    frame: FrameBuffer,
    answers: Vec<(Ticket, Outcome)>,
    holders: Vec<(CampaignNo, UserHash)>,
    /// Whose carts were changed.
    buyers: Vec<UserHash>,
    touched: Vec<CampaignNo>,
    changed: Vec<CampaignNo>,
    entered: u32,
    failed: bool,
    marked: bool,
    sweep: Sweep,
    /// Up to when the next step lets claims expire: the time of the last look at the clocks that found no leap. A clock that
    /// leaps between that look and the step, or while many steps work off what is due, must not bring anything about.
    sweeping: Option<Timestamp>,
    /// Claims that one step lets expire.
    expire_max: usize,
}

impl<D: Disk> Sequencer<D> {
    /// A sequencer on a recovered book and journal; publishes the campaigns.
    pub fn new(book: Book, writer: Writer<D>, published: Arc<Published>, settings: Settings) -> Self {
        published.views.publish_all(&book);
        let all: Vec<_> = (0..book.campaigns().len()).map(|no| stock_now(&book, CampaignNo(no as u32))).collect();
        published.pending.publish(&[], 0, &context(Seq(0), Timestamp(0), settings.durability), &all);
        Self {
            book,
            writer,
            published,
            settings,
            frame: FrameBuffer::new(),
            answers: Vec::with_capacity(limits::SEQUENCER_BATCH_MAX),
            holders: Vec::with_capacity(limits::SEQUENCER_BATCH_MAX),
            buyers: Vec::new(),
            touched: Vec::new(),
            changed: Vec::new(),
            entered: 0,
            failed: false,
            marked: true,
            sweep: Sweep::default(),
            sweeping: None,
            expire_max: limits::EXPIRE_MAX,
        }
    }

    /// Lets at most so many claims expire in one step, instead of [`limits::EXPIRE_MAX`].
    pub fn expire_at_most(mut self, claims: usize) -> Self {
        self.expire_max = claims;
        self
    }

    /// The book.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Whether a write or a sync has failed.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Decides a batch, makes it durable, publishes and answers it. `batch` is empty afterwards; at most
    /// [`limits::SEQUENCER_BATCH_MAX`] submissions.
    pub fn step(&mut self, now: Timestamp, batch: &mut Vec<Submission>, replies: &mut impl Replies) {
        // The journal's time is monotone: a clock that is set back stands still here until it has caught up. The last
        // frame's time, not the last entry's: a mark may be later than any entry.
        let now = self.journal_time(now);
        let first = self.book.next_seq();
        let room = self.writer.room();
        self.published.disk_full.store(room != Room::Plenty, Ordering::Relaxed);
        self.touch(batch);
        self.published.take_moved_carts().into_iter().for_each(|buyer| self.book.forget_cart(buyer));
        if let Some(upto) = self.sweeping.take().filter(|_| !self.failed && room == Room::Plenty) {
            self.expire(now, upto);
            self.release(now, upto);
        }
        for submission in batch.drain(..) {
            let outcome = match submission.command {
                _ if self.failed => submission.command.not_durable(),
                Command::Claim(claim) => self.claim(now, room, &claim),
                Command::Cart(command) => Outcome::Cart(self.cart(now, room, &command)),
                Command::Move(command) => Outcome::Moved(self.end(now, room, &command)),
                Command::Admin(command) => self.admin(now, room, &command),
                // What waits here is read where it is.
                Command::Look(_) => Outcome::Looked(Looked::Away),
            };
            self.answers.push((submission.ticket, outcome));
        }
        if plant::on(Bug::AckBeforeSync) {
            self.publish(first, now);
            replies.deliver(&mut self.answers);
        }
        if plant::on(Bug::EarlyAlreadyClaimed) {
            let early = |(_, o): &mut (Ticket, Outcome)| matches!(o, Outcome::Refused(Refusal::AlreadyClaimed(_)));
            replies.deliver(&mut self.answers.extract_if(.., early).collect());
        }
        if self.entered > 0 {
            // Acknowledge after durable: an answer that leaves before its sync is a lie that a power cut tells.
            match self.commit(first, now) {
                Ok(()) => self.publish(first, now),
                Err(error) => self.fail(&error),
            }
        }
        replies.deliver(&mut self.answers);
        self.frame.clear();
        self.holders.clear();
        self.buyers.clear();
        self.touched.clear();
        self.changed.clear();
        self.entered = 0;
    }

    /// Writes a mark, so that damage to the last entries is told from a torn write. For when there is nothing to do;
    /// does nothing if the last frame is a mark already.
    pub fn mark(&mut self, now: Timestamp) {
        // While the disk is full the front end refuses on the spot, so that no batch comes that could notice that there is
        // room again.
        self.published.disk_full.store(self.writer.room() != Room::Plenty, Ordering::Relaxed);
        if self.marked || self.failed || self.writer.room() == Room::Full {
            return;
        }
        let now = self.journal_time(now);
        self.frame.clear();
        let written = self.write(self.book.next_seq(), 0, now, true);
        self.frame.clear();
        match written {
            Ok(()) => self.marked = true,
            Err(error) => self.fail(&error),
        }
    }

    /// Reads ahead what the decisions need: independent reads overlap, so that the batch waits for memory once.
    fn touch(&self, batch: &[Submission]) {
        let claims = batch.iter().filter_map(|s| match &s.command {
            Command::Claim(claim) => Some(self.book.touch(claim)),
            Command::Cart(_) | Command::Move(_) | Command::Admin(_) | Command::Look(_) => None,
        });
        std::hint::black_box(claims.fold(0, u64::wrapping_add));
    }

    fn claim(&mut self, now: Timestamp, room: Room, command: &super::command::ClaimCommand) -> Outcome {
        match self.book.decide(now, self.settings.durability, command) {
            Verdict::Refuse(refusal) => Outcome::Refused(refusal),
            Verdict::Replay(replay) => Outcome::Replayed(replay),
            Verdict::Accept(_) if room != Room::Plenty || self.is_full() => Outcome::Refused(Refusal::BufferFull),
            Verdict::Accept(claim) => {
                codec::encode_claim(self.frame.body_mut(), &claim);
                self.book.apply_claim(&claim, command.user_hash);
                self.entered += 1;
                self.holders.push((claim.campaign, command.user_hash));
                self.touch_campaign(claim.campaign);
                if self.book.has_garbage() && !self.changed.contains(&claim.campaign) {
                    // A new local day has begun, with tables of its own.
                    self.changed.push(claim.campaign);
                }
                Outcome::Accepted { seq: claim.seq, at: now, amount: claim.amount }
            }
        }
    }

    fn admin(&mut self, now: Timestamp, room: Room, command: &AdminCommand) -> Outcome {
        let done = match self.book.decide_admin(command) {
            Ok(AdminVerdict::Done(done)) => Ok(done),
            Err(refusal) => Err(refusal),
            Ok(AdminVerdict::Enter(..)) if room == Room::Full || self.frame_is_full() => Err(AdminRefusal::BufferFull),
            Ok(AdminVerdict::Enter(event, done)) => {
                let no = match &*event {
                    Event::Created(created) => created.no,
                    Event::Changed(changed) => changed.no,
                    Event::Released(no) => *no,
                    Event::Moved(moved) => moved.campaign,
                    Event::Claimed(claim) => claim.campaign,
                    Event::Carted(_) | Event::Void => unreachable!("no operator's wish"),
                };
                self.enter(now, no, *event);
                self.changed.push(no);
                Ok(done)
            }
        };
        Outcome::Admin(Box::new(done))
    }

    fn cart(&mut self, now: Timestamp, room: Room, command: &CartCommand) -> CartOutcome {
        // The front end's word that there is no cart may be older than the buyer's first one.
        let is_stale = command.base == CartBase::Empty && self.published.cart_owners.may_have(command.user_hash);
        let base = if is_stale { &CartBase::Unknown } else { &command.base };
        let quantity = match self.book.decide_cart(now, command, base) {
            CartVerdict::Load(number) => return CartOutcome::Load(number),
            CartVerdict::Replay(seq) => return CartOutcome::Replayed(seq),
            CartVerdict::KeyReused => return CartOutcome::KeyReused,
            CartVerdict::Full => return CartOutcome::Full,
            CartVerdict::KeysFull => return CartOutcome::BufferFull,
            CartVerdict::Accept(_) if room != Room::Plenty || self.is_full() => return CartOutcome::BufferFull,
            CartVerdict::Accept(quantity) => quantity,
        };
        let (user, sku, op, key) = (command.user, command.sku, command.op, command.key);
        let carted = Carted { user, sku, op, quantity, key, address: command.user_hash.address() };
        codec::encode_carted(self.frame.body_mut(), &carted);
        let seq = self.book.next_seq();
        self.book.apply(&Entry { seq, at: now, event: Event::Carted(carted) });
        self.entered += 1;
        self.buyers.push(command.user_hash);
        CartOutcome::Done(seq)
    }

    fn end(&mut self, now: Timestamp, room: Room, command: &MoveCommand) -> Result<MoveDone, MoveRefusal> {
        match self.book.decide_move(command)? {
            None => Ok(MoveDone::Repeated),
            // As many ends as claims can wait at most, so the number of waiting entries does not bound them: a payment is
            // not turned away because the database is slow.
            Some(_) if room != Room::Plenty || self.frame_is_full() => Err(MoveRefusal::BufferFull),
            Some(moved) => {
                self.move_claim(now, moved);
                Ok(MoveDone::Moved)
            }
        }
    }

    fn move_claim(&mut self, now: Timestamp, moved: Moved) {
        self.enter(now, moved.campaign, Event::Moved(moved));
    }

    /// Enters an event that was decided: into the frame, and into the book.
    fn enter(&mut self, now: Timestamp, no: CampaignNo, event: Event) {
        codec::encode(self.frame.body_mut(), &event);
        self.book.apply(&Entry { seq: self.book.next_seq(), at: now, event });
        self.entered += 1;
        self.touch_campaign(no);
    }

    /// Lets claims expire that were not settled in time, which is `upto`; the rest of them in the next step.
    fn expire(&mut self, now: Timestamp, upto: Timestamp) {
        let due = upto.plus_micros(-self.settings.settle_grace);
        let mut from = 0;
        for _ in 0..self.expire_max {
            if self.frame_is_full() {
                break;
            }
            let Some(moved) = self.book.next_expiry(due, &mut from) else { return };
            self.move_claim(now, moved);
        }
        self.sweeping = Some(upto);
    }

    /// Has a campaign that was long over at `upto` leave memory.
    fn release(&mut self, now: Timestamp, upto: Timestamp) {
        let places = self.sweep.turn(self.book.campaigns().len());
        let retired = self.published.pending.retired();
        if let Some(no) = self.book.next_release(places, upto, self.settings.release_after, retired) {
            self.enter(now, no, Event::Released(no));
            self.changed.push(no);
        }
    }

    /// Looks at the clocks, the wall's and microseconds of one that only runs forward: whether there is something to do
    /// without a submission.
    pub fn tick(&mut self, wall: Timestamp, steady: i64) -> bool {
        match self.sweep.look(wall, steady) {
            Look::NotYet => {}
            // Behind the journal's time the clock was set back, or a leap forward was written down before.
            Look::Due if wall < self.writer.last_time() => {}
            Look::Due => {
                self.published.metrics.clock_leapt.set(0);
                self.sweeping = Some(wall);
            }
            Look::Leapt(by) => {
                let seconds = by.unsigned_abs() / 1_000_000;
                if self.published.metrics.clock_leapt.get() == 0 {
                    tracing::error!(
                        seconds = by / 1_000_000,
                        "the wall clock has leapt: no reservation expires until it is set back or the node is restarted"
                    );
                }
                self.published.metrics.clock_leapt.set(seconds);
            }
        }
        self.is_sweeping()
    }

    /// Whether more is due than one step could take.
    pub fn is_sweeping(&self) -> bool {
        self.sweeping.is_some()
    }

    /// Whether claims must be settled in time, so that [`Self::tick`] has something to find often.
    pub fn is_expiring(&self) -> bool {
        self.book.has_expiring()
    }

    fn is_full(&self) -> bool {
        let waiting = self.published.pending.entries() + u64::from(self.entered);
        waiting >= self.settings.max_entries || self.frame_is_full()
    }

    fn frame_is_full(&self) -> bool {
        self.frame.body().len() + limits::ENTRY_MAX > limits::FRAME_MAX
    }

    fn touch_campaign(&mut self, no: CampaignNo) {
        if !self.touched.contains(&no) {
            self.touched.push(no);
        }
    }

    /// The journal's time is monotone: a clock that is set back stands still here until it has caught up, and until then
    /// windows are judged by a time that is not the clock's. That must not be silent.
    fn journal_time(&self, clock: Timestamp) -> Timestamp {
        let last = self.writer.last_time();
        let behind = (last.0 - clock.0).max(0) as u64 / 1_000_000;
        let before = self.published.metrics.clock_behind.get();
        self.published.metrics.clock_behind.set(behind);
        if behind > 0 && before == 0 {
            tracing::error!(
                seconds = behind,
                "the clock is behind the journal's time, by which windows are judged now"
            );
        }
        clock.max(last)
    }

    fn commit(&mut self, first: Seq, now: Timestamp) -> Result<(), JournalError> {
        self.write(first, self.entered, now, false)?;
        self.marked = false;
        self.published.metrics.commit_entries.observe(self.entered.into());
        Ok(())
    }

    fn write(&mut self, first_seq: Seq, count: u32, at: Timestamp, mark: bool) -> Result<(), JournalError> {
        let durability = self.settings.durability;
        self.published.metrics.journal_bytes.add(self.frame.body().len() as u64);
        self.writer.append(&mut self.frame, FrameMeta { first_seq, count, at, durability, mark })?;
        if durability == Durability::Disk {
            let start = crate::clock::tick();
            self.writer.sync()?;
            self.published.metrics.journal_sync.observe_time(start.elapsed());
        }
        Ok(())
    }

    fn publish(&mut self, first: Seq, now: Timestamp) {
        if self.entered == 0 {
            return;
        }
        let context = context(first, now, self.settings.durability);
        let book = &self.book;
        let stock: Vec<_> = self.touched.iter().map(|&no| stock_now(book, no)).collect();
        self.published.pending.publish(self.frame.body(), self.entered, &context, &stock);
        let mut views = self.published.views.load();
        if views.all().len() < book.campaigns().len() {
            self.published.views.add_from(book, views.all().len());
            views = self.published.views.load();
        }
        self.buyers.iter().for_each(|&user| self.published.cart_owners.insert(user));
        for &no in &self.touched {
            if let (Some(view), Some(campaign)) = (views.number(no), book.campaign(no)) {
                view.keep_filter(campaign);
            }
        }
        for &(no, user) in &self.holders {
            if let Some(view) = views.number(no) {
                view.add_holder(user);
            }
        }
        for &no in &self.touched {
            if let (Some(view), Some(campaign)) = (views.number(no), book.campaign(no)) {
                view.update(campaign);
            }
        }
        if !self.changed.is_empty() {
            self.hand_over_cold_pages();
        }
        if self.book.has_garbage() || self.book.carts.has_garbage() {
            let garbage = self.book.take_garbage();
            self.published.garbage.lock().unwrap_or_else(PoisonError::into_inner).push(garbage);
        }
    }

    fn hand_over_cold_pages(&self) {
        let views = self.published.views.load();
        let mut cold = self.published.cold.lock().unwrap_or_else(PoisonError::into_inner);
        for &no in &self.changed {
            cold.extend(self.book.campaign(no).into_iter().flat_map(super::book::Campaign::cold_pages));
            cold.extend(views.number(no).and_then(|view| view.cold_pages()));
        }
    }

    fn fail(&mut self, error: &JournalError) {
        self.failed = true;
        self.published.fenced.store(true, Ordering::SeqCst);
        self.published.metrics.fenced.set(1);
        tracing::error!(%error, "the journal failed: nothing is acknowledged any more until a restart has recovered it");
        for (_, outcome) in &mut self.answers {
            // What was entered may survive, so it is unknown; whatever else was decided on that state reveals it.
            *outcome = match outcome {
                Outcome::Accepted { .. } => Outcome::Unknown,
                Outcome::Admin(_) | Outcome::Moved(Ok(MoveDone::Moved)) => Outcome::Unknown,
                Outcome::Moved(_) => Outcome::Moved(Err(MoveRefusal::NotDurable)),
                Outcome::Cart(CartOutcome::Done(_)) => Outcome::Unknown,
                Outcome::Cart(_) => Outcome::Cart(CartOutcome::NotDurable),
                _ => Outcome::Refused(Refusal::NotDurable),
            };
        }
    }
}

fn context(first_seq: Seq, at: Timestamp, durability: Durability) -> FrameContext {
    FrameContext { first_seq, at, durability }
}

fn stock_now(book: &Book, no: CampaignNo) -> StockNow {
    let campaign = &book.campaigns()[no.0 as usize];
    let ((stock, free), (total, left)) = (campaign.units(), campaign.money());
    StockNow { no, stock, free, total, left }
}
