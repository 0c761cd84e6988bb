//! Where the journal ends, and why: a clean end, a write that a power cut interrupted, or damage.
//!
//! The rule: every frame is synced before the next is written, so at most one is in doubt, and nothing valid can follow
//! it. Something valid behind an invalid frame means that the frame had been durable: damage. Only where nothing
//! follows may bytes be cut, and even there not if a flipped bit explains them better than an interrupted write.

use std::io;

use super::disk::DiskFile;
use super::format::{u32_at, u64_at};
use super::frame::{self, HEADER, Header, MAGIC};
use super::reader::{Chain, Window};
use super::segment::Segment;

/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// How the journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing was in flight.
    Clean,
    /// So many bytes of an interrupted write.
    Torn { bytes: u64 },
    /// A power cut took frames of durability `memory` and left later ones, up to this seq.
    MemoryGap { lost_to: u64 },
}

/// What the bytes behind the last valid frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Clean,
    Torn {
        bytes: u64,
    },
    /// A frame that had been written whole, and changed since.
    Altered(&'static str),
}

/// Judges `region`, the bytes at `offset` where the frame after `chain` would begin, when no valid frame follows.
pub(super) fn judge(region: &[u8], offset: u64, seed: u32, chain: &Chain, recycled: bool) -> Verdict {
    let Some(last) = region.iter().rposition(|&b| b != 0) else { return Verdict::Clean };
    // In a recycled segment any bytes may lie here; only a header that names what comes next is a frame of ours.
    let ours = region.len() >= HEADER && (u64_at(region, 16) == chain.next.0 || u32_at(region, 40) == chain.prev);
    if !ours && recycled {
        return Verdict::Clean;
    }
    if ours && frame::length_or_magic_bit_off(region, seed) {
        return Verdict::Altered("one bit of the last frame's header has flipped since it was written");
    }
    let header = Header::parse(region).filter(|h| h.total() <= region.len() as u64);
    let extent = header.map_or((last + 1).max(HEADER), |h| HEADER + h.len as usize).min(region.len());
    let torn = Verdict::Torn { bytes: extent as u64 };
    if !recycled && misses_a_sector(&region[..extent], offset) {
        return torn;
    }
    if ours && header.is_some_and(|h| h.len == 0 && h.count == 0) {
        // A mark promised nothing, so nothing is lost with it, however it came to differ.
        return torn;
    }
    // The bit may be the only one that its sector had of the frame, and the sector never written. Both explain it; an interrupted write
    // is what happens.
    if let Some(at) = frame::one_bit_off(region, seed).filter(|_| ours)
        && !part_of_sector(&region[..extent], offset, at).iter().all(|&b| b == 0)
    {
        return Verdict::Altered("one bit of the last frame has flipped since it was written");
    }
    if !recycled && header.is_some() && region[extent - 1] != 0 {
        return Verdict::Altered("the last frame was written to its end, yet it does not match its checksum");
    }
    torn
}

/// Whether a sector's part of `extent` is still as the segment was prepared: all zeros. Parts of fewer than 8 bytes
/// don't count: one flipped bit might make such a part zero.
fn misses_a_sector(extent: &[u8], offset: u64) -> bool {
    let first = (SECTOR - offset % SECTOR) as usize;
    let (head, rest) = extent.split_at(first.min(extent.len()));
    std::iter::once(head).chain(rest.chunks(SECTOR as usize)).any(|p| p.len() >= 8 && p.iter().all(|&b| b == 0))
}

/// The part of `extent` that shares a sector with its byte `at`.
fn part_of_sector(extent: &[u8], offset: u64, at: usize) -> &[u8] {
    let before = (offset + at as u64) % SECTOR;
    let from = at.saturating_sub(before as usize);
    &extent[from..(at + (SECTOR - before) as usize).min(extent.len())]
}

/// What valid frames lie where none should.
#[derive(Debug, Default)]
pub(super) struct Survivors {
    /// File and offset of the first.
    pub first: Option<(String, u64)>,
    /// Whether one of them is not of durability `memory`, or of another run than the frame before.
    pub durable: bool,
    /// The last seq that they hold.
    pub last_seq: u64,
}

impl Survivors {
    /// Looks at every multiple of 8 from `from` to the segment's end. Frames before `chain` are no survivors: a frame
    /// is never older than its predecessor.
    pub fn scan<F: DiskFile>(
        &mut self,
        window: &mut Window,
        segment: &Segment<F>,
        from: u64,
        seed: u32,
        chain: &Chain,
    ) -> io::Result<()> {
        let mut at = from;
        while at + HEADER as u64 <= segment.bytes {
            let bytes = window.get(segment, at, HEADER)?;
            if bytes.len() < HEADER {
                return Ok(());
            }
            let Some(index) = bytes.chunks_exact(8).position(|c| c[..4] == MAGIC) else {
                at += (bytes.len() as u64) & !7;
                continue;
            };
            at += 8 * index as u64;
            let candidate = window.header(segment, at)?.filter(|h| h.first_seq >= chain.next && h.epoch >= chain.epoch);
            match candidate {
                Some(_) => match window.frame(segment, at, seed)? {
                    Some(header) => {
                        self.add(&segment.name, at, &header, chain);
                        at += header.total();
                    }
                    None => at += 8,
                },
                None => at += 8,
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, offset: u64, header: &Header, chain: &Chain) {
        self.first.get_or_insert_with(|| (name.to_owned(), offset));
        self.durable |= !header.memory() || header.epoch != chain.epoch;
        self.last_seq = self.last_seq.max(header.first_seq.0.saturating_add(header.count.into()).saturating_sub(1));
    }

    /// Whether all of them were never promised to survive a power cut, and neither was the frame that is missing: it
    /// stands between frames of one run in memory durability, whose first frame is synced.
    pub fn only_memory(&self, chain: &Chain) -> bool {
        chain.memory && !self.durable
    }
}
