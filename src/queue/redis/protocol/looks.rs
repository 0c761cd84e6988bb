//! What is looked up through a gate's lane: commands as others, which change nothing.

use redis::Value;

use super::{ProtocolError, bytes, entry, list, number, short};
use crate::queue::ledger::{Account, Balance};
use crate::sale::{CampaignNo, Durability, Entry, Seq, Sku, UserId};

/// Asks for what waits of a buyer's claims, by [`crate::sale::ClaimId::tag`] or [`crate::sale::UserHash::tag`]. What is found
/// may be another buyer's with the same tag, too.
pub fn look_claim(tag: [u8; 6]) -> Vec<u8> {
    [&b"f"[..], &tag].concat()
}

/// Asks for what waits of the `count` entries from `first` on.
pub fn look_entries(first: Seq, count: u32) -> Vec<u8> {
    [&b"e"[..], &first.0.to_le_bytes(), &count.to_le_bytes()].concat()
}

/// Waiting entries, the oldest first: the answer to [`look_claim`] and [`look_entries`].
///
/// # Errors
/// What is no answer to that.
pub fn looked_waiting(answer: &Value, durability: Durability) -> Result<Vec<Entry>, ProtocolError> {
    let read = |pair: &[Value]| match pair {
        [seq, item] => entry(bytes(item)?, Seq(number(seq)?), durability),
        _ => Err(short("a look for claims")),
    };
    list(answer)?.chunks(2).map(read).collect()
}

/// Asks for a cart.
pub fn look_cart(user: &UserId) -> Vec<u8> {
    [&b"u"[..], user.as_bytes()].concat()
}

/// A cart in Redis: the position of its last operation, and its lines in no order.
pub type StoredCart = (Seq, Vec<(Sku, u32)>);

/// The cart; none where Redis has none, and the database's is what there is.
///
/// # Errors
/// What is no answer to that.
pub fn looked_cart(answer: &Value) -> Result<Option<StoredCart>, ProtocolError> {
    let Some((version, lines)) = list(answer)?.split_first() else { return Ok(None) };
    let read = |pair: &[Value]| match pair {
        [sku, units] => {
            let sku = super::text(sku)?;
            let sku = Sku::parse(sku).map_err(|error| ProtocolError(format!("{sku:?} in a cart: {error}")))?;
            Ok((sku, number(units)?))
        }
        _ => Err(short("a look at a cart")),
    };
    Ok(Some((Seq(number(version)?), lines.chunks(2).map(read).collect::<Result<_, _>>()?)))
}

/// Asks for a campaign's balance.
pub fn look_balance(no: CampaignNo) -> Vec<u8> {
    [&b"b"[..], &no.0.to_le_bytes()].concat()
}

/// The balance; zeroes for a campaign never heard of.
///
/// # Errors
/// What is no answer to that.
pub fn looked_balance(answer: &Value) -> Result<Balance, ProtocolError> {
    let numbers: Vec<i64> = list(answer)?.iter().map(number).collect::<Result<_, _>>()?;
    if numbers.is_empty() {
        return Ok(Balance::default());
    }
    let numbers = numbers.as_slice().try_into().map_err(|_| short("a look at a balance"))?;
    Ok(Account::of(numbers).balance())
}
