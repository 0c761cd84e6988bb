//! What operators want done with dead letters, done by the drain between two batches.
//!
//! After a letter has become a row the ledger's sums are the database's: no batch is under way then whose rows the database
//! counts and the ledger does not yet.

use super::drain::{Drain, balances};
use crate::plant::{self, Bug};
use crate::queue::Published;
use crate::queue::letters::{LetterDone, LetterWish};
use crate::sale::UserHash;
use crate::store::{Dealt, Store, StoreError};

/// Does what is asked, one wish a call, unless a batch is under way.
pub async fn serve<S: Store>(drain: &mut Drain<S>) {
    if !drain.is_between_batches() {
        return;
    }
    sum_up(drain).await;
    let Some(asked) = drain.published().letters.next() else { return };
    let done = match &asked.wish {
        LetterWish::Requeue { cart } => {
            let done = requeue(drain, asked.id, *cart).await;
            // After an error, too: it may have been committed all the same.
            let heard = done.is_ok() || plant::on(Bug::LostRequeue);
            drain.unsummed |= matches!(done, Ok(Dealt::Done)) || !heard;
            done
        }
        LetterWish::Discard { by, reason } => {
            drain.uncounted = true;
            drain.store().discard(asked.id, by, reason).await
        }
    };
    // Before the answer: whoever has it may ask for the balance.
    sum_up(drain).await;
    asked.answer(answer(done));
}

fn answer(done: Result<Dealt, StoreError>) -> LetterDone {
    match done {
        Ok(Dealt::Done) => LetterDone::Done,
        Ok(Dealt::Refused(why)) => LetterDone::Refused(why),
        Ok(Dealt::Closed(end)) => LetterDone::Closed(end.as_str()),
        Ok(Dealt::Unknown) => LetterDone::Unknown,
        Err(error) => {
            tracing::warn!(%error, "a dead letter could not be dealt with");
            LetterDone::Unavailable
        }
    }
}

async fn requeue<S: Store>(drain: &Drain<S>, id: u64, cart: Option<UserHash>) -> Result<Dealt, StoreError> {
    let done = drain.store().requeue(id).await;
    // An error may be a commit. A cart in memory, or the word that there is none, would outlive the row that it lacks, and the
    // buyer's next click on the line would overwrite it.
    let is_there = matches!(done, Ok(Dealt::Done) | Err(_));
    if let Some(buyer) = cart.filter(|_| is_there) {
        drain.published().cart_moved(buyer);
    }
    done
}

/// Answers those who wait while the database can't be used.
pub fn turn_away(published: &Published) {
    while let Some(asked) = published.letters.next() {
        asked.answer(LetterDone::Unavailable);
    }
}

/// Has the ledger take the database's sums, if they have changed; later, where the database can't be asked now.
async fn sum_up<S: Store>(drain: &mut Drain<S>) {
    if !drain.unsummed {
        return;
    }
    let Ok(totals) = drain.store().totals().await else { return };
    let pending = &drain.published().pending;
    pending.retire_to(pending.retired(), &balances(&totals));
    (drain.unsummed, drain.uncounted) = (false, true);
}
