//! What happens next: drawn from the seed, with an eye on the sales so that most of it is worth doing.

use crate::carts::{Click, MOST, Put};
use crate::database;
use crate::disk;
use crate::model::{Ask, Change, Definition, Fate, Model, Packet, What, Wish};
use crate::operators::Deed;
use crate::rng::Rng;
use crate::sale::{CheckIn, PLACES};

/// A microsecond, in the units of the simulated clock.
pub const SECOND: i64 = 1_000_000;
/// When a simulation begins: 2026-11-20T12:00:00Z, or 20 seconds before a midnight: Shanghai's of the day after, Berlin's
/// before the 25 hours of 2026-10-25 and at their end.
pub const STARTS: [i64; 4] =
    [1_795_176_000 * SECOND, 1_795_190_380 * SECOND, 1_792_879_180 * SECOND, 1_792_969_180 * SECOND];

/// What somebody asks of the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Claim(Ask),
    Define(Definition, Option<u64>),
    Change(usize, Change, Option<u64>),
    /// The claim that was asked for so is to come to this end.
    End(Ask, Fate),
    /// A line of a cart is to be changed.
    Click(Click),
}

/// One step.
#[derive(Debug, Clone)]
pub enum Op {
    /// These arrive together, `now` on the clock.
    Batch(Vec<Asked>),
    /// The clock shows another time.
    Clock(i64, &'static str),
    /// Time goes by on both clocks, and the sequencer looks at them.
    Pass(i64),
    /// The wall clock is set to the right time.
    SetRight,
    /// The drain is polled so many times.
    Drain(u64),
    /// The janitor does so many pieces of work.
    Janitor(u64),
    Mark,
    LookUp,
    /// The front end does so many pieces of work for clicks that it has in hand.
    Clicks(u64),
    /// An operator does something about a dead letter.
    Letter(Deed),
    DiskFault(disk::Fault, u64, bool),
    /// The disk has room for so many bytes more; or is as large as anyone likes.
    Room(Option<u64>),
    DbFault(database::Fault),
    /// The process dies in the n-th change of the disk from now.
    CrashIn(u64),
    End(disk::End),
    /// SIGTERM and a start; with a flipped bit in between.
    Restart {
        flip: bool,
    },
}

/// The one who draws.
#[derive(Debug)]
pub struct Plan {
    pub rng: Rng,
    /// The right time when the steady clock began.
    pub begun: i64,
    users: u64,
    ids: u64,
    clicks: u64,
    asked: Vec<Asked>,
    sales_max: usize,
    stock_max: u64,
    /// The drain is seldom polled.
    lazy: bool,
}

impl Plan {
    pub fn new(seed: u64, begun: i64) -> Self {
        let mut rng = Rng::new(seed, 1);
        let (sales_max, stock_max) = (2 + rng.below(4) as usize, 10 + rng.below(250));
        let lazy = rng.percent(30);
        Self { rng, begun, users: 0, ids: 0, clicks: 0, asked: Vec::new(), sales_max, stock_max, lazy }
    }

    /// The next step, at clock time `now`.
    pub fn next(&mut self, model: &Model, now: i64) -> Op {
        let alive = model.sales.iter().filter(|s| s.wish() != Wish::Closed).count();
        if alive == 0 || model.sales.len() < 2 || (model.sales.len() < self.sales_max && self.rng.percent(3)) {
            let define = self.define(model.sales.len(), now);
            return Op::Batch(vec![self.remember(define)]);
        }
        match self.rng.below(1000) {
            0..400 => self.batch(model, now),
            400..460 => self.edge(model, now),
            460..500 => Op::Pass(self.rng.within(SECOND / 20, 4 * SECOND)),
            500..540 => self.clock(now),
            540..700 if self.lazy && self.rng.percent(80) => Op::Janitor(1 + self.rng.below(6)),
            540..700 => Op::Drain(1 + self.rng.below(5)),
            700..790 => Op::Janitor(1 + self.rng.below(6)),
            790..805 => Op::Clicks(1 + self.rng.below(4)),
            805..835 => Op::Letter(self.deed()),
            835..850 => Op::Mark,
            850..885 => Op::LookUp,
            885..905 => self.disk_fault(),
            905..911 => Op::Room(Some(self.rng.below(12_000))),
            911..917 => Op::Room(None),
            917..942 => self.db_fault(),
            942..970 => Op::CrashIn(self.rng.below(12)),
            970..978 => Op::End(disk::End::Kill),
            978..983 => Op::End(disk::End::PowerCutLosingAll),
            983..990 => Op::End(disk::End::PowerCut),
            990..996 => Op::Restart { flip: true },
            _ => Op::Restart { flip: false },
        }
    }

    fn disk_fault(&mut self) -> Op {
        let fault = *self.rng.pick(&disk::Fault::ALL);
        let skip = if fault == disk::Fault::ReadError { self.rng.below(12) } else { self.rng.below(3) };
        Op::DiskFault(fault, skip, self.rng.percent(25))
    }

    fn db_fault(&mut self) -> Op {
        use database::Fault;
        let faults = [
            Fault::Outage(1 + self.rng.below(6)),
            Fault::Locked,
            Fault::ReplyLostAfter,
            Fault::ReplyLostAfter,
            Fault::GoneAfter(1 + self.rng.below(4)),
            Fault::ReplyLostBefore,
            Fault::FailsBefore,
            Fault::Twice,
            Fault::CrashBefore,
            Fault::CrashAfter,
            Fault::Slow(1 + self.rng.below(6)),
        ];
        Op::DbFault(*self.rng.pick(&faults))
    }

    fn deed(&mut self) -> Deed {
        match self.rng.below(100) {
            0..50 => Deed::Requeue,
            50..65 => Deed::Drop,
            65..72 => Deed::Discard,
            72..97 => Deed::Mend,
            _ => Deed::Leave,
        }
    }

    fn clock(&mut self, now: i64) -> Op {
        match self.rng.below(20) {
            0..9 => Op::Pass(self.rng.within(1, 3 * SECOND)),
            9 => Op::Pass(self.rng.within(20 * SECOND, 200 * SECOND)),
            // A midnight, or a microsecond before or after.
            10 => Op::Pass(self.rng.pick(&PLACES).midnight(now) - now + self.rng.within(-1, 1)),
            11..14 => Op::SetRight,
            14..18 => Op::Clock(now - self.rng.within(1, 5 * SECOND), "the clock jumps back"),
            _ => Op::Clock(now + self.rng.within(60 * SECOND, 3_600 * SECOND), "the clock jumps ahead"),
        }
    }

    fn batch(&mut self, model: &Model, now: i64) -> Op {
        let n = 1 + self.rng.below(8);
        let asked = (0..n).map(|_| match self.rng.below(100) {
            0..10 => self.admin(model, now),
            10..30 => self.end(model).unwrap_or_else(|| self.claim(model, now)),
            30..42 => self.click(),
            _ => self.claim(model, now),
        });
        let mut asked: Vec<_> = asked.collect();
        // A sale whose window is over is opened anew, so that there is something to do.
        if self.rng.percent(40)
            && let Some(over) = model.sales.iter().position(|s| s.word(now.max(model.time)) == "ended")
        {
            let change = self.new_window(now.max(model.time));
            asked.insert(0, Asked::Change(over, change, None));
        }
        Op::Batch(asked)
    }

    /// The clock is set to an edge of a window, for the next claims.
    fn edge(&mut self, model: &Model, now: i64) -> Op {
        let sale = self.rng.pick(&model.sales);
        let (opens, closes) = sale.window();
        let edges = [opens - 1, opens, closes - 1, closes];
        let edge = *self.rng.pick(&edges);
        // Time never runs back behind what the journal has seen, so only an edge ahead is one.
        let near = edge >= model.time && edge - now < 40 * SECOND;
        match edge - now {
            _ if !near => self.batch(model, now),
            0.. => Op::Pass(edge - now),
            _ => Op::Clock(edge, "the clock is set to an edge"),
        }
    }

    pub fn fresh_user(&mut self) -> String {
        self.users += 1;
        if self.rng.percent(3) { format!("poison{}", self.users) } else { format!("u{}", self.users) }
    }

    pub fn fresh_id(&mut self) -> u64 {
        self.ids += 1;
        // 34 bits of an id are random; the counter makes them differ.
        self.rng.below(1 << 10) << 24 | self.ids
    }

    fn claim(&mut self, model: &Model, now: i64) -> Asked {
        if self.rng.percent(10)
            && let Some(again) = self.repeat(|a| matches!(a, Asked::Claim(_)))
        {
            return again;
        }
        let mut no = self.rng.below(model.sales.len() as u64) as usize;
        let open = |s: &crate::model::Sale| s.word(now) == "open" && s.has_some();
        if !open(&model.sales[no]) && self.rng.percent(50) {
            no = model.sales.iter().position(open).unwrap_or(no);
        }
        // A few ask for what nobody sells.
        let sale = if self.rng.percent(1) { 1_000 } else { no };
        let def = &model.sales[no].def;
        let old = self.users > 0 && self.rng.percent(35);
        let user = if old { self.old_user(model, no) } else { self.fresh_user() };
        let units = match self.rng.below(20) {
            0 => def.limit + 1,
            1..8 => 1 + self.rng.below(def.limit),
            _ => 1,
        };
        let key = (def.limit > 1 || self.rng.percent(30)).then(|| self.rng.below(4));
        let receipt_key = 1 + self.rng.below(3) as u16;
        let asked = Asked::Claim(Ask { sale, user, units, key, id: id(now, self.fresh_id()), receipt_key });
        self.remember(asked)
    }

    /// A click on a line of one of a few carts.
    fn click(&mut self) -> Asked {
        if self.rng.percent(15)
            && let Some(again) = self.repeat(|a| matches!(a, Asked::Click(_)))
        {
            return again;
        }
        self.clicks += 1;
        let buyer = format!("b{}", self.rng.below(4));
        let sku = if self.rng.percent(6) { "poison".to_owned() } else { format!("s{}", self.rng.below(3)) };
        let put = match self.rng.below(20) {
            // What a line that nobody stores is set to does not depend on whether its cart was loaded.
            _ if sku == "poison" && self.rng.percent(80) => Put::Set(self.rng.below(5)),
            _ if sku == "poison" => Put::Remove,
            0..13 => Put::Add(1 + self.rng.below(3)),
            13 => Put::Add(MOST - 1 - self.rng.below(3)),
            14 => Put::Set(MOST),
            15..18 => Put::Set(self.rng.below(4)),
            _ => Put::Remove,
        };
        let key = self.rng.percent(40).then(|| self.rng.below(40));
        self.remember(Asked::Click(Click { no: self.clicks, buyer, sku, put, key }))
    }

    /// The end of a claim: mostly of one that is held, now and then of another, or of none.
    fn end(&mut self, model: &Model) -> Option<Asked> {
        if self.rng.percent(10)
            && let Some(again) = self.repeat(|a| matches!(a, Asked::End(..)))
        {
            return Some(again);
        }
        let mut found = None;
        for _ in 0..8 {
            let What::Held(held) = &self.rng.pick(&model.facts).what else { continue };
            found = Some(&held.ask);
            if (held.end.is_none() && model.sales[held.ask.sale].def.check_in.is_none()) || self.rng.percent(10) {
                break;
            }
        }
        let mut ask = found?.clone();
        if self.rng.percent(3) {
            ask.id[15] ^= 1;
        }
        let to = match self.rng.below(20) {
            0..8 => Fate::Settled,
            8..19 => Fate::Cancelled,
            _ => Fate::Expired,
        };
        Some(self.remember(Asked::End(ask, to)))
    }

    fn old_user(&mut self, model: &Model, sale: usize) -> String {
        let all = model.sales[sale].users().count() as u64;
        if all == 0 || self.rng.percent(20) {
            return format!("u{}", 1 + self.rng.below(self.users));
        }
        let nth = self.rng.below(all) as usize;
        model.sales[sale].users().nth(nth).cloned().unwrap_or_default()
    }

    /// Something that was asked before, as its caller sends it again: the same key, a new claim id, maybe other units.
    fn repeat(&mut self, fits: impl Fn(&Asked) -> bool) -> Option<Asked> {
        let from = self.asked.len().saturating_sub(60);
        let old: Vec<&Asked> = self.asked[from..].iter().filter(|a| fits(a)).collect();
        if old.is_empty() {
            return None;
        }
        let mut again = (*self.rng.pick(&old)).clone();
        match &mut again {
            Asked::Claim(ask) => {
                let millis = i64::from_be_bytes(ask.id[..8].try_into().unwrap_or_default());
                ask.id = id(millis, self.fresh_id());
                ask.receipt_key = 1 + self.rng.below(3) as u16;
                if self.rng.percent(20) {
                    ask.units += 1;
                }
            }
            Asked::Click(click) => {
                self.clicks += 1;
                click.no = self.clicks;
            }
            Asked::End(_, to) if self.rng.percent(30) => *to = Fate::Settled,
            Asked::Change(_, change, _) if self.rng.percent(15) => {
                change.add_stock = change.add_stock.map(|n| n + 1);
            }
            _ => {}
        }
        Some(again)
    }

    fn remember(&mut self, asked: Asked) -> Asked {
        self.asked.push(asked.clone());
        asked
    }

    fn define(&mut self, no: usize, now: i64) -> Asked {
        let stock = 1 + self.rng.below(self.stock_max);
        let opens = now + self.rng.within(-5 * SECOND, 3 * SECOND);
        let kind = self.rng.below(100);
        let packet = (kind < 40).then(|| self.packet(stock));
        let check_in = (40..55).contains(&kind).then(|| CheckIn { points: 10, place: self.rng.pick(&PLACES) });
        let coupon = (55..65).contains(&kind);
        let limit = if check_in.is_some() || self.rng.percent(50) { 1 } else { 2 + self.rng.below(4) };
        let price = (kind >= 65 && self.rng.percent(70)).then(|| self.rng.within(0, 5_000));
        let ttl = (check_in.is_none() && self.rng.percent(45)).then(|| self.rng.within(1_000, 20_000) * 1_000);
        // A check-in sees some midnights.
        let closes =
            opens + self.rng.within(5 * SECOND, if check_in.is_some() { 300_000 * SECOND } else { 90 * SECOND });
        let key = self.rng.percent(60).then(|| self.rng.below(3));
        let (name, stock) = (format!("sale-{no}"), if check_in.is_some() { 0 } else { stock });
        let def = Definition { name, opens, closes, limit, stock, price, packet, check_in, coupon, ttl };
        Asked::Define(def, key)
    }

    fn packet(&mut self, stock: u64) -> Packet {
        let (min, n) = (self.rng.within(1, 20), stock as i64);
        let total = min * n + self.rng.within(0, 60 * n);
        let max = self.rng.percent(50).then(|| (total + n - 1) / n + self.rng.within(0, 30));
        Packet { total, min, max, even: self.rng.percent(30) }
    }

    fn new_window(&mut self, now: i64) -> Change {
        let opens = Some(now + self.rng.within(-5 * SECOND, 2 * SECOND));
        let closes = Some(now + self.rng.within(3 * SECOND, 60 * SECOND));
        Change { opens, closes, ..Change::default() }
    }

    fn admin(&mut self, model: &Model, now: i64) -> Asked {
        if self.rng.percent(30)
            && let Some(again) = self.repeat(|a| matches!(a, Asked::Define(..) | Asked::Change(..)))
        {
            return again;
        }
        let no = self.rng.below(model.sales.len() as u64) as usize;
        let sale = &model.sales[no];
        let mut change = Change::default();
        match self.rng.below(100) {
            0..35 => {
                let add = self.rng.within(-6, 14);
                change.add_stock = Some(add);
                if let Some(packet) = sale.def.packet {
                    let mean = sale.left() / (sale.free().max(1) as i64);
                    change.add_total = Some(add * mean.max(packet.min) + self.rng.within(-2, 8));
                }
            }
            35..50 => change.wish = Some(Wish::Paused),
            50..68 => change.wish = Some(Wish::Open),
            // The last one stays: a closed shop proves nothing.
            68 if model.sales.iter().filter(|s| s.wish() != Wish::Closed).count() > 1 => {
                change.wish = Some(Wish::Closed);
            }
            68..76 => change.closes = Some(sale.window().0),
            _ => change = self.new_window(now),
        }
        let key = self.rng.percent(60).then(|| 10 + self.rng.below(1_000));
        self.remember(Asked::Change(no, change, key))
    }
}

/// Where an id comes from: the clock, and a number that no other id has. The world adds the buyer.
pub fn id(now: i64, random: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&now.to_be_bytes());
    id[8..].copy_from_slice(&random.to_be_bytes());
    id
}
