//! What Redis is held against: the book, the ledger, and what the database has.

use std::collections::BTreeMap;

use forebay::queue::book::{AdminVerdict, Verdict};
use forebay::queue::carts::{CartBase, CartVerdict, Line};
use forebay::queue::ledger::{Ledger, Sums};
use forebay::queue::pending::StockNow;
use forebay::queue::{
    AdminCommand, AdminDone, AdminRefusal, Balance, Book, CartCommand, CartOutcome, ClaimCommand, HashKey, MoveCommand,
    MoveDone, MoveRefusal, Outcome, Refusal, codec,
};
use forebay::sale::{CampaignNo, Carted, ClaimId, Durability, Entry, Event, Fate, Seq, Sku, Timestamp, UserId};

pub const KEY: HashKey = HashKey([9; 16]);
pub const DISK: Durability = Durability::Disk;

/// The book, and the entries that it has made since the database was last told.
pub struct Paper {
    pub book: Book,
    pub waiting: Vec<Entry>,
    pub retired: Seq,
    /// What each cart is, and what the database has of it.
    pub carts: BTreeMap<UserId, Cart>,
    pub stored: BTreeMap<UserId, Cart>,
    /// Where units and money are, and what the database says of it.
    ledger: Ledger,
    pub database: BTreeMap<CampaignNo, Balance>,
    /// Claims that are dead letters.
    dead: Vec<ClaimId>,
}

/// The last operation's position, and the lines.
pub type Cart = (Seq, BTreeMap<Sku, u32>);

fn enter_cart(carts: &mut BTreeMap<UserId, Cart>, seq: Seq, carted: &Carted) {
    let cart = carts.entry(carted.user).or_default();
    cart.0 = seq;
    match carted.quantity {
        0 => drop(cart.1.remove(&carted.sku)),
        quantity => drop(cart.1.insert(carted.sku, quantity)),
    }
}

/// What an entry makes of the database's sums.
fn store(database: &mut BTreeMap<CampaignNo, Balance>, event: &Event, is_dead: bool) {
    match event {
        Event::Claimed(claim) => {
            let sums = database.entry(claim.campaign).or_default();
            let money = claim.amount.map_or(0, |amount| amount.0);
            if is_dead {
                (sums.dead, sums.money_dead) = (sums.dead + claim.quantity.0, sums.money_dead + money);
            } else {
                (sums.persisted, sums.money_persisted) =
                    (sums.persisted + claim.quantity.0, sums.money_persisted + money);
            }
        }
        Event::Moved(moved) if is_dead => {
            // A letter of a claim that was given back holds nothing any more.
            let sums = database.entry(moved.campaign).or_default();
            if moved.to.returns_units() {
                sums.dead -= moved.quantity.0;
                sums.money_dead -= moved.amount.map_or(0, |amount| amount.0);
            }
        }
        Event::Moved(moved) => {
            let sums = database.entry(moved.campaign).or_default();
            let (units, money) = (moved.quantity.0, moved.amount.map_or(0, |amount| amount.0));
            (sums.persisted, sums.money_persisted) = (sums.persisted - units, sums.money_persisted - money);
            if moved.to == Fate::Settled {
                (sums.settled, sums.money_settled) = (sums.settled + units, sums.money_settled + money);
            } else {
                (sums.returned, sums.money_returned) = (sums.returned + units, sums.money_returned + money);
            }
        }
        _ => {}
    }
}

/// What both must say.
#[derive(Debug, PartialEq)]
pub enum Answer {
    Claim(Outcome),
    End(Result<MoveDone, MoveRefusal>),
    Admin(Result<AdminDone, AdminRefusal>),
    Cart(CartOutcome),
}

impl Paper {
    pub fn new() -> Self {
        Self {
            book: Book::new(KEY, 1 << 34),
            waiting: Vec::new(),
            retired: Seq(0),
            carts: BTreeMap::new(),
            stored: BTreeMap::new(),
            ledger: Ledger::default(),
            database: BTreeMap::new(),
            dead: Vec::new(),
        }
    }

    /// The database takes the first `count` that wait; claims for which `kill` says so become dead letters. Gives those entries.
    pub fn drain(&mut self, count: usize, mut kill: impl FnMut() -> bool) -> Vec<Entry> {
        let gone: Vec<Entry> = self.waiting.drain(..count).collect();
        self.retired = self.retired.plus(count as u64);
        let mut sums = Sums::default();
        for entry in &gone {
            let is_dead = match &entry.event {
                Event::Claimed(claim) => {
                    let is_dead = kill();
                    self.dead.extend(is_dead.then_some(claim.claim_id));
                    is_dead
                }
                Event::Moved(moved) => self.dead.contains(&moved.claim_id),
                Event::Carted(carted) => {
                    enter_cart(&mut self.stored, entry.seq, carted);
                    false
                }
                _ => false,
            };
            sums.add(&entry.event, is_dead);
            store(&mut self.database, &entry.event, is_dead);
        }
        self.ledger.forget(&sums);
        self.database.iter().for_each(|(no, sums)| self.ledger.set_database(*no, sums));
        gone
    }

    /// A campaign's balance.
    pub fn balance(&mut self, no: CampaignNo) -> Balance {
        let campaign = self.book.campaign(no).expect("a campaign with a number");
        let ((stock, free), (total, left)) = (campaign.units(), campaign.money());
        self.ledger.set_stock(&StockNow { no, stock, free, total, left });
        self.ledger.balance(no)
    }

    pub fn enter(&mut self, now: Timestamp, event: Event) -> Seq {
        let entry = Entry { seq: self.book.next_seq(), at: now, event };
        self.book.apply(&entry);
        let mut bytes = Vec::new();
        codec::encode(&mut bytes, &entry.event);
        if let Some(sums) = codec::sums(&bytes) {
            self.ledger.enter(&sums);
        }
        self.waiting.push(entry);
        self.book.last_seq()
    }

    pub fn claim(&mut self, now: Timestamp, max: u64, command: &ClaimCommand) -> Answer {
        let outcome = match self.book.decide(now, DISK, command) {
            Verdict::Accept(_) if self.waiting.len() as u64 >= max => Outcome::Refused(Refusal::BufferFull),
            Verdict::Accept(claim) => {
                self.enter(now, Event::Claimed(claim));
                Outcome::Accepted { seq: claim.seq, at: now, amount: claim.amount }
            }
            Verdict::Replay(replay) => Outcome::Replayed(replay),
            Verdict::Refuse(refusal) => Outcome::Refused(refusal),
        };
        Answer::Claim(outcome)
    }

    pub fn end(&mut self, now: Timestamp, command: &MoveCommand) -> Answer {
        Answer::End(match self.book.decide_move(command) {
            Ok(Some(moved)) => {
                self.enter(now, Event::Moved(moved));
                Ok(MoveDone::Moved)
            }
            Ok(None) => Ok(MoveDone::Repeated),
            Err(refusal) => Err(refusal),
        })
    }

    pub fn cart(&mut self, now: Timestamp, max: u64, command: &CartCommand) -> Answer {
        let mut base = CartBase::Unknown;
        let quantity = loop {
            let number = match self.book.decide_cart(now, command, &base) {
                CartVerdict::Load(number) => number,
                CartVerdict::Accept(_) if self.waiting.len() as u64 >= max => {
                    return Answer::Cart(CartOutcome::BufferFull);
                }
                CartVerdict::Accept(quantity) => break quantity,
                CartVerdict::Replay(seq) => return Answer::Cart(CartOutcome::Replayed(seq)),
                CartVerdict::KeyReused => return Answer::Cart(CartOutcome::KeyReused),
                CartVerdict::Full => return Answer::Cart(CartOutcome::Full),
                CartVerdict::KeysFull => panic!("so many keys"),
            };
            let lines = self.carts.get(&command.user).map(|cart| cart.1.clone()).unwrap_or_default();
            let lines = lines.iter().map(|(sku, quantity)| Line { sku: KEY.sku(sku), quantity: *quantity }).collect();
            base = CartBase::Loaded { number, lines };
        };
        let CartCommand { user, sku, op, key, .. } = *command;
        let carted = Carted { user, sku, op, quantity, key, address: command.user_hash.address() };
        let seq = self.enter(now, Event::Carted(carted));
        enter_cart(&mut self.carts, seq, &carted);
        Answer::Cart(CartOutcome::Done(seq))
    }

    pub fn admin(&mut self, now: Timestamp, command: &AdminCommand) -> Answer {
        Answer::Admin(match self.book.decide_admin(command) {
            Ok(AdminVerdict::Enter(event, done)) => {
                self.enter(now, *event);
                Ok(done)
            }
            Ok(AdminVerdict::Done(done)) => Ok(done),
            Err(refusal) => Err(refusal),
        })
    }
}

/// What an answer is counted as.
pub fn name(answer: &Answer) -> &'static str {
    match answer {
        Answer::Claim(Outcome::Accepted { .. }) => "accepted",
        Answer::Claim(Outcome::Replayed(_)) => "replayed",
        Answer::Claim(Outcome::Refused(refusal)) => match refusal {
            Refusal::AlreadyClaimed(_) => "already claimed",
            Refusal::SoldOut { .. } => "sold out",
            Refusal::NotOpen { .. } => "not open",
            Refusal::Ended => "ended",
            Refusal::Paused => "paused",
            Refusal::KeyReused => "key reused",
            Refusal::OverLimit { .. } => "over the limit",
            Refusal::UnknownCampaign => "unknown campaign",
            Refusal::BufferFull => "buffer full",
            Refusal::NotDurable => "not durable",
        },
        Answer::Claim(_) => "other",
        Answer::Cart(outcome) => match outcome {
            CartOutcome::Done(_) => "cart changed",
            CartOutcome::Replayed(_) => "cart replayed",
            CartOutcome::KeyReused => "cart key reused",
            CartOutcome::Full => "cart full",
            _ => "cart refused",
        },
        Answer::End(Ok(MoveDone::Moved)) => "moved",
        Answer::End(Ok(MoveDone::Repeated)) => "moved before",
        Answer::End(Err(_)) => "not moved",
        Answer::Admin(Ok(AdminDone::Created(_))) => "created",
        Answer::Admin(Ok(AdminDone::Identical(_))) => "identical",
        Answer::Admin(Ok(AdminDone::Changed(_))) => "changed",
        Answer::Admin(Ok(AdminDone::Replayed(_))) => "change replayed",
        Answer::Admin(Err(_)) => "wish refused",
    }
}
