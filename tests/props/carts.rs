//! Carts: whatever is clicked, retried, forgotten, restarted and delivered twice, each acknowledged operation counts once.
//!
//! The model is a count a buyer and sku, kept by whoever clicks. The database is a table that is written as batches say, in
//! order, some of them again.

use std::collections::{BTreeMap, HashMap};

use forebay::plant::{self, Bug};
use forebay::queue::book::{Book, HashKey};
use forebay::queue::carts::{CartBase, CartVerdict, Line};
use forebay::queue::{CartCommand, Lease};
use forebay::sale::{CartOp, Carted, Entry, Event, Seq, Sku, Timestamp, UserId};
use forebay::store::{CartRow, Row, StoredCart};
use forebay::workers::batch;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const KEY: HashKey = HashKey([5; 16]);

type Counts = BTreeMap<(UserId, Sku), u32>;

struct Shop {
    book: Book,
    entries: Vec<Entry>,
    counts: Counts,
    database: HashMap<UserId, StoredCart>,
    drained: usize,
    now: i64,
}

impl Shop {
    fn new() -> Self {
        let (entries, counts, database) = Default::default();
        Self { book: Book::new(KEY, u64::MAX), entries, counts, database, drained: 0, now: 1_000_000 }
    }

    /// The cart as a reader gets it: the row, and what waits beyond it.
    fn lines(&self, user: UserId) -> BTreeMap<Sku, u32> {
        let stored = self.database.get(&user).cloned().unwrap_or_default();
        let mut lines: BTreeMap<Sku, u32> = stored.lines.into_iter().collect();
        for entry in &self.entries {
            if let Event::Carted(carted) = &entry.event
                && carted.user == user
                && entry.seq > stored.version
            {
                lines.insert(carted.sku, carted.quantity);
            }
        }
        lines.retain(|_, quantity| *quantity > 0);
        lines
    }

    fn click(&mut self, user: UserId, sku: Sku, op: CartOp, key: Option<&str>) {
        self.now += 1;
        let user_hash = KEY.user(&user);
        let key = key.map(|key| KEY.cart_key(&user, key, &sku, op));
        let mut base = CartBase::Unknown;
        for _ in 0..3 {
            let command = CartCommand { user, user_hash, sku, op, key, base };
            match self.book.decide_cart(Timestamp(self.now), &command, &command.base) {
                CartVerdict::Load(number) => {
                    let lines = self.lines(user).into_iter();
                    let lines = lines.map(|(sku, quantity)| Line { sku: KEY.sku(&sku), quantity }).collect();
                    base = CartBase::Loaded { number, lines };
                }
                CartVerdict::Accept(quantity) => return self.enter(user, sku, op, quantity, command),
                CartVerdict::Replay(_) => return,
                other => panic!("{other:?}"),
            }
        }
        panic!("it is loaded over and over");
    }

    fn enter(&mut self, user: UserId, sku: Sku, op: CartOp, quantity: u32, command: CartCommand) {
        let address = command.user_hash.address();
        let carted = Carted { user, sku, op, quantity, key: command.key, address };
        let (seq, at) = (Seq(self.entries.len() as u64 + 1), Timestamp(self.now));
        let entry = Entry { seq, at, event: Event::Carted(carted) };
        self.book.apply(&entry);
        self.entries.push(entry);
        let count = self.counts.entry((user, sku)).or_default();
        match op {
            CartOp::Add(more) => *count += more,
            CartOp::Set(quantity) => *count = quantity,
            CartOp::Remove => *count = 0,
        }
    }

    /// Writes the next few entries, and perhaps some that were written before, again.
    fn drain(&mut self, random: &mut StdRng) {
        let upto = random.random_range(self.drained..=self.entries.len());
        let from = if random.random_bool(0.3) { random.random_range(0..=self.drained) } else { self.drained };
        if from == upto {
            return;
        }
        let lease = Lease { after: Seq(from as u64), entries: self.entries[from..upto].to_vec() };
        for row in batch::of(&lease, |_| None).unwrap().rows {
            if let Row::Cart(row) = row {
                self.write(&row);
            }
        }
        self.drained = self.drained.max(upto);
    }

    fn write(&mut self, row: &CartRow) {
        let cart = self.database.entry(row.user).or_default();
        if row.seq <= cart.version {
            return;
        }
        cart.version = row.seq;
        cart.lines.retain(|(sku, _)| *sku != row.sku);
        cart.lines.extend((row.quantity > 0).then_some((row.sku, row.quantity)));
    }

    /// A kill: only the entries are left.
    fn restart(&mut self) {
        self.book = Book::new(KEY, u64::MAX);
        self.entries.iter().for_each(|entry| self.book.apply(entry));
    }

    fn wrong(&self) -> Option<String> {
        self.counts.iter().find_map(|((user, sku), count)| {
            let seen = self.lines(*user).get(sku).copied().unwrap_or(0);
            (seen != *count).then(|| format!("{user} clicked {count} of {sku} and sees {seen}"))
        })
    }
}

fn run(seed: u64) -> Option<String> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut shop = Shop::new();
    let users: Vec<_> = (0..4).map(|n| UserId::parse(&format!("u{n}")).unwrap()).collect();
    let skus: Vec<_> = (0..3).map(|n| Sku::parse(&format!("s{n}")).unwrap()).collect();
    for no in 0..300 {
        let (user, sku) = (users[random.random_range(0..4)], skus[random.random_range(0..3)]);
        match random.random_range(0..100) {
            0..60 => shop.click(user, sku, CartOp::Add(random.random_range(1..4)), None),
            60..70 => {
                // A client that lost its answer clicks again, perhaps after a kill.
                let (key, op) = (format!("k{no}"), CartOp::Add(2));
                shop.click(user, sku, op, Some(&key));
                if random.random_bool(0.3) {
                    shop.restart();
                }
                shop.click(user, sku, op, Some(&key));
            }
            70..76 => shop.click(user, sku, CartOp::Set(random.random_range(0..9)), None),
            76..80 => shop.click(user, sku, CartOp::Remove, None),
            80..97 => shop.drain(&mut random),
            97..99 => shop.restart(),
            // Long enough that idle carts are forgotten.
            _ => shop.now += 1_300_000_000,
        }
        if let Some(wrong) = shop.wrong() {
            return Some(format!("seed {seed}, step {no}: {wrong}"));
        }
    }
    while shop.drained < shop.entries.len() {
        shop.drain(&mut random);
    }
    shop.wrong()
}

#[test]
fn every_acknowledged_click_counts_once_whatever_is_delivered_twice() {
    for seed in 0..300 {
        assert_eq!(run(seed), None);
    }
}

#[test]
fn clicks_that_are_added_once_more_by_the_worker_are_found() {
    plant::set(Some(Bug::DoubledCartAdd));
    let found = (0..20).find_map(run);
    plant::set(None);
    assert!(found.is_some_and(|text| text.contains("clicked")), "a doubled click was not found");
}
