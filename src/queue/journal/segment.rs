//! A segment: a file of fixed length, complete before its first frame is written.
//!
//! A segment gets its final name only when its header and every byte behind it are durable, and is used only when the
//! name is durable too. So a file named like a segment always has a valid header, whatever was cut short, and rotating
//! to a prepared one costs no I/O. Where bytes are recycled, the old name is gone for good before the old header is
//! overwritten: otherwise a power cut could bring back the old name over the new header.

use std::io;

use super::JournalError;
use super::disk::{Disk, DiskFile};
use super::format::{self, SEGMENT_MAGIC, damaged, u32_at, u64_at, u128_at};
use crate::plant::{self, Bug};

/// Bytes before the first frame: a page, so that frames never share one with the header.
pub(super) const HEADER_BYTES: u64 = 4096;
const RECYCLED: u32 = 1;
/// Bytes of the header that are in use: stamp 16, journal 16, number 8, bytes 8, flags 4, checksum 4.
const USED: usize = 56;

/// A segment whose header was read, or written.
#[derive(Debug)]
pub(super) struct Segment<F> {
    pub file: F,
    pub name: String,
    pub number: u64,
    /// The file's length.
    pub bytes: u64,
    /// Whether behind the last frame there are frames of an earlier life instead of zeros.
    pub recycled: bool,
}

/// Opens segment `number` and checks its header; for reading only unless `write`.
pub(super) fn open<D: Disk>(
    disk: &D,
    journal: u128,
    number: u64,
    write: bool,
) -> Result<Segment<D::File>, JournalError> {
    let name = format::segment_name(number);
    let io = |op| {
        let name = name.clone();
        move |e| JournalError::io(&name, op, e)
    };
    let opened = if write { disk.open(&name) } else { disk.open_read(&name) };
    let file = opened.map_err(io("open"))?;
    let mut head = [0; USED];
    let got = read_up_to(&file, &mut head, 0).map_err(io("read"))?;
    format::check_stamp(&head[..got], SEGMENT_MAGIC, &name)?;
    if got < USED || crc32c::crc32c(&head[..52]) != u32_at(&head, 52) {
        return Err(damaged(&name, 16, "the segment's header does not match its checksum"));
    }
    if u128_at(&head, 16) != journal {
        return Err(JournalError::Foreign { file: name, expected: journal, found: u128_at(&head, 16) });
    }
    if u64_at(&head, 32) != number {
        return Err(damaged(&name, 32, &format!("its header says segment {}: it was renamed", u64_at(&head, 32))));
    }
    let (bytes, len) = (u64_at(&head, 40), file.len().map_err(io("read the length of"))?);
    if bytes != len {
        return Err(damaged(&name, len.min(bytes), &format!("it is {len} bytes long, its header says {bytes}")));
    }
    if bytes < HEADER_BYTES {
        return Err(damaged(&name, bytes, &format!("it ends inside its header, which takes {HEADER_BYTES} bytes")));
    }
    Ok(Segment { file, bytes, recycled: u32_at(&head, 48) & RECYCLED != 0, name, number })
}

/// A segment on its way: filled slice by slice under a temporary name.
pub(super) struct Preparing<F> {
    file: F,
    tmp: String,
    number: u64,
    bytes: u64,
    done: u64,
    recycled: bool,
}

impl<F: DiskFile> Preparing<F> {
    /// Begins segment `number` in a new file.
    pub fn start<D: Disk<File = F>>(disk: &D, number: u64, bytes: u64) -> Result<Self, JournalError> {
        let tmp = format::tmp_name(&format::segment_name(number));
        let file = create_tmp(disk, &tmp)?;
        Ok(Self { file, tmp, number, bytes, done: 0, recycled: false })
    }

    /// Begins segment `number` in the bytes of segment `from`, which nobody needs any more. After [`Finish::Content`]
    /// nothing has changed.
    pub fn recycle<D: Disk<File = F>>(disk: &D, from: u64, number: u64, bytes: u64) -> Result<Self, Finish> {
        let (old, tmp) = (format::segment_name(from), format::tmp_name(&format::segment_name(number)));
        let file = disk.open(&old).map_err(|e| Finish::Content(JournalError::io(&old, "open", e)))?;
        disk.rename(&old, &tmp).map_err(|e| Finish::Content(JournalError::io(&old, "rename", e)))?;
        disk.sync_dir().map_err(|e| Finish::Name(JournalError::io(&old, "sync the folder of", e)))?;
        Ok(Self { file, tmp, number, bytes, done: bytes, recycled: true })
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// Zeroes and syncs the next `slice` bytes, a slice at a time so that no sync of the sequencer waits behind a
    /// whole segment; whether the segment is full.
    pub fn fill(&mut self, slice: usize) -> Result<bool, JournalError> {
        if self.done < self.bytes {
            let len = (self.bytes - self.done).min(slice as u64);
            let zeros = vec![0; len as usize];
            self.file.write_all_at(&zeros, self.done).map_err(|e| JournalError::io(&self.tmp, "write", e))?;
            self.file.sync_data().map_err(|e| JournalError::io(&self.tmp, "sync", e))?;
            self.done += len;
        }
        Ok(self.done == self.bytes)
    }

    /// Writes the header and gives the full segment its name. An error from the last of the three steps leaves it
    /// open whether the name is durable: [`Finish::Name`].
    pub fn finish<D: Disk<File = F>>(mut self, disk: &D, journal: u128) -> Result<Segment<F>, Finish> {
        assert_eq!(self.done, self.bytes, "a segment that is not full gets no name");
        let (name, tmp) = (format::segment_name(self.number), self.tmp.as_str());
        let io = |op| move |e| Finish::Content(JournalError::io(tmp, op, e));
        let mut head = [0; HEADER_BYTES as usize];
        format::put_stamp(&mut head, SEGMENT_MAGIC);
        head[16..32].copy_from_slice(&journal.to_le_bytes());
        head[32..40].copy_from_slice(&self.number.to_le_bytes());
        head[40..48].copy_from_slice(&self.bytes.to_le_bytes());
        head[48..52].copy_from_slice(&u32::from(self.recycled).to_le_bytes());
        let crc = crc32c::crc32c(&head[..52]);
        head[52..56].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&head, 0).map_err(io("write"))?;
        self.file.sync_data().map_err(io("sync"))?;
        plant::crash_point("journal.segment_prepared");
        disk.rename(tmp, &name).map_err(io("rename"))?;
        if !plant::on(Bug::MissingDirSync) {
            disk.sync_dir().map_err(|e| Finish::Name(JournalError::io(&name, "sync the folder of", e)))?;
        }
        plant::crash_point("journal.segment_prepared");
        Ok(Segment { file: self.file, name, number: self.number, bytes: self.bytes, recycled: self.recycled })
    }

    /// The temporary name, to be removed after an error.
    pub fn tmp(&self) -> &str {
        &self.tmp
    }
}

/// Where finishing a segment failed.
pub(super) enum Finish {
    /// Before it had its name: nothing depends on it.
    Content(JournalError),
    /// While its name was made durable: the folder can't be trusted any more.
    Name(JournalError),
}

impl Finish {
    pub fn into_error(self) -> JournalError {
        match self {
            Self::Content(e) | Self::Name(e) => e,
        }
    }
}

/// Makes a temporary file, in place of one that an earlier attempt left.
pub(super) fn create_tmp<D: Disk>(disk: &D, tmp: &str) -> Result<D::File, JournalError> {
    let created = match disk.create(tmp) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => disk.remove(tmp).and_then(|()| disk.create(tmp)),
        other => other,
    };
    created.map_err(|e| JournalError::io(tmp, "create", e))
}

/// Reads until `buf` is full or the file ends; gives the number of bytes.
pub(super) fn read_up_to<F: DiskFile>(file: &F, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
