//! Which gates there are, and the secrets that they share.

use sqlx::{PgConnection, Row as _};

use super::super::StoreError;
use super::super::gates::{self, GateRecord, GateState, SharedSecrets};
use super::super::letter::storable;
use super::PostgresStore;
use super::error::before;
use super::types::At;
use super::write::{self, Clean};
use crate::sale::Timestamp;

impl PostgresStore {
    /// See [`crate::store::Database::gates`].
    pub(in crate::store) async fn gates(&self) -> Result<Vec<GateRecord>, StoreError> {
        self.read(|sql| Box::pin(list(sql))).await
    }

    /// See [`crate::store::Database::set_gate`].
    pub(in crate::store) async fn set_gate(
        &self,
        id: u128,
        state: GateState,
        by: &str,
        at: Timestamp,
    ) -> Result<GateState, StoreError> {
        let by = storable(by);
        self.change(move |sql| Box::pin(async move { set(sql, id, state, &by, at).await })).await
    }

    /// See [`crate::store::Database::bindings`].
    pub(in crate::store) async fn bindings(&self) -> Result<u64, StoreError> {
        self.read(|sql| Box::pin(bindings(sql))).await
    }

    /// See [`crate::store::Database::secrets`].
    pub(in crate::store) async fn secrets(&self) -> Result<Option<SharedSecrets>, StoreError> {
        self.read(|sql| Box::pin(secrets(sql))).await
    }

    /// See [`crate::store::Database::put_secrets`].
    pub(in crate::store) async fn put_secrets(&self, new: &SharedSecrets) -> Result<SharedSecrets, StoreError> {
        let new = new.clone();
        self.change(move |sql| Box::pin(async move { put_secrets(sql, &new).await })).await
    }
}

async fn list(sql: &mut PgConnection) -> Result<Vec<GateRecord>, StoreError> {
    let text = "SELECT id, state, by, first_seen, changed_at FROM gates ORDER BY id";
    let rows = sqlx::query(text).fetch_all(sql).await.map_err(before)?;
    let at = |row: &sqlx::postgres::PgRow, i| row.try_get::<At, _>(i).ok().map(|at| at.0);
    rows.iter().map(|row| gates::record((row.get(0), row.get(1), row.get(2)), (at(row, 3), at(row, 4)))).collect()
}

async fn set(
    sql: &mut PgConnection,
    id: u128,
    state: GateState,
    by: &str,
    at: Timestamp,
) -> (Result<GateState, StoreError>, Clean) {
    let id = format!("{id:032x}");
    let work = async {
        write::begin(sql).await?;
        let text = "INSERT INTO gates AS g (id, state, first_seen, changed_at, by) VALUES ($1, $2, $3, $3, $4) \
                    ON CONFLICT (id) DO UPDATE SET state = excluded.state, changed_at = excluded.changed_at, \
                    by = excluded.by WHERE g.state <> 'dismissed' AND g.state <> excluded.state";
        let query = sqlx::query(text).bind(&id).bind(state.as_str()).bind(At(at)).bind(by);
        query.execute(&mut *sql).await.map_err(before)?;
        let text = "SELECT state FROM gates WHERE id = $1";
        let stands: String = sqlx::query_scalar(text).bind(&id).fetch_one(&mut *sql).await.map_err(before)?;
        write::commit(sql).await?;
        gates::state(&id, &stands)
    };
    match work.await {
        Ok(state) => (Ok(state), Clean::Yes),
        Err(error) => (Err(error), Clean::No),
    }
}

async fn bindings(sql: &mut PgConnection) -> Result<u64, StoreError> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT epoch FROM forebay_meta").fetch_optional(sql).await.map_err(before)?;
    Ok(found.map_or(0, i64::unsigned_abs))
}

async fn secrets(sql: &mut PgConnection) -> Result<Option<SharedSecrets>, StoreError> {
    let rows = sqlx::query("SELECT name, value FROM shared_secrets").fetch_all(sql).await.map_err(before)?;
    gates::secrets(&rows.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<_>>())
}

async fn put_secrets(sql: &mut PgConnection, new: &SharedSecrets) -> (Result<SharedSecrets, StoreError>, Clean) {
    let work = async {
        write::begin(sql).await?;
        // Of two that come at once the second waits here for the first one's end, and then finds what that one wrote.
        let text = "LOCK TABLE shared_secrets IN SHARE ROW EXCLUSIVE MODE";
        sqlx::query(text).execute(&mut *sql).await.map_err(before)?;
        if let Some(first) = secrets(sql).await? {
            write::commit(sql).await?;
            return Ok(first);
        }
        for (name, value) in gates::rows(new) {
            let query = sqlx::query("INSERT INTO shared_secrets (name, value) VALUES ($1, $2)").bind(name).bind(value);
            query.execute(&mut *sql).await.map_err(before)?;
        }
        write::commit(sql).await?;
        Ok(new.clone())
    };
    match work.await {
        Ok(stand) => (Ok(stand), Clean::Yes),
        Err(error) => (Err(error), Clean::No),
    }
}
