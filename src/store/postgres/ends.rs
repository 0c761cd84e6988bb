//! Ends of claims that an earlier batch brought: all of them in one statement, as far as they are of rows that are neither
//! paid nor given back; the few others one by one.

use std::collections::BTreeSet;

use sqlx::{PgConnection, Row as _};

use super::super::fold::{Took, contradicts, differs};
use super::super::{EndRow, StoreError};
use super::error::before;
use super::letters;
use super::types::At;
use crate::sale::ClaimId;

/// Only a row that is neither paid nor given back moves, so that an end that comes again changes nothing.
const MOVE: &str = "UPDATE claims SET status = e.status, hold = CASE WHEN e.returns THEN NULL ELSE hold END, \
                    ended_seq = e.seq, ended_at = e.at, ended_by = e.by \
                    FROM unnest($1::text[], $2::text[], $3::bool[], $4::bigint[], $5::timestamptz[], $6::text[], \
                    $7::bigint[], $8::bigint[], $9::bigint[]) \
                    AS e (claim_id, status, returns, seq, at, by, campaign_no, quantity, amount) \
                    WHERE claims.claim_id = e.claim_id AND claims.status = 'persisted' \
                    AND claims.campaign_no = e.campaign_no AND claims.quantity = e.quantity \
                    AND claims.amount IS NOT DISTINCT FROM e.amount RETURNING claims.claim_id";

/// Writes ends of claims that are rows, or in the dead letters; tells of each what it did, in their order.
pub(super) async fn apply(sql: &mut PgConnection, ends: &[&EndRow]) -> Result<Vec<Took>, StoreError> {
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    let mut seen = BTreeSet::new();
    // A second end of the same claim is looked at after the first one.
    let first: Vec<bool> = ends.iter().map(|end| seen.insert(end.moved.claim_id)).collect();
    let bulk: Vec<&EndRow> = ends.iter().zip(&first).filter(|(_, first)| **first).map(|(end, _)| *end).collect();
    let moved = move_rows(sql, &bulk).await?;
    let mut took = Vec::with_capacity(ends.len());
    for (end, first) in ends.iter().zip(first) {
        took.push(match first && moved.contains(&end.moved.claim_id) {
            true => Took::Row,
            false => other(sql, end).await?,
        });
    }
    Ok(took)
}

async fn move_rows(sql: &mut PgConnection, ends: &[&EndRow]) -> Result<BTreeSet<ClaimId>, StoreError> {
    fn each<T>(ends: &[&EndRow], get: impl Fn(&EndRow) -> T) -> Vec<T> {
        ends.iter().map(|end| get(end)).collect()
    }
    let moved = sqlx::query(MOVE)
        .bind(each(ends, |end| end.moved.claim_id.to_string()))
        .bind(each(ends, |end| end.moved.to.status().as_str().to_owned()))
        .bind(each(ends, |end| end.moved.to.returns_units()))
        .bind(each(ends, |end| end.seq.0 as i64))
        .bind(each(ends, |end| At(end.at)))
        .bind(each(ends, |end| end.moved.by.to_string()))
        .bind(each(ends, |end| i64::from(end.moved.campaign.0)))
        .bind(each(ends, |end| end.moved.quantity.0 as i64))
        .bind(each(ends, |end| end.moved.amount.map(|m| m.0)))
        .fetch_all(sql)
        .await
        .map_err(before)?;
    Ok(moved.iter().filter_map(|row| ClaimId::parse(row.try_get(0).ok()?)).collect())
}

/// An end that moved no row: it is there already, its claim is a dead letter, or it is wrong.
async fn other(sql: &mut PgConnection, end: &EndRow) -> Result<Took, StoreError> {
    let moved = &end.moved;
    let text = "SELECT status, campaign_no, quantity, amount FROM claims WHERE claim_id = $1";
    let found = sqlx::query(text).bind(moved.claim_id.to_string()).fetch_optional(&mut *sql).await.map_err(before)?;
    let Some(found) = found else { return letters::end(sql, end).await };
    let status: String = found.get(0);
    let there: (i64, i64, Option<i64>) = (found.get(1), found.get(2), found.get(3));
    if there != (i64::from(moved.campaign.0), moved.quantity.0 as i64, moved.amount.map(|m| m.0)) {
        return Err(differs(end));
    }
    if status == moved.to.status().as_str() { Ok(Took::Nothing) } else { Err(contradicts(end, &status)) }
}
