//! What one call of the library accepted, as a gate's journal has it: one entry of that journal.
//!
//! Little-endian: epoch (8), first seq (8), time (8), how many entries (4), their bytes (4), then the entries as they are in
//! every journal, each behind its length. All of them have the call's time.

use super::super::super::codec;
use super::super::protocol::layout;
use crate::limits;
use crate::sale::{Seq, Timestamp};

/// Bytes before the entries.
const HEAD: usize = 32;

/// Why bytes are no block, or no entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what a gate has kept can't be read: {0}")]
pub struct BlockError(pub &'static str);

/// Entries that were accepted in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    /// The epoch under which they were.
    pub epoch: u64,
    /// The first one's position.
    pub first: Seq,
    /// When.
    pub at: Timestamp,
    /// How many.
    pub count: u32,
    /// Their bytes.
    pub entries: &'a [u8],
}

impl<'a> Block<'a> {
    /// The last entry's position.
    pub fn last(&self) -> Seq {
        Seq(self.first.0 + u64::from(self.count) - 1)
    }

    /// Appends it to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.first.0.to_le_bytes());
        out.extend_from_slice(&self.at.0.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        out.extend_from_slice(self.entries);
    }

    /// Reads the block at the start of `bytes`; gives what is behind it.
    ///
    /// # Errors
    /// Bytes that no gate writes.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), BlockError> {
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or(BlockError("a block is cut short"))?;
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let (count, len) = (u32_at(24), u32_at(28) as usize);
        let (entries, rest) = rest.split_at_checked(len).ok_or(BlockError("a block's entries are cut short"))?;
        let block = Self { epoch: u64_at(0), first: Seq(u64_at(8)), at: Timestamp(u64_at(16) as i64), count, entries };
        block.check()?;
        Ok((block, rest))
    }

    /// Whether there are as many entries as it says.
    ///
    /// # Errors
    /// There are not, or there is none.
    pub(super) fn check(&self) -> Result<(), BlockError> {
        let (mut rest, mut found) = (self.entries, 0);
        while !rest.is_empty() {
            rest = &rest[codec::skip(rest).map_err(|_| BlockError("an entry is cut short"))?..];
            found += 1;
        }
        let is_right = found == self.count && found > 0 && self.first > Seq(0);
        if is_right { Ok(()) } else { Err(BlockError("a block has another number of entries than it says")) }
    }

    /// The same entries in blocks that fit into a frame. They must be sound.
    pub(super) fn pieces(self) -> Vec<Self> {
        let (mut pieces, mut rest, mut first) = (Vec::new(), self.entries, self.first);
        while !rest.is_empty() {
            let (mut len, mut count) = (0, 0);
            while len < rest.len() {
                let next = codec::skip(&rest[len..]).unwrap_or(rest.len() - len);
                if count > 0 && HEAD + len + next > limits::KEPT_BLOCK_MAX {
                    break;
                }
                (len, count) = (len + next, count + 1);
            }
            let (entries, behind) = rest.split_at(len);
            pieces.push(Self { first, count, entries, ..self });
            (rest, first) = (behind, first.plus(u64::from(count)));
        }
        pieces
    }

    /// Its entries with their positions.
    pub fn each(&self) -> impl Iterator<Item = (Seq, &'a [u8])> + use<'a> {
        let (mut rest, mut seq) = (self.entries, self.first);
        std::iter::from_fn(move || {
            let (entry, behind) = rest.split_at_checked(codec::skip(rest).ok()?)?;
            let here = seq;
            (rest, seq) = (behind, seq.next());
            Some((here, entry))
        })
    }

    /// Its entries as items of the list, as the library's function `offer` takes them; those after `after`, of which the first
    /// is at the position that comes with them.
    pub fn items_after(&self, after: Seq) -> (Seq, Vec<Vec<u8>>) {
        let wanted = self.each().filter(|(seq, _)| *seq > after);
        (self.first.max(after.next()), wanted.map(|(_, entry)| layout::item(self.at, entry)).collect())
    }
}
