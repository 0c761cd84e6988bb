//! What gate and library say to each other: commands as bytes, answers as outcomes. the library has the other half.
//!
//! Integers are little-endian and fixed in size, as in the journal; an operator's command, which is rare, is a row of texts
//! behind their lengths.

use super::super::campaign::Campaign;
use super::super::codec;
use super::super::command::{
    AdminAction, AdminCommand, AdminDone, AdminRefusal, CartCommand, CartOutcome, ClaimCommand, MoveCommand, MoveDone,
    MoveRefusal, Outcome, Refusal, Replay,
};
use crate::sale::campaign::{AdminState, CampaignPatch};
use crate::sale::check_in::Day;
use crate::sale::red_packet::{self, Seed};
use crate::sale::{
    CampaignKind, CampaignNo, CampaignSpec, CartKey, CartOp, Changed, ClaimId, Created, Durability, Entry, Event, Fate,
    KeyHash, Money, Seq, Sku, Timestamp, Units, UserId,
};

/// Bytes before an entry's own in the list: its time.
const ENTRY_HEAD: usize = 8;

/// Why an answer can't be read. The library and this binary don't belong together, or the answer is another call's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the library's answer can't be read: {0}")]
pub struct ProtocolError(pub String);

fn durability_byte(durability: Durability) -> u8 {
    match durability {
        Durability::Disk => 0,
        Durability::Memory => 1,
    }
}

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

fn pieces(all: &[&[u8]]) -> Vec<u8> {
    let mut b = vec![b'a'];
    for piece in all {
        b.extend_from_slice(&(piece.len() as u32).to_le_bytes());
        b.extend_from_slice(piece);
    }
    b
}

/// An event's bytes without the length that the journal puts before them.
fn event_bytes(event: &Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(&mut bytes, event);
    bytes.split_off(2)
}

fn key_bytes(command: &AdminCommand) -> Vec<u8> {
    command.asked.key.map_or(Vec::new(), |key| key.0.to_le_bytes().to_vec())
}

/// A new campaign, whose definition is sound. `shares` names the list, behind the partition's prefix, in which a red packet's
/// shares lie; empty for anything else.
pub fn create(command: &AdminCommand, spec: &CampaignSpec, seed: Seed, digest: u64, shares: &str) -> Vec<u8> {
    let event =
        Event::Created(Box::new(Created { no: CampaignNo(0), spec: spec.clone(), seed, asked: command.asked.clone() }));
    let kind = match spec.kind {
        CampaignKind::FlashSale => 1u8,
        CampaignKind::RedPacket => 2,
        CampaignKind::Coupon => 3,
        CampaignKind::CheckIn => 4,
    };
    let packet = spec.red_packet;
    let mut numbers = vec![kind];
    let opens_closes = [spec.opens_at.0, spec.closes_at.0].map(i64::to_le_bytes);
    numbers.extend_from_slice(opens_closes.as_flattened());
    numbers.extend_from_slice([spec.per_user_limit.0, spec.stock.0].map(u64::to_le_bytes).as_flattened());
    let rest = [
        spec.price.map_or(-1, |price| price.0),
        spec.check_in.as_ref().map_or(0, |check_in| check_in.points.0),
        spec.reservation_ttl.map_or(-1, |ttl| ttl.0),
        packet.map_or(0, |packet| packet.total.0),
        packet.map_or(0, |packet| packet.min.0),
        packet.and_then(|packet| packet.max).map_or(-1, |max| max.0),
    ];
    numbers.extend_from_slice(rest.map(i64::to_le_bytes).as_flattened());
    let (id, key, digest) = (spec.id.as_str().as_bytes(), key_bytes(command), digest.to_le_bytes());
    let text = spec.to_json().to_string();
    pieces(&[b"create", id, &key, &digest, text.as_bytes(), &event_bytes(&event), &numbers, shares.as_bytes()])
}

/// A change of `campaign` as the gate has seen it, to the definition `after`. `shares` as in [`create`]: those that are in the
/// packet when the change is made.
pub fn change(
    command: &AdminCommand,
    (campaign, no): (&Campaign, CampaignNo),
    (patch, after): (&CampaignPatch, &CampaignSpec),
    digest: u64,
    shares: &str,
) -> Vec<u8> {
    let event = Event::Changed(Box::new(Changed { no, patch: *patch, asked: command.asked.clone() }));
    let wish = match patch.state {
        Some(AdminState::Open) => 0u8,
        Some(AdminState::Paused) => 1,
        Some(AdminState::Closed) => 2,
        None => 255,
    };
    let mut numbers = vec![wish];
    for at in [patch.opens_at, patch.closes_at] {
        numbers.push(u8::from(at.is_some()));
        numbers.extend_from_slice(&at.map_or(0, |at| at.0).to_le_bytes());
    }
    for more in [patch.add_stock, patch.add_total] {
        numbers.extend_from_slice(&more.unwrap_or(0).to_le_bytes());
    }
    let returned = campaign.free.0 - campaign.undrawn().1.0;
    let seen = [campaign.version, campaign.drawn, returned, campaign.free.0].map(u64::to_le_bytes);
    let closes = CampaignPatch { state: Some(AdminState::Closed), ..CampaignPatch::default() };
    let closes_only: &[u8] = if *patch == closes { b"1" } else { b"0" };
    let (key, digest, text) = (key_bytes(command), digest.to_le_bytes(), after.to_json().to_string());
    pieces(&[
        b"change",
        campaign.spec.id.as_str().as_bytes(),
        &key,
        &digest,
        text.as_bytes(),
        &event_bytes(&event),
        &numbers,
        shares.as_bytes(),
        seen.as_flattened(),
        closes_only,
    ])
}

/// The shares of a packet that were never given out, the next one first: `left` money in `shares` of them, `drawn` before.
pub fn shares(spec: &CampaignSpec, seed: &Seed, left: Money, shares: Units, drawn: u64) -> Vec<Money> {
    let Some(packet) = &spec.red_packet else { return Vec::new() };
    let mut left = left;
    let next = |at| {
        let share = red_packet::next_share(packet, seed, left, Units(shares.0 - at), drawn + at);
        left.0 -= share.0;
        share
    };
    (0..shares.0).map(next).collect()
}

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

/// What became of an operator's wish about the campaign `command` names. None where the campaign has changed since it was
/// looked at: look again.
///
/// # Errors
/// What is no answer to one.
pub fn admin_outcome(
    answer: &[u8],
    command: &AdminCommand,
) -> Result<Option<Result<AdminDone, AdminRefusal>>, ProtocolError> {
    let (word, rest) = answer.split_first().ok_or_else(|| ProtocolError("it is empty".to_owned()))?;
    let mut b = Reader(rest);
    let id = match &command.action {
        AdminAction::Create(spec, _) => spec.id,
        AdminAction::Change(id, _) => *id,
    };
    let mut no = || b.take().map(u32::from_le_bytes).map(CampaignNo);
    Ok(Some(match word {
        b'C' => Ok(AdminDone::Created(no()?)),
        b'i' => Ok(AdminDone::Identical(no()?)),
        b'G' => Ok(AdminDone::Changed(no()?)),
        b'=' => Ok(AdminDone::Replayed(no()?)),
        b'K' => Err(AdminRefusal::KeyReused),
        b'x' => Err(AdminRefusal::Exists(id)),
        b'?' => Err(AdminRefusal::Unknown(id)),
        b'w' => Err(AdminRefusal::WrongState { state: "closed", why: "that is final" }),
        b'@' => return Ok(None),
        _ => return Err(ProtocolError(format!("{answer:?} is no answer to an operator's wish"))),
    }))
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
