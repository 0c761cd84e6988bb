//! What operators want done with dead letters, done by the drain between two batches.
//!
//! After a letter has become a row the ledger's sums are the database's: no batch is under way then whose rows the database
//! counts and the ledger does not yet.

use super::drain::{Drain, balances};
use crate::queue::Published;
use crate::queue::letters::{LetterDone, LetterWish};
use crate::store::{Requeued, Store, StoreError};

/// Does what is asked, one wish a call, unless a batch is under way.
pub async fn serve<S: Store>(drain: &mut Drain<S>) {
    if !drain.is_between_batches() {
        return;
    }
    sum_up(drain).await;
    let Some(asked) = drain.published().letters.next() else { return };
    let done = match &asked.wish {
        LetterWish::Requeue => match drain.store().requeue(asked.id).await {
            Ok(Requeued::Done) => {
                drain.unsummed = true;
                Ok(LetterDone::Done)
            }
            Ok(Requeued::Refused(why)) => Ok(LetterDone::Refused(why)),
            Ok(Requeued::Unknown) => Ok(LetterDone::Unknown),
            Err(error) => {
                // It may have been committed all the same.
                drain.unsummed = true;
                Err(error)
            }
        },
        LetterWish::Discard { by, reason } => drain.store().discard(asked.id, by, reason).await.map(|was_open| {
            drain.uncounted = true;
            if was_open { LetterDone::Done } else { LetterDone::Unknown }
        }),
    };
    // Before the answer: whoever has it may ask for the balance.
    sum_up(drain).await;
    asked.answer(done.unwrap_or_else(|error: StoreError| {
        tracing::warn!(%error, "a dead letter could not be dealt with");
        LetterDone::Unavailable
    }));
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
