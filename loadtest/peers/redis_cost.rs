//! What a claim costs Redis, by kind: bytes while it waits for the database and once it is there, commands inside a call, and
//! processor time. It starts a private Redis that syncs what it is given, and has the functions of the library decide.
//!
//! `cargo run --example redis_cost -- [CLAIMS] [ROUNDS]`, by default 50,000 claims of each kind, in three rounds. How this
//! program is built does not matter: all that counts is in Redis' process.

#[allow(dead_code)]
#[path = "../../tests/shared/gate.rs"]
mod gate;
#[allow(dead_code)]
#[path = "../../tests/shared/redis.rs"]
mod private_redis;

use std::collections::BTreeMap;

use forebay::queue::book::create_digest;
use forebay::queue::carts::CartBase;
use forebay::queue::redis::protocol::{self, Bundle, LoadedCart, Retiring};
use forebay::queue::{AdminAction, AdminCommand, CartCommand, ClaimCommand, HashKey, MoveCommand, Outcome};
use forebay::sale::check_in::Day;
use forebay::sale::red_packet::Seed;
use forebay::sale::{
    Asked, CampaignNo, CampaignSpec, CartOp, ClaimId, Durability, Fate, Money, Seq, Sku, Timestamp, UserId,
};
use gate::Gate;
use private_redis::Redis;
use redis::cmd;

const KEY: HashKey = HashKey([9; 16]);
const CALL: usize = 64;
const SETTINGS: [&str; 8] =
    ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"];
/// 2026-11-20, when ids are made here; windows are open from 2020 to 2040, whatever Redis' clock says.
const AT: Timestamp = Timestamp(1_763_640_000_000_000);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bundled,
    Plain,
    Keyed,
    ThreeEach,
    Packet,
    Reserved,
    CheckIn,
    Cart,
    KeyedCart,
    Settled,
    Cancelled,
}

const KINDS: [(Kind, &str); 11] = [
    (Kind::Bundled, "claim, in bundles of 64"),
    (Kind::Plain, "claim by itself"),
    (Kind::Keyed, "claim with a key"),
    (Kind::ThreeEach, "claim with a key (required) where a buyer may have three"),
    (Kind::Packet, "red packet"),
    (Kind::Reserved, "claim with reservation_ttl"),
    (Kind::CheckIn, "check-in"),
    (Kind::Cart, "first line of a cart"),
    (Kind::KeyedCart, "first line of a cart, with a key"),
    (Kind::Settled, "end that pays"),
    (Kind::Cancelled, "end that gives back"),
];

/// What was measured of a kind in a round.
#[derive(Debug, Clone)]
struct Cost {
    waiting: f64,
    held: f64,
    processor: f64,
    /// Commands inside a call of 64, and of one.
    commands: [BTreeMap<String, u64>; 2],
}

struct Shop {
    gate: Gate,
    retired: Seq,
    last: Seq,
}

fn user(n: u64) -> UserId {
    UserId::parse(&format!("u{n:015}")).expect("a name")
}

fn spec(kind: Kind, stock: u64) -> CampaignSpec {
    let more = match kind {
        Kind::Packet => format!(r#""kind":"red_packet","stock":{stock},"red_packet":{{"total":{}}}"#, stock * 100),
        Kind::CheckIn => r#""kind":"check_in","check_in":{"time_zone":"Asia/Shanghai","points":10}"#.to_owned(),
        Kind::Reserved => format!(r#""kind":"flash_sale","stock":{stock},"price":990,"reservation_ttl":"15m""#),
        Kind::ThreeEach => format!(r#""kind":"flash_sale","stock":{stock},"price":990,"per_user_limit":3"#),
        _ => format!(r#""kind":"flash_sale","stock":{stock},"price":990"#),
    };
    let currency = if kind == Kind::CheckIn { "" } else { r#","currency":"CNY""# };
    let window = r#""opens_at":"2020-01-01T00:00:00Z","closes_at":"2040-01-01T00:00:00Z""#;
    let json = format!(r#"{{"id":"sale",{window}{currency},{more}}}"#);
    CampaignSpec::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

impl Shop {
    fn new(redis: &Redis) -> Self {
        Self { gate: Gate::new(redis.connect(), "0"), retired: Seq(0), last: Seq(0) }
    }

    /// As lanes call: by Redis' own clock. Gives the answers.
    fn submit(&mut self, bundles: &[Bundle], commands: Vec<Vec<u8>>) -> (Vec<Outcome>, Vec<redis::Value>) {
        let texts = [self.gate.epoch.to_string(), self.gate.lane.clone(), self.gate.session.clone(), String::new()];
        let mut args: Vec<Vec<u8>> = texts.map(String::into_bytes).into();
        args.push(b"1000000000".to_vec());
        args.extend(bundles.iter().flat_map(Bundle::words).map(<[u8]>::to_vec));
        args.extend(commands);
        let answer = self.gate.call("submit", &args).unwrap_or_else(|error| panic!("{error}"));
        let said = protocol::submitted(&answer, bundles).expect("an answer");
        self.last = Seq(said.first.0 + u64::from(said.count) - 1);
        let answers = said.answers.to_vec();
        (said.bundled, answers)
    }

    /// Each must be taken, with this letter.
    fn expect(&mut self, commands: Vec<Vec<u8>>, letter: u8) -> Vec<redis::Value> {
        let (_, answers) = self.submit(&[], commands);
        for answer in &answers {
            let answer = gate::bytes(answer);
            assert_eq!(answer[0], letter, "{}", String::from_utf8_lossy(answer));
        }
        answers
    }

    fn create(&mut self, kind: Kind, stock: u64) {
        let (spec, seed) = (spec(kind, stock), Seed([1; 16]));
        let shares = match spec.red_packet {
            Some(packet) => protocol::shares(&spec, &seed, packet.total, spec.stock, 0),
            None => Vec::new(),
        };
        let mut name = String::new();
        for some in shares.chunks(10_000) {
            if name.is_empty() {
                name = self.gate.lay(some);
                continue;
            }
            let mut push = cmd("RPUSH");
            push.arg(format!("{}{name}", self.gate.prefix));
            for Money(share) in some {
                push.arg(*share);
            }
            let _: i64 = push.query(&mut self.gate.connection).expect("shares are laid");
        }
        let wish = AdminCommand { asked: Asked::default(), action: AdminAction::Create(spec.clone(), seed) };
        self.expect(vec![protocol::create(&wish, &spec, seed, create_digest(&spec), &name)], b'C');
    }

    /// Has everything be in the database.
    fn retire(&mut self) {
        let now = 1;
        self.gate.take(now, "w", self.retired, 0, i64::from(u32::MAX)).expect("the lease");
        let texts =
            [now.to_string(), "w".to_owned(), self.gate.epoch.to_string(), self.last.to_string(), u32::MAX.to_string()];
        let mut args: Vec<Vec<u8>> = texts.map(String::into_bytes).into();
        args.push(Retiring::new(self.retired).sums(&[]));
        assert_eq!(protocol::word(&self.gate.call("retire", &args).expect("an answer")), Ok(protocol::Word::Ok));
        self.retired = self.last;
    }

    fn info(&mut self, section: &str) -> String {
        cmd("INFO").arg(section).query(&mut self.gate.connection).expect("info")
    }

    fn number(&mut self, section: &str, name: &str) -> f64 {
        let info = self.info(section);
        let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {name} in {info}"))
    }

    fn used(&mut self) -> f64 {
        self.number("memory", "used_memory")
    }

    fn processor(&mut self) -> f64 {
        self.number("cpu", "used_cpu_user_main_thread") + self.number("cpu", "used_cpu_sys_main_thread")
    }

    /// The commands of what is done, but for its own call.
    fn commands(&mut self, what: impl FnOnce(&mut Self)) -> BTreeMap<String, u64> {
        let _: () = cmd("CONFIG").arg("RESETSTAT").query(&mut self.gate.connection).expect("a reset");
        what(self);
        let info = self.info("commandstats");
        let lines = info.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
        let all = lines.map(|(name, rest)| {
            let calls = rest.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number");
            (name.to_owned(), calls)
        });
        all.filter(|(name, _)| !["fcall", "info", "config|resetstat"].contains(&name.as_str())).collect()
    }
}

fn claim_of(kind: Kind, n: u64) -> ClaimCommand {
    let user = user(n);
    let (user_hash, campaign) = (KEY.user(&user), CampaignNo(0));
    let claim_id = ClaimId::new(AT, user_hash, n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let key = matches!(kind, Kind::Keyed | Kind::ThreeEach).then(|| KEY.key(campaign, &user, "once"));
    ClaimCommand { campaign, quantity: 1, receipt_key: 1, user, user_hash, claim_id, key }
}

fn claim(kind: Kind, n: u64) -> Vec<u8> {
    // A day that holds all of the window: which it is does not matter here.
    let day = Day { no: forebay::sale::LocalDay(20_000), from: Timestamp(0), until: Timestamp(i64::MAX / 2) };
    let days = if kind == Kind::CheckIn { vec![day] } else { Vec::new() };
    protocol::claim(&claim_of(kind, n), Durability::Disk, &days)
}

fn end(kind: Kind, n: u64) -> Vec<u8> {
    let user = user(n);
    let user_hash = KEY.user(&user);
    let claim_id = ClaimId::new(AT, user_hash, n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let to = if kind == Kind::Settled { Fate::Settled } else { Fate::Cancelled };
    let command = MoveCommand { claim_id, campaign: CampaignNo(0), user, to, by: "orders".into(), reason: "".into() };
    protocol::end(&command, &user)
}

fn cart(kind: Kind, n: u64, loaded: Option<&LoadedCart>) -> Vec<u8> {
    let (user, op) = (user(n), CartOp::Add(1));
    let (user_hash, sku) = (KEY.user(&user), Sku::parse("sku-000001").expect("a sku"));
    let key = (kind == Kind::KeyedCart).then(|| KEY.cart_key(&user, "once", &sku, op));
    protocol::cart(&CartCommand { user, user_hash, sku, op, key, base: CartBase::Unknown }, loaded)
}

/// Has those from `from` to `to` decided in one call; of carts in two, the first of which asks for the cart.
fn decide(shop: &mut Shop, kind: Kind, from: u64, to: u64) {
    match kind {
        Kind::Bundled => {
            let mut bundle = Bundle::new(CampaignNo(0), Some(Money(990)));
            assert!((from..to).all(|n| bundle.push(&claim_of(kind, n))));
            let (outcomes, _) = shop.submit(&[bundle], Vec::new());
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Accepted { .. })), "{outcomes:?}");
        }
        Kind::Settled | Kind::Cancelled => drop(shop.expect((from..to).map(|n| end(kind, n)).collect(), b'm')),
        Kind::Cart | Kind::KeyedCart => {
            let asked = shop.expect((from..to).map(|n| cart(kind, n, None)).collect(), b'l');
            let second = asked.iter().zip(from..to).map(|(answer, n)| {
                let number = String::from_utf8_lossy(&gate::bytes(answer)[1..]).parse().expect("a number");
                cart(kind, n, Some(&LoadedCart { number, version: Seq(0), lines: Vec::new() }))
            });
            drop(shop.expect(second.collect(), b'A'));
        }
        _ => drop(shop.expect((from..to).map(|n| claim(kind, n)).collect(), b'A')),
    }
}

/// One round: a Redis of its own.
fn measure(kind: Kind, claims: u64) -> Cost {
    let redis = Redis::start_with(&SETTINGS);
    let mut shop = Shop::new(&redis);
    let warm = 2_048;
    shop.create(kind, claims + warm + CALL as u64 + 1);
    // Ends need claims, and everything else the form that large keys have.
    let first = if matches!(kind, Kind::Settled | Kind::Cancelled) { Kind::Plain } else { kind };
    let ready = if first == kind { warm } else { claims + warm + CALL as u64 + 1 };
    let calls = |from: u64, to: u64| (from..to).step_by(CALL).map(move |n| (n, (n + CALL as u64).min(to)));
    calls(0, ready).for_each(|(from, to)| decide(&mut shop, first, from, to));
    shop.retire();
    let begin = if first == kind { warm } else { 0 };
    let (before, processor) = (shop.used(), shop.processor());
    calls(begin, begin + claims).for_each(|(from, to)| decide(&mut shop, kind, from, to));
    let (processor, waiting) = (shop.processor() - processor, shop.used());
    shop.retire();
    let held = shop.used();
    let next = begin + claims;
    let many = shop.commands(|shop| decide(shop, kind, next, next + CALL as u64));
    let one = shop.commands(|shop| decide(shop, kind, next + CALL as u64, next + CALL as u64 + 1));
    let each = |more: f64| more / claims as f64;
    let (waiting, held, processor) = (each(waiting - before), each(held - before), each(processor) * 1e6);
    Cost { waiting, held, processor, commands: [many, one] }
}

/// The commands of a call: those once a call, then those once a claim.
fn words(cost: &Cost) -> String {
    let [many, one] = &cost.commands;
    let (mut call, mut each) = (Vec::new(), Vec::new());
    for (name, calls) in many {
        let more = calls.saturating_sub(one.get(name).copied().unwrap_or(0)) / (CALL as u64 - 1);
        let once = one.get(name).copied().unwrap_or(0).saturating_sub(more);
        let word = |n: u64| if n == 1 { name.to_uppercase() } else { format!("{n} {}", name.to_uppercase()) };
        each.extend((more > 0).then(|| word(more)));
        call.extend((once > 0).then(|| word(once)));
    }
    format!("{} | {}", each.join(", "), call.join(", "))
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse().expect("a number"));
    let (claims, rounds) = (numbers.next().unwrap_or(50_000), numbers.next().unwrap_or(3_u64));
    println!("{claims} of each kind in calls of {CALL}, {rounds} rounds: the middle (the least to the most)\n");
    println!(
        "| | bytes while it waits | bytes once it is in the database | µs of Redis | commands each | and a call |"
    );
    println!("|---|---|---|---|---|---|");
    for (kind, name) in KINDS {
        let all: Vec<Cost> = (0..rounds).map(|_| measure(kind, claims)).collect();
        let spread = |of: fn(&Cost) -> f64, digits: usize| {
            let mut values: Vec<f64> = all.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            let (middle, last) = (values[values.len() / 2], values[values.len() - 1]);
            format!("{middle:.digits$} ({:.digits$}–{last:.digits$})", values[0])
        };
        let (waiting, held) = (spread(|c| c.waiting, 0), spread(|c| c.held, 0));
        println!("| {name} | {waiting} | {held} | {} | {} |", spread(|c| c.processor, 1), words(&all[0]));
    }
}
