//! How far the database was known to be, remembered beside the journal: a database that has less is an older copy.
//!
//! It is a lower bound, and so it may lag: losing its last second, or all of it, makes a wrong pair harder to tell and
//! breaks nothing. What it must never do is to be ahead of what the database has durably.
//!
//! One line of text, `forebay-drained VERSION JOURNAL ENTRY CHECKSUM`: the journal's id, the last entry that is in the
//! database, and the CRC-32C of everything before it, in hexadecimal.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use crate::plant;
use crate::sale::Seq;

/// The file's name within the data folder.
pub const DRAINED: &str = "drained";
const WORD: &str = "forebay-drained";
const VERSION: u32 = 1;
/// Bytes of the longest file that is looked at.
const LEN_MAX: u64 = 256;

/// What is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// The journal.
    pub journal: u128,
    /// The last of its entries that the database is known to have.
    pub cursor: Seq,
}

/// Why it can't be told.
#[derive(Debug, thiserror::Error)]
pub enum DrainedError {
    /// The system refused.
    #[error("{DRAINED}: can't be read: {0}")]
    Io(#[from] io::Error),
    /// It is not what was written.
    #[error("{DRAINED} is damaged: it does not match its checksum. Check the disk")]
    Damaged,
    /// A newer binary wrote it.
    #[error(
        "{DRAINED}: version {found}, this binary knows up to {VERSION}: a newer forebay wrote it. Start that one again"
    )]
    Newer {
        /// The file's.
        found: u32,
    },
}

/// Reads what `data_dir` remembers; none where nothing is.
///
/// # Errors
/// [`DrainedError`].
pub fn load(data_dir: &Path) -> Result<Option<Drained>, DrainedError> {
    let path = data_dir.join(DRAINED);
    let text = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
        Ok(found) if found.len() > LEN_MAX => return Err(DrainedError::Damaged),
        Ok(_) => fs::read(&path)?,
    };
    let text = std::str::from_utf8(&text).map_err(|_| DrainedError::Damaged)?;
    let (body, check) = text.trim_end().rsplit_once(' ').ok_or(DrainedError::Damaged)?;
    if u32::from_str_radix(check, 16).ok() != Some(crc32c::crc32c(body.as_bytes())) {
        return Err(DrainedError::Damaged);
    }
    let mut words = body.split(' ');
    if words.next() != Some(WORD) {
        return Err(DrainedError::Damaged);
    }
    let version = words.next().and_then(|word| word.parse().ok()).ok_or(DrainedError::Damaged)?;
    if version > VERSION {
        return Err(DrainedError::Newer { found: version });
    }
    let journal = words.next().and_then(|word| u128::from_str_radix(word, 16).ok());
    let cursor = words.next().and_then(|word| word.parse().ok());
    let (Some(journal), Some(cursor), None) = (journal, cursor, words.next()) else {
        return Err(DrainedError::Damaged);
    };
    Ok(Some(Drained { journal, cursor: Seq(cursor) }))
}

/// Remembers: whole under a temporary name first, so that a kill or a power cut leaves this or what was there before.
///
/// # Errors
/// The system's; what was there before is still there.
pub fn save(data_dir: &Path, drained: &Drained) -> io::Result<()> {
    let body = format!("{WORD} {VERSION} {:032x} {}", drained.journal, drained.cursor.0);
    let tmp = data_dir.join(format!("{DRAINED}.tmp"));
    let mut file = File::create(&tmp)?;
    writeln!(file, "{body} {:08x}", crc32c::crc32c(body.as_bytes()))?;
    // Without it the new name could stand for no bytes after a power cut. The folder is not synced: then the old name does.
    file.sync_data()?;
    plant::crash_point("drained.before_rename");
    fs::rename(tmp, data_dir.join(DRAINED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Drained = Drained { journal: 0xabc, cursor: Seq(1_234_567) };

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn what_was_saved_last_is_loaded_and_nothing_else_is_left() {
        let folder = folder();
        assert_eq!(load(folder.path()).expect("nothing is there"), None);
        save(folder.path(), &Drained { cursor: Seq(0), ..SOME }).expect("saved");
        save(folder.path(), &SOME).expect("saved again");
        assert_eq!(load(folder.path()).expect("loaded"), Some(SOME));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn an_unfinished_file_changes_nothing() {
        let folder = folder();
        save(folder.path(), &SOME).expect("saved");
        fs::write(folder.path().join("drained.tmp"), "forebay-dr").expect("written");
        assert_eq!(load(folder.path()).expect("loaded"), Some(SOME));
        save(folder.path(), &Drained { cursor: Seq(9), ..SOME }).expect("saved over it");
        assert_eq!(load(folder.path()).expect("loaded"), Some(Drained { cursor: Seq(9), ..SOME }));
    }

    #[test]
    fn any_changed_bit_and_any_cut_is_damage() {
        let folder = folder();
        let path = folder.path().join(DRAINED);
        save(folder.path(), &SOME).expect("saved");
        let whole = fs::read(&path).expect("read");
        let is_damaged = |bytes: &[u8]| {
            fs::write(&path, bytes).expect("written");
            let found = load(folder.path());
            assert!(matches!(found, Err(DrainedError::Damaged)), "{:?}: {found:?}", String::from_utf8_lossy(bytes));
        };
        // Not the newline: nothing depends on it.
        for at in 0..whole.len() - 1 {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                // Hexadecimal digits in capitals are the same number.
                if !bytes.eq_ignore_ascii_case(&whole) || at < whole.len() - 9 {
                    is_damaged(&bytes);
                }
            }
            is_damaged(&whole[..at]);
        }
        is_damaged(&[b'x'; 1_000]);
    }

    #[test]
    fn a_newer_version_is_no_damage() {
        let folder = folder();
        let body = format!("{WORD} 2 and whatever comes");
        let text = format!("{body} {:08x}\n", crc32c::crc32c(body.as_bytes()));
        fs::write(folder.path().join(DRAINED), text).expect("written");
        assert!(matches!(load(folder.path()), Err(DrainedError::Newer { found: 2 })));
    }
}
