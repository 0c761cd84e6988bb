//! What operators want done with dead letters, on its way to the drain.
//!
//! Only the drain changes the database and tells the ledger of it; were a letter written back by anybody else, the sums of
//! the two could be read at different moments and never agree again. So a wish waits here until the drain is between two
//! batches.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::limits;
use crate::sale::UserHash;

/// What is to be done with a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterWish {
    /// Write it as its row. Where it is of a cart, `cart` is that cart's buyer: what is in memory of the cart does not have it.
    Requeue { cart: Option<UserHash> },
    /// Close it. Not for a claim's: its units come back by the claim's end.
    Discard { by: Box<str>, reason: Box<str> },
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterDone {
    /// What was asked.
    Done,
    /// The tables still won't take it, in the database's words.
    Refused(String),
    /// It was dealt with before, in this word; nothing was done now.
    Closed(&'static str),
    /// There is no letter of that number.
    Unknown,
    /// The database can't be used now.
    Unavailable,
}

/// A wish and who waits for it.
#[derive(Debug)]
pub struct LetterAsked {
    /// The letter's number.
    pub id: u64,
    /// What is to be done with it.
    pub wish: LetterWish,
    answer: oneshot::Sender<LetterDone>,
}

impl LetterAsked {
    /// Answers whoever waits.
    pub fn answer(self, done: LetterDone) {
        // Whoever asked may have gone; what was done stays done.
        let _ = self.answer.send(done);
    }
}

/// The wishes.
#[derive(Debug, Default)]
pub struct Letters(Mutex<VecDeque<LetterAsked>>);

impl Letters {
    /// Asks, and waits until the drain has done it; [`LetterDone::Unavailable`] where it does not come to it in
    /// [`limits::LETTER_PATIENCE_MILLIS`]. What it had begun by then it finishes.
    pub async fn ask(&self, id: u64, wish: LetterWish) -> LetterDone {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain(|asked| !asked.answer.is_closed());
            if waiting.len() >= limits::LETTER_WISHES_MAX {
                return LetterDone::Unavailable;
            }
            waiting.push_back(LetterAsked { id, wish, answer });
        }
        let patience = Duration::from_millis(limits::LETTER_PATIENCE_MILLIS);
        let answered = tokio::time::timeout(patience, answered).await;
        answered.ok().and_then(Result::ok).unwrap_or(LetterDone::Unavailable)
    }

    /// The next wish that somebody still waits for.
    pub fn next(&self) -> Option<LetterAsked> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|asked| !asked.answer.is_closed());
        waiting.pop_front()
    }
}
