//! What becomes of carts.

use super::{batch, committed};
use crate::sale::{Seq, Sku, Timestamp, UserId};
use crate::store::{CartRow, DeadRow, Row, Store, StoredCart};

fn line(seq: u64, sku: &str, quantity: u32) -> Row {
    let (user, sku) = (UserId::parse("u1").expect("a user"), Sku::parse(sku).expect("a sku"));
    Row::Cart(CartRow { seq: Seq(seq), at: Timestamp(seq as i64), user, sku, quantity, address: 9 })
}

fn cart(version: u64, lines: &[(&str, u32)]) -> StoredCart {
    let lines = lines.iter().map(|(sku, quantity)| (Sku::parse(sku).expect("a sku"), *quantity)).collect();
    StoredCart { version: Seq(version), lines }
}

pub(in crate::store) async fn of_several_operations_on_a_line_the_last_that_lives_counts<S: Store>(store: S) {
    let user = UserId::parse("u1").expect("a user");
    let rows = vec![line(1, "a", 1), line(2, "b", 5), line(3, "a", 2), line(4, "a", 3), line(5, "b", 0)];
    assert_eq!(store.write(&batch(0, rows), &[]).await, committed(0));
    assert_eq!(store.cart(&user).await, Ok(cart(5, &[("a", 3)])));
    // The last one is dead: the one before it counts, although a later row was about the same line.
    let dead = [DeadRow { index: 1, reason: "poison".to_owned() }];
    assert_eq!(store.write(&batch(5, vec![line(6, "a", 4), line(7, "a", 9)]), &dead).await, committed(0));
    assert_eq!(store.cart(&user).await, Ok(cart(6, &[("a", 4)])));
}
