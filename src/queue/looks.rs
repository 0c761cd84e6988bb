//! Reads of what waits: in this process's memory, or, where many gates share a buffer, through the same lanes as commands.
//!
//! Both see what was acknowledged before they began: memory is published before an answer leaves, and Redis does one call
//! after the other.

use std::rc::Rc;

use super::command::{Command, Look, Looked, Outcome};
use super::front::{Answer, Front};
use super::ledger::Balance;
use super::letters::{LetterDone, LetterWish};
use super::pending::{End, Waiting};
use super::redis::wishes::{self, Wish};
use super::{Buffer, CampaignView};
use crate::sale::{CampaignNo, Carted, ClaimId, Entry, Event, Seq, Sku, UserHash, UserId};

/// Nobody can look at what waits now. What the database has can still be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what waits for the database can't be looked at now")]
pub struct Away;

/// What waits of a cart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CartNow {
    /// Operations to lay over what the database has, oldest first.
    Over(Vec<(Seq, Carted)>),
    /// The cart: the position of its last operation, and its lines in no order.
    Whole(Seq, Vec<(Sku, u32)>),
}

impl Buffer {
    /// What waits for the database of a claim.
    ///
    /// # Errors
    /// [`Away`], of a shared buffer only.
    pub async fn find(&self, front: &Rc<Front>, id: ClaimId) -> Result<Waiting, Away> {
        if self.gate().is_none() {
            return Ok(self.pending().find(id));
        }
        let entries = self.entries_of(front, id.tag()).await?;
        Ok(waiting(entries, |entry| match &entry.event {
            Event::Claimed(claim) => claim.claim_id == id,
            Event::Moved(moved) => moved.claim_id == id,
            _ => false,
        }))
    }

    /// What waits for the database of a buyer's claims, oldest first.
    ///
    /// # Errors
    /// [`Away`], of a shared buffer only.
    pub async fn claims_of(&self, front: &Rc<Front>, user: &UserId, hash: UserHash) -> Result<Waiting, Away> {
        if self.gate().is_some() {
            let entries = self.entries_of(front, hash.tag()).await?;
            // An end names no buyer; it is laid over claims of its own id only.
            return Ok(waiting(entries, |entry| match &entry.event {
                Event::Claimed(claim) => claim.user == *user,
                Event::Moved(_) => true,
                _ => false,
            }));
        }
        Ok(self.own_claims_of(user, hash))
    }

    /// What waits in this process's memory of a buyer's claims, oldest first.
    pub fn own_claims_of(&self, user: &UserId, hash: UserHash) -> Waiting {
        // The search holds the lock that the sequencer needs for a moment: whoever holds nothing does not start it.
        // The filters of this process know nobody whose claim came to its end, or was of an earlier day, before it began.
        let all_known = self.retired() >= self.0.published.recovered;
        let may_hold = |view: &std::sync::Arc<CampaignView>| view.may_hold(hash);
        if all_known && !self.campaigns().all().iter().any(may_hold) {
            return Waiting::default();
        }
        self.pending().of(user, hash)
    }

    /// What waits for the database of a buyer's cart.
    ///
    /// # Errors
    /// [`Away`], of a shared buffer only.
    pub async fn cart_of(&self, front: &Rc<Front>, user: &UserId, hash: UserHash) -> Result<CartNow, Away> {
        if self.gate().is_none() {
            let may_have = self.may_have_cart(hash);
            return Ok(CartNow::Over(if may_have { self.pending().of(user, hash).carts } else { Vec::new() }));
        }
        match self.look(front, Look::Cart(*user)).await? {
            Looked::Cart(Some((version, lines))) => Ok(CartNow::Whole(version, lines)),
            Looked::Cart(None) => Ok(CartNow::Over(Vec::new())),
            _ => Err(Away),
        }
    }

    /// A campaign's balance, read whole.
    ///
    /// # Errors
    /// [`Away`], of a shared buffer only.
    pub async fn balance(&self, front: &Rc<Front>, no: CampaignNo) -> Result<Balance, Away> {
        if self.gate().is_none() {
            return Ok(self.pending().balance(no));
        }
        match self.look(front, Look::Balance(no)).await? {
            Looked::Balance(balance) => Ok(*balance),
            _ => Err(Away),
        }
    }

    /// Has a dead letter dealt with, by the worker at work, and waits for that as long as [`crate::limits::LETTER_PATIENCE_MILLIS`].
    pub async fn deal_with(&self, letter: u64, wish: Wish) -> LetterDone {
        let Some(gate) = self.gate() else {
            let wish = match wish {
                Wish::Requeue { cart } => LetterWish::Requeue { cart: cart.map(|buyer| self.hash_key().user(&buyer)) },
                Wish::Discard { by, reason } => LetterWish::Discard { by: by.into(), reason: reason.into() },
            };
            return self.letters().ask(letter, wish).await;
        };
        let server = gate.server().clone();
        let asked = tokio::task::spawn_blocking(move || wishes::ask(&mut server.connect()?, letter, &wish)).await;
        match asked {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                tracing::warn!(%error, letter, "what is to be done with a dead letter could not be asked of a worker");
                LetterDone::Unavailable
            }
            Err(_) => LetterDone::Unavailable,
        }
    }

    /// A campaign's balance without a wait: of a shared buffer as it was some seconds ago, none before it was read first.
    pub fn known_balance(&self, no: CampaignNo) -> Option<Balance> {
        match self.gate() {
            Some(gate) => gate.balance(no),
            None => Some(self.pending().balance(no)),
        }
    }

    async fn entries_of(&self, front: &Rc<Front>, tag: [u8; 6]) -> Result<Vec<Entry>, Away> {
        match self.look(front, Look::Waiting(tag)).await? {
            Looked::Waiting(entries) => Ok(entries),
            _ => Err(Away),
        }
    }

    async fn look(&self, front: &Rc<Front>, look: Look) -> Result<Looked, Away> {
        match front.submit(Command::Look(look)).map_err(|_| Away)?.await {
            Answer::Decided(Outcome::Looked(looked)) => Ok(looked),
            _ => Err(Away),
        }
    }
}

/// What is wanted of `entries`, sorted by what it is.
fn waiting(entries: Vec<Entry>, is_wanted: impl Fn(&Entry) -> bool) -> Waiting {
    let mut found = Waiting::default();
    for entry in entries.into_iter().filter(is_wanted) {
        match entry.event {
            Event::Claimed(claim) => found.claims.push(claim),
            Event::Moved(moved) => found.ends.push(End { seq: entry.seq, moved }),
            _ => {}
        }
    }
    found
}
