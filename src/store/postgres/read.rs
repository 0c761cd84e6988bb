//! Reading rows back. None of it waits for the writer: each statement has its own snapshot.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::super::{ClaimRow, Position, StoreError, StoredClaim, Totals, payload};
use super::error::before;
use super::types::At;
use crate::sale::{CampaignId, CampaignNo, Claim, ClaimId, ClaimStatus, Currency, KeyHash, Money, Seq, Units, UserId};

/// The columns that [`stored`] reads of rows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT seq, claim_id, campaign, campaign_no, user_id, quantity, amount, currency, status, accepted_at, hold, \
             receipt_key, durability, idempotency_key, NULL::text AS payload, \
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
             payload::text, NULL, ended_seq FROM dead_letters WHERE kind = 'claim' \
             AND resolution IS DISTINCT FROM 'requeued' AND NOT \
             EXISTS (SELECT 1 FROM claims WHERE claims.claim_id = dead_letters.claim_id) ",
            $rest
        )
    };
}

pub(super) async fn claim(sql: &mut PgConnection, id: ClaimId) -> Result<Option<StoredClaim>, StoreError> {
    let text = concat!(select!("WHERE claim_id = $1"), or_dead!("AND claim_id = $1"));
    let query = sqlx::query(text).bind(id.to_string());
    query.fetch_optional(sql).await.map_err(before)?.as_ref().map(stored).transpose()
}

/// The inner queries are answered by the buyer's entries in two indexes: only the page's rows are given whole.
pub(super) async fn claims_of(
    sql: &mut PgConnection,
    user: UserId,
    below: Option<Seq>,
    limit: u32,
) -> Result<Vec<StoredClaim>, StoreError> {
    let text = concat!(
        select!("WHERE seq IN (SELECT seq FROM claims WHERE user_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3)"),
        or_dead!(
            "AND seq IN (SELECT seq FROM dead_letters WHERE user_id = $1 AND kind = 'claim' AND seq < $2 \
             ORDER BY seq DESC LIMIT $3)"
        ),
        " ORDER BY seq DESC LIMIT $3"
    );
    let below = below.map_or(i64::MAX, |s| i64::try_from(s.0).unwrap_or(i64::MAX));
    let query = sqlx::query(text).bind(user.as_str().to_owned()).bind(below).bind(i64::from(limit));
    query.fetch_all(sql).await.map_err(before)?.iter().map(stored).collect()
}

pub(super) async fn scan(
    sql: &mut PgConnection,
    campaign: Option<CampaignId>,
    after: Seq,
    limit: u32,
) -> Result<Vec<StoredClaim>, StoreError> {
    let (after, limit) = (i64::try_from(after.0).unwrap_or(i64::MAX), i64::from(limit));
    let rows = match campaign {
        None => {
            sqlx::query(select!("WHERE seq > $1 ORDER BY seq LIMIT $2")).bind(after).bind(limit).fetch_all(sql).await
        }
        Some(id) => {
            let text = select!("WHERE seq > $1 AND campaign = $2 ORDER BY seq LIMIT $3");
            sqlx::query(text).bind(after).bind(id.as_str().to_owned()).bind(limit).fetch_all(sql).await
        }
    };
    rows.map_err(before)?.iter().map(stored).collect()
}

pub(super) async fn totals(sql: &mut PgConnection) -> Result<Vec<Totals>, StoreError> {
    let text = "SELECT no, id, persisted_units, persisted_money, settled_units, settled_money, returned_units, \
                returned_money, dead_units, dead_money FROM campaigns ORDER BY no";
    let rows = sqlx::query(text).fetch_all(sql).await.map_err(before)?;
    let read = |row: &PgRow| {
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

pub(super) async fn dead_claims(sql: &mut PgConnection, after: Seq, limit: u32) -> Result<Vec<ClaimRow>, StoreError> {
    let text = "SELECT payload::text FROM dead_letters WHERE seq > $1 AND kind = 'claim' AND resolution IS NULL \
                ORDER BY seq LIMIT $2";
    let query = sqlx::query_scalar(text).bind(i64::try_from(after.0).unwrap_or(i64::MAX)).bind(i64::from(limit));
    let rows: Vec<String> = query.fetch_all(sql).await.map_err(before)?;
    rows.iter().map(|json| payload::to_claim(json)).collect()
}

pub(super) async fn position(sql: &mut PgConnection) -> Result<Option<Position>, StoreError> {
    let found = sqlx::query("SELECT journal, cursor FROM forebay_meta").fetch_optional(sql).await.map_err(before)?;
    let Some(row) = found else { return Ok(None) };
    let read = || {
        let journal = u128::from_str_radix(row.try_get(0).ok()?, 16).ok()?;
        Some(Position { journal, cursor: Seq(number(&row, 1)?) })
    };
    read().map(Some).ok_or_else(|| StoreError::Outage("forebay_meta was changed by hand".to_owned()))
}

fn stored(row: &PgRow) -> Result<StoredClaim, StoreError> {
    let text = |i| row.try_get::<Option<&str>, _>(i).ok().flatten();
    let whole = |i| row.try_get::<Option<i64>, _>(i).ok();
    let ended = whole(16).flatten().and_then(|seq| u64::try_from(seq).ok()).map(Seq);
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
            amount: whole(6)?.map(Money),
            accepted_at: row.try_get::<At, _>(9).ok()?.0,
            hold: whole(10)?.map_or(Some(0), |hold| u32::try_from(hold).ok())?,
            receipt_key: u16::try_from(row.try_get::<i32, _>(11).ok()?).ok()?,
            durability: payload::durability(text(12)?)?,
            key: match row.try_get::<Option<&[u8]>, _>(13).ok()? {
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

pub(super) fn number<T: TryFrom<i64>>(row: &PgRow, index: usize) -> Option<T> {
    row.try_get::<i64, _>(index).ok().and_then(|n| n.try_into().ok())
}

/// Someone put a row there that this binary did not write.
pub(super) fn unreadable(table: &str, row: &PgRow) -> StoreError {
    let key: i64 = row.try_get(0).unwrap_or_default();
    StoreError::Outage(format!("row {key} of {table} holds what no forebay writes; it was changed by hand"))
}
