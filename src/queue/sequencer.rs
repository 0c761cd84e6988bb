//! The single writer: receive, decide, append, sync, publish, answer.
//!
//! Nothing leaves before the sync that covers the state it was decided on: not an acceptance, and not a refusal that
//! would reveal one. After one failed write or sync nothing is acknowledged any more (fail stop): what was in that batch
//! is unknown, because its bytes may survive; all that comes later is not durable.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::book::{AdminVerdict, Book, Verdict};
use super::codec::{self, FrameContext};
use super::command::{AdminCommand, AdminRefusal, Command, Outcome, Refusal};
use super::index::ColdPages;
use super::journal::disk::Disk;
use super::journal::{FrameBuffer, FrameMeta, JournalError, Room, Writer};
use super::pending::{Pending, StockNow};
use super::views::Views;
use crate::limits;
use crate::metrics::Metrics;
use crate::plant::{self, Bug};
use crate::sale::{CampaignNo, Durability, Entry, Seq, Timestamp, UserHash};

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

/// What the sequencer publishes to, and the front end reads.
#[derive(Debug)]
pub struct Published {
    /// The campaigns.
    pub views: Views,
    /// The waiting entries.
    pub pending: Pending,
    /// Whether durability can't be given any more.
    pub fenced: AtomicBool,
    /// Tables made in mid-sale, whose pages the janitor has the system give before the claims come.
    pub cold: Mutex<Vec<ColdPages>>,
    /// The journal's disk has no room but the reserve.
    pub disk_full: AtomicBool,
    /// Numbers.
    pub metrics: Arc<Metrics>,
}

impl Published {
    /// Nothing published yet but the entries that recovery found waiting.
    pub fn new(pending: Pending) -> Self {
        Self {
            views: Views::default(),
            pending,
            fenced: AtomicBool::new(false),
            cold: Mutex::default(),
            disk_full: AtomicBool::new(false),
            metrics: Arc::default(),
        }
    }
}

/// How the sequencer is set up.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What acceptances promise.
    pub durability: Durability,
    /// Entries that may wait for the database.
    pub max_entries: u64,
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
    touched: Vec<CampaignNo>,
    changed: Vec<CampaignNo>,
    entered: u32,
    failed: bool,
    marked: bool,
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
            touched: Vec::new(),
            changed: Vec::new(),
            entered: 0,
            failed: false,
            marked: true,
        }
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
        for submission in batch.drain(..) {
            let outcome = match submission.command {
                _ if self.failed => not_durable(&submission.command),
                Command::Claim(claim) => self.claim(now, room, &claim),
                Command::Admin(command) => self.admin(now, room, &command),
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
            Command::Admin(_) => None,
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
                codec::encode(self.frame.body_mut(), &event);
                let no = match &event {
                    crate::sale::Event::Created(created) => created.no,
                    crate::sale::Event::Changed(changed) => changed.no,
                    crate::sale::Event::Claimed(claim) => claim.campaign,
                };
                self.book.apply(&Entry { seq: self.book.next_seq(), at: now, event });
                self.entered += 1;
                self.touch_campaign(no);
                self.changed.push(no);
                Ok(done)
            }
        };
        Outcome::Admin(Box::new(done))
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
                Outcome::Admin(_) => Outcome::Unknown,
                _ => Outcome::Refused(Refusal::NotDurable),
            };
        }
    }
}

fn not_durable(command: &Command) -> Outcome {
    match command {
        Command::Claim(_) => Outcome::Refused(Refusal::NotDurable),
        Command::Admin(_) => Outcome::Admin(Box::new(Err(AdminRefusal::NotDurable))),
    }
}

fn context(first_seq: Seq, at: Timestamp, durability: Durability) -> FrameContext {
    FrameContext { first_seq, at, durability }
}

fn stock_now(book: &Book, no: CampaignNo) -> StockNow {
    let campaign = &book.campaigns()[no.0 as usize];
    let (stock, free) = (campaign.spec.stock, campaign.free);
    let (total, left) = campaign.money();
    StockNow { no, stock, free, total, left }
}
