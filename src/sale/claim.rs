//! One buyer's hold on units, or on a red packet's share.

use super::{CampaignNo, ClaimId, KeyHash, Money, Seq, Timestamp, Units, UserId};

/// What an acceptance promises: where its entry was when the 202 left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced to the journal's disk.
    Disk,
    /// In this process's memory and the page cache only: the operator chose it.
    Memory,
}

impl Durability {
    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
        }
    }
}

/// Where a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimStatus {
    /// In the buffer.
    Accepted,
    /// A row in the database.
    Persisted,
    /// Paid, says the shop.
    Settled,
    /// Given back.
    Cancelled,
    /// Not settled in time.
    Expired,
    /// Submitted, but nobody knows yet whether it was decided durably.
    Unknown,
    /// Was unknown, and turned out to be refused.
    Rejected,
}

impl ClaimStatus {
    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Persisted => "persisted",
            Self::Settled => "settled",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
            Self::Rejected => "rejected",
        }
    }

    /// Reads the contract's word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Accepted, Self::Persisted, Self::Settled, Self::Cancelled, Self::Expired, Self::Unknown, Self::Rejected]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// A decided claim: everything that the journal, the answer and the database row are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Its public id.
    pub claim_id: ClaimId,
    /// The campaign's place in the book.
    pub campaign: CampaignNo,
    /// The buyer.
    pub user: UserId,
    /// Units held, at least 1.
    pub quantity: Units,
    /// Price × quantity, or the share; none without a price.
    pub amount: Option<Money>,
    /// Which of the buyer's concurrent holds in the campaign this is, from 0: the lowest that was free. The database's
    /// unique key is (campaign, buyer, hold), so that a buyer may claim again after giving a claim back.
    pub hold: u32,
    /// The receipt key in use when it was decided, so that a repeated answer is the same byte for byte.
    pub receipt_key: u16,
    /// The idempotency key it came with.
    pub key: Option<KeyHash>,
    /// Its position in the journal.
    pub seq: Seq,
    /// When the sequencer decided it.
    pub accepted_at: Timestamp,
    /// What its acceptance promised.
    pub durability: Durability,
}
