//! A sale in plain numbers: its definition, what changes about it, and whose calendar counts.

use std::collections::{BTreeMap, BTreeSet};

/// What an operator last asked of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Open,
    Paused,
    Closed,
}

/// A red packet's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub total: i64,
    pub min: i64,
    pub max: Option<i64>,
    pub even: bool,
}

/// A place's clock: hours ahead of UTC, and when that changes, in seconds since 1970, and to what.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub zone: &'static str,
    hours: i64,
    changes: &'static [(i64, i64)],
}

/// Places of check-ins. The changes are 2026-03-29, 2026-10-25 and 2027-03-28, all at 01:00 UTC.
pub static PLACES: [Place; 2] = [
    Place { zone: "Asia/Shanghai", hours: 8, changes: &[] },
    Place { zone: "Europe/Berlin", hours: 1, changes: &[(1_774_746_000, 2), (1_792_890_000, 1), (1_806_195_600, 2)] },
];

impl Place {
    /// Days since 1970-01-01 by the calendar of this place.
    pub fn day(&self, at: i64) -> i64 {
        let change = self.changes.iter().rfind(|(from, _)| from * 1_000_000 <= at);
        let hours = change.map_or(self.hours, |(_, hours)| *hours);
        (at + hours * 3_600_000_000).div_euclid(86_400_000_000)
    }

    /// The first instant after `at` that is in another day.
    pub fn midnight(&self, at: i64) -> i64 {
        let (mut low, mut high) = (at, at + 30 * 3_600_000_000);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if self.day(middle) == self.day(at) { low = middle } else { high = middle }
        }
        high
    }
}

/// Points, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckIn {
    pub points: i64,
    pub place: &'static Place,
}

/// A sale as somebody defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub name: String,
    pub opens: i64,
    pub closes: i64,
    pub limit: u64,
    pub stock: u64,
    pub price: Option<i64>,
    pub packet: Option<Packet>,
    pub check_in: Option<CheckIn>,
    /// Whether it is a coupon: units without a price.
    pub coupon: bool,
    /// Microseconds in which a claim must be settled.
    pub ttl: Option<i64>,
}

/// What somebody wants changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    pub wish: Option<Wish>,
    pub add_stock: Option<i64>,
    pub add_total: Option<i64>,
    pub opens: Option<i64>,
    pub closes: Option<i64>,
}

/// What changes about a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub opens: i64,
    pub closes: i64,
    pub wish: Wish,
    pub stock: u64,
    pub total: i64,
    pub free: u64,
    pub left: i64,
    /// Shares that were given back and are to go out again: how many, and their sum.
    pub returned: (u64, i64),
    /// Units ever accepted.
    pub accepted: u64,
    pub version: u64,
    pub stock_version: u64,
    pub closed_at: Option<i64>,
    pub released: bool,
    /// The last position that was about it.
    pub last: u64,
}

/// The payload that an operator's key was used with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Paper {
    Define(Definition),
    Change(Change),
}

/// A sale, and who holds what of it: claims by their facts.
#[derive(Debug, Clone)]
pub struct Sale {
    pub def: Definition,
    pub state: State,
    /// Claims that are held, oldest first; of a check-in, all.
    pub holders: BTreeMap<String, Vec<usize>>,
    /// The claims that a key was used for, the last one last.
    pub keys: BTreeMap<(String, u64), Vec<usize>>,
    pub operator_keys: BTreeMap<u64, Paper>,
    /// Claims that must still be settled.
    pub unsettled: BTreeSet<usize>,
    /// Amounts of shares that were given back and are to go out again.
    pub returned: Vec<i64>,
    /// The local days on which anybody checked in.
    pub days: Vec<i64>,
}

impl Sale {
    pub fn new(def: &Definition, last: u64) -> Self {
        let total = def.packet.map_or(0, |p| p.total);
        let state = State {
            opens: def.opens,
            closes: def.closes,
            wish: Wish::Open,
            stock: def.stock,
            total,
            free: def.stock,
            left: total,
            returned: (0, 0),
            accepted: 0,
            version: 1,
            stock_version: 1,
            closed_at: None,
            released: false,
            last,
        };
        Self {
            def: def.clone(),
            state,
            holders: BTreeMap::new(),
            keys: BTreeMap::new(),
            operator_keys: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            returned: Vec::new(),
            days: Vec::new(),
        }
    }

    pub fn free(&self) -> u64 {
        self.state.free
    }

    pub fn left(&self) -> i64 {
        self.state.left
    }

    /// All units; of a check-in, those ever accepted.
    pub fn stock(&self) -> u64 {
        if self.def.check_in.is_some() { self.state.accepted } else { self.state.stock }
    }

    pub fn total(&self) -> i64 {
        self.state.total
    }

    pub fn version(&self) -> u64 {
        self.state.version
    }

    pub fn stock_version(&self) -> u64 {
        self.state.stock_version
    }

    pub fn wish(&self) -> Wish {
        self.state.wish
    }

    pub fn window(&self) -> (i64, i64) {
        (self.state.opens, self.state.closes)
    }

    /// Whether a unit can be claimed, as far as the stock goes.
    pub fn has_some(&self) -> bool {
        self.state.free > 0 || self.def.check_in.is_some()
    }

    pub fn users(&self) -> impl Iterator<Item = &String> {
        self.holders.keys()
    }

    /// The word for what it is at an instant.
    pub fn word(&self, now: i64) -> &'static str {
        let s = &self.state;
        if s.wish == Wish::Closed {
            "closed"
        } else if s.closes <= now {
            "ended"
        } else if s.wish == Wish::Paused {
            "paused"
        } else if now < s.opens {
            "scheduled"
        } else {
            "open"
        }
    }

    /// Whether it may leave memory at an instant, with everything up to `retired` in the database.
    pub fn may_go(&self, now: i64, after: i64, retired: u64) -> bool {
        let s = &self.state;
        let over = s.closed_at.map_or(s.closes, |at| at.min(s.closes));
        !s.released && over + after <= now && s.last <= retired && self.unsettled.is_empty()
    }

    /// The definition as a newcomer would see it now.
    pub fn current(&self) -> Definition {
        let s = &self.state;
        let packet = self.def.packet.map(|p| Packet { total: s.total, ..p });
        Definition { opens: s.opens, closes: s.closes, stock: s.stock, packet, ..self.def.clone() }
    }
}

/// What a change at `at` makes of a sale; none where it can't be made.
pub fn altered(def: &Definition, mut s: State, change: &Change, at: i64) -> Option<State> {
    s.opens = change.opens.unwrap_or(s.opens);
    s.closes = change.closes.unwrap_or(s.closes);
    if s.closes <= s.opens {
        return None;
    }
    let add = change.add_stock.unwrap_or(0);
    if (s.free as i64 + add) < 0 || (def.check_in.is_some() && add != 0) {
        return None;
    }
    let stock_before = s.stock;
    (s.free, s.stock) = ((s.free as i64 + add) as u64, (s.stock as i64 + add) as u64);
    match def.packet {
        None if change.add_total.is_some() => return None,
        None => {}
        Some(packet) => {
            if change.add_stock.is_some() != change.add_total.is_some() {
                return None;
            }
            s.left += change.add_total.unwrap_or(0);
            s.total += change.add_total.unwrap_or(0);
            // Returned shares keep their amounts: only the others can be more or fewer, larger or smaller.
            let (shares, left) = (s.free as i64 - s.returned.0 as i64, s.left - s.returned.1);
            let least = packet.min * shares;
            let most = packet.max.map_or(if shares == 0 { 0 } else { i64::MAX }, |m| m * shares);
            if shares < 0 || left < 0 || left < least || left > most {
                return None;
            }
        }
    }
    s.wish = change.wish.unwrap_or(s.wish);
    if s.wish == Wish::Closed {
        s.closed_at = Some(at);
    }
    s.version += 1;
    s.stock_version += u64::from(s.stock != stock_before);
    Some(s)
}
