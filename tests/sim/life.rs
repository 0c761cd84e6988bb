//! The life of one process: from its start on what the last one left, to its death.

use std::future::Future;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use forebay::queue::journal::{Janitor, JournalError, OpenError};
use forebay::queue::recover::{self, RecoverError, ReplayError, Start};
use forebay::queue::{Published, Sequencer, Settings};
use forebay::sale::{Durability, Seq, Units};
use forebay::store::Store;
use forebay::workers::{Drain, Step, letters};

use crate::clicks::OWNERS;
use crate::convert;
use crate::database::SimDb;
use crate::disk::{End, SimDisk};
use crate::operators::Asking;
use crate::record::{Tally, Trace};
use crate::sweeps::Clocks;
use crate::world::World;

/// Bytes that the book's tables may take: more than any plan asks for.
pub const MEMORY_MAX: u64 = 1 << 32;

/// What the drain has said.
#[derive(Debug, Default)]
struct Said {
    bound: bool,
    steps: Vec<Step>,
}

pub struct Life {
    pub sequencer: Sequencer<SimDisk>,
    pub janitor: Janitor<SimDisk>,
    pub published: Arc<Published>,
    /// What operators wait for.
    pub askings: Vec<Asking>,
    drain: Pin<Box<dyn Future<Output = ()>>>,
    said: Arc<Mutex<Said>>,
}

/// Pending once: the world has its turn.
struct Turn(bool);

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The future's value where it has one at once.
pub fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

async fn run_drain(mut drain: Drain<SimDb>, published: Arc<Published>, journal: u128, said: Arc<Mutex<Said>>) {
    let say = |step: Step| {
        if matches!(step, Step::Backoff { .. }) {
            letters::turn_away(&published);
        }
        said.lock().unwrap_or_else(PoisonError::into_inner).steps.push(step);
    };
    loop {
        match drain.bind(journal).await {
            Step::Idle => break,
            step => say(step),
        }
        Turn(false).await;
    }
    said.lock().unwrap_or_else(PoisonError::into_inner).bound = true;
    loop {
        letters::serve(&mut drain).await;
        say(drain.step().await);
        Turn(false).await;
    }
}

impl Life {
    /// Whether the drain has taken over what the database knows.
    pub fn is_bound(&self) -> bool {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).bound
    }

    /// Polls the drain once.
    pub fn poll_drain(&mut self, trace: &mut Trace, tally: &mut Tally) {
        let _ = self.drain.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        for step in std::mem::take(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner).steps) {
            trace.line(|| format!("  drain {step:?}"));
            match step {
                Step::Fenced { error } => panic!("P1: the drain is fenced: {error}"),
                Step::Wrote { dead, .. } => {
                    tally.one("batches drained");
                    tally.add("dead letters", dead as u64);
                }
                Step::Backoff { .. } => tally.one("drain attempts that failed"),
                Step::Idle => {}
            }
        }
    }
}

impl World {
    /// Ends the process so.
    pub fn end(&mut self, end: End) {
        self.life = None;
        self.trace.line(|| format!("  the process ends: {end:?}"));
        self.disk = self.disk.end(end);
    }

    /// Starts processes until one stands.
    pub fn boot(&mut self) {
        for attempt in 0.. {
            assert!(attempt < 20, "P6: it never starts again");
            if attempt >= 3 {
                self.disk.heal();
            }
            if attempt < 3 && self.faulty && self.rng.percent(12) {
                let changes = self.rng.below(12);
                self.disk.crash_in(changes);
            }
            let Err(error) = self.try_boot() else { break };
            self.trace.line(|| format!("  no start: {error}"));
            if self.disk.killed() {
                self.tally.one("crashes inside a recovery");
                let end = *self.rng.pick(&[End::Kill, End::PowerCut, End::PowerCutLosingAll]);
                let end = if self.disk.take_imaged() { self.image } else { end };
                self.end(end);
                continue;
            }
            self.refused(&error);
            // A refused start has changed nothing that counts, but it may have written.
            self.end(End::Kill);
        }
        self.tally.one("recoveries");
        self.settle_doubt();
        self.verify_recovered();
    }

    /// Whether a start may be refused so, and what the operator does about it.
    fn refused(&mut self, error: &RecoverError) {
        match error {
            RecoverError::Journal(OpenError::Visitor(ReplayError::Snapshot(e)))
                if e.kind() == ErrorKind::InvalidData =>
            {
                panic!("P1: {error}")
            }
            RecoverError::Journal(
                OpenError::Journal(JournalError::Io { .. }) | OpenError::Visitor(ReplayError::Snapshot(_)),
            ) => {
                let fired = self.disk.strikes();
                assert!(fired > self.io_excused, "P6: {error}, and the disk is well");
                self.io_excused = fired;
                self.tally.one("starts refused: EIO or ENOSPC");
            }
            RecoverError::Journal(OpenError::Journal(JournalError::Damaged { file, .. })) => {
                let (flips, named) = self.disk.unflip(file);
                assert!(flips > 0, "P1: {error}, and no bit was flipped");
                assert!(named || flips > 1 || file.ends_with(".seg"), "P1: {error}, and another file was hit");
                self.tally.one("flips found");
            }
            RecoverError::Journal(OpenError::Journal(JournalError::Newer { .. } | JournalError::Foreign { .. })) => {
                panic!("P1: a flipped bit is told as something else: {error}")
            }
            error => panic!("P1: {error}"),
        }
    }

    fn try_boot(&mut self) -> Result<(), RecoverError> {
        let fresh = convert::identity(self.seed);
        let known = recover::identity(&self.disk).map_err(OpenError::Journal)?;
        // The database may be away; what it has is then learnt later.
        let cursor = match known {
            Some(_) if self.rng.percent(15) => None,
            Some(identity) => now_or_never(self.db.bind(identity.journal)).and_then(Result::ok).map(|p| p.cursor),
            None => Some(Seq(0)),
        };
        let (options, memory_max) = (self.options.clone(), MEMORY_MAX);
        let start = Start { options, memory_max, cursor, known: Seq(0), progress: &mut |_, _| {} };
        let live = recover::recover(self.disk.clone(), known.unwrap_or(fresh), start)?;
        let journal = live.journal;
        let report = &journal.report;
        self.trace.line(|| format!("  starts with {cursor:?}, {report:?}"));
        self.tally.add("recoveries without the database", u64::from(cursor.is_none()));
        self.tally.add("torn tails cut", u64::from(report.torn_bytes > 0));
        self.tally.add("recoveries from a snapshot", u64::from(report.snapshot.is_some()));
        let published = Arc::new(Published::new(live.pending));
        (self.seen.last_seq, self.seen.last_time) = (journal.last_seq.0, journal.last_time.0);
        self.seen.cursor_known = cursor.is_some();
        self.seen.report = *report;
        self.seen.marked = false;
        let settings = Settings {
            durability: Durability::Disk,
            max_entries: self.max_entries,
            settle_grace: self.grace,
            release_after: self.release_after,
        };
        let sequencer = Sequencer::new(live.book, journal.writer, published.clone(), settings);
        let sequencer = sequencer.expire_at_most(self.portion);
        (self.clocks, self.hands) = (Clocks::default(), self.hands.next());
        published.cart_owners.begin(Units(OWNERS));
        let batch_max = self.rng.within(self.batches.0, self.batches.1) as usize;
        let drain = Drain::new(self.store(), published.clone(), batch_max, self.seed);
        let said = Arc::new(Mutex::new(Said::default()));
        let drain = Box::pin(run_drain(drain, published.clone(), journal.identity.journal, said.clone()));
        let askings = Vec::new();
        self.life = Some(Life { sequencer, janitor: journal.janitor, published, askings, drain, said });
        Ok(())
    }
}
