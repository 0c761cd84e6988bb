//! The bytes of an entry. Little-endian throughout; docs/journal.md has the table.
//!
//! An entry is `len: u16, kind: u8, …`; `len` counts the bytes after itself. Its seq and time are its frame's: the
//! first entry has the frame's `first_seq`, each further one the next, all have the frame's time and durability.
//!
//! A kind that this binary doesn't know is an error, not something to skip: an entry that isn't applied is a lost ack.

use crate::sale::{
    Asked, CampaignNo, CampaignSpec, CartKey, CartOp, Carted, Changed, Claim, ClaimId, Created, Durability, Entry,
    Event, Fate, KeyHash, Money, Moved, Seq, Sku, Timestamp, Units, UserId, campaign::CampaignPatch, red_packet::Seed,
};

const CLAIMED: u8 = 1;
const CREATED: u8 = 2;
const CHANGED: u8 = 3;
const MOVED: u8 = 4;
const RELEASED: u8 = 5;
const CARTED: u8 = 6;
const VOID: u8 = 7;
/// The newest kind that this binary knows.
pub const NEWEST_KIND: u8 = VOID;

const HAS_AMOUNT: u8 = 1;
const HAS_KEY: u8 = 2;

/// What can become of a claim, by the byte that says so.
const FATES: [Fate; 3] = [Fate::Settled, Fate::Cancelled, Fate::Expired];

/// Why bytes are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end inside the entry.
    #[error("the entry is cut short")]
    Short,
    /// A kind that a newer binary writes.
    #[error("entry kind {0} is unknown to this binary: it was written by a newer one")]
    UnknownKind(u8),
    /// A field holds what no binary writes.
    #[error("the entry's {0} is not valid")]
    Field(&'static str),
}

/// What a frame lends to each of its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameContext {
    /// The first entry's seq.
    pub first_seq: Seq,
    /// The time of all.
    pub at: Timestamp,
    /// What their acceptances promised.
    pub durability: Durability,
}

/// Appends a claim to `out`.
pub fn encode_claim(out: &mut Vec<u8>, claim: &Claim) {
    let mut b = [0u8; 160];
    let user = claim.user.as_bytes();
    b[2] = CLAIMED;
    b[3] = if claim.amount.is_some() { HAS_AMOUNT } else { 0 } | if claim.key.is_some() { HAS_KEY } else { 0 };
    b[4..8].copy_from_slice(&claim.campaign.0.to_le_bytes());
    b[8..12].copy_from_slice(&(claim.quantity.0 as u32).to_le_bytes());
    b[12..14].copy_from_slice(&(claim.hold as u16).to_le_bytes());
    b[14..16].copy_from_slice(&claim.receipt_key.to_le_bytes());
    b[16..32].copy_from_slice(&claim.claim_id.0);
    let mut at = 32;
    if let Some(amount) = claim.amount {
        b[at..at + 8].copy_from_slice(&amount.0.to_le_bytes());
        at += 8;
    }
    if let Some(key) = claim.key {
        b[at..at + 16].copy_from_slice(&key.0.to_le_bytes());
        at += 16;
    }
    b[at] = user.len() as u8;
    b[at + 1..at + 1 + user.len()].copy_from_slice(user);
    at += 1 + user.len();
    let len = (at - 2) as u16;
    b[..2].copy_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&b[..at]);
}

/// Appends any entry's event to `out`.
pub fn encode(out: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Claimed(claim) => encode_claim(out, claim),
        Event::Created(created) => {
            framed(out, CREATED, created.no, &created.asked, |out| {
                out.extend_from_slice(&created.seed.0);
                out.extend_from_slice(created.spec.to_json().to_string().as_bytes());
            });
        }
        Event::Changed(changed) => {
            framed(out, CHANGED, changed.no, &changed.asked, |out| {
                out.extend_from_slice(changed.patch.to_json().to_string().as_bytes());
            });
        }
        Event::Moved(moved) => encode_moved(out, moved),
        Event::Carted(carted) => encode_carted(out, carted),
        Event::Released(no) => {
            out.extend_from_slice(&[6, 0, RELEASED, 0]);
            out.extend_from_slice(&no.0.to_le_bytes());
        }
        Event::Void => out.extend_from_slice(&[2, 0, VOID, 0]),
    }
}

/// Campaign, units and claim id lie where a claim has them.
fn encode_moved(out: &mut Vec<u8>, moved: &Moved) {
    let start = out.len();
    let fate = FATES.iter().position(|fate| *fate == moved.to).unwrap_or_default() as u8;
    out.extend_from_slice(&[0, 0, MOVED, if moved.amount.is_some() { HAS_AMOUNT } else { 0 }]);
    out.extend_from_slice(&moved.campaign.0.to_le_bytes());
    out.extend_from_slice(&(moved.quantity.0 as u32).to_le_bytes());
    out.extend_from_slice(&[fate, 0, 0, 0]);
    out.extend_from_slice(&moved.claim_id.0);
    if let Some(amount) = moved.amount {
        out.extend_from_slice(&amount.0.to_le_bytes());
    }
    put_text(out, &moved.by);
    put_text(out, &moved.reason);
    let len = out.len() - start - 2;
    out[start..start + 2].copy_from_slice(&(len as u16).to_le_bytes());
}

/// Appends a cart's operation to `out`.
pub fn encode_carted(out: &mut Vec<u8>, carted: &Carted) {
    let start = out.len();
    let op = match carted.op {
        CartOp::Add(_) => 0,
        CartOp::Set(_) => 1,
        CartOp::Remove => 2,
    };
    out.extend_from_slice(&[0, 0, CARTED, if carted.key.is_some() { HAS_KEY } else { 0 }, op, 0, 0, 0]);
    out.extend_from_slice(&carted.op.quantity().to_le_bytes());
    out.extend_from_slice(&carted.quantity.to_le_bytes());
    out.extend_from_slice(&carted.address.to_le_bytes());
    if let Some(key) = carted.key {
        out.extend_from_slice(&key.hash.0.to_le_bytes());
        out.extend_from_slice(&key.payload.to_le_bytes());
    }
    put_text(out, carted.user.as_str());
    put_text(out, carted.sku.as_str());
    let len = out.len() - start - 2;
    out[start..start + 2].copy_from_slice(&(len as u16).to_le_bytes());
}

/// A text of at most 255 bytes behind its length.
fn put_text(out: &mut Vec<u8>, text: &str) {
    // Cut between characters: half of one could not be read back, and the journal would be refused.
    let end = (0..=text.len().min(255)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    out.push(end as u8);
    out.extend_from_slice(&text.as_bytes()[..end]);
}

/// Reads [`put_text`] back; gives the text and what is behind it.
fn text<'a>(b: &'a [u8], field: &'static str) -> Result<(&'a str, &'a [u8]), CodecError> {
    let len = *b.first().ok_or(CodecError::Short)? as usize;
    let (text, rest) = b[1..].split_at_checked(len).ok_or(CodecError::Short)?;
    Ok((std::str::from_utf8(text).map_err(|_| CodecError::Field(field))?, rest))
}

fn framed(out: &mut Vec<u8>, kind: u8, no: CampaignNo, asked: &Asked, rest: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, kind, if asked.key.is_some() { HAS_KEY } else { 0 }]);
    out.extend_from_slice(&no.0.to_le_bytes());
    if let Some(key) = asked.key {
        out.extend_from_slice(&key.0.to_le_bytes());
    }
    put_text(out, &asked.by);
    rest(out);
    let len = out.len() - start - 2;
    assert!(len + 2 <= crate::limits::ENTRY_MAX, "an entry of {len} bytes");
    out[start..start + 2].copy_from_slice(&(len as u16).to_le_bytes());
}

/// Reads the entry at the start of `bytes`, the `index`-th of its frame; gives it and the number of bytes it took.
///
/// # Errors
/// [`CodecError`]; nothing was read then.
pub fn decode(bytes: &[u8], context: &FrameContext, index: u64) -> Result<(Entry, usize), CodecError> {
    let len = u16::from_le_bytes(take(bytes, 0)?) as usize;
    let body = bytes.get(2..2 + len).ok_or(CodecError::Short)?;
    let (seq, at) = (context.first_seq.plus(index), context.at);
    let event = match *body.first().ok_or(CodecError::Short)? {
        CLAIMED => Event::Claimed(claim(body, seq, context)?),
        CREATED => Event::Created(Box::new(created(body)?)),
        CHANGED => Event::Changed(Box::new(changed(body)?)),
        MOVED => Event::Moved(moved(body)?),
        RELEASED => Event::Released(released(body)?),
        CARTED => Event::Carted(carted(body)?),
        VOID => void(body)?,
        other => return Err(CodecError::UnknownKind(other)),
    };
    Ok((Entry { seq, at, event }, 2 + len))
}

/// The bytes that the entry at the start of `bytes` takes, without reading it.
///
/// # Errors
/// [`CodecError::Short`].
pub fn skip(bytes: &[u8]) -> Result<usize, CodecError> {
    let len = u16::from_le_bytes(take(bytes, 0)?) as usize;
    bytes.get(2..2 + len).map(|_| 2 + len).ok_or(CodecError::Short)
}

/// The claim id in the entry at the start of `bytes`, if it is a claim: for indexes, without reading the rest.
pub fn claim_id(bytes: &[u8]) -> Option<ClaimId> {
    (*bytes.get(2)? == CLAIMED).then(|| take(bytes, 16).ok().map(ClaimId)).flatten()
}

/// The claim whose end the entry at the start of `bytes` is, if it is one.
pub fn moved_id(bytes: &[u8]) -> Option<ClaimId> {
    (*bytes.get(2)? == MOVED).then(|| take(bytes, 16).ok().map(ClaimId)).flatten()
}

/// The buyer's address in the entry at the start of `bytes`, if it is a cart's operation.
pub fn cart_address(bytes: &[u8]) -> Option<u64> {
    (*bytes.get(2)? == CARTED).then(|| take(bytes, 16).ok().map(u64::from_le_bytes)).flatten()
}

/// What the entry at the start of `bytes` does to a campaign's units and money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// The campaign.
    pub campaign: CampaignNo,
    /// Units.
    pub units: Units,
    /// Minor units.
    pub money: Money,
    /// What became of them; none where they were claimed.
    pub fate: Option<Fate>,
}

/// The sums of the entry at the start of `bytes`, if it is a claim or the end of one.
pub fn sums(bytes: &[u8]) -> Option<Sums> {
    let fate = match *bytes.get(2)? {
        CLAIMED => None,
        MOVED => Some(*FATES.get(*bytes.get(12)? as usize)?),
        _ => return None,
    };
    let amount = if bytes.get(3)? & HAS_AMOUNT != 0 { i64::from_le_bytes(take(bytes, 32).ok()?) } else { 0 };
    let (no, quantity) = (take(bytes, 4).ok()?, take(bytes, 8).ok()?);
    let (campaign, units) = (CampaignNo(u32::from_le_bytes(no)), Units(u32::from_le_bytes(quantity).into()));
    Some(Sums { campaign, units, money: Money(amount), fate })
}

fn claim(b: &[u8], seq: Seq, context: &FrameContext) -> Result<Claim, CodecError> {
    let flags = b.get(1).copied().ok_or(CodecError::Short)?;
    check_flags(flags, HAS_AMOUNT | HAS_KEY)?;
    let mut at = 30;
    let mut amount = None;
    if flags & HAS_AMOUNT != 0 {
        amount = Some(Money(i64::from_le_bytes(take(b, at)?)));
        at += 8;
    }
    let mut key = None;
    if flags & HAS_KEY != 0 {
        key = Some(KeyHash(u128::from_le_bytes(take(b, at)?)));
        at += 16;
    }
    let len = *b.get(at).ok_or(CodecError::Short)? as usize;
    let user = b.get(at + 1..at + 1 + len).ok_or(CodecError::Short)?;
    if at + 1 + len != b.len() {
        return Err(CodecError::Field("length"));
    }
    let user = std::str::from_utf8(user).ok().and_then(|u| UserId::parse(u).ok());
    Ok(Claim {
        claim_id: ClaimId(take(b, 14)?),
        campaign: CampaignNo(u32::from_le_bytes(take(b, 2)?)),
        user: user.ok_or(CodecError::Field("user"))?,
        quantity: Units(u32::from_le_bytes(take(b, 6)?).into()),
        amount,
        hold: u16::from_le_bytes(take(b, 10)?).into(),
        receipt_key: u16::from_le_bytes(take(b, 12)?),
        key,
        seq,
        accepted_at: context.at,
        durability: context.durability,
    })
}

/// A flag that this binary doesn't know says something about the entry that it would lose.
fn check_flags(flags: u8, known: u8) -> Result<(), CodecError> {
    if flags & !known == 0 { Ok(()) } else { Err(CodecError::Field("flags")) }
}

fn asked(b: &[u8]) -> Result<(CampaignNo, Asked, &[u8]), CodecError> {
    let flags = b.get(1).copied().ok_or(CodecError::Short)?;
    let no = CampaignNo(u32::from_le_bytes(take(b, 2)?));
    check_flags(flags, HAS_KEY)?;
    let mut at = 6;
    let mut key = None;
    if flags & HAS_KEY != 0 {
        key = Some(KeyHash(u128::from_le_bytes(take(b, at)?)));
        at += 16;
    }
    let (by, rest) = text(b.get(at..).ok_or(CodecError::Short)?, "name of who asked")?;
    Ok((no, Asked { by: by.to_owned(), key }, rest))
}

fn moved(b: &[u8]) -> Result<Moved, CodecError> {
    let flags = b.get(1).copied().ok_or(CodecError::Short)?;
    check_flags(flags, HAS_AMOUNT)?;
    let fate = b.get(10).ok_or(CodecError::Short)?;
    let to = *FATES.get(*fate as usize).ok_or(CodecError::Field("end"))?;
    if b.get(11..14) != Some(&[0; 3]) {
        return Err(CodecError::Field("padding"));
    }
    let (amount, at) = match flags & HAS_AMOUNT {
        0 => (None, 30),
        _ => (Some(Money(i64::from_le_bytes(take(b, 30)?))), 38),
    };
    let (by, rest) = text(b.get(at..).ok_or(CodecError::Short)?, "name of who asked")?;
    let (reason, rest) = text(rest, "reason")?;
    if !rest.is_empty() {
        return Err(CodecError::Field("length"));
    }
    Ok(Moved {
        claim_id: ClaimId(take(b, 14)?),
        campaign: CampaignNo(u32::from_le_bytes(take(b, 2)?)),
        quantity: Units(u32::from_le_bytes(take(b, 6)?).into()),
        amount,
        to,
        by: by.into(),
        reason: reason.into(),
    })
}

fn carted(b: &[u8]) -> Result<Carted, CodecError> {
    let flags = b.get(1).copied().ok_or(CodecError::Short)?;
    check_flags(flags, HAS_KEY)?;
    let named = u32::from_le_bytes(take(b, 6)?);
    let op = match (b.get(2), named) {
        (Some(0), more) => CartOp::Add(more),
        (Some(1), quantity) => CartOp::Set(quantity),
        (Some(2), 0) => CartOp::Remove,
        _ => return Err(CodecError::Field("operation")),
    };
    if b.get(3..6) != Some(&[0; 3]) {
        return Err(CodecError::Field("padding"));
    }
    let (key, at) = match flags & HAS_KEY {
        0 => (None, 22),
        _ => {
            let (hash, payload) = (KeyHash(u128::from_le_bytes(take(b, 22)?)), u64::from_le_bytes(take(b, 38)?));
            (Some(CartKey { hash, payload }), 46)
        }
    };
    let (user, rest) = text(b.get(at..).ok_or(CodecError::Short)?, "user")?;
    let (sku, rest) = text(rest, "sku")?;
    if !rest.is_empty() {
        return Err(CodecError::Field("length"));
    }
    Ok(Carted {
        user: UserId::parse(user).map_err(|_| CodecError::Field("user"))?,
        sku: Sku::parse(sku).map_err(|_| CodecError::Field("sku"))?,
        op,
        quantity: u32::from_le_bytes(take(b, 10)?),
        key,
        address: u64::from_le_bytes(take(b, 14)?),
    })
}

fn released(b: &[u8]) -> Result<CampaignNo, CodecError> {
    check_flags(b.get(1).copied().ok_or(CodecError::Short)?, 0)?;
    if b.len() != 6 {
        return Err(CodecError::Field("length"));
    }
    Ok(CampaignNo(u32::from_le_bytes(take(b, 2)?)))
}

fn void(b: &[u8]) -> Result<Event, CodecError> {
    check_flags(b.get(1).copied().ok_or(CodecError::Short)?, 0)?;
    if b.len() == 2 { Ok(Event::Void) } else { Err(CodecError::Field("length")) }
}

fn created(b: &[u8]) -> Result<Created, CodecError> {
    let (no, asked, rest) = asked(b)?;
    let seed = Seed(take(rest, 0)?);
    let spec = CampaignSpec::restore(&rest[16..]).map_err(|_| CodecError::Field("campaign"))?;
    Ok(Created { no, spec, seed, asked })
}

fn changed(b: &[u8]) -> Result<Changed, CodecError> {
    let (no, asked, rest) = asked(b)?;
    let patch = CampaignPatch::parse(rest).map_err(|_| CodecError::Field("change"))?;
    Ok(Changed { no, patch, asked })
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], CodecError> {
    let slice = bytes.get(at..at + N).ok_or(CodecError::Short)?;
    slice.try_into().map_err(|_| CodecError::Short)
}
