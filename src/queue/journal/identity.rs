//! Who this journal is: written before anything else, once, and never changed.
//!
//! Without it a folder with segments is refused: the segments' checksums can't be checked, and the keyed hashes in the
//! entries can't be made again.

use std::fmt;

use super::disk::{Disk, DiskFile};
use super::format::{self, IDENTITY, IDENTITY_MAGIC, damaged, u32_at, u128_at};
use super::{JournalError, segment::read_up_to};
use crate::plant;

/// Bytes of the file: stamp 16, journal id 16, hash key 16, checksum 4.
const LEN: usize = 52;

/// The journal's identity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// A random number: the same in every file of the folder and in the database.
    pub journal: u128,
    /// The secret key of the hashes of buyers.
    pub hash_key: [u8; 16],
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The hash key is a secret.
        f.debug_struct("Identity").field("journal", &format_args!("{:032x}", self.journal)).finish_non_exhaustive()
    }
}

/// Reads the identity; `None` where there is no such file.
///
/// # Errors
/// [`JournalError::Io`], [`JournalError::Damaged`], [`JournalError::Newer`].
pub fn load<D: Disk>(disk: &D) -> Result<Option<Identity>, JournalError> {
    let file = match disk.open_read(IDENTITY) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(JournalError::io(IDENTITY, "open", e)),
    };
    let mut bytes = [0; LEN + 1];
    let len = read_up_to(&file, &mut bytes, 0).map_err(|e| JournalError::io(IDENTITY, "read", e))?;
    format::check_stamp(&bytes[..len], IDENTITY_MAGIC, IDENTITY)?;
    if len != LEN {
        return Err(damaged(IDENTITY, len as u64, &format!("it has not the {LEN} bytes of an identity")));
    }
    if crc32c::crc32c(&bytes[..48]) != u32_at(&bytes, 48) {
        return Err(damaged(IDENTITY, 16, "its content does not match its checksum"));
    }
    let hash_key = std::array::from_fn(|i| bytes[32 + i]);
    Ok(Some(Identity { journal: u128_at(&bytes, 16), hash_key }))
}

/// Makes `identity` durable in a folder that has none. The caller has seen that there are no segments and snapshots.
pub(super) fn create<D: Disk>(disk: &D, identity: Identity) -> Result<Identity, JournalError> {
    let mut bytes = [0; LEN];
    format::put_stamp(&mut bytes, IDENTITY_MAGIC);
    bytes[16..32].copy_from_slice(&identity.journal.to_le_bytes());
    bytes[32..48].copy_from_slice(&identity.hash_key);
    let crc = crc32c::crc32c(&bytes[..48]);
    bytes[48..].copy_from_slice(&crc.to_le_bytes());
    let tmp = format::tmp_name(IDENTITY);
    let io = |op| move |e| JournalError::io(IDENTITY, op, e);
    let mut file = super::segment::create_tmp(disk, &tmp)?;
    file.write_all_at(&bytes, 0).map_err(io("write"))?;
    file.sync_data().map_err(io("sync"))?;
    plant::crash_point("journal.identity");
    disk.rename(&tmp, IDENTITY).map_err(io("rename"))?;
    disk.sync_dir().map_err(io("sync the folder of"))?;
    plant::crash_point("journal.identity");
    Ok(identity)
}
