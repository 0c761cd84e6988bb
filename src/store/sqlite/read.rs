//! Reading rows back. None of it waits for the writer: the write-ahead log gives each read its own snapshot.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::super::{ClaimRow, Position, StoreError, StoredClaim, Totals, payload};
use super::error::before;
use crate::sale::{
    CampaignId, CampaignNo, Claim, ClaimId, ClaimStatus, Currency, KeyHash, Money, Seq, Timestamp, Units, UserId,
};

/// The columns that [`stored`] reads of rows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT seq, claim_id, campaign, campaign_no, user_id, quantity, amount, currency, status, accepted_at, hold, \
             receipt_key, durability, idempotency_key, NULL AS payload, \
             EXISTS (SELECT 1 FROM points_ledger WHERE points_ledger.seq = claims.seq), ended_seq FROM claims ",
            $rest
        )
    };
}

/// The same of dead claims: [`stored`] reads their status and payload only. A claim that has become a row since, requeued or
/// by hand, is not given twice. In one statement with the rows, so that both are of one snapshot and nothing can move in
/// between.
macro_rules! or_dead {
    ($rest:literal) => {
        concat!(
            " UNION ALL SELECT seq, NULL, NULL, NULL, NULL, NULL, NULL, NULL, status, NULL, NULL, NULL, NULL, NULL, \
             payload, NULL, ended_seq FROM dead_letters WHERE kind = 'claim' AND resolution IS NOT 'requeued' AND NOT \
             EXISTS (SELECT 1 FROM claims WHERE claims.claim_id = dead_letters.claim_id) ",
            $rest
        )
    };
}

pub(super) async fn claim(sql: &mut SqliteConnection, id: ClaimId) -> Result<Option<StoredClaim>, StoreError> {
    let text = concat!(select!("WHERE claim_id = ?1"), or_dead!("AND claim_id = ?1"));
    let query = sqlx::query(text).bind(id.to_string());
    query.fetch_optional(sql).await.map_err(before)?.as_ref().map(stored).transpose()
}

/// The inner queries are answered by the indexes alone: a buyer with thousands of claims costs one pass over their keys,
/// and only the page's rows are fetched.
pub(super) async fn claims_of(
    sql: &mut SqliteConnection,
    user: &UserId,
    below: Option<Seq>,
    limit: u32,
) -> Result<Vec<StoredClaim>, StoreError> {
    let text = concat!(
        select!("WHERE seq IN (SELECT seq FROM claims WHERE user_id = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3)"),
        or_dead!(
            "AND seq IN (SELECT seq FROM dead_letters WHERE user_id = ?1 AND kind = 'claim' AND seq < ?2 \
             ORDER BY seq DESC LIMIT ?3)"
        ),
        " ORDER BY seq DESC LIMIT ?3"
    );
    let below = below.map_or(i64::MAX, |s| i64::try_from(s.0).unwrap_or(i64::MAX));
    let rows = sqlx::query(text).bind(user.as_str().to_owned()).bind(below).bind(limit).fetch_all(sql).await;
    rows.map_err(before)?.iter().map(stored).collect()
}

pub(super) async fn scan(
    sql: &mut SqliteConnection,
    campaign: Option<&CampaignId>,
    after: Seq,
    limit: u32,
) -> Result<Vec<StoredClaim>, StoreError> {
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    let rows = match campaign {
        None => sqlx::query(select!("WHERE seq > ? ORDER BY seq LIMIT ?")).bind(after).bind(limit).fetch_all(sql).await,
        Some(id) => {
            let text = select!("WHERE seq > ? AND campaign = ? ORDER BY seq LIMIT ?");
            sqlx::query(text).bind(after).bind(id.as_str().to_owned()).bind(limit).fetch_all(sql).await
        }
    };
    rows.map_err(before)?.iter().map(stored).collect()
}

pub(super) async fn totals(sql: &mut SqliteConnection) -> Result<Vec<Totals>, StoreError> {
    let text = "SELECT no, id, persisted_units, persisted_money, settled_units, settled_money, returned_units, \
                returned_money, dead_units, dead_money FROM campaigns ORDER BY no";
    let rows = sqlx::query(text).fetch_all(sql).await.map_err(before)?;
    let read = |row: &SqliteRow| {
        Some(Totals {
            no: CampaignNo(number(row, 0)?),
            campaign: CampaignId::parse(row.try_get(1).ok()?).ok()?,
            persisted: Units(number(row, 2)?),
            persisted_money: Money(number(row, 3)?),
            settled: Units(number(row, 4)?),
            settled_money: Money(number(row, 5)?),
            returned: Units(number(row, 6)?),
            returned_money: Money(number(row, 7)?),
            dead: Units(number(row, 8)?),
            dead_money: Money(number(row, 9)?),
        })
    };
    rows.iter().map(|row| read(row).ok_or_else(|| unreadable("campaigns", row))).collect()
}

pub(super) async fn dead_claims(
    sql: &mut SqliteConnection,
    after: Seq,
    limit: u32,
) -> Result<Vec<ClaimRow>, StoreError> {
    let text = "SELECT payload FROM dead_letters WHERE seq > ? AND kind = 'claim' AND resolution IS NULL \
                ORDER BY seq LIMIT ?";
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    let rows: Vec<String> = sqlx::query_scalar(text).bind(after).bind(limit).fetch_all(sql).await.map_err(before)?;
    rows.iter().map(|json| payload::to_claim(json)).collect()
}

pub(super) async fn position(sql: &mut SqliteConnection) -> Result<Option<Position>, StoreError> {
    let found = sqlx::query("SELECT journal, cursor FROM forebay_meta").fetch_optional(sql).await.map_err(before)?;
    let Some(row) = found else { return Ok(None) };
    let read = || {
        let journal = u128::from_str_radix(row.try_get(0).ok()?, 16).ok()?;
        Some(Position { journal, cursor: Seq(number(&row, 1)?) })
    };
    read().map(Some).ok_or_else(|| unreadable("forebay_meta", &row))
}

fn stored(row: &SqliteRow) -> Result<StoredClaim, StoreError> {
    let text = |i| row.try_get::<Option<&str>, _>(i).ok().flatten();
    let ended = row.try_get::<Option<i64>, _>(16).ok().flatten().and_then(|seq| u64::try_from(seq).ok()).map(Seq);
    if let Some(json) = text(14) {
        // Acknowledged, and not a row yet: all that its buyer was ever told.
        let status = text(8).and_then(ClaimStatus::parse).ok_or_else(|| unreadable("dead_letters", row))?;
        return Ok(StoredClaim { row: payload::to_claim(json)?, status, ended });
    }
    let read = || {
        let claim = Claim {
            seq: Seq(number(row, 0)?),
            claim_id: ClaimId::parse(text(1)?)?,
            campaign: CampaignNo(number(row, 3)?),
            user: UserId::parse(text(4)?).ok()?,
            quantity: Units(number(row, 5)?),
            amount: row.try_get::<Option<i64>, _>(6).ok()?.map(Money),
            accepted_at: Timestamp::parse(text(9)?).ok()?,
            hold: row.try_get::<Option<u32>, _>(10).ok()?.unwrap_or(0),
            receipt_key: number(row, 11)?,
            durability: payload::durability(text(12)?)?,
            key: match row.try_get::<Option<Vec<u8>>, _>(13).ok()? {
                None => None,
                Some(bytes) => Some(KeyHash(u128::from_be_bytes(bytes.try_into().ok()?))),
            },
        };
        let currency = match text(7) {
            None => None,
            Some(code) => Some(Currency::parse(code)?),
        };
        let is_check_in = row.try_get(15).ok()?;
        let claim_row = ClaimRow { claim, campaign: CampaignId::parse(text(2)?).ok()?, currency, is_check_in };
        Some(StoredClaim { row: claim_row, status: ClaimStatus::parse(text(8)?)?, ended })
    };
    read().ok_or_else(|| unreadable("claims", row))
}

pub(super) fn number<T: TryFrom<i64>>(row: &SqliteRow, index: usize) -> Option<T> {
    row.try_get::<i64, _>(index).ok().and_then(|n| n.try_into().ok())
}

/// Someone put a row there that this binary did not write.
pub(super) fn unreadable(table: &str, row: &SqliteRow) -> StoreError {
    let key: i64 = row.try_get(0).unwrap_or_default();
    StoreError::Outage(format!("row {key} of {table} holds what no forebay writes; it was changed by hand"))
}
