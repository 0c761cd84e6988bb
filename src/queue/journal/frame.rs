//! A frame: one batch of entries, written with one write and covered by one sync.
//!
//! Pure: bytes in, verdicts out. A frame is valid only in the segment of the journal that it was written to: journal
//! id and segment number go into its checksum, so that the stale frames of a recycled file can never pass. Each frame
//! names its predecessor's checksum; docs/journal.md has the table.

use super::format::{u32_at, u64_at};
use crate::queue::codec::{self, CodecError, FrameContext};
use crate::sale::{Durability, Entry, Seq, Timestamp};

/// Bytes of a frame's header.
pub const HEADER: usize = 48;
/// The largest body that any version writes: what a reader believes of a length. Options may ask for less.
pub const BODY_LIMIT: usize = 16 * 1024 * 1024;
/// What a frame begins with: no text that a caller can send contains these bytes.
pub(super) const MAGIC: [u8; 4] = [0xf0, 0x9b, 0xfb, 0x01];

const MEMORY: u32 = 1;
const MARK: u32 = 2;
const KNOWN_FLAGS: u32 = MEMORY | MARK;

/// A frame's header, as on disk but for the magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub crc: u32,
    pub len: u32,
    pub count: u32,
    pub first_seq: Seq,
    pub epoch: u64,
    pub at: Timestamp,
    pub prev: u32,
    pub flags: u32,
}

impl Header {
    pub fn flags(durability: Durability, mark: bool) -> u32 {
        u32::from(durability == Durability::Memory) * MEMORY + u32::from(mark) * MARK
    }

    pub fn memory(&self) -> bool {
        self.flags & MEMORY != 0
    }

    pub fn mark(&self) -> bool {
        self.flags & MARK != 0
    }

    /// Flag bits that only a newer binary can have set.
    pub fn unknown_flags(&self) -> u32 {
        self.flags & !KNOWN_FLAGS
    }

    /// Bytes the whole frame takes in its segment.
    pub fn total(&self) -> u64 {
        total(self.len as usize)
    }

    /// Reads a header; `None` where the magic is missing or the length is one that nobody writes.
    pub fn parse(b: &[u8]) -> Option<Self> {
        let b = b.get(..HEADER)?;
        (b[..4] == MAGIC && u32_at(b, 8) as usize <= BODY_LIMIT).then(|| Self::fields(b))
    }

    fn fields(b: &[u8]) -> Self {
        Self {
            crc: u32_at(b, 4),
            len: u32_at(b, 8),
            count: u32_at(b, 12),
            first_seq: Seq(u64_at(b, 16)),
            epoch: u64_at(b, 24),
            at: Timestamp(u64_at(b, 32) as i64),
            prev: u32_at(b, 40),
            flags: u32_at(b, 44),
        }
    }

    fn put(&self, b: &mut [u8]) {
        b[..4].copy_from_slice(&MAGIC);
        b[4..8].copy_from_slice(&self.crc.to_le_bytes());
        b[8..12].copy_from_slice(&self.len.to_le_bytes());
        b[12..16].copy_from_slice(&self.count.to_le_bytes());
        b[16..24].copy_from_slice(&self.first_seq.0.to_le_bytes());
        b[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        b[32..40].copy_from_slice(&self.at.0.to_le_bytes());
        b[40..44].copy_from_slice(&self.prev.to_le_bytes());
        b[44..48].copy_from_slice(&self.flags.to_le_bytes());
    }
}

/// Bytes a frame with a body of `len` takes: frames start at multiples of 8.
pub fn total(len: usize) -> u64 {
    (HEADER + len).next_multiple_of(8) as u64
}

/// What every checksum of one segment starts from.
pub(super) fn seed(journal: u128, segment: u64) -> u32 {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&journal.to_le_bytes());
    bytes[16..].copy_from_slice(&segment.to_le_bytes());
    crc32c::crc32c(&bytes)
}

/// What the first frame of a journal names as its predecessor's checksum.
pub(super) fn genesis(journal: u128) -> u32 {
    crc32c::crc32c(&journal.to_le_bytes())
}

/// The header of the frame at the start of `bytes`, if the whole frame is there and its checksum holds.
pub(super) fn check(bytes: &[u8], seed: u32) -> Option<Header> {
    let header = Header::parse(bytes)?;
    let covered = bytes.get(8..HEADER + header.len as usize)?;
    (crc32c::crc32c_append(seed, covered) == header.crc).then_some(header)
}

/// Whether changing one bit of the magic or of the length makes a valid frame of `bytes`.
pub(super) fn length_or_magic_bit_off(bytes: &[u8], seed: u32) -> bool {
    let Some(head) = bytes.get(..HEADER) else { return false };
    let (stored, len) = (u32_at(head, 4), u32_at(head, 8));
    let holds = |len: u32| {
        let body = (len as usize <= BODY_LIMIT).then(|| bytes.get(12..HEADER + len as usize)).flatten();
        body.is_some_and(|b| crc32c::crc32c_append(crc32c::crc32c_append(seed, &len.to_le_bytes()), b) == stored)
    };
    match (u32_at(head, 0) ^ u32::from_le_bytes(MAGIC)).count_ones() {
        0 => (0..32).any(|bit| holds(len ^ (1 << bit))),
        1 => holds(len),
        _ => false,
    }
}

/// Where a bit behind the length, or of the checksum, is that makes a valid frame of `bytes` when it is changed: its byte. Then the
/// frame was written whole and that bit of it flipped, unless the byte was never written.
///
/// A checksum is linear, so the difference that one flipped bit makes depends on its distance from the end only:
/// walking from the end visits every bit in one pass. Something else than a flip looks like one with a probability of
/// (bits of the frame) / 2^32.
pub(super) fn one_bit_off(bytes: &[u8], seed: u32) -> Option<usize> {
    let header = Header::parse(bytes)?;
    let covered = bytes.get(8..HEADER + header.len as usize)?;
    let wanted = crc32c::crc32c_append(seed, covered) ^ header.crc;
    if wanted.count_ones() == 1 {
        return Some(4);
    }
    let mut differences: [u32; 8] = std::array::from_fn(|bit| TABLE[1 << bit]);
    (8..8 + covered.len()).rev().find(|_| {
        let hit = differences.contains(&wanted);
        differences.iter_mut().for_each(|d| *d = (*d >> 8) ^ TABLE[(*d & 0xff) as usize]);
        hit
    })
}

/// CRC-32C by bytes, reflected polynomial 0x82f63b78 (RFC 3720, appendix B.4).
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let (mut crc, mut bit) = (i as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// What the sequencer says about a frame; the writer adds the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameMeta {
    /// The first entry's seq: the one after the last frame's last. A mark has the seq that the next entry will get.
    pub first_seq: Seq,
    /// Entries in the body; 0 exactly for a mark.
    pub count: u32,
    /// The journal's time, never before the last frame's.
    pub at: Timestamp,
    /// What the answers will promise; the same for every frame of a run.
    pub durability: Durability,
    /// A frame without entries, written so that the frame before it is followed by something: damage to that one is
    /// then known to be damage, and not a write that a power cut interrupted.
    pub mark: bool,
}

/// Room for a frame that is used again and again. Entries are appended to [`FrameBuffer::body_mut`]; the header's
/// place in front of them is reserved, so that sealing and writing copy nothing.
#[derive(Debug)]
pub struct FrameBuffer(Vec<u8>);

impl Default for FrameBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameBuffer {
    /// An empty one.
    pub fn new() -> Self {
        Self(vec![0; HEADER])
    }

    /// An empty one that takes `bytes` of body without growing.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(HEADER + bytes + 8);
        buffer.resize(HEADER, 0);
        Self(buffer)
    }

    /// Forgets the entries and keeps the room.
    pub fn clear(&mut self) {
        self.0.truncate(HEADER);
    }

    /// Where entries are appended. Whoever holds this must only append: the bytes already there are the header's room
    /// and earlier entries.
    pub fn body_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// The entries.
    pub fn body(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    /// Writes the header in place, pads to a multiple of 8 and gives the frame's checksum and bytes to `write`; the
    /// padding is gone afterwards.
    pub(super) fn sealed<R>(&mut self, mut header: Header, seed: u32, write: impl FnOnce(u32, &[u8]) -> R) -> R {
        let len = self.0.len();
        assert_eq!(header.len as usize, len - HEADER, "a header for another body");
        header.put(&mut self.0);
        header.crc = crc32c::crc32c_append(seed, &self.0[8..]);
        self.0[4..8].copy_from_slice(&header.crc.to_le_bytes());
        self.0.resize(len.next_multiple_of(8), 0);
        let result = write(header.crc, &self.0);
        self.0.truncate(len);
        result
    }
}

/// A frame as it is read.
#[derive(Debug, Clone, Copy)]
pub struct FrameView<'a> {
    /// The first entry's seq; for a mark, the next entry's.
    pub first_seq: Seq,
    /// Entries in it.
    pub count: u32,
    /// The time of all of them.
    pub at: Timestamp,
    /// The run that wrote it, from 1.
    pub epoch: u64,
    /// What its acceptances promised.
    pub durability: Durability,
    /// Whether it is a mark, without entries.
    pub mark: bool,
    /// The entries' bytes.
    pub body: &'a [u8],
    /// The segment that it lies in, by number.
    pub segment: u64,
    /// The segment's file name.
    pub file: &'a str,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
}

impl<'a> FrameView<'a> {
    pub(super) fn new(header: &Header, body: &'a [u8], segment: u64, file: &'a str, offset: u64) -> Self {
        let durability = if header.memory() { Durability::Memory } else { Durability::Disk };
        let Header { first_seq, count, at, epoch, .. } = *header;
        Self { first_seq, count, at, epoch, durability, mark: header.mark(), body, segment, file, offset }
    }

    /// The seq after the last entry's.
    pub fn next_seq(&self) -> Seq {
        self.first_seq.plus(u64::from(self.count))
    }

    /// What its entries share.
    pub fn context(&self) -> FrameContext {
        FrameContext { first_seq: self.first_seq, at: self.at, durability: self.durability }
    }

    /// The entries in order, each with its bytes. Ends after the first error; bytes left over after the last entry
    /// are an error too.
    pub fn entries(&self) -> impl Iterator<Item = Result<(Entry, &'a [u8]), CodecError>> + use<'a> {
        let (context, count) = (self.context(), u64::from(self.count));
        let (mut rest, mut index, mut over) = (self.body, 0, false);
        std::iter::from_fn(move || {
            if over || (index == count && rest.is_empty()) {
                return None;
            }
            if index == count {
                over = true;
                return Some(Err(CodecError::Field("frame's count of entries")));
            }
            match codec::decode(rest, &context, index) {
                Ok((entry, len)) => {
                    let (bytes, after) = rest.split_at(len);
                    (rest, index) = (after, index + 1);
                    Some(Ok((entry, bytes)))
                }
                Err(e) => {
                    over = true;
                    Some(Err(e))
                }
            }
        })
    }

    /// What an entry of this frame that can't be read means: a newer binary's, or damage that happened before the
    /// checksum was made.
    pub fn refuse(&self, error: &CodecError) -> super::JournalError {
        match error {
            CodecError::UnknownKind(kind) => super::JournalError::Newer {
                file: self.file.to_owned(),
                what: "entry kind",
                found: u32::from(*kind),
                known: u32::from(codec::NEWEST_KIND),
            },
            other => {
                super::format::damaged(self.file, self.offset, &format!("in a frame with a valid checksum, {other}"))
            }
        }
    }
}
