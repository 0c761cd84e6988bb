//! One key ring for many gates: a repeated claim gets its first answer byte for byte, whichever gate is asked, so that all
//! sign with the same keys. They travel in the database, beside the claims that they vouch for.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::TryRngCore;

use super::{FOLDER, KEY_BYTES, KeyError, KeyRing, io_error, sync_folder};

/// A ring of one new key as text, a line `number hex` a key; nobody's yet.
///
/// # Errors
/// The system gives no random numbers.
pub fn fresh() -> Result<Vec<u8>, KeyError> {
    let mut secret = [0; KEY_BYTES];
    let failed =
        |error: rand::rand_core::OsError| io_error(Path::new(FOLDER))(std::io::Error::other(error.to_string()));
    rand::rngs::OsRng.try_fill_bytes(&mut secret).map_err(failed)?;
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("1 {hex}\n").into_bytes())
}

/// Lays the keys of `packed` into `data_dir`, durably, where they are missing, and opens the ring. Keys that were there and
/// differ are somebody else's: that is an error.
///
/// # Errors
/// [`KeyError`].
pub fn adopt(data_dir: &Path, packed: &[u8]) -> Result<KeyRing, KeyError> {
    let folder = data_dir.join(FOLDER);
    match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&folder) {
        Ok(()) => sync_folder(data_dir)?,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(io_error(&folder)(e)),
    }
    for line in String::from_utf8_lossy(packed).lines() {
        let Some((no, hex)) = line.split_once(' ') else { continue };
        let path = folder.join(format!("k{no}.key"));
        match std::fs::read_to_string(&path) {
            Ok(found) if found.trim() == hex => continue,
            Ok(_) => {
                let other =
                    std::io::Error::other("it is another key than the one that all gates of this database sign with");
                return Err(io_error(&path)(other));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_error(&path)(e)),
        }
        let temporary = folder.join(format!("k{no}.key.tmp"));
        let _ = std::fs::remove_file(&temporary);
        // `create_new` follows no link that someone has laid there.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let write =
            |mut file: std::fs::File| file.write_all(format!("{hex}\n").as_bytes()).and_then(|()| file.sync_all());
        file.and_then(write).map_err(io_error(&temporary))?;
        std::fs::rename(&temporary, &path).map_err(io_error(&path))?;
    }
    sync_folder(&folder)?;
    KeyRing::open(data_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gate_that_adopts_a_ring_signs_as_the_others_do() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let packed = fresh().unwrap();
        let rings = [&one, &two].map(|folder| adopt(folder.path(), &packed).unwrap());
        assert_eq!(rings.each_ref().map(KeyRing::current_key), [1, 1]);
        let files = [&one, &two].map(|folder| std::fs::read(folder.path().join(FOLDER).join("k1.key")).unwrap());
        assert_eq!(files[0], files[1]);
        adopt(one.path(), &packed).expect("the same again");
        let other = adopt(one.path(), &fresh().unwrap()).expect_err("another ring");
        assert!(other.to_string().contains("another key"), "{other}");
    }
}
