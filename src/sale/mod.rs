//! The vocabulary of a sale and its pure rules: no I/O, no clock, no async, no logging.
//!
//! Everything here is a value or a function of values. Every id, sequence, unit and instant is a newtype that offers
//! legal arithmetic only, so that a sequence can't be added to a price by accident.

pub mod campaign;
pub mod cart;
pub mod check_in;
pub mod claim;
pub mod entry;
pub mod field;
pub mod ids;
pub mod money;
pub mod patch;
pub mod rate;
pub mod red_packet;
pub mod time;

pub use campaign::{CampaignKind, CampaignSpec, CampaignState, FieldError, RedPacketSpec, Split};
pub use cart::{CartKey, CartOp, Carted};
pub use check_in::{CheckInSpec, LocalDay};
pub use claim::{Claim, ClaimStatus, Durability};
pub use entry::{Asked, Changed, Created, Entry, Event, Fate, Moved};
pub use ids::{CampaignId, CampaignNo, ClaimId, IdError, KeyHash, Seq, Sku, SkuError, UserHash, UserId};
pub use money::{Currency, Money, Units};
pub use time::{Span, Timestamp};

/// The largest integer that every JSON reader keeps exact: 2^53 − 1. Amounts, stocks and sequences never exceed it.
pub const MAX_JSON_INT: i64 = (1 << 53) - 1;
