//! What every SQL store makes of a batch before it touches a table. Pure: rows sorted by what is to be done with them, ends
//! folded into the claims that are in the same batch, and the words for ends that contradict their claims.

use std::collections::{BTreeMap, BTreeSet};

use super::{CampaignRow, CartRow, ClaimRow, DeadRow, EndRow, Row, StoreError};
use crate::sale::ClaimId;

/// A batch, sorted by what is to be done with it.
#[derive(Default)]
pub(super) struct Work<'a> {
    pub(super) claims: Vec<&'a ClaimRow>,
    pub(super) ends: Vec<&'a EndRow>,
    pub(super) carts: Vec<&'a CartRow>,
    pub(super) log: Vec<&'a CampaignRow>,
    pub(super) dead: Vec<(&'a Row, &'a str)>,
    /// Each claim is looked up before it is inserted: some are there already.
    pub(super) looked_up: bool,
}

impl<'a> Work<'a> {
    pub(super) fn new(rows: &'a [Row], dead: &'a [DeadRow]) -> Self {
        let reasons: BTreeMap<usize, &str> = dead.iter().map(|d| (d.index, d.reason.as_str())).collect();
        assert!(reasons.last_key_value().is_none_or(|(&last, _)| last < rows.len()), "a dead row outside its batch");
        let mut work = Self::default();
        for (index, row) in rows.iter().enumerate() {
            match (reasons.get(&index), row) {
                // Nothing of it is written, so nothing of it can be refused either.
                (_, Row::Void(_)) => {}
                (Some(&reason), _) => work.dead.push((row, reason)),
                (None, Row::Claim(claim)) => work.claims.push(claim),
                (None, Row::End(end)) => work.ends.push(end),
                (None, Row::Cart(cart)) => work.carts.push(cart),
                (None, Row::Campaign(campaign)) => work.log.push(campaign),
            }
        }
        work
    }
}

/// Who writes: the journal, as 32 hexadecimal digits, and the number of its start.
pub(super) struct Owner {
    pub(super) journal: String,
    pub(super) epoch: i64,
}

impl Owner {
    /// What it means that the cursor did not move: the database belongs to `theirs`, stands at `cursor`, and the start of
    /// number `epoch` was the last to take it. Otherwise the batch is there already.
    pub(super) fn judge(&self, start: (&str, i64), cursor: i64, (after, upto): (i64, i64)) -> Result<(), StoreError> {
        self.judge_start(start, cursor)?;
        if cursor >= upto {
            return Ok(());
        }
        Err(StoreError::Fenced(format!(
            "the database stands at entry {cursor}, the batch goes from {after} to {upto}: someone else moved it, or it was \
             restored from a backup"
        )))
    }

    /// Whether the database still belongs to this start.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where it belongs to `theirs`, or start number `epoch` has it.
    pub(super) fn judge_start(&self, (theirs, epoch): (&str, i64), cursor: i64) -> Result<(), StoreError> {
        if theirs != self.journal {
            let text = format!("the database belongs to journal {theirs}, this one is {}", self.journal);
            return Err(StoreError::Fenced(text));
        }
        if epoch < self.epoch {
            return Err(StoreError::Fenced(format!(
                "the database was put back from a copy while this process ran: it stands at entry {cursor}, before the start \
                 of number {}. Stop, and run `forebay recover`",
                self.epoch
            )));
        }
        if epoch == self.epoch { Ok(()) } else { Err(self.overtaken(epoch)) }
    }

    /// The start of number `epoch` has come after this one.
    pub(super) fn overtaken(&self, epoch: i64) -> StoreError {
        let ours = self.epoch;
        StoreError::Fenced(format!(
            "another process has taken the database over (its start is number {epoch}, this one's {ours}): two run on one \
             database, and this one, the older, writes no more. Stop one of them; claims that only this one's journal has \
             are not in the database"
        ))
    }
}

/// The database has lost its binding.
pub(super) fn unbound() -> StoreError {
    StoreError::Outage("it is bound to no journal: was it replaced by an empty one?".to_owned())
}

/// A batch's claims with what became of them within it.
pub(super) struct Folded<'a> {
    /// Claims that are held.
    pub(super) held: Vec<&'a ClaimRow>,
    /// Claims that came to their end in this batch.
    pub(super) ended: Vec<(&'a ClaimRow, &'a EndRow)>,
    /// What goes to the dead letters, why, and of a claim what became of it.
    pub(super) dead: Vec<(&'a Row, &'a str, Option<&'a EndRow>)>,
    /// Ends of claims that an earlier batch brought.
    pub(super) older: Vec<&'a EndRow>,
}

impl<'a> Folded<'a> {
    /// Folds the ends of `work` into the claims that are to be written now.
    ///
    /// # Errors
    /// [`StoreError::Row`] for an end that contradicts its claim, or the end before it.
    pub(super) fn of(work: &Work<'a>) -> Result<Self, StoreError> {
        let dead = work.dead.iter().map(|(row, reason)| (*row, *reason, None)).collect();
        let mut folded = Self { held: Vec::new(), ended: Vec::new(), dead, older: Vec::new() };
        if work.ends.is_empty() {
            folded.held.clone_from(&work.claims);
            return Ok(folded);
        }
        let mut ends: BTreeMap<ClaimId, &'a EndRow> = BTreeMap::new();
        for end in &work.ends {
            ends.entry(end.moved.claim_id).or_insert(end);
        }
        let mut here = BTreeSet::new();
        for row in &work.claims {
            match ends.get(&row.claim.claim_id) {
                Some(end) => {
                    check(row, end)?;
                    here.insert(row.claim.claim_id);
                    folded.ended.push((row, end));
                }
                None => folded.held.push(row),
            }
        }
        for (row, _, ended) in &mut folded.dead {
            if let Row::Claim(row) = row
                && let Some(end) = ends.get(&row.claim.claim_id)
            {
                check(row, end)?;
                here.insert(row.claim.claim_id);
                *ended = Some(end);
            }
        }
        for end in &work.ends {
            let id = end.moved.claim_id;
            if !here.contains(&id) {
                folded.older.push(end);
            } else if ends[&id].moved.to != end.moved.to {
                return Err(contradicts(end, ends[&id].moved.to.status().as_str()));
            }
        }
        Ok(folded)
    }
}

/// What an end of an older claim changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    /// A row that was neither paid nor given back.
    Row,
    /// A claim in the dead letters, likewise.
    Letter,
    /// Nothing: it was there already.
    Nothing,
}

/// Whether an end is of this claim.
pub(super) fn check(row: &ClaimRow, end: &EndRow) -> Result<(), StoreError> {
    let (claim, moved) = (&row.claim, &end.moved);
    let same = (claim.campaign, claim.quantity, claim.amount) == (moved.campaign, moved.quantity, moved.amount);
    if same { Ok(()) } else { Err(differs(end)) }
}

pub(super) fn differs(end: &EndRow) -> StoreError {
    let (id, seq) = (end.moved.claim_id, end.seq);
    StoreError::Row(format!("entry {seq} ends claim {id} with another campaign, quantity or amount than it has"))
}

pub(super) fn contradicts(end: &EndRow, status: &str) -> StoreError {
    let (id, seq, to) = (end.moved.claim_id, end.seq, end.moved.to.status().as_str());
    StoreError::Row(format!("claim {id} is {status}, entry {seq} says {to}"))
}
