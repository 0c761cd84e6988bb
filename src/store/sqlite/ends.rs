//! Ends of claims: those of claims in the same batch are folded into them, the others change what is there already.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Row as _, SqliteConnection};

use super::super::{ClaimRow, EndRow, Row, StoreError};
use super::error::before;
use super::letters;
use super::write::Work;
use crate::sale::ClaimId;

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

/// Writes the end of a claim that is a row, or in the dead letters. Only a row that is neither paid nor given back moves, so
/// that an end that comes again changes nothing.
pub(super) async fn apply(sql: &mut SqliteConnection, end: &EndRow) -> Result<Took, StoreError> {
    let text = "UPDATE claims SET status = ?1, hold = CASE WHEN ?2 THEN NULL ELSE hold END, ended_seq = ?3, \
                ended_at = ?4, ended_by = ?5 WHERE claim_id = ?6 AND status = 'persisted' AND campaign_no = ?7 \
                AND quantity = ?8 AND amount IS ?9";
    let moved = &end.moved;
    let done = sqlx::query(text)
        .bind(moved.to.status().as_str())
        .bind(moved.to.returns_units())
        .bind(end.seq.0 as i64)
        .bind(end.at.to_string())
        .bind(moved.by.to_string())
        .bind(moved.claim_id.to_string())
        .bind(i64::from(moved.campaign.0))
        .bind(moved.quantity.0 as i64)
        .bind(moved.amount.map(|m| m.0))
        .execute(&mut *sql)
        .await
        .map_err(before)?;
    if done.rows_affected() == 1 {
        return Ok(Took::Row);
    }
    let text = "SELECT status, campaign_no IS ? AND quantity IS ? AND amount IS ? FROM claims WHERE claim_id = ?";
    let found = sqlx::query(text)
        .bind(i64::from(moved.campaign.0))
        .bind(moved.quantity.0 as i64)
        .bind(moved.amount.map(|m| m.0))
        .bind(moved.claim_id.to_string())
        .fetch_optional(&mut *sql)
        .await
        .map_err(before)?;
    let Some(found) = found else { return letters::end(sql, end).await };
    let (status, same): (String, bool) = (found.get(0), found.get(1));
    match same {
        true if status == moved.to.status().as_str() => Ok(Took::Nothing),
        true => Err(contradicts(end, &status)),
        false => Err(differs(end)),
    }
}

/// Whether an end is of this claim.
pub(super) fn check(row: &ClaimRow, end: &EndRow) -> Result<(), StoreError> {
    let (claim, moved) = (&row.claim, &end.moved);
    let same = (claim.campaign, claim.quantity, claim.amount) == (moved.campaign, moved.quantity, moved.amount);
    if same { Ok(()) } else { Err(differs(end)) }
}

fn differs(end: &EndRow) -> StoreError {
    let (id, seq) = (end.moved.claim_id, end.seq);
    StoreError::Row(format!("entry {seq} ends claim {id} with another campaign, quantity or amount than it has"))
}

pub(super) fn contradicts(end: &EndRow, status: &str) -> StoreError {
    let (id, seq, to) = (end.moved.claim_id, end.seq, end.moved.to.status().as_str());
    StoreError::Row(format!("claim {id} is {status}, entry {seq} says {to}"))
}
