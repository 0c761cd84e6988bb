//! What is done to a cart: an operation on one line, and what it makes of the line.
//!
//! An entry carries the line's quantity *after* the operation. So a row is set, never added to, and an entry that is
//! delivered twice changes nothing.

use super::{KeyHash, Sku, UserId};
use crate::limits;

/// An operation on one line of a cart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CartOp {
    /// So many more, from 1.
    Add(u32),
    /// So many, from 0; 0 takes the line out.
    Set(u32),
    /// None.
    Remove,
}

impl CartOp {
    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add(_) => "add",
            Self::Set(_) => "set",
            Self::Remove => "remove",
        }
    }

    /// How many it names; 0 where it names none.
    pub fn quantity(self) -> u32 {
        match self {
            Self::Add(quantity) | Self::Set(quantity) => quantity,
            Self::Remove => 0,
        }
    }

    /// What a line of `before` becomes; none where that is more than a line may hold.
    pub fn apply(self, before: u32) -> Option<u32> {
        let after = match self {
            Self::Add(more) => before.checked_add(more)?,
            Self::Set(quantity) => quantity,
            Self::Remove => 0,
        };
        (after <= limits::CART_QUANTITY_MAX).then_some(after)
    }
}

/// An idempotency key of a cart's operation, and a digest of what was asked under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CartKey {
    /// The key, hashed with its buyer.
    pub hash: KeyHash,
    /// What was asked.
    pub payload: u64,
}

/// A line of a cart was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carted {
    /// The buyer.
    pub user: UserId,
    /// The line.
    pub sku: Sku,
    /// What was asked.
    pub op: CartOp,
    /// The line's quantity afterwards; 0 where it is gone.
    pub quantity: u32,
    /// The key that it was asked under.
    pub key: Option<CartKey>,
    /// The 40 bits of the buyer's hash by which its waiting entries are found.
    pub address: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_up_to_a_million() {
        for (op, before, after) in [
            (CartOp::Add(1), 0, Some(1)),
            (CartOp::Add(1), 999_999, Some(1_000_000)),
            (CartOp::Add(1), 1_000_000, None),
            (CartOp::Add(u32::MAX), 1, None),
            (CartOp::Set(0), 7, Some(0)),
            (CartOp::Set(1_000_000), 7, Some(1_000_000)),
            (CartOp::Set(1_000_001), 7, None),
            (CartOp::Remove, 7, Some(0)),
        ] {
            assert_eq!(op.apply(before), after, "{op:?} of {before}");
        }
    }
}
