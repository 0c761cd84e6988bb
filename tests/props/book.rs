//! The book against a sheet of paper, over random sequences of claims, retries and operators' wishes.

use forebay::queue::book::{AdminVerdict, Verdict};
use forebay::queue::{AdminDone, AdminRefusal, Book, Refusal};
use forebay::sale::campaign::{AdminState, CampaignPatch};
use forebay::sale::{CampaignNo, Durability, Entry, Event, Money, Seq, Timestamp, Units};
use proptest::prelude::*;

use crate::book_model::{Expected, ExpectedChange, Paper, Sheet};
use crate::cases;
use crate::support::{HASH, MEMORY, NOON, change, claim, create, image, key, packet, sale, user};

/// When something happens, seen from a campaign's window as it stands.
#[derive(Debug, Clone, Copy)]
enum When {
    Opening(i64),
    Closing(i64),
    Noon,
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
    Change {
        sale: usize,
        patch: CampaignPatch,
        key: Option<u32>,
    },
    /// A second book, read from the first one's image, decides beside it from here on.
    Reload,
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        6 => Just(When::Noon),
        1 => (-1i64..=1).prop_map(When::Opening),
        1 => (-1i64..=1).prop_map(When::Closing),
    ]
}

fn around_noon() -> impl Strategy<Value = Timestamp> {
    (-70i64..70).prop_map(|seconds| NOON.plus_micros(seconds * 1_000_000))
}

fn patch() -> impl Strategy<Value = CampaignPatch> {
    let none = CampaignPatch::default;
    let state = |state| CampaignPatch { state: Some(state), ..CampaignPatch::default() };
    prop_oneof![
        4 => (-6i64..12).prop_map(move |n| CampaignPatch { add_stock: Some(n), ..none() }),
        4 => (-4i64..10, -200i64..600).prop_map(move |(n, money)| {
            CampaignPatch { add_stock: Some(n), add_total: Some(money), ..none() }
        }),
        4 => Just(state(AdminState::Open)),
        2 => Just(state(AdminState::Paused)),
        1 => Just(state(AdminState::Closed)),
        1 => around_noon().prop_map(move |t| CampaignPatch { opens_at: Some(t), ..none() }),
        1 => around_noon().prop_map(move |t| CampaignPatch { closes_at: Some(t), ..none() }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = || prop::option::weighted(0.4, 0u32..4);
    prop_oneof![
        30 => (0usize..5, 0u32..14, 0u32..5, key(), when()).prop_map(|(sale, buyer, quantity, key, when)| {
            Op::Claim { sale, buyer, quantity, key, when }
        }),
        // Most buyers ask for one.
        30 => (0usize..5, 0u32..14, key(), when()).prop_map(|(sale, buyer, key, when)| {
            Op::Claim { sale, buyer, quantity: 1, key, when }
        }),
        6 => (0usize..5, patch(), key()).prop_map(|(sale, patch, key)| Op::Change { sale, patch, key }),
        1 => Just(Op::Reload),
    ]
}

struct Run {
    book: Book,
    shadow: Option<Book>,
    sheets: Vec<Sheet>,
    entries: Vec<Entry>,
    serial: u64,
}

impl Run {
    fn new() -> Self {
        let specs = [
            sale("one", 9, 1),
            sale("three", 14, 3),
            packet("bounded", 8, 1, (400, 10, Some(120))),
            packet("free", 6, 2, (100, 1, None)),
            sale("never-asked-for", 1, 1),
        ];
        let sheets = specs.iter().map(Sheet::new).collect();
        let mut run = Self { book: Book::new(HASH, MEMORY), shadow: None, sheets, entries: Vec::new(), serial: 0 };
        for spec in &specs {
            let Ok(AdminVerdict::Enter(event, AdminDone::Created(_))) = run.book.decide_admin(&create(spec)) else {
                panic!("a new campaign is created")
            };
            run.enter(NOON, event);
        }
        run
    }

    fn enter(&mut self, at: Timestamp, event: Event) {
        let entry = Entry { seq: self.book.next_seq(), at, event };
        self.book.apply(&entry);
        if let Some(shadow) = &mut self.shadow {
            shadow.apply(&entry);
        }
        self.entries.push(entry);
    }

    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match op {
            Op::Claim { sale, buyer, quantity, key, when } => self.claim(*sale, *buyer, *quantity, *key, *when)?,
            Op::Change { sale, patch, key } => self.change(*sale, patch, *key)?,
            Op::Reload => {
                let mut book = Book::new(HASH, MEMORY);
                book.load(&mut &image(&self.book)[..]).unwrap();
                self.shadow = Some(book);
            }
        }
        self.check()
    }

    fn claim(&mut self, no: usize, buyer: u32, quantity: u32, k: Option<u32>, when: When) -> Result<(), TestCaseError> {
        let sheet = &self.sheets[no];
        let now = match when {
            When::Opening(by) => Timestamp(sheet.opens + by),
            When::Closing(by) => Timestamp(sheet.closes + by),
            When::Noon => NOON,
        };
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
                self.sheets[no].accept(Paper { buyer, quantity, hold, amount: given, id, seq, at: now }, k);
                self.enter(now, Event::Claimed(claim));
            }
            (expected, verdict) => prop_assert!(false, "{:?}, not {:?}", verdict, expected),
        }
        Ok(())
    }

    fn change(&mut self, no: usize, patch: &CampaignPatch, key: Option<u32>) -> Result<(), TestCaseError> {
        let command = change(&self.sheets[no].name, *patch, key);
        let verdict = self.book.decide_admin(&command);
        if let Some(shadow) = &self.shadow {
            prop_assert_eq!(&shadow.decide_admin(&command), &verdict);
        }
        let campaign = CampaignNo(no as u32);
        let seen = match verdict {
            Ok(AdminVerdict::Enter(event, done)) => {
                prop_assert_eq!(done, AdminDone::Changed(campaign));
                self.enter(NOON, event);
                ExpectedChange::Enter
            }
            Ok(AdminVerdict::Done(AdminDone::Changed(_))) => ExpectedChange::Nothing,
            Ok(AdminVerdict::Done(AdminDone::Replayed(_))) => ExpectedChange::Replayed,
            Err(AdminRefusal::KeyReused) => ExpectedChange::KeyReused,
            Err(AdminRefusal::WrongState { .. }) => ExpectedChange::Closed,
            Err(AdminRefusal::Field(_)) => ExpectedChange::Field,
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(seen, self.sheets[no].change(patch, key), "{:?} of {:?}", patch, self.sheets[no]);
        Ok(())
    }

    /// The promises, at every moment.
    fn check(&self) -> Result<(), TestCaseError> {
        for (book, (no, sheet)) in std::iter::once(&self.book)
            .chain(&self.shadow)
            .flat_map(|book| self.sheets.iter().enumerate().map(move |sheet| (book, sheet)))
        {
            let campaign = book.campaign(CampaignNo(no as u32)).unwrap();
            prop_assert!(sheet.free() >= 0, "oversold");
            prop_assert_eq!((campaign.free.0 as i64, campaign.left.0), (sheet.free(), sheet.left()));
            prop_assert_eq!((campaign.spec.stock.0 as i64, campaign.wish), (sheet.stock, sheet.wish));
            prop_assert_eq!((campaign.version, campaign.stock_version), (sheet.version, sheet.stock_version));
            prop_assert_eq!(campaign.winners().len(), sheet.claims.len() as u64);
            for paper in &sheet.claims {
                let (held, amount) = campaign.winners().find(paper.id).expect("a claim that was accepted");
                prop_assert_eq!((held.quantity, held.hold), (paper.quantity, paper.hold));
                prop_assert_eq!(amount, sheet.bounds.and(sheet.amount_of(paper.id)));
                let mine = sheet.claims.iter().filter(|c| c.buyer == paper.buyer);
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

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn the_book_agrees_with_a_sheet_of_paper(ops in prop::collection::vec(op(), 1..150)) {
        let mut run = Run::new();
        for op in &ops {
            run.step(op)?;
        }
        let mut again = Book::new(HASH, MEMORY);
        run.entries.iter().for_each(|entry| again.apply(entry));
        prop_assert_eq!(image(&again), image(&run.book), "what was applied again is the same book");
        prop_assert_eq!((again.last_seq(), again.time()), (run.book.last_seq(), run.book.time()));
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
    book.apply(&Entry { seq: Seq(1), at: NOON, event });
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
    book.apply(&Entry { seq: Seq(1), at: NOON, event });
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
    book.apply(&Entry { seq: Seq(2), at: NOON, event });
    assert_eq!(book.decide_admin(&command), identical());
}

#[test]
fn what_memory_cannot_hold_is_refused_before_it_is_promised() {
    let need = |units| {
        let mut book = Book::new(HASH, u64::MAX);
        let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&create(&sale("s", units, 1))) else { panic!() };
        book.apply(&Entry { seq: Seq(1), at: NOON, event });
        book.reserved()
    };
    let memory = need(1_000);
    let mut book = Book::new(HASH, memory);
    assert!(matches!(book.decide_admin(&create(&sale("s", 1_100, 1))), Err(AdminRefusal::TooLarge(_))));
    let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&create(&sale("s", 1_000, 1))) else { panic!() };
    book.apply(&Entry { seq: Seq(1), at: NOON, event });
    assert_eq!(book.reserved(), memory);
    let restock = |n| change("s", CampaignPatch { add_stock: Some(n), ..CampaignPatch::default() }, None);
    assert!(matches!(book.decide_admin(&restock(1)), Err(AdminRefusal::TooLarge(_))));
    let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&restock(-400)) else {
        panic!("less is always possible")
    };
    book.apply(&Entry { seq: Seq(2), at: NOON, event });
    assert!(matches!(book.decide_admin(&restock(400)), Ok(AdminVerdict::Enter(..))), "back to what was there");
    assert_eq!(book.campaigns()[0].spec.stock, Units(600));
}
