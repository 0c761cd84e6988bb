//! The library of functions against the book: the same commands at the same times, and the same outcomes, entries and sums.

use std::collections::BTreeMap;

use forebay::queue::book::{change_digest, create_digest};
use forebay::queue::redis::protocol::{self, Bundle, LoadedCart, Retiring, Word};
use forebay::queue::{AdminAction, AdminCommand, CartOutcome, Outcome, codec};
use forebay::sale::{CampaignNo, Event, Money, Seq, Timestamp, UserId};
use rand::Rng;

use crate::draws::{Draws, Wish};
use crate::gate::{Gate, Said, bytes};
use crate::looks::{Look, Views};
use crate::paper::{Answer, DISK, KEY, Paper, name};
use crate::redis::Redis;

pub struct Pair {
    pub paper: Paper,
    pub gate: Gate,
    pub draws: Draws,
    pub max: u64,
    pub views: Views,
    counts: BTreeMap<&'static str, u64>,
}

impl Pair {
    fn new(redis: &Redis, seed: u64) -> Self {
        let mut draws = Draws::new(seed, KEY);
        let max = if draws.rng.random_bool(0.2) { draws.rng.random_range(5..60) } else { 1_000_000 };
        let gate = Gate::new(redis.connect(), &format!("s{seed}"));
        Self { paper: Paper::new(), gate, draws, max, views: Views::default(), counts: BTreeMap::new() }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn now(&self) -> Timestamp {
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
                let no = self.paper.book.number(id)?;
                let campaign = self.paper.book.campaign(no).expect("a campaign with a number");
                let said = self.gate.submit(self.draws.now, self.max, vec![protocol::look_campaign(no, 0)]);
                let said = said.unwrap_or_else(|error| panic!("{error}"));
                let seen = protocol::looked_campaign(&said.answers[0], 0).expect("a campaign").expect("it is there");
                let changed = seen.changed(patch);
                if !campaign.released {
                    let mine = forebay::queue::change::changed(campaign, patch);
                    let (changed, mine) =
                        (changed.as_ref().map(|after| &after.spec), mine.as_ref().map(|after| &after.0));
                    assert_eq!(changed, mine, "what comes of {patch:?}");
                }
                // A closed one, or a repeated key, is for the library to say.
                let (spec, shares) = match changed {
                    Ok(after) => (after.spec, after.shares),
                    Err(_) => (seen.campaign.spec.clone(), Vec::new()),
                };
                if matches!(self.paper.book.decide_admin(command), Err(forebay::queue::AdminRefusal::Field(_))) {
                    return None;
                }
                let name = self.gate.lay(&shares);
                Some(protocol::change(command, &seen, (patch, &spec), change_digest(patch), &name))
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

    /// Has claims that can be bundled go in bundles, before the others, as a gate has them; often.
    fn bundle(&mut self, asked: &mut Vec<Wish>, commands: &mut Vec<Vec<u8>>) -> Vec<Bundle> {
        let mut bundles: Vec<Bundle> = Vec::new();
        if self.draws.rng.random_bool(0.3) {
            return bundles;
        }
        let mut places: Vec<Vec<usize>> = Vec::new();
        for (i, wish) in asked.iter().enumerate() {
            let Wish::Claim(claim) = wish else { continue };
            let campaign = self.paper.book.campaign(claim.campaign);
            // One of a campaign that nobody has made is unknown to a gate as well; here the library is asked all the same.
            if !Bundle::is_plain(claim) || campaign.is_some_and(|campaign| !Bundle::takes(&campaign.spec)) {
                continue;
            }
            let known = bundles.iter().position(|bundle| bundle.campaign() == claim.campaign);
            let at = known.unwrap_or_else(|| {
                bundles.push(Bundle::new(claim.campaign, campaign.and_then(|campaign| campaign.spec.price)));
                places.push(Vec::new());
                bundles.len() - 1
            });
            if bundles[at].push(claim) {
                places[at].push(i);
            }
        }
        let places = places.concat();
        let (mut wishes, mut bytes): (Vec<_>, Vec<_>) =
            (asked.drain(..).map(Some).collect(), commands.drain(..).map(Some).collect());
        asked.extend(places.iter().filter_map(|i| wishes[*i].take()));
        places.iter().for_each(|i| bytes[*i] = None);
        asked.extend(wishes.into_iter().flatten());
        commands.extend(bytes.into_iter().flatten());
        bundles
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
                    Err(forebay::queue::AdminRefusal::Field(_) | forebay::queue::AdminRefusal::Unknown(_))
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
        if let Some(Wish::Claim(claim)) = asked.last()
            && self.draws.rng.random_bool(0.3)
        {
            for next in self.draws.crowd(&claim.clone()) {
                commands.extend(self.command(&next));
                asked.push(next);
            }
        }
        let bundles = self.bundle(&mut asked, &mut commands);
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
        // Looks in a call see what was decided before them.
        let looks = if matches!(asked[0], Wish::Cart(_)) { Vec::new() } else { self.draw_looks() };
        commands.extend(looks.iter().map(|look| look.command()));
        let mut said = self.gate.submit_with(self.draws.now, self.max, &bundles, commands).expect("open");
        if let Wish::Cart(command) = &asked[0]
            && let Ok(CartOutcome::Load(number)) = protocol::cart_outcome(bytes(&said.answers[0]))
        {
            let cart = self.paper.stored.get(&command.user).cloned().unwrap_or_default();
            let loaded = LoadedCart { number, version: cart.0, lines: cart.1.into_iter().collect() };
            let other = LoadedCart { number: number + 1, ..loaded.clone() };
            for (loaded, is_other) in [(other, true), (loaded, false)] {
                said = self.submit(vec![protocol::cart(command, Some(&loaded))]);
                let again = protocol::cart_outcome(bytes(&said.answers[0])) == Ok(CartOutcome::Load(number));
                assert_eq!(again, is_other, "a cart is taken under the number that it was asked for");
            }
            self.count("carts loaded");
        }
        self.compare((&asked, &bundles), &said, &expected, &looks);
    }

    /// What was answered is what the book decides.
    fn compare(&mut self, (asked, bundles): (&[Wish], &[Bundle]), said: &Said, expected: &[Answer], looks: &[Look]) {
        let (in_bundles, others) = asked.split_at(said.bundled.len());
        let is_accepted = |outcome: &Outcome| matches!(outcome, Outcome::Accepted { .. });
        if !in_bundles.is_empty() {
            let whole = said.bundled.iter().all(is_accepted);
            let some = said.bundled.iter().any(is_accepted);
            self.count(if whole { "bundles accepted" } else { "bundles with refusals" });
            if bundles.iter().any(|bundle| bundle.len() > 2) && some {
                self.count(if whole { "large bundles accepted" } else { "large bundles accepted in part" });
            }
        }
        let bundled = said.bundled.iter().cloned().map(Answer::Claim);
        let answers =
            bundled.chain(others.iter().zip(&said.answers).map(|(asked, answer)| Self::read(asked, bytes(answer))));
        for ((answer, expected), asked) in answers.zip(expected).zip(asked) {
            assert_eq!(&answer, expected, "{asked:?}");
            self.count(name(expected));
        }
        self.check_made(&said.entries, said.first, said.count, said.at);
        for (look, answer) in looks.iter().zip(&said.answers[others.len()..]) {
            self.check_look(look, answer);
        }
    }

    pub fn submit(&mut self, commands: Vec<Vec<u8>>) -> Said {
        self.gate.submit(self.draws.now, self.max, commands).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What a gate would keep of a call are the book's last entries.
    fn check_made(&self, mut made: &[u8], first: Seq, count: u32, at: Timestamp) {
        assert_eq!(first.plus(count.into()), self.paper.book.next_seq());
        let context = codec::FrameContext { first_seq: first, at, durability: DISK };
        let known = &self.paper.waiting[self.paper.waiting.len() - count as usize..];
        for (index, known) in known.iter().enumerate() {
            let (entry, len) = codec::decode(made, &context, index as u64).expect("an entry");
            assert_eq!(&entry, known);
            made = &made[len..];
        }
        assert!(made.is_empty());
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
            self.gate.epoch.to_string(),
            self.draws.now.to_string(),
            upto.0.to_string(),
            grace.to_string(),
            most.to_string(),
            after.to_string(),
            "0".into(),
            count.to_string(),
        ];
        let said = self.gate.call("sweep", &args).unwrap_or_else(|error| panic!("{error}"));
        let said = protocol::swept(&said).expect("an answer");
        assert_eq!((said.expired, said.more, said.released), (done, more, released.is_some()));
        self.check_made(&said.entries, said.first, said.count, said.at);
        *self.counts.entry("expired").or_default() += done;
        if let Some(no) = released {
            self.count("released");
            for kind in ["h", "k", "o", "a", "b", "s", "r", "d"] {
                assert!(!self.gate.has(&format!("{kind}:{}", no.0)), "{kind} of a released campaign");
            }
        }
    }

    /// Some of what waits reaches the database, after a worker has read ahead.
    fn drain(&mut self, most: usize) {
        let (now, lease) = (self.draws.now, 60_000_000);
        let ahead = if self.draws.rng.random_bool(0.5) { self.draws.rng.random_range(0..9) } else { 0 };
        let taken = self.gate.take(now, "w1", self.paper.retired.plus(ahead), most, lease).expect("a lease");
        assert_eq!((taken.retired, taken.seq), (self.paper.retired, self.paper.book.last_seq()));
        let known = self.paper.waiting.iter().skip(ahead as usize).take(most);
        assert_eq!(taken.items.len(), known.clone().count());
        for ((at, item), known) in taken.items.iter().zip(known) {
            let context = codec::FrameContext { first_seq: known.seq, at: *at, durability: DISK };
            assert_eq!(codec::decode(item, &context, 0).as_ref().map(|read| &read.0), Ok(known));
        }
        let mut retiring = Retiring::new(self.paper.retired);
        let draws = &mut self.draws.rng;
        let count = self.paper.waiting.len().min(most);
        for entry in self.paper.drain(count, || draws.random_bool(0.1)) {
            retiring.add(&entry.event);
        }
        let database: Vec<_> = self.paper.database.iter().map(|(no, sums)| (*no, *sums)).collect();
        // Told twice, because the first answer may have been lost.
        for _ in 0..2 {
            assert_eq!(self.gate.retire((now, "w1", lease), &retiring, &database), Word::Ok);
        }
        self.settle_carts();
    }

    fn settle_carts(&mut self) {
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
        for _ in 0..126 {
            self.draws.pass();
            match self.draws.rng.random_range(0..21) {
                0..2 => self.sweep(),
                2..4 => self.drain(7),
                4 => self.poll(),
                _ => self.batch(),
            }
        }
        self.check();
        self.poll();
        self.drain(usize::MAX >> 12);
        assert!(!self.gate.has("list"), "everything is in the database");
        self.check_nothing_waits();
        for no in 0..self.paper.book.campaigns().len() as u32 {
            let balance = self.paper.balance(CampaignNo(no));
            assert_eq!((balance.accepted, balance.error(), balance.money_error()), (0, 0, 0), "{no}");
            self.check_balance(CampaignNo(no));
        }
    }
}

/// What must have happened in a thousand seeds, at least so often.
const GATES: [(&str, u64); 36] = [
    ("accepted", 10_000),
    ("already claimed", 4_000),
    ("balances", 10_000),
    ("buffer full", 200),
    ("bundles accepted", 800),
    ("bundles with refusals", 2_000),
    ("cart changed", 5_000),
    ("cart full", 15),
    ("cart key reused", 20),
    ("cart replayed", 200),
    ("carts loaded", 1_000),
    ("carts seen", 3_000),
    ("change replayed", 60),
    ("changed", 1_500),
    ("created", 2_000),
    ("ended", 10_000),
    ("expired", 2_000),
    ("large bundles accepted", 100),
    ("large bundles accepted in part", 100),
    ("found waiting", 8_000),
    ("identical", 200),
    ("key reused", 300),
    ("moved", 3_000),
    ("moved before", 60),
    ("not moved", 10_000),
    ("not open", 1_000),
    ("over the limit", 10_000),
    ("paused", 800),
    ("polls", 5_000),
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
