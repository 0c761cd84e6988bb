//! Carts: a line is set to what it is after an operation, unless the cart has a later one already.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use sqlx::{Row as _, SqliteConnection};

use super::super::{CartRow, StoreError, StoredCart};
use super::bulk::Bulk;
use super::error::before;
use super::read::{number, unreadable};
use crate::sale::{Seq, Sku, UserId};

/// A line is set where the buyer's cart is older than the operation. The cart's own position is read before it is moved.
static LINES: LazyLock<Bulk> = LazyLock::new(|| {
    let head = "INSERT INTO cart_items (user_id, sku, quantity, seq) \
                SELECT v.column1, v.column2, v.column3, v.column4 FROM (VALUES ";
    let tail = ") v LEFT JOIN carts ON carts.user_id = v.column1 WHERE carts.seq IS NULL OR carts.seq < v.column4 \
                ON CONFLICT (user_id, sku) DO UPDATE SET quantity = excluded.quantity, seq = excluded.seq \
                WHERE excluded.seq > cart_items.seq";
    Bulk::new(head, "(?,?,?,?)", tail)
});

static CARTS: LazyLock<Bulk> = LazyLock::new(|| {
    let tail = " ON CONFLICT (user_id) DO UPDATE SET seq = excluded.seq WHERE excluded.seq > carts.seq";
    Bulk::new("INSERT INTO carts (user_id, seq) VALUES ", "(?,?)", tail)
});

/// Writes the operations of a batch.
pub(super) async fn write(sql: &mut SqliteConnection, rows: &[&CartRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    // Of several about one line only the last is written; of those that are written, as others may be dead.
    let lines: BTreeMap<(UserId, Sku), &CartRow> = rows.iter().map(|row| ((row.user, row.sku), *row)).collect();
    let (set, gone): (Vec<&CartRow>, Vec<&CartRow>) = lines.into_values().partition(|row| row.quantity > 0);
    LINES
        .insert(sql, &set, |query, row| {
            let query = query.bind(row.user.as_str().to_owned()).bind(row.sku.as_str().to_owned());
            query.bind(i64::from(row.quantity)).bind(row.seq.0 as i64)
        })
        .await?;
    for row in gone {
        sqlx::query("DELETE FROM cart_items WHERE user_id = ? AND sku = ? AND seq < ?")
            .bind(row.user.as_str())
            .bind(row.sku.as_str())
            .bind(row.seq.0 as i64)
            .execute(&mut *sql)
            .await
            .map_err(before)?;
    }
    // Of several of a buyer's the last one stays.
    let last: BTreeMap<UserId, Seq> = rows.iter().map(|row| (row.user, row.seq)).collect();
    let last: Vec<_> = last.into_iter().collect();
    CARTS.insert(sql, &last, |query, (user, seq)| query.bind(user.as_str().to_owned()).bind(seq.0 as i64)).await?;
    Ok(())
}

/// A buyer's cart, its lines by sku.
pub(super) async fn read(sql: &mut SqliteConnection, user: &UserId) -> Result<StoredCart, StoreError> {
    let text = "SELECT carts.seq, sku, quantity FROM carts LEFT JOIN cart_items ON cart_items.user_id = carts.user_id \
                WHERE carts.user_id = ? ORDER BY sku";
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
        let (version, line) = line().ok_or_else(|| unreadable("cart_items", row))?;
        cart.version = version;
        cart.lines.extend(line);
    }
    Ok(cart)
}

/// Buyers who have had a cart, behind `after`; how many there are in all is counted where none is asked for.
pub(super) async fn owners(
    sql: &mut SqliteConnection,
    after: Option<&UserId>,
    limit: u32,
) -> Result<(Vec<UserId>, u64), StoreError> {
    if limit == 0 {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM carts").fetch_one(&mut *sql).await.map_err(before)?;
        return Ok((Vec::new(), count.unsigned_abs()));
    }
    let after = after.map_or(String::new(), |user| user.as_str().to_owned());
    let text = "SELECT user_id FROM carts WHERE user_id > ? ORDER BY user_id LIMIT ?";
    let rows = sqlx::query(text).bind(after).bind(limit).fetch_all(sql).await.map_err(before)?;
    let user = |row| UserId::parse(sqlx::Row::try_get(row, 0).ok()?).ok();
    let users: Result<_, _> = rows.iter().map(|row| user(row).ok_or_else(|| unreadable("carts", row))).collect();
    Ok((users?, 0))
}
