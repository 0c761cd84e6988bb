//! What the journal holds and the database receives: decided commands that carry their outcome.
//!
//! An entry is *applied*, never decided again: a newer binary, or another random generator, can't rewrite history.

use super::campaign::CampaignPatch;
use super::red_packet::Seed;
use super::{CampaignNo, CampaignSpec, Carted, Claim, ClaimId, ClaimStatus, KeyHash, Money, Seq, Timestamp, Units};

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

/// What becomes of a claim after its acceptance. Each is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Paid, says the shop. Its units stay with the buyer.
    Settled,
    /// Given back by the service that owns the order, or dropped by the operator. Its units are free again.
    Cancelled,
    /// Not settled in time. Its units are free again.
    Expired,
}

impl Fate {
    /// Whether the units are free again.
    pub fn returns_units(self) -> bool {
        self != Self::Settled
    }

    /// The claim's status from then on.
    pub fn status(self) -> ClaimStatus {
        match self {
            Self::Settled => ClaimStatus::Settled,
            Self::Cancelled => ClaimStatus::Cancelled,
            Self::Expired => ClaimStatus::Expired,
        }
    }
}

/// A claim came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The claim.
    pub claim_id: ClaimId,
    /// Its campaign's place in the book.
    pub campaign: CampaignNo,
    /// Its units, so that whoever counts needs nothing else.
    pub quantity: Units,
    /// Its amount.
    pub amount: Option<Money>,
    /// What became of it.
    pub to: Fate,
    /// Who asked, up to 64 bytes; empty where time did.
    pub by: Box<str>,
    /// Why, up to 200 bytes; empty where nobody said.
    pub reason: Box<str>,
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
    /// A claim was settled, cancelled or has expired.
    Moved(Moved),
    /// A campaign is closed for good and its claims leave memory; from here on the database alone knows them.
    Released(CampaignNo),
    /// A line of a cart was changed.
    Carted(Carted),
    /// Nothing: a position that was given out and never acknowledged, and that nobody has any more. It keeps positions dense.
    Void,
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
