//! Check-ins against a calendar kept by hand: one a buyer a local day, whatever the clocks of that place do.
//!
//! The model knows no time zone rules: it has the few instants at which the clocks of its places change, and by how much.

use std::collections::HashMap;

use forebay::queue::book::{AdminVerdict, Verdict};
use forebay::queue::{Book, MoveRefusal, Refusal, Replay};
use forebay::sale::{CampaignNo, ClaimId, Durability, Entry, Event, Fate, Seq, Timestamp};
use proptest::prelude::*;

use crate::cases;
use crate::support::{HASH, MEMORY, check_in, claim, create, end, image, key};

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

/// A place: its name, hours ahead of UTC, and when that changes and to what, in seconds since 1970 (`date -d`).
struct Place {
    zone: &'static str,
    hours: i64,
    changes: &'static [(i64, i64)],
}

const PLACES: [Place; 4] = [
    Place { zone: "Asia/Shanghai", hours: 8, changes: &[] },
    // 2026-03-29T01:00Z and 2026-10-25T01:00Z.
    Place { zone: "Europe/Berlin", hours: 1, changes: &[(1_774_746_000, 2), (1_792_890_000, 1)] },
    // 2026-03-08T07:00Z and 2026-11-01T06:00Z.
    Place { zone: "America/New_York", hours: -5, changes: &[(1_772_953_200, -4), (1_793_512_800, -5)] },
    Place { zone: "Pacific/Kiritimati", hours: 14, changes: &[] },
];

impl Place {
    /// Days since 1970-01-01 by the wall calendar of this place.
    fn day(&self, at: i64) -> i64 {
        let change = self.changes.iter().rfind(|(from, _)| from * 1_000_000 <= at);
        (at + change.map_or(self.hours, |(_, hours)| *hours) * HOUR).div_euclid(DAY)
    }

    /// The first instant after `at` that is in another day, to the microsecond.
    fn midnight(&self, at: i64) -> i64 {
        let (mut low, mut high) = (at, at + 30 * HOUR);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if self.day(middle) == self.day(at) { low = middle } else { high = middle }
        }
        high
    }
}

/// Where a run begins: 2026-03-06, 2026-10-23 and 2026-11-20, all at 12:34 UTC.
const STARTS: [i64; 3] = [1_772_800_440, 1_792_758_840, 1_795_178_040];

#[derive(Debug, Clone)]
enum Op {
    /// A buyer, with a key or not.
    CheckIn(usize, u32, Option<u32>),
    /// So many microseconds go by.
    Later(i64),
    /// The clock is at a place's midnight, or a microsecond before or after.
    Midnight(usize, i64),
    /// Somebody wants to cancel, or settle, the latest check-in.
    End(usize, Fate),
    Reload,
}

fn op() -> impl Strategy<Value = Op> {
    let place = || 0..PLACES.len();
    prop_oneof![
        40 => (place(), 0u32..6, prop::option::weighted(0.4, 0u32..3)).prop_map(|(p, b, k)| Op::CheckIn(p, b, k)),
        6 => (0..30 * HOUR).prop_map(Op::Later),
        6 => (place(), -1i64..=1).prop_map(|(p, by)| Op::Midnight(p, by)),
        1 => (place(), prop::sample::select(vec![Fate::Settled, Fate::Cancelled])).prop_map(|(p, f)| Op::End(p, f)),
        1 => Just(Op::Reload),
    ]
}

/// One place's check-ins.
#[derive(Default)]
struct Sheet {
    /// By buyer and day.
    first: HashMap<(u32, i64), ClaimId>,
    /// The days on which anybody checked in.
    days: Vec<i64>,
    keys: HashMap<(u32, u32), (i64, Replay)>,
    latest: Option<ClaimId>,
}

impl Sheet {
    /// A key's answer is repeated while its day is the last on which anybody checked in, or the one before.
    fn replay(&self, buyer: u32, key: Option<u32>) -> Option<Replay> {
        let (day, replay) = self.keys.get(&(buyer, key?))?;
        self.days.iter().rev().take(2).any(|known| known == day).then_some(*replay)
    }
}

struct Run {
    book: Book,
    entries: Vec<Entry>,
    sheets: Vec<Sheet>,
    now: i64,
    serial: u64,
}

impl Run {
    fn new(start: i64) -> Self {
        let sheets = PLACES.iter().map(|_| Sheet::default()).collect();
        let mut run =
            Self { book: Book::new(HASH, MEMORY), entries: Vec::new(), sheets, now: start * 1_000_000, serial: 0 };
        for place in &PLACES {
            let command = create(&check_in(&place.zone.replace('/', "-"), place.zone));
            let Ok(AdminVerdict::Enter(event, _)) = run.book.decide_admin(&command) else { panic!("not created") };
            run.enter(*event);
        }
        run
    }

    fn enter(&mut self, event: Event) {
        let entry = Entry { seq: self.book.next_seq(), at: Timestamp(self.now), event };
        self.book.apply(&entry);
        self.entries.push(entry);
    }

    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match op {
            Op::CheckIn(place, buyer, key) => self.check_in(*place, *buyer, *key)?,
            Op::Later(by) => self.now += by,
            Op::Midnight(place, by) => self.now = PLACES[*place].midnight(self.now).max(self.now + 1) + by,
            Op::End(place, to) => {
                let id = self.sheets[*place].latest.unwrap_or(claim(0, 1, 1, 1).claim_id);
                let refused = self.book.decide_move(&end(*place as u32, id, *to));
                prop_assert_eq!(refused, Err(MoveRefusal::CheckIn), "a check-in is final");
            }
            Op::Reload => {
                let mut again = Book::new(HASH, MEMORY);
                again.load(&mut &image(&self.book)[..]).unwrap();
                self.book = again;
            }
        }
        Ok(())
    }

    fn check_in(&mut self, place: usize, buyer: u32, k: Option<u32>) -> Result<(), TestCaseError> {
        self.serial += 1;
        let mut command = claim(place as u32, buyer, 1, self.serial);
        command.key = k.map(|k| key(place as u32, buyer, k));
        let (day, now) = (PLACES[place].day(self.now), Timestamp(self.now));
        let sheet = &mut self.sheets[place];
        let verdict = self.book.decide(now, Durability::Disk, &command);
        if let Some(replay) = sheet.replay(buyer, k) {
            prop_assert_eq!(verdict, Verdict::Replay(replay));
            return Ok(());
        }
        if let Some(first) = sheet.first.get(&(buyer, day)) {
            prop_assert_eq!(verdict, Verdict::Refuse(Refusal::AlreadyClaimed(*first)), "day {}", day);
            return Ok(());
        }
        let Verdict::Accept(claim) = verdict else {
            prop_assert!(false, "{:?} on day {} of {}", verdict, day, PLACES[place].zone);
            return Ok(());
        };
        prop_assert_eq!((i64::from(claim.hold), claim.amount.map(|a| a.0)), (day, Some(10)));
        prop_assert_eq!(claim.seq, Seq(self.entries.len() as u64 + 1));
        sheet.first.insert((buyer, day), claim.claim_id);
        sheet.latest = Some(claim.claim_id);
        if sheet.days.last() != Some(&day) {
            sheet.days.push(day);
        }
        if let Some(k) = k {
            sheet.keys.insert((buyer, k), (day, Replay::from(&claim)));
        }
        self.enter(Event::Claimed(claim));
        let (campaign, sheet) = (&self.book.campaigns()[place], &self.sheets[place]);
        prop_assert_eq!(campaign.acknowledged, sheet.first.len() as u64);
        prop_assert_eq!(
            (campaign.units().0.0, campaign.money().0.0),
            (campaign.acknowledged, campaign.acknowledged as i64 * 10)
        );
        let today = sheet.first.keys().filter(|(_, of)| *of == day).count();
        prop_assert_eq!(campaign.winners().len(), today as u64, "yesterday's buyers have left memory");
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn a_buyer_checks_in_once_a_local_day(
        start in prop::sample::select(STARTS.to_vec()),
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut run = Run::new(start);
        for op in &ops {
            run.step(op)?;
        }
        let mut again = Book::new(HASH, MEMORY);
        run.entries.iter().for_each(|entry| again.apply(entry));
        for no in 0..PLACES.len() as u32 {
            let (one, other) = (again.campaign(CampaignNo(no)).unwrap(), run.book.campaign(CampaignNo(no)).unwrap());
            prop_assert_eq!((one.today(), one.winners().len()), (other.today(), other.winners().len()));
        }
    }
}

#[test]
fn the_day_on_which_clocks_change_is_one_day() {
    // Berlin, 2026-10-25: 25 hours, and the hour from 02:00 to 03:00 comes twice.
    let mut run = Run::new(1_792_881_000);
    let berlin = 1;
    for (hours, day) in [(0, 20_751), (24, 20_751), (1, 20_752)] {
        run.now += hours * HOUR;
        run.check_in(berlin, 1, None).unwrap();
        assert_eq!(PLACES[berlin].day(run.now), day, "the calendar kept by hand");
    }
    assert_eq!(run.book.campaigns()[berlin].acknowledged, 2);
}
