//! Dead letters in the simulated database: rows that it would not take, and what operators have it do with them.

use std::collections::{BTreeMap, BTreeSet};

use forebay::sale::{ClaimId, Seq};
use forebay::store::{ClaimRow, DeadLetter, Dealt, LetterEnd, Row, StoreError};

use crate::database::{Inner, Place, place_of};
use crate::lines;

/// Whoever or whatever begins so is refused.
pub fn is_poison(name: &str) -> bool {
    name.starts_with("poison")
}

/// What must be mended before a row is taken; none where nothing need be.
pub fn ailment(row: &Row) -> Option<String> {
    match row {
        Row::Claim(row) => is_poison(row.claim.user.as_str()).then(|| row.claim.user.to_string()),
        Row::Cart(row) => is_poison(row.sku.as_str()).then(|| format!("{}/{}", row.user, row.sku)),
        Row::End(_) | Row::Campaign(_) | Row::Void(_) => None,
    }
}

/// A row that was refused.
#[derive(Debug, Clone)]
pub struct Letter {
    pub row: Row,
    /// How it was dealt with; none while it is open.
    pub closed: Option<LetterEnd>,
}

/// Something that happened to the carts, in its order.
#[derive(Debug, Clone, Copy)]
pub enum News {
    /// A batch is in, up to this entry.
    Landed(u64),
    /// The letter of this number is a row now.
    Requeued(u64),
}

/// All letters, by their numbers, which begin with 1.
#[derive(Debug, Default)]
pub struct Letters {
    all: Vec<Letter>,
    by_claim: BTreeMap<ClaimId, usize>,
    mended: BTreeSet<String>,
}

impl Letters {
    pub fn mend(&mut self, ailment: String) {
        self.mended.insert(ailment);
    }

    /// Mends everything that was ever refused.
    pub fn mend_all(&mut self) {
        self.mended.extend(self.all.iter().filter_map(|letter| ailment(&letter.row)));
    }

    pub fn is_mended(&self, ailment: &str) -> bool {
        self.mended.contains(ailment)
    }

    /// Whether a row is refused, and why.
    pub fn check(&self, row: &Row) -> Result<(), StoreError> {
        match ailment(row).filter(|ailment| !self.mended.contains(ailment)) {
            Some(ailment) => Err(StoreError::Row(format!("{ailment} is poison (injected)"))),
            None => Ok(()),
        }
    }

    pub fn add(&mut self, row: &Row) {
        if let Row::Claim(row) = row {
            self.by_claim.insert(row.claim.claim_id, self.all.len());
        }
        self.all.push(Letter { row: row.clone(), closed: None });
    }

    pub fn from(&self, from: usize) -> Vec<Letter> {
        self.all[from..].to_vec()
    }

    pub fn get(&self, id: u64) -> Option<&Letter> {
        self.all.get((id as usize).checked_sub(1)?)
    }

    fn take(&mut self, id: u64) -> Option<&mut Letter> {
        self.all.get_mut((id as usize).checked_sub(1)?).filter(|letter| letter.closed.is_none())
    }

    /// Whether a claim has a letter, open or not.
    pub fn has(&self, id: ClaimId) -> bool {
        self.by_claim.contains_key(&id)
    }

    /// A claim's open letter.
    pub fn of_claim(&mut self, id: ClaimId) -> Option<&mut Letter> {
        let at = *self.by_claim.get(&id)?;
        Some(&mut self.all[at]).filter(|letter| letter.closed.is_none())
    }

    /// The claim in the letter, open or not.
    pub fn claim(&self, id: ClaimId) -> Option<&ClaimRow> {
        match &self.all[*self.by_claim.get(&id)?].row {
            Row::Claim(row) => Some(row),
            _ => None,
        }
    }

    /// The claims of open letters.
    pub fn open_claims(&self) -> impl Iterator<Item = &ClaimRow> {
        self.all.iter().filter(|letter| letter.closed.is_none()).filter_map(|letter| match &letter.row {
            Row::Claim(row) => Some(row),
            _ => None,
        })
    }

    pub fn open_count(&self) -> u64 {
        self.all.iter().filter(|letter| letter.closed.is_none()).count() as u64
    }

    /// The open letters behind `after`, as an operator sees them.
    pub fn list(&self, after: u64, limit: u32) -> Vec<DeadLetter> {
        let all = (1..).zip(&self.all).skip(after as usize).filter(|(_, letter)| letter.closed.is_none());
        all.take(limit as usize).map(|(id, letter)| shown(id, &letter.row)).collect()
    }
}

fn shown(id: u64, row: &Row) -> DeadLetter {
    let claim = if let Row::Claim(row) = row { Some(row) } else { None };
    let (kind, at, user) = match row {
        Row::Claim(row) => ("claim", row.claim.accepted_at, Some(row.claim.user)),
        Row::Cart(row) => ("cart", row.at, Some(row.user)),
        Row::End(_) | Row::Campaign(_) | Row::Void(_) => unreachable!("never refused here"),
    };
    DeadLetter {
        id,
        seq: row.seq(),
        kind: kind.to_owned(),
        claim_id: claim.map(|row| row.claim.claim_id),
        campaign: claim.map(|row| row.campaign),
        user,
        quantity: claim.map(|row| row.claim.quantity),
        amount: claim.and_then(|row| row.claim.amount),
        at,
        reason: "poison (injected)".to_owned(),
        payload: String::new(),
    }
}

impl Inner {
    /// Writes a letter's row, where it is taken now.
    pub fn requeue(&mut self, id: u64) -> Dealt {
        let closed = self.closed(id);
        let Some(letter) = self.letters.take(id) else { return closed.map_or(Dealt::Unknown, Dealt::Closed) };
        let row = letter.row.clone();
        let refused = self.letters.check(&row).and_then(|()| self.fits(&row)).err();
        if let Some(error) = refused {
            return Dealt::Refused(error.to_string());
        }
        match &row {
            Row::Claim(row) => {
                let to = self.fate_of(row.claim.claim_id);
                self.insert(row);
                self.count(row, Place::Dead, -1);
                self.count(row, place_of(to), 1);
            }
            Row::Cart(row) => lines::set(&mut self.carts, row),
            Row::End(_) | Row::Campaign(_) | Row::Void(_) => unreachable!("never refused here"),
        }
        if let Some(letter) = self.letters.take(id) {
            letter.closed = Some(LetterEnd::Requeued);
        }
        self.news.push(News::Requeued(id));
        Dealt::Done
    }

    /// Whether a row goes with what has come since.
    fn fits(&self, row: &Row) -> Result<(), StoreError> {
        match row {
            Row::Claim(row) => self.check_hold(row, &|_| false),
            Row::Cart(row) => {
                let stands = self.carts.get(&row.user).map_or(Seq(0), |cart| cart.version);
                let text = format!("the cart of {} has gone on to entry {stands}", row.user);
                if stands > row.seq { Err(StoreError::Row(text)) } else { Ok(()) }
            }
            Row::End(_) | Row::Campaign(_) | Row::Void(_) => Ok(()),
        }
    }

    /// Closes a letter that holds no units.
    pub fn discard(&mut self, id: u64) -> Dealt {
        let closed = self.closed(id);
        let open = self.letters.take(id).filter(|letter| matches!(letter.row, Row::Cart(_)));
        match open.map(|letter| letter.closed = Some(LetterEnd::Dropped)) {
            Some(()) => Dealt::Done,
            None => closed.map_or(Dealt::Unknown, Dealt::Closed),
        }
    }

    /// How a letter was dealt with, if it was.
    pub fn closed(&self, id: u64) -> Option<LetterEnd> {
        self.letters.get(id)?.closed
    }
}
