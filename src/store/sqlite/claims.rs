//! Claims into rows: plain ones, those that came to their end before they were rows, and the points of check-ins.

use std::sync::{Arc, LazyLock};

use sqlx::SqliteConnection;

use super::super::{ClaimRow, EndRow, StoreError};
use super::bulk::{Bound, Bulk};
use super::error::before;
use crate::sale::{CampaignId, Currency, Durability, LocalDay};

// `OR ROLLBACK`: a failure ends the whole transaction, as we would do anyway. Otherwise SQLite keeps a copy of every
// page that a statement of many rows changes, so as to take that one statement back.
macro_rules! columns {
    ($more:literal) => {
        concat!(
            "INSERT OR ROLLBACK INTO claims (seq, claim_id, campaign, campaign_no, user_id, quantity, amount, currency, \
             accepted_at, receipt_key, durability, idempotency_key, hold, status",
            $more,
            ") VALUES "
        )
    };
}

const KNOWN: &str = " ON CONFLICT (claim_id) DO NOTHING";

static PLAIN: LazyLock<Bulk> =
    LazyLock::new(|| Bulk::new(columns!(""), "(?,?,?,?,?,?,?,?,?,?,?,?,?,'persisted')", KNOWN));

static ENDED: LazyLock<Bulk> = LazyLock::new(|| {
    Bulk::new(columns!(", ended_seq, ended_at, ended_by"), "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", KNOWN)
});

static POINTS: LazyLock<Bulk> = LazyLock::new(|| {
    let head = "INSERT OR ROLLBACK INTO points_ledger (seq, user_id, campaign, campaign_no, local_day, points, claim_id) \
                VALUES ";
    Bulk::new(head, "(?,?,?,?,?,?,?)", "")
});

/// Inserts claims that are held; tells how many were not there yet.
pub(super) async fn insert(sql: &mut SqliteConnection, claims: &[&ClaimRow]) -> Result<u64, StoreError> {
    let mut texts = Shared::default();
    PLAIN.insert(sql, claims, |query, row| bind(query, row, &mut texts).bind(i64::from(row.claim.hold))).await
}

/// Inserts claims as what became of them; tells how many were not there yet.
pub(super) async fn insert_ended(
    sql: &mut SqliteConnection,
    claims: &[(&ClaimRow, &EndRow)],
) -> Result<u64, StoreError> {
    let mut texts = Shared::default();
    let bind = |query: Bound<'static>, (row, end): &(&ClaimRow, &EndRow)| {
        let to = end.moved.to;
        bind(query, row, &mut texts)
            .bind((!to.returns_units()).then_some(i64::from(row.claim.hold)))
            .bind(to.status().as_str())
            .bind(end.seq.0 as i64)
            .bind(end.at.to_string())
            .bind(end.moved.by.to_string())
    };
    ENDED.insert(sql, claims, bind).await
}

/// Inserts the points of the check-ins among `claims`, which have just been inserted.
pub(super) async fn insert_points(sql: &mut SqliteConnection, claims: &[&ClaimRow]) -> Result<(), StoreError> {
    let mut rows = Vec::new();
    for row in claims.iter().filter(|row| row.is_check_in) {
        let claim = &row.claim;
        let day = u16::try_from(claim.hold).map_err(|_| {
            StoreError::Row(format!("check-in {} (entry {}) is of day {}", claim.claim_id, claim.seq, claim.hold))
        })?;
        rows.push((*row, LocalDay(day).to_string()));
    }
    let mut texts = Shared::default();
    let bind = |query: Bound<'static>, (row, day): &(&ClaimRow, String)| {
        let claim = &row.claim;
        query
            .bind(claim.seq.0 as i64)
            .bind(claim.user.as_str().to_owned())
            .bind(shared(&mut texts.campaign, row.campaign, row.campaign.as_str()))
            .bind(i64::from(claim.campaign.0))
            .bind(day.clone())
            .bind(claim.amount.map(|points| points.0))
            .bind(claim.claim_id.to_string())
    };
    let points = POINTS.insert(sql, &rows, bind).await?;
    assert_eq!(points, rows.len() as u64, "a check-in's points are new when its claim is");
    Ok(())
}

/// Texts that neighbouring rows have in common: bound by reference count instead of one copy a row.
#[derive(Default)]
struct Shared {
    campaign: Option<(CampaignId, Arc<str>)>,
    currency: Option<(Currency, Arc<str>)>,
}

fn shared<K: Copy + PartialEq>(last: &mut Option<(K, Arc<str>)>, key: K, text: &str) -> Arc<str> {
    match last {
        Some((known, text)) if *known == key => Arc::clone(text),
        _ => {
            let text: Arc<str> = text.into();
            *last = Some((key, Arc::clone(&text)));
            text
        }
    }
}

/// What never changes of a claim.
fn bind<'q>(query: Bound<'q>, row: &ClaimRow, texts: &mut Shared) -> Bound<'q> {
    let claim = &row.claim;
    query
        .bind(claim.seq.0 as i64)
        .bind(claim.claim_id.to_string())
        .bind(shared(&mut texts.campaign, row.campaign, row.campaign.as_str()))
        .bind(i64::from(claim.campaign.0))
        .bind(claim.user.as_str().to_owned())
        .bind(claim.quantity.0 as i64)
        .bind(claim.amount.map(|m| m.0))
        .bind(row.currency.map(|c| shared(&mut texts.currency, c, c.as_str())))
        .bind(claim.accepted_at.to_string())
        .bind(i64::from(claim.receipt_key))
        .bind(durability(claim.durability))
        .bind(claim.key.map(|k| k.0.to_be_bytes().to_vec()))
}

fn durability(durability: Durability) -> Arc<str> {
    static WORDS: LazyLock<[Arc<str>; 2]> =
        LazyLock::new(|| [Durability::Disk, Durability::Memory].map(|d| d.as_str().into()));
    Arc::clone(&WORDS[usize::from(durability == Durability::Memory)])
}

/// The claims that are not there yet.
pub(super) async fn without_known<'a>(
    sql: &mut SqliteConnection,
    claims: Vec<&'a ClaimRow>,
) -> Result<Vec<&'a ClaimRow>, StoreError> {
    // Only what never changes is compared: status and hold move on in the database.
    let same = "SELECT seq IS ? AND campaign IS ? AND user_id IS ? AND quantity IS ? AND amount IS ? AND currency IS ? \
                AND accepted_at IS ? AND receipt_key IS ? AND durability IS ? AND idempotency_key IS ? AND (hold IS \
                NULL OR hold IS ?) FROM claims WHERE claim_id = ?";
    let mut new = Vec::with_capacity(claims.len());
    for row in claims {
        let claim = &row.claim;
        let found: Option<bool> = sqlx::query_scalar(same)
            .bind(claim.seq.0 as i64)
            .bind(row.campaign.as_str())
            .bind(claim.user.as_str())
            .bind(claim.quantity.0 as i64)
            .bind(claim.amount.map(|m| m.0))
            .bind(row.currency.map(|c| c.as_str().to_owned()))
            .bind(claim.accepted_at.to_string())
            .bind(i64::from(claim.receipt_key))
            .bind(claim.durability.as_str())
            .bind(claim.key.map(|k| k.0.to_be_bytes().to_vec()))
            .bind(i64::from(claim.hold))
            .bind(claim.claim_id.to_string())
            .fetch_optional(&mut *sql)
            .await
            .map_err(before)?;
        match found {
            None => new.push(row),
            Some(true) => {}
            Some(false) => {
                let text =
                    format!("claim {} (entry {}) is there already, with other content", claim.claim_id, claim.seq);
                return Err(StoreError::Row(text));
            }
        }
    }
    Ok(new)
}
