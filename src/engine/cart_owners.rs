//! Who has a cart: told to the front end in the background after a start, so that a buyer's first click needs no look into
//! the database.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::limits;
use crate::queue::Published;
use crate::sale::{Seq, Units};
use crate::store::{Database, Store};

/// Makes room for all of `known` owners, twice over. Before anything is submitted.
pub fn begin(published: &Published, known: u64) {
    published.cart_owners.begin(Units(known.saturating_mul(2).max(limits::CART_OWNERS_MIN)));
}

/// Enters everybody who has a cart in the database, once that has what the journal held when this process started. Whoever
/// changes a cart from then on is entered by the sequencer.
pub async fn enter_all(
    published: Arc<Published>,
    store: Arc<Database>,
    hash_key: crate::queue::HashKey,
    mut retired: watch::Receiver<Seq>,
    recovered: Seq,
) {
    while published.pending.retired() < recovered {
        if retired.changed().await.is_err() {
            return;
        }
    }
    let (mut after, mut entered) = (None, 0u64);
    loop {
        match store.cart_owners(after.as_ref(), limits::CART_OWNERS_PAGE).await {
            Ok((owners, _)) => {
                let Some(last) = owners.last() else { break };
                after = Some(*last);
                entered += owners.len() as u64;
                owners.iter().for_each(|user| published.cart_owners.insert(hash_key.user(user)));
                tokio::task::yield_now().await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(limits::DRAIN_LOOK_MILLIS)).await,
        }
    }
    published.cart_owners.complete();
    tracing::debug!(owners = entered, "it is known who has a cart");
}
