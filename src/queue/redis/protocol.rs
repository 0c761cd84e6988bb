//! What gates, workers and library say to each other: commands as bytes, answers as outcomes. The library has the other half.
//!
//! Integers are little-endian and fixed in size, as in the journal; an operator's command, which is rare, is a row of texts
//! behind their lengths. What is given to a function beside commands are texts; a number among them is decimal.

mod admin;
mod bundle;
mod calls;
mod commands;
pub mod layout;
mod looks;
mod opening;
mod retiring;

use redis::Value;

pub use self::admin::{Restocked, Seen, admin_outcome, change, create, look_campaign, looked_campaign, shares};
pub use self::bundle::{Bundle, Unbundled};
pub use self::calls::{
    CampaignNow, Changes, LastCall, Submitted, Swept, Taken, changes, hello, submitted, swept, taken,
};
pub use self::commands::{LoadedCart, cart, cart_outcome, claim, claim_outcome, end, end_outcome};
pub use self::looks::{
    StoredCart, look_balance, look_cart, look_claim, look_entries, looked_balance, looked_cart, looked_waiting,
};
pub use self::opening::{GateState, Status, Word, status, word};
pub use self::retiring::Retiring;
use super::super::codec;
use crate::sale::{Durability, Entry, Money, Seq, Timestamp};

/// Bytes before an entry's own in the list: its time.
const ENTRY_HEAD: usize = 8;

/// Why an answer can't be read. The library and this binary don't belong together, or the answer is another call's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the library's answer can't be read: {0}")]
pub struct ProtocolError(pub String);

/// Reads an answer piece by piece.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (head, rest) = self.0.split_first_chunk().ok_or_else(|| ProtocolError("it is cut short".to_owned()))?;
        self.0 = rest;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u64, ProtocolError> {
        self.take().map(u64::from_le_bytes)
    }

    fn instant(&mut self) -> Result<Timestamp, ProtocolError> {
        self.take().map(i64::from_le_bytes).map(Timestamp)
    }

    fn amount(&mut self) -> Result<Option<Money>, ProtocolError> {
        Ok(Some(i64::from_le_bytes(self.take()?)).filter(|amount| *amount >= 0).map(Money))
    }
}

/// An answer's bytes.
///
/// # Errors
/// An answer that is something else.
pub fn bytes(value: &Value) -> Result<&[u8], ProtocolError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        other => Err(ProtocolError(format!("{other:?} where bytes are expected"))),
    }
}

/// An answer that is a text.
fn text(value: &Value) -> Result<&str, ProtocolError> {
    std::str::from_utf8(bytes(value)?).map_err(|_| ProtocolError(format!("{value:?} where a text is expected")))
}

/// An answer that is a number, as a text or as Redis has its own.
fn number<T: TryFrom<i64>>(value: &Value) -> Result<T, ProtocolError> {
    let read = match value {
        Value::Int(number) => Some(*number),
        other => text(other)?.parse().ok(),
    };
    let fits = read.and_then(|number| T::try_from(number).ok());
    fits.ok_or_else(|| ProtocolError(format!("{value:?} where a number is expected")))
}

/// An answer that is a list.
fn list(value: &Value) -> Result<&[Value], ProtocolError> {
    match value {
        Value::Array(values) => Ok(values),
        other => Err(ProtocolError(format!("{other:?} where a list is expected"))),
    }
}

fn short(what: &str) -> ProtocolError {
    ProtocolError(format!("the answer to {what} is too short"))
}

/// An item of the list: an entry's time, and its bytes as they are in a journal.
///
/// # Errors
/// Bytes that no library writes.
pub fn item(bytes: &[u8]) -> Result<(Timestamp, &[u8]), ProtocolError> {
    let (head, entry) = bytes.split_first_chunk().ok_or_else(|| ProtocolError("an entry is cut short".to_owned()))?;
    if codec::skip(entry) != Ok(entry.len()) {
        return Err(ProtocolError(format!("an entry of {} bytes has another length", entry.len())));
    }
    Ok((Timestamp(i64::from_le_bytes(*head)), entry))
}

/// The entry at position `seq` of the list, whose acceptances promised `durability`.
///
/// # Errors
/// Bytes that no library writes.
pub fn entry(bytes: &[u8], seq: Seq, durability: Durability) -> Result<Entry, ProtocolError> {
    let head = bytes.first_chunk::<ENTRY_HEAD>().ok_or_else(|| ProtocolError("an entry is cut short".to_owned()))?;
    let context = codec::FrameContext { first_seq: seq, at: Timestamp(i64::from_le_bytes(*head)), durability };
    let decoded = codec::decode(&bytes[ENTRY_HEAD..], &context, 0);
    let (entry, len) = decoded.map_err(|error| ProtocolError(format!("entry {seq}: {error}")))?;
    if ENTRY_HEAD + len != bytes.len() {
        return Err(ProtocolError(format!("entry {seq} is {} bytes long, not {len}", bytes.len() - ENTRY_HEAD)));
    }
    Ok(entry)
}
