//! Carts in the simulated database.

use std::collections::BTreeMap;

use forebay::sale::UserId;
use forebay::store::{CartRow, StoredCart};

/// Sets a line to what it is after an operation, unless the cart has a later one.
pub fn set(carts: &mut BTreeMap<UserId, StoredCart>, row: &CartRow) {
    let cart = carts.entry(row.user).or_default();
    if row.seq <= cart.version {
        return;
    }
    // One that is superseded is set all the same: the later one may be a dead letter.
    cart.version = row.seq;
    cart.lines.retain(|(sku, _)| *sku != row.sku);
    if row.quantity > 0 {
        cart.lines.push((row.sku, row.quantity));
        cart.lines.sort_unstable();
    }
}
