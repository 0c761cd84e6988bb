//! What is replaced goes aside under the name that it had, followed by the time of the recovery.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::rebuild::sync;
use crate::clock::{Clock, SystemClock};

/// Where things go, and what went there.
pub(super) struct Aside {
    pub stamp: String,
    pub moved: Vec<(PathBuf, PathBuf)>,
}

impl Aside {
    /// At this second.
    pub fn now() -> Self {
        let now: String = SystemClock.now().to_string().chars().filter(char::is_ascii_alphanumeric).collect();
        // Without the fraction of the second: 20261120T120000Z.
        Self { stamp: format!("{}Z", &now[..15]), moved: Vec::new() }
    }

    /// Sets a file or folder aside.
    ///
    /// # Errors
    /// The system's; then it is where it was.
    pub fn set(&mut self, path: &Path) -> anyhow::Result<()> {
        self.set_all(&[(path.to_owned(), "")])
    }

    /// A database's file. What SQLite keeps beside it goes first: under a file of the same name it would be taken for that
    /// one's. It keeps its end, so that the two still belong together.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn database(&mut self, path: &Path) -> anyhow::Result<()> {
        let beside = |end: &'static str| {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            (PathBuf::from(name), end)
        };
        self.set_all(&["-wal", "-shm", ""].map(beside))
    }

    /// Sets aside what is there of `parts`, each with its end; the last one has none.
    fn set_all(&mut self, parts: &[(PathBuf, &str)]) -> anyhow::Result<()> {
        let Some((whole, _)) = parts.last() else { return Ok(()) };
        let name = |no: u32, end: &str| {
            let mut name = whole.as_os_str().to_owned();
            name.push(format!(".before-recover-{}", self.stamp));
            if no > 0 {
                name.push(format!("-{no}"));
            }
            name.push(end);
            PathBuf::from(name)
        };
        // Never over anything: a run that is repeated within the second may have set something aside already.
        let is_free = |no: &u32| parts.iter().all(|(_, end)| fs::symlink_metadata(name(*no, end)).is_err());
        let no = (0..).find(is_free).unwrap_or_default();
        let there = parts.iter().filter(|(path, _)| fs::symlink_metadata(path).is_ok());
        let moves: Vec<_> = there.map(|(path, end)| (path.clone(), name(no, end))).collect();
        for (path, to) in moves {
            fs::rename(&path, &to)?;
            sync(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
            self.moved.push((path, to));
        }
        Ok(())
    }
}

/// Whether another folder can take the place of `folder`, if it is there: it must not be a link, whose target would stay, nor
/// have a disk mounted on it, which can't be renamed.
///
/// # Errors
/// Why not, and what to do.
pub(super) fn check_replaceable(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    let Ok(found) = fs::symlink_metadata(folder) else { return Ok(()) };
    let advice = "a new journal can't take its place. Make it a plain folder of the data folder (to have the journal on a \
                  disk of its own, put the whole data folder there), and run `forebay recover` again; nothing was changed";
    anyhow::ensure!(!found.is_symlink(), "{shown} is a link: {advice}");
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_mount = fs::metadata(parent).is_ok_and(|parent| parent.dev() != found.dev()) || is_mounted(folder);
    anyhow::ensure!(!is_mount, "{shown} has a disk mounted on it: {advice}");
    Ok(())
}

/// Whether the system lists `folder` as a place where something is mounted, a part of the same disk included.
fn is_mounted(folder: &Path) -> bool {
    let (Ok(whole), Ok(table)) = (fs::canonicalize(folder), fs::read_to_string("/proc/self/mountinfo")) else {
        return false;
    };
    // proc(5): the fifth field is the place, with blanks as \040.
    let place = |line: &str| line.split(' ').nth(4).map(|place| place.replace("\\040", " "));
    table.lines().filter_map(place).any(|place| Path::new(&place) == whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_and_a_mount_are_not_replaced_and_a_plain_folder_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let plain = folder.path().join("plain");
        fs::create_dir(&plain).expect("made");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&plain, &link).expect("linked");
        check_replaceable(&plain).expect("a plain folder");
        check_replaceable(&folder.path().join("none")).expect("nothing is there");
        let refused = check_replaceable(&link).expect_err("a link").to_string();
        assert!(refused.contains("is a link"), "{refused}");
        let refused = check_replaceable(Path::new("/proc")).expect_err("a mount").to_string();
        assert!(refused.contains("mounted on it"), "{refused}");
    }

    #[test]
    fn a_database_and_its_log_still_belong_together_when_they_are_set_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("shop.db");
        for name in ["shop.db", "shop.db-wal"] {
            fs::write(folder.path().join(name), name).expect("written");
        }
        let mut aside = Aside { stamp: "now".to_owned(), moved: Vec::new() };
        fs::write(folder.path().join("shop.db.before-recover-now-wal"), "in the way").expect("written");
        aside.database(&database).expect("set aside");
        for (name, content) in
            [("shop.db.before-recover-now-1", "shop.db"), ("shop.db.before-recover-now-1-wal", "shop.db-wal")]
        {
            assert_eq!(fs::read_to_string(folder.path().join(name)).expect(name), content);
        }
        assert_eq!(aside.moved.len(), 2);
    }
}
