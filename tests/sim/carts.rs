//! The model's carts: what each line holds after what was acknowledged, which key is remembered, and what the database
//! must have of it.

use std::collections::BTreeMap;

use crate::database::is_poison;
use crate::model::{Fact, Model, NO_SALE, Verdict, What};
use crate::plan::SECOND;

/// The most of one thing in a cart.
pub const MOST: u64 = 1_000_000;
/// How long a generation of keys lasts: there are two, so a key is remembered for this long at least.
pub const GENERATION: i64 = 600 * SECOND;

/// What somebody wants of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Add(u64),
    Set(u64),
    Remove,
}

/// A click on a line of a cart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Click {
    /// Tells requests apart, repeated ones too.
    pub no: u64,
    pub buyer: String,
    pub sku: String,
    pub put: Put,
    pub key: Option<u64>,
}

/// A click that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clicked {
    pub click: Click,
    /// What the line holds afterwards.
    pub quantity: u64,
    before: u64,
}

/// A cart as it was acknowledged.
#[derive(Debug, Clone, Default)]
pub struct Cart {
    pub lines: BTreeMap<String, u64>,
    /// The facts that made it so.
    pub clicks: Vec<usize>,
}

/// A cart as the database must have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    pub version: u64,
    pub lines: BTreeMap<String, u64>,
}

fn set(lines: &mut BTreeMap<String, u64>, sku: &str, quantity: u64) {
    match quantity {
        0 => drop(lines.remove(sku)),
        _ => drop(lines.insert(sku.to_owned(), quantity)),
    }
}

impl Stored {
    /// Takes a row.
    pub fn set(&mut self, seq: u64, clicked: &Clicked) {
        self.version = seq;
        set(&mut self.lines, &clicked.click.sku, clicked.quantity);
    }
}

impl Model {
    /// What a click at clock time `now` must be answered, by whoever knows the cart; an acceptance is entered.
    pub fn click(&mut self, now: i64, click: &Click) -> Verdict {
        if let Some(first) = self.first_click(click) {
            let before = self.clicked(first as u64 + 1).map(|c| &c.click);
            let same = before.is_some_and(|b| (&b.sku, b.put) == (&click.sku, click.put));
            return if same { Verdict::ClickedBefore(first) } else { Verdict::KeyReused };
        }
        let before = self.carts.get(&click.buyer).and_then(|cart| cart.lines.get(&click.sku)).copied().unwrap_or(0);
        let quantity = match click.put {
            Put::Add(more) => before + more,
            Put::Set(quantity) => quantity,
            Put::Remove => 0,
        };
        if quantity > MOST {
            return Verdict::CartFull;
        }
        let place = self.facts.len();
        self.enter(now, NO_SALE, What::Clicked(Box::new(Clicked { click: click.clone(), quantity, before })));
        let cart = self.carts.entry(click.buyer.clone()).or_default();
        set(&mut cart.lines, &click.sku, quantity);
        cart.clicks.push(place);
        self.keyed.extend(click.key.map(|_| place));
        Verdict::Clicked
    }

    /// The fact that a click's key was used for, if that is remembered: when a generation is old the next key begins
    /// another one, and what was used before the last two is forgotten.
    fn first_click(&self, click: &Click) -> Option<usize> {
        let key = click.key?;
        let (mut begun, mut old, mut young) = (0, 0, 0);
        for (nth, &at) in self.keyed.iter().enumerate() {
            if self.facts[at].at - begun >= GENERATION {
                (begun, old, young) = (self.facts[at].at, young, nth);
            }
        }
        let is_it = |at: &usize| {
            let clicked = self.clicked(*at as u64 + 1).map(|c| &c.click);
            clicked.is_some_and(|c| c.buyer == click.buyer && c.key == Some(key))
        };
        self.keyed[old..].iter().copied().find(is_it)
    }

    /// The click at a position.
    pub fn clicked(&self, seq: u64) -> Option<&Clicked> {
        match &self.facts.get(seq.checked_sub(1)? as usize)?.what {
            What::Clicked(clicked) => Some(clicked),
            _ => None,
        }
    }

    /// Takes a click back that was the last fact.
    pub(crate) fn undo_click(&mut self, place: usize, clicked: &Clicked) {
        let Some(cart) = self.carts.get_mut(&clicked.click.buyer) else { return };
        set(&mut cart.lines, &clicked.click.sku, clicked.before);
        cart.clicks.pop_if(|at| *at == place);
        self.keyed.pop_if(|at| *at == place);
    }

    /// A click is in the database's cart.
    pub fn shelve(&mut self, seq: u64) {
        if let Some(Fact { what: What::Clicked(clicked), .. }) = self.facts.get(seq as usize - 1) {
            self.stored.entry(clicked.click.buyer.clone()).or_default().set(seq, clicked);
        }
    }

    /// A buyer's cart as a reader must see it who knows what is in the database, and what has not been retired up to
    /// `retired`. A line that the database won't take falls back to what is there, once it has been told so.
    pub fn shown(&self, buyer: &str, retired: u64) -> Stored {
        let Some(cart) = self.carts.get(buyer) else { return Stored::default() };
        let mut shown = self.stored.get(buyer).cloned().unwrap_or_default();
        let there = shown.version;
        for seq in cart.clicks.iter().map(|at| *at as u64 + 1).filter(|seq| *seq > retired.max(there)) {
            let clicked = self.clicked(seq).expect("a cart's facts are clicks");
            shown.set(seq, clicked);
        }
        let told: Vec<_> = cart.lines.iter().filter(|(sku, _)| !is_poison(sku)).collect();
        let seen: Vec<_> = shown.lines.iter().filter(|(sku, _)| !is_poison(sku)).collect();
        assert_eq!(seen, told, "P1: what {buyer} was told is neither in the database nor on its way there");
        shown
    }
}
