//! A batch's part in its campaigns: creations one by one, everything else in one statement.
//!
//! Sums, restocks, window and state of a campaign arrive together, so that the table's guards (`persisted_units +
//! settled_units <= stock`) are checked once, against what is true after the batch.

use std::collections::BTreeSet;

use sqlx::{PgConnection, Row as _};

use super::super::StoreError;
use super::super::effect::{Effect, Effects, NewCampaign};
use super::error::before;
use super::types::At;
use crate::sale::campaign::AdminState;

const UPDATE: &str = "UPDATE campaigns SET persisted_units = persisted_units + e.pu, \
    persisted_money = persisted_money + e.pm, settled_units = settled_units + e.su, \
    settled_money = settled_money + e.sm, returned_units = returned_units + e.ru, \
    returned_money = returned_money + e.rm, dead_units = dead_units + e.du, dead_money = dead_money + e.dm, \
    stock = stock + e.add_stock, total = total + e.add_total, state = coalesce(e.state, campaigns.state), \
    opens_at = coalesce(e.opens_at, campaigns.opens_at), closes_at = coalesce(e.closes_at, campaigns.closes_at), \
    seq = coalesce(e.seq, campaigns.seq), updated_at = coalesce(e.updated_at, campaigns.updated_at) \
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], \
    $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::timestamptz[], \
    $15::timestamptz[], $16::bigint[], $17::timestamptz[]) \
    AS e (no, id, pu, pm, su, sm, ru, rm, du, dm, add_stock, add_total, state, opens_at, closes_at, seq, updated_at) \
    WHERE campaigns.no = e.no AND campaigns.id = e.id RETURNING campaigns.no";

// A row that is there has only sums, because its creation was in the dead letters: see `insert_sums`.
const INSERT: &str = "INSERT INTO campaigns AS c (no, id, kind, title, state, opens_at, closes_at, per_user_limit, \
    stock, currency, price, total, definition, seq, updated_at, persisted_units, persisted_money, settled_units, \
    settled_money, returned_units, returned_money, dead_units, dead_money) \
    VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13::json,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23) \
    ON CONFLICT (no) DO UPDATE SET kind = excluded.kind, title = excluded.title, state = excluded.state, \
    opens_at = excluded.opens_at, closes_at = excluded.closes_at, per_user_limit = excluded.per_user_limit, \
    stock = excluded.stock, currency = excluded.currency, price = excluded.price, total = excluded.total, \
    definition = excluded.definition, seq = excluded.seq, updated_at = excluded.updated_at, \
    persisted_units = c.persisted_units + excluded.persisted_units, \
    persisted_money = c.persisted_money + excluded.persisted_money, \
    settled_units = c.settled_units + excluded.settled_units, \
    settled_money = c.settled_money + excluded.settled_money, \
    returned_units = c.returned_units + excluded.returned_units, \
    returned_money = c.returned_money + excluded.returned_money, \
    dead_units = c.dead_units + excluded.dead_units, dead_money = c.dead_money + excluded.dead_money \
    WHERE c.definition IS NULL AND c.id = excluded.id";

/// Applies all of them.
pub(super) async fn apply(effects: &Effects<'_>, sql: &mut PgConnection) -> Result<(), StoreError> {
    let (created, others): (Vec<&Effect<'_>>, Vec<_>) = effects.all().partition(|effect| effect.created.is_some());
    for effect in created {
        if let Some((spec, definition)) = &effect.created {
            insert(effect, sql, effect.row(spec, definition)).await?;
        }
    }
    if others.is_empty() {
        return Ok(());
    }
    let there = update(&others, sql).await?;
    for effect in others.iter().filter(|effect| !there.contains(&i64::from(effect.no.0))) {
        insert_sums(effect, sql).await?;
    }
    Ok(())
}

/// The numbers of those for which there was a row.
async fn update(effects: &[&Effect<'_>], sql: &mut PgConnection) -> Result<BTreeSet<i64>, StoreError> {
    fn each<T>(effects: &[&Effect<'_>], get: impl Fn(&Effect<'_>) -> T) -> Vec<T> {
        effects.iter().map(|effect| get(effect)).collect()
    }
    let mut query = sqlx::query(UPDATE)
        .bind(each(effects, |e| i64::from(e.no.0)))
        .bind(each(effects, |e| e.id.as_str().to_owned()));
    for place in 0..4 {
        query = query.bind(each(effects, |e| e.sums[place].units)).bind(each(effects, |e| e.sums[place].money));
    }
    let rows = query
        .bind(each(effects, |e| e.patch.add_stock.unwrap_or(0)))
        .bind(each(effects, |e| e.patch.add_total.unwrap_or(0)))
        .bind(each(effects, |e| e.patch.state.map(|state| AdminState::as_str(state).to_owned())))
        .bind(each(effects, |e| e.patch.opens_at.map(At)))
        .bind(each(effects, |e| e.patch.closes_at.map(At)))
        .bind(each(effects, |e| e.changed.map(|(seq, _)| seq.0 as i64)))
        .bind(each(effects, |e| e.changed.map(|(_, at)| At(at))))
        .fetch_all(sql)
        .await
        .map_err(before)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn insert(effect: &Effect<'_>, sql: &mut PgConnection, row: NewCampaign<'_>) -> Result<(), StoreError> {
    let mut query = sqlx::query(INSERT)
        .bind(i64::from(effect.no.0))
        .bind(effect.id.as_str().to_owned())
        .bind(row.kind)
        .bind(row.title)
        .bind(row.state.as_str())
        .bind(At(row.opens_at))
        .bind(At(row.closes_at))
        .bind(row.per_user_limit)
        .bind(row.stock)
        .bind(row.currency)
        .bind(row.price)
        .bind(row.total)
        .bind(row.definition.to_owned())
        .bind(row.seq.0 as i64)
        .bind(At(row.at));
    for sum in &effect.sums {
        query = query.bind(sum.units).bind(sum.money);
    }
    let done = query.execute(sql).await.map_err(before)?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(effect.is_there()) }
}

/// A campaign whose creation is in the dead letters still has its sums.
async fn insert_sums(effect: &Effect<'_>, sql: &mut PgConnection) -> Result<(), StoreError> {
    let text = "INSERT INTO campaigns (no, id, seq, updated_at, persisted_units, persisted_money, settled_units, \
                settled_money, returned_units, returned_money, dead_units, dead_money) \
                VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12)";
    let mut query = sqlx::query(text)
        .bind(i64::from(effect.no.0))
        .bind(effect.id.as_str().to_owned())
        .bind(effect.last.0.0 as i64)
        .bind(At(effect.last.1));
    for sum in &effect.sums {
        query = query.bind(sum.units).bind(sum.money);
    }
    query.execute(sql).await.map(|_| ()).map_err(before)
}
