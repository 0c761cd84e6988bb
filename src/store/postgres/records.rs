//! What a book that is made anew needs of the tables.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::super::records::{CampaignColumns, Campaigns, ends_of};
use super::super::{CampaignRecord, CampaignRow, ClaimRow, StoreError, payload};
use super::error::before;
use super::read::{number, unreadable};
use super::types::At;
use crate::sale::{CampaignId, CampaignNo, ClaimId, ClaimStatus, Fate, Seq, Timestamp};

/// Every campaign, by number.
pub(super) async fn campaigns(sql: &mut PgConnection) -> Result<Vec<CampaignRecord>, StoreError> {
    let mut found = Campaigns::default();
    let text = "SELECT no, definition::text, state, opens_at, closes_at, stock, total FROM campaigns \
                WHERE definition IS NOT NULL ORDER BY no";
    for row in sqlx::query(text).fetch_all(&mut *sql).await.map_err(before)? {
        let columns = || {
            Some(CampaignColumns {
                no: CampaignNo(number(&row, 0)?),
                definition: row.try_get(1).ok()?,
                state: row.try_get(2).ok()?,
                opens_at: row.try_get::<At, _>(3).ok()?.0,
                closes_at: row.try_get::<At, _>(4).ok()?.0,
                stock: number(&row, 5),
                total: row.try_get(6).ok()?,
            })
        };
        columns().and_then(|columns| found.row(&columns)).ok_or_else(|| unreadable("campaigns", &row))?;
    }
    let text = "SELECT seq, campaign_no, campaign, at, action, by, detail::text FROM campaign_log ORDER BY seq";
    for row in sqlx::query(text).fetch_all(&mut *sql).await.map_err(before)? {
        logged(&row).and_then(|logged| found.log(&logged)).ok_or_else(|| unreadable("campaign_log", &row))?;
    }
    // One that was given up is not written any more; the book had entered it all the same.
    let text = "SELECT payload::text FROM dead_letters WHERE kind = 'campaign' \
                AND resolution IS DISTINCT FROM 'requeued' ORDER BY seq";
    let letters: Vec<String> = sqlx::query_scalar(text).fetch_all(&mut *sql).await.map_err(before)?;
    for json in &letters {
        found.letter(&payload::to_campaign(json)?)?;
    }
    let text = "SELECT no FROM campaigns WHERE definition IS NULL";
    let bare: Vec<i64> = sqlx::query_scalar(text).fetch_all(&mut *sql).await.map_err(before)?;
    found.finish(&bare)
}

fn logged(row: &PgRow) -> Option<CampaignRow> {
    Some(CampaignRow {
        seq: Seq(number(row, 0)?),
        no: CampaignNo(number(row, 1)?),
        id: CampaignId::parse(row.try_get(2).ok()?).ok()?,
        at: row.try_get::<At, _>(3).ok()?.0,
        action: payload::action(row.try_get(4).ok()?)?,
        by: row.try_get(5).ok()?,
        detail: row.try_get(6).ok()?,
    })
}

/// Claims in dead letters that are no rows, with a seq above `after`, oldest first, at most `limit`, each with what has become
/// of it: open letters, and those that were closed because the claim was given back.
pub(super) async fn dead_claims(
    sql: &mut PgConnection,
    after: Seq,
    limit: u32,
) -> Result<Vec<(ClaimRow, ClaimStatus)>, StoreError> {
    let text = "SELECT seq, payload::text, status FROM dead_letters WHERE seq > $1 AND kind = 'claim' \
                AND resolution IS DISTINCT FROM 'requeued' AND NOT EXISTS \
                (SELECT 1 FROM claims WHERE claims.claim_id = dead_letters.claim_id) ORDER BY seq LIMIT $2";
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    let rows = sqlx::query(text).bind(after).bind(i64::from(limit)).fetch_all(sql).await.map_err(before)?;
    let read = |row: &PgRow| {
        let status = ClaimStatus::parse(row.try_get(2).ok()?)?;
        Some((row.try_get::<&str, _>(1).ok()?, status)).map(|(json, status)| Ok((payload::to_claim(json)?, status)))
    };
    rows.iter().map(|row| read(row).unwrap_or_else(|| Err(unreadable("dead_letters", row)))).collect()
}

/// Ends of claims in open dead letters.
pub(super) async fn dead_ends(sql: &mut PgConnection) -> Result<BTreeMap<ClaimId, Fate>, StoreError> {
    let text = "SELECT payload::text FROM dead_letters WHERE kind = 'end' AND resolution IS NULL ORDER BY seq";
    let letters: Vec<String> = sqlx::query_scalar(text).fetch_all(sql).await.map_err(before)?;
    ends_of(&letters)
}

/// The latest instant that any row tells of, and the highest position of any row: where a cursor that was set by hand is
/// below it, it must not be given out again.
pub(super) async fn horizon(sql: &mut PgConnection) -> Result<(Timestamp, Seq), StoreError> {
    let text = "SELECT greatest((SELECT max(accepted_at) FROM claims), (SELECT max(ended_at) FROM claims), \
                (SELECT max(updated_at) FROM campaigns), (SELECT max(at) FROM dead_letters)), \
                greatest((SELECT max(seq) FROM claims), (SELECT max(ended_seq) FROM claims), \
                (SELECT max(seq) FROM campaign_log), (SELECT max(seq) FROM dead_letters), (SELECT max(seq) FROM carts), 0)";
    let row = sqlx::query(text).fetch_one(sql).await.map_err(before)?;
    let latest = row.try_get::<Option<At>, _>(0).ok().flatten().map_or(Timestamp(0), |at| at.0);
    Ok((latest, Seq(row.get::<i64, _>(1).unsigned_abs())))
}
