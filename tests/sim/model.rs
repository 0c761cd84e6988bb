//! What must be true, in plain words: numbers, lists and maps. It shares no rule with the product.
//!
//! The model is told every command in order and says what the answer must be. It keeps what was promised as a list of
//! facts, one a position; facts that a crash made doubtful are taken back and found out again after the recovery. A red
//! packet's shares are the product's to draw: the model is told each and checks that it can be one.

use std::collections::BTreeMap;

use crate::database::is_poison;

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
struct State {
    opens: i64,
    closes: i64,
    wish: Wish,
    stock: u64,
    total: i64,
    free: u64,
    left: i64,
    version: u64,
    stock_version: u64,
}

/// A sale, and who holds what of it.
#[derive(Debug, Clone)]
pub struct Sale {
    pub def: Definition,
    state: State,
    holders: BTreeMap<String, Vec<usize>>,
    keys: BTreeMap<(String, u64), usize>,
    operator_keys: BTreeMap<u64, Paper>,
}

/// The payload that an operator's key was used with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Paper {
    Define(Definition),
    Change(Change),
}

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

/// A claim that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub ask: Ask,
    pub seq: u64,
    pub at: i64,
    /// Absent until the product has said it; then a sum, or none.
    pub amount: Option<Option<i64>>,
}

/// What is at a position.
#[derive(Debug, Clone)]
pub enum Fact {
    Made { sale: usize },
    Changed { sale: usize, key: Option<u64>, before: Box<StateBefore> },
    Held(Box<Held>),
}

/// A sale's state, for taking a change back.
#[derive(Debug, Clone)]
pub struct StateBefore(State);

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
}

impl Verdict {
    /// Whether it adds a fact.
    pub fn enters(self) -> bool {
        matches!(self, Self::Accepted | Self::Made(_) | Self::Changed(_))
    }
}

/// Units and money of one sale at some position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    pub units: u64,
    pub money: i64,
}

/// Everything that was promised.
#[derive(Debug, Default)]
pub struct Model {
    pub facts: Vec<Fact>,
    pub sales: Vec<Sale>,
    /// The journal's time: no decision is earlier.
    pub time: i64,
}

impl Sale {
    pub fn free(&self) -> u64 {
        self.state.free
    }

    pub fn left(&self) -> i64 {
        self.state.left
    }

    pub fn stock(&self) -> u64 {
        self.state.stock
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

    /// The definition as a newcomer would see it now.
    fn current(&self) -> Definition {
        let s = &self.state;
        let packet = self.def.packet.map(|p| Packet { total: s.total, ..p });
        Definition { opens: s.opens, closes: s.closes, stock: s.stock, packet, ..self.def.clone() }
    }
}

impl Model {
    /// What a claim at clock time `now` must be answered; an acceptance is entered.
    pub fn ask(&mut self, now: i64, ask: &Ask) -> Verdict {
        let at = now.max(self.time);
        let seq = self.facts.len() as u64 + 1;
        let place = self.facts.len();
        let Some(sale) = self.sales.get_mut(ask.sale) else { return Verdict::NoSuchSale };
        let key = ask.key.map(|k| (ask.user.clone(), k));
        if let Some(&first) = key.as_ref().and_then(|k| sale.keys.get(k)) {
            let Fact::Held(held) = &self.facts[first] else { unreachable!("a key of a claim") };
            return if held.ask.units == ask.units { Verdict::Replayed(first) } else { Verdict::KeyReused };
        }
        if ask.units == 0 || ask.units > sale.def.limit || (sale.def.packet.is_some() && ask.units > 1) {
            return Verdict::OverLimit;
        }
        if let Some(mine) = sale.holders.get(&ask.user) {
            let has: u64 = mine.iter().map(|&i| units(&self.facts[i])).sum();
            if has + ask.units > sale.def.limit {
                return Verdict::Already(mine[0]);
            }
        }
        match sale.word(at) {
            "closed" | "ended" => return Verdict::Ended,
            "paused" => return Verdict::Paused,
            "scheduled" => return Verdict::NotOpen(sale.state.opens),
            _ => {}
        }
        if ask.units > sale.state.free {
            return Verdict::SoldOut(sale.state.stock_version);
        }
        sale.state.free -= ask.units;
        sale.holders.entry(ask.user.clone()).or_default().push(place);
        if let Some(key) = key {
            sale.keys.insert(key, place);
        }
        self.facts.push(Fact::Held(Box::new(Held { ask: ask.clone(), seq, at, amount: None })));
        self.time = at;
        Verdict::Accepted
    }

    /// The product's amount for the last fact, a claim.
    pub fn learn(&mut self, amount: Option<i64>) -> Result<(), String> {
        let Some(Fact::Held(held)) = self.facts.last_mut() else { unreachable!("an amount of a claim") };
        let sale = &mut self.sales[held.ask.sale];
        held.amount = Some(amount);
        let Some(packet) = sale.def.packet else {
            let due = sale.def.price.map(|p| p * held.ask.units as i64);
            return if amount == due { Ok(()) } else { Err(format!("P4: amount {amount:?} instead of {due:?}")) };
        };
        let (left, shares) = (sale.state.left, sale.state.free as i64 + 1);
        let share = amount.ok_or("P4: a share without an amount")?;
        sale.state.left -= share;
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
            return match key.and_then(|k| sale.operator_keys.get(&k)) {
                Some(paper) if *paper == Paper::Define(def.clone()) => Verdict::Identical(no),
                Some(_) => Verdict::KeyReused,
                None if sale.current() == *def => Verdict::Identical(no),
                None => Verdict::Exists,
            };
        }
        self.time = now.max(self.time);
        let state = State {
            opens: def.opens,
            closes: def.closes,
            wish: Wish::Open,
            stock: def.stock,
            total: def.packet.map_or(0, |p| p.total),
            free: def.stock,
            left: def.packet.map_or(0, |p| p.total),
            version: 1,
            stock_version: 1,
        };
        let operator_keys = key.map(|k| (k, Paper::Define(def.clone()))).into_iter().collect();
        let (holders, keys) = Default::default();
        self.sales.push(Sale { def: def.clone(), state, holders, keys, operator_keys });
        let sale = self.sales.len() - 1;
        self.facts.push(Fact::Made { sale });
        Verdict::Made(sale)
    }

    /// What an operator's change must be answered.
    pub fn change(&mut self, now: i64, no: usize, change: &Change, key: Option<u64>) -> Verdict {
        let Some(sale) = self.sales.get_mut(no) else { return Verdict::NoSuchSale };
        if let Some(paper) = key.and_then(|k| sale.operator_keys.get(&k)) {
            let same = *paper == Paper::Change(*change);
            return if same { Verdict::ChangeReplayed(no) } else { Verdict::KeyReused };
        }
        if sale.state.wish == Wish::Closed {
            let again = *change == Change { wish: Some(Wish::Closed), ..Change::default() };
            return if again { Verdict::StillClosed(no) } else { Verdict::WrongState };
        }
        let before = sale.state;
        let Some(after) = altered(&sale.def, before, change) else { return Verdict::BadField };
        sale.state = after;
        if let Some(key) = key {
            sale.operator_keys.insert(key, Paper::Change(*change));
        }
        self.time = now.max(self.time);
        self.facts.push(Fact::Changed { sale: no, key, before: Box::new(StateBefore(before)) });
        Verdict::Changed(no)
    }

    /// Takes back every fact behind the first `len`.
    pub fn truncate(&mut self, len: usize) {
        while self.facts.len() > len {
            match self.facts.pop().expect("longer than len") {
                Fact::Made { .. } => drop(self.sales.pop()),
                Fact::Changed { sale, key, before } => {
                    self.sales[sale].state = before.0;
                    if let Some(key) = key {
                        self.sales[sale].operator_keys.remove(&key);
                    }
                }
                Fact::Held(held) => {
                    let sale = &mut self.sales[held.ask.sale];
                    sale.state.free += held.ask.units;
                    if sale.def.packet.is_some() {
                        sale.state.left += held.amount.flatten().unwrap_or(0);
                    }
                    let mine = sale.holders.get_mut(&held.ask.user).expect("entered with the fact");
                    mine.pop();
                    if mine.is_empty() {
                        sale.holders.remove(&held.ask.user);
                    }
                    if let Some(key) = held.ask.key {
                        sale.keys.remove(&(held.ask.user.clone(), key));
                    }
                }
            }
        }
    }

    /// The claim at a position.
    pub fn held(&self, seq: u64) -> Option<&Held> {
        match self.facts.get(seq.checked_sub(1)? as usize)? {
            Fact::Held(held) => Some(held),
            _ => None,
        }
    }

    /// What the facts from position `from` on add up to, per sale: held, and of it in the dead letters.
    pub fn sums(&self, from: u64, upto: u64, into: &mut Vec<(Sums, Sums)>) {
        into.resize(into.len().max(self.sales.len()), Default::default());
        for seq in from..=upto {
            let Some(held) = self.held(seq) else { continue };
            let (live, dead) = &mut into[held.ask.sale];
            let sums = if is_poison(&held.ask.user) { dead } else { live };
            sums.units += held.ask.units;
            sums.money += held.amount.flatten().unwrap_or(0);
        }
    }
}

fn units(fact: &Fact) -> u64 {
    if let Fact::Held(held) = fact { held.ask.units } else { 0 }
}

/// What a change makes of a sale; none where it can't be made.
fn altered(def: &Definition, mut s: State, change: &Change) -> Option<State> {
    s.opens = change.opens.unwrap_or(s.opens);
    s.closes = change.closes.unwrap_or(s.closes);
    if s.closes <= s.opens {
        return None;
    }
    let add = change.add_stock.unwrap_or(0);
    if s.free as i64 + add < 0 {
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
            let shares = s.free as i64;
            let least = packet.min * shares;
            let most = packet.max.map_or(if shares == 0 { 0 } else { i64::MAX }, |m| m * shares);
            if s.left < 0 || s.left < least || s.left > most {
                return None;
            }
        }
    }
    s.wish = change.wish.unwrap_or(s.wish);
    s.version += 1;
    s.stock_version += u64::from(s.stock != stock_before);
    Some(s)
}
