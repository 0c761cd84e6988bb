//! Dead letters: written with the batch that they are of, read, written again as rows, and closed.
//!
//! A claim's letter holds its units until the claim is given back, so only that closes it, or its becoming a row. The
//! other kinds hold none and may be discarded.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::super::effect::{Effects, Place};
use super::super::fold::{self, Owner, Took};
use super::super::letter::{
    ACCEPTED, CART, CLAIM, END, EndColumns, Letter, REQUEUED, closed_as, discarded, fold_again, has_gone_on, is_a_row,
    is_nowhere, resolution, units,
};
use super::super::{CampaignRow, CartRow, ClaimRow, DeadLetter, Dealt, EndRow, LetterEnd, Row, StoreError, payload};
use super::connection::Clean;
use super::error::before;
use super::read::{number, unreadable};
use super::{carts, claims, effect, ends, write};
use crate::clock::{Clock, SystemClock};
use crate::sale::{CampaignId, CampaignNo, ClaimId, Money, Seq, Timestamp, UserId};

/// Writes a row's letter, with what became of its claim in the same batch.
pub(super) async fn insert(
    sql: &mut SqliteConnection,
    row: &Row,
    reason: &str,
    end: Option<&EndRow>,
) -> Result<(), StoreError> {
    let text = "INSERT INTO dead_letters (seq, kind, claim_id, campaign, user_id, quantity, amount, at, reason, payload) \
                VALUES (?,?,?,?,?,?,?,?,?,?)";
    let letter = Letter::of(row);
    let query = sqlx::query(text)
        .bind(letter.seq.0 as i64)
        .bind(letter.kind)
        .bind(letter.claim_id)
        .bind(letter.campaign)
        .bind(letter.user)
        .bind(letter.quantity)
        .bind(letter.amount)
        .bind(letter.at.to_string())
        .bind(reason)
        .bind(letter.payload);
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
    sqlx::query(text)
        .bind(moved.to.status().as_str())
        .bind(end.seq.0 as i64)
        .bind(end.at.to_string())
        .bind(moved.by.to_string())
        .bind(resolution(moved))
        .bind(id)
        .execute(sql)
        .await
        .map(|_| ())
        .map_err(before)
}

/// Writes the end of a claim that is no row; one that somebody accepted as lost has nothing to end.
///
/// # Errors
/// [`StoreError::Row`] where it is no dead letter either, or has come to another end.
pub(super) async fn end(sql: &mut SqliteConnection, end: &EndRow) -> Result<Took, StoreError> {
    let text = "SELECT id, status, payload FROM dead_letters WHERE claim_id = ? AND kind = ? AND resolution IS NOT ?";
    let id = end.moved.claim_id;
    let found = sqlx::query(text).bind(id.to_string()).bind(CLAIM).bind(REQUEUED).fetch_optional(&mut *sql).await;
    let Some(found) = found.map_err(before)? else {
        let lost = sqlx::query("SELECT 1 FROM lost_claims WHERE claim_id = ?").bind(id.to_string());
        let is_lost = lost.fetch_optional(&mut *sql).await.map_err(before)?.is_some();
        return if is_lost { Ok(Took::Nothing) } else { Err(is_nowhere(end)) };
    };
    let (letter, status, json): (i64, String, String) = (found.get(0), found.get(1), found.get(2));
    fold::check(&payload::to_claim(&json)?, end)?;
    if status == end.moved.to.status().as_str() {
        return Ok(Took::Nothing);
    }
    if status != ACCEPTED {
        return Err(fold::contradicts(end, &status));
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
            quantity: units(row.try_get(6).ok()?)?,
            amount: row.try_get::<Option<i64>, _>(7).ok()?.map(Money),
            at: Timestamp::parse(row.try_get(8).ok()?).ok()?,
            reason: row.try_get(9).ok()?,
            payload: row.try_get(10).ok()?,
        })
    };
    read().ok_or_else(|| unreadable("dead_letters", row))
}

/// Writes a letter's entry as its row: one transaction.
pub(super) async fn requeue(sql: &mut SqliteConnection, owner: &Owner, id: u64) -> (Result<Dealt, StoreError>, Clean) {
    if let Err(error) = write::begin(sql).await {
        return (Err(error), Clean::No);
    }
    let is_done = match write::check_owner(sql, owner).await {
        Ok(()) => rewrite(sql, id).await,
        Err(error) => Err(error),
    };
    close(sql, id, is_done).await
}

/// Ends the transaction in which a letter was dealt with, or was not, because there is no such open one.
async fn close(
    sql: &mut SqliteConnection,
    id: u64,
    is_done: Result<bool, StoreError>,
) -> (Result<Dealt, StoreError>, Clean) {
    match is_done {
        Ok(true) => match write::commit(sql).await {
            Ok(()) => (Ok(Dealt::Done), Clean::Yes),
            Err(error) => (Err(error), Clean::No),
        },
        Ok(false) => {
            let found = dealt_with(sql, id).await;
            write::rolled_back(sql, found).await
        }
        Err(StoreError::Row(text)) => write::rolled_back(sql, Ok(Dealt::Refused(text))).await,
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
    let text = |i| letter.try_get::<Option<&str>, _>(i).ok().flatten();
    let ended = EndColumns {
        status: text(2).unwrap_or_default(),
        seq: number(letter, 3),
        at: text(4).and_then(|at| Timestamp::parse(at).ok()),
        by: text(5),
    };
    let (new, place) = match ended.of(row)? {
        None => (claims::insert(sql, &[row]).await?, Place::Persisted),
        Some(end) => (claims::insert_ended(sql, &[(row, &end)]).await?, Place::of(end.moved.to)),
    };
    if new == 0 {
        return Err(is_a_row(row));
    }
    claims::insert_points(sql, &[row]).await?;
    let mut effects = Effects::default();
    effects.revived(row, place);
    effect::apply(&effects, sql).await
}

/// A line is set as long as the cart has no later operation: whether one of those was about this line is not known any more.
async fn rewrite_cart(sql: &mut SqliteConnection, row: &CartRow) -> Result<(), StoreError> {
    let stands = carts::read(sql, &row.user).await?.version;
    if stands > row.seq {
        return Err(has_gone_on(&row.user, row.sku.as_str(), row.quantity, stands));
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
    effect::apply(&effects, sql).await
}

/// Writes a campaign's creation or change where later changes are there already.
async fn rewrite_campaign(sql: &mut SqliteConnection, row: &CampaignRow) -> Result<(), StoreError> {
    write::insert_log(sql, row).await?;
    let folded = fold_again(row, log_after(sql, row).await?)?;
    let mut effects = Effects::default();
    for row in &folded {
        effects.log(row)?;
    }
    effect::apply(&effects, sql).await
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

/// How a letter was dealt with; none for an open one, and where there never was one of that number.
pub(super) async fn closed(sql: &mut SqliteConnection, id: u64) -> Result<Option<LetterEnd>, StoreError> {
    let Ok(id) = i64::try_from(id) else { return Ok(None) };
    let text = "SELECT resolution FROM dead_letters WHERE id = ?";
    let found: Option<Option<String>> = sqlx::query_scalar(text).bind(id).fetch_optional(sql).await.map_err(before)?;
    Ok(closed_as(found.flatten().as_deref()))
}

/// What to say of a letter that is not open.
async fn dealt_with(sql: &mut SqliteConnection, id: u64) -> Result<Dealt, StoreError> {
    Ok(closed(sql, id).await?.map_or(Dealt::Unknown, Dealt::Closed))
}

/// Closes an open letter that holds no units. A claim's holds units, and so does one of an end as long
/// as its row or letter still holds what the end says to be free: without it nobody could claim that again. An end that can
/// change nothing, because its claim is not there or has come to another end, can be closed.
pub(super) async fn discard(
    sql: &mut SqliteConnection,
    owner: &Owner,
    id: u64,
    (by, reason): (&str, &str),
) -> (Result<Dealt, StoreError>, Clean) {
    if let Err(error) = write::begin(sql).await {
        return (Err(error), Clean::No);
    }
    let is_done = match write::check_owner(sql, owner).await {
        Ok(()) => close_as_discarded(sql, id, by, reason).await,
        Err(error) => Err(error),
    };
    close(sql, id, is_done).await
}

/// Whether there was such a letter.
async fn close_as_discarded(sql: &mut SqliteConnection, id: u64, by: &str, reason: &str) -> Result<bool, StoreError> {
    let text = "UPDATE dead_letters SET resolution = ?, resolved_by = ?, resolved_at = ? \
                WHERE id = ? AND resolution IS NULL AND kind IS NOT ? AND (kind IS NOT ? OR NOT EXISTS \
                (SELECT 1 FROM claims WHERE claims.claim_id = dead_letters.claim_id AND claims.status = 'persisted') \
                AND NOT EXISTS (SELECT 1 FROM dead_letters AS of_claim WHERE of_claim.claim_id = dead_letters.claim_id \
                AND of_claim.kind = 'claim' AND of_claim.resolution IS NULL AND of_claim.status = 'accepted'))";
    let query = sqlx::query(text)
        .bind(discarded(reason))
        .bind(by.to_owned())
        .bind(SystemClock.now().to_string())
        .bind(i64::try_from(id).unwrap_or(i64::MAX))
        .bind(CLAIM)
        .bind(END);
    Ok(query.execute(sql).await.map_err(before)?.rows_affected() == 1)
}

/// How many letters are open.
pub(super) async fn count(sql: &mut SqliteConnection) -> Result<u64, StoreError> {
    let text = "SELECT count(*) FROM dead_letters WHERE resolution IS NULL";
    let count: i64 = sqlx::query_scalar(text).fetch_one(sql).await.map_err(before)?;
    Ok(count.unsigned_abs())
}
