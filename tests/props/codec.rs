//! The bytes of an entry: there and back, and never a panic.

use forebay::queue::codec::{self, CodecError, FrameContext};
use forebay::sale::campaign::{AdminState, CampaignPatch};
use forebay::sale::check_in::{CheckInSpec, Zone};
use forebay::sale::red_packet::Seed;
use forebay::sale::{
    Asked, CampaignId, CampaignKind, CampaignNo, CampaignSpec, Changed, Claim, ClaimId, Created, Currency, Durability,
    Entry, Event, Fate, KeyHash, Money, Moved, RedPacketSpec, Seq, Span, Split, Timestamp, Units, UserId,
};
use proptest::prelude::*;

use crate::cases;

const NAME: &str = "[A-Za-z0-9][A-Za-z0-9._:@|+=-]{0,63}";

fn instant() -> impl Strategy<Value = Timestamp> {
    (0i64..253_402_300_799_999_999).prop_map(Timestamp)
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Disk), Just(Durability::Memory)]
}

fn context() -> impl Strategy<Value = FrameContext> {
    (1u64..1 << 53, instant(), durability()).prop_map(|(first, at, durability)| FrameContext {
        first_seq: Seq(first),
        at,
        durability,
    })
}

prop_compose! {
    fn claim()(
        id: [u8; 16],
        no: u32,
        user in prop_oneof![NAME.boxed(), Just("z".repeat(64)).boxed()],
        quantity in 1u64..=1_000,
        amount in prop::option::of(0i64..1 << 53),
        hold in 0u32..1_000,
        receipt_key: u16,
        key in prop::option::of(any::<u128>()),
    ) -> Claim {
        Claim {
            claim_id: ClaimId(id),
            campaign: CampaignNo(no),
            user: UserId::parse(&user).unwrap(),
            quantity: Units(quantity),
            amount: amount.map(Money),
            hold,
            receipt_key,
            key: key.map(KeyHash),
            seq: Seq(0),
            accepted_at: Timestamp(0),
            durability: Durability::Disk,
        }
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    // Up to 64 characters of up to four bytes each, as the limit on an operator's name allows.
    let by = prop::collection::vec(any::<char>(), 0..64).prop_map(|c| c.into_iter().collect());
    (by, prop::option::of(any::<u128>())).prop_map(|(by, key)| Asked { by, key: key.map(KeyHash) })
}

prop_compose! {
    fn spec()(
        id in NAME,
        packet in prop::option::of((1i64..1 << 53, 1i64..1 << 20, prop::option::of(1i64..1 << 20), any::<bool>())),
        title in prop::collection::vec(any::<char>(), 0..200),
        opens_at in instant(),
        closes_at in instant(),
        per_user_limit in 1u64..=1_000,
        stock in 0u64..=u64::from(u32::MAX),
        currency in prop::option::of("[A-Z]{3}"),
        price in prop::option::of(0i64..1 << 53),
        check_in in prop::option::of((1i64..1 << 20, prop::sample::select(vec!["Asia/Shanghai", "Europe/Berlin"]))),
        ttl in prop::option::of(1_000i64..30 * 86_400_000),
    ) -> CampaignSpec {
        let check_in = check_in.filter(|_| packet.is_none());
        let check_in = check_in.map(|(points, zone)| {
            CheckInSpec { points: Money(points), zone: Zone::parse("zone", zone).unwrap() }
        });
        let red_packet = packet.map(|(total, min, max, even)| RedPacketSpec {
            total: Money(total),
            min: Money(min),
            max: max.map(Money),
            split: if even { Split::Even } else { Split::Random },
        });
        CampaignSpec {
            id: CampaignId::parse(&id).unwrap(),
            kind: match (&red_packet, &check_in) {
                (Some(_), _) => CampaignKind::RedPacket,
                (_, Some(_)) => CampaignKind::CheckIn,
                _ if currency.is_none() => CampaignKind::Coupon,
                _ => CampaignKind::FlashSale,
            },
            title: title.into_iter().collect(),
            opens_at,
            closes_at,
            per_user_limit: Units(per_user_limit),
            stock: Units(if check_in.is_some() { 0 } else { stock }),
            currency: currency.as_deref().and_then(Currency::parse),
            price: price.map(Money),
            red_packet,
            check_in,
            reservation_ttl: ttl.map(|millis| Span(millis * 1_000)),
        }
    }
}

/// What somebody says, up to the limits on names and reasons: 64 and 200 bytes.
fn said(bytes: usize) -> impl Strategy<Value = Box<str>> {
    let text = prop::collection::vec(any::<char>(), 0..bytes);
    text.prop_map(move |chars| {
        let mut text = String::new();
        for c in chars {
            if text.len() + c.len_utf8() <= bytes {
                text.push(c);
            }
        }
        text.into()
    })
}

prop_compose! {
    fn moved()(
        id: [u8; 16],
        no: u32,
        quantity in 1u64..=1_000,
        amount in prop::option::of(0i64..1 << 53),
        to in prop::sample::select(vec![Fate::Settled, Fate::Cancelled, Fate::Expired]),
        by in said(64),
        reason in said(200),
    ) -> Moved {
        Moved {
            claim_id: ClaimId(id),
            campaign: CampaignNo(no),
            quantity: Units(quantity),
            amount: amount.map(Money),
            to,
            by,
            reason,
        }
    }
}

prop_compose! {
    fn patch()(
        state in prop::option::of(prop::sample::select(vec![AdminState::Open, AdminState::Paused, AdminState::Closed])),
        add_stock in any::<i64>(),
        add_total in prop::option::of(any::<i64>()),
        opens_at in prop::option::of(instant()),
        closes_at in prop::option::of(instant()),
    ) -> CampaignPatch {
        CampaignPatch { state, add_stock: Some(add_stock), add_total, opens_at, closes_at }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => claim().prop_map(Event::Claimed),
        3 => moved().prop_map(Event::Moved),
        1 => any::<u32>().prop_map(|no| Event::Released(CampaignNo(no))),
        1 => Just(Event::Void),
        1 => (any::<u32>(), spec(), any::<[u8; 16]>(), asked()).prop_map(|(no, spec, seed, asked)| {
            Event::Created(Box::new(Created { no: CampaignNo(no), spec, seed: Seed(seed), asked }))
        }),
        1 => (any::<u32>(), patch(), asked()).prop_map(|(no, patch, asked)| {
            Event::Changed(Box::new(Changed { no: CampaignNo(no), patch, asked }))
        }),
    ]
}

fn placed(event: &Event, context: &FrameContext, index: u64) -> Entry {
    let (seq, at) = (context.first_seq.plus(index), context.at);
    let event = match event {
        Event::Claimed(c) => Event::Claimed(Claim { seq, accepted_at: at, durability: context.durability, ..*c }),
        other => other.clone(),
    };
    Entry { seq, at, event }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_frames_entries_are_read_back_as_they_were_written(
        events in prop::collection::vec(event(), 1..8),
        context in context(),
    ) {
        let mut bytes = Vec::new();
        events.iter().for_each(|e| codec::encode(&mut bytes, e));
        let mut rest = &bytes[..];
        for (index, event) in events.iter().enumerate() {
            let (entry, len) = codec::decode(rest, &context, index as u64).unwrap();
            prop_assert_eq!(&entry, &placed(event, &context, index as u64));
            prop_assert_eq!(codec::skip(rest), Ok(len));
            let (id, moved, sums) = (codec::claim_id(rest), codec::moved_id(rest), codec::sums(rest));
            let due = |campaign, units, money: Option<Money>, fate| {
                Some(codec::Sums { campaign, units, money: money.unwrap_or_default(), fate })
            };
            match event {
                Event::Claimed(c) => {
                    prop_assert_eq!((id, moved), (Some(c.claim_id), None));
                    prop_assert_eq!(sums, due(c.campaign, c.quantity, c.amount, None));
                }
                Event::Moved(m) => {
                    prop_assert_eq!((id, moved), (None, Some(m.claim_id)));
                    prop_assert_eq!(sums, due(m.campaign, m.quantity, m.amount, Some(m.to)));
                }
                _ => prop_assert_eq!((id, moved, sums), (None, None, None)),
            }
            rest = &rest[len..];
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn an_entry_that_is_cut_short_is_an_error(event in event(), context in context()) {
        let mut bytes = Vec::new();
        codec::encode(&mut bytes, &event);
        for end in 0..bytes.len() {
            prop_assert_eq!(codec::decode(&bytes[..end], &context, 0), Err(CodecError::Short));
            prop_assert_eq!(codec::skip(&bytes[..end]), Err(CodecError::Short));
        }
        // The same with a length that agrees: the fields then end too early.
        for end in 3..bytes.len() {
            let mut cut = bytes[..end].to_vec();
            cut[..2].copy_from_slice(&((end - 2) as u16).to_le_bytes());
            prop_assert!(codec::decode(&cut, &context, 0).is_err(), "{} of {} bytes", end, bytes.len());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        kind in 0u8..=codec::NEWEST_KIND + 2,
        event in event(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        context in context(),
    ) {
        let _ = codec::decode(&bytes, &context, 0);
        if bytes.len() > 3 {
            // With a length and a kind that fit, so that the fields are reached.
            let len = (bytes.len() - 2) as u16;
            bytes[..2].copy_from_slice(&len.to_le_bytes());
            bytes[2] = kind;
            let decoded = codec::decode(&bytes, &context, 0);
            prop_assert!((1..=codec::NEWEST_KIND).contains(&kind) || decoded == Err(CodecError::UnknownKind(kind)));
        }
        let mut damaged = Vec::new();
        codec::encode(&mut damaged, &event);
        for (at, byte) in flips {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        let _ = (codec::claim_id(&damaged), codec::moved_id(&damaged), codec::sums(&damaged));
        // What is read of damage is what would be written of it: nothing slips in that a second reading tells otherwise.
        if let Ok((entry, len)) = codec::decode(&damaged, &context, 0) {
            let mut again = Vec::new();
            codec::encode(&mut again, &entry.event);
            let plain = matches!(entry.event, Event::Claimed(_) | Event::Moved(_) | Event::Released(_) | Event::Void);
            prop_assert!(!plain || again == damaged[..len], "{:?}", entry);
        }
    }
}

#[test]
fn an_operators_long_name_is_cut_between_characters() {
    let context = FrameContext { first_seq: Seq(1), at: Timestamp(1), durability: Durability::Disk };
    let patch = CampaignPatch { add_stock: Some(1), ..CampaignPatch::default() };
    let by = "𝄞".repeat(64);
    let changed = Changed { no: CampaignNo(0), patch, asked: Asked { by: by.clone(), key: None } };
    let mut bytes = Vec::new();
    codec::encode(&mut bytes, &Event::Changed(Box::new(changed)));
    let (entry, _) = codec::decode(&bytes, &context, 0).unwrap();
    let Event::Changed(read) = entry.event else { panic!("{entry:?}") };
    assert_eq!(read.asked.by, "𝄞".repeat(63), "the longest that fits into 255 bytes");
}
