//! The campaigns as the tables tell them, for a book that is made anew; what follows from that is `store/records.rs`.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::super::records::{CampaignColumns, Campaigns, ends_of};
use super::super::{CampaignRecord, CampaignRow, ClaimRow, StoreError, payload};
use super::error::before;
use super::read::{number, unreadable};
use crate::sale::{CampaignId, CampaignNo, ClaimId, ClaimStatus, Fate, Seq, Timestamp};

/// Every campaign, by number.
pub(super) async fn campaigns(sql: &mut SqliteConnection) -> Result<Vec<CampaignRecord>, StoreError> {
    let mut all = Campaigns::default();
    let text = "SELECT no, definition, state, opens_at, closes_at, stock, total FROM campaigns \
                WHERE definition IS NOT NULL ORDER BY no";
    for row in sqlx::query(text).fetch_all(&mut *sql).await.map_err(before)? {
        columns(&row).and_then(|columns| all.row(&columns)).ok_or_else(|| unreadable("campaigns", &row))?;
    }
    let text = "SELECT seq, campaign_no, campaign, at, action, by, detail FROM campaign_log ORDER BY seq";
    for row in sqlx::query(text).fetch_all(&mut *sql).await.map_err(before)? {
        logged(&row).and_then(|logged| all.log(&logged)).ok_or_else(|| unreadable("campaign_log", &row))?;
    }
    // One that was given up is not written any more; the book had entered it all the same.
    let text = "SELECT payload FROM dead_letters WHERE kind = 'campaign' AND resolution IS NOT 'requeued' ORDER BY seq";
    let letters: Vec<String> = sqlx::query_scalar(text).fetch_all(&mut *sql).await.map_err(before)?;
    for json in &letters {
        all.letter(&payload::to_campaign(json)?)?;
    }
    let text = "SELECT no FROM campaigns WHERE definition IS NULL";
    let bare: Vec<i64> = sqlx::query_scalar(text).fetch_all(&mut *sql).await.map_err(before)?;
    all.finish(&bare)
}

fn columns(row: &SqliteRow) -> Option<CampaignColumns<'_>> {
    Some(CampaignColumns {
        no: CampaignNo(number(row, 0)?),
        definition: row.try_get(1).ok()?,
        state: row.try_get(2).ok()?,
        opens_at: Timestamp::parse(row.try_get(3).ok()?).ok()?,
        closes_at: Timestamp::parse(row.try_get(4).ok()?).ok()?,
        stock: row.try_get::<Option<i64>, _>(5).ok()?.map(u64::try_from).transpose().ok()?,
        total: row.try_get(6).ok()?,
    })
}

fn logged(row: &SqliteRow) -> Option<CampaignRow> {
    Some(CampaignRow {
        seq: Seq(number(row, 0)?),
        no: CampaignNo(number(row, 1)?),
        id: CampaignId::parse(row.try_get(2).ok()?).ok()?,
        at: Timestamp::parse(row.try_get(3).ok()?).ok()?,
        action: payload::action(row.try_get(4).ok()?)?,
        by: row.try_get(5).ok()?,
        detail: row.try_get(6).ok()?,
    })
}

/// Claims in dead letters that are no rows, with a seq above `after`, oldest first, at most `limit`, each with what has become
/// of it: open letters, and those that were closed because the claim was given back.
pub(super) async fn dead_claims(
    sql: &mut SqliteConnection,
    after: Seq,
    limit: u32,
) -> Result<Vec<(ClaimRow, ClaimStatus)>, StoreError> {
    let text = "SELECT seq, payload, status FROM dead_letters WHERE seq > ? AND kind = 'claim' \
                AND resolution IS NOT 'requeued' AND NOT EXISTS \
                (SELECT 1 FROM claims WHERE claims.claim_id = dead_letters.claim_id) ORDER BY seq LIMIT ?";
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    let rows = sqlx::query(text).bind(after).bind(limit).fetch_all(sql).await.map_err(before)?;
    let read = |row: &SqliteRow| {
        let status = ClaimStatus::parse(row.try_get(2).ok()?)?;
        Some((row.try_get::<&str, _>(1).ok()?, status)).map(|(json, status)| Ok((payload::to_claim(json)?, status)))
    };
    rows.iter().map(|row| read(row).unwrap_or_else(|| Err(unreadable("dead_letters", row)))).collect()
}

/// Ends of claims in open dead letters: the book has them, the rows do not.
pub(super) async fn dead_ends(sql: &mut SqliteConnection) -> Result<BTreeMap<ClaimId, Fate>, StoreError> {
    let text = "SELECT payload FROM dead_letters WHERE kind = 'end' AND resolution IS NULL ORDER BY seq";
    let letters: Vec<String> = sqlx::query_scalar(text).fetch_all(sql).await.map_err(before)?;
    ends_of(&letters)
}

/// The latest instant that any row tells of.
pub(super) async fn latest(sql: &mut SqliteConnection) -> Result<Timestamp, StoreError> {
    let text = "SELECT max(coalesce((SELECT max(accepted_at) FROM claims), ''), \
                coalesce((SELECT max(ended_at) FROM claims), ''), coalesce((SELECT max(updated_at) FROM campaigns), ''), \
                coalesce((SELECT max(at) FROM dead_letters), ''))";
    let text: String = sqlx::query_scalar(text).fetch_one(sql).await.map_err(before)?;
    Ok(Timestamp::parse(&text).unwrap_or(Timestamp(0)))
}

/// The highest position of any row: where a cursor that was set by hand is below it, it must not be given out again.
pub(super) async fn highest(sql: &mut SqliteConnection) -> Result<Seq, StoreError> {
    let text = "SELECT max(coalesce((SELECT max(seq) FROM claims), 0), coalesce((SELECT max(ended_seq) FROM claims), 0), \
                coalesce((SELECT max(seq) FROM campaign_log), 0), coalesce((SELECT max(seq) FROM dead_letters), 0), \
                coalesce((SELECT max(seq) FROM carts), 0))";
    let seq: i64 = sqlx::query_scalar(text).fetch_one(sql).await.map_err(before)?;
    Ok(Seq(seq.unsigned_abs()))
}
