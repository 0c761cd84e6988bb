//! The carts that are in use, so that each operation is decided at once: what a line holds afterwards, and whether the cart
//! is full.
//!
//! They are a memory, not the truth: the truth is the database and the entries that wait for it, and a cart that is not
//! here is *loaded* from the two by whoever wants to change it. Until that has been done no operation on the cart is
//! accepted, so what was loaded is what there is. Nothing of the carts is in a snapshot, and after a restart none is here.
//! Only the idempotency keys are state: they are remembered for 10 to 20 minutes, through a restart too.
//!
//! Two generations bound them: what is touched moves into the young one, and when that is full, or old, it becomes the old
//! one and what was old is forgotten. A table that grew in place would stall the sequencer.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::index::Index;
use crate::limits;
use crate::sale::{CartKey, CartOp, Carted, KeyHash, Seq, Sku, Timestamp, UserHash};

const _: () = assert!(limits::CARTS_YOUNG > 2 * (limits::QUEUE_MAX + limits::SEQUENCER_BATCH_MAX));

/// A line: the sku's keyed hash, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The sku, hashed with the data folder's key.
    pub sku: u64,
    /// Units, from 1.
    pub quantity: u32,
}

/// What the caller knows of a cart that may not be here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CartBase {
    /// Nothing.
    Unknown,
    /// That the buyer never had one.
    Empty,
    /// Its lines, loaded after the answer that asked for them with this number.
    Loaded { number: u64, lines: Vec<Line> },
    /// The same where carts are kept by their lines' names.
    Stored { number: u64, version: Seq, lines: Vec<(Sku, u32)> },
}

/// A cart as it is here.
#[derive(Debug)]
enum Cart {
    /// Somebody was asked, with this number, to load it.
    Loading(u64),
    /// Its lines.
    Known(Vec<Line>),
}

/// What the carts make of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CartVerdict {
    /// The line holds so many afterwards.
    Accept(u32),
    /// Load the cart, and come again with this number.
    Load(u64),
    /// The same key was accepted before, at this position.
    Replay(Seq),
    /// The key was used for something else.
    KeyReused,
    /// More lines, or more of one, than a cart may hold.
    Full,
    /// No more keys can be remembered now.
    KeysFull,
}

/// Buyers' hashes are keyed already: their own bits are the best hash.
#[derive(Debug, Default)]
struct OwnBits(u64);

impl Hasher for OwnBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, n: u128) {
        self.0 = n as u64 ^ (n >> 64) as u64;
    }
}

type Map = HashMap<UserHash, Cart, BuildHasherDefault<OwnBits>>;

/// A generation of carts; its memory may take long to free.
#[derive(Debug, Default)]
pub struct Generation {
    carts: Map,
    lines: usize,
}

/// A generation of keys; see [`Generation`].
#[derive(Debug, Default)]
pub struct CartKeys {
    tables: Vec<(Index, Vec<KeyRecord>)>,
    len: u64,
}

/// Key, payload, position.
type KeyRecord = [u64; 4];

/// Memory that is not used any more.
#[derive(Debug, Default)]
pub struct CartGarbage {
    carts: Vec<Generation>,
    keys: Vec<CartKeys>,
}

impl CartGarbage {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.carts.is_empty() && self.keys.is_empty()
    }
}

/// The carts in use.
#[derive(Debug)]
pub struct Carts {
    young: Generation,
    old: Generation,
    born: Timestamp,
    number: u64,
    pub(super) keys: [CartKeys; 2],
    pub(super) keys_born: Timestamp,
    garbage: CartGarbage,
}

impl Default for Carts {
    fn default() -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            born: Timestamp(0),
            number: 0,
            keys: Default::default(),
            keys_born: Timestamp(0),
            garbage: CartGarbage::default(),
        }
    }
}

impl Carts {
    /// Decides an operation at `now`. Nothing of the journalled state changes; which carts are here may.
    pub fn decide(
        &mut self,
        now: Timestamp,
        user: UserHash,
        (sku, op): (u64, CartOp),
        key: Option<CartKey>,
        base: &CartBase,
    ) -> CartVerdict {
        if let Some((payload, seq)) = key.and_then(|key| self.keys.iter().find_map(|keys| keys.get(key.hash))) {
            return if key.is_some_and(|key| key.payload == payload) {
                CartVerdict::Replay(seq)
            } else {
                CartVerdict::KeyReused
            };
        }
        if key.is_some() && self.keys[0].len >= limits::CART_KEYS_YOUNG && !self.keys_are_old(now) {
            return CartVerdict::KeysFull;
        }
        let lines = match self.known(now, user, base) {
            Ok(lines) => lines,
            Err(number) => return CartVerdict::Load(number),
        };
        let before = lines.iter().find(|line| line.sku == sku).map_or(0, |line| line.quantity);
        match op.apply(before) {
            Some(after) if before == 0 && after > 0 && lines.len() >= limits::CART_LINES_MAX => CartVerdict::Full,
            Some(after) => CartVerdict::Accept(after),
            None => CartVerdict::Full,
        }
    }

    /// The cart's lines, or the number under which they are to be loaded.
    fn known(&mut self, now: Timestamp, user: UserHash, base: &CartBase) -> Result<&Vec<Line>, u64> {
        let found = self.young.carts.remove(&user);
        if let Some(Cart::Known(lines)) = &found {
            self.young.lines -= lines.len();
        }
        let found = found.or_else(|| self.old.take(user));
        let cart = match (found, base) {
            (Some(Cart::Known(lines)), _) => Cart::Known(lines),
            (Some(Cart::Loading(number)), CartBase::Loaded { number: theirs, lines }) if number == *theirs => {
                Cart::Known(lines.clone())
            }
            (_, CartBase::Empty) => Cart::Known(Vec::new()),
            (Some(Cart::Loading(number)), _) => Cart::Loading(number),
            (None, _) => {
                self.number += 1;
                Cart::Loading(self.number)
            }
        };
        self.rotate(now);
        if let Cart::Known(lines) = &cart {
            self.young.lines += lines.len();
        }
        match self.young.carts.entry(user).insert_entry(cart).into_mut() {
            Cart::Known(lines) => Ok(lines),
            Cart::Loading(number) => Err(*number),
        }
    }

    fn rotate(&mut self, now: Timestamp) {
        let is_full = self.young.carts.len() >= limits::CARTS_YOUNG || self.young.lines >= limits::CART_LINES_YOUNG;
        let is_old = now.0 - self.born.0 >= limits::CART_GENERATION_MICROS;
        if !is_full && !is_old {
            return;
        }
        self.born = now;
        // Room for all at once, so that no insertion ever has to move what is there.
        let carts = Map::with_capacity_and_hasher(limits::CARTS_YOUNG + 1, BuildHasherDefault::default());
        let young = std::mem::replace(&mut self.young, Generation { carts, lines: 0 });
        self.garbage.carts.push(std::mem::replace(&mut self.old, young));
    }

    fn keys_are_old(&self, now: Timestamp) -> bool {
        now.0 - self.keys_born.0 >= limits::CART_GENERATION_MICROS
    }

    /// Enters what was decided, now or in an earlier life; `sku` is the sku's hash.
    pub fn apply(&mut self, at: Timestamp, seq: Seq, user: UserHash, sku: u64, carted: &Carted) {
        if let Some(Cart::Known(lines)) = self.young.carts.get_mut(&user) {
            let place = lines.iter().position(|line| line.sku == sku);
            match (place, carted.quantity) {
                (Some(place), 0) => {
                    lines.swap_remove(place);
                    self.young.lines -= 1;
                }
                (Some(place), quantity) => lines[place].quantity = quantity,
                (None, 0) => {}
                (None, quantity) => {
                    lines.push(Line { sku, quantity });
                    self.young.lines += 1;
                }
            }
        }
        let Some(key) = carted.key else { return };
        if self.keys_are_old(at) {
            self.keys_born = at;
            self.keys.swap(0, 1);
            self.garbage.keys.push(std::mem::take(&mut self.keys[0]));
        }
        self.keys[0].insert(key, seq);
    }

    /// A cart has been changed elsewhere: it must be loaded anew, and what is being loaded now does not count.
    pub fn forget(&mut self, user: UserHash) {
        self.young.take(user);
        self.old.take(user);
    }

    /// Carts, their lines, and keys that are remembered.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let carts = self.young.carts.len() + self.old.carts.len();
        (carts as u64, (self.young.lines + self.old.lines) as u64, self.keys.iter().map(|keys| keys.len).sum())
    }

    /// Memory that is not used any more, for whoever has the time to free it.
    pub fn take_garbage(&mut self) -> CartGarbage {
        std::mem::take(&mut self.garbage)
    }

    /// Whether there is any.
    pub fn has_garbage(&self) -> bool {
        !self.garbage.is_empty()
    }
}

impl Generation {
    fn take(&mut self, user: UserHash) -> Option<Cart> {
        let cart = self.carts.remove(&user)?;
        if let Cart::Known(lines) = &cart {
            self.lines -= lines.len();
        }
        Some(cart)
    }
}

impl CartKeys {
    fn get(&self, key: KeyHash) -> Option<(u64, Seq)> {
        self.tables.iter().find_map(|(index, records)| {
            let mut found = index.candidates(hash(key)).map(|place| &records[place]);
            let record = found.find(|r| r[0] == key.0 as u64 && r[1] == (key.0 >> 64) as u64)?;
            Some((record[2], Seq(record[3])))
        })
    }

    /// Remembers a key. Each table is twice as large as the one before, so that there are few and none is ever moved.
    pub(super) fn insert(&mut self, key: CartKey, seq: Seq) {
        if self.tables.last().is_none_or(|(_, records)| records.len() == records.capacity()) {
            let room = (self.len as usize).max(4_096);
            self.tables.push((Index::new(room as u64), Vec::with_capacity(room)));
        }
        if let Some((index, records)) = self.tables.last_mut() {
            index.insert(hash(key.hash), records.len());
            records.push([key.hash.0 as u64, (key.hash.0 >> 64) as u64, key.payload, seq.0]);
            self.len += 1;
        }
    }

    /// Every key, for a snapshot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (CartKey, Seq)> + '_ {
        self.tables.iter().flat_map(|(_, records)| records).map(|r| {
            let hash = KeyHash(u128::from(r[1]) << 64 | u128::from(r[0]));
            (CartKey { hash, payload: r[2] }, Seq(r[3]))
        })
    }
}

fn hash(key: KeyHash) -> u64 {
    (key.0 >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sale::{Sku, UserId};

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn carted(op: CartOp, quantity: u32, key: Option<CartKey>) -> Carted {
        let (user, sku) = (UserId::parse("u1").unwrap(), Sku::parse("s1").unwrap());
        Carted { user, sku, op, quantity, key, address: 0 }
    }

    fn key(n: u128) -> CartKey {
        CartKey { hash: KeyHash(n << 64 | n), payload: n as u64 }
    }

    #[test]
    fn adds_add_up_and_nothing_is_accepted_while_a_cart_is_loaded() {
        let (mut carts, user, add) = (Carts::default(), UserHash(7), CartOp::Add(2));
        let CartVerdict::Load(number) = carts.decide(NOW, user, (1, add), None, &CartBase::Unknown) else { panic!() };
        assert_eq!(carts.decide(NOW, user, (1, add), None, &CartBase::Unknown), CartVerdict::Load(number));
        let stale = CartBase::Loaded { number: number + 1, lines: Vec::new() };
        assert_eq!(carts.decide(NOW, user, (1, add), None, &stale), CartVerdict::Load(number));
        let loaded = CartBase::Loaded { number, lines: vec![Line { sku: 1, quantity: 5 }] };
        assert_eq!(carts.decide(NOW, user, (1, add), None, &loaded), CartVerdict::Accept(7));
        carts.apply(NOW, Seq(1), user, 1, &carted(add, 7, None));
        // Once it is here, what anybody else has loaded does not count any more.
        assert_eq!(carts.decide(NOW, user, (1, add), None, &loaded), CartVerdict::Accept(9));
        assert_eq!(carts.decide(NOW, user, (1, add), None, &CartBase::Empty), CartVerdict::Accept(9));
    }

    #[test]
    fn a_cart_that_was_changed_elsewhere_is_loaded_anew() {
        let (mut carts, user, add) = (Carts::default(), UserHash(7), CartOp::Add(2));
        let CartVerdict::Load(number) = carts.decide(NOW, user, (1, add), None, &CartBase::Unknown) else { panic!() };
        carts.forget(user);
        let before = CartBase::Loaded { number, lines: Vec::new() };
        let CartVerdict::Load(next) = carts.decide(NOW, user, (1, add), None, &before) else { panic!("loaded before") };
        assert_ne!(next, number);
        let after = CartBase::Loaded { number: next, lines: vec![Line { sku: 1, quantity: 3 }] };
        assert_eq!(carts.decide(NOW, user, (1, add), None, &after), CartVerdict::Accept(5));
        carts.forget(user);
        assert_eq!(carts.young.lines + carts.old.lines, 0);
        assert!(matches!(carts.decide(NOW, user, (1, add), None, &after), CartVerdict::Load(_)));
    }

    #[test]
    fn a_cart_holds_so_many_lines_and_no_more() {
        let (mut carts, user) = (Carts::default(), UserHash(7));
        for sku in 0..limits::CART_LINES_MAX as u64 {
            assert_eq!(carts.decide(NOW, user, (sku, CartOp::Set(1)), None, &CartBase::Empty), CartVerdict::Accept(1));
            carts.apply(NOW, Seq(sku + 1), user, sku, &carted(CartOp::Set(1), 1, None));
        }
        let one_more = |carts: &mut Carts| carts.decide(NOW, user, (9_999, CartOp::Add(1)), None, &CartBase::Empty);
        assert_eq!(one_more(&mut carts), CartVerdict::Full);
        assert_eq!(carts.decide(NOW, user, (3, CartOp::Add(1)), None, &CartBase::Empty), CartVerdict::Accept(2));
        assert_eq!(carts.decide(NOW, user, (9_999, CartOp::Remove), None, &CartBase::Empty), CartVerdict::Accept(0));
        carts.apply(NOW, Seq(300), user, 3, &carted(CartOp::Remove, 0, None));
        assert_eq!(one_more(&mut carts), CartVerdict::Accept(1));
    }

    #[test]
    fn idle_carts_leave_and_come_back_by_loading() {
        let mut carts = Carts::default();
        let ask = |carts: &mut Carts, now: i64, n: u128, base: &CartBase| {
            carts.decide(Timestamp(now), UserHash(n), (1, CartOp::Add(1)), None, base)
        };
        let age = limits::CART_GENERATION_MICROS;
        assert_eq!(ask(&mut carts, age, 1, &CartBase::Empty), CartVerdict::Accept(1));
        assert_eq!(ask(&mut carts, 2 * age, 2, &CartBase::Empty), CartVerdict::Accept(1));
        assert!(matches!(ask(&mut carts, 2 * age + 1, 1, &CartBase::Unknown), CartVerdict::Accept(1)), "still known");
        ask(&mut carts, 3 * age + 1, 3, &CartBase::Empty);
        ask(&mut carts, 4 * age + 2, 3, &CartBase::Empty);
        assert!(matches!(ask(&mut carts, 4 * age + 3, 2, &CartBase::Unknown), CartVerdict::Load(_)), "forgotten");
        assert!(carts.has_garbage());
        assert!(!carts.take_garbage().is_empty() && !carts.has_garbage());
    }

    #[test]
    fn keys_are_remembered_for_at_least_ten_minutes() {
        let (mut carts, user, op) = (Carts::default(), UserHash(7), CartOp::Add(1));
        let mut seq = 0;
        let mut ask = |carts: &mut Carts, now: i64, n: u128| {
            let verdict = carts.decide(Timestamp(now), user, (1, op), Some(key(n)), &CartBase::Empty);
            if let CartVerdict::Accept(quantity) = verdict {
                seq += 1;
                carts.apply(Timestamp(now), Seq(seq), user, 1, &carted(op, quantity, Some(key(n))));
            }
            verdict
        };
        let age = limits::CART_GENERATION_MICROS;
        let from = 100 * age;
        for n in 1..=10_000 {
            ask(&mut carts, from + n, n as u128);
        }
        assert_eq!(ask(&mut carts, from + age, 7), CartVerdict::Replay(Seq(7)));
        ask(&mut carts, from + age + 1, 20_000);
        assert_eq!(ask(&mut carts, from + 2 * age, 10_000), CartVerdict::Replay(Seq(10_000)));
        let other = CartKey { payload: 99, ..key(5) };
        let reused = carts.decide(Timestamp(from + 2 * age), user, (1, op), Some(other), &CartBase::Empty);
        assert_eq!(reused, CartVerdict::KeyReused);
        ask(&mut carts, from + 2 * age + 2, 20_001);
        assert!(matches!(ask(&mut carts, from + 2 * age + 3, 8), CartVerdict::Accept(_)), "forgotten");
    }
}
