//! The tables' versions, and whether a database may be used at all.
//!
//! Everything stands in one schema of PostgreSQL's: the first of the search path. What of ours is there is told by the table
//! `forebay_schema`; other programs' tables beside ours are their own business, unless they bear our names.

use sqlx::{PgConnection, Row as _};

use super::super::StoreError;
use super::connection::Purpose;
use super::error::{Moment, before, from_sqlx};
use crate::config::PartitionBy;

/// The migrations, oldest first. One that has been released is never changed.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/postgres/0001_tables.sql"),
    include_str!("../../../migrations/postgres/0002_gates.sql"),
];

/// What makes the table of claims one of partitions.
const BY_DAY: &str = include_str!("../../../migrations/postgres/by_day.sql");

/// The oldest server that this was made for: older ones are not supported by their makers any more.
const LEAST_SERVER: i32 = 130_000;

/// All tables of ours.
pub(super) const TABLES: [&str; 13] = [
    "claims",
    "campaigns",
    "campaign_log",
    "points_ledger",
    "carts",
    "cart_items",
    "dead_letters",
    "forebay_meta",
    "recoveries",
    "lost_claims",
    "gates",
    "shared_secrets",
    "forebay_schema",
];

/// `pg_advisory_lock`'s first number: "FBay". The second is made of the schema's name.
pub(super) const LOCK_CLASS: i32 = 0x4642_6179;

/// What a server and its tables say about themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) server: i32,
    /// How the database writes characters down.
    pub(super) encoding: String,
    /// The schema; none where the search path names none that is there.
    pub(super) schema: Option<String>,
    /// Tables of our names.
    pub(super) tables: i64,
    /// How many scripts have made them; none where that is told nowhere.
    pub(super) version: Option<i32>,
    /// How claims are divided, where that is told.
    pub(super) partition_by: Option<String>,
}

pub(super) async fn find(sql: &mut PgConnection) -> Result<Found, StoreError> {
    let text = "SELECT current_setting('server_version_num')::int, current_schema()::text, \
                (SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
                WHERE nspname = current_schema() AND relkind IN ('r', 'p', 'v') AND relname = ANY ($1)), \
                to_regclass(quote_ident(current_schema()) || '.forebay_schema') IS NOT NULL, \
                current_setting('server_encoding')";
    let names: Vec<String> = TABLES.iter().map(|name| (*name).to_owned()).collect();
    let row = sqlx::query(text).bind(names).fetch_one(&mut *sql).await.map_err(before)?;
    let (server, encoding) = (row.get(0), row.get(4));
    let mut found =
        Found { server, encoding, schema: row.get(1), tables: row.get(2), version: None, partition_by: None };
    if row.get::<Option<bool>, _>(3) == Some(true) {
        let row = sqlx::query("SELECT version, partition_by FROM forebay_schema").fetch_optional(sql).await;
        if let Some(row) = row.map_err(before)? {
            (found.version, found.partition_by) = (Some(row.get(0)), Some(row.get(1)));
        }
    }
    Ok(found)
}

/// Whether claims are divided as the configuration says. That is decided when the tables are made.
pub(super) fn check_partitions(found: &Found, wanted: PartitionBy) -> Result<(), StoreError> {
    match found.partition_by.as_deref() {
        Some(there) if there != wanted.as_str() => Err(StoreError::Fenced(format!(
            "its tables were made with store.partition_by = {there:?}, the configuration says {:?}: that is decided when they \
             are made; set it to {there:?}, or use a new database",
            wanted.as_str()
        ))),
        _ => Ok(()),
    }
}

/// Whether this binary may use the tables for this purpose.
pub(super) fn check(found: &Found, purpose: Purpose) -> Result<(), StoreError> {
    let newest = MIGRATIONS.len() as i32;
    let may_be_old = matches!(purpose, Purpose::Migrate | Purpose::Look | Purpose::Lock);
    if found.server < LEAST_SERVER {
        let (server, least) = (found.server / 10_000, LEAST_SERVER / 10_000);
        return Err(StoreError::Fenced(format!("PostgreSQL {server} is too old; {least} or newer is needed")));
    }
    if found.encoding != "UTF8" {
        // Some text could not be written there, not even into a dead letter.
        return Err(StoreError::Fenced(format!(
            "the database's encoding is {}, it must be UTF8: make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE \
             template0",
            found.encoding
        )));
    }
    if found.schema.is_none() {
        let text =
            "the search path names no schema that is there, or this role may use none: see `options` in store.url";
        return Err(StoreError::Outage(text.to_owned()));
    }
    match found.version {
        None if found.tables == 0 && may_be_old => Ok(()),
        None if found.tables == 0 => {
            Err(StoreError::Outage("an empty database: run `forebay migrate`, or put the right one back".to_owned()))
        }
        None => Err(StoreError::Fenced(
            "tables of another program, with names of ours: store.url must name a database or a schema of its own"
                .to_owned(),
        )),
        Some(version) if version > newest => Err(StoreError::Fenced(format!(
            "its tables have version {version}, made by a newer forebay; this one knows up to {newest}: run the newer one"
        ))),
        Some(version) if version < newest && !may_be_old => Err(StoreError::Outage(format!(
            "its tables have version {version}, {newest} is needed: run `forebay migrate`"
        ))),
        Some(_) => Ok(()),
    }
}

/// Applies what is missing, all in one transaction; tells how many that were.
pub(super) async fn migrate(sql: &mut PgConnection, wanted: PartitionBy) -> Result<u32, StoreError> {
    sqlx::raw_sql("BEGIN").execute(&mut *sql).await.map_err(before)?;
    // One at a time; the lock goes with the transaction.
    let lock = "SELECT pg_advisory_xact_lock($1, hashtext(current_schema() || '.migrate'))";
    sqlx::query(lock).bind(LOCK_CLASS).execute(&mut *sql).await.map_err(before)?;
    // Read again under the lock: another process may have migrated since the check.
    let found = find(sql).await?;
    check(&found, Purpose::Migrate)?;
    check_partitions(&found, wanted)?;
    let done = usize::try_from(found.version.unwrap_or(0)).unwrap_or(usize::MAX);
    let missing = MIGRATIONS.get(done..).unwrap_or_default();
    for script in missing {
        sqlx::raw_sql(*script).execute(&mut *sql).await.map_err(before)?;
    }
    if done == 0 && wanted == PartitionBy::Day {
        sqlx::raw_sql(BY_DAY).execute(&mut *sql).await.map_err(before)?;
    }
    if !missing.is_empty() {
        let text = "INSERT INTO forebay_schema (one, version, partition_by) VALUES (1, $1, $2) \
                    ON CONFLICT (one) DO UPDATE SET version = excluded.version";
        sqlx::query(text)
            .bind(MIGRATIONS.len() as i32)
            .bind(wanted.as_str())
            .execute(&mut *sql)
            .await
            .map_err(before)?;
    }
    sqlx::raw_sql("COMMIT").execute(&mut *sql).await.map_err(|e| from_sqlx(&e, Moment::Commit))?;
    Ok(missing.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tables_of_ours_and_not_newer_than_us_are_used() {
        let newest = MIGRATIONS.len() as i32;
        let verdict = |server, schema: Option<&str>, tables, version, purpose| {
            let (schema, encoding) = (schema.map(str::to_owned), "UTF8".to_owned());
            check(&Found { server, encoding, schema, tables, version, partition_by: None }, purpose)
        };
        let (at, here) = (150_004, Some("public"));
        assert_eq!(verdict(at, here, 0, None, Purpose::Migrate), Ok(()));
        assert_eq!(verdict(at, here, 0, None, Purpose::Look), Ok(()));
        assert!(matches!(verdict(at, here, 0, None, Purpose::Write), Err(StoreError::Outage(_))), "empty");
        assert!(matches!(verdict(at, here, 1, None, Purpose::Migrate), Err(StoreError::Fenced(_))), "others' tables");
        assert_eq!(verdict(at, here, 10, Some(newest), Purpose::Write), Ok(()));
        assert!(matches!(verdict(at, here, 10, Some(newest + 1), Purpose::Look), Err(StoreError::Fenced(_))), "newer");
        assert!(matches!(verdict(at, here, 9, Some(newest - 1), Purpose::Read), Err(StoreError::Outage(_))), "older");
        assert_eq!(verdict(at, here, 9, Some(newest - 1), Purpose::Migrate), Ok(()));
        assert!(matches!(verdict(120_022, here, 0, None, Purpose::Look), Err(StoreError::Fenced(_))), "an old server");
        assert!(matches!(verdict(at, None, 0, None, Purpose::Migrate), Err(StoreError::Outage(_))), "no schema");
    }
}
