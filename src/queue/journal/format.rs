//! What the three kinds of file share: names, and a stamp that no version of the format will ever move.
//!
//! A file begins with `magic [8], version u32, crc32c of these twelve bytes u32`. Because the stamp has its own
//! checksum, "written by a newer binary" is told apart from "a bit of the version flipped".

use super::JournalError;

/// The version that this binary writes.
pub(super) const VERSION: u32 = 2;
/// The oldest version that this binary reads. Version 1 was never released.
pub(super) const OLDEST: u32 = 2;
/// Bytes of the stamp.
pub(super) const STAMP: usize = 16;

/// The file with the journal's identity.
pub(super) const IDENTITY: &str = "identity";
/// What an unfinished file's name ends in.
const TMP: &str = ".tmp";

pub(super) const IDENTITY_MAGIC: &[u8; 8] = b"FOREBAYi";
pub(super) const SEGMENT_MAGIC: &[u8; 8] = b"FOREBAYs";
pub(super) const SNAPSHOT_MAGIC: &[u8; 8] = b"FOREBAYp";

/// What to do about damage, in one sentence.
pub(super) const RESTORE: &str = "Nothing was changed. Keep a copy of the folder, check the disk, then restore the \
     folder from a copy that `forebay journal verify` accepts; docs/journal.md, \"What to do\", has the other ways";

pub(super) fn put_stamp(out: &mut [u8], magic: &[u8; 8]) {
    out[..8].copy_from_slice(magic);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&out[..12]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Checks the stamp at the start of `bytes` and gives the version.
pub(super) fn check_stamp(bytes: &[u8], magic: &[u8; 8], file: &str) -> Result<u32, JournalError> {
    let stamp = bytes.get(..STAMP).ok_or_else(|| damaged(file, 0, "the file ends inside its first 16 bytes"))?;
    if crc32c::crc32c(&stamp[..12]) != u32_at(stamp, 12) {
        return Err(damaged(file, 0, "its first 16 bytes do not match their checksum"));
    }
    if &stamp[..8] != magic {
        return Err(damaged(file, 0, "it is another kind of file than its name says"));
    }
    let version = u32_at(stamp, 8);
    if version > VERSION {
        return Err(JournalError::Newer {
            file: file.to_owned(),
            what: "format version",
            found: version,
            known: VERSION,
        });
    }
    if version < OLDEST {
        return Err(damaged(file, 8, &format!("format version {version} was never written")));
    }
    Ok(version)
}

/// [`JournalError::Damaged`] with the usual next step.
pub(super) fn damaged(file: &str, offset: u64, what: &str) -> JournalError {
    JournalError::Damaged { file: file.to_owned(), offset, what: what.to_owned(), next_step: RESTORE }
}

pub(super) fn segment_name(number: u64) -> String {
    format!("{number:020}.seg")
}

pub(super) fn snapshot_name(seq: u64) -> String {
    format!("snap-{seq:020}.snap")
}

pub(super) fn tmp_name(name: &str) -> String {
    format!("{name}{TMP}")
}

/// The number in a segment's name; `None` for any other file. Numbers begin with 1 and have a successor.
pub(super) fn parse_segment(name: &str) -> Option<u64> {
    digits(name.strip_suffix(".seg")?).filter(|number| (1..u64::MAX).contains(number))
}

/// The seq in a snapshot's name; `None` for any other file.
pub(super) fn parse_snapshot(name: &str) -> Option<u64> {
    digits(name.strip_prefix("snap-")?.strip_suffix(".snap")?)
}

/// Whether `name` is an unfinished file of ours: anything else in the folder is left alone.
pub(super) fn is_leftover(name: &str) -> bool {
    name.strip_suffix(TMP).is_some_and(|n| n == IDENTITY || parse_segment(n).is_some() || parse_snapshot(n).is_some())
}

fn digits(text: &str) -> Option<u64> {
    if text.len() != 20 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

pub(super) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| b[at + i]))
}

pub(super) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| b[at + i]))
}

pub(super) fn u128_at(b: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(std::array::from_fn(|i| b[at + i]))
}
