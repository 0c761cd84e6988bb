//! Dead letters: written with the batch that they are of, read, written again as rows, and closed.
//!
//! A claim's letter holds its units until the claim is given back, so only that closes it, or its becoming a row. The
//! other kinds hold none and may be discarded.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::super::{CampaignRow, CartRow, ClaimRow, DeadLetter, EndRow, Requeued, Row, StoreError};
use super::connection::Clean;
use super::effect::{Effects, Place};
use super::ends::{self, Took};
use super::error::before;
use super::read::{number, unreadable};
use super::{carts, claims, payload, write};
use crate::clock::{Clock, SystemClock};
use crate::sale::campaign::CampaignPatch;
use crate::sale::{CampaignId, CampaignNo, ClaimId, Money, Moved, Seq, Timestamp, Units, UserId};

const CLAIM: &str = "claim";
const END: &str = "end";
const CAMPAIGN: &str = "campaign";
const CART: &str = "cart";
const ACCEPTED: &str = "accepted";
const REQUEUED: &str = "requeued";

/// Writes a row's letter, with what became of its claim in the same batch.
pub(super) async fn insert(
    sql: &mut SqliteConnection,
    row: &Row,
    reason: &str,
    end: Option<&EndRow>,
) -> Result<(), StoreError> {
    let text = "INSERT INTO dead_letters (seq, kind, claim_id, campaign, user_id, quantity, amount, at, reason, payload) \
                VALUES (?,?,?,?,?,?,?,?,?,?)";
    let query = sqlx::query(text).bind(row.seq().0 as i64);
    let query = match row {
        Row::Claim(row) => query
            .bind(CLAIM)
            .bind(row.claim.claim_id.to_string())
            .bind(row.campaign.as_str())
            .bind(row.claim.user.as_str())
            .bind(row.claim.quantity.0 as i64)
            .bind(row.claim.amount.map(|m| m.0))
            .bind(row.claim.accepted_at.to_string())
            .bind(reason)
            .bind(payload::of_claim(row)),
        Row::End(row) => query
            .bind(END)
            .bind(row.moved.claim_id.to_string())
            .bind(row.campaign.as_str())
            .bind(None::<String>)
            .bind(row.moved.quantity.0 as i64)
            .bind(row.moved.amount.map(|m| m.0))
            .bind(row.at.to_string())
            .bind(reason)
            .bind(payload::of_end(row)),
        Row::Cart(row) => query
            .bind(CART)
            .bind(None::<String>)
            .bind("")
            .bind(row.user.as_str())
            .bind(None::<i64>)
            .bind(None::<i64>)
            .bind(row.at.to_string())
            .bind(reason)
            .bind(payload::of_cart(row)),
        Row::Campaign(row) => query
            .bind(CAMPAIGN)
            .bind(None::<String>)
            .bind(row.id.as_str())
            .bind(None::<String>)
            .bind(None::<i64>)
            .bind(None::<i64>)
            .bind(row.at.to_string())
            .bind(reason)
            .bind(payload::of_campaign(row)),
    };
    let id = query.execute(&mut *sql).await.map_err(before)?.last_insert_rowid();
    match end {
        Some(end) => set_end(sql, id, end).await,
        None => Ok(()),
    }
}

async fn set_end(sql: &mut SqliteConnection, id: i64, end: &EndRow) -> Result<(), StoreError> {
    let text = "UPDATE dead_letters SET status = ?1, ended_seq = ?2, ended_at = ?3, ended_by = ?4, resolution = ?5, \
                resolved_at = CASE WHEN ?5 IS NULL THEN NULL ELSE ?3 END, \
                resolved_by = CASE WHEN ?5 IS NULL THEN NULL ELSE ?4 END WHERE id = ?6";
    let moved = &end.moved;
    let status = moved.to.status().as_str();
    let resolution = moved.to.returns_units().then(|| match &*moved.reason {
        "" => status.to_owned(),
        reason => format!("{status}: {reason}"),
    });
    sqlx::query(text)
        .bind(status)
        .bind(end.seq.0 as i64)
        .bind(end.at.to_string())
        .bind(moved.by.to_string())
        .bind(resolution)
        .bind(id)
        .execute(sql)
        .await
        .map(|_| ())
        .map_err(before)
}

/// Writes the end of a claim that is no row.
///
/// # Errors
/// [`StoreError::Row`] where it is no dead letter either, or has come to another end.
pub(super) async fn end(sql: &mut SqliteConnection, end: &EndRow) -> Result<Took, StoreError> {
    let text = "SELECT id, status, payload FROM dead_letters WHERE claim_id = ? AND kind = ? AND resolution IS NOT ?";
    let id = end.moved.claim_id;
    let found = sqlx::query(text).bind(id.to_string()).bind(CLAIM).bind(REQUEUED).fetch_optional(&mut *sql).await;
    let Some(found) = found.map_err(before)? else {
        let text = format!("entry {} ends claim {id}, which is neither a row nor a dead letter", end.seq);
        return Err(StoreError::Row(text));
    };
    let (letter, status, json): (i64, String, String) = (found.get(0), found.get(1), found.get(2));
    ends::check(&payload::to_claim(&json)?, end)?;
    if status == end.moved.to.status().as_str() {
        return Ok(Took::Nothing);
    }
    if status != ACCEPTED {
        return Err(ends::contradicts(end, &status));
    }
    set_end(sql, letter, end).await?;
    Ok(Took::Letter)
}

/// The columns that [`read`] takes.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, seq, kind, claim_id, campaign, user_id, quantity, amount, at, reason, payload FROM dead_letters \
             WHERE resolution IS NULL AND ",
            $rest
        )
    };
}

/// The open letters after `after`.
pub(super) async fn list(sql: &mut SqliteConnection, after: u64, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let rows = sqlx::query(select!("id > ? ORDER BY id LIMIT ?")).bind(after).bind(limit).fetch_all(sql).await;
    rows.map_err(before)?.iter().map(read).collect()
}

/// One open letter.
pub(super) async fn one(sql: &mut SqliteConnection, id: u64) -> Result<Option<DeadLetter>, StoreError> {
    let Ok(id) = i64::try_from(id) else { return Ok(None) };
    let row = sqlx::query(select!("id = ?")).bind(id).fetch_optional(sql).await;
    row.map_err(before)?.as_ref().map(read).transpose()
}

fn read(row: &SqliteRow) -> Result<DeadLetter, StoreError> {
    let read = || {
        let claim_id = match row.try_get::<Option<&str>, _>(3).ok()? {
            None => None,
            Some(text) => Some(ClaimId::parse(text)?),
        };
        let user = match row.try_get::<Option<&str>, _>(5).ok()? {
            None => None,
            Some(text) => Some(UserId::parse(text).ok()?),
        };
        let quantity = match row.try_get::<Option<i64>, _>(6).ok()? {
            None => None,
            Some(units) => Some(Units(u64::try_from(units).ok()?)),
        };
        Some(DeadLetter {
            id: number(row, 0)?,
            seq: Seq(number(row, 1)?),
            kind: row.try_get(2).ok()?,
            claim_id,
            campaign: match row.try_get(4).ok()? {
                "" => None,
                name => Some(CampaignId::parse(name).ok()?),
            },
            user,
            quantity,
            amount: row.try_get::<Option<i64>, _>(7).ok()?.map(Money),
            at: Timestamp::parse(row.try_get(8).ok()?).ok()?,
            reason: row.try_get(9).ok()?,
            payload: row.try_get(10).ok()?,
        })
    };
    read().ok_or_else(|| unreadable("dead_letters", row))
}

/// Writes a letter's entry as its row: one transaction.
pub(super) async fn requeue(sql: &mut SqliteConnection, id: u64) -> (Result<Requeued, StoreError>, Clean) {
    if let Err(error) = write::begin(sql).await {
        return (Err(error), Clean::No);
    }
    match rewrite(sql, id).await {
        Ok(true) => match write::commit(sql).await {
            Ok(()) => (Ok(Requeued::Done), Clean::Yes),
            Err(error) => (Err(error), Clean::No),
        },
        Ok(false) => write::rolled_back(sql, Ok(Requeued::Unknown)).await,
        Err(StoreError::Row(text)) => write::rolled_back(sql, Ok(Requeued::Refused(text))).await,
        Err(error) => write::rolled_back(sql, Err(error)).await,
    }
}

/// Whether there is such an open letter; then it is a row now.
async fn rewrite(sql: &mut SqliteConnection, id: u64) -> Result<bool, StoreError> {
    let Ok(id) = i64::try_from(id) else { return Ok(false) };
    let text = "SELECT kind, payload, status, ended_seq, ended_at, ended_by FROM dead_letters \
                WHERE id = ? AND resolution IS NULL";
    let found = sqlx::query(text).bind(id).fetch_optional(&mut *sql).await.map_err(before)?;
    let Some(letter) = found else { return Ok(false) };
    let (kind, json): (String, String) = (letter.get(0), letter.get(1));
    match kind.as_str() {
        CLAIM => rewrite_claim(sql, &payload::to_claim(&json)?, &letter).await?,
        END => rewrite_end(sql, &payload::to_end(&json)?).await?,
        CART => rewrite_cart(sql, &payload::to_cart(&json)?).await?,
        _ => rewrite_campaign(sql, &payload::to_campaign(&json)?).await?,
    }
    let text = "UPDATE dead_letters SET resolution = ?, resolved_at = ? WHERE id = ?";
    let query = sqlx::query(text).bind(REQUEUED).bind(SystemClock.now().to_string()).bind(id);
    query.execute(sql).await.map(|_| true).map_err(before)
}

async fn rewrite_claim(sql: &mut SqliteConnection, row: &ClaimRow, letter: &SqliteRow) -> Result<(), StoreError> {
    let (new, place) = match end_of(row, letter)? {
        None => (claims::insert(sql, &[row]).await?, Place::Persisted),
        Some(end) => (claims::insert_ended(sql, &[(row, &end)]).await?, Place::of(end.moved.to)),
    };
    if new == 0 {
        let text = format!("claim {} is a row already, which nobody has counted: remove it first", row.claim.claim_id);
        return Err(StoreError::Row(text));
    }
    claims::insert_points(sql, &[row]).await?;
    let mut effects = Effects::default();
    effects.revived(row, place);
    effects.apply(sql).await
}

/// What has become of a dead claim: an open letter's may have been paid.
fn end_of(row: &ClaimRow, letter: &SqliteRow) -> Result<Option<EndRow>, StoreError> {
    let status: &str = letter.get(2);
    if status == ACCEPTED {
        return Ok(None);
    }
    let claim = &row.claim;
    let read = || {
        let moved = Moved {
            claim_id: claim.claim_id,
            campaign: claim.campaign,
            quantity: claim.quantity,
            amount: claim.amount,
            to: payload::fate(status)?,
            by: letter.try_get::<&str, _>(5).ok()?.into(),
            reason: Box::default(),
        };
        let at = Timestamp::parse(letter.try_get(4).ok()?).ok()?;
        Some(EndRow { seq: Seq(number(letter, 3)?), at, campaign: row.campaign, moved })
    };
    read().map(Some).ok_or_else(|| {
        StoreError::Outage(format!("the dead letter of claim {} was changed by hand: {status:?}", claim.claim_id))
    })
}

/// A line is set as long as the cart has no later operation: whether one of those was about this line is not known any more.
async fn rewrite_cart(sql: &mut SqliteConnection, row: &CartRow) -> Result<(), StoreError> {
    let stands = carts::read(sql, &row.user).await?.version;
    if stands > row.seq {
        let text = format!(
            "the cart of {} has gone on to entry {stands}: have the buyer set {} to {} again, then drop this letter",
            row.user, row.sku, row.quantity
        );
        return Err(StoreError::Row(text));
    }
    carts::write(sql, &[row]).await
}

async fn rewrite_end(sql: &mut SqliteConnection, end: &EndRow) -> Result<(), StoreError> {
    let mut effects = Effects::default();
    match ends::apply(sql, end).await? {
        Took::Row => effects.end(end, Place::Persisted),
        Took::Letter => effects.end(end, Place::Dead),
        Took::Nothing => {}
    }
    effects.apply(sql).await
}

/// Writes a campaign's creation or change where later changes are there already, which stay the last word: they are folded
/// behind it again. A later restock has counted, unless there was no stock yet to add to.
async fn rewrite_campaign(sql: &mut SqliteConnection, row: &CampaignRow) -> Result<(), StoreError> {
    write::insert_log(sql, row).await?;
    let mut folded = vec![row.clone()];
    for mut later in log_after(sql, row).await? {
        if row.action != "created" {
            let wrong = |e: crate::sale::FieldError| StoreError::Row(format!("entry {}: {e}", later.seq));
            let patch = CampaignPatch::parse(later.detail.as_bytes()).map_err(wrong)?;
            let patch = CampaignPatch { add_stock: None, add_total: None, ..patch };
            if patch == CampaignPatch::default() {
                continue;
            }
            later.detail = patch.to_json().to_string();
        }
        folded.push(later);
    }
    let mut effects = Effects::default();
    for row in &folded {
        effects.log(row)?;
    }
    effects.apply(sql).await
}

async fn log_after(sql: &mut SqliteConnection, row: &CampaignRow) -> Result<Vec<CampaignRow>, StoreError> {
    let text = "SELECT seq, campaign, at, action, by, detail FROM campaign_log WHERE campaign_no = ? AND seq > ? \
                ORDER BY seq";
    let rows = sqlx::query(text).bind(i64::from(row.no.0)).bind(row.seq.0 as i64).fetch_all(sql).await;
    let read = |found: &SqliteRow| {
        Some(CampaignRow {
            no: CampaignNo(row.no.0),
            id: CampaignId::parse(found.try_get(1).ok()?).ok()?,
            seq: Seq(number(found, 0)?),
            at: Timestamp::parse(found.try_get(2).ok()?).ok()?,
            action: payload::action(found.try_get(3).ok()?)?,
            by: found.try_get(4).ok()?,
            detail: found.try_get(5).ok()?,
        })
    };
    rows.map_err(before)?.iter().map(|row| read(row).ok_or_else(|| unreadable("campaign_log", row))).collect()
}

/// Closes an open letter of a campaign or a cart; whether there was one. A claim's holds units, and an end's says that units are
/// free which its row still holds: without it nobody could claim them again.
pub(super) async fn discard(
    sql: &mut SqliteConnection,
    id: u64,
    by: &str,
    reason: &str,
) -> (Result<bool, StoreError>, Clean) {
    let text = "UPDATE dead_letters SET resolution = ?, resolved_by = ?, resolved_at = ? \
                WHERE id = ? AND resolution IS NULL AND kind NOT IN (?, ?)";
    let resolution = if reason.is_empty() { "discarded".to_owned() } else { format!("discarded: {reason}") };
    let query = sqlx::query(text)
        .bind(resolution)
        .bind(by.to_owned())
        .bind(SystemClock.now().to_string())
        .bind(i64::try_from(id).unwrap_or(i64::MAX))
        .bind(CLAIM)
        .bind(END);
    match query.execute(sql).await {
        Ok(done) => (Ok(done.rows_affected() == 1), Clean::Yes),
        Err(error) => (Err(before(error)), Clean::No),
    }
}

/// How many letters are open.
pub(super) async fn count(sql: &mut SqliteConnection) -> Result<u64, StoreError> {
    let text = "SELECT count(*) FROM dead_letters WHERE resolution IS NULL";
    let count: i64 = sqlx::query_scalar(text).fetch_one(sql).await.map_err(before)?;
    Ok(count.unsigned_abs())
}
