//! That the comparison would notice: a ledger and rows that agree, and what is wrong with them after each of many changes.

use serde_json::json;

use crate::orders::{End, GivenUp, Ledger, Order, Row, Rows, Sold, compare};

/// A change, and a part of what must be said of it.
type Change = (&'static str, fn(&mut Ledger, &mut Vec<(&'static str, &'static str, Row)>));

const CHANGES: &[Change] = &[
    ("has no row", |_, rows| drop(rows.remove(0))),
    ("rows that nobody was told of", |_, rows| rows.push(("sale", "u1", row("x", 9, 990)))),
    ("asked for nothing", |_, rows| rows.push(("sale", "stranger", row("x", 9, 990)))),
    ("was acknowledged as", |_, rows| rows[0].2.seq = 7),
    ("was acknowledged as", |_, rows| rows[0].2.amount = Some(991)),
    ("was acknowledged as", |_, rows| rows[0].2.quantity = 2),
    ("holds 2 of at most 1", |_, rows| rows.push(("sale", "u1", row("x", 9, 990)))),
    ("rows that nobody was told of", |ledger, _| ledger.orders[3].is_open = false),
    ("has sold", |ledger, rows| {
        ledger.orders.extend((0..9).map(|no| order("sale", &format!("more{no}"), None)));
        ledger.orders.iter_mut().for_each(|order| order.is_open = true);
        let users = ["more0", "more1", "more2", "more3", "more4", "more5", "more6", "more7", "more8"];
        rows.extend(users.map(|user| ("sale", user, row(user, 50, 990))));
    }),
    ("shares are", |_, rows| rows[3].2.amount = Some(11)),
    ("shares are", |ledger, rows| {
        ledger.orders[5].ack = ack("p2", 6, 0);
        (rows[3].2.amount, rows[4].2.amount) = (Some(30), Some(0));
    }),
    ("and is persisted", |ledger, _| ledger.orders[1].end = Some(End { what: "cancel", is_sure: true, by: 1 })),
    ("and is cancelled", |_, rows| rows[0].2.status = "cancelled".to_owned()),
    ("and is expired", |_, rows| rows[0].2.status = "expired".to_owned()),
    ("was told of", |ledger, _| ledger.orders[2].told = Some("nowhere".to_owned())),
    ("then denied", |ledger, _| ledger.orders[3].denied.push("d".to_owned())),
    ("given to two orders", |ledger, _| {
        let again = ledger.orders[0].clone();
        ledger.orders.push(again);
    }),
    ("in its cart", |ledger, _| _ = ledger.clicks.insert("cart".to_owned(), (6, 6))),
    ("in its cart", |ledger, _| _ = ledger.clicks.insert("cart".to_owned(), (1, 4))),
    ("of no campaign", |ledger, _| ledger.orders[2].campaign = "other".to_owned()),
    ("wrong answer", |ledger, _| ledger.wrong.push("teapot".to_owned())),
];

fn row(id: &str, seq: i64, amount: i64) -> Row {
    Row { id: id.to_owned(), status: "persisted".to_owned(), seq, quantity: 1, amount: Some(amount) }
}

fn ack(id: &str, seq: i64, amount: i64) -> Option<(usize, serde_json::Value)> {
    Some((0, json!({"claim_id": id, "seq": seq, "amount": amount, "quantity": 1})))
}

fn order(campaign: &str, user: &str, ack: Option<(usize, serde_json::Value)>) -> Order {
    Order { campaign: campaign.to_owned(), user: user.to_owned(), quantity: 1, ack, ..Order::default() }
}

/// What agrees: two acknowledged, one refused, one that nobody knows of and that is there, and a red packet of two shares.
fn sound() -> (Ledger, Vec<(&'static str, &'static str, Row)>) {
    let mut ledger = Ledger::default();
    ledger.orders.push(order("sale", "u1", ack("a", 1, 990)));
    ledger.orders.push(order("sale", "u2", ack("b", 2, 990)));
    ledger.orders.push(order("sale", "u3", None));
    ledger.orders.push(Order { is_open: true, ..order("sale", "u4", None) });
    ledger.orders.push(order("packet", "u1", ack("p1", 5, 10)));
    ledger.orders.push(order("packet", "u2", ack("p2", 6, 20)));
    ledger.clicks.insert("cart".to_owned(), (4, 6));
    let mut rows = vec![("sale", "u1", row("a", 1, 990)), ("sale", "u2", row("b", 2, 990))];
    rows.extend([("sale", "u4", row("d", 4, 990))]);
    rows.extend([("packet", "u1", row("p1", 5, 10)), ("packet", "u2", row("p2", 6, 20))]);
    (ledger, rows)
}

/// Holds the comparison against every change.
pub fn what_is_wrong() {
    let sold = |id: &str, stock, total| Sold { id: id.to_owned(), stock, limit: 1, total };
    let campaigns = [sold("sale", 10, None), sold("packet", 2, Some(30))];
    let all = |ledger: &Ledger, list: &[(&str, &str, Row)], given_up: &mut GivenUp| {
        let mut rows = Rows::default();
        for (campaign, user, row) in list {
            rows.push(campaign, user, row.clone());
        }
        rows.carts.insert("cart".to_owned(), 5);
        compare(ledger, &rows, &campaigns, given_up)
    };
    let (ledger, rows) = sound();
    assert_eq!(all(&ledger, &rows, &mut GivenUp::default()), [""; 0]);
    for (no, (word, change)) in CHANGES.iter().enumerate() {
        let (mut ledger, mut rows) = sound();
        change(&mut ledger, &mut rows);
        let wrong = all(&ledger, &rows, &mut GivenUp::default());
        assert!(wrong.iter().any(|text| text.contains(word)), "change {no}: nothing of {word:?} in {wrong:#?}");
    }
    let mut given_up = GivenUp { gate: Some(0), missing: 0 };
    assert_eq!(all(&ledger, &rows[1..], &mut given_up), [""; 0]);
    assert_eq!(given_up.missing, 1, "what was given up is counted");
}
