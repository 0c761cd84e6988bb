//! A batch's part in a campaign, as one statement.
//!
//! Sums, restocks, window and state arrive together, so that the table's guards (`persisted_units <= stock`) are
//! checked once, against what is true after the batch.

use sqlx::SqliteConnection;

use super::super::StoreError;
use super::super::effect::{Effect, Effects, NewCampaign};
use super::bulk::Bound;
use super::error::before;
use crate::sale::campaign::AdminState;

/// One statement a campaign.
pub(super) async fn apply(effects: &Effects<'_>, sql: &mut SqliteConnection) -> Result<(), StoreError> {
    for effect in effects.all() {
        match &effect.created {
            Some((spec, definition)) => insert(effect, sql, effect.row(spec, definition)).await?,
            None if update(effect, sql).await? => {}
            None => insert_sums(effect, sql).await?,
        }
    }
    Ok(())
}

/// Units and money of each place, in the places' order.
fn bind_sums<'q>(effect: &Effect<'_>, query: Bound<'q>) -> Bound<'q> {
    effect.sums.iter().fold(query, |query, sum| query.bind(sum.units).bind(sum.money))
}

async fn insert(effect: &Effect<'_>, sql: &mut SqliteConnection, row: NewCampaign<'_>) -> Result<(), StoreError> {
    // A row that is there has only sums, because its creation was in the dead letters: see `insert_sums`.
    let text = "INSERT INTO campaigns (no, id, kind, title, state, opens_at, closes_at, per_user_limit, stock, \
                currency, price, total, definition, seq, updated_at, persisted_units, persisted_money, \
                settled_units, settled_money, returned_units, returned_money, dead_units, dead_money) \
                VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) \
                ON CONFLICT (no) DO UPDATE SET kind = excluded.kind, title = excluded.title, \
                state = excluded.state, opens_at = excluded.opens_at, closes_at = excluded.closes_at, \
                per_user_limit = excluded.per_user_limit, stock = excluded.stock, currency = excluded.currency, \
                price = excluded.price, total = excluded.total, definition = excluded.definition, \
                seq = excluded.seq, updated_at = excluded.updated_at, \
                persisted_units = persisted_units + excluded.persisted_units, \
                persisted_money = persisted_money + excluded.persisted_money, \
                settled_units = settled_units + excluded.settled_units, \
                settled_money = settled_money + excluded.settled_money, \
                returned_units = returned_units + excluded.returned_units, \
                returned_money = returned_money + excluded.returned_money, \
                dead_units = dead_units + excluded.dead_units, dead_money = dead_money + excluded.dead_money \
                WHERE definition IS NULL AND id = excluded.id";
    let query = sqlx::query(text)
        .bind(i64::from(effect.no.0))
        .bind(effect.id.as_str())
        .bind(row.kind)
        .bind(row.title)
        .bind(row.state.as_str())
        .bind(row.opens_at.to_string())
        .bind(row.closes_at.to_string())
        .bind(row.per_user_limit)
        .bind(row.stock)
        .bind(row.currency)
        .bind(row.price)
        .bind(row.total)
        .bind(row.definition)
        .bind(row.seq.0 as i64)
        .bind(row.at.to_string());
    let done = bind_sums(effect, query).execute(sql).await.map_err(before)?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(effect.is_there()) }
}

/// Whether there was a row to update.
async fn update(effect: &Effect<'_>, sql: &mut SqliteConnection) -> Result<bool, StoreError> {
    let text = "UPDATE campaigns SET persisted_units = persisted_units + ?1, persisted_money = persisted_money + ?2, \
                settled_units = settled_units + ?3, settled_money = settled_money + ?4, \
                returned_units = returned_units + ?5, returned_money = returned_money + ?6, \
                dead_units = dead_units + ?7, dead_money = dead_money + ?8, stock = stock + ?9, total = total + ?10, \
                state = coalesce(?11, state), opens_at = coalesce(?12, opens_at), \
                closes_at = coalesce(?13, closes_at), seq = coalesce(?14, seq), \
                updated_at = coalesce(?15, updated_at) WHERE no = ?16 AND id = ?17";
    let done = bind_sums(effect, sqlx::query(text))
        .bind(effect.patch.add_stock.unwrap_or(0))
        .bind(effect.patch.add_total.unwrap_or(0))
        .bind(effect.patch.state.map(AdminState::as_str))
        .bind(effect.patch.opens_at.map(|t| t.to_string()))
        .bind(effect.patch.closes_at.map(|t| t.to_string()))
        .bind(effect.changed.map(|(seq, _)| seq.0 as i64))
        .bind(effect.changed.map(|(_, at)| at.to_string()))
        .bind(i64::from(effect.no.0))
        .bind(effect.id.as_str())
        .execute(sql)
        .await
        .map_err(before)?;
    Ok(done.rows_affected() == 1)
}

/// A campaign whose creation is in the dead letters still has its sums.
async fn insert_sums(effect: &Effect<'_>, sql: &mut SqliteConnection) -> Result<(), StoreError> {
    let text = "INSERT INTO campaigns (no, id, seq, updated_at, persisted_units, persisted_money, settled_units, \
                settled_money, returned_units, returned_money, dead_units, dead_money) \
                VALUES (?,?,?,?,?,?,?,?,?,?,?,?)";
    let query = sqlx::query(text)
        .bind(i64::from(effect.no.0))
        .bind(effect.id.as_str())
        .bind(effect.last.0.0 as i64)
        .bind(effect.last.1.to_string());
    bind_sums(effect, query).execute(sql).await.map(|_| ()).map_err(before)
}
