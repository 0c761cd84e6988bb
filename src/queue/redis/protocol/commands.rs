//! Buyers' commands as bytes, and what became of them.

use super::layout::durability_byte;
use super::{ProtocolError, Reader};
use crate::queue::command::{
    CartCommand, CartOutcome, ClaimCommand, MoveCommand, MoveDone, MoveRefusal, Outcome, Refusal, Replay,
};
use crate::sale::check_in::Day;
use crate::sale::{CartKey, CartOp, ClaimId, Durability, Fate, KeyHash, Seq, Sku, Units, UserId};

/// A claim. `days` are the local days around the gate's own time, of a check-in: the library knows no calendars.
pub fn claim(command: &ClaimCommand, durability: Durability, days: &[Day]) -> Vec<u8> {
    let user = command.user.as_bytes();
    let mut b = Vec::with_capacity(46 + user.len() + 18 * days.len());
    b.push(b'c');
    b.extend_from_slice(&command.campaign.0.to_le_bytes());
    b.extend_from_slice(&command.quantity.to_le_bytes());
    b.extend_from_slice(&command.receipt_key.to_le_bytes());
    b.extend_from_slice(&[u8::from(command.key.is_some()), durability_byte(durability)]);
    b.extend_from_slice(&command.claim_id.0);
    b.extend_from_slice(&command.key.map_or(0, |key| key.0).to_le_bytes());
    b.push(user.len() as u8);
    b.extend_from_slice(user);
    for day in days {
        b.extend_from_slice(&day.no.0.to_le_bytes());
        b.extend_from_slice(&day.from.0.to_le_bytes());
        b.extend_from_slice(&day.until.0.to_le_bytes());
    }
    b
}

/// A cart that was loaded because the library asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedCart {
    /// The number that came with the wish to load it.
    pub number: u64,
    /// The position of its last operation; 0 where there is none.
    pub version: Seq,
    /// Its lines.
    pub lines: Vec<(Sku, u32)>,
}

/// An operation on a cart; `loaded` where the library has asked for it.
pub fn cart(command: &CartCommand, loaded: Option<&LoadedCart>) -> Vec<u8> {
    let op = match command.op {
        CartOp::Add(_) => 0,
        CartOp::Set(_) => 1,
        CartOp::Remove => 2,
    };
    let key = command.key.unwrap_or(CartKey { hash: KeyHash(0), payload: 0 });
    let mut b = vec![b't', op];
    b.extend_from_slice(&command.op.quantity().to_le_bytes());
    b.extend_from_slice(&command.user_hash.address().to_le_bytes());
    b.push(u8::from(command.key.is_some()));
    b.extend_from_slice(&key.hash.0.to_le_bytes());
    b.extend_from_slice(&key.payload.to_le_bytes());
    let number = loaded.map_or(String::new(), |loaded| loaded.number.to_string());
    for text in [command.user.as_str(), command.sku.as_str(), &number] {
        b.push(text.len() as u8);
        b.extend_from_slice(text.as_bytes());
    }
    if let Some(loaded) = loaded {
        b.extend_from_slice(&loaded.version.0.to_le_bytes());
        for (sku, quantity) in &loaded.lines {
            b.extend_from_slice(&quantity.to_le_bytes());
            b.push(sku.as_bytes().len() as u8);
            b.extend_from_slice(sku.as_bytes());
        }
    }
    b
}

/// The end of a claim of `user`.
pub fn end(command: &MoveCommand, user: &UserId) -> Vec<u8> {
    let to = match command.to {
        Fate::Settled => 0,
        Fate::Cancelled => 1,
        Fate::Expired => 2,
    };
    let mut b = vec![b'm'];
    b.extend_from_slice(&command.campaign.0.to_le_bytes());
    b.push(to);
    b.extend_from_slice(&command.claim_id.0);
    for text in [user.as_str(), &command.by, &command.reason] {
        b.push(text.len() as u8);
        b.extend_from_slice(text.as_bytes());
    }
    b
}

/// What became of an operation on a cart.
///
/// # Errors
/// What is no answer to one.
pub fn cart_outcome(answer: &[u8]) -> Result<CartOutcome, ProtocolError> {
    let (word, rest) = answer.split_first().ok_or_else(|| ProtocolError("it is empty".to_owned()))?;
    Ok(match word {
        b'A' => CartOutcome::Done(Seq(Reader(rest).number()?)),
        b'P' => CartOutcome::Replayed(Seq(Reader(rest).number()?)),
        b'l' => {
            let number = std::str::from_utf8(rest).ok().and_then(|text| text.parse().ok());
            CartOutcome::Load(number.ok_or_else(|| ProtocolError(format!("{rest:?} is no number to load under")))?)
        }
        b'K' => CartOutcome::KeyReused,
        b'f' => CartOutcome::Full,
        b'F' => CartOutcome::BufferFull,
        _ => return Err(ProtocolError(format!("{answer:?} is no answer to an operation on a cart"))),
    })
}

/// The outcome of a claim. None where the gate's days did not include the library's: work them out again.
///
/// # Errors
/// What is no answer to a claim.
pub fn claim_outcome(answer: &[u8]) -> Result<Option<Outcome>, ProtocolError> {
    let (word, rest) = answer.split_first().ok_or_else(|| ProtocolError("it is empty".to_owned()))?;
    let mut b = Reader(rest);
    let refusal = match word {
        b'A' => {
            let (seq, at, amount) = (Seq(b.number()?), b.instant()?, b.amount()?);
            return Ok(Some(Outcome::Accepted { seq, at, amount }));
        }
        b'P' => return replay(&mut b).map(|replay| Some(Outcome::Replayed(replay))),
        b'Z' => return Ok(None),
        b'?' => Refusal::UnknownCampaign,
        b'K' => Refusal::KeyReused,
        b'L' => Refusal::OverLimit { limit: Units(b.number()?) },
        b'H' => Refusal::AlreadyClaimed(ClaimId(b.take()?)),
        b'E' => Refusal::Ended,
        b'U' => Refusal::Paused,
        b'N' => Refusal::NotOpen { opens_at: b.instant()? },
        b'S' => Refusal::SoldOut { stock_version: b.number()? },
        b'F' => Refusal::BufferFull,
        _ => return Err(ProtocolError(format!("{answer:?} is no answer to a claim"))),
    };
    Ok(Some(Outcome::Refused(refusal)))
}

fn replay(b: &mut Reader) -> Result<Replay, ProtocolError> {
    Ok(Replay {
        quantity: u32::from_le_bytes(b.take()?),
        claim_id: ClaimId(b.take()?),
        amount: b.amount()?,
        receipt_key: u16::from_le_bytes(b.take()?),
        seq: Seq(b.number()?),
        at: b.instant()?,
        durability: match b.take()? {
            [0] => Durability::Disk,
            [1] => Durability::Memory,
            [other] => return Err(ProtocolError(format!("durability {other}"))),
        },
    })
}

/// What became of a wish to end a claim.
///
/// # Errors
/// What is no answer to one.
pub fn end_outcome(answer: &[u8]) -> Result<Result<MoveDone, MoveRefusal>, ProtocolError> {
    Ok(match answer.first() {
        Some(b'm') => Ok(MoveDone::Moved),
        Some(b'd') => Ok(MoveDone::Repeated),
        Some(b'n') => Err(MoveRefusal::NotHeld),
        Some(b's') => Err(MoveRefusal::Settled),
        Some(b'c') => Err(MoveRefusal::CheckIn),
        Some(b'r') => Err(MoveRefusal::Released),
        _ => return Err(ProtocolError(format!("{answer:?} is no answer to the end of a claim"))),
    })
}
