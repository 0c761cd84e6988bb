//! Claims into rows, and the points of check-ins.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Row as _};

use super::super::{ClaimRow, EndRow, StoreError};
use super::copy::Rows;
use super::error::{before, is_double};
use super::types::{At, EPOCH_DAYS};
use crate::sale::{ClaimId, LocalDay};

const CLAIMS: &str = "COPY claims (seq, claim_id, campaign, campaign_no, user_id, quantity, amount, currency, status, \
                      accepted_at, hold, receipt_key, durability, idempotency_key, ended_seq, ended_at, ended_by) \
                      FROM STDIN (FORMAT BINARY)";

const POINTS: &str = "COPY points_ledger (seq, user_id, campaign, campaign_no, local_day, points, claim_id) \
                      FROM STDIN (FORMAT BINARY)";

/// What became of rows that were to be inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Inserted {
    /// They are in.
    All(u64),
    /// One of them has a key that is there, in the server's words; the transaction can only be rolled back.
    Double(StoreError),
}

/// Inserts claims that are held, and others as what became of them.
pub(super) async fn insert(
    sql: &mut PgConnection,
    held: &[&ClaimRow],
    ended: &[(&ClaimRow, &EndRow)],
) -> Result<Inserted, StoreError> {
    let mut rows = Rows::new(17, held.len() + ended.len());
    for row in held {
        claim(&mut rows, row, None);
    }
    for (row, end) in ended {
        claim(&mut rows, row, Some(end));
    }
    let count = (held.len() + ended.len()) as u64;
    match rows.send(sql, CLAIMS).await {
        Ok(taken) => {
            all_of(count, taken, "claims")?;
            Ok(Inserted::All(taken))
        }
        Err(error) if is_double(&error) => Ok(Inserted::Double(before(error))),
        Err(error) => Err(before(error)),
    }
}

/// A trigger that somebody made may leave rows out without a word.
fn all_of(count: u64, taken: u64, table: &str) -> Result<(), StoreError> {
    if taken == count {
        return Ok(());
    }
    let text = format!("the server took {taken} of {count} rows of {table}: is there a trigger that leaves rows out?");
    Err(StoreError::Row(text))
}

fn claim(rows: &mut Rows, row: &ClaimRow, end: Option<&EndRow>) {
    let claim = &row.claim;
    let status = end.map_or("persisted", |end| end.moved.to.status().as_str());
    let is_held = !end.is_some_and(|end| end.moved.to.returns_units());
    rows.row()
        .long(claim.seq.0 as i64)
        .raw(&claim.claim_id.to_text())
        .text(row.campaign.as_str())
        .long(i64::from(claim.campaign.0))
        .text(claim.user.as_str())
        .long(claim.quantity.0 as i64)
        .or_null(claim.amount, |rows, amount| rows.long(amount.0))
        .or_null(row.currency, |rows, currency| rows.text(currency.as_str()))
        .text(status)
        .long(At(claim.accepted_at).wire())
        .or_null(is_held.then_some(claim.hold), |rows, hold| rows.long(i64::from(hold)))
        .int(i32::from(claim.receipt_key))
        .text(claim.durability.as_str())
        .or_null(claim.key, |rows, key| rows.raw(&key.0.to_be_bytes()))
        .or_null(end, |rows, end| rows.long(end.seq.0 as i64))
        .or_null(end, |rows, end| rows.long(At(end.at).wire()))
        .or_null(end, |rows, end| rows.text(&end.moved.by));
}

/// Inserts the points of the check-ins among `claims`, which have just been inserted.
pub(super) async fn insert_points(sql: &mut PgConnection, claims: &[&ClaimRow]) -> Result<(), StoreError> {
    let count = claims.iter().filter(|row| row.is_check_in).count();
    let mut rows = Rows::new(7, count);
    for row in claims.iter().filter(|row| row.is_check_in) {
        let claim = &row.claim;
        let LocalDay(day) = u16::try_from(claim.hold).map(LocalDay).map_err(|_| {
            StoreError::Row(format!("check-in {} (entry {}) is of day {}", claim.claim_id, claim.seq, claim.hold))
        })?;
        rows.row()
            .long(claim.seq.0 as i64)
            .text(claim.user.as_str())
            .text(row.campaign.as_str())
            .long(i64::from(claim.campaign.0))
            .int(i32::from(day) - EPOCH_DAYS)
            .or_null(claim.amount, |rows, points| rows.long(points.0))
            .raw(&claim.claim_id.to_text());
    }
    let taken = rows.send(sql, POINTS).await.map_err(before)?;
    all_of(count as u64, taken, "points_ledger")
}

/// The claims that are not there yet.
///
/// # Errors
/// [`StoreError::Row`] where one is there with other content.
pub(super) async fn without_known<'a>(
    sql: &mut PgConnection,
    claims: Vec<&'a ClaimRow>,
) -> Result<Vec<&'a ClaimRow>, StoreError> {
    // Only what never changes is compared: status and hold move on in the database.
    let text = "SELECT claim_id, seq, campaign, campaign_no, user_id, quantity, amount, currency, accepted_at, \
                receipt_key, durability, idempotency_key, hold FROM claims WHERE claim_id = ANY ($1)";
    let ids: Vec<String> = claims.iter().map(|row| row.claim.claim_id.to_string()).collect();
    let found = sqlx::query(text).bind(ids).fetch_all(sql).await.map_err(before)?;
    let mut known = BTreeMap::new();
    for row in &found {
        known.insert(row.try_get::<&str, _>(0).ok().and_then(ClaimId::parse), row);
    }
    let mut new = Vec::with_capacity(claims.len());
    for row in claims {
        match known.get(&Some(row.claim.claim_id)) {
            None => new.push(row),
            Some(there) if is_same(row, there) => {}
            Some(_) => {
                let (id, seq) = (row.claim.claim_id, row.claim.seq);
                return Err(StoreError::Row(format!("claim {id} (entry {seq}) is there already, with other content")));
            }
        }
    }
    Ok(new)
}

fn is_same(row: &ClaimRow, there: &sqlx::postgres::PgRow) -> bool {
    let claim = &row.claim;
    let text = |i, ours: Option<&str>| there.try_get::<Option<&str>, _>(i).is_ok_and(|theirs| theirs == ours);
    let long = |i, ours: Option<i64>| there.try_get::<Option<i64>, _>(i).is_ok_and(|theirs| theirs == ours);
    long(1, Some(claim.seq.0 as i64))
        && text(2, Some(row.campaign.as_str()))
        && long(3, Some(i64::from(claim.campaign.0)))
        && text(4, Some(claim.user.as_str()))
        && long(5, Some(claim.quantity.0 as i64))
        && long(6, claim.amount.map(|m| m.0))
        && text(7, row.currency.as_ref().map(|c| c.as_str()))
        && there.try_get::<At, _>(8).is_ok_and(|at| at.0 == claim.accepted_at)
        && there.try_get::<i32, _>(9).is_ok_and(|key| key == i32::from(claim.receipt_key))
        && text(10, Some(claim.durability.as_str()))
        && there
            .try_get::<Option<&[u8]>, _>(11)
            .is_ok_and(|key| key == claim.key.map(|k| k.0.to_be_bytes()).as_ref().map(|bytes| &bytes[..]))
        && (long(12, None) || long(12, Some(i64::from(claim.hold))))
}
