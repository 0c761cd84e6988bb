//! Statements of many rows: few texts, so that each stays prepared, whatever the batches' sizes.

use sqlx::sqlite::SqliteArguments;
use sqlx::{Sqlite, SqliteConnection, query::Query};

use super::super::StoreError;
use super::error::before;
use crate::limits;

/// A statement whose parameters are being given.
pub(super) type Bound<'q> = Query<'q, Sqlite, SqliteArguments>;

/// SQLite's own bound on parameters in a statement.
const PARAMETERS_MAX: usize = 32_766;
/// Parameters of the widest tuple.
const PARAMETERS_PER_ROW: usize = 17;
const _: () = assert!(limits::STORE_INSERT_ROWS * PARAMETERS_PER_ROW <= PARAMETERS_MAX);
const _: () =
    assert!(limits::STORE_INSERT_ROWS.is_power_of_two() && limits::STORE_INSERT_ROWS.ilog2().is_multiple_of(2));

/// One insert for many rows, in a few sizes, the largest first.
pub(super) struct Bulk(Vec<(usize, String)>);

impl Bulk {
    /// `head` up to `VALUES `, one row's `tuple`, and what follows.
    pub(super) fn new(head: &str, tuple: &str, tail: &str) -> Self {
        assert!(tuple.matches('?').count() <= PARAMETERS_PER_ROW, "a wider tuple than the limits are made for");
        let sizes = std::iter::successors(Some(limits::STORE_INSERT_ROWS), |n| (*n > 1).then_some(n / 4));
        Self(sizes.map(|n| (n, format!("{head}{}{tail}", vec![tuple; n].join(",")))).collect())
    }

    /// Inserts `rows`, whose parameters `bind` gives; tells how many were new.
    pub(super) async fn insert<T: Sync>(
        &'static self,
        sql: &mut SqliteConnection,
        mut rows: &[T],
        mut bind: impl FnMut(Bound<'static>, &T) -> Bound<'static> + Send,
    ) -> Result<u64, StoreError> {
        let mut inserted = 0;
        for (size, text) in &self.0 {
            while let Some((chunk, rest)) = rows.split_at_checked(*size) {
                let mut query = sqlx::query(text.as_str());
                for row in chunk {
                    query = bind(query, row);
                }
                inserted += query.execute(&mut *sql).await.map_err(before)?.rows_affected();
                rows = rest;
            }
        }
        Ok(inserted)
    }
}
