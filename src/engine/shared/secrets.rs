//! What a gate's folder remembers of the deployment it belongs to: who it is, whose partition it serves, and the key with
//! which all gates hash. With it a gate starts while the database is away.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use rand::TryRngCore;
use rand::rngs::OsRng;

/// The file.
const NAME: &str = "shared";

/// What it holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Membership {
    /// Who the gate is.
    pub gate: u128,
    /// Whose partition it serves.
    pub identity: u128,
    /// The secret key of the hashes of buyers.
    pub hash_key: [u8; 16],
}

/// 128 bits that nobody can guess.
///
/// # Errors
/// The system gives none.
pub(in crate::engine) fn random() -> anyhow::Result<u128> {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).context("the system gives no random numbers")?;
    Ok(u128::from_le_bytes(bytes))
}

/// Reads the file in `data_dir`; none where there is none.
///
/// # Errors
/// The system's, or what is no such file.
pub(in crate::engine) fn load(data_dir: &Path) -> anyhow::Result<Option<Membership>> {
    let path = data_dir.join(NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|hex| u128::from_str_radix(hex, 16).ok())
            .with_context(|| format!("{}: no line {name:?}: put the file back from a backup", path.display()))
    };
    let (gate, identity, key) = (number("gate")?, number("partition")?, number("hash-key")?);
    Ok(Some(Membership { gate, identity, hash_key: key.to_be_bytes() }))
}

/// Writes it, durably.
///
/// # Errors
/// The system's.
pub(in crate::engine) fn save(data_dir: &Path, membership: &Membership) -> anyhow::Result<()> {
    let (path, temporary) = (data_dir.join(NAME), data_dir.join("shared.tmp"));
    let key = u128::from_be_bytes(membership.hash_key);
    let text = format!("gate {:032x}\npartition {:032x}\nhash-key {key:032x}\n", membership.gate, membership.identity);
    let _ = fs::remove_file(&temporary);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let write = |mut file: fs::File| file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    file.and_then(write).with_context(|| temporary.display().to_string())?;
    fs::rename(&temporary, &path).with_context(|| path.display().to_string())?;
    fs::File::open(data_dir).and_then(|folder| folder.sync_all()).with_context(|| data_dir.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_again_and_only_its_owner_may() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).unwrap().is_none());
        let membership = Membership { gate: 7, identity: u128::MAX, hash_key: [0xa5; 16] };
        save(folder.path(), &membership).unwrap();
        assert!(load(folder.path()).unwrap() == Some(membership));
        assert_eq!(fs::metadata(folder.path().join(NAME)).unwrap().mode() & 0o777, 0o600);
        fs::write(folder.path().join(NAME), "gate 7\n").unwrap();
        let error = load(folder.path()).err().unwrap().to_string();
        assert!(error.contains("partition"), "{error}");
    }
}
