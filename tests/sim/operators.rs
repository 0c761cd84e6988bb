//! Operators and dead letters: what they ask of the drain, what they are told, and what must have come of it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use forebay::queue::letters::{LetterDone, LetterWish};
use forebay::store::{DeadLetter, LetterEnd, Row, Store};
use tokio::runtime::{Builder, Runtime};

use crate::database::Fault;
use crate::letters::ailment;
use crate::life::now_or_never;
use crate::model::{Fate, What};
use crate::plan::Asked;
use crate::world::World;

/// What an operator does about a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Has it written as its row.
    Requeue,
    /// Gives it up: a claim's by the claim's end.
    Drop,
    /// Has it closed, whatever it is.
    Discard,
    /// Mends what was wrong with it.
    Mend,
    /// Waits no longer for any answer.
    Leave,
}

/// A wish that waits for its answer.
pub struct Asking {
    letter: u64,
    requeue: bool,
    answer: Pin<Box<dyn Future<Output = LetterDone>>>,
}

thread_local! {
    /// Asking has a deadline, which needs a runtime's clock; nobody ever drives it, so the deadline never comes.
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

impl Asking {
    fn poll(&mut self) -> Poll<LetterDone> {
        RUNTIME.with(|runtime| {
            let _inside = runtime.enter();
            self.answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
    }
}

impl World {
    /// An operator does something about a letter.
    pub fn operate(&mut self, deed: Deed) {
        if deed == Deed::Leave {
            self.life.iter_mut().for_each(|life| life.askings.clear());
            return;
        }
        let Some(Ok(letters)) = now_or_never(self.db.dead_letters(0, 100)) else { return };
        if letters.is_empty() {
            return;
        }
        let letter = self.rng.pick(&letters).clone();
        match deed {
            // One that is closed, or of which nobody has heard.
            Deed::Requeue | Deed::Discard if self.rng.percent(5) => {
                let id = 1 + self.rng.below(letter.id + 5);
                self.ask_for(id, deed == Deed::Requeue);
            }
            Deed::Requeue => self.ask_for(letter.id, true),
            Deed::Discard => self.ask_for(letter.id, false),
            Deed::Drop => self.drop_letter(&letter),
            Deed::Mend => {
                if let Some(ailment) = self.db.letter(letter.id).and_then(|letter| ailment(&letter.row)) {
                    self.db.mend(ailment);
                    self.tally.one("letters mended");
                    if self.rng.percent(70) {
                        self.ask_for(letter.id, true);
                    }
                }
            }
            Deed::Leave => {}
        }
    }

    fn drop_letter(&mut self, letter: &DeadLetter) {
        if letter.kind != "claim" {
            return self.ask_for(letter.id, false);
        }
        let Some(What::Held(held)) = self.model.facts.get(letter.seq.0 as usize - 1).map(|fact| &fact.what) else {
            panic!("P5: a letter of a claim that nobody made: {letter:?}");
        };
        let (ask, held_yet) = (held.ask.clone(), held.end.is_none());
        self.submit(vec![Asked::End(ask, Fate::Cancelled)]);
        let ended = self.model.held(letter.seq.0).is_some_and(|held| held.end.is_some());
        self.tally.add("letters dropped by the claim's end", u64::from(held_yet && ended));
    }

    /// Asks the drain for a letter to be requeued, or else discarded.
    pub fn ask_for(&mut self, letter: u64, requeue: bool) {
        // The front end looks first whose letter it is.
        let Some(found) = self.db.letter(letter) else { return self.tally.one("letters unknown") };
        let cart = if let Row::Cart(row) = found.row { Some(self.key.user(&row.user)) } else { None };
        let Some(life) = &mut self.life else { return };
        let published = life.published.clone();
        let discard = LetterWish::Discard { by: "ann".into(), reason: "a test".into() };
        let wish = if requeue { LetterWish::Requeue { cart } } else { discard };
        let answer = Box::pin(async move { published.letters.ask(letter, wish).await });
        let mut asking = Asking { letter, requeue, answer };
        match asking.poll() {
            Poll::Pending => life.askings.push(asking),
            Poll::Ready(done) => assert_eq!(done, LetterDone::Unavailable, "P5: done before it was asked"),
        }
    }

    /// Operators hear what came of their wishes.
    pub fn hear(&mut self) {
        let Some(life) = &mut self.life else { return };
        let mut answers = Vec::new();
        life.askings.retain_mut(|asking| match asking.poll() {
            Poll::Pending => true,
            Poll::Ready(done) => {
                answers.push((asking.letter, asking.requeue, done));
                false
            }
        });
        for (letter, requeue, done) in answers {
            self.heard(letter, requeue, &done);
        }
    }

    fn heard(&mut self, id: u64, requeue: bool, done: &LetterDone) {
        self.trace.line(|| format!("  letter {id}, requeue {requeue}: {done:?}"));
        let letter = self.db.letter(id);
        let is_open = letter.as_ref().is_some_and(|letter| letter.closed.is_none());
        let is_claim = letter.as_ref().is_some_and(|letter| ailment(&letter.row).is_some_and(|a| !a.contains('/')));
        match done {
            LetterDone::Done => {
                assert!(letter.is_some() && !is_open, "P1: letter {id} is done, and open");
                assert!(requeue || !is_claim, "P6: a claim's letter was discarded with its units");
                self.tally.one(match (requeue, self.faulty) {
                    (true, true) => "letters requeued",
                    (false, true) => "letters discarded",
                    (_, false) => "letters dealt with at the end",
                });
            }
            LetterDone::Refused(why) => {
                let letter = letter.unwrap_or_else(|| panic!("P5: letter {id}, which nobody wrote, is refused: {why}"));
                let mended = self.db.takes(&letter.row);
                assert!(requeue && (!mended || !is_claim), "P1: letter {id}, which is mended, is refused: {why}");
                self.tally.one("letters refused");
            }
            LetterDone::Closed(how) => {
                let closed = letter.and_then(|letter| letter.closed).map(LetterEnd::as_str);
                assert_eq!(closed, Some(*how), "P5: how letter {id} was dealt with");
                self.tally.one("letters dealt with before");
            }
            LetterDone::Unknown => {
                // A claim's is not discarded; its end may have closed it meanwhile.
                let is_right = letter.is_none() || (!requeue && is_claim);
                assert!(is_right, "P1: letter {id} is there, and unknown");
                self.tally.one("letters unknown");
            }
            LetterDone::Unavailable => self.tally.one("letters: the database is away"),
        }
    }

    /// At the end everything is mended and written again, and each claim that is held is a row.
    pub fn requeue_all(&mut self) {
        self.db.mend_all();
        // A last reply is lost.
        self.db.arm(if self.rng.percent(50) { Fault::ReplyLostAfter } else { Fault::GoneAfter(2) });
        for _ in 0..200 {
            let Some(Ok(letters)) = now_or_never(self.db.dead_letters(0, 1_000)) else { continue };
            if letters.is_empty() {
                return;
            }
            for letter in letters.iter().take(30) {
                // A cart that has gone on keeps what it has.
                let requeue = letter.kind == "claim" || self.rng.percent(70);
                self.ask_for(letter.id, requeue);
            }
            self.drain(40);
            self.check();
        }
        panic!("P1: dead letters that are mended are never requeued");
    }
}
