//! Books from rows: what is held, what is free, who is known, and that nothing of it is lost in a snapshot.

use super::*;
use crate::queue::book::Verdict;
use crate::queue::command::{ClaimCommand, Refusal};
use crate::sale::{ClaimId, Durability, KeyHash, UserId};

const OLD: HashKey = HashKey([1; 16]);
const NEW: HashKey = HashKey([2; 16]);
const NOON: Timestamp = Timestamp(1_763_640_000_000_000);
const LAST: Seq = Seq(1_000_000);

fn known(json: &str) -> Known {
    let spec = CampaignSpec::parse(json.as_bytes()).expect("a definition");
    let (seed, wish) = (Seed([3; 16]), AdminState::Open);
    Known { spec, seed, wish, closed_at: None, released: false, versions: (7, 9) }
}

fn sale(stock: u64, more: &str) -> Known {
    known(&format!(
        r#"{{"id":"sale","kind":"flash_sale","opens_at":"2020-01-01T00:00:00Z","closes_at":"2099-01-01T00:00:00Z",
            "stock":{stock},"currency":"CNY","price":990{more}}}"#
    ))
}

/// A claim whose id was made with `key`.
fn claim(key: HashKey, seq: u64, user: &str) -> Claim {
    let user = UserId::parse(user).expect("a user");
    let at = NOON.plus_micros(seq as i64);
    Claim {
        claim_id: ClaimId::new(at, key.user(&user), seq),
        campaign: CampaignNo(0),
        user,
        quantity: Units(1),
        amount: Some(Money(990)),
        hold: 0,
        receipt_key: 1,
        key: Some(key.key(CampaignNo(0), &user, "k")),
        seq: Seq(seq),
        accepted_at: at,
        durability: Durability::Disk,
    }
}

fn ask(book: &Book, at: Timestamp, user: &str, key: Option<KeyHash>) -> Verdict {
    let user = UserId::parse(user).expect("a user");
    let user_hash = book.hash_key().user(&user);
    let claim_id = ClaimId::new(at, user_hash, 5);
    let (campaign, quantity, receipt_key) = (CampaignNo(0), 1, 1);
    book.decide(at, Durability::Disk, &ClaimCommand { campaign, quantity, receipt_key, user, user_hash, claim_id, key })
}

/// The book after a snapshot was written and read, which must change nothing.
fn through_an_image(book: &Book) -> Book {
    let mut bytes = Vec::new();
    book.save(&mut bytes).expect("written");
    let mut loaded = Book::new(book.hash_key(), u64::MAX);
    loaded.load(&mut &bytes[..]).expect("read");
    let mut again = Vec::new();
    loaded.save(&mut again).expect("written");
    assert_eq!(bytes, again);
    assert_eq!(loaded.reserved(), book.reserved());
    loaded
}

#[test]
fn holders_are_known_whichever_key_their_claims_were_made_with() {
    for key in [OLD, NEW] {
        let mut rebuilder = Rebuilder::new(NEW, key == NEW);
        rebuilder.campaign(sale(1_000, ""));
        let fates = [None, Some(Fate::Settled), Some(Fate::Cancelled), Some(Fate::Expired)];
        for seq in 1..=400 {
            let fate = fates[seq as usize % 4];
            rebuilder.claim(&claim(key, seq, &format!("u{seq}")), fate).expect("a sound row");
        }
        let (book, all) = rebuilder.finish(LAST, NOON).expect("a book");
        assert_eq!(
            (all[0].claims, all[0].units, all[0].money, all[0].returned),
            (200, Units(200), Money(198_000), 200)
        );
        for book in [&book, &through_an_image(&book)] {
            assert_eq!((book.last_seq(), book.campaigns()[0].free), (LAST, Units(800)));
            assert_eq!(book.campaigns()[0].stock_version, 9 + 200);
            for seq in 1..=400_u64 {
                let user = format!("u{seq}");
                let id = claim(key, seq, &user).claim_id;
                let verdict = ask(book, NOON, &user, None);
                match seq % 4 {
                    0 | 1 => assert_eq!(verdict, Verdict::Refuse(Refusal::AlreadyClaimed(id)), "{user}"),
                    _ => assert!(matches!(verdict, Verdict::Accept(_)), "{user}: {verdict:?}"),
                }
                let kept = book.campaigns()[0].winners().find(id);
                assert_eq!(
                    kept.map(|k| (k.held.settled, k.is_stranger())),
                    [Some((false, key == OLD)), Some((true, key == OLD)), None, None][seq as usize % 4]
                );
            }
        }
    }
}

#[test]
fn keys_are_replayed_where_the_secret_is_the_same_and_forgotten_otherwise() {
    for keeps in [true, false] {
        let mut rebuilder = Rebuilder::new(OLD, keeps);
        rebuilder.campaign(sale(10, ""));
        let (held, gone) = (claim(OLD, 1, "held"), claim(OLD, 2, "gone"));
        rebuilder.claim(&held, None).expect("a sound row");
        rebuilder.claim(&gone, Some(Fate::Cancelled)).expect("a sound row");
        let (book, _) = rebuilder.finish(LAST, NOON).expect("a book");
        let book = through_an_image(&book);
        for (claim, user) in [(held, "held"), (gone, "gone")] {
            let replayed = matches!(ask(&book, NOON, user, claim.key), Verdict::Replay(r) if r.seq == claim.seq);
            assert_eq!(replayed, keeps, "{user}");
        }
    }
}

#[test]
fn reservations_fall_due_when_they_would_have() {
    let mut rebuilder = Rebuilder::new(NEW, false);
    rebuilder.campaign(sale(10, r#","reservation_ttl":"15m""#));
    rebuilder.claim(&claim(OLD, 1, "paid"), Some(Fate::Settled)).expect("a sound row");
    rebuilder.claim(&claim(OLD, 2, "first"), None).expect("a sound row");
    rebuilder.claim(&claim(OLD, 3, "second"), None).expect("a sound row");
    let (book, _) = rebuilder.finish(LAST, NOON).expect("a book");
    let mut book = through_an_image(&book);
    let due = NOON.plus_micros(2 + 15 * 60 * 1_000_000);
    assert_eq!(book.next_expiry(due.plus_micros(-1), &mut 0), None);
    let moved = book.next_expiry(due, &mut 0).expect("the first is due");
    assert_eq!((moved.claim_id, moved.to), (claim(OLD, 2, "first").claim_id, Fate::Expired));
    let entry = crate::sale::Entry { seq: book.next_seq(), at: due, event: crate::sale::Event::Moved(moved) };
    book.apply(&entry);
    assert_eq!(book.campaigns()[0].free, Units(8));
    assert_eq!(book.campaigns()[0].winners().first_due().map(|k| k.held.order), Some(2));
    assert!(matches!(ask(&book, due, "first", None), Verdict::Accept(_)), "a stranger that is gone is forgotten");
}

#[test]
fn a_packets_rest_is_what_live_shares_leave_and_can_be_shared_out() {
    let packet = r#"{"id":"packet","kind":"red_packet","opens_at":"2020-01-01T00:00:00Z","closes_at":"2099-01-01T00:00:00Z",
        "stock":5,"currency":"CNY","red_packet":{"total":1000,"min":50,"max":400}}"#;
    let share = |seq, amount| Claim { amount: Some(Money(amount)), ..claim(OLD, seq, &format!("u{seq}")) };
    let mut rebuilder = Rebuilder::new(NEW, false);
    rebuilder.campaign(known(packet));
    rebuilder.claim(&share(1, 400), None).expect("a sound row");
    rebuilder.claim(&share(2, 100), Some(Fate::Cancelled)).expect("a sound row");
    rebuilder.claim(&share(3, 300), Some(Fate::Settled)).expect("a sound row");
    let (book, all) = rebuilder.finish(LAST, NOON).expect("a book");
    let mut book = through_an_image(&book);
    assert_eq!((book.campaigns()[0].left, book.campaigns()[0].free, all[0].money), (Money(300), Units(3), Money(700)));
    let mut given = 0;
    for user in ["a", "b", "c"] {
        let Verdict::Accept(claim) = ask(&book, NOON, user, None) else { panic!("{user} is refused") };
        given += claim.amount.expect("a share").0;
        book.apply(&crate::sale::Entry { seq: claim.seq, at: NOON, event: crate::sale::Event::Claimed(claim) });
    }
    assert_eq!(given, 300);
    let mut rebuilder = Rebuilder::new(NEW, false);
    rebuilder.campaign(known(packet));
    rebuilder.claim(&share(1, 400), None).expect("a sound row");
    rebuilder.claim(&share(2, 400), None).expect("a sound row");
    let oversold = rebuilder.claim(&share(3, 201), None).expect_err("1001 of 1000");
    assert!(matches!(oversold, RebuildError::Oversold { what: "total", .. }), "{oversold}");
}

#[test]
fn a_check_in_knows_who_has_come_on_the_last_day_and_counts_them_all() {
    let day = (NOON.0 / 86_400_000_000) as u32;
    let mut rebuilder = Rebuilder::new(OLD, true);
    rebuilder.campaign(known(
        r#"{"id":"daily","kind":"check_in","opens_at":"2020-01-01T00:00:00Z","closes_at":"2099-01-01T00:00:00Z",
            "check_in":{"points":10,"time_zone":"UTC"}}"#,
    ));
    for (seq, user, hold) in [(1, "u1", day - 1), (2, "u1", day), (3, "u2", day - 1), (4, "u3", day)] {
        let claim = Claim { hold, amount: Some(Money(10)), ..claim(OLD, seq, user) };
        rebuilder.claim(&claim, None).expect("a sound row");
    }
    let (book, _) = rebuilder.finish(LAST, NOON).expect("a book");
    let book = through_an_image(&book);
    assert_eq!(book.campaigns()[0].acknowledged, 4);
    let refused = |user| matches!(ask(&book, NOON, user, None), Verdict::Refuse(Refusal::AlreadyClaimed(_)));
    assert_eq!(["u1", "u2", "u3", "u4"].map(refused), [true, false, true, false]);
    let tomorrow = NOON.plus_micros(86_400_000_000);
    assert!(matches!(ask(&book, tomorrow, "u1", None), Verdict::Accept(_)));
}

#[test]
fn a_released_campaign_stays_released_and_rows_without_a_campaign_are_named() {
    let mut rebuilder = Rebuilder::new(NEW, false);
    rebuilder.campaign(Known { released: true, wish: AdminState::Closed, ..sale(10, "") });
    rebuilder.claim(&claim(OLD, 1, "u1"), None).expect("a sound row");
    let other = Claim { campaign: CampaignNo(1), ..claim(OLD, 2, "u2") };
    assert!(matches!(rebuilder.claim(&other, None), Err(RebuildError::NoCampaign { no: 1, .. })));
    let (book, _) = rebuilder.finish(LAST, NOON).expect("a book");
    let book = through_an_image(&book);
    let campaign = &book.campaigns()[0];
    assert_eq!((campaign.released, campaign.free, campaign.winners().len()), (true, Units(9), 0));
    assert_eq!(ask(&book, NOON, "u9", None), Verdict::Refuse(Refusal::Ended));
    assert_eq!(book.reserved(), 0);
}
