//! What a PostgreSQL error means for a batch: decided by SQLSTATE, severity and moment, never by text.
//!
//! Only what a row can be blamed for is a row's fault; everything that is not known is an outage, because an outage is
//! tried again and a poison row is not. Codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::super::StoreError;

/// When an error came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before COMMIT was sent: nothing is written.
    Before,
    /// COMMIT was sent.
    Commit,
}

/// Two rows with one key.
pub(super) const UNIQUE_VIOLATION: &str = "23505";

/// What the server said; none where the connection itself broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said<'a> {
    /// The SQLSTATE, five characters.
    pub(super) code: &'a str,
    /// Whether the session ended with it.
    pub(super) is_fatal: bool,
}

/// Tells row faults, outages and unknown outcomes apart.
pub(super) fn classify(said: Option<Said<'_>>, moment: Moment, text: String) -> StoreError {
    let Some(Said { code, is_fatal }) = said else {
        return match moment {
            Moment::Before => StoreError::Outage(text),
            Moment::Commit => StoreError::Unknown(format!("{text}; the connection broke while COMMIT was under way")),
        };
    };
    let text = format!("{text} (SQLSTATE {code}){}", hint(code));
    // A session that ends while it commits may have committed; so may one whose server says that it does not know. Any other
    // error of COMMIT means that the transaction was rolled back.
    let is_in_doubt = is_fatal || matches!(code, "08007" | "40003");
    match moment {
        Moment::Commit if is_in_doubt => StoreError::Unknown(text),
        _ if is_of_a_row(code) && !is_fatal => StoreError::Row(text),
        _ => StoreError::Outage(text),
    }
}

/// What the data itself is blamed for: data exceptions (22), constraints (23), views with a check (44), and what a trigger
/// raises (P0001).
fn is_of_a_row(code: &str) -> bool {
    matches!(&code[..code.len().min(2)], "22" | "23" | "44") || code == "P0001"
}

/// What to do about it, for the person who reads the log.
fn hint(code: &str) -> &'static str {
    match code {
        "40001" | "40P01" => "; another session was in the way: it is tried again",
        "55P03" => "; another session holds the lock: it is tried again",
        "57014" => "; it took longer than a statement may, or somebody cancelled it: it is tried again",
        "25006" => "; store.url names a server that takes no writes: a replica, or default_transaction_read_only",
        "42P01" | "42703" => "; a table or a column is gone: put it back, or run `forebay migrate` on a new database",
        "42501" => {
            "; grant the role of store.url what it needs: SELECT, INSERT, UPDATE and DELETE, and CREATE to migrate"
        }
        "28P01" | "28000" => "; check user and password of store.url, and the server's pg_hba.conf",
        "3D000" => "; create the database that store.url names",
        "53300" => "; the server has no connection left: raise max_connections, or close others",
        "53100" => "; make room on the server's disk",
        "57P01" | "57P02" => "; the server ended the session",
        "57P03" => "; the server is starting or stopping",
        _ => "",
    }
}

/// The same for an error as sqlx reports it.
pub(super) fn from_sqlx(error: &sqlx::Error, moment: Moment) -> StoreError {
    match error {
        sqlx::Error::Database(found) => {
            let found = found.downcast_ref::<PgDatabaseError>();
            let is_fatal = matches!(found.severity(), PgSeverity::Fatal | PgSeverity::Panic);
            classify(Some(Said { code: found.code(), is_fatal }), moment, found.message().to_owned())
        }
        other => classify(None, moment, other.to_string()),
    }
}

/// [`from_sqlx`] for everything before a COMMIT, and for reads.
pub(super) fn before(error: sqlx::Error) -> StoreError {
    from_sqlx(&error, Moment::Before)
}

/// Whether the server refused a row because its key is there.
pub(super) fn is_double(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(found) if found.code().as_deref() == Some(UNIQUE_VIOLATION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_blamed_for_nothing_but_what_it_did() {
        let (row, outage, unknown) = ("row", "outage", "unknown");
        let word = |error: &StoreError| match error {
            StoreError::Row(_) => row,
            StoreError::Outage(_) => outage,
            StoreError::Unknown(_) => unknown,
            StoreError::Fenced(_) => "fenced",
        };
        // Code, whether the session ended, what it is before COMMIT, what at COMMIT.
        let table = [
            ("22001", false, row, row),        // too long
            ("22021", false, row, row),        // no such character
            ("22P02", false, row, row),        // no such number
            ("23502", false, row, row),        // NULL
            ("23505", false, row, row),        // twice
            ("23514", false, row, row),        // a guard; at COMMIT a deferred one
            ("44000", false, row, row),        // a view's check
            ("P0001", false, row, row),        // a trigger's word
            ("40001", false, outage, outage),  // serialization
            ("40P01", false, outage, outage),  // deadlock
            ("40003", false, outage, unknown), // completion unknown
            ("08006", false, outage, outage),  // connection failure, as a pooler tells it
            ("08007", false, outage, unknown), // resolution unknown
            ("25006", false, outage, outage),  // read-only
            ("25P03", true, outage, unknown),  // idle in transaction for too long
            ("42P01", false, outage, outage),  // no table
            ("42501", false, outage, outage),  // not allowed
            ("53100", false, outage, outage),  // disk full
            ("53300", true, outage, unknown),  // too many connections
            ("55P03", false, outage, outage),  // lock timeout
            ("57014", false, outage, outage),  // statement timeout
            ("57P01", true, outage, unknown),  // shut down while it worked
            ("57P02", true, outage, unknown),  // crashed
            ("58030", false, outage, outage),  // the disk failed
            ("XX001", false, outage, outage),  // damaged: unforeseen, so not a row's fault
            ("23505", true, outage, unknown),  // a session that ended says nothing of its row
            ("", false, outage, outage),       // no code at all
        ];
        for (code, is_fatal, at_work, at_commit) in table {
            let said = Some(Said { code, is_fatal });
            let seen = classify(said, Moment::Before, "x".into());
            assert_eq!(word(&seen), at_work, "{code} before COMMIT: {seen:?}");
            let seen = classify(said, Moment::Commit, "x".into());
            assert_eq!(word(&seen), at_commit, "{code} at COMMIT: {seen:?}");
        }
    }

    #[test]
    fn a_broken_connection_is_an_outage_until_commit_was_sent() {
        let error = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(matches!(from_sqlx(&error, Moment::Before), StoreError::Outage(_)));
        assert!(matches!(from_sqlx(&error, Moment::Commit), StoreError::Unknown(_)));
    }
}
