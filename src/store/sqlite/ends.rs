//! Ends of claims that an earlier batch brought.

use sqlx::{Row as _, SqliteConnection};

use super::super::fold::{Took, contradicts, differs};
use super::super::{EndRow, StoreError};
use super::error::before;
use super::letters;

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
