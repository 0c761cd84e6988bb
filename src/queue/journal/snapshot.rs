//! A snapshot: the book as it stood after the last entry of a sealed segment, so that recovery need not begin at seq 1.
//!
//! It is made in the background, by a second book that loads the previous snapshot and replays the sealed segments: the
//! sequencer never waits for it. It exists under its name only when it is whole and durable. The journal knows nothing
//! of the payload but its length and checksum.

use std::io::{self, Read, Write};

use super::disk::{Disk, DiskFile};
use super::format::{self, SNAPSHOT_MAGIC, damaged, u32_at, u64_at, u128_at};
use super::reader::{self, Chain, Found, SealedAt};
use super::segment::{create_tmp, read_up_to};
use super::{JournalError, OpenError, Visitor};
use crate::plant;
use crate::sale::{MAX_JSON_INT, Seq, Timestamp};

/// Bytes before the payload; 88 are in use.
const HEADER_BYTES: u64 = 4096;
const USED: usize = 88;
/// Bytes read or written at a time.
const BLOCK: usize = 1024 * 1024;

/// What a snapshot covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub(super) chain: Chain,
    /// The segment whose frames come after it, by number.
    pub replay_from: u64,
    /// Bytes of the payload.
    pub bytes: u64,
}

impl SnapshotInfo {
    /// The last entry that it contains.
    pub fn seq(&self) -> Seq {
        self.chain.last_seq()
    }

    /// The time of the last frame that it contains.
    pub fn at(&self) -> Timestamp {
        self.chain.at
    }

    /// The run that wrote that frame.
    pub fn epoch(&self) -> u64 {
        self.chain.epoch
    }
}

/// Checks all of snapshot `seq`, then gives it to the visitor, who need not read all of it. In this order because what a
/// flipped bit makes of a book may ask for more memory than there is: nobody is to make anything of it. The second reading
/// comes from the page cache.
pub(super) fn load<D: Disk, V: Visitor>(
    disk: &D,
    journal: u128,
    seq: u64,
    visitor: &mut V,
) -> Result<SnapshotInfo, OpenError<V::Error>> {
    let name = format::snapshot_name(seq);
    let file = disk.open_read(&name).map_err(|e| JournalError::io(&name, "open", e))?;
    let (info, crc) = header(&file, &name, journal, seq)?;
    let buf = vec![0; info.bytes.min(BLOCK as u64) as usize];
    let mut source = Source { file: &file, at: HEADER_BYTES, end: HEADER_BYTES + info.bytes, crc: 0, buf, used: 0..0 };
    let read = io::copy(&mut source, &mut io::sink()).map_err(|e| JournalError::io(&name, "read", e))?;
    if read != info.bytes || source.crc != crc {
        return Err(damaged(&name, HEADER_BYTES, "the snapshot's content does not match its checksum").into());
    }
    (source.at, source.crc) = (HEADER_BYTES, 0);
    let visited = visitor.snapshot(&info, &mut source);
    // Of a disk that reads differently the second time the damage is the error to report. A visitor that has not read
    // everything has made nothing of it.
    if source.at == source.end && source.crc != crc {
        return Err(damaged(&name, HEADER_BYTES, "it reads differently the second time: the disk fails").into());
    }
    visited.map_err(OpenError::Visitor)?;
    Ok(info)
}

fn header<F: DiskFile>(file: &F, name: &str, journal: u128, seq: u64) -> Result<(SnapshotInfo, u32), JournalError> {
    let mut b = [0; USED];
    let got = read_up_to(file, &mut b, 0).map_err(|e| JournalError::io(name, "read", e))?;
    format::check_stamp(&b[..got], SNAPSHOT_MAGIC, name)?;
    if got < USED || crc32c::crc32c(&b[..84]) != u32_at(&b, 84) {
        return Err(damaged(name, 16, "the snapshot's header does not match its checksum"));
    }
    if u128_at(&b, 16) != journal {
        return Err(JournalError::Foreign { file: name.to_owned(), expected: journal, found: u128_at(&b, 16) });
    }
    if seq > MAX_JSON_INT as u64 {
        return Err(damaged(name, 32, &format!("seq {seq} is beyond all that are ever given: {MAX_JSON_INT}")));
    }
    if u64_at(&b, 32) != seq {
        return Err(damaged(name, 32, &format!("its header says seq {}: it was renamed", u64_at(&b, 32))));
    }
    let (bytes, len) = (u64_at(&b, 72), file.len().map_err(|e| JournalError::io(name, "read the length of", e))?);
    if len != HEADER_BYTES + bytes {
        return Err(damaged(name, len, &format!("it is {len} bytes long, its header says {}", HEADER_BYTES + bytes)));
    }
    let replay_from = u64_at(&b, 64);
    if !(1..u64::MAX).contains(&replay_from) {
        return Err(damaged(name, 64, &format!("its header says that segment {replay_from} comes after it")));
    }
    let chain = Chain {
        next: Seq(seq).next(),
        prev: u32_at(&b, 56),
        epoch: u64_at(&b, 40),
        at: Timestamp(u64_at(&b, 48) as i64),
        memory: u32_at(&b, 60) & 1 != 0,
    };
    Ok((SnapshotInfo { chain, replay_from, bytes }, u32_at(&b, 80)))
}

/// Reads the header of snapshot `seq`, not its payload.
pub(super) fn info<D: Disk>(disk: &D, journal: u128, seq: u64) -> Result<SnapshotInfo, JournalError> {
    let name = format::snapshot_name(seq);
    let file = disk.open_read(&name).map_err(|e| JournalError::io(&name, "open", e))?;
    header(&file, &name, journal, seq).map(|(info, _)| info)
}

/// A snapshot that is due. It stands on its own, so that it can be made on another thread while the janitor goes on
/// preparing segments; [`super::Janitor::snapshot_done`] then takes the result.
#[derive(Debug)]
pub struct SnapshotJob<D: Disk> {
    pub(super) disk: D,
    pub(super) journal: u128,
    pub(super) previous: Option<SnapshotInfo>,
    pub(super) until: SealedAt,
    pub(super) numbers: Vec<u64>,
}

impl<D: Disk> SnapshotJob<D> {
    /// Loads the previous snapshot and the sealed segments after it into `visitor` (an empty book), lets `save` write
    /// the result, and makes it durable under its name. Nothing is left behind by an error but a `.tmp`.
    ///
    /// # Errors
    /// [`JournalError`], damage in the sealed segments included; a full disk is an `Io` with
    /// [`JournalError::is_full`]. None of them harms the journal: try again later.
    pub fn run<V: Visitor>(
        &self,
        visitor: &mut V,
        save: impl FnOnce(&V, &mut dyn Write) -> io::Result<()>,
    ) -> Result<SnapshotInfo, OpenError<V::Error>> {
        let snapshots = self.previous.iter().map(|s| s.seq().0).collect();
        let found = Found { numbers: self.numbers.clone(), snapshots };
        let replayed = reader::replay(&self.disk, self.journal, &found, Some(self.until), visitor)?;
        let info = SnapshotInfo { chain: replayed.chain, replay_from: self.until.number + 1, bytes: 0 };
        let name = format::snapshot_name(info.seq().0);
        let result = write(&self.disk, self.journal, info, &name, |out| save(visitor, out));
        if result.is_err() {
            // Best effort: a leftover goes at the next start.
            let _ = self.disk.remove(&format::tmp_name(&name));
        }
        Ok(result?)
    }
}

/// Writes the snapshot `info`, whose length is not known yet, and makes it durable under its name.
pub(super) fn write<D: Disk>(
    disk: &D,
    journal: u128,
    mut info: SnapshotInfo,
    name: &str,
    save: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<SnapshotInfo, JournalError> {
    let tmp = format::tmp_name(name);
    let shown = tmp.as_str();
    let io = |op| move |e| JournalError::io(shown, op, e);
    let file = create_tmp(disk, &tmp)?;
    let mut sink = Sink { file, at: HEADER_BYTES, crc: 0, buf: Vec::with_capacity(BLOCK) };
    save(&mut sink).and_then(|()| sink.flush()).map_err(io("write"))?;
    let Sink { mut file, at, crc, .. } = sink;
    info.bytes = at - HEADER_BYTES;
    let mut b = [0; HEADER_BYTES as usize];
    format::put_stamp(&mut b, SNAPSHOT_MAGIC);
    b[16..32].copy_from_slice(&journal.to_le_bytes());
    b[32..40].copy_from_slice(&info.seq().0.to_le_bytes());
    b[40..48].copy_from_slice(&info.chain.epoch.to_le_bytes());
    b[48..56].copy_from_slice(&info.chain.at.0.to_le_bytes());
    b[56..60].copy_from_slice(&info.chain.prev.to_le_bytes());
    b[60..64].copy_from_slice(&u32::from(info.chain.memory).to_le_bytes());
    b[64..72].copy_from_slice(&info.replay_from.to_le_bytes());
    b[72..80].copy_from_slice(&info.bytes.to_le_bytes());
    b[80..84].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c::crc32c(&b[..84]);
    b[84..88].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&b, 0).map_err(io("write"))?;
    file.sync_data().map_err(io("sync"))?;
    plant::crash_point("journal.snapshot_before_rename");
    disk.rename(&tmp, name).map_err(io("rename"))?;
    disk.sync_dir().map_err(io("sync the folder of"))?;
    Ok(info)
}

struct Sink<F> {
    file: F,
    at: u64,
    crc: u32,
    buf: Vec<u8>,
}

impl<F: DiskFile> Write for Sink<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let take = bytes.len().min(BLOCK - self.buf.len());
        self.buf.extend_from_slice(&bytes[..take]);
        if self.buf.len() == BLOCK {
            self.flush()?;
        }
        Ok(take)
    }

    /// Writes the block, and syncs it: written at once at the end, a large snapshot would hold up the sequencer's sync.
    fn flush(&mut self) -> io::Result<()> {
        if !self.buf.is_empty() {
            self.file.write_all_at(&self.buf, self.at)?;
            self.file.sync_data()?;
            self.crc = crc32c::crc32c_append(self.crc, &self.buf);
            self.at += self.buf.len() as u64;
            self.buf.clear();
        }
        Ok(())
    }
}

struct Source<'a, F> {
    file: &'a F,
    at: u64,
    end: u64,
    crc: u32,
    buf: Vec<u8>,
    used: std::ops::Range<usize>,
}

impl<F: DiskFile> Read for Source<'_, F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used.is_empty() {
            let want = (self.end - self.at).min(self.buf.len() as u64) as usize;
            let got = read_up_to(self.file, &mut self.buf[..want], self.at)?;
            self.crc = crc32c::crc32c_append(self.crc, &self.buf[..got]);
            self.at += got as u64;
            self.used = 0..got;
        }
        let n = self.used.len().min(out.len());
        out[..n].copy_from_slice(&self.buf[self.used.start..self.used.start + n]);
        self.used.start += n;
        Ok(n)
    }
}
