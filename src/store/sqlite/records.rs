//! The campaigns as the rows tell them, for a book that is made anew: definition, window, stock and state from the table
//! `campaigns`, what was changed how often from its log, and what is in open dead letters on top, as the book had it.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::super::{CampaignRecord, CampaignRow, EndRow, StoreError};
use super::error::before;
use super::payload;
use super::read::{number, unreadable};
use crate::sale::campaign::{AdminState, CampaignPatch};
use crate::sale::{CampaignNo, CampaignSpec, ClaimId, Fate, Money, Seq, Timestamp, Units};

/// Every campaign, by number.
pub(super) async fn campaigns(sql: &mut SqliteConnection) -> Result<Vec<CampaignRecord>, StoreError> {
    let mut found: BTreeMap<u32, CampaignRecord> = BTreeMap::new();
    let text = "SELECT no, definition, state, opens_at, closes_at, stock, total FROM campaigns \
                WHERE definition IS NOT NULL ORDER BY no";
    for row in sqlx::query(text).fetch_all(&mut *sql).await.map_err(before)? {
        let record = record(&row).ok_or_else(|| unreadable("campaigns", &row))?;
        found.insert(record.no.0, record);
    }
    let text = "SELECT campaign_no, action, detail, seq, at FROM campaign_log ORDER BY seq";
    for row in sqlx::query(text).fetch_all(&mut *sql).await.map_err(before)? {
        let (no, action): (i64, String) = (row.get(0), row.get(1));
        let Some(record) = u32::try_from(no).ok().and_then(|no| found.get_mut(&no)) else { continue };
        let at = Timestamp::parse(row.get(4)).map_err(|_| unreadable("campaign_log", &row))?;
        count(record, &action, row.get(2), at).ok_or_else(|| unreadable("campaign_log", &row))?;
    }
    let text = "SELECT payload FROM dead_letters WHERE kind = 'campaign' AND resolution IS NULL ORDER BY seq";
    let letters: Vec<String> = sqlx::query_scalar(text).fetch_all(&mut *sql).await.map_err(before)?;
    for json in &letters {
        let row = payload::to_campaign(json)?;
        apply_letter(&mut found, &row).ok_or_else(|| gone(row.no, &format!("entry {} can't be read", row.seq)))?;
    }
    for (place, no) in found.keys().enumerate() {
        if place as u32 != *no {
            return Err(gone(CampaignNo(place as u32), "it is in no row and no open dead letter"));
        }
    }
    let text = "SELECT no FROM campaigns WHERE definition IS NULL";
    let bare: Vec<i64> = sqlx::query_scalar(text).fetch_all(&mut *sql).await.map_err(before)?;
    if let Some(no) = bare.iter().filter_map(|no| u32::try_from(*no).ok()).find(|no| !found.contains_key(no)) {
        return Err(gone(CampaignNo(no), "its definition is in no open dead letter"));
    }
    Ok(found.into_values().collect())
}

/// Ends of claims in open dead letters: the book has them, the rows do not.
pub(super) async fn dead_ends(sql: &mut SqliteConnection) -> Result<BTreeMap<ClaimId, Fate>, StoreError> {
    let text = "SELECT payload FROM dead_letters WHERE kind = 'end' AND resolution IS NULL ORDER BY seq";
    let letters: Vec<String> = sqlx::query_scalar(text).fetch_all(sql).await.map_err(before)?;
    let end = |json: &String| payload::to_end(json).map(|EndRow { moved, .. }| (moved.claim_id, moved.to));
    letters.iter().map(end).collect()
}

fn gone(no: CampaignNo, what: &str) -> StoreError {
    StoreError::Fenced(format!("campaign number {} can't be rebuilt: {what}", no.0))
}

fn record(row: &SqliteRow) -> Option<CampaignRecord> {
    let mut spec = CampaignSpec::restore(row.try_get::<&str, _>(1).ok()?.as_bytes()).ok()?;
    spec.opens_at = Timestamp::parse(row.try_get(3).ok()?).ok()?;
    spec.closes_at = Timestamp::parse(row.try_get(4).ok()?).ok()?;
    if spec.has_stock() {
        spec.stock = Units(number(row, 5)?);
    }
    if let Some(packet) = &mut spec.red_packet {
        packet.total = Money(number(row, 6)?);
    }
    let state = state(row.try_get(2).ok()?)?;
    let no = CampaignNo(number(row, 0)?);
    Some(CampaignRecord { no, spec, state, closed_at: None, released: false, changes: 0, restocks: 0 })
}

fn state(word: &str) -> Option<AdminState> {
    [AdminState::Open, AdminState::Paused, AdminState::Closed].into_iter().find(|state| state.as_str() == word)
}

/// Counts a logged change, whose effect is in the row already.
fn count(record: &mut CampaignRecord, action: &str, detail: &str, at: Timestamp) -> Option<()> {
    match action {
        "changed" => {
            let patch = CampaignPatch::parse(detail.as_bytes()).ok()?;
            record.changes += 1;
            record.restocks += u64::from(patch.add_stock.is_some());
            if patch.state == Some(AdminState::Closed) {
                record.closed_at.get_or_insert(at);
            }
        }
        "released" => {
            record.changes += 1;
            record.released = true;
        }
        _ => {}
    }
    Some(())
}

/// Enters what the tables would not take, as the book has entered it.
fn apply_letter(found: &mut BTreeMap<u32, CampaignRecord>, row: &CampaignRow) -> Option<()> {
    if row.action == "created" {
        let spec = CampaignSpec::restore(row.detail.as_bytes()).ok()?;
        let (no, state) = (row.no, AdminState::Open);
        let record = CampaignRecord { no, spec, state, closed_at: None, released: false, changes: 0, restocks: 0 };
        found.entry(row.no.0).or_insert(record);
        return Some(());
    }
    let record = found.get_mut(&row.no.0)?;
    count(record, row.action, &row.detail, row.at)?;
    if row.action == "released" {
        record.state = AdminState::Closed;
        return Some(());
    }
    let patch = CampaignPatch::parse(row.detail.as_bytes()).ok()?;
    let spec = &mut record.spec;
    spec.stock = Units(spec.stock.0.checked_add_signed(patch.add_stock.unwrap_or(0))?);
    if let Some(packet) = &mut spec.red_packet {
        packet.total = Money(packet.total.0.checked_add(patch.add_total.unwrap_or(0))?);
    }
    spec.opens_at = patch.opens_at.unwrap_or(spec.opens_at);
    spec.closes_at = patch.closes_at.unwrap_or(spec.closes_at);
    record.state = patch.state.unwrap_or(record.state);
    Some(())
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
