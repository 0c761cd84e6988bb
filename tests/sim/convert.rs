//! From the model's plain words to the product's types, and back for comparing. No rule is in here.

use forebay::queue::book::HashKey;
use forebay::queue::journal::Identity;
use forebay::queue::{
    AdminAction, AdminCommand, AdminDone, AdminRefusal, ClaimCommand, Command, Outcome, Refusal, Replay,
};
use forebay::sale::campaign::{AdminState, CampaignPatch};
use forebay::sale::red_packet::Seed;
use forebay::sale::{
    Asked as By, CampaignId, CampaignKind, CampaignNo, CampaignSpec, Claim, ClaimId, Currency, Durability, Entry,
    Event, Money, RedPacketSpec, Split, Timestamp, Units, UserId,
};

use crate::model::{Ask, Change, Definition, Fact, Held, Model, Verdict, Wish};
use crate::plan::Asked;

/// The data folder's identity in every life of a seed.
pub fn identity(seed: u64) -> Identity {
    let mut hash_key = [7; 16];
    hash_key[..8].copy_from_slice(&seed.to_le_bytes());
    Identity { journal: u128::from(seed) << 64 | 0x5eed, hash_key }
}

pub fn user_id(user: &str) -> UserId {
    UserId::parse(user).expect("a sound name")
}

fn campaign_id(name: &str) -> CampaignId {
    CampaignId::parse(name).expect("a sound name")
}

/// The id that a front end gives to a claim.
pub fn claim_id(key: HashKey, ask: &Ask) -> ClaimId {
    let word = |at: usize| u64::from_be_bytes(ask.id[at..at + 8].try_into().expect("eight bytes"));
    ClaimId::new(Timestamp(word(0) as i64), key.user(&user_id(&ask.user)), word(8))
}

pub fn spec(def: &Definition) -> CampaignSpec {
    let red_packet = def.packet.map(|p| RedPacketSpec {
        total: Money(p.total),
        min: Money(p.min),
        max: p.max.map(Money),
        split: if p.even { Split::Even } else { Split::Random },
    });
    CampaignSpec {
        id: campaign_id(&def.name),
        kind: if def.packet.is_some() { CampaignKind::RedPacket } else { CampaignKind::FlashSale },
        title: String::new(),
        opens_at: Timestamp(def.opens),
        closes_at: Timestamp(def.closes),
        per_user_limit: Units(def.limit),
        stock: Units(def.stock),
        currency: Currency::parse("CNY"),
        price: def.price.map(Money),
        red_packet,
    }
}

fn patch(change: &Change) -> CampaignPatch {
    let state = change.wish.map(|wish| match wish {
        Wish::Open => AdminState::Open,
        Wish::Paused => AdminState::Paused,
        Wish::Closed => AdminState::Closed,
    });
    CampaignPatch {
        state,
        add_stock: change.add_stock,
        add_total: change.add_total,
        opens_at: change.opens.map(Timestamp),
        closes_at: change.closes.map(Timestamp),
    }
}

/// The command that a front end would submit.
pub fn command(key: HashKey, model: &Model, asked: &Asked) -> Command {
    let admin = |name: &str, k: &Option<u64>, action| {
        let by = By { by: "ann".to_owned(), key: k.map(|k| key.admin_key(name, &k.to_string())) };
        Command::Admin(Box::new(AdminCommand { asked: by, action }))
    };
    match asked {
        Asked::Claim(ask) => {
            let (user, campaign) = (user_id(&ask.user), CampaignNo(ask.sale as u32));
            Command::Claim(ClaimCommand {
                campaign,
                quantity: ask.units as u32,
                receipt_key: ask.receipt_key,
                user,
                user_hash: key.user(&user),
                claim_id: claim_id(key, ask),
                key: ask.key.map(|k| key.key(campaign, &user, &k.to_string())),
            })
        }
        Asked::Define(def, k) => {
            let mut seed = Seed(Default::default());
            for (i, byte) in seed.0.iter_mut().enumerate() {
                *byte = (def.opens >> (i % 8 * 8)) as u8 ^ i as u8;
            }
            admin(&def.name, k, AdminAction::Create(spec(def), seed))
        }
        Asked::Change(no, change, k) => {
            let name = model.sales.get(*no).map_or_else(|| format!("sale-{no}"), |s| s.def.name.clone());
            admin(&name, k, AdminAction::Change(campaign_id(&name), patch(change)))
        }
    }
}

/// How a claim differs from what was promised, if it does.
pub fn differs(key: HashKey, held: &Held, claim: &Claim) -> Option<String> {
    let same = claim.claim_id == claim_id(key, &held.ask)
        && claim.campaign.0 as usize == held.ask.sale
        && claim.user.as_str() == held.ask.user
        && claim.quantity.0 == held.ask.units
        && held.amount.is_none_or(|a| claim.amount.map(|m| m.0) == a)
        && claim.receipt_key == held.ask.receipt_key
        && claim.key == held.ask.key.map(|k| key.key(claim.campaign, &claim.user, &k.to_string()))
        && claim.seq.0 == held.seq
        && claim.accepted_at.0 == held.at
        && claim.durability == Durability::Disk;
    (!same).then(|| format!("{claim:?} instead of {held:?}"))
}

/// How an entry differs from what was promised at its position, if it does.
pub fn entry_differs(key: HashKey, model: &Model, entry: &Entry) -> Option<String> {
    let fact = model.facts.get((entry.seq.0 as usize).checked_sub(1)?);
    match (fact, &entry.event) {
        (Some(Fact::Held(held)), Event::Claimed(claim)) => differs(key, held, claim),
        (Some(Fact::Made { sale }), Event::Created(made))
            if made.no.0 as usize == *sale && made.spec == spec(&model.sales[*sale].def) =>
        {
            None
        }
        (Some(Fact::Changed { sale, .. }), Event::Changed(changed)) if changed.no.0 as usize == *sale => None,
        (fact, event) => Some(format!("{event:?} instead of {fact:?}")),
    }
}

fn replay_fits(key: HashKey, held: &Held, r: &Replay) -> bool {
    r.claim_id == claim_id(key, &held.ask)
        && u64::from(r.quantity) == held.ask.units
        && Some(r.amount.map(|m| m.0)) == held.amount
        && r.receipt_key == held.ask.receipt_key
        && r.seq.0 == held.seq
        && r.at.0 == held.at
        && r.durability == Durability::Disk
}

/// Whether a final answer is what the model says. An acceptance's amount is checked by the model itself.
pub fn fits(key: HashKey, model: &Model, verdict: Verdict, answer: &Outcome) -> bool {
    let held = |at: usize| match &model.facts[at] {
        Fact::Held(held) => Some(&**held),
        _ => None,
    };
    match (verdict, answer) {
        (Verdict::Accepted, Outcome::Accepted { seq, at, .. }) => {
            held(model.facts.len() - 1).is_some_and(|h| h.seq == seq.0 && h.at == at.0)
        }
        (Verdict::Replayed(first), Outcome::Replayed(replay)) => {
            held(first).is_some_and(|h| replay_fits(key, h, replay))
        }
        (Verdict::Already(oldest), Outcome::Refused(Refusal::AlreadyClaimed(id))) => {
            held(oldest).is_some_and(|h| claim_id(key, &h.ask) == *id)
        }
        (verdict, Outcome::Refused(refusal)) => match refusal {
            Refusal::SoldOut { stock_version } => verdict == Verdict::SoldOut(*stock_version),
            Refusal::NotOpen { opens_at } => verdict == Verdict::NotOpen(opens_at.0),
            Refusal::Ended => verdict == Verdict::Ended,
            Refusal::Paused => verdict == Verdict::Paused,
            Refusal::KeyReused => verdict == Verdict::KeyReused,
            Refusal::OverLimit { .. } => verdict == Verdict::OverLimit,
            Refusal::UnknownCampaign => verdict == Verdict::NoSuchSale,
            _ => false,
        },
        (verdict, Outcome::Admin(done)) => admin_fits(verdict, done),
        _ => false,
    }
}

fn admin_fits(verdict: Verdict, done: &Result<AdminDone, AdminRefusal>) -> bool {
    match done {
        Ok(AdminDone::Created(no)) => verdict == Verdict::Made(no.0 as usize),
        Ok(AdminDone::Identical(no)) => verdict == Verdict::Identical(no.0 as usize),
        Ok(AdminDone::Replayed(no)) => verdict == Verdict::ChangeReplayed(no.0 as usize),
        Ok(AdminDone::Changed(no)) => {
            verdict == Verdict::Changed(no.0 as usize) || verdict == Verdict::StillClosed(no.0 as usize)
        }
        Err(AdminRefusal::Exists(_)) => verdict == Verdict::Exists,
        Err(AdminRefusal::Unknown(_)) => verdict == Verdict::NoSuchSale,
        Err(AdminRefusal::WrongState { .. }) => verdict == Verdict::WrongState,
        Err(AdminRefusal::Field(_)) => verdict == Verdict::BadField,
        Err(AdminRefusal::KeyReused) => verdict == Verdict::KeyReused,
        Err(_) => false,
    }
}

/// The claim id that an answer reveals, if it reveals one.
pub fn revealed(asked: &Asked, key: HashKey, answer: &Outcome) -> Option<ClaimId> {
    match (answer, asked) {
        (Outcome::Accepted { .. }, Asked::Claim(ask)) => Some(claim_id(key, ask)),
        (Outcome::Replayed(replay), _) => Some(replay.claim_id),
        (Outcome::Refused(Refusal::AlreadyClaimed(id)), _) => Some(*id),
        _ => None,
    }
}

/// Whether an answer says that the buffer is full.
pub fn is_full(answer: &Outcome) -> bool {
    match answer {
        Outcome::Refused(Refusal::BufferFull) => true,
        Outcome::Admin(done) => matches!(**done, Err(AdminRefusal::BufferFull)),
        _ => false,
    }
}

/// Whether an answer says that nothing can be made durable.
pub fn is_not_durable(answer: &Outcome) -> bool {
    match answer {
        Outcome::Refused(Refusal::NotDurable) => true,
        Outcome::Admin(done) => matches!(**done, Err(AdminRefusal::NotDurable)),
        _ => false,
    }
}

/// What an answer is called in the counts.
pub fn name(answer: &Outcome) -> &'static str {
    match answer {
        Outcome::Accepted { .. } => "answered: accepted",
        Outcome::Replayed(_) => "answered: replayed",
        Outcome::Unknown => "answered: unknown",
        Outcome::Admin(done) if done.is_ok() => "answered: operator's wish done",
        Outcome::Admin(_) => "answered: operator's wish refused",
        Outcome::Refused(refusal) => match refusal {
            Refusal::AlreadyClaimed(_) => "answered: already claimed",
            Refusal::SoldOut { .. } => "answered: sold out",
            Refusal::NotOpen { .. } => "answered: not open",
            Refusal::Ended => "answered: ended",
            Refusal::Paused => "answered: paused",
            Refusal::KeyReused => "answered: key reused",
            Refusal::OverLimit { .. } => "answered: over the limit",
            Refusal::UnknownCampaign => "answered: unknown campaign",
            Refusal::BufferFull => "answered: buffer full",
            Refusal::NotDurable => "answered: not durable",
        },
    }
}
