//! Claims that come in bundles: who finds them again, and what a fault of a gate does.

use forebay::queue::book::create_digest;
use forebay::queue::redis::protocol::{self, Bundle, Retiring, Word};
use forebay::queue::{AdminAction, AdminCommand, ClaimCommand, Outcome, Refusal};
use forebay::sale::red_packet::Seed;
use forebay::sale::{Asked, CampaignNo, CampaignSpec, ClaimId, Durability, Event, Money, Seq, Timestamp};

use crate::draws::{SECOND, START};
use crate::gate::Gate;
use crate::leases::user;
use crate::paper::KEY;
use crate::redis::Redis;

const NO: CampaignNo = CampaignNo(0);
const PRICE: Option<Money> = Some(Money(990));

fn sale(redis: &Redis, stock: u32) -> Gate {
    let mut gate = Gate::new(redis.connect(), "p");
    let json = format!(
        r#"{{"id":"s","kind":"flash_sale","opens_at":"2020-01-01T00:00:00Z","closes_at":"2040-01-01T00:00:00Z",
        "stock":{stock},"per_user_limit":1,"currency":"EUR","price":990}}"#
    );
    let spec = CampaignSpec::parse(json.as_bytes()).expect("a sale");
    let wish = AdminCommand { asked: Asked::default(), action: AdminAction::Create(spec.clone(), Seed([1; 16])) };
    let create = protocol::create(&wish, &spec, Seed([1; 16]), create_digest(&spec), "");
    gate.submit(START, 1_000_000, vec![create]).expect("made");
    gate
}

fn claim(n: u32) -> ClaimCommand {
    let (user, user_hash) = (user(n), KEY.user(&user(n)));
    let claim_id = ClaimId::new(Timestamp(START), user_hash, n.into());
    ClaimCommand { campaign: NO, quantity: 1, receipt_key: 1, user, user_hash, claim_id, key: None }
}

fn bundle(price: Option<Money>, buyers: impl Iterator<Item = u32>) -> Bundle {
    let mut bundle = Bundle::new(NO, price);
    assert!(buyers.map(claim).all(|claim| bundle.push(&claim)));
    bundle
}

/// The positions at which a buyer's claim waits.
fn look(gate: &mut Gate, n: u32) -> Vec<Seq> {
    let look = protocol::look_claim(claim(n).claim_id.tag());
    let said = gate.submit(START, 1_000_000, vec![look]).expect("open");
    let found = protocol::looked_waiting(&said.answers[0], Durability::Disk).expect("entries");
    for entry in &found {
        let Event::Claimed(held) = &entry.event else { panic!("{entry:?}") };
        assert_eq!((held.claim_id, held.user, held.amount), (claim(n).claim_id, user(n), PRICE));
    }
    found.iter().map(|entry| entry.seq).collect()
}

#[test]
fn a_claim_is_found_among_thousands_until_the_database_has_it() {
    let redis = Redis::start();
    let gate = &mut sale(&redis, 10_000);
    for first in (0..6_000).step_by(240) {
        let said = gate.submit_with(START, 1_000_000, &[bundle(PRICE, first..first + 240)], vec![]).expect("open");
        let whole = said.bundled.iter().all(|outcome| matches!(outcome, Outcome::Accepted { .. }));
        assert!(whole && said.count == 240 && said.first == Seq(u64::from(first) + 2));
    }
    // The first looks find most of them in bundles, later ones in tables.
    for n in [5_999, 3_001, 0, 240, 239, 2_777, 5_760] {
        assert_eq!(look(gate, n), [Seq(u64::from(n) + 2)]);
    }
    assert_eq!(look(gate, 6_000), []);
    let lease = 3_600 * SECOND;
    let taken = gate.take(START, "w1", Seq(0), 3_001, lease).expect("a lease");
    let mut retiring = Retiring::new(Seq(0));
    for (at, item) in &taken.items {
        let seq = retiring.upto().next();
        let bytes = [&at.0.to_le_bytes()[..], item].concat();
        retiring.add(&protocol::entry(&bytes, seq, Durability::Disk).expect("an entry").event);
    }
    assert_eq!(gate.retire((START, "w1", lease), &retiring, &[]), Word::Ok);
    for n in [0, 2_999, 3_000, 5_999] {
        assert_eq!(look(gate, n), if n < 3_000 { vec![] } else { vec![Seq(u64::from(n) + 2)] }, "buyer {n}");
    }
    for n in 0..6_000 {
        assert_eq!(look(gate, n).len(), usize::from(n >= 3_000), "buyer {n}");
    }
}

#[test]
fn a_bundle_is_accepted_as_far_as_it_can_be() {
    let redis = Redis::start();
    let gate = &mut sale(&redis, 5);
    let ask = |gate: &mut Gate, room, buyers| {
        let said = gate.submit_with(START, room, &[bundle(PRICE, buyers)], vec![]).expect("open");
        said.bundled
            .iter()
            .map(|outcome| match outcome {
                Outcome::Accepted { seq, .. } => format!("{seq}"),
                Outcome::Refused(Refusal::AlreadyClaimed(id)) => {
                    format!("has {}", (0..20).find(|n| claim(*n).claim_id == *id).expect("known"))
                }
                Outcome::Refused(Refusal::SoldOut { .. }) => "sold out".to_owned(),
                Outcome::Refused(Refusal::BufferFull) => "full".to_owned(),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(ask(gate, 3, 0..4), ["2", "3", "full", "full"]);
    assert_eq!(ask(gate, 100, 1..4), ["has 1", "4", "5"]);
    assert_eq!(ask(gate, 100, 3..8), ["has 3", "6", "sold out", "sold out", "sold out"]);
    assert_eq!(gate.waiting(Seq(1)).len(), 6);
}

#[test]
fn what_a_call_has_made_is_found_by_its_positions_until_the_database_has_it() {
    let redis = Redis::start();
    let gate = &mut sale(&redis, 100);
    let said = gate.submit_with(START, 1_000_000, &[bundle(PRICE, 0..20)], vec![]).expect("open");
    assert_eq!((said.first, said.count), (Seq(2), 20));
    let mine = |gate: &mut Gate, first, count| {
        let said = gate.submit(START, 1_000_000, vec![protocol::look_entries(Seq(first), count)]).expect("open");
        assert_eq!(said.count, 0);
        let found = protocol::looked_waiting(&said.answers[0], Durability::Disk).expect("entries");
        found.iter().map(|entry| entry.seq.0).collect::<Vec<_>>()
    };
    assert_eq!(mine(gate, 2, 20), (2..22).collect::<Vec<_>>());
    assert_eq!(mine(gate, 20, 9), [20, 21]);
    assert!(mine(gate, 22, 1).is_empty());
    let taken = gate.take(START, "w1", Seq(0), 6, 3_600 * SECOND).expect("a lease");
    let mut retiring = Retiring::new(Seq(0));
    for (at, item) in &taken.items {
        let bytes = [&at.0.to_le_bytes()[..], item].concat();
        retiring.add(&protocol::entry(&bytes, retiring.upto().next(), Durability::Disk).expect("an entry").event);
    }
    assert_eq!(gate.retire((START, "w1", 3_600 * SECOND), &retiring, &[]), Word::Ok);
    assert_eq!(mine(gate, 2, 20), (7..22).collect::<Vec<_>>());
    assert!(mine(gate, 2, 5).is_empty());
}

#[test]
fn a_gate_that_takes_a_campaign_for_another_one_gets_nothing() {
    let redis = Redis::start();
    let gate = &mut sale(&redis, 5);
    let said = gate.submit_with(START, 100, &[bundle(Some(Money(1)), 0..2)], vec![]).expect("open");
    assert!(said.bundled.iter().all(|outcome| *outcome == Outcome::Refused(Refusal::NotDurable)), "{said:?}");
    assert_eq!((said.count, gate.waiting(Seq(1)).len()), (0, 1));
    // A buyer who is in it twice would hold two: a gate never does so, and the library notices.
    let mut twice = bundle(PRICE, 0..2).words().map(<[u8]>::to_vec).collect::<Vec<_>>();
    twice[3] = twice[1].clone();
    let error = gate.submit(START, 100, twice).expect_err("fenced");
    assert!(error.contains("twice"), "{error}");
}
