//! The front end's part in a click on a cart, in pieces between which anything may happen: what is known of the cart, what
//! waits of it, what the database has, and the click again with both. And its readers.

use std::collections::BTreeMap;

use forebay::queue::carts::{CartBase, Line};
use forebay::queue::{CartOutcome, Outcome};
use forebay::sale::{Carted, Seq, Sku, UserHash, UserId};
use forebay::store::{Store, StoredCart};

use crate::carts::{Click, GENERATION, Stored};
use crate::convert;
use crate::life::now_or_never;
use crate::model::Verdict;
use crate::plan::Asked;
use crate::world::World;

/// How often the front end loads a cart for one click.
const LOADS: u64 = 3;
/// Buyers for whom the filter of those who may have a cart has room: few, so that it is wrong now and then.
pub const OWNERS: u64 = 8;

/// How far a click has come.
#[derive(Debug)]
enum Stage {
    /// The answer was: load it, with this number.
    Told(u64),
    /// What waited was read.
    Waiting(u64, Waiting),
    /// What is known of the cart is known.
    Ready,
}

/// What waited of a cart when it was looked for.
#[derive(Debug)]
struct Waiting {
    clicks: Vec<(Seq, Carted)>,
    /// Up to here all was retired.
    retired: u64,
    /// So many clicks on the cart had been accepted.
    accepted: usize,
}

#[derive(Debug)]
struct Under {
    click: Click,
    stage: Stage,
}

/// What one process's front end has in hand.
#[derive(Debug, Default)]
pub struct Hands {
    under: Vec<Under>,
    /// What is known of a click's cart, and how often it was loaded, by the click's number.
    known: BTreeMap<u64, (CartBase, u64)>,
    /// When each cart was last changed in this process, and how many letters the database was asked to requeue by then.
    used: BTreeMap<String, (i64, u64)>,
    /// Tells processes apart.
    life: u64,
    /// Whether everybody who has a cart was entered into the filter.
    complete: bool,
}

impl Hands {
    /// Those of the next process.
    pub fn next(&self) -> Self {
        Self { life: self.life + 1, ..Self::default() }
    }

    /// What the front end knows of a click's cart.
    pub fn base(&self, click: &Click) -> CartBase {
        self.known.get(&click.no).map_or(CartBase::Unknown, |(base, _)| base.clone())
    }
}

/// A buyer's name and hash.
fn who(world: &World, buyer: &str) -> (UserId, UserHash) {
    let user = convert::user_id(buyer);
    (user, world.key.user(&user))
}

impl World {
    /// The front end looks whether the buyers of these clicks may have a cart.
    pub fn know_buyers(&mut self, asked: &[Asked]) {
        let Some(life) = &self.life else { return };
        let published = life.published.clone();
        for asked in asked {
            let Asked::Click(click) = asked else { continue };
            let (_, hash) = who(self, &click.buyer);
            let may_have = published.cart_owners.may_have(hash);
            let base = if may_have { CartBase::Unknown } else { CartBase::Empty };
            self.tally.add("clicks of buyers who never had a cart", u64::from(!may_have));
            self.hands.known.entry(click.no).or_insert((base, 0));
        }
    }

    /// Some clicks stay in the front end, with what it knows now.
    pub fn hold_back(&mut self, asked: &mut Vec<Asked>) {
        self.know_buyers(asked);
        let rng = &mut self.rng;
        let held = asked.extract_if(.., |asked| matches!(asked, Asked::Click(_)) && rng.percent(10));
        let held: Vec<_> = held.collect();
        for asked in held {
            let Asked::Click(click) = asked else { continue };
            self.hands.under.push(Under { click, stage: Stage::Ready });
        }
    }

    /// Takes the answer to a click.
    pub fn answered(&mut self, click: &Click, answer: Option<&Outcome>) {
        let now = self.clock.max(self.model.time);
        match answer {
            Some(Outcome::Cart(CartOutcome::Done(_))) => {
                self.hands.used.insert(click.buyer.clone(), (now, self.db.requeues()));
            }
            Some(Outcome::Cart(CartOutcome::Load(number))) => {
                let used = self.hands.used.get(&click.buyer);
                let used = used.filter(|(at, requeues)| now - at < GENERATION && *requeues == self.db.requeues());
                assert!(used.is_none(), "P6: a cart in use at {used:?} is to be loaded at {now}");
                let loads = self.hands.known.get(&click.no).map_or(0, |(_, loads)| *loads);
                if loads < LOADS {
                    self.hands.under.push(Under { click: click.clone(), stage: Stage::Told(*number) });
                } else {
                    self.tally.one("clicks given up: loaded over and over");
                }
            }
            _ => {}
        }
    }

    /// Does the next piece of work of the front end for one of the clicks; whether there was any.
    pub fn go_on(&mut self) -> bool {
        let count = self.hands.under.len() as u64;
        if count == 0 || self.life.is_none() {
            return false;
        }
        let at = self.rng.below(count) as usize;
        let Under { click, stage } = self.hands.under.remove(at);
        match stage {
            Stage::Told(number) => {
                let waiting = self.waiting_clicks(&click.buyer);
                self.hands.under.push(Under { click, stage: Stage::Waiting(number, waiting) });
            }
            Stage::Waiting(number, waiting) => self.load(click, number, &waiting),
            Stage::Ready => self.submit(vec![Asked::Click(click)]),
        }
        true
    }

    /// Does what there is to do for all clicks; now and then the drain has its turn in between.
    pub fn finish_clicks(&mut self) {
        let most = 8 * (self.hands.under.len() + 1);
        for _ in 0..most {
            if !self.go_on() {
                return;
            }
            if self.rng.percent(15) {
                self.drain(1);
            }
        }
    }

    fn waiting_clicks(&self, buyer: &str) -> Waiting {
        let accepted = self.model.carts.get(buyer).map_or(0, |cart| cart.clicks.len());
        let Some(life) = &self.life else { return Waiting { clicks: Vec::new(), retired: 0, accepted } };
        let (user, hash) = who(self, buyer);
        let retired = life.published.pending.retired().0;
        let may_have = life.published.cart_owners.may_have(hash);
        let clicks = if may_have { life.published.pending.of(&user, hash).carts } else { Vec::new() };
        Waiting { clicks, retired, accepted }
    }

    fn load(&mut self, click: Click, number: u64, waiting: &Waiting) {
        let (user, _) = who(self, &click.buyer);
        let Some(Ok(mut cart)) = now_or_never(self.db.cart(&user)) else {
            return self.tally.one("clicks given up: the database is away");
        };
        cart.overlay(&waiting.clicks);
        let accepted = self.model.carts.get(&click.buyer).map_or(0, |cart| cart.clicks.len());
        if accepted == waiting.accepted {
            self.check_shown(&click.buyer, waiting.retired, &cart);
        } else {
            self.tally.one("carts loaded while they changed");
        }
        self.tally.one("carts loaded");
        let lines = cart.lines.iter().map(|(sku, quantity)| Line { sku: self.key.sku(sku), quantity: *quantity });
        let base = CartBase::Loaded { number, lines: lines.collect() };
        let loads = self.hands.known.get(&click.no).map_or(0, |(_, loads)| *loads) + 1;
        self.hands.known.insert(click.no, (base, loads));
        self.hands.under.push(Under { click, stage: Stage::Ready });
    }

    /// A cart that was read is what was acknowledged: `retired` is what had left the buffer when it was looked through.
    fn check_shown(&mut self, buyer: &str, retired: u64, cart: &StoredCart) {
        // The database may have gone on since the last look.
        self.check_database();
        assert_eq!(plain(cart), self.model.shown(buyer, retired), "P1: the cart of {buyer} as it is read");
    }

    /// A buyer reads a cart: what waits first, then what is in the database. In between the drain may go on.
    pub fn read_cart(&mut self, buyer: &str, polls: u64) {
        let (_, hash) = who(self, buyer);
        let Some(life) = &self.life else { return };
        if !life.published.cart_owners.may_have(hash) {
            let retired = life.published.pending.retired().0;
            return self.check_shown(buyer, retired, &StoredCart::default());
        }
        let waiting = self.waiting_clicks(buyer);
        let before = self.hands.life;
        if polls > 0 {
            self.drain(polls);
        }
        if self.hands.life != before {
            return;
        }
        let mut cart = self.db.peek_cart(&convert::user_id(buyer));
        let waits = !waiting.clicks.is_empty();
        self.tally.add("carts read while clicks wait", u64::from(waits));
        let lands = waits && waiting.retired < self.db.cursor();
        self.tally.add("carts read while a batch lands", u64::from(lands));
        cart.overlay(&waiting.clicks);
        self.check_shown(buyer, waiting.retired, &cart);
    }

    /// One of the buyers reads the cart, in turn.
    pub fn read_in_turn(&mut self) {
        let turn = self.tally.get("carts read") as usize;
        let count = self.model.carts.len();
        if let Some(buyer) = self.model.carts.keys().nth(turn % count.max(1)).cloned() {
            self.tally.one("carts read");
            self.read_cart(&buyer, 0);
        }
    }

    /// Every buyer's cart, as it is read and as the database has it.
    pub fn check_carts(&mut self) {
        for buyer in self.model.carts.keys().cloned().collect::<Vec<_>>() {
            self.read_cart(&buyer, 0);
        }
    }

    /// What the database has of the carts is what it was sent, once each.
    pub fn check_stored(&self) {
        self.model.carts.keys().for_each(|buyer| self.check_stored_of(buyer));
    }

    /// The same of one buyer's.
    pub fn check_stored_of(&self, buyer: &str) {
        let due = self.model.stored.get(buyer).cloned().unwrap_or_default();
        let there = plain(&self.db.peek_cart(&convert::user_id(buyer)));
        assert_eq!(there, due, "P1: the cart of {buyer} in the database");
    }

    /// Enters into the filter who has a cart, once the database has what the journal held when the process began.
    pub fn enter_owners(&mut self) {
        let Some(life) = &self.life else { return };
        let published = life.published.clone();
        if self.hands.complete || published.pending.retired() < published.recovered {
            return;
        }
        let mut after = None;
        loop {
            let Some(Ok((page, _))) = now_or_never(self.db.cart_owners(after.as_ref(), 2)) else { return };
            let Some(last) = page.last() else { break };
            after = Some(*last);
            page.iter().for_each(|user| published.cart_owners.insert(self.key.user(user)));
        }
        published.cart_owners.complete();
        self.hands.complete = true;
    }
}

/// A cart in the model's words.
fn plain(cart: &StoredCart) -> Stored {
    let line = |(sku, quantity): &(Sku, u32)| (sku.to_string(), u64::from(*quantity));
    Stored { version: cart.version.0, lines: cart.lines.iter().map(line).collect() }
}

/// Whether the answer, that the cart is to be loaded, can stand beside what the model says of a click.
pub fn may_load(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Clicked | Verdict::CartFull)
}
