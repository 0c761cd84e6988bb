//! Carts against the operations that the journal still holds.

use std::collections::{BTreeMap, BTreeSet};

use super::{Auditor, Findings};
use crate::sale::Seq;
use crate::store::{Database, Store};

/// Names every line whose row is not what the last operation on it, of those that are in the database, made of it.
pub(super) async fn check(store: &Database, auditor: &Auditor, findings: &mut Findings) -> anyhow::Result<()> {
    let end = auditor.follower.book.last_seq();
    let dead = dead(store).await?;
    for (user, operations) in &auditor.carts {
        let operations: Vec<_> = operations.iter().filter(|(seq, ..)| !dead.contains(seq)).collect();
        let cart = store.cart(user).await?;
        if cart.version > end {
            // It has moved on since the journal was read.
            continue;
        }
        let newest = operations.iter().filter(|(seq, ..)| *seq <= auditor.cursor).map(|(seq, ..)| *seq).max();
        if newest.is_some_and(|newest| cart.version < newest) {
            findings
                .mismatch(format!("the cart of {user} stands at entry {}, the journal has a later one", cart.version));
            continue;
        }
        // In the order of the journal: of several on one line the last one stays.
        let landed = operations.iter().filter(|(seq, ..)| *seq <= cart.version);
        let last: BTreeMap<_, _> = landed.map(|(seq, sku, quantity)| (sku, (seq, quantity))).collect();
        for (sku, (seq, quantity)) in last {
            let there = cart.lines.iter().find(|(line, _)| line == sku).map_or(0, |(_, quantity)| *quantity);
            if there != *quantity {
                findings.mismatch(format!("the cart of {user} has {there} of {sku}, entry {seq} left {quantity}"));
            }
        }
    }
    Ok(())
}

/// The operations that are in the dead letters.
async fn dead(store: &Database) -> anyhow::Result<BTreeSet<Seq>> {
    let (mut seqs, mut after) = (BTreeSet::new(), 0);
    loop {
        let page = store.dead_letters(after, super::PAGE).await?;
        let Some(last) = page.last() else { return Ok(seqs) };
        after = last.id;
        seqs.extend(page.iter().filter(|letter| letter.kind == "cart").map(|letter| letter.seq));
    }
}
