//! The exported files: a document named by its hash, and a pointer to it.
//!
//! - A reader never sees half: each file is written under a temporary name, synced and renamed, the document before the
//!   pointer that names it.
//! - Nothing is rewritten when nothing has changed; a document that is missing or damaged counts as a change of its own.
//! - Of the old documents the newest are kept for readers that have an older pointer. Nothing else is ever removed.
//! - One process at a time writes to a folder: it is locked, without a file of its own.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::clock::{Clock as _, SystemClock};
use crate::limits;

const POINTER: &str = "campaigns.json";
/// One name for both: whatever a killed process has left is overwritten by the next.
const TEMPORARY: &str = ".campaigns.json.tmp";
/// Hexadecimal digits of the hash in a name: 64 bits, which nobody meets twice.
const DIGITS: usize = 16;

/// A folder that is ours to write to.
#[derive(Debug)]
pub struct Target {
    dir: PathBuf,
    _lock: File,
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    path: PathBuf,
    is_unchanged: bool,
}

impl Published {
    /// The document's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was there already, pointer and all.
    pub fn is_unchanged(&self) -> bool {
        self.is_unchanged
    }
}

impl Target {
    /// Takes `dir`, and makes it where it is missing.
    ///
    /// # Errors
    /// It is no folder, can't be made or written to, or another process exports to it.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let shown = dir.display();
        match fs::metadata(dir) {
            Ok(found) if !found.is_dir() => bail!("--dir {shown} is a file; expected a folder"),
            Ok(_) => {}
            Err(_) => fs::create_dir_all(dir).with_context(|| format!("--dir {shown} can't be made"))?,
        }
        let lock = File::open(dir).with_context(|| format!("--dir {shown} can't be opened"))?;
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            bail!("--dir {shown}: another `forebay export` writes to it; one at a time");
        }
        let target = Self { dir: dir.to_owned(), _lock: lock };
        // Tried now, and not only when the server has answered.
        let tried = File::create(target.dir.join(TEMPORARY)).and_then(|_| fs::remove_file(target.dir.join(TEMPORARY)));
        tried.with_context(|| format!("--dir {shown} can't be written to"))?;
        Ok(target)
    }

    /// Makes `document` the current one.
    ///
    /// # Errors
    /// The disk's. The pointer names a whole document all the same.
    pub fn publish(&self, document: &[u8]) -> anyhow::Result<Published> {
        let sha256 = hex(&Sha256::digest(document));
        let name = format!("campaigns-{}.json", &sha256[..DIGITS]);
        let path = self.dir.join(&name);
        let points_here = self.pointer().is_some_and(|p| p["file"] == *name && p["sha256"] == *sha256);
        let is_there = fs::read(&path).is_ok_and(|found| found == document);
        if points_here && is_there {
            return Ok(Published { path, is_unchanged: true });
        }
        // Where a document returns that was current before, it is written anew: its age tells how long it is kept.
        self.write(&name, document)?;
        if !points_here {
            let now = SystemClock.now().to_string();
            let pointer = json!({"file": name, "sha256": sha256, "generated_at": now});
            self.write(POINTER, format!("{pointer}\n").as_bytes())?;
        }
        self.remove_old(&name)?;
        Ok(Published { path, is_unchanged: false })
    }

    fn pointer(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.dir.join(POINTER)).ok()?).ok()
    }

    /// Writes a whole file, durably, in place of what had its name.
    fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let (temporary, path) = (self.dir.join(TEMPORARY), self.dir.join(name));
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.dir)?.sync_all()
        });
        written.with_context(|| format!("{} can't be written", path.display())).inspect_err(|_| {
            // A full disk: what was begun must not take the room that is left.
            let _ = fs::remove_file(&temporary);
        })
    }

    /// Removes all documents but `current` and the newest others.
    fn remove_old(&self, current: &str) -> anyhow::Result<()> {
        let entries = fs::read_dir(&self.dir).with_context(|| format!("{} can't be listed", self.dir.display()))?;
        let mut old = Vec::new();
        for entry in entries.flatten().filter(|e| is_document(&e.file_name()) && e.file_name() != current) {
            // Gone in between, or a link or folder of somebody else's.
            let Some(found) = entry.metadata().ok().filter(fs::Metadata::is_file) else { continue };
            old.push((found.modified().ok(), entry.path()));
        }
        old.sort_by(|a, b| b.cmp(a));
        for (_, path) in old.iter().skip(limits::EXPORT_KEPT - 1) {
            fs::remove_file(path).with_context(|| format!("{} can't be removed", path.display()))?;
        }
        Ok(())
    }
}

/// Whether a name is one that [`Target::publish`] gives to a document.
fn is_document(name: &OsStr) -> bool {
    let hash = name.to_str().and_then(|n| n.strip_prefix("campaigns-")).and_then(|n| n.strip_suffix(".json"));
    hash.is_some_and(|h| h.len() == DIGITS && h.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Makes a file look older than it is.
    fn age(path: &Path, seconds: u64) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn a_document_is_named_by_its_hash_and_the_pointer_names_it() {
        let base = tempfile::tempdir().unwrap();
        let target = Target::open(&base.path().join("a/b")).unwrap();
        let published = target.publish(b"{}").unwrap();
        assert!(!published.is_unchanged());
        assert_eq!(published.path().file_name().unwrap(), "campaigns-44136fa355b3678a.json");
        assert_eq!(fs::read(published.path()).unwrap(), b"{}");
        let pointer = target.pointer().unwrap();
        assert_eq!(pointer["file"], "campaigns-44136fa355b3678a.json");
        assert_eq!(pointer["sha256"], "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        assert_eq!(names(&target.dir), ["campaigns-44136fa355b3678a.json", "campaigns.json"]);
    }

    #[test]
    fn nothing_is_rewritten_when_nothing_has_changed() {
        let base = tempfile::tempdir().unwrap();
        let target = Target::open(base.path()).unwrap();
        let first = target.publish(b"one").unwrap();
        age(first.path(), 7);
        age(&base.path().join(POINTER), 7);
        let pointer = fs::read(base.path().join(POINTER)).unwrap();
        assert!(target.publish(b"one").unwrap().is_unchanged());
        for path in [first.path(), &base.path().join(POINTER)] {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            assert_eq!(modified, UNIX_EPOCH + Duration::from_secs(7), "{}", path.display());
        }
        fs::write(first.path(), "damage").unwrap();
        assert!(!target.publish(b"one").unwrap().is_unchanged(), "a damaged document is made good");
        assert_eq!(fs::read(first.path()).unwrap(), b"one");
        assert_eq!(fs::read(base.path().join(POINTER)).unwrap(), pointer, "and the pointer's time stays");
        fs::write(base.path().join(POINTER), "damage").unwrap();
        assert!(!target.publish(b"one").unwrap().is_unchanged());
        assert_eq!(target.pointer().unwrap()["file"], *first.path().file_name().unwrap().to_str().unwrap());
    }

    #[test]
    fn the_newest_documents_stay_and_other_files_are_never_touched() {
        let base = tempfile::tempdir().unwrap();
        let others =
            ["campaigns-0123.json", "campaigns-0123456789abcdeF.json", "campaigns-0123456789abcdef.json.gz", "x"];
        others.iter().for_each(|name| fs::write(base.path().join(name), "theirs").unwrap());
        fs::create_dir(base.path().join("campaigns-0123456789abcdef.json")).unwrap();
        let target = Target::open(base.path()).unwrap();
        let mut paths = Vec::new();
        for (no, document) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            let published = target.publish(document.as_bytes()).unwrap();
            age(published.path(), no as u64);
            paths.push(published.path().to_owned());
        }
        assert_eq!(paths.iter().map(|p| p.exists()).collect::<Vec<_>>(), [false, false, true, true, true]);
        // The oldest becomes current again: it is the newest now, and outlives those that came before.
        target.publish(b"c").unwrap();
        target.publish(b"f").unwrap();
        assert_eq!(paths.iter().map(|p| p.exists()).collect::<Vec<_>>(), [false, false, true, false, true]);
        assert!(others.iter().all(|name| base.path().join(name).exists()));
        assert_eq!(names(base.path()).len(), others.len() + 1 + 3 + 1, "{:?}", names(base.path()));
    }

    #[test]
    fn a_folder_that_cannot_be_had_is_refused_in_words() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("file");
        fs::write(&file, "").unwrap();
        let said = |dir: &Path| format!("{:#}", Target::open(dir).unwrap_err());
        assert!(said(&file).contains("is a file; expected a folder"), "{}", said(&file));
        assert!(said(&file.join("below")).contains("can't be made"), "{}", said(&file.join("below")));
        // The kernel refuses to write here, even to root.
        assert!(said(Path::new("/proc")).contains("can't be written to"), "{}", said(Path::new("/proc")));
        let _first = Target::open(base.path()).unwrap();
        assert!(said(base.path()).contains("another `forebay export`"), "{}", said(base.path()));
    }
}
