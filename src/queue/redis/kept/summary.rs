//! Which positions lie where in a gate's journal, as far as trimming needs to know: a few numbers a segment.

use std::collections::{BTreeMap, VecDeque};

use super::block::Block;
use crate::sale::Seq;

/// A segment's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    segment: u64,
    /// The last block, by its position in the gate's own journal.
    last: Seq,
    /// The highest shared position in it.
    highest: Seq,
}

/// What a gate has kept.
#[derive(Debug, Default)]
pub(super) struct Summary {
    parts: VecDeque<Part>,
    /// The highest position of each epoch.
    epochs: BTreeMap<u64, Seq>,
}

impl Summary {
    /// A block at position `local` of the gate's own journal, in `segment`.
    pub(super) fn add(&mut self, segment: u64, local: Seq, block: &Block<'_>) {
        let highest = self.epochs.entry(block.epoch).or_default();
        *highest = block.last().max(*highest);
        match self.parts.back_mut().filter(|part| part.segment == segment) {
            Some(part) => (part.last, part.highest) = (local, part.highest.max(block.last())),
            None => self.parts.push_back(Part { segment, last: local, highest: block.last() }),
        }
    }

    /// Up to where the gate's own journal holds nothing after `retired`; forgets the segments before that.
    pub(super) fn retire(&mut self, retired: Seq) -> Seq {
        let mut upto = Seq(0);
        for part in self.parts.iter().take_while(|part| part.highest <= retired) {
            upto = part.last;
        }
        // One stays, so that a call that moves nothing gives the same.
        while self.parts.get(1).is_some_and(|next| next.last <= upto) {
            self.parts.pop_front();
        }
        upto
    }

    /// The last block, by its position in the gate's own journal.
    pub(super) fn last_local(&self) -> Seq {
        self.parts.back().map_or(Seq(0), |part| part.last)
    }

    /// The last epoch, and the highest position kept under it.
    pub(super) fn last(&self) -> Option<(u64, Seq)> {
        self.epochs.last_key_value().map(|(epoch, seq)| (*epoch, *seq))
    }

    /// The highest position of all.
    pub(super) fn highest(&self) -> Seq {
        self.epochs.values().copied().max().unwrap_or_default()
    }

    /// The highest position that was kept under an epoch before `epoch`.
    pub(super) fn before(&self, epoch: u64) -> Seq {
        self.epochs.range(..epoch).map(|(_, seq)| *seq).max().unwrap_or_default()
    }
}
