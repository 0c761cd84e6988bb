//! A year of daily sales, a day in a fraction of a second: what stays in memory, on disk and to be read after a crash does not
//! grow with the days, but for the definitions and sums of what was sold.
//!
//! The model checks every answer and every row on the way, as in the short runs.

use forebay::queue::book::Campaign;
use forebay::queue::in_memory::InMemory;
use forebay::queue::journal::disk::Disk;
use forebay::sale::CampaignNo;

use crate::carts::{Click, Put};
use crate::convert;
use crate::disk::End;
use crate::model::{Ask, Definition, Fate};
use crate::plan::{Asked, SECOND, id};
use crate::record::Trace;
use crate::sale::{CheckIn, PLACES};
use crate::world::World;

const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;
const DAYS: u64 = 365;
/// Claims of a day's sale, and check-ins.
const CLAIMS: u64 = 160;
const CHECK_INS: u64 = 40;
/// Clicks on carts a day, half of them with a key.
const CLICKS: u64 = 24;
/// What an early and a late stretch of days have come to at most is compared: a single day's figures depend on where in the
/// journal's cycle of segments and snapshots it ends.
const EARLY: std::ops::RangeInclusive<u64> = 21..=30;
const LATE: std::ops::RangeInclusive<u64> = DAYS - 9..=DAYS;

/// The most that the days of a stretch have come to.
#[derive(Debug, Clone, Copy, Default)]
struct Most {
    held: InMemory,
    /// Of the front end's filters, and of entries that wait at the end of a day.
    filters: u64,
    waiting: u64,
    /// On disk.
    segments: u64,
    segment_bytes: u64,
    /// Read by a recovery, behind its snapshot.
    frames: u64,
    entries: u64,
    bytes: u64,
    /// The book's image, as the last snapshot has it at most.
    image: u64,
}

impl Most {
    fn take(&mut self, other: &Self) {
        let (a, b) = (&mut self.held, &other.held);
        for (a, b) in [
            (&mut a.live, b.live),
            (&mut a.reserved, b.reserved),
            (&mut a.winners, b.winners),
            (&mut a.keys, b.keys),
            (&mut a.admin_keys, b.admin_keys),
            (&mut a.returned, b.returned),
            (&mut a.carts, b.carts),
            (&mut a.cart_lines, b.cart_lines),
            (&mut a.cart_keys, b.cart_keys),
            (&mut a.campaigns, b.campaigns),
            (&mut self.filters, other.filters),
            (&mut self.waiting, other.waiting),
            (&mut self.segments, other.segments),
            (&mut self.segment_bytes, other.segment_bytes),
            (&mut self.frames, other.frames),
            (&mut self.entries, other.entries),
            (&mut self.bytes, other.bytes),
            (&mut self.image, other.image),
        ] {
            *a = b.max(*a);
        }
    }
}

struct Year {
    world: World,
    clicks: u64,
    /// The wall clock when the first day began.
    begun: i64,
}

fn image(world: &World) -> Vec<u8> {
    let mut image = Vec::new();
    let life = world.life.as_ref().expect("a process");
    life.sequencer.book().save(&mut image).expect("memory takes everything");
    image
}

impl Year {
    fn begin() -> Self {
        let mut world = World::new(3, Trace::default());
        (world.faulty, world.max_entries, world.portion) = (false, 1_000_000, 1_024);
        (world.grace, world.release_after) = (SECOND, 2 * HOUR);
        world.batches = (200, 200);
        (world.options.segment_bytes, world.options.frame_max, world.options.snapshot_every) =
            (64 * 1024, 16 * 1024, 2);
        world.boot();
        world.janitor(60);
        let begun = world.clock;
        let check_in = Some(CheckIn { points: 10, place: &PLACES[0] });
        let (name, packet, price, ttl) = ("check-in".to_owned(), None, None, None);
        let (opens, closes) = (begun, begun + (DAYS as i64 + 2) * DAY);
        let def = Definition { name, opens, closes, limit: 1, stock: 0, price, packet, check_in, coupon: false, ttl };
        world.submit(vec![Asked::Define(def, None)]);
        Self { world, clicks: 0, begun }
    }

    fn ask(&mut self, sale: usize, user: String, key: Option<u64>) -> Ask {
        let random = self.world.plan.fresh_id();
        Ask { sale, user, units: 1, key, id: id(self.world.clock, random), receipt_key: 1 }
    }

    /// The drain and the janitor catch up.
    fn keep_house(&mut self) {
        for _ in 0..40 {
            self.world.janitor(20);
            self.world.drain(4);
            if self.world.life.as_ref().is_some_and(|life| life.published.pending.entries() == 0) {
                break;
            }
        }
        self.world.check();
    }

    /// Time goes by, and everything that it brings about.
    fn pass(&mut self, micros: i64) {
        self.world.pass(micros);
        for _ in 0..3 {
            self.world.submit(Vec::new());
        }
    }

    /// Buyers of this day fill their carts; a few had one yesterday.
    fn fill_carts(&mut self, day: u64) {
        for n in 0..CLICKS {
            self.clicks += 1;
            let buyer = format!("b{}-{}", day - u64::from(n % 5 == 0 && day > 1), n / 3);
            let put = if n % 7 == 0 { Put::Remove } else { Put::Add(1 + n % 3) };
            let key = (n % 2 == 0).then_some(self.clicks);
            let click = Click { no: self.clicks, buyer, sku: format!("s{}", n % 4), put, key };
            self.world.submit(vec![Asked::Click(click)]);
            self.world.finish_clicks();
        }
    }

    fn day(&mut self, day: u64) {
        let sale = self.world.model.sales.len();
        let (opens, closes) = (self.world.clock, self.world.clock + HOUR);
        let (packet, check_in, ttl) = (None, None, Some(900 * SECOND));
        let (name, price, stock) = (format!("day-{day}"), Some(990), CLAIMS + 40);
        let def = Definition { name, opens, closes, limit: 1, stock, price, packet, check_in, coupon: false, ttl };
        self.world.submit(vec![Asked::Define(def, Some(day))]);
        let asks: Vec<_> = (0..CLAIMS)
            .map(|n| self.ask(sale, format!("u{}", (day * 37 + n * 11) % 5_000), (n % 2 == 0).then_some(n)))
            .collect();
        for some in asks.chunks(40) {
            self.world.submit(some.iter().cloned().map(Asked::Claim).collect());
            self.pass(SECOND);
        }
        let check_ins: Vec<_> =
            (0..CHECK_INS).map(|n| self.ask(0, format!("c{n}"), (n % 2 == 0).then_some(day))).collect();
        self.world.submit(check_ins.into_iter().map(Asked::Claim).collect());
        self.keep_house();
        self.fill_carts(day);
        // Two fifths are paid, a fifth is given back, the rest nobody settles in time.
        let ends = asks.into_iter().enumerate().filter_map(|(n, ask)| match n % 5 {
            0 | 1 => Some(Asked::End(ask, Fate::Settled)),
            2 => Some(Asked::End(ask, Fate::Cancelled)),
            _ => None,
        });
        for some in ends.collect::<Vec<_>>().chunks(32) {
            self.world.submit(some.to_vec());
        }
        self.keep_house();
        self.pass(1_000 * SECOND);
        assert!(self.world.model.sales[sale].unsettled.is_empty(), "day {day}: what nobody settled expires");
        self.keep_house();
        self.pass(4 * HOUR);
        self.keep_house();
        assert!(self.world.model.sales[sale].state.released, "day {day}: a sale that is over leaves memory");
        let next = self.begun + day as i64 * DAY;
        self.pass(next - self.world.clock);
        self.keep_house();
    }

    /// What there is at the end of a day; then the process dies, and the next one has the same book.
    fn measure(&mut self) -> Most {
        let life = self.world.life.as_ref().expect("a process");
        let (held, published) = (life.sequencer.book().in_memory(), life.published.clone());
        let filters = published.views.load().all().iter().map(|view| view.filter_bytes()).sum();
        let (waiting, segment_bytes) = (published.pending.bytes(), life.janitor.bytes());
        let names = self.world.disk.list().expect("a sound disk");
        let segments = names.iter().filter(|name| name.ends_with(".seg")).count() as u64;
        let before = image(&self.world);
        self.world.die(End::Kill);
        assert!(image(&self.world) == before, "a recovery makes the same book");
        let report = self.world.seen.report;
        self.keep_house();
        Most {
            held,
            filters,
            waiting,
            segments,
            segment_bytes,
            frames: report.frames,
            entries: report.entries,
            bytes: report.bytes,
            image: before.len() as u64,
        }
    }
}

/// Of everything but the campaigns themselves a late day has no more than an early one, within a small constant.
fn compare(early: &Most, late: &Most) {
    let (a, b) = (&early.held, &late.held);
    for (what, early, late) in [
        ("campaigns that are not released", a.live, b.live),
        ("bytes promised to tables", a.reserved, b.reserved),
        ("claims", a.winners, b.winners),
        ("keys of claims", a.keys, b.keys),
        ("keys of operators", a.admin_keys, b.admin_keys),
        ("returned shares", a.returned, b.returned),
        ("carts", a.carts, b.carts),
        ("lines of carts", a.cart_lines, b.cart_lines),
        ("keys of clicks", a.cart_keys, b.cart_keys),
        ("bytes of filters", early.filters, late.filters),
        ("bytes of waiting entries", early.waiting, late.waiting),
        ("segments on disk", early.segments, late.segments),
        ("bytes of segments", early.segment_bytes, late.segment_bytes),
    ] {
        assert!(late <= early + early / 10 + 1, "{what}: {early} after a month, {late} after a year");
    }
    for (what, early, late) in [
        ("frames", early.frames, late.frames),
        ("entries", early.entries, late.entries),
        ("bytes", early.bytes, late.bytes),
    ] {
        assert!(
            early > 0 && late <= early + early / 2,
            "recovery reads {late} {what} after a year, {early} after a month"
        );
    }
}

#[test]
fn a_year_of_daily_sales_stays_as_small_as_a_month() {
    let mut year = Year::begin();
    let (mut early, mut late) = (Most::default(), Most::default());
    for day in 1..=DAYS {
        year.day(day);
        if EARLY.contains(&day) {
            early.take(&year.measure());
        } else if LATE.contains(&day) {
            late.take(&year.measure());
        }
    }
    println!("after a month {early:?}\nafter a year {late:?}");
    compare(&early, &late);
    // What a released campaign leaves: its definition and its sums.
    let more = late.held.campaigns - early.held.campaigns;
    assert_eq!(more, DAYS - EARLY.end());
    let each = (late.image - early.image) / more;
    println!("{each} bytes of snapshot and {} of memory beside its texts stay of a campaign", size_of::<Campaign>());
    assert!((1..=1_024).contains(&each) && size_of::<Campaign>() <= 1_024, "{each} bytes stay of a released campaign");
    let totals = year.world.totals();
    println!("{}", totals.table());
    for (what, least) in [
        ("releases", DAYS),
        ("expiries", DAYS * CLAIMS / 5 * 2),
        ("answered: settled", DAYS * CLAIMS / 5 * 2),
        ("answered: cancelled", DAYS * CLAIMS / 5),
        ("answered: accepted", DAYS * (CLAIMS + CHECK_INS)),
        ("check-ins on a day after", (DAYS - 1) * CHECK_INS),
        ("answered: cart changed", DAYS * CLICKS),
        ("snapshots", DAYS / 10),
        ("segments trimmed", DAYS / 10),
    ] {
        assert!(totals.get(what) >= least, "vacuous: {what}: {} of {least}", totals.get(what));
    }
    let world = &mut year.world;
    let views = world.life.as_ref().expect("a process").published.views.load().all().to_vec();
    let user = world.key.user(&convert::user_id("u37"));
    assert!(views[1..].iter().all(|view| view.filter_bytes() == 0 && !view.may_hold(user)), "filters of what is over");
    world.check_carts();
    world.check_stored();
    let balance = world.life.as_ref().map(|life| life.published.pending.balance(CampaignNo(1)));
    assert_eq!(balance.map(|b| (b.error(), b.settled, b.returned)), Some((0, CLAIMS / 5 * 2, CLAIMS / 5 * 3)));
}
