//! What must be true, in plain words: numbers, lists and maps. It shares no rule with the product.
//!
//! The model is told every command in order and says what the answer must be. It keeps what was promised as a list of
//! facts, one a position; facts that a crash made doubtful are taken back and found out again after the recovery. A red
//! packet's shares are the product's to draw: the model is told each and checks that it can be one.

use std::collections::{BTreeMap, BTreeSet};

use crate::carts::{Cart, Clicked, Stored};
pub use crate::sale::{Change, Definition, Packet, Sale, Wish};
use crate::sale::{Paper, State, altered};

/// A claim as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub sale: usize,
    pub user: String,
    pub units: u64,
    pub key: Option<u64>,
    pub id: [u8; 16],
    pub receipt_key: u16,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Settled,
    Cancelled,
    Expired,
}

impl Fate {
    /// Whether the units are free again.
    pub fn gives_back(self) -> bool {
        self != Self::Settled
    }
}

/// A claim that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub ask: Ask,
    pub seq: u64,
    pub at: i64,
    /// Absent until the product has said it; then a sum, or none.
    pub amount: Option<Option<i64>>,
    /// Which of the buyer's holds it is; of a check-in, the local day.
    pub hold: u64,
    /// The fact that is its end, and what that is.
    pub end: Option<(usize, Fate)>,
    /// A share that somebody had given back.
    again: bool,
    /// The first check-in of its day.
    first: bool,
}

/// What is at a position, and the sale's state before it.
#[derive(Debug, Clone)]
pub struct Fact {
    pub sale: usize,
    pub what: What,
    /// When it was decided.
    pub at: i64,
    before: Option<Box<State>>,
}

/// The sale of what is about none.
pub const NO_SALE: usize = usize::MAX;

#[derive(Debug, Clone)]
pub enum What {
    Made,
    Changed {
        key: Option<u64>,
    },
    Held(Box<Held>),
    /// The end of the claim at a fact; what went back to the packet's shares.
    Ended {
        claim: usize,
        to: Fate,
        share: Option<i64>,
    },
    Released,
    /// A line of a cart was changed.
    Clicked(Box<Clicked>),
}

/// What the answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Accepted: the last fact.
    Accepted,
    /// The first answer to fact so-and-so again.
    Replayed(usize),
    /// This fact's claim is named.
    Already(usize),
    SoldOut(u64),
    NotOpen(i64),
    Ended,
    Paused,
    KeyReused,
    OverLimit,
    NoSuchSale,
    /// An operator's wish: entered as the last fact.
    Made(usize),
    Changed(usize),
    /// Nothing entered.
    Identical(usize),
    ChangeReplayed(usize),
    StillClosed(usize),
    Exists,
    WrongState,
    BadField,
    /// A claim came to its end: the last fact.
    Moved,
    /// It had before.
    MovedBefore,
    NotHeld,
    IsSettled,
    IsCheckIn,
    IsReleased,
    /// A line of a cart was changed: the last fact.
    Clicked,
    /// The same click was fact so-and-so.
    ClickedBefore(usize),
    CartFull,
}

impl Verdict {
    /// Whether it adds a fact.
    pub fn enters(self) -> bool {
        matches!(self, Self::Accepted | Self::Made(_) | Self::Changed(_) | Self::Moved | Self::Clicked)
    }
}

/// Units and money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    pub units: u64,
    pub money: i64,
}

impl Sum {
    pub fn add(&mut self, held: &Held) {
        self.units += held.ask.units;
        self.money += held.amount.flatten().unwrap_or(0);
    }

    pub fn and(self, other: Self) -> Self {
        Self { units: self.units + other.units, money: self.money + other.money }
    }

    pub fn plus(&mut self, other: Self) {
        *self = self.and(other);
    }

    pub fn minus(&mut self, other: Self) {
        *self = Self { units: self.units.wrapping_sub(other.units), money: self.money - other.money };
    }

    pub fn take(&mut self, held: &Held) {
        self.units -= held.ask.units;
        self.money -= held.amount.flatten().unwrap_or(0);
    }
}

/// Where one sale's claims are, as of some position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// Rows that are neither paid nor given back.
    pub persisted: Sum,
    pub settled: Sum,
    pub returned: Sum,
    /// Dead letters that were not given back.
    pub dead: Sum,
}

/// Everything that was promised.
#[derive(Debug, Default)]
pub struct Model {
    pub facts: Vec<Fact>,
    pub sales: Vec<Sale>,
    /// The journal's time: no decision is earlier.
    pub time: i64,
    /// How often a claim was made by someone who had given one back, and a share went out again.
    pub reclaims: u64,
    pub again: u64,
    /// How often somebody checked in who had checked in on an earlier day.
    pub days_after: u64,
    /// Carts by their buyers, and the clicks with a key.
    pub carts: BTreeMap<String, Cart>,
    pub keyed: Vec<usize>,
    /// Carts as the database has them.
    pub stored: BTreeMap<String, Stored>,
    /// Positions that the database has as dead letters, and those of them that have become rows since.
    pub dead: BTreeSet<u64>,
    pub revived: BTreeSet<u64>,
}

impl Model {
    /// Adds a fact about a sale at clock time `now`.
    pub(crate) fn enter(&mut self, now: i64, sale: usize, what: What) {
        self.time = now.max(self.time);
        let before = self.sales.get(sale).map(|sale| Box::new(sale.state));
        self.facts.push(Fact { sale, what, at: self.time, before });
        if let Some(sale) = self.sales.get_mut(sale) {
            sale.state.last = self.facts.len() as u64;
        }
    }

    /// What a claim at clock time `now` must be answered; an acceptance is entered.
    pub fn ask(&mut self, now: i64, ask: &Ask) -> Verdict {
        let at = now.max(self.time);
        let (seq, place) = (self.facts.len() as u64 + 1, self.facts.len());
        let Some(sale) = self.sales.get(ask.sale) else { return Verdict::NoSuchSale };
        let key = ask.key.map(|k| (ask.user.clone(), k));
        if let Some(first) = key.as_ref().and_then(|k| self.remembered(sale, k)) {
            return if self.claim(first).ask.units == ask.units {
                Verdict::Replayed(first)
            } else {
                Verdict::KeyReused
            };
        }
        let one_each = sale.def.packet.is_some() || sale.def.check_in.is_some();
        if ask.units == 0 || ask.units > sale.def.limit || (one_each && ask.units > 1) {
            return Verdict::OverLimit;
        }
        let day = sale.def.check_in.map(|c| c.place.day(at));
        let mine = sale.holders.get(&ask.user).filter(|_| !sale.state.released).into_iter().flatten();
        let mine: Vec<usize> =
            mine.copied().filter(|&i| day.is_none_or(|day| self.claim(i).hold == day as u64)).collect();
        let has: u64 = mine.iter().map(|&i| self.claim(i).ask.units).sum();
        if let Some(&oldest) = mine.first().filter(|_| has + ask.units > sale.def.limit) {
            return Verdict::Already(oldest);
        }
        match sale.word(at) {
            "closed" | "ended" => return Verdict::Ended,
            "paused" => return Verdict::Paused,
            "scheduled" => return Verdict::NotOpen(sale.state.opens),
            _ => {}
        }
        if day.is_none() && ask.units > sale.state.free {
            return Verdict::SoldOut(sale.state.stock_version);
        }
        let before = sale.holders.contains_key(&ask.user) && mine.is_empty();
        self.reclaims += u64::from(before && day.is_none());
        self.days_after += u64::from(before && day.is_some());
        let sale = &self.sales[ask.sale];
        let free_hold = || (0..).find(|hold| mine.iter().all(|&i| self.claim(i).hold != *hold)).unwrap_or(0);
        let hold = day.map_or_else(free_hold, |day| day as u64);
        let first = day.is_some_and(|day| sale.days.last() != Some(&day));
        let held = Held { ask: ask.clone(), seq, at, amount: None, hold, end: None, again: false, first };
        self.enter(now, ask.sale, What::Held(Box::new(held)));
        let sale = &mut self.sales[ask.sale];
        sale.state.accepted += ask.units;
        sale.state.free -= if day.is_none() { ask.units } else { 0 };
        sale.holders.entry(ask.user.clone()).or_default().push(place);
        if sale.def.ttl.is_some() {
            sale.unsettled.insert(place);
        }
        sale.days.extend(day.filter(|_| first));
        if let Some(key) = key {
            sale.keys.entry(key).or_default().push(place);
        }
        Verdict::Accepted
    }

    /// The claim that a key's answer is remembered for. A check-in remembers those of the last day on which anybody
    /// checked in, and of the one before.
    fn remembered(&self, sale: &Sale, key: &(String, u64)) -> Option<usize> {
        let first = *sale.keys.get(key).filter(|_| !sale.state.released)?.last()?;
        let hold = self.claim(first).hold as i64;
        let recent = sale.def.check_in.is_none() || sale.days.iter().rev().take(2).any(|day| *day == hold);
        recent.then_some(first)
    }

    /// The claim that is a fact.
    pub fn claim(&self, at: usize) -> &Held {
        match &self.facts[at].what {
            What::Held(held) => held,
            other => unreachable!("a claim, not {other:?}"),
        }
    }

    pub(crate) fn claim_mut(&mut self, at: usize) -> &mut Held {
        match &mut self.facts[at].what {
            What::Held(held) => held,
            other => unreachable!("a claim, not {other:?}"),
        }
    }

    /// The product's amount for the last fact, a claim.
    pub fn learn(&mut self, amount: Option<i64>) -> Result<(), String> {
        let last = self.facts.len() - 1;
        let sale = &mut self.sales[self.facts[last].sale];
        let What::Held(held) = &mut self.facts[last].what else { unreachable!("an amount of a claim") };
        held.amount = Some(amount);
        let Some(packet) = sale.def.packet else {
            let points = sale.def.check_in.map(|c| c.points);
            let due = points.or(sale.def.price.map(|p| p * held.ask.units as i64));
            return if amount == due { Ok(()) } else { Err(format!("P4: amount {amount:?} instead of {due:?}")) };
        };
        let share = amount.ok_or("P4: a share without an amount")?;
        let (left, shares) = (sale.state.left, sale.state.free as i64 + 1);
        sale.state.left -= share;
        if !sale.returned.is_empty() {
            let at = sale.returned.iter().position(|amount| *amount == share);
            let at = at.ok_or_else(|| format!("P4: share {share}, while {:?} were given back", sale.returned))?;
            sale.returned.swap_remove(at);
            sale.state.returned = (sale.state.returned.0 - 1, sale.state.returned.1 - share);
            held.again = true;
            self.again += 1;
            return Ok(());
        }
        let (rest, others) = (left - share, shares - 1);
        let fits = packet.min <= share && packet.max.is_none_or(|m| share <= m);
        let rest_fits = rest >= packet.min * others && packet.max.is_none_or(|m| rest <= m * others);
        let last_fits = others > 0 || rest == 0;
        let even_fits = !packet.even || (share * shares - left).abs() < shares;
        if fits && rest_fits && last_fits && even_fits {
            return Ok(());
        }
        Err(format!("P4: share {share} of {left} over {shares} with {packet:?}"))
    }

    /// What an operator's new sale must be answered.
    pub fn define(&mut self, now: i64, def: &Definition, key: Option<u64>) -> Verdict {
        if let Some(no) = self.sales.iter().position(|s| s.def.name == def.name) {
            let sale = &self.sales[no];
            return match key.and_then(|k| sale.operator_keys.get(&k)).filter(|_| !sale.state.released) {
                Some(paper) if *paper == Paper::Define(def.clone()) => Verdict::Identical(no),
                Some(_) => Verdict::KeyReused,
                None if sale.current() == *def => Verdict::Identical(no),
                None => Verdict::Exists,
            };
        }
        let sale = self.sales.len();
        self.enter(now, sale, What::Made);
        self.sales.push(Sale::new(def, self.facts.len() as u64));
        self.sales[sale].operator_keys.extend(key.map(|k| (k, Paper::Define(def.clone()))));
        Verdict::Made(sale)
    }

    /// What an operator's change must be answered.
    pub fn change(&mut self, now: i64, no: usize, change: &Change, key: Option<u64>) -> Verdict {
        let at = now.max(self.time);
        let Some(sale) = self.sales.get(no) else { return Verdict::NoSuchSale };
        if let Some(paper) = key.and_then(|k| sale.operator_keys.get(&k)).filter(|_| !sale.state.released) {
            let same = *paper == Paper::Change(*change);
            return if same { Verdict::ChangeReplayed(no) } else { Verdict::KeyReused };
        }
        if sale.state.wish == Wish::Closed {
            let again = *change == Change { wish: Some(Wish::Closed), ..Change::default() };
            return if again { Verdict::StillClosed(no) } else { Verdict::WrongState };
        }
        let Some(after) = altered(&sale.def, sale.state, change, at) else { return Verdict::BadField };
        self.enter(now, no, What::Changed { key });
        let sale = &mut self.sales[no];
        sale.state = State { last: sale.state.last, ..after };
        if let Some(key) = key {
            sale.operator_keys.insert(key, Paper::Change(*change));
        }
        Verdict::Changed(no)
    }

    /// Takes back every fact behind the first `len`.
    pub fn truncate(&mut self, len: usize) {
        while self.facts.len() > len {
            let place = self.facts.len() - 1;
            let Some(Fact { sale: no, what, before, .. }) = self.facts.pop() else { return };
            if let What::Clicked(clicked) = what {
                self.undo_click(place, &clicked);
                continue;
            }
            let (Some(sale), Some(before)) = (self.sales.get_mut(no), before) else {
                self.sales.truncate(no);
                continue;
            };
            sale.state = *before;
            match what {
                What::Made | What::Released | What::Clicked(_) | What::Changed { key: None } => {}
                What::Changed { key: Some(key) } => drop(sale.operator_keys.remove(&key)),
                What::Held(held) => Self::forget(sale, place, &held),
                What::Ended { claim, to, share } => self.undo_end(no, claim, to, share),
            }
        }
    }

    fn forget(sale: &mut Sale, place: usize, held: &Held) {
        if let Some(share) = held.amount.flatten().filter(|_| held.again) {
            sale.returned.push(share);
        }
        sale.unsettled.remove(&place);
        let is_last = |map: &mut Vec<usize>| {
            map.retain(|claim| *claim != place);
            map.is_empty()
        };
        if sale.holders.get_mut(&held.ask.user).is_some_and(is_last) {
            sale.holders.remove(&held.ask.user);
        }
        if let Some(key) = held.ask.key.map(|key| (held.ask.user.clone(), key))
            && sale.keys.get_mut(&key).is_some_and(is_last)
        {
            sale.keys.remove(&key);
        }
        if held.first {
            sale.days.pop();
        }
    }

    /// The claim at a position.
    pub fn held(&self, seq: u64) -> Option<&Held> {
        match &self.facts.get(seq.checked_sub(1)? as usize)?.what {
            What::Held(held) => Some(held),
            _ => None,
        }
    }

    /// The claim whose end is at a position, and what that is.
    pub fn ended(&self, seq: u64) -> Option<(&Held, Fate)> {
        match self.facts.get(seq.checked_sub(1)? as usize)?.what {
            What::Ended { claim, to, .. } => Some((self.claim(claim), to)),
            _ => None,
        }
    }

    /// Whether an entry is in the database as a dead letter, and no row.
    pub fn is_letter(&self, seq: u64) -> bool {
        self.dead.contains(&seq) && !self.revived.contains(&seq)
    }

    /// Adds what the facts from position `from` to `upto` do to the database's sums, per sale.
    pub fn sums(&self, from: u64, upto: u64, into: &mut Vec<Sums>) {
        into.resize(into.len().max(self.sales.len()), Default::default());
        for seq in from..=upto {
            let Some(sums) = into.get_mut(self.facts[seq as usize - 1].sale) else { continue };
            if let Some(held) = self.held(seq) {
                if self.is_letter(seq) { &mut sums.dead } else { &mut sums.persisted }.add(held);
            } else if let Some((held, to)) = self.ended(seq) {
                let dead = self.is_letter(held.seq);
                match (dead, to.gives_back()) {
                    // What is paid and in the dead letters stays there.
                    (true, false) => continue,
                    (true, true) => sums.dead.take(held),
                    (false, _) => sums.persisted.take(held),
                }
                if to.gives_back() { &mut sums.returned } else { &mut sums.settled }.add(held);
            }
        }
    }
}
