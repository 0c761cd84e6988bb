//! The note of a recovery under way: from the moment at which the new journal is whole until the database belongs to it. A
//! run that finds it goes on where the last one ended; a start that finds it is refused.
//!
//! One line of text like `drained`: `forebay-recovering VERSION JSON CHECKSUM`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sale::Seq;
use crate::store::Position;

/// The file's name within the data folder.
pub const NOTE: &str = "recovering";
const WORD: &str = "forebay-recovering";
const VERSION: u32 = 1;

/// What is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What the database belonged to.
    pub from: Position,
    /// What it is to belong to.
    pub to: Position,
    /// The journal that was there, and its last entry where it could be read.
    pub found: Option<(u128, Option<Seq>)>,
    /// Entries that are in neither side.
    pub lost: Option<(Seq, Seq)>,
    /// What the names of things set aside end in.
    pub stamp: String,
    /// What was said when it began.
    pub report: String,
}

/// The note as it is written; journals are 32 hexadecimal digits.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    from: (String, u64),
    to: (String, u64),
    found: Option<(String, Option<u64>)>,
    lost: Option<(u64, u64)>,
    stamp: String,
    report: String,
}

/// Reads the note; none where there is none.
///
/// # Errors
/// The system's, or a note that is not what was written.
pub fn load(data_dir: &Path) -> anyhow::Result<Option<Note>> {
    let path = data_dir.join(NOTE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(anyhow::Error::new(error).context(path.display().to_string())),
    };
    parse(&text).map(Some).ok_or_else(|| {
        anyhow::anyhow!("{} is damaged, or a newer forebay wrote it: check the disk, and keep it", path.display())
    })
}

fn parse(text: &str) -> Option<Note> {
    let (body, check) = text.trim_end().rsplit_once(' ')?;
    if u32::from_str_radix(check, 16).ok()? != crc32c::crc32c(body.as_bytes()) {
        return None;
    }
    let (version, json) = body.strip_prefix(WORD)?.strip_prefix(' ')?.split_once(' ')?;
    if version.parse::<u32>().ok()? != VERSION {
        return None;
    }
    let Written { from, to, found, lost, stamp, report } = serde_json::from_str(json).ok()?;
    let id = |text: &str| u128::from_str_radix(text, 16).ok();
    let position = |(journal, cursor): (String, u64)| Some(Position { journal: id(&journal)?, cursor: Seq(cursor) });
    let found = match found {
        Some((journal, last)) => Some((id(&journal)?, last.map(Seq))),
        None => None,
    };
    let lost = lost.map(|(first, last)| (Seq(first), Seq(last)));
    Some(Note { from: position(from)?, to: position(to)?, found, lost, stamp, report })
}

/// Writes the note, durably.
///
/// # Errors
/// The system's.
pub fn save(data_dir: &Path, note: &Note) -> io::Result<()> {
    let id = |journal: u128| format!("{journal:032x}");
    let position = |at: Position| (id(at.journal), at.cursor.0);
    let written = Written {
        from: position(note.from),
        to: position(note.to),
        found: note.found.map(|(journal, last)| (id(journal), last.map(|last| last.0))),
        lost: note.lost.map(|(first, last)| (first.0, last.0)),
        stamp: note.stamp.clone(),
        report: note.report.clone(),
    };
    let body = format!("{WORD} {VERSION} {}", serde_json::to_string(&written)?);
    let tmp = data_dir.join(format!("{NOTE}.tmp"));
    let mut file = File::create(&tmp)?;
    writeln!(file, "{body} {:08x}", crc32c::crc32c(body.as_bytes()))?;
    file.sync_all()?;
    fs::rename(tmp, data_dir.join(NOTE))?;
    File::open(data_dir)?.sync_all()
}

/// Takes the note away: the recovery is done.
///
/// # Errors
/// The system's.
pub fn remove(data_dir: &Path) -> io::Result<()> {
    fs::remove_file(data_dir.join(NOTE))?;
    File::open(data_dir)?.sync_all()
}

/// Refuses a start while a recovery is under way.
///
/// # Errors
/// What to do.
pub fn refuse(data_dir: &Path) -> anyhow::Result<()> {
    match load(data_dir)? {
        None => Ok(()),
        Some(note) => anyhow::bail!(
            "a recovery of {} was interrupted: journal {:032x} is to take the place of journal {:032x}. Run `forebay \
             recover --yes` again, which goes on with it; nothing was changed",
            data_dir.display(),
            note.to.journal,
            note.from.journal
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_a_changed_one_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let note = Note {
            from: Position { journal: 1, cursor: Seq(7) },
            to: Position { journal: u128::MAX, cursor: Seq(1_000_000_007) },
            found: Some((2, Some(Seq(5)))),
            lost: Some((Seq(8), Seq(9))),
            stamp: "20261120T120000Z".into(),
            report: "one line\nand another\n".into(),
        };
        assert_eq!(load(folder.path()).expect("nothing"), None);
        refuse(folder.path()).expect("nothing is under way");
        save(folder.path(), &note).expect("saved");
        assert_eq!(load(folder.path()).expect("read"), Some(note));
        let refused = refuse(folder.path()).expect_err("under way").to_string();
        assert!(refused.contains("recover --yes"), "{refused}");
        let path = folder.path().join(NOTE);
        let text = fs::read_to_string(&path).expect("read");
        fs::write(&path, text.replace(",7]", ",8]")).expect("written");
        assert!(load(folder.path()).is_err());
        remove(folder.path()).expect("removed");
        assert_eq!(load(folder.path()).expect("nothing"), None);
    }
}
