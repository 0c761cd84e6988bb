//! What the journal holds and the database receives: decided commands that carry their outcome.
//!
//! An entry is *applied*, never decided again: a newer binary, or another random generator, can't rewrite history.

use super::campaign::CampaignPatch;
use super::red_packet::Seed;
use super::{CampaignNo, CampaignSpec, Claim, KeyHash, Seq, Timestamp};

/// Who asked for an administrative change, and under which idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// The name that the caller gave, up to 64 bytes.
    pub by: String,
    /// The idempotency key, hashed.
    pub key: Option<KeyHash>,
}

/// A campaign came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its place in the book.
    pub no: CampaignNo,
    /// Its definition.
    pub spec: CampaignSpec,
    /// What its shares are drawn from.
    pub seed: Seed,
    /// Who made it.
    pub asked: Asked,
}

/// A campaign was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its place in the book.
    pub no: CampaignNo,
    /// What was changed; sound when it was decided.
    pub patch: CampaignPatch,
    /// Who changed it.
    pub asked: Asked,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A claim was accepted. Its `seq` and `accepted_at` are the entry's.
    Claimed(Claim),
    /// A campaign was created.
    Created(Box<Created>),
    /// A campaign was changed.
    Changed(Box<Changed>),
}

/// A decided, durable command on its way to the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub seq: Seq,
    /// The journal's time when it was decided.
    pub at: Timestamp,
    /// What was decided.
    pub event: Event,
}
