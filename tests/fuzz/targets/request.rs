//! Bodies of requests: taken exactly where an independent reading of the JSON says that they are what the contract
//! describes, and with the same values.

use forebay::ingest::request::ClaimBody;
use forebay::ingest::{batch_body, fuzzing};
use forebay::limits;
use forebay::sale::campaign::{CampaignPatch, CampaignSpec};
use forebay::sale::{CartOp, Span, Timestamp};

use super::json::{Node, given, is_id};

/// The first byte says whose body the rest is.
pub fn run(data: &[u8]) {
    let Some((&whose, body)) = data.split_first() else { return };
    match whose % 6 {
        0 => claim(body),
        1 => batch(body),
        2 => cart(body),
        3 => campaign(body),
        4 => patch(body),
        _ => drop_reason(body),
    }
}

fn claim(body: &[u8]) {
    let taken = ClaimBody::parse(body).ok().map(|c| (c.user.as_str().to_owned(), c.quantity));
    let node = Node::parse(body);
    let expected = node.as_ref().and_then(|node| {
        let [user, quantity] = node.fields(["user", "quantity"])?;
        let user = user?.text().filter(|user| is_id(user))?;
        Some((user.to_owned(), units(quantity)?))
    });
    assert_eq!(taken, expected);
}

/// A quantity: 1 where it is absent, a whole number from 1 where it is given.
fn units(quantity: Option<&Node>) -> Option<u32> {
    let Some(quantity) = quantity else { return Some(1) };
    u32::try_from(quantity.whole()?).ok().filter(|&q| q >= 1)
}

fn batch(body: &[u8]) {
    let taken = batch_body::parse(body).ok();
    let node = Node::parse(body);
    let members = node.as_ref().and_then(|node| match node.fields(["claims"])? {
        [Some(Node::List(list))] if (1..=limits::BATCH_MAX).contains(&list.len()) => {
            list.iter().map(member).collect::<Option<Vec<_>>>()
        }
        _ => None,
    });
    // A number beyond 64 bits is one member's own fault or that of the whole, as long as nobody takes it.
    let is_vast = members.as_ref().is_some_and(|all| all.iter().any(|m| matches!(m.quantity, Some(Node::Float(_)))));
    assert!(taken.is_some() == members.is_some() || is_vast, "{taken:?} of {members:?}");
    for (taken, expected) in taken.iter().flatten().zip(members.iter().flatten()) {
        let seen = taken.check().ok().map(|(c, key)| (c.user.as_str().to_owned(), c.quantity, key.map(str::to_owned)));
        assert_eq!(seen, expected.checked(), "{taken:?} of {expected:?}");
    }
}

#[derive(Debug)]
struct Member<'a> {
    user: &'a str,
    quantity: Option<&'a Node>,
    key: Option<&'a str>,
}

/// A claim of the right shape, whatever its values.
fn member(node: &Node) -> Option<Member<'_>> {
    let [user, quantity, key] = node.fields(["user", "quantity", "idempotency_key"])?;
    let fits = match quantity {
        None | Some(Node::Whole(_)) => true,
        Some(Node::Float(f)) => f.abs() >= 9e18,
        _ => false,
    };
    let key = match key {
        None => None,
        Some(key) => Some(key.text()?),
    };
    let user = user?.text()?;
    fits.then_some(Member { user, quantity, key })
}

impl Member<'_> {
    fn checked(&self) -> Option<(String, u32, Option<String>)> {
        let key_fits = self.key.is_none_or(|k| (1..=128).contains(&k.len()) && k.bytes().all(|b| b.is_ascii_graphic()));
        let quantity = units(self.quantity)?;
        (key_fits && is_id(self.user)).then(|| (self.user.to_owned(), quantity, self.key.map(str::to_owned)))
    }
}

fn cart(body: &[u8]) {
    let taken = fuzzing::cart_op(body).ok().map(|(sku, op)| (sku.as_str().to_owned(), op));
    let node = Node::parse(body);
    let expected = node.as_ref().and_then(|node| {
        let [sku, op, quantity] = node.fields(["sku", "op", "quantity"])?;
        let sku = sku?.text().filter(|s| (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_graphic()))?;
        let quantity = match quantity {
            None => None,
            Some(quantity) => Some(u32::try_from(quantity.whole()?).ok().filter(|&q| q <= 1_000_000)?),
        };
        let op = match (op?.text()?, quantity) {
            ("add", quantity) => CartOp::Add(Some(quantity.unwrap_or(1)).filter(|&q| q > 0)?),
            ("set", Some(quantity)) => CartOp::Set(quantity),
            ("remove", None) => CartOp::Remove,
            _ => return None,
        };
        Some((sku.to_owned(), op))
    });
    assert_eq!(taken, expected);
}

const SPEC: [&str; 12] = [
    "id",
    "kind",
    "title",
    "opens_at",
    "closes_at",
    "per_user_limit",
    "stock",
    "currency",
    "price",
    "red_packet",
    "check_in",
    "reservation_ttl",
];

fn campaign(body: &[u8]) {
    let Ok(spec) = CampaignSpec::parse(body) else { return };
    let node = Node::parse(body).expect("what was taken is JSON");
    let [id, kind, title, opens, closes, limit, stock, currency, price, packet, check_in, ttl] =
        node.fields(SPEC).expect("known fields, each once");
    let text = |field: Option<&Node>| given(field).map(|node| node.text().expect("text").to_owned());
    let whole = |field: Option<&Node>| given(field).map(|node| node.whole().expect("a whole number"));
    let instant = |field| Timestamp::parse(&text(field).expect("given")).expect("an instant");
    assert_eq!(text(id).as_deref(), Some(spec.id.as_str()));
    assert_eq!(text(kind).as_deref(), Some(spec.kind.as_str()));
    assert_eq!(text(title).unwrap_or_default(), spec.title);
    assert_eq!((instant(opens), instant(closes)), (spec.opens_at, spec.closes_at));
    assert!(spec.opens_at < spec.closes_at);
    assert_eq!(whole(limit).unwrap_or(1), i128::from(spec.per_user_limit.0));
    assert_eq!(whole(stock), spec.has_stock().then_some(i128::from(spec.stock.0)));
    assert_eq!(text(currency).as_deref(), spec.currency.as_ref().map(|c| c.as_str()));
    assert_eq!(whole(price), spec.price.map(|p| p.0.into()));
    let turnover = i128::from(spec.price.map_or(0, |p| p.0)) * i128::from(spec.stock.0);
    assert!((0..1 << 53).contains(&turnover), "a turnover of {turnover}");
    assert_eq!(text(ttl).map(|t| Span::parse(&t)), spec.reservation_ttl.map(Some));
    match (given(packet), &spec.red_packet) {
        (None, None) => {}
        (Some(node), Some(packet)) => {
            let [total, min, max, split] = node.fields(["total", "min", "max", "split"]).expect("known fields, once");
            assert_eq!(whole(total), Some(packet.total.0.into()));
            assert_eq!(min.and_then(Node::whole).unwrap_or(1), i128::from(packet.min.0));
            assert_eq!(whole(max), packet.max.map(|m| m.0.into()));
            assert!(split.is_none_or(|split| matches!(split.text(), Some("random" | "even"))));
            let (shares, total) = (i128::from(spec.stock.0), i128::from(packet.total.0));
            assert!(i128::from(packet.min.0) * shares <= total, "shares that can't be paid");
            assert!(packet.max.is_none_or(|max| i128::from(max.0) * shares >= total), "money that can't be given out");
        }
        other => panic!("{other:?}"),
    }
    match (given(check_in), &spec.check_in) {
        (None, None) => {}
        (Some(node), Some(check_in)) => {
            let [points, zone] = node.fields(["points", "time_zone"]).expect("known fields, once");
            assert_eq!(whole(points), Some(check_in.points.0.into()));
            assert!(text(zone).expect("given").eq_ignore_ascii_case(check_in.zone.as_str()));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(CampaignSpec::parse(spec.to_json().to_string().as_bytes()), Ok(spec), "it is read back as it is shown");
}

fn patch(body: &[u8]) {
    let Ok(patch) = CampaignPatch::parse(body) else { return };
    let node = Node::parse(body).expect("what was taken is JSON");
    let known = ["state", "add_stock", "add_total", "opens_at", "closes_at"];
    let [state, stock, total, opens, closes] = node.fields(known).expect("known fields, each once");
    let text = |field: Option<&Node>| given(field).map(|node| node.text().expect("text").to_owned());
    let whole = |field: Option<&Node>| given(field).map(|node| node.whole().expect("a whole number"));
    let instant = |field| text(field).map(|t| Timestamp::parse(&t).expect("an instant"));
    assert_eq!(text(state).as_deref(), patch.state.map(|s| s.as_str()));
    assert_eq!((whole(stock), whole(total)), (patch.add_stock.map(i128::from), patch.add_total.map(i128::from)));
    assert_eq!((instant(opens), instant(closes)), (patch.opens_at, patch.closes_at));
    assert_ne!(patch, CampaignPatch::default(), "a change changes something");
    assert_eq!(CampaignPatch::parse(patch.to_json().to_string().as_bytes()), Ok(patch), "it is read back");
}

fn drop_reason(body: &[u8]) {
    let taken = fuzzing::drop_reason(body).ok();
    let expected = Node::parse(body).and_then(|node| {
        let [reason] = node.fields(["reason"])?;
        let reason = reason?.text()?;
        let is_plain = !reason.chars().any(char::is_control);
        (is_plain && (1..=200).contains(&reason.len()) && !reason.trim().is_empty()).then(|| reason.to_owned())
    });
    assert_eq!(taken.as_deref(), expected.as_deref());
}
