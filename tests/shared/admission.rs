//! The library of functions against the book: the same commands at the same times, and the same outcomes, entries and sums.

use std::collections::BTreeMap;

use forebay::queue::book::{AdminVerdict, Verdict, change_digest, create_digest};
use forebay::queue::carts::{CartBase, CartVerdict, Line};
use forebay::queue::redis::protocol::{self, LoadedCart};
use forebay::queue::{
    AdminAction, AdminCommand, AdminDone, AdminRefusal, Book, CartCommand, CartOutcome, ClaimCommand, HashKey,
    MoveCommand, MoveDone, Outcome, Refusal,
};
use forebay::sale::{CampaignNo, Carted, Durability, Entry, Event, Money, Seq, Sku, Timestamp, Units, UserId};
use rand::Rng;

use crate::draws::{Draws, Wish};
use crate::gate::{Gate, number};
use crate::redis::Redis;

const KEY: HashKey = HashKey([9; 16]);
const DISK: Durability = Durability::Disk;

/// The book, and the entries that it has made since the database was last told.
struct Paper {
    book: Book,
    waiting: Vec<Entry>,
    retired: Seq,
    /// What each cart is, and what the database has of it.
    carts: BTreeMap<UserId, Cart>,
    stored: BTreeMap<UserId, Cart>,
}

/// The last operation's position, and the lines.
type Cart = (Seq, BTreeMap<Sku, u32>);

fn enter_cart(carts: &mut BTreeMap<UserId, Cart>, seq: Seq, carted: &Carted) {
    let cart = carts.entry(carted.user).or_default();
    cart.0 = seq;
    match carted.quantity {
        0 => drop(cart.1.remove(&carted.sku)),
        quantity => drop(cart.1.insert(carted.sku, quantity)),
    }
}

/// What both must say.
#[derive(Debug, PartialEq)]
enum Answer {
    Claim(Outcome),
    End(Result<MoveDone, forebay::queue::MoveRefusal>),
    Admin(Result<AdminDone, AdminRefusal>),
    Cart(CartOutcome),
}

impl Paper {
    fn enter(&mut self, now: Timestamp, event: Event) -> Seq {
        let entry = Entry { seq: self.book.next_seq(), at: now, event };
        self.book.apply(&entry);
        self.waiting.push(entry);
        self.book.last_seq()
    }

    fn claim(&mut self, now: Timestamp, max: u64, command: &ClaimCommand) -> Answer {
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

    fn end(&mut self, now: Timestamp, command: &MoveCommand) -> Answer {
        Answer::End(match self.book.decide_move(command) {
            Ok(Some(moved)) => {
                self.enter(now, Event::Moved(moved));
                Ok(MoveDone::Moved)
            }
            Ok(None) => Ok(MoveDone::Repeated),
            Err(refusal) => Err(refusal),
        })
    }

    fn cart(&mut self, now: Timestamp, max: u64, command: &CartCommand) -> Answer {
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

    fn admin(&mut self, now: Timestamp, command: &AdminCommand) -> Answer {
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

struct Pair {
    paper: Paper,
    gate: Gate,
    draws: Draws,
    max: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl Pair {
    fn new(redis: &Redis, seed: u64) -> Self {
        let mut draws = Draws::new(seed, KEY);
        let max = if draws.rng.random_bool(0.2) { draws.rng.random_range(5..60) } else { 1_000_000 };
        let paper = Paper {
            book: Book::new(KEY, 1 << 34),
            waiting: Vec::new(),
            retired: Seq(0),
            carts: BTreeMap::new(),
            stored: BTreeMap::new(),
        };
        Self { paper, gate: Gate::new(redis.connect(), &format!("s{seed}")), draws, max, counts: BTreeMap::new() }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.draws.now).max(self.paper.book.time())
    }

    /// What the gate sends. None for an operator's wish that the gate refuses by itself.
    fn command(&mut self, asked: &Wish) -> Option<Vec<u8>> {
        let book = &self.paper.book;
        match asked {
            Wish::Claim(command) => {
                let zone = book.campaign(command.campaign).and_then(|c| c.spec.check_in.as_ref()).map(|c| &c.zone);
                let around = |zone: &forebay::sale::check_in::Zone| {
                    let today = zone.day(Timestamp(self.draws.now));
                    vec![zone.day(today.from.plus_micros(-1)), today, zone.day(today.until)]
                };
                Some(protocol::claim(command, DISK, &zone.map(around).unwrap_or_default()))
            }
            Wish::End(command, user) => Some(protocol::end(command, user)),
            Wish::Admin(command) => self.admin_command(command),
            Wish::Cart(command) => Some(protocol::cart(command, None)),
        }
    }

    fn admin_command(&mut self, command: &AdminCommand) -> Option<Vec<u8>> {
        match &command.action {
            AdminAction::Create(spec, seed) => {
                let total = spec.red_packet.map_or(Money(0), |packet| packet.total);
                let shares = protocol::shares(spec, seed, total, spec.stock, 0);
                let name = self.gate.lay(&shares);
                Some(protocol::create(command, spec, *seed, create_digest(spec), &name))
            }
            AdminAction::Change(id, patch) => {
                // A gate works out what comes of it from what it has seen of the campaign.
                let no = self.paper.book.number(id)?;
                let campaign = self.paper.book.campaign(no).expect("a campaign with a number");
                let changed = forebay::queue::change::changed(campaign, patch);
                let (spec, shares) = match &changed {
                    Ok((spec, free, left)) => {
                        let (undrawn, open) = campaign.undrawn();
                        let money = Money(undrawn.0 + left.0 - campaign.left.0);
                        let open = Units(open.0 + free.0 - campaign.free.0);
                        (spec.clone(), protocol::shares(spec, &campaign.seed, money, open, campaign.drawn))
                    }
                    // A closed one, or a repeated key, is for the library to say.
                    Err(_) => (campaign.spec.clone(), Vec::new()),
                };
                if matches!(self.paper.book.decide_admin(command), Err(AdminRefusal::Field(_))) {
                    return None;
                }
                let name = self.gate.lay(&shares);
                Some(protocol::change(command, (campaign, no), (patch, &spec), change_digest(patch), &name))
            }
        }
    }

    fn read(asked: &Wish, answer: &[u8]) -> Answer {
        match asked {
            Wish::Claim(_) => {
                let outcome = protocol::claim_outcome(answer).expect("an answer to a claim");
                Answer::Claim(outcome.expect("the days are around the time"))
            }
            Wish::End(..) => Answer::End(protocol::end_outcome(answer).expect("an answer to an end")),
            Wish::Cart(_) => Answer::Cart(protocol::cart_outcome(answer).expect("an answer to a cart's operation")),
            Wish::Admin(command) => {
                let outcome = protocol::admin_outcome(answer, command).expect("an answer to a wish");
                Answer::Admin(outcome.expect("nothing changed meanwhile"))
            }
        }
    }

    fn batch(&mut self) {
        let size = if self.draws.rng.random_bool(0.5) { 1 } else { self.draws.rng.random_range(1..9) };
        let (mut commands, mut asked) = (Vec::new(), Vec::new());
        // An operator's wish depends on what the gate sees: it goes alone.
        for _ in 0..size {
            let next = self.draws.ask(&self.paper.book);
            // And a cart may have to be loaded first, which is a call of its own.
            let is_admin = matches!(next, Wish::Admin(_) | Wish::Cart(_));
            if is_admin && !asked.is_empty() {
                break;
            }
            let Some(command) = self.command(&next) else {
                let Wish::Admin(command) = &next else { panic!("only a wish is refused by the gate") };
                assert!(matches!(
                    self.paper.book.decide_admin(command),
                    Err(AdminRefusal::Field(_) | AdminRefusal::Unknown(_))
                ));
                self.count("refused by the gate");
                return;
            };
            commands.push(command);
            asked.push(next);
            if is_admin {
                break;
            }
        }
        let now = self.now();
        let expected: Vec<Answer> = asked
            .iter()
            .map(|asked| match asked {
                Wish::Claim(command) => self.paper.claim(now, self.max, command),
                Wish::End(command, _) => self.paper.end(now, command),
                Wish::Admin(command) => self.paper.admin(now, command),
                Wish::Cart(command) => self.paper.cart(now, self.max, command),
            })
            .collect();
        let (mut last, mut answers) = self.gate.submit(self.draws.now, self.max, commands);
        if let (Wish::Cart(command), Ok(CartOutcome::Load(number))) = (&asked[0], protocol::cart_outcome(&answers[0])) {
            let cart = self.paper.stored.get(&command.user).cloned().unwrap_or_default();
            let loaded = LoadedCart { number, version: cart.0, lines: cart.1.into_iter().collect() };
            let other = LoadedCart { number: number + 1, ..loaded.clone() };
            for (loaded, is_other) in [(other, true), (loaded, false)] {
                (last, answers) =
                    self.gate.submit(self.draws.now, self.max, vec![protocol::cart(command, Some(&loaded))]);
                let again = protocol::cart_outcome(&answers[0]) == Ok(CartOutcome::Load(number));
                assert_eq!(again, is_other, "a cart is taken under the number that it was asked for");
            }
            self.count("carts loaded");
        }
        for ((asked, answer), expected) in asked.iter().zip(&answers).zip(&expected) {
            assert_eq!(&Self::read(asked, answer), expected, "{asked:?}");
            self.count(name(expected));
        }
        assert_eq!(last, self.paper.book.last_seq());
    }

    fn sweep(&mut self) {
        let (grace, most, after) = (1_000_000i64, self.draws.rng.random_range(1..5usize), 20_000_000i64);
        let (now, upto) = (self.now(), Timestamp(self.draws.now));
        let count = self.paper.book.campaigns().len();
        let (mut done, mut from) = (0u64, 0);
        let due = upto.plus_micros(-grace);
        let mut more = false;
        while let Some(moved) = self.paper.book.next_expiry(due, &mut from) {
            if done as usize == most {
                more = true;
                break;
            }
            self.paper.enter(now, Event::Moved(moved));
            done += 1;
        }
        let released = self.paper.book.next_release(0..count, upto, after, self.paper.retired);
        if let Some(no) = released {
            self.paper.enter(now, Event::Released(no));
        }
        let args = [
            self.gate.epoch.clone(),
            self.draws.now.to_string(),
            upto.0.to_string(),
            grace.to_string(),
            most.to_string(),
            after.to_string(),
            "0".into(),
            count.to_string(),
        ];
        let said = self.gate.call("sweep", &args.map(String::into_bytes)).unwrap_or_else(|error| panic!("{error}"));
        let said: Vec<u64> = said[1..].iter().map(|n| number(n)).collect();
        assert_eq!(said, [self.paper.book.last_seq().0, done, u64::from(more), u64::from(released.is_some())]);
        *self.counts.entry("expired").or_default() += done;
        if let Some(no) = released {
            self.count("released");
            for kind in ["h", "k", "o", "a", "b", "s", "r", "d"] {
                assert!(!self.gate.has(&format!("{kind}:{}", no.0)), "{kind} of a released campaign");
            }
        }
    }

    /// Some of what waits reaches the database.
    fn drain(&mut self) {
        let now = self.draws.now.to_string().into_bytes();
        let take = [now.clone(), b"w1".to_vec(), b"7".to_vec(), b"60000000".to_vec()];
        let taken = self.gate.call("take", &take).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(number(&taken[1]), self.paper.retired.0);
        let count = taken.len() - 2;
        assert_eq!(count, self.paper.waiting.len().min(7));
        for (at, (bytes, expected)) in taken[2..].iter().zip(&self.paper.waiting).enumerate() {
            let entry = protocol::entry(bytes, self.paper.retired.plus(at as u64 + 1), DISK);
            assert_eq!(entry.as_ref(), Ok(expected));
        }
        let upto = self.paper.retired.plus(count as u64);
        let retire =
            [now, b"w1".to_vec(), self.gate.epoch.clone().into_bytes(), upto.0.to_string().into_bytes(), b"0".to_vec()];
        assert_eq!(self.gate.call("retire", &retire), Ok(vec![b"OK".to_vec()]));
        self.paper.retired = upto;
        for entry in self.paper.waiting.drain(..count) {
            if let Event::Carted(carted) = &entry.event {
                enter_cart(&mut self.paper.stored, entry.seq, carted);
            }
        }
        // Those of which nothing waits leave at once, and only those.
        let users: Vec<UserId> = self.paper.stored.keys().copied().collect();
        let named = users.iter().map(|user| user.as_bytes().to_vec());
        let args: Vec<_> = std::iter::once(b"0".to_vec()).chain(named).collect();
        self.gate.call("settle_carts", &args).unwrap_or_else(|error| panic!("{error}"));
        for user in users {
            let is_whole = self.paper.carts.get(&user) == self.paper.stored.get(&user);
            assert_eq!(self.gate.has(&format!("t:{user}")), !is_whole, "{user}'s cart");
        }
    }

    fn check(&mut self) {
        let first = self.paper.retired.next();
        assert_eq!(self.gate.waiting(first), self.paper.waiting);
        for no in 0..self.paper.book.campaigns().len() as u32 {
            let no = CampaignNo(no);
            let c = self.paper.book.campaign(no).expect("a campaign with a number");
            let free = if c.spec.has_stock() { c.free.0 } else { 0 };
            let mine = [
                free as i64,
                c.left.0,
                c.version as i64,
                c.stock_version as i64,
                c.drawn as i64,
                c.acknowledged as i64,
                i64::from(c.released),
            ];
            let names = ["free", "left", "version", "stock_version", "drawn", "acknowledged", "released"];
            assert_eq!(names.map(|name| self.gate.field(no, name)), mine, "campaign {no:?}");
            if c.released || c.spec.red_packet.is_none() {
                continue;
            }
            let (money, open) = c.undrawn();
            let shares: Vec<i64> =
                protocol::shares(&c.spec, &c.seed, money, open, c.drawn).iter().map(|m| m.0).collect();
            let returned = c.left.0 - money.0;
            assert_eq!(self.gate.shares("s", no), shares, "shares of {no:?}");
            assert_eq!(self.gate.shares("r", no).iter().sum::<i64>(), returned, "shares that came back to {no:?}");
        }
    }

    fn run(&mut self) {
        for _ in 0..120 {
            self.draws.pass();
            match self.draws.rng.random_range(0..20) {
                0..2 => self.sweep(),
                2..4 => self.drain(),
                _ => self.batch(),
            }
        }
        self.check();
    }
}

fn name(answer: &Answer) -> &'static str {
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

/// What must have happened in a thousand seeds, at least so often.
const GATES: [(&str, u64); 28] = [
    ("accepted", 10_000),
    ("already claimed", 4_000),
    ("buffer full", 200),
    ("cart changed", 5_000),
    ("cart full", 15),
    ("cart key reused", 20),
    ("cart replayed", 200),
    ("carts loaded", 1_000),
    ("change replayed", 60),
    ("changed", 1_500),
    ("created", 2_000),
    ("ended", 10_000),
    ("expired", 2_000),
    ("identical", 200),
    ("key reused", 300),
    ("moved", 3_000),
    ("moved before", 60),
    ("not moved", 10_000),
    ("not open", 1_000),
    ("over the limit", 10_000),
    ("paused", 800),
    ("refused by the gate", 300),
    ("released", 800),
    ("replayed", 1_000),
    ("seeds", 1_000),
    ("sold out", 1_500),
    ("unknown campaign", 200),
    ("wish refused", 1_000),
];

#[test]
fn functions_decide_what_the_book_decides() {
    let seeds: u64 = std::env::var("FOREBAY_SHARED_SEEDS").map_or(500, |text| text.parse().expect("a number of seeds"));
    let redis = Redis::start();
    let mut totals: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..seeds {
        let mut pair = Pair::new(&redis, seed);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.run()));
        assert!(ran.is_ok(), "seed {seed}");
        for (what, n) in pair.counts {
            *totals.entry(what).or_default() += n;
        }
        *totals.entry("seeds").or_default() += 1;
        let _: () = redis::cmd("FLUSHDB").query(&mut redis.connect()).expect("flushed");
    }
    println!("{totals:?}");
    for (what, least) in GATES {
        let seen = totals.get(what).copied().unwrap_or(0);
        assert!(seen * 1_000 >= least * seeds, "{what}: {seen} in {seeds} seeds");
    }
}
