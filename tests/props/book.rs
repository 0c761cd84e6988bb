//! The book against a sheet of paper, over random sequences of claims, retries and operators' wishes.

use forebay::queue::book::{AdminVerdict, Verdict};
use forebay::queue::{AdminDone, AdminRefusal, Book, MoveDone, Refusal};
use forebay::sale::campaign::{AdminState, CampaignPatch};
use forebay::sale::{CampaignNo, Durability, Entry, Event, Fate, Money, Moved, Seq, Timestamp, Units};
use proptest::prelude::*;

use crate::book_model::{Expected, ExpectedChange, Paper, Sheet};
use crate::cases;
use crate::support::{
    HASH, MEMORY, NOON, change, claim, coupon, create, end, expiring, image, key, packet, sale, user,
};

/// When something happens, seen from a campaign's window as it stands; time never runs back.
#[derive(Debug, Clone, Copy)]
enum When {
    Opening(i64),
    Closing(i64),
    Now,
}

#[derive(Debug, Clone)]
enum Op {
    Claim {
        sale: usize,
        buyer: u32,
        quantity: u32,
        key: Option<u32>,
        when: When,
    },
    /// One of a sale's claims, alive or not, is to come to an end; or one that never was.
    End {
        sale: usize,
        which: Option<prop::sample::Index>,
        to: Fate,
    },
    /// So many microseconds go by.
    Later(i64),
    /// What is due expires, with so many microseconds of grace.
    Expire(i64),
    /// Campaigns that are over for so long leave memory, when the database has this share of the entries.
    Release(i64, u64),
    Change {
        sale: usize,
        patch: Patch,
        key: Option<u32>,
    },
    /// A second book, read from the first one's image, decides beside it from here on.
    Reload,
}

/// A change; its window is seconds from now.
type Patch = (CampaignPatch, Option<(i64, i64)>);

const SECOND: i64 = 1_000_000;
const SALES: usize = 7;

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        10 => Just(When::Now),
        1 => (-1i64..=1).prop_map(When::Opening),
        1 => (-1i64..=1).prop_map(When::Closing),
    ]
}

fn patch() -> impl Strategy<Value = Patch> {
    let none = CampaignPatch::default;
    let state = |state| CampaignPatch { state: Some(state), ..CampaignPatch::default() };
    prop_oneof![
        4 => (-6i64..12).prop_map(move |n| (CampaignPatch { add_stock: Some(n), ..none() }, None)),
        4 => (-4i64..10, -200i64..600).prop_map(move |(n, money)| {
            (CampaignPatch { add_stock: Some(n), add_total: Some(money), ..none() }, None)
        }),
        4 => Just((state(AdminState::Open), None)),
        2 => Just((state(AdminState::Paused), None)),
        1 => Just((state(AdminState::Closed), None)),
        4 => (-5i64..5, -2i64..60).prop_map(move |window| (none(), Some(window))),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = || prop::option::weighted(0.4, 0u32..4);
    let fate = prop::sample::select(vec![Fate::Settled, Fate::Cancelled, Fate::Cancelled, Fate::Expired]);
    prop_oneof![
        30 => (0..SALES, 0u32..14, 0u32..5, key(), when()).prop_map(|(sale, buyer, quantity, key, when)| {
            Op::Claim { sale, buyer, quantity, key, when }
        }),
        // Most buyers ask for one.
        40 => (0..SALES, 0u32..14, key(), when()).prop_map(|(sale, buyer, key, when)| {
            Op::Claim { sale, buyer, quantity: 1, key, when }
        }),
        30 => (0..SALES, prop::option::weighted(0.97, any::<prop::sample::Index>()), fate)
            .prop_map(|(sale, which, to)| Op::End { sale, which, to }),
        8 => (0i64..4 * SECOND).prop_map(Op::Later),
        4 => (0i64..2 * SECOND).prop_map(Op::Expire),
        1 => (0i64..40 * SECOND, 0u64..=130).prop_map(|(after, percent)| Op::Release(after, percent)),
        8 => (0..SALES, patch(), key()).prop_map(|(sale, patch, key)| Op::Change { sale, patch, key }),
        1 => Just(Op::Reload),
    ]
}

struct Run {
    book: Book,
    shadow: Option<Book>,
    sheets: Vec<Sheet>,
    entries: Vec<Entry>,
    serial: u64,
    now: Timestamp,
}

impl Run {
    fn new() -> Self {
        let specs: [_; SALES] = [
            sale("one", 9, 1),
            expiring(sale("three", 14, 3), 8),
            packet("bounded", 8, 1, (400, 10, Some(120))),
            packet("free", 6, 2, (100, 1, None)),
            expiring(packet("returning", 5, 1, (90, 7, Some(40))), 5),
            expiring(coupon("coupon", 6, 2), 11),
            sale("never-asked-for", 1, 1),
        ];
        let sheets = specs.iter().map(Sheet::new).collect();
        let book = Book::new(HASH, MEMORY);
        let mut run = Self { book, shadow: None, sheets, entries: Vec::new(), serial: 0, now: NOON };
        for spec in &specs {
            let Ok(AdminVerdict::Enter(event, AdminDone::Created(no))) = run.book.decide_admin(&create(spec)) else {
                panic!("a new campaign is created")
            };
            run.sheets[no.0 as usize].last = run.enter(*event);
        }
        run
    }

    fn enter(&mut self, event: Event) -> u64 {
        let entry = Entry { seq: self.book.next_seq(), at: self.now, event };
        self.book.apply(&entry);
        if let Some(shadow) = &mut self.shadow {
            shadow.apply(&entry);
        }
        self.entries.push(entry);
        self.entries.len() as u64
    }

    fn books(&self) -> impl Iterator<Item = &Book> {
        std::iter::once(&self.book).chain(&self.shadow)
    }

    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match op {
            Op::Claim { sale, buyer, quantity, key, when } => self.claim(*sale, *buyer, *quantity, *key, *when)?,
            Op::End { sale, which, to } => self.end(*sale, *which, *to)?,
            Op::Later(by) => self.now = self.now.plus_micros(*by),
            Op::Expire(grace) => self.expire(self.now.plus_micros(-grace))?,
            Op::Release(after, percent) => self.release(*after, *percent)?,
            Op::Change { sale, patch, key } => self.change(*sale, patch, *key)?,
            Op::Reload => self.shadow = Some(reloaded(&self.book)),
        }
        self.check()
    }

    fn claim(&mut self, no: usize, buyer: u32, quantity: u32, k: Option<u32>, when: When) -> Result<(), TestCaseError> {
        let sheet = &self.sheets[no];
        let edge = match when {
            When::Opening(by) => sheet.opens + by,
            When::Closing(by) => sheet.closes + by,
            When::Now => self.now.0,
        };
        // An edge that is near: time must go on, but not so far that nothing is open any more.
        if (self.now.0..self.now.0 + 20 * SECOND).contains(&edge) {
            self.now = Timestamp(edge);
        }
        let now = self.now;
        self.serial += 1;
        let mut command = claim(no as u32, buyer, quantity, self.serial);
        command.key = k.map(|k| key(no as u32, buyer, k));
        let verdict = self.book.decide(now, Durability::Disk, &command);
        if let Some(shadow) = &self.shadow {
            prop_assert_eq!(shadow.decide(now, Durability::Disk, &command), verdict);
        }
        match (sheet.claim(now, buyer, quantity, k), verdict) {
            (Expected::Refuse(expected), Verdict::Refuse(refusal)) => prop_assert_eq!(refusal, expected),
            (Expected::Replay(first), Verdict::Replay(replay)) => {
                prop_assert_eq!((replay.claim_id, replay.quantity), (first.id, first.quantity));
                prop_assert_eq!(replay.amount.map(|a| a.0), first.amount);
                prop_assert_eq!((replay.seq.0, replay.at, replay.receipt_key), (first.seq, first.at, 1));
            }
            (Expected::Accept { hold, amount }, Verdict::Accept(claim)) => {
                prop_assert_eq!((claim.claim_id, claim.user, claim.key), (command.claim_id, user(buyer), command.key));
                prop_assert_eq!((claim.hold, claim.accepted_at), (hold, now));
                prop_assert_eq!(claim.seq, Seq(self.entries.len() as u64 + 1));
                let given = claim.amount.map(|a| a.0);
                if sheet.bounds.is_some() {
                    prop_assert!(given.is_some_and(|s| sheet.share_is_possible(s)), "{:?} of {:?}", given, sheet);
                } else {
                    prop_assert_eq!(given, amount);
                }
                let (id, seq) = (claim.claim_id, claim.seq.0);
                let paper = Paper { buyer, quantity, hold, amount: given, id, seq, at: now, fate: None };
                self.sheets[no].accept(paper, k);
                self.enter(Event::Claimed(claim));
            }
            (expected, verdict) => prop_assert!(false, "{:?}, not {:?}", verdict, expected),
        }
        Ok(())
    }

    fn end(&mut self, no: usize, which: Option<prop::sample::Index>, to: Fate) -> Result<(), TestCaseError> {
        let claims = &self.sheets[no].claims;
        let at = which.filter(|_| !claims.is_empty()).map(|which| which.index(claims.len()));
        let id = at.map_or(claim(no as u32, 1, 1, 1 << 30).claim_id, |at| claims[at].id);
        let command = end(no as u32, id, to);
        for book in self.books() {
            let seen = book.decide_move(&command);
            let done = seen.as_ref().map(|moved| if moved.is_some() { MoveDone::Moved } else { MoveDone::Repeated });
            prop_assert_eq!(done.map_err(|e| *e), self.sheets[no].end(at, to), "{:?} of {:?}", at, self.sheets[no]);
        }
        if let (Some(at), Ok(Some(moved))) = (at, self.book.decide_move(&command)) {
            prop_assert_eq!((&*moved.by, &*moved.reason), ("orders", ""));
            self.enter_end(no, at, to, moved)?;
        }
        Ok(())
    }

    fn enter_end(&mut self, no: usize, at: usize, to: Fate, moved: Moved) -> Result<(), TestCaseError> {
        let paper = &self.sheets[no].claims[at];
        prop_assert_eq!((moved.claim_id, moved.campaign.0, moved.to), (paper.id, no as u32, to));
        prop_assert_eq!(moved.quantity.0, u64::from(paper.quantity));
        prop_assert_eq!(moved.amount.map(|a| a.0), paper.amount, "its units and its amount come back, no others");
        let seq = self.enter(Event::Moved(moved));
        self.sheets[no].enter_end(at, to, seq);
        Ok(())
    }

    fn expire(&mut self, due: Timestamp) -> Result<(), TestCaseError> {
        loop {
            let next = (0..SALES).find_map(|no| self.sheets[no].expires(due.0).map(|at| (no, at)));
            let moved = self.book.next_expiry(due, &mut 0);
            for book in self.books() {
                prop_assert_eq!(
                    book.next_expiry(due, &mut 0),
                    moved.clone(),
                    "a loaded book lets the same claims expire"
                );
            }
            let Some((no, at)) = next else {
                prop_assert_eq!(moved, None);
                return Ok(());
            };
            prop_assert!(moved.is_some(), "{:?} of {} is due", self.sheets[no].claims[at], no);
            self.enter_end(no, at, Fate::Expired, moved.unwrap())?;
            self.check()?;
        }
    }

    fn release(&mut self, after: i64, percent: u64) -> Result<(), TestCaseError> {
        let retired = Seq(self.entries.len() as u64 * percent.min(100) / 100);
        let due = (0..SALES).find(|&no| self.sheets[no].may_go(self.now.0, after, retired.0));
        for book in self.books() {
            let seen = book.next_release(0..SALES + 3, self.now, after, retired);
            prop_assert_eq!(seen.map(|no| no.0 as usize), due);
        }
        if let Some(no) = due {
            let seq = self.enter(Event::Released(CampaignNo(no as u32)));
            self.sheets[no].release(seq);
        }
        Ok(())
    }

    fn change(&mut self, no: usize, (patch, window): &Patch, key: Option<u32>) -> Result<(), TestCaseError> {
        let mut patch = *patch;
        if let Some((opens, closes)) = window {
            patch.opens_at = Some(self.now.plus_micros(opens * SECOND));
            patch.closes_at = Some(self.now.plus_micros(closes * SECOND));
        }
        let command = change(&self.sheets[no].name, patch, key);
        let verdict = self.book.decide_admin(&command);
        if let Some(shadow) = &self.shadow {
            prop_assert_eq!(&shadow.decide_admin(&command), &verdict);
        }
        let campaign = CampaignNo(no as u32);
        let seen = match verdict {
            Ok(AdminVerdict::Enter(event, done)) => {
                prop_assert_eq!(done, AdminDone::Changed(campaign));
                self.sheets[no].last = self.enter(*event);
                ExpectedChange::Enter
            }
            Ok(AdminVerdict::Done(AdminDone::Changed(_))) => ExpectedChange::Nothing,
            Ok(AdminVerdict::Done(AdminDone::Replayed(_))) => ExpectedChange::Replayed,
            Err(AdminRefusal::KeyReused) => ExpectedChange::KeyReused,
            Err(AdminRefusal::WrongState { .. }) => ExpectedChange::Closed,
            Err(AdminRefusal::Field(_)) => ExpectedChange::Field,
            other => panic!("{other:?}"),
        };
        let expected = self.sheets[no].change(self.now.0, &patch, key);
        prop_assert_eq!(seen, expected, "{:?} of {:?}", patch, self.sheets[no]);
        Ok(())
    }

    /// The promises, at every moment.
    fn check(&self) -> Result<(), TestCaseError> {
        for (book, (no, sheet)) in
            self.books().flat_map(|book| self.sheets.iter().enumerate().map(move |sheet| (book, sheet)))
        {
            let campaign = book.campaign(CampaignNo(no as u32)).unwrap();
            prop_assert!(sheet.free() >= 0, "oversold");
            prop_assert_eq!((campaign.free.0 as i64, campaign.left.0), (sheet.free(), sheet.left()));
            prop_assert_eq!((campaign.spec.stock.0 as i64, campaign.wish), (sheet.stock, sheet.wish));
            prop_assert_eq!((campaign.version, campaign.stock_version), (sheet.version, sheet.stock_version));
            prop_assert_eq!(campaign.released, sheet.released);
            let held: Vec<_> = sheet.held().filter(|_| !sheet.released).collect();
            prop_assert_eq!(campaign.winners().len(), held.len() as u64);
            for paper in &held {
                let kept = campaign.winners().find(paper.id).expect("a claim that is held");
                prop_assert_eq!((kept.held.quantity, kept.held.hold), (paper.quantity, paper.hold));
                prop_assert_eq!(kept.held.settled, paper.fate == Some(Fate::Settled));
                prop_assert_eq!(kept.amount.map(|a| a.0), sheet.bounds.and(paper.amount));
                prop_assert_eq!(kept.due.map(|due| due.0), sheet.due(paper));
                let mine = held.iter().filter(|c| c.buyer == paper.buyer);
                prop_assert!(mine.clone().map(|c| u64::from(c.quantity)).sum::<u64>() <= sheet.limit);
                prop_assert_eq!(mine.filter(|c| c.hold == paper.hold).count(), 1, "a hold belongs to one claim");
            }
            if sheet.bounds.is_some() && sheet.free() == 0 {
                prop_assert_eq!(campaign.left, Money(0), "the last share takes the rest");
            }
        }
        Ok(())
    }
}

/// The same book, from its image.
fn reloaded(book: &Book) -> Book {
    let mut again = Book::new(HASH, MEMORY);
    again.load(&mut &image(book)[..]).unwrap();
    again
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn the_book_agrees_with_a_sheet_of_paper(ops in prop::collection::vec(op(), 1..220)) {
        let mut run = Run::new();
        for op in &ops {
            run.step(op)?;
        }
        let mut again = Book::new(HASH, MEMORY);
        run.entries.iter().for_each(|entry| again.apply(entry));
        prop_assert_eq!(image(&again), image(&run.book), "what was applied again is the same book");
        prop_assert_eq!((again.last_seq(), again.time()), (run.book.last_seq(), run.book.time()));
        prop_assert_eq!(again.reserved(), run.book.reserved());
        // An image of an image is the same book; only the places of its claims may differ.
        let loaded = reloaded(&run.book);
        prop_assert_eq!(image(&reloaded(&loaded)).len(), image(&loaded).len());
    }

    #[test]
    fn a_damaged_image_is_an_error_and_never_a_panic(
        ops in prop::collection::vec(op(), 20..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut run = Run::new();
        for op in &ops {
            run.step(op)?;
        }
        let bytes = image(&run.book);
        let cut = cut.index(bytes.len());
        prop_assert!(Book::new(HASH, MEMORY).load(&mut &bytes[..cut]).is_err(), "{} of {} bytes", cut, bytes.len());
    }
}

#[test]
fn a_buyer_may_hold_the_limit_of_a_thousand_one_by_one() {
    let mut book = Book::new(HASH, MEMORY);
    let spec = sale("many", 2_000, 1_000);
    let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&create(&spec)) else { panic!("not created") };
    book.apply(&Entry { seq: Seq(1), at: NOON, event: *event });
    let first = claim(0, 7, 1, 0);
    for n in 0..1_000 {
        let command = claim(0, 7, 1, n);
        let Verdict::Accept(claim) = book.decide(NOON, Durability::Disk, &command) else { panic!("refused at {n}") };
        assert_eq!(claim.hold, n as u32, "each hold is a number of its own");
        book.apply_claim(&claim, command.user_hash);
    }
    let more = book.decide(NOON, Durability::Disk, &claim(0, 7, 1, 1_000));
    assert_eq!(more, Verdict::Refuse(Refusal::AlreadyClaimed(first.claim_id)), "the oldest is named");
}

#[test]
fn a_repeated_creation_is_told_from_another_one() {
    let mut book = Book::new(HASH, MEMORY);
    let spec = sale("twice", 5, 1);
    let mut command = create(&spec);
    command.asked.key = Some(HASH.admin_key("twice", "k"));
    let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&command) else { panic!("not created") };
    book.apply(&Entry { seq: Seq(1), at: NOON, event: *event });
    let identical = || Ok(AdminVerdict::Done(AdminDone::Identical(CampaignNo(0))));
    assert_eq!(book.decide_admin(&command), identical());
    assert_eq!(book.decide_admin(&create(&spec)), identical(), "the same definition without a key");
    let other = sale("twice", 6, 1);
    assert_eq!(book.decide_admin(&create(&other)), Err(AdminRefusal::Exists(other.id)));
    let mut reused = create(&other);
    reused.asked.key = command.asked.key;
    assert_eq!(book.decide_admin(&reused), Err(AdminRefusal::KeyReused));
    // A restock under way does not make the creation's retry another one.
    let restock = change("twice", CampaignPatch { add_stock: Some(3), ..CampaignPatch::default() }, None);
    let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&restock) else { panic!("not restocked") };
    book.apply(&Entry { seq: Seq(2), at: NOON, event: *event });
    assert_eq!(book.decide_admin(&command), identical());
}

#[test]
fn what_memory_cannot_hold_is_refused_before_it_is_promised() {
    let need = |units| {
        let mut book = Book::new(HASH, u64::MAX);
        let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&create(&sale("s", units, 1))) else { panic!() };
        book.apply(&Entry { seq: Seq(1), at: NOON, event: *event });
        book.reserved()
    };
    let memory = need(1_000);
    let mut book = Book::new(HASH, memory);
    assert!(matches!(book.decide_admin(&create(&sale("s", 1_100, 1))), Err(AdminRefusal::TooLarge(_))));
    let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&create(&sale("s", 1_000, 1))) else { panic!() };
    book.apply(&Entry { seq: Seq(1), at: NOON, event: *event });
    assert_eq!(book.reserved(), memory);
    let restock = |n| change("s", CampaignPatch { add_stock: Some(n), ..CampaignPatch::default() }, None);
    assert!(matches!(book.decide_admin(&restock(1)), Err(AdminRefusal::TooLarge(_))));
    let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&restock(-400)) else {
        panic!("less is always possible")
    };
    book.apply(&Entry { seq: Seq(2), at: NOON, event: *event });
    assert!(matches!(book.decide_admin(&restock(400)), Ok(AdminVerdict::Enter(..))), "back to what was there");
    assert_eq!(book.campaigns()[0].spec.stock, Units(600));
}
