//! What a SQLite error means for a batch: one pure function, decided by result code and moment, never by text.
//!
//! Only what a row can be blamed for is a row's fault; everything that is not known is an outage, because an outage is
//! tried again and a poison row is not.

use super::super::StoreError;

/// When an error came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before COMMIT was sent: nothing is written.
    Before,
    /// COMMIT was sent.
    Commit,
}

// Primary result codes, https://sqlite.org/rescode.html; the extended code's low byte.
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const NOMEM: i32 = 7;
const READONLY: i32 = 8;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const SCHEMA: i32 = 17;
const TOOBIG: i32 = 18;
const CONSTRAINT: i32 = 19;
const MISMATCH: i32 = 20;
const NOTADB: i32 = 26;

/// Tells row faults, outages and unknown outcomes apart. `code` is SQLite's extended result code; none where the error
/// is not SQLite's own (the connection's thread died, a row could not be read).
pub(super) fn classify(code: Option<i32>, moment: Moment, text: String) -> StoreError {
    let primary = code.map(|c| c & 0xff);
    match (primary, moment) {
        (Some(CONSTRAINT | MISMATCH | TOOBIG), _) => StoreError::Row(text),
        // A busy COMMIT keeps its transaction open and has written nothing that another can see. Any other failed
        // COMMIT may have put its last frame into the write-ahead log, and a recovery may find it there.
        (Some(BUSY), Moment::Commit) | (_, Moment::Before) => StoreError::Outage(format!("{text}{}", hint(primary))),
        (_, Moment::Commit) => StoreError::Unknown(format!("{text}{}", hint(primary))),
    }
}

/// What to do about it, for the person who reads the log.
fn hint(primary: Option<i32>) -> &'static str {
    match primary {
        Some(BUSY | LOCKED) => "; another process holds the lock: it is tried again",
        Some(NOMEM) => "; out of memory",
        Some(READONLY) => "; make the file and its folder writable for this user",
        Some(IOERR) => "; the disk failed: see the kernel's log",
        Some(CORRUPT) => "; the file is damaged: restore it from a backup",
        Some(FULL) => "; make room on its disk",
        Some(CANTOPEN) => "; is the folder there, and may this user write to it?",
        Some(SCHEMA) => "; someone changed its tables",
        Some(NOTADB) => "; store.url names a file that is not a SQLite database",
        _ => "",
    }
}

/// The same for an error as sqlx reports it.
pub(super) fn from_sqlx(error: &sqlx::Error, moment: Moment) -> StoreError {
    match error {
        sqlx::Error::Database(e) => classify(e.code().and_then(|c| c.parse().ok()), moment, e.message().to_owned()),
        other => classify(None, moment, other.to_string()),
    }
}

/// [`from_sqlx`] for everything before a COMMIT, and for reads.
pub(super) fn before(error: sqlx::Error) -> StoreError {
    from_sqlx(&error, Moment::Before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_blamed_for_nothing_but_what_it_did() {
        let row = |e: &StoreError| matches!(e, StoreError::Row(_));
        let outage = |e: &StoreError| matches!(e, StoreError::Outage(_));
        let unknown = |e: &StoreError| matches!(e, StoreError::Unknown(_));
        type Is = fn(&StoreError) -> bool;
        let table: &[(Option<i32>, Is, Is)] = &[
            (Some(19), row, row),          // CONSTRAINT
            (Some(275), row, row),         // CONSTRAINT_CHECK
            (Some(787), row, row),         // CONSTRAINT_FOREIGNKEY, deferred to the COMMIT
            (Some(1299), row, row),        // CONSTRAINT_NOTNULL
            (Some(1555), row, row),        // CONSTRAINT_PRIMARYKEY
            (Some(2067), row, row),        // CONSTRAINT_UNIQUE
            (Some(3091), row, row),        // CONSTRAINT_DATATYPE
            (Some(18), row, row),          // TOOBIG
            (Some(20), row, row),          // MISMATCH
            (Some(5), outage, outage),     // BUSY
            (Some(261), outage, outage),   // BUSY_RECOVERY
            (Some(517), outage, outage),   // BUSY_SNAPSHOT
            (Some(6), outage, unknown),    // LOCKED
            (Some(1), outage, unknown),    // ERROR: no such table, no such column
            (Some(7), outage, unknown),    // NOMEM
            (Some(8), outage, unknown),    // READONLY
            (Some(1032), outage, unknown), // READONLY_DBMOVED
            (Some(10), outage, unknown),   // IOERR
            (Some(1034), outage, unknown), // IOERR_FSYNC
            (Some(11), outage, unknown),   // CORRUPT
            (Some(13), outage, unknown),   // FULL
            (Some(14), outage, unknown),   // CANTOPEN
            (Some(17), outage, unknown),   // SCHEMA
            (Some(26), outage, unknown),   // NOTADB
            (Some(25), outage, unknown),   // RANGE: unforeseen, so not a row's fault
            (None, outage, unknown),       // the connection's thread is gone
        ];
        for (code, at_work, at_commit) in table {
            let seen = classify(*code, Moment::Before, "x".into());
            assert!(at_work(&seen), "{code:?} before COMMIT: {seen:?}");
            let seen = classify(*code, Moment::Commit, "x".into());
            assert!(at_commit(&seen), "{code:?} at COMMIT: {seen:?}");
        }
    }

    #[test]
    fn a_dead_connection_is_an_outage_until_commit_was_sent() {
        let error = sqlx::Error::WorkerCrashed;
        assert!(matches!(from_sqlx(&error, Moment::Before), StoreError::Outage(_)));
        assert!(matches!(from_sqlx(&error, Moment::Commit), StoreError::Unknown(_)));
    }
}
