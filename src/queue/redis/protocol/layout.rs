//! The packed records of the keys, for whoever writes them outside of the library, or reads them. The head of
//! `library/state.lua` says which key holds what.

use super::{ProtocolError, Reader};
use crate::queue::campaign::Campaign;
use crate::queue::command::Replay;
use crate::sale::campaign::AdminState;
use crate::sale::{CampaignKind, CampaignNo, ClaimId, Durability, Event, LocalDay, Money, Seq, Timestamp, UserId};

/// The layout of the keys, under `layout` of meta: another number is another version's.
pub const LAYOUT: u32 = 1;

/// A campaign's numbers, in the order of packed records.
pub const FIELDS: [&str; 29] = [
    "kind",
    "wish",
    "opens",
    "closes",
    "limit",
    "stock",
    "free",
    "left",
    "price",
    "points",
    "ttl",
    "version",
    "stock_version",
    "drawn",
    "returned",
    "acknowledged",
    "closed_at",
    "released",
    "last",
    "today",
    "total",
    "min",
    "max",
    "waiting",
    "waiting_money",
    "settling",
    "settling_money",
    "returning",
    "returning_money",
];

/// The fields of `z:<no>`.
pub const STORED: [&str; 8] =
    ["persisted", "persisted_money", "settled", "settled_money", "returned", "returned_money", "dead", "dead_money"];

/// What stands for a kind.
pub fn kind_code(kind: CampaignKind) -> u8 {
    match kind {
        CampaignKind::FlashSale => 1,
        CampaignKind::RedPacket => 2,
        CampaignKind::Coupon => 3,
        CampaignKind::CheckIn => 4,
    }
}

/// One campaign's numbers, as the library packs them: its number, then [`FIELDS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// Its number.
    pub no: CampaignNo,
    /// The values of [`FIELDS`], in their order.
    pub values: [i64; FIELDS.len()],
}

impl Numbers {
    /// Reads a packed record.
    ///
    /// # Errors
    /// Bytes of another length.
    pub fn read(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let mut b = Reader(bytes);
        let no = u32::try_from(b.number()?).map_err(|_| ProtocolError("no number of a campaign".to_owned()))?;
        let mut values = [0; FIELDS.len()];
        for value in &mut values {
            *value = i64::from_le_bytes(b.take()?);
        }
        Ok(Self { no: CampaignNo(no), values })
    }

    /// A campaign's numbers from the book's, with what waits: units and money of claims, of ends that pay, and of ends that
    /// give back.
    pub fn of(no: CampaignNo, c: &Campaign, waiting: [i64; 6]) -> Self {
        let (spec, none) = (&c.spec, -1);
        let packet = spec.red_packet.as_ref();
        let wish = match c.wish {
            AdminState::Open => 0,
            AdminState::Paused => 1,
            AdminState::Closed => 2,
        };
        let head = [
            kind_code(spec.kind).into(),
            wish,
            spec.opens_at.0,
            spec.closes_at.0,
            spec.per_user_limit.0 as i64,
            spec.stock.0 as i64,
            if spec.has_stock() { c.free.0 as i64 } else { 0 },
            c.left.0,
            spec.price.map_or(none, |price| price.0),
            spec.check_in.as_ref().map_or(0, |check_in| check_in.points.0),
            spec.reservation_ttl.map_or(none, |ttl| ttl.0),
            c.version as i64,
            c.stock_version as i64,
            c.drawn as i64,
            c.returned.len() as i64,
            c.acknowledged as i64,
            c.closed_at.map_or(none, |at| at.0),
            c.released.into(),
            c.last.0 as i64,
            c.today.map_or(none, |day| day.0.into()),
            packet.map_or(0, |packet| packet.total.0),
            packet.map_or(0, |packet| packet.min.0),
            packet.and_then(|packet| packet.max).map_or(none, |max| max.0),
        ];
        let mut values = [0; FIELDS.len()];
        for (value, known) in values.iter_mut().zip(head.into_iter().chain(waiting)) {
            *value = known;
        }
        Self { no, values }
    }

    /// One of them by its name.
    ///
    /// # Panics
    /// A name that is not among [`FIELDS`].
    pub fn get(&self, name: &str) -> i64 {
        let at = FIELDS.iter().position(|field| *field == name);
        self.values[at.expect("a field's name")]
    }

    /// One that is never negative.
    ///
    /// # Errors
    /// It is.
    pub fn unsigned(&self, name: &str) -> Result<u64, ProtocolError> {
        u64::try_from(self.get(name)).map_err(|_| ProtocolError(format!("a negative {name}")))
    }

    /// What the operator last asked.
    ///
    /// # Errors
    /// A number that stands for nothing.
    pub fn wish(&self) -> Result<AdminState, ProtocolError> {
        Ok(match self.get("wish") {
            0 => AdminState::Open,
            1 => AdminState::Paused,
            2 => AdminState::Closed,
            other => return Err(ProtocolError(format!("wish {other}"))),
        })
    }

    /// When it was closed.
    pub fn closed_at(&self) -> Option<Timestamp> {
        Some(self.get("closed_at")).filter(|at| *at >= 0).map(Timestamp)
    }

    /// A check-in's day.
    pub fn today(&self) -> Option<LocalDay> {
        u16::try_from(self.get("today")).ok().map(LocalDay)
    }
}

/// A claim that is held, in `h:<no>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The claim.
    pub claim_id: ClaimId,
    /// Units, from 1.
    pub quantity: u32,
    /// Which of the buyer's concurrent holds it is, from 0; a check-in's day.
    pub hold: u32,
    /// Whether it is paid.
    pub settled: bool,
    /// Its amount: a sale's price × quantity, a share, a check-in's points.
    pub amount: Option<Money>,
}

impl Hold {
    /// The record.
    pub fn pack(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(33);
        self.put(&mut b);
        b
    }

    /// Adds the record to `b`.
    pub(super) fn put(&self, b: &mut Vec<u8>) {
        b.extend_from_slice(&self.claim_id.0);
        b.extend_from_slice(&self.quantity.to_le_bytes());
        b.extend_from_slice(&self.hold.to_le_bytes());
        b.push(self.settled.into());
        b.extend_from_slice(&amount(self.amount));
    }
}

/// What a buyer holds, from its records.
///
/// # Errors
/// Bytes that no library writes.
pub fn holds(mut records: &[u8]) -> Result<Vec<Hold>, ProtocolError> {
    let mut all = Vec::new();
    while !records.is_empty() {
        let mut b = Reader(records);
        let (claim_id, quantity, hold) =
            (ClaimId(b.take()?), u32::from_le_bytes(b.take()?), u32::from_le_bytes(b.take()?));
        let (settled, amount) = (b.take::<1>()? != [0], b.amount()?);
        all.push(Hold { claim_id, quantity, hold, settled, amount });
        records = b.0;
    }
    Ok(all)
}

pub(super) fn amount(amount: Option<Money>) -> [u8; 8] {
    amount.map_or(-1, |amount| amount.0).to_le_bytes()
}

/// A claim that falls due, in `d:<no>`.
pub fn due(due: Timestamp, claim_id: ClaimId, user: &UserId) -> Vec<u8> {
    [&due.0.to_le_bytes()[..], &claim_id.0, user.as_bytes()].concat()
}

/// The first answer to a claim with an idempotency key, in `k:<no>` under the key's 16 bytes.
pub fn first_answer(replay: &Replay) -> Vec<u8> {
    let mut b = Vec::with_capacity(47);
    b.extend_from_slice(&replay.quantity.to_le_bytes());
    b.extend_from_slice(&replay.claim_id.0);
    b.extend_from_slice(&amount(replay.amount));
    b.extend_from_slice(&replay.receipt_key.to_le_bytes());
    b.extend_from_slice(&replay.seq.0.to_le_bytes());
    b.extend_from_slice(&replay.at.0.to_le_bytes());
    b.push(durability_byte(replay.durability));
    b
}

pub(super) fn durability_byte(durability: Durability) -> u8 {
    match durability {
        Durability::Disk => 0,
        Durability::Memory => 1,
    }
}

/// An entry in `list`: its time, and its bytes as they are in a journal.
pub fn item(at: Timestamp, entry: &[u8]) -> Vec<u8> {
    [&at.0.to_le_bytes()[..], entry].concat()
}

/// Under which tag the library finds an event, if it does: claims and their ends.
pub fn tag(event: &Event) -> Option<[u8; 6]> {
    match event {
        Event::Claimed(claim) => Some(claim.claim_id.tag()),
        Event::Moved(moved) => Some(moved.claim_id.tag()),
        _ => None,
    }
}

/// Commands for the library's function `lay`, which carries them out for the opening with one token only.
#[derive(Debug)]
pub struct Lay {
    args: Vec<Vec<u8>>,
}

impl Lay {
    /// None yet.
    pub fn new(token: &str) -> Self {
        Self { args: vec![token.as_bytes().to_vec()] }
    }

    /// Adds a command: its name, its key behind the prefix, its other words; of these at most some thousands.
    pub fn add(&mut self, name: &str, key: impl AsRef<[u8]>, words: impl IntoIterator<Item = Vec<u8>>) {
        let at = self.args.len();
        self.args.push(Vec::new());
        self.args.extend([name.as_bytes().to_vec(), key.as_ref().to_vec()]);
        self.args.extend(words);
        self.args[at] = (self.args.len() - at - 1).to_string().into_bytes();
    }

    /// How many words there are: some thousands are enough for a call.
    pub fn len(&self) -> usize {
        self.args.len() - 1
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The function's arguments; none are left here.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        let token = self.args[0].clone();
        std::mem::replace(&mut self.args, vec![token])
    }
}

/// Meta's fields of a partition that is to be opened next: without epoch and identity, which `open` sets. The recovery's fields,
/// the lease and the lanes are left as they are by writing these over them.
pub fn meta(seq: Seq, time: Timestamp, campaigns: u32, retired: Seq) -> [(&'static str, String); 5] {
    [
        ("layout", LAYOUT.to_string()),
        ("seq", seq.to_string()),
        ("time", time.0.to_string()),
        ("campaigns", campaigns.to_string()),
        ("retired", retired.to_string()),
    ]
}
