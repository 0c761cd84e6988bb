//! The tables' versions, and whether a file may be used at all.
//!
//! A file of ours carries [`APPLICATION_ID`], and in `user_version` the number of migrations that made it. The scripts
//! are embedded one by one rather than by folder: a folder that grows a file does not make the compiler look again.

use sqlx::SqliteConnection;

use super::super::StoreError;
use super::error::{Moment, before, from_sqlx};

/// "FBay" in the file's header: `file` and we can tell it from other programs' databases.
pub(super) const APPLICATION_ID: i64 = 0x4642_6179;

/// The migrations, oldest first. One that has been released is never changed.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/sqlite/0001_claims.sql"),
    include_str!("../../../migrations/sqlite/0002_ends.sql"),
    include_str!("../../../migrations/sqlite/0003_carts.sql"),
    include_str!("../../../migrations/sqlite/0004_pair.sql"),
    include_str!("../../../migrations/sqlite/0005_mark.sql"),
    include_str!("../../../migrations/sqlite/0006_gates.sql"),
];

/// SQLite before this could corrupt a database whose write-ahead log is reset while another connection writes
/// (<https://sqlite.org/wal.html>, "The WAL-reset bug").
const LEAST_LIBRARY: (u32, u32, u32) = (3, 51, 3);

/// What an open file and the library say about themselves.
pub(super) struct Found {
    pub(super) library: String,
    pub(super) application: i64,
    pub(super) version: i64,
    pub(super) objects: i64,
}

/// Whether this binary may use the file; with `to_migrate`, whether it may bring the file up to date.
pub(super) fn check(found: &Found, to_migrate: bool) -> Result<(), StoreError> {
    let newest = MIGRATIONS.len() as i64;
    if !library_is_safe(&found.library) {
        let (a, b, c) = LEAST_LIBRARY;
        let text = format!("SQLite {} can corrupt a write-ahead log; {a}.{b}.{c} or newer is needed", found.library);
        return Err(StoreError::Fenced(text));
    }
    if found.application == 0 && found.objects == 0 {
        let text = "an empty database: run `forebay migrate`, or put the right file back";
        return if to_migrate { Ok(()) } else { Err(StoreError::Outage(text.to_owned())) };
    }
    if found.application != APPLICATION_ID {
        let text = "a SQLite database of another program: store.url must name a file of its own";
        return Err(StoreError::Fenced(text.to_owned()));
    }
    if found.version > newest {
        let text = format!(
            "its tables have version {}, made by a newer forebay; this one knows up to {newest}: run the newer one",
            found.version
        );
        return Err(StoreError::Fenced(text));
    }
    if found.version < newest && !to_migrate {
        let text = format!("its tables have version {}, {newest} is needed: run `forebay migrate`", found.version);
        return Err(StoreError::Outage(text));
    }
    Ok(())
}

fn library_is_safe(version: &str) -> bool {
    let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next()) >= LEAST_LIBRARY
}

/// Applies what is missing, all in one transaction; tells how many that were.
pub(super) async fn migrate(sql: &mut SqliteConnection) -> Result<u32, StoreError> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *sql).await.map_err(before)?;
    // Read again under the lock: another process may have migrated since the check.
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *sql).await.map_err(before)?;
    let missing = MIGRATIONS.get(usize::try_from(version).unwrap_or(usize::MAX)..).unwrap_or_default();
    for script in missing {
        sqlx::raw_sql(*script).execute(&mut *sql).await.map_err(before)?;
    }
    // A pragma takes no parameter; both are numbers of our own.
    let stamp = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {}", MIGRATIONS.len());
    if !missing.is_empty() {
        sqlx::raw_sql(sqlx::AssertSqlSafe(stamp)).execute(&mut *sql).await.map_err(before)?;
    }
    sqlx::query("COMMIT").execute(&mut *sql).await.map_err(|e| from_sqlx(&e, Moment::Commit))?;
    Ok(missing.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_with_the_reset_bug_are_refused_by_their_version() {
        for (version, safe) in [
            ("3.51.3", true),
            ("3.51.10", true),
            ("3.52.0", true),
            ("4.0.0", true),
            ("3.51.2", false),
            ("3.40.1", false),
            ("3.9.9", false),
            ("", false),
            ("x.y", false),
        ] {
            assert_eq!(library_is_safe(version), safe, "{version}");
        }
        let found = Found { library: "3.40.1".into(), application: 0, version: 0, objects: 0 };
        assert!(matches!(check(&found, true), Err(StoreError::Fenced(text)) if text.contains("3.40.1")));
    }

    #[test]
    fn only_a_file_of_ours_and_not_newer_than_us_is_used() {
        let ours = APPLICATION_ID;
        let newest = MIGRATIONS.len() as i64;
        let verdict = |application, version, objects, to_migrate| {
            let library = "3.51.3".to_owned();
            check(&Found { library, application, version, objects }, to_migrate)
        };
        assert_eq!(verdict(0, 0, 0, true), Ok(()));
        assert!(matches!(verdict(0, 0, 0, false), Err(StoreError::Outage(_))), "empty");
        assert!(matches!(verdict(0, 0, 3, true), Err(StoreError::Fenced(_))), "another program's tables");
        assert!(matches!(verdict(7, 1, 3, false), Err(StoreError::Fenced(_))), "another program's number");
        assert_eq!(verdict(ours, newest, 9, false), Ok(()));
        assert!(matches!(verdict(ours, newest + 1, 9, true), Err(StoreError::Fenced(_))), "newer");
        assert!(matches!(verdict(ours, newest - 1, 9, false), Err(StoreError::Outage(_))), "older");
        assert_eq!(verdict(ours, newest - 1, 9, true), Ok(()));
    }
}
