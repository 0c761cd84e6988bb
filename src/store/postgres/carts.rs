//! Carts: a line is set to what it is after an operation, unless the cart has a later one already.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Row as _};

use super::super::{CartRow, StoreError, StoredCart};
use super::error::before;
use super::read::number;
use crate::sale::{Seq, Sku, UserId};

/// A line is set where the buyer's cart is older than the operation. The cart's own position is read before it is moved.
const LINES: &str = "INSERT INTO cart_items (user_id, sku, quantity, seq) SELECT v.user_id, v.sku, v.quantity, v.seq \
                     FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS v (user_id, sku, quantity, seq) \
                     LEFT JOIN carts ON carts.user_id = v.user_id WHERE carts.seq IS NULL OR carts.seq < v.seq \
                     ON CONFLICT (user_id, sku) DO UPDATE SET quantity = excluded.quantity, seq = excluded.seq \
                     WHERE excluded.seq > cart_items.seq";

const GONE: &str = "DELETE FROM cart_items USING unnest($1::text[], $2::text[], $3::bigint[]) AS v (user_id, sku, seq) \
                    WHERE cart_items.user_id = v.user_id AND cart_items.sku = v.sku AND cart_items.seq < v.seq";

const CARTS: &str = "INSERT INTO carts (user_id, seq) SELECT * FROM unnest($1::text[], $2::bigint[]) \
                     ON CONFLICT (user_id) DO UPDATE SET seq = excluded.seq WHERE excluded.seq > carts.seq";

/// Writes the operations of a batch.
pub(super) async fn write(sql: &mut PgConnection, rows: &[&CartRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    // Of several about one line only the last is written; of those that are written, as others may be dead.
    let lines: BTreeMap<(UserId, Sku), &CartRow> = rows.iter().map(|row| ((row.user, row.sku), *row)).collect();
    let (set, gone): (Vec<&CartRow>, Vec<&CartRow>) = lines.into_values().partition(|row| row.quantity > 0);
    let users = |rows: &[&CartRow]| -> Vec<String> { rows.iter().map(|row| row.user.as_str().to_owned()).collect() };
    let skus = |rows: &[&CartRow]| -> Vec<String> { rows.iter().map(|row| row.sku.as_str().to_owned()).collect() };
    let seqs = |rows: &[&CartRow]| -> Vec<i64> { rows.iter().map(|row| row.seq.0 as i64).collect() };
    if !set.is_empty() {
        let quantities: Vec<i64> = set.iter().map(|row| i64::from(row.quantity)).collect();
        let query = sqlx::query(LINES).bind(users(&set)).bind(skus(&set)).bind(quantities).bind(seqs(&set));
        query.execute(&mut *sql).await.map_err(before)?;
    }
    if !gone.is_empty() {
        let query = sqlx::query(GONE).bind(users(&gone)).bind(skus(&gone)).bind(seqs(&gone));
        query.execute(&mut *sql).await.map_err(before)?;
    }
    // Of several of a buyer's the last one stays.
    let last: BTreeMap<UserId, Seq> = rows.iter().map(|row| (row.user, row.seq)).collect();
    let (users, seqs): (Vec<String>, Vec<i64>) =
        last.iter().map(|(user, seq)| (user.as_str().to_owned(), seq.0 as i64)).unzip();
    sqlx::query(CARTS).bind(users).bind(seqs).execute(sql).await.map(|_| ()).map_err(before)
}

/// A buyer's cart, its lines by sku.
pub(super) async fn read(sql: &mut PgConnection, user: UserId) -> Result<StoredCart, StoreError> {
    let text = "SELECT carts.seq, sku, quantity FROM carts LEFT JOIN cart_items ON cart_items.user_id = carts.user_id \
                WHERE carts.user_id = $1 ORDER BY sku";
    let rows = sqlx::query(text).bind(user.as_str().to_owned()).fetch_all(sql).await.map_err(before)?;
    let mut cart = StoredCart::default();
    for row in &rows {
        let line = || {
            let version = Seq(number(row, 0)?);
            let line = match row.try_get::<Option<&str>, _>(1).ok()? {
                None => None,
                Some(sku) => Some((Sku::parse(sku).ok()?, number(row, 2)?)),
            };
            Some((version, line))
        };
        let (version, line) =
            line().ok_or_else(|| StoreError::Outage(format!("the cart of {user} was changed by hand")))?;
        cart.version = version;
        cart.lines.extend(line);
    }
    Ok(cart)
}

/// Buyers who have had a cart, behind `after`; how many there are in all is counted where none is asked for.
pub(super) async fn owners(
    sql: &mut PgConnection,
    after: Option<UserId>,
    limit: u32,
) -> Result<(Vec<UserId>, u64), StoreError> {
    if limit == 0 {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM carts").fetch_one(&mut *sql).await.map_err(before)?;
        return Ok((Vec::new(), count.unsigned_abs()));
    }
    let after = after.map_or(String::new(), |user| user.as_str().to_owned());
    let text = "SELECT user_id FROM carts WHERE user_id > $1 ORDER BY user_id LIMIT $2";
    let rows = sqlx::query(text).bind(after).bind(i64::from(limit)).fetch_all(sql).await.map_err(before)?;
    let user = |row| UserId::parse(sqlx::Row::try_get(row, 0).ok()?).ok();
    let unreadable = || StoreError::Outage("carts was changed by hand".to_owned());
    let users: Result<_, _> = rows.iter().map(|row| user(row).ok_or_else(unreadable)).collect();
    Ok((users?, 0))
}
