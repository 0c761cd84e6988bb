//! What `forebay recover` and a start ask of a database beyond its contract as a store: whose it is, what the rows tell of
//! the campaigns, and to belong to another journal from now on.

use super::{EndRow, Position};
use crate::sale::campaign::AdminState;
use crate::sale::{CampaignNo, CampaignSpec, ClaimId, Money, Seq, Timestamp, Units};

/// What stands where the configuration names a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// Nothing, in a folder that is there.
    Missing,
    /// A database without tables.
    Empty,
    /// Ours, and no journal's yet.
    Unbound,
    /// Ours, of this journal, up to this entry, whose mark is known unless an older binary wrote it.
    Bound(Position, Option<u32>),
}

impl Looked {
    /// Whose it is, and how far; none for one that is nobody's.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Bound(position, _) => Some(*position),
            Self::Missing | Self::Empty | Self::Unbound => None,
        }
    }

    /// The mark of the last entry that it has, where it is known.
    pub fn mark(&self) -> Option<u32> {
        match self {
            Self::Bound(_, mark) => *mark,
            Self::Missing | Self::Empty | Self::Unbound => None,
        }
    }
}

/// A campaign as the rows and open dead letters tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignRecord {
    /// Its place in the book.
    pub no: CampaignNo,
    /// Its definition with its window, stock and total as they stand.
    pub spec: CampaignSpec,
    /// What the operator last asked.
    pub state: AdminState,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
    /// Whether its claims have left memory for good.
    pub released: bool,
    /// Changes that were logged.
    pub changes: u64,
    /// Those among them that changed the stock.
    pub restocks: u64,
}

/// A campaign as a database has to know it that goes on without the entries that brought it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownCampaign {
    /// Its place in the book.
    pub no: CampaignNo,
    /// Its definition; of stock and total see below.
    pub spec: CampaignSpec,
    /// What the operator last asked.
    pub state: AdminState,
    /// Its stock at the recovered position; none for a check-in.
    pub stock: Option<Units>,
    /// A red packet's total there.
    pub total: Option<Money>,
}

/// What a database is told that goes on without the entries that would have told it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mend {
    /// The campaigns as they are at the recovered position.
    pub campaigns: Vec<KnownCampaign>,
    /// Ends of claims that it has, and that nobody holds any more, or that are paid.
    pub ends: Vec<EndRow>,
    /// Claims that it will never have, although the journal's book holds them: their ends are to be taken as nothing.
    pub lost: Vec<ClaimId>,
}

/// What was done to a database, for its table `recoveries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// When.
    pub at: Timestamp,
    /// `bound`, `accepted`, `loss` or `rebuilt`.
    pub action: &'static str,
    /// The first and the last entry that are in neither side.
    pub lost: Option<(Seq, Seq)>,
    /// More of it.
    pub detail: serde_json::Value,
}
