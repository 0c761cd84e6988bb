//! What can be wrong with a journal, in words that name the file, the place and the next step.

use std::io;

/// Why the journal did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused.
    #[error("journal/{file}: can't {op}: {source}")]
    Io {
        /// The file, or `.` for the folder.
        file: String,
        /// What was tried.
        op: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Bytes that were durable have changed or are gone. Nothing was changed by finding out.
    #[error("journal/{file} is damaged at byte {offset}: {what}. {next_step}")]
    Damaged {
        /// The file.
        file: String,
        /// Where, in bytes from its beginning.
        offset: u64,
        /// What was found and what was expected.
        what: String,
        /// What to do.
        next_step: &'static str,
    },
    /// A newer binary wrote it.
    #[error(
        "journal/{file}: {what} {found}, this binary knows up to {known}: a newer forebay wrote it. Start that one \
         again; going back needs a copy of the folder from before the update"
    )]
    Newer {
        /// The file.
        file: String,
        /// What is newer: the format version, an entry kind, or flags.
        what: &'static str,
        /// What the file has.
        found: u32,
        /// What this binary knows.
        known: u32,
    },
    /// A file of another journal lies in the folder.
    #[error(
        "journal/{file} belongs to journal {found:032x}, this folder is journal {expected:032x}: files of two folders \
         were mixed. Move the foreign files away; nothing was changed"
    )]
    Foreign {
        /// The file.
        file: String,
        /// The folder's journal.
        expected: u128,
        /// The file's journal.
        found: u128,
    },
    /// There is no journal.
    #[error("there is no journal here: the folder has no file `identity`; check buffer.data_dir")]
    Absent,
    /// No segment is ready: the disk is full, or the janitor is behind. Nothing was written.
    #[error("the journal is full: no prepared segment is left; free space on the disk of buffer.data_dir")]
    Full,
    /// A frame larger than the options allow. Nothing was written.
    #[error("a frame of {bytes} bytes is larger than the {max} allowed; make the batch smaller")]
    TooLarge {
        /// The body.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A write or sync failed before: nothing is written any more.
    #[error("the journal stopped after a failed write or sync: nothing is accepted until a restart has read it back")]
    Latched,
    /// A running server trims faster than this can read.
    #[error("the journal moved on under the reader again and again: try once more, or when the server is less busy")]
    Moving,
    /// Options that can't work.
    #[error("journal options: {0}")]
    Options(String),
}

impl JournalError {
    pub(super) fn io(file: &str, op: &'static str, source: io::Error) -> Self {
        Self::Io { file: file.to_owned(), op, source }
    }

    /// Whether the disk, or a quota on it, is full.
    pub fn is_full(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Why a journal was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum OpenError<E: std::error::Error + 'static> {
    /// The journal's fault.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The visitor's.
    #[error("what the journal holds can't be applied: {0}")]
    Visitor(#[source] E),
}
