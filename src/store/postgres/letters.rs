//! Dead letters: written with the batch that they are of, read, written again as rows, and closed.
//!
//! A claim's letter holds its units until the claim is given back, so only that closes it, or its becoming a row. The
//! other kinds hold none and may be discarded.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::super::effect::{Effects, Place};
use super::super::fold::{self, Owner, Took};
use super::super::letter::{
    ACCEPTED, CART, CLAIM, END, EndColumns, Letter, REQUEUED, closed_as, discarded, fold_again, has_gone_on, is_a_row,
    is_nowhere, resolution, storable, units,
};
use super::super::{CampaignRow, CartRow, ClaimRow, DeadLetter, Dealt, EndRow, LetterEnd, Row, StoreError, payload};
use super::claims::Inserted;
use super::error::before;
use super::read::{number, unreadable};
use super::types::At;
use super::write::{Clean, Tell};
use super::{carts, claims, effect, ends, write};
use crate::clock::{Clock, SystemClock};
use crate::sale::{CampaignId, CampaignNo, ClaimId, Money, Seq, UserId};

/// Writes a row's letter, with what became of its claim in the same batch. Its number is the next one: whoever writes letters
/// has the lock of `forebay_meta`.
pub(super) async fn insert(
    sql: &mut PgConnection,
    row: &Row,
    reason: &str,
    end: Option<&EndRow>,
) -> Result<(), StoreError> {
    let text = "INSERT INTO dead_letters (id, seq, kind, claim_id, campaign, user_id, quantity, amount, at, reason, payload) \
                VALUES ((SELECT coalesce(max(id), 0) + 1 FROM dead_letters),$1,$2,$3,$4,$5,$6,$7,$8,$9,$10::json) \
                RETURNING id";
    let letter = Letter::of(row);
    let id = sqlx::query_scalar(text)
        .bind(letter.seq.0 as i64)
        .bind(letter.kind)
        .bind(letter.claim_id)
        .bind(letter.campaign)
        .bind(letter.user)
        .bind(letter.quantity)
        .bind(letter.amount)
        .bind(At(letter.at))
        .bind(storable(reason))
        .bind(letter.payload)
        .fetch_one(&mut *sql)
        .await
        .map_err(before)?;
    match end {
        Some(end) => set_end(sql, id, end).await,
        None => Ok(()),
    }
}

async fn set_end(sql: &mut PgConnection, id: i64, end: &EndRow) -> Result<(), StoreError> {
    let text = "UPDATE dead_letters SET status = $1, ended_seq = $2, ended_at = $3, ended_by = $4, resolution = $5, \
                resolved_at = CASE WHEN $5 IS NULL THEN NULL ELSE $3 END, \
                resolved_by = CASE WHEN $5 IS NULL THEN NULL ELSE $4 END WHERE id = $6";
    let moved = &end.moved;
    sqlx::query(text)
        .bind(moved.to.status().as_str())
        .bind(end.seq.0 as i64)
        .bind(At(end.at))
        .bind(moved.by.to_string())
        .bind(resolution(moved))
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
pub(super) async fn end(sql: &mut PgConnection, end: &EndRow) -> Result<Took, StoreError> {
    let text = "SELECT id, status, payload::text FROM dead_letters WHERE claim_id = $1 AND kind = $2 \
                AND resolution IS DISTINCT FROM $3";
    let id = end.moved.claim_id;
    let found = sqlx::query(text).bind(id.to_string()).bind(CLAIM).bind(REQUEUED).fetch_optional(&mut *sql).await;
    let Some(found) = found.map_err(before)? else {
        let lost = sqlx::query("SELECT 1 FROM lost_claims WHERE claim_id = $1").bind(id.to_string());
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
            "SELECT id, seq, kind, claim_id, campaign, user_id, quantity, amount, at, reason, payload::text \
             FROM dead_letters WHERE resolution IS NULL AND ",
            $rest
        )
    };
}

/// The open letters after `after`.
pub(super) async fn list(sql: &mut PgConnection, after: u64, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let query = sqlx::query(select!("id > $1 ORDER BY id LIMIT $2")).bind(after).bind(i64::from(limit));
    query.fetch_all(sql).await.map_err(before)?.iter().map(read).collect()
}

/// One open letter.
pub(super) async fn one(sql: &mut PgConnection, id: u64) -> Result<Option<DeadLetter>, StoreError> {
    let Ok(id) = i64::try_from(id) else { return Ok(None) };
    let row = sqlx::query(select!("id = $1")).bind(id).fetch_optional(sql).await;
    row.map_err(before)?.as_ref().map(read).transpose()
}

fn read(row: &PgRow) -> Result<DeadLetter, StoreError> {
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
            at: row.try_get::<At, _>(8).ok()?.0,
            reason: row.try_get(9).ok()?,
            payload: row.try_get(10).ok()?,
        })
    };
    read().ok_or_else(|| unreadable("dead_letters", row))
}

/// Writes a letter's entry as its row: one transaction.
pub(super) async fn requeue(
    sql: &mut PgConnection,
    owner: &Owner,
    id: u64,
    tell: Tell<'_>,
) -> (Result<Dealt, StoreError>, Clean) {
    if let Err(error) = write::begin(sql).await {
        return (Err(error), Clean::No);
    }
    let rewritten = async {
        let change = write::change(sql, owner).await?;
        let is_there = rewrite(sql, id).await?;
        write::check_deferred(sql).await?;
        tell(change);
        Ok(is_there)
    };
    let is_done = rewritten.await;
    close(sql, id, is_done).await
}

/// Ends the transaction in which a letter was dealt with, or was not, because there is no such open one.
async fn close(
    sql: &mut PgConnection,
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
async fn rewrite(sql: &mut PgConnection, id: u64) -> Result<bool, StoreError> {
    let Ok(id) = i64::try_from(id) else { return Ok(false) };
    let text = "SELECT kind, payload::text, status, ended_seq, ended_at, ended_by FROM dead_letters \
                WHERE id = $1 AND resolution IS NULL";
    let found = sqlx::query(text).bind(id).fetch_optional(&mut *sql).await.map_err(before)?;
    let Some(letter) = found else { return Ok(false) };
    let (kind, json): (String, String) = (letter.get(0), letter.get(1));
    match kind.as_str() {
        CLAIM => rewrite_claim(sql, &payload::to_claim(&json)?, &letter).await?,
        END => rewrite_end(sql, &payload::to_end(&json)?).await?,
        CART => rewrite_cart(sql, &payload::to_cart(&json)?).await?,
        _ => rewrite_campaign(sql, &payload::to_campaign(&json)?).await?,
    }
    let text = "UPDATE dead_letters SET resolution = $1, resolved_at = $2 WHERE id = $3";
    let query = sqlx::query(text).bind(REQUEUED).bind(At(SystemClock.now())).bind(id);
    query.execute(sql).await.map(|_| true).map_err(before)
}

async fn rewrite_claim(sql: &mut PgConnection, row: &ClaimRow, letter: &PgRow) -> Result<(), StoreError> {
    let ended = EndColumns {
        status: letter.try_get(2).unwrap_or_default(),
        seq: number(letter, 3),
        at: letter.try_get::<Option<At>, _>(4).ok().flatten().map(|at| at.0),
        by: letter.try_get(5).ok().flatten(),
    };
    let end = ended.of(row)?;
    // A row of this id would be found by its key only: which of the keys it is that is there has to be known.
    if claims::without_known(sql, vec![row]).await?.is_empty() {
        return Err(is_a_row(row));
    }
    let (inserted, place) = match &end {
        None => (claims::insert(sql, &[row], &[]).await?, Place::Persisted),
        Some(end) => (claims::insert(sql, &[], &[(row, end)]).await?, Place::of(end.moved.to)),
    };
    if let Inserted::Double(error) = inserted {
        return Err(error);
    }
    claims::insert_points(sql, &[row]).await?;
    let mut effects = Effects::default();
    effects.revived(row, place);
    effect::apply(&effects, sql).await
}

/// A line is set as long as the cart has no later operation: whether one of those was about this line is not known any more.
async fn rewrite_cart(sql: &mut PgConnection, row: &CartRow) -> Result<(), StoreError> {
    let stands = carts::read(sql, row.user).await?.version;
    if stands > row.seq {
        return Err(has_gone_on(&row.user, row.sku.as_str(), row.quantity, stands));
    }
    carts::write(sql, &[row]).await
}

async fn rewrite_end(sql: &mut PgConnection, end: &EndRow) -> Result<(), StoreError> {
    let mut effects = Effects::default();
    match ends::apply(sql, &[end]).await?[..] {
        [Took::Row] => effects.end(end, Place::Persisted),
        [Took::Letter] => effects.end(end, Place::Dead),
        _ => {}
    }
    effect::apply(&effects, sql).await
}

/// Writes a campaign's creation or change where later changes are there already.
async fn rewrite_campaign(sql: &mut PgConnection, row: &CampaignRow) -> Result<(), StoreError> {
    write::insert_log(sql, row).await?;
    let folded = fold_again(row, log_after(sql, row).await?)?;
    let mut effects = Effects::default();
    for row in &folded {
        effects.log(row)?;
    }
    effect::apply(&effects, sql).await
}

async fn log_after(sql: &mut PgConnection, row: &CampaignRow) -> Result<Vec<CampaignRow>, StoreError> {
    let text = "SELECT seq, campaign, at, action, by, detail::text FROM campaign_log WHERE campaign_no = $1 AND seq > $2 \
                ORDER BY seq";
    let rows = sqlx::query(text).bind(i64::from(row.no.0)).bind(row.seq.0 as i64).fetch_all(sql).await;
    let read = |found: &PgRow| {
        Some(CampaignRow {
            no: CampaignNo(row.no.0),
            id: CampaignId::parse(found.try_get(1).ok()?).ok()?,
            seq: Seq(number(found, 0)?),
            at: found.try_get::<At, _>(2).ok()?.0,
            action: payload::action(found.try_get(3).ok()?)?,
            by: found.try_get(4).ok()?,
            detail: found.try_get(5).ok()?,
        })
    };
    rows.map_err(before)?.iter().map(|row| read(row).ok_or_else(|| unreadable("campaign_log", row))).collect()
}

/// How a letter was dealt with; none for an open one, and where there never was one of that number.
pub(super) async fn closed(sql: &mut PgConnection, id: u64) -> Result<Option<LetterEnd>, StoreError> {
    let Ok(id) = i64::try_from(id) else { return Ok(None) };
    let text = "SELECT resolution FROM dead_letters WHERE id = $1";
    let found: Option<Option<String>> = sqlx::query_scalar(text).bind(id).fetch_optional(sql).await.map_err(before)?;
    Ok(closed_as(found.flatten().as_deref()))
}

/// What to say of a letter that is not open.
async fn dealt_with(sql: &mut PgConnection, id: u64) -> Result<Dealt, StoreError> {
    Ok(closed(sql, id).await?.map_or(Dealt::Unknown, Dealt::Closed))
}

/// Closes an open letter that holds no units. A claim's holds units, and so does one of an end as long as its row or letter
/// still holds what the end says to be free: without it nobody could claim that again. An end that can change nothing, because
/// its claim is not there or has come to another end, can be closed.
pub(super) async fn discard(
    sql: &mut PgConnection,
    owner: &Owner,
    id: u64,
    (by, reason): (&str, &str),
    tell: Tell<'_>,
) -> (Result<Dealt, StoreError>, Clean) {
    if let Err(error) = write::begin(sql).await {
        return (Err(error), Clean::No);
    }
    let discarded = async {
        let change = write::change(sql, owner).await?;
        let is_closed = close_as_discarded(sql, id, by, reason).await?;
        write::check_deferred(sql).await?;
        tell(change);
        Ok(is_closed)
    };
    let is_done = discarded.await;
    close(sql, id, is_done).await
}

/// Whether there was such a letter.
async fn close_as_discarded(sql: &mut PgConnection, id: u64, by: &str, reason: &str) -> Result<bool, StoreError> {
    let text = "UPDATE dead_letters SET resolution = $1, resolved_by = $2, resolved_at = $3 \
                WHERE id = $4 AND resolution IS NULL AND kind <> $5 AND (kind <> $6 OR NOT EXISTS \
                (SELECT 1 FROM claims WHERE claims.claim_id = dead_letters.claim_id AND claims.status = 'persisted') \
                AND NOT EXISTS (SELECT 1 FROM dead_letters AS of_claim WHERE of_claim.claim_id = dead_letters.claim_id \
                AND of_claim.kind = 'claim' AND of_claim.resolution IS NULL AND of_claim.status = 'accepted'))";
    let query = sqlx::query(text)
        .bind(discarded(reason))
        .bind(by.to_owned())
        .bind(At(SystemClock.now()))
        .bind(i64::try_from(id).unwrap_or(i64::MAX))
        .bind(CLAIM)
        .bind(END);
    Ok(query.execute(sql).await.map_err(before)?.rows_affected() == 1)
}

/// How many letters are open.
pub(super) async fn count(sql: &mut PgConnection) -> Result<u64, StoreError> {
    let text = "SELECT count(*) FROM dead_letters WHERE resolution IS NULL";
    let count: i64 = sqlx::query_scalar(text).fetch_one(sql).await.map_err(before)?;
    Ok(count.unsigned_abs())
}
