//! Folders to measure in: on the disk that is meant, touching nothing that is there, and gone afterwards.
//!
//! A folder stands inside the one that is meant, or, before the first start, in the nearest one above it that exists; so
//! it is on the same disk, and nothing of the data is made, opened or locked. It is removed when it is dropped. What a
//! killed run has left is removed by the next one: whoever measures holds a lock on its folder.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::engine::folder::SCRATCH;

/// One folder.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes one for `purpose` in `near`, which exists.
    ///
    /// # Errors
    /// It can't be made.
    pub fn new(near: &Path, purpose: &str) -> anyhow::Result<Self> {
        clear_abandoned(near);
        let path = near.join(format!("{SCRATCH}{}-{purpose}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot measure in {}: no folder can be made there", near.display()))?;
        let lock = File::open(&path).and_then(|folder| folder.lock().map(|()| folder));
        match lock {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error).with_context(|| path.display().to_string())
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with all that is in it; again is harmless.
    pub fn remove(&self) {
        // Nothing is lost with what stays: the next run clears it away.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes what runs have left that ended without a chance to.
fn clear_abandoned(near: &Path) {
    let Ok(entries) = fs::read_dir(near) else { return };
    let ours = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(SCRATCH));
    for path in ours.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let Ok(folder) = File::open(&path) else { continue };
        if !matches!(folder.try_lock(), Err(TryLockError::WouldBlock)) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// The folder at `path`, or the nearest one above it that exists.
///
/// # Errors
/// What stands there is no folder, or can't be looked at.
pub fn nearest(path: &Path) -> anyhow::Result<PathBuf> {
    for above in path.ancestors() {
        let folder = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match fs::metadata(folder) {
            Ok(found) if found.is_dir() => return Ok(folder.to_owned()),
            Ok(_) => bail!("{} is a file; expected a folder", folder.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| folder.display().to_string()),
        }
    }
    bail!("{}: neither it nor a folder above it exists", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_folder_that_exists_is_found() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("file"), "").unwrap();
        assert_eq!(nearest(base.path()).unwrap(), base.path());
        assert_eq!(nearest(&base.path().join("a/b/c")).unwrap(), base.path());
        assert_eq!(nearest(Path::new("no-such-folder-here/data")).unwrap(), Path::new("."));
        for wrong in ["file", "file/data"] {
            assert!(nearest(&base.path().join(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_killed_run_left_is_cleared_away_and_what_a_running_one_uses_is_not() {
        let base = tempfile::tempdir().unwrap();
        let left = base.path().join(format!("{SCRATCH}1-journal"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("sync"), "0").unwrap();
        fs::write(base.path().join("data"), "precious").unwrap();
        let running = Scratch::new(base.path(), "journal").unwrap();
        assert!(!left.exists());
        let second = Scratch::new(base.path(), "store").unwrap();
        assert!(running.path().is_dir() && second.path().is_dir());
        drop((running, second));
        let names: Vec<_> = fs::read_dir(base.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["data"]);
    }
}
