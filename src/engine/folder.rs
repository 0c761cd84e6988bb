//! The data folder: made, checked, locked.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rand::TryRngCore;
use rand::rngs::OsRng;

use crate::queue::journal::{DataLock, Identity};

/// What the folders begin with in which `forebay doctor` measures. One may stand in an empty data folder at the first
/// start; it is nobody's data.
pub const SCRATCH: &str = ".forebay-doctor-";

/// A locked data folder.
pub struct Folder {
    /// Where the journal is.
    pub journal: PathBuf,
    _lock: DataLock,
}

/// Makes the folder where it is missing, refuses one that holds something else, and locks it.
///
/// # Errors
/// What is wrong with it.
pub fn open(data_dir: &Path) -> anyhow::Result<Folder> {
    let shown = data_dir.display();
    let journal = data_dir.join("journal");
    match fs::metadata(data_dir) {
        Ok(found) if !found.is_dir() => anyhow::bail!("buffer.data_dir: {shown} is a file; expected a folder"),
        Ok(_) => check_ours(data_dir)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(data_dir)?,
        Err(error) => return Err(error).with_context(|| format!("buffer.data_dir: {shown}")),
    }
    if data_dir.join(GATE).is_dir() {
        anyhow::bail!(
            "buffer.data_dir: {shown} is a gate's, with buffer.kind = \"redis\"; expected another folder for a journal"
        );
    }
    let lock = DataLock::acquire(data_dir)?;
    if !journal.is_dir() {
        make(&journal)?;
    }
    Ok(Folder { journal, _lock: lock })
}

/// Where a gate keeps what it has acknowledged, within its data folder.
pub const GATE: &str = "gate";

/// The same for a gate or a worker of shared mode. The folder of an embedded server is refused: what its journal holds would
/// wait there for ever.
///
/// # Errors
/// What is wrong with it.
pub fn open_shared(data_dir: &Path) -> anyhow::Result<DataLock> {
    let shown = data_dir.display();
    if data_dir.join("journal").is_dir() {
        anyhow::bail!(
            "buffer.data_dir: {shown} holds the journal of a server with buffer.kind = \"journal\"; expected a folder of \
             its own for each gate and worker"
        );
    }
    let lock = lock(data_dir, true)?;
    lock.ok_or_else(|| anyhow::anyhow!("buffer.data_dir: {shown} can't be made"))
}

/// Locks a folder that is there. One that is not is made where `make_it` says so; otherwise there is nothing to lock.
///
/// # Errors
/// As [`open`].
pub fn lock(data_dir: &Path, make_it: bool) -> anyhow::Result<Option<DataLock>> {
    let shown = data_dir.display();
    match fs::metadata(data_dir) {
        Ok(found) if !found.is_dir() => anyhow::bail!("buffer.data_dir: {shown} is a file; expected a folder"),
        Ok(_) => check_ours(data_dir)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && make_it => make(data_dir)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("buffer.data_dir: {shown}")),
    }
    Ok(Some(DataLock::acquire(data_dir)?))
}

/// A folder with other things in it, and none of ours, is a slip of the hand.
fn check_ours(data_dir: &Path) -> anyhow::Result<()> {
    let shown = data_dir.display();
    let names = fs::read_dir(data_dir).with_context(|| format!("buffer.data_dir: {shown}"))?;
    let names = names.filter_map(|e| e.ok()).map(|e| e.file_name());
    let names: Vec<_> = names.filter(|name| !name.to_string_lossy().starts_with(SCRATCH)).collect();
    let ours = |name: &std::ffi::OsString| {
        let name = name.to_string_lossy();
        matches!(
            &*name,
            "journal" | "gate" | "shared" | "LOCK" | "receipt-keys" | "drained" | "recovering" | "lost+found"
        ) || name.starts_with("forebay.db")
            || name.starts_with("journal.")
    };
    if !names.is_empty() && !names.iter().any(ours) {
        let other = names[0].to_string_lossy();
        anyhow::bail!(
            "buffer.data_dir: {shown} holds {other:?} and nothing of Forebay's; expected an empty folder or ours"
        );
    }
    Ok(())
}

/// Makes a folder that only its owner may look into, durably.
///
/// # Errors
/// The system's.
pub fn make(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(folder).with_context(|| format!("{shown} can't be made"))?;
    // The new name must survive a power cut as well as what will be in it.
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|p| p.sync_all()).with_context(|| format!("{} can't be synced", parent.display()))
}

/// Who a new journal is.
pub fn fresh_identity() -> Identity {
    let mut bytes = [0; 32];
    // Without randomness from the system nothing here is safe; there is no second-best.
    OsRng.try_fill_bytes(&mut bytes).expect("the system gives random bytes");
    let half = |from: usize| std::array::from_fn(|i| bytes[from + i]);
    Identity { journal: u128::from_le_bytes(half(0)), hash_key: half(16) }
}
