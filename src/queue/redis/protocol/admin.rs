//! Operators' wishes as bytes, and what became of them.

use redis::Value;

use super::layout::{self, Numbers};
use super::{ProtocolError, Reader, bytes, list, number, short};
use crate::queue::campaign::Campaign;
use crate::queue::command::{AdminAction, AdminCommand, AdminDone, AdminRefusal};
use crate::queue::{change, codec};
use crate::sale::campaign::{AdminState, CampaignPatch};
use crate::sale::red_packet::{self, Seed};
use crate::sale::{Asked, CampaignNo, CampaignSpec, Changed, Created, Event, FieldError, Money, Units};

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
    let packet = spec.red_packet;
    let mut numbers = vec![layout::kind_code(spec.kind)];
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
    let (text, entry) = (text.as_bytes(), event_bytes(&event));
    pieces(&[b"create", id, &key, &digest, text, &entry, &numbers, shares.as_bytes(), &seed.0])
}

/// A campaign as a change of it is worked out from.
#[derive(Debug)]
pub struct Seen {
    /// Its number.
    pub no: CampaignNo,
    /// What it is. It knows of its winners and keys nothing.
    pub campaign: Campaign,
    /// How many of a packet's shares that were never given out a change leaves as they are, because others may go out before
    /// it arrives.
    pub margin: u64,
    /// Their money.
    pub kept: Money,
}

/// What a change makes of a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restocked {
    /// Its definition afterwards.
    pub spec: CampaignSpec,
    /// A red packet's shares afterwards, those that were seen as kept left out.
    pub shares: Vec<Money>,
}

/// Asks for a campaign as a change of it needs to know it. Claims that are accepted between this and the change make a red
/// packet's shares go out, and what was worked out for them would be wrong: it holds as long as no more than `margin` did. So
/// ask with none, for then every share that is left is drawn anew, as the rule has it; and where [`admin_outcome`] says that
/// the campaign has changed, with more and more.
pub fn look_campaign(no: CampaignNo, margin: u32) -> Vec<u8> {
    [&b"p"[..], &no.0.to_le_bytes(), &margin.to_le_bytes()].concat()
}

/// The campaign that was asked for with this margin; none where there is none with that number.
///
/// # Errors
/// What is no answer to that.
pub fn looked_campaign(answer: &Value, margin: u32) -> Result<Option<Seen>, ProtocolError> {
    let [packed, definition, seed, open, undrawn, kept] = list(answer)? else {
        return if list(answer)?.is_empty() { Ok(None) } else { Err(short("a look at a campaign")) };
    };
    let numbers = Numbers::read(bytes(packed)?)?;
    let spec = CampaignSpec::restore(bytes(definition)?).map_err(|error| ProtocolError(error.to_string()))?;
    let seed = Seed(bytes(seed)?.try_into().map_err(|_| ProtocolError("a seed of another length".to_owned()))?);
    // Tables for one: nobody is entered.
    let small = CampaignSpec { stock: Units(1), ..spec.clone() };
    let mut campaign = Campaign::new(&Created { no: numbers.no, spec: small, seed, asked: Asked::default() }, 0);
    campaign.spec = spec;
    campaign.wish = numbers.wish()?;
    if campaign.spec.has_stock() {
        campaign.free = Units(numbers.unsigned("free")?);
    }
    campaign.left = Money(numbers.get("left"));
    (campaign.version, campaign.stock_version) = (numbers.unsigned("version")?, numbers.unsigned("stock_version")?);
    (campaign.drawn, campaign.acknowledged) = (numbers.unsigned("drawn")?, numbers.unsigned("acknowledged")?);
    campaign.closed_at = numbers.closed_at();
    campaign.released = numbers.get("released") == 1;
    let (open, undrawn): (u64, i64) = (number(open)?, number(undrawn)?);
    if campaign.spec.red_packet.is_some() && !campaign.released {
        // Which shares came back does not matter, only how many they are and their sum.
        let returned = campaign.free.0.checked_sub(open).ok_or_else(|| ProtocolError("too many shares".to_owned()))?;
        campaign.returned = vec![Money(0); returned as usize];
        if let Some(first) = campaign.returned.first_mut() {
            *first = Money(campaign.left.0 - undrawn);
        }
    }
    Ok(Some(Seen { no: numbers.no, campaign, margin: u64::from(margin).min(open), kept: Money(number(kept)?) }))
}

impl Seen {
    /// What `patch` makes of it.
    ///
    /// # Errors
    /// The field that can't be taken.
    pub fn changed(&self, patch: &CampaignPatch) -> Result<Restocked, FieldError> {
        let (spec, free, left) = change::changed(&self.campaign, patch)?;
        let Some(packet) = &spec.red_packet else { return Ok(Restocked { spec, shares: Vec::new() }) };
        let (undrawn, open) = self.campaign.undrawn();
        let money = Money(undrawn.0 + left.0 - self.campaign.left.0 - self.kept.0);
        let open = (open.0 + free.0).checked_sub(self.campaign.free.0 + self.margin).map(Units);
        let infeasible = |m: String| FieldError::new("add_stock", m);
        let open = open.ok_or_else(|| infeasible(format!("{} shares are about to go out", self.margin)))?;
        packet.check_feasible(money, open).map_err(|e| FieldError::new("add_total", format!("then {e}")))?;
        let shares = shares(&spec, &self.campaign.seed, money, open, self.campaign.drawn + self.margin);
        Ok(Restocked { spec, shares })
    }
}

/// A change of a campaign as it was seen, to the definition `after`. `shares` as in [`create`]: [`Restocked::shares`].
pub fn change(
    command: &AdminCommand,
    seen: &Seen,
    (patch, after): (&CampaignPatch, &CampaignSpec),
    digest: u64,
    shares: &str,
) -> Vec<u8> {
    let (campaign, no) = (&seen.campaign, seen.no);
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
    let seen = [campaign.version, campaign.drawn + seen.margin].map(u64::to_le_bytes);
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
