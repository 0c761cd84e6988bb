//! From the model's plain words to the product's types, and back for comparing. No rule is in here.

use forebay::queue::book::HashKey;
use forebay::queue::carts::CartBase;
use forebay::queue::journal::Identity;
use forebay::queue::{
    AdminAction, AdminCommand, AdminDone, AdminRefusal, CartCommand, CartOutcome, ClaimCommand, Command, MoveCommand,
    MoveDone, MoveRefusal, Outcome, Refusal, Replay,
};
use forebay::sale::campaign::{AdminState, CampaignPatch};
use forebay::sale::check_in::Zone;
use forebay::sale::red_packet::Seed;
use forebay::sale::{
    Asked as By, CampaignId, CampaignKind, CampaignNo, CampaignSpec, CartKey, CartOp, Carted, CheckInSpec, Claim,
    ClaimId, Currency, Durability, Entry, Event, Fate as End, Money, Moved, RedPacketSpec, Sku, Span, Split, Timestamp,
    Units, UserId,
};

use crate::carts::{Click, Clicked, Put};
use crate::model::{Ask, Change, Definition, Fate, Held, Model, Verdict, What, Wish};
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
        kind: match (def.packet, def.check_in, def.coupon) {
            (Some(_), ..) => CampaignKind::RedPacket,
            (_, Some(_), _) => CampaignKind::CheckIn,
            (.., true) => CampaignKind::Coupon,
            _ => CampaignKind::FlashSale,
        },
        title: String::new(),
        opens_at: Timestamp(def.opens),
        closes_at: Timestamp(def.closes),
        per_user_limit: Units(def.limit),
        stock: Units(def.stock),
        currency: Currency::parse("CNY").filter(|_| def.check_in.is_none() && !def.coupon),
        price: def.price.map(Money),
        red_packet,
        check_in: def.check_in.map(|c| CheckInSpec {
            points: Money(c.points),
            zone: Zone::parse("zone", c.place.zone).expect("a zone that everybody knows"),
        }),
        reservation_ttl: def.ttl.map(Span),
    }
}

/// What becomes of a claim, in the product's word.
pub fn end(to: Fate) -> End {
    match to {
        Fate::Settled => End::Settled,
        Fate::Cancelled => End::Cancelled,
        Fate::Expired => End::Expired,
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

fn put(put: Put) -> CartOp {
    match put {
        Put::Add(more) => CartOp::Add(more as u32),
        Put::Set(quantity) => CartOp::Set(quantity as u32),
        Put::Remove => CartOp::Remove,
    }
}

fn cart_key(key: HashKey, click: &Click) -> Option<CartKey> {
    let sku = Sku::parse(&click.sku).expect("a sound name");
    click.key.map(|k| key.cart_key(&user_id(&click.buyer), &k.to_string(), &sku, put(click.put)))
}

fn click(key: HashKey, click: &Click, base: CartBase) -> Command {
    let user = user_id(&click.buyer);
    let sku = Sku::parse(&click.sku).expect("a sound name");
    let (user_hash, op) = (key.user(&user), put(click.put));
    Command::Cart(Box::new(CartCommand { user, user_hash, sku, op, key: cart_key(key, click), base }))
}

fn clicked_fits(key: HashKey, clicked: &Clicked, carted: &Carted) -> bool {
    carted.user.as_str() == clicked.click.buyer
        && carted.sku.as_str() == clicked.click.sku
        && carted.op == put(clicked.click.put)
        && u64::from(carted.quantity) == clicked.quantity
        && carted.key == cart_key(key, &clicked.click)
        && carted.address == key.user(&carted.user).address()
}

/// The command that a front end would submit; `base` is what it knows of a click's cart.
pub fn command(key: HashKey, model: &Model, asked: &Asked, base: impl FnOnce(&Click) -> CartBase) -> Command {
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
        Asked::End(ask, to) => Command::Move(Box::new(MoveCommand {
            claim_id: claim_id(key, ask),
            campaign: CampaignNo(ask.sale as u32),
            user: UserId::parse("nobody").expect("a name"),
            to: end(*to),
            by: "orders".into(),
            reason: Box::default(),
        })),
        Asked::Click(asked) => click(key, asked, base(asked)),
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
        && u64::from(claim.hold) == held.hold
        && claim.accepted_at.0 == held.at
        && claim.durability == Durability::Disk;
    (!same).then(|| format!("{claim:?} instead of {held:?}"))
}

/// How an entry differs from what was promised at its position, if it does.
pub fn entry_differs(key: HashKey, model: &Model, entry: &Entry) -> Option<String> {
    let fact = model.facts.get((entry.seq.0 as usize).checked_sub(1)?);
    let Some(fact) = fact else { return Some(format!("{entry:?}, where nothing was promised")) };
    let same = match (&fact.what, &entry.event) {
        (What::Held(held), Event::Claimed(claim)) => return differs(key, held, claim),
        (What::Made, Event::Created(made)) => {
            made.no.0 as usize == fact.sale && made.spec == spec(&model.sales[fact.sale].def)
        }
        (What::Changed { .. }, Event::Changed(changed)) => changed.no.0 as usize == fact.sale,
        (What::Ended { claim, to, .. }, Event::Moved(moved)) => {
            entry.at.0 == fact.at && end_fits(key, model.claim(*claim), *to, moved)
        }
        (What::Clicked(clicked), Event::Carted(carted)) => clicked_fits(key, clicked, carted) && entry.at.0 == fact.at,
        (What::Released, Event::Released(no)) => no.0 as usize == fact.sale && entry.at.0 == fact.at,
        _ => false,
    };
    (!same).then(|| format!("{entry:?} instead of {fact:?}"))
}

/// Whether an end is that of this claim, with its units and its amount.
pub fn end_fits(key: HashKey, held: &Held, to: Fate, moved: &Moved) -> bool {
    moved.claim_id == claim_id(key, &held.ask)
        && moved.campaign.0 as usize == held.ask.sale
        && moved.quantity.0 == held.ask.units
        && held.amount.is_none_or(|a| moved.amount.map(|m| m.0) == a)
        && moved.to == end(to)
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
    let held = |at: usize| model.held(at as u64 + 1);
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
        (verdict, Outcome::Cart(outcome)) => match outcome {
            CartOutcome::Done(seq) => verdict == Verdict::Clicked && seq.0 == model.facts.len() as u64,
            CartOutcome::Replayed(seq) => verdict == Verdict::ClickedBefore(seq.0 as usize - 1),
            CartOutcome::Full => verdict == Verdict::CartFull,
            CartOutcome::KeyReused => verdict == Verdict::KeyReused,
            CartOutcome::Load(_) | CartOutcome::BufferFull | CartOutcome::NotDurable => false,
        },
        (verdict, Outcome::Admin(done)) => admin_fits(verdict, done),
        (verdict, Outcome::Moved(done)) => match done {
            Ok(MoveDone::Moved) => verdict == Verdict::Moved,
            Ok(MoveDone::Repeated) => verdict == Verdict::MovedBefore,
            Err(MoveRefusal::NotHeld) => verdict == Verdict::NotHeld,
            Err(MoveRefusal::Settled) => verdict == Verdict::IsSettled,
            Err(MoveRefusal::CheckIn) => verdict == Verdict::IsCheckIn,
            Err(MoveRefusal::Released) => verdict == Verdict::IsReleased,
            Err(MoveRefusal::BufferFull | MoveRefusal::NotDurable) => false,
        },
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

/// The position that an answer reveals beside a claim's id: a click's.
pub fn revealed_click(answer: &Outcome) -> Option<u64> {
    match answer {
        Outcome::Cart(CartOutcome::Done(seq) | CartOutcome::Replayed(seq)) => Some(seq.0),
        _ => None,
    }
}

/// Whether an answer says that the buffer is full.
pub fn is_full(answer: &Outcome) -> bool {
    match answer {
        Outcome::Refused(Refusal::BufferFull)
        | Outcome::Moved(Err(MoveRefusal::BufferFull))
        | Outcome::Cart(CartOutcome::BufferFull) => true,
        Outcome::Admin(done) => matches!(**done, Err(AdminRefusal::BufferFull)),
        _ => false,
    }
}

/// Whether an answer says that nothing can be made durable.
pub fn is_not_durable(answer: &Outcome) -> bool {
    match answer {
        Outcome::Refused(Refusal::NotDurable)
        | Outcome::Moved(Err(MoveRefusal::NotDurable))
        | Outcome::Cart(CartOutcome::NotDurable) => true,
        Outcome::Admin(done) => matches!(**done, Err(AdminRefusal::NotDurable)),
        _ => false,
    }
}

/// What an answer is called in the counts.
pub fn name(asked: &Asked, answer: &Outcome) -> &'static str {
    match answer {
        Outcome::Moved(Ok(MoveDone::Moved)) if matches!(asked, Asked::End(_, Fate::Settled)) => "answered: settled",
        Outcome::Moved(Ok(MoveDone::Moved)) => "answered: cancelled",
        Outcome::Accepted { .. } => "answered: accepted",
        Outcome::Replayed(_) => "answered: replayed",
        Outcome::Unknown => "answered: unknown",
        Outcome::Looked(_) => unreachable!("nobody looks through the sequencer"),
        Outcome::Moved(Ok(MoveDone::Repeated)) => "answered: ended before",
        Outcome::Moved(Err(refusal)) => match refusal {
            MoveRefusal::NotHeld => "answered: not held",
            MoveRefusal::Settled => "answered: settled already",
            MoveRefusal::CheckIn => "answered: a check-in is final",
            MoveRefusal::Released => "answered: released",
            MoveRefusal::BufferFull => "answered: buffer full",
            MoveRefusal::NotDurable => "answered: not durable",
        },
        Outcome::Cart(outcome) => match outcome {
            CartOutcome::Done(_) => "answered: cart changed",
            CartOutcome::Replayed(_) => "answered: cart changed before",
            CartOutcome::Load(_) => "answered: cart to be loaded",
            CartOutcome::Full => "answered: cart full",
            CartOutcome::KeyReused => "answered: cart's key reused",
            CartOutcome::BufferFull => "answered: buffer full",
            CartOutcome::NotDurable => "answered: not durable",
        },
        Outcome::Admin(done) if done.is_ok() => "answered: operator's wish done",
        Outcome::Admin(_) => "answered: operator's wish refused",
        Outcome::Refused(refusal) => match refusal {
            Refusal::AlreadyClaimed(_) => "answered: already claimed",
            Refusal::SoldOut { .. } => "answered: sold out",
            Refusal::NotOpen { .. } => "answered: not open",
            Refusal::Ended => "answered: over",
            Refusal::Paused => "answered: paused",
            Refusal::KeyReused => "answered: key reused",
            Refusal::OverLimit { .. } => "answered: over the limit",
            Refusal::UnknownCampaign => "answered: unknown campaign",
            Refusal::BufferFull => "answered: buffer full",
            Refusal::NotDurable => "answered: not durable",
        },
    }
}
