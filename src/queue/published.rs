//! What the sequencer publishes, and front ends, drain and janitor share with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::campaign::Garbage;
use super::carts::CartGarbage;
use super::filter::CartOwners;
use super::index::ColdPages;
use super::letters::Letters;
use super::pending::Pending;
use super::views::Views;
use crate::metrics::Metrics;
use crate::sale::{Seq, UserHash};

/// What the sequencer publishes to, and the front end reads.
#[derive(Debug)]
pub struct Published {
    /// The campaigns.
    pub views: Views,
    /// The waiting entries.
    pub pending: Pending,
    /// The last entry that waited when this process began.
    pub recovered: Seq,
    /// Whether durability can't be given any more.
    pub fenced: AtomicBool,
    /// Tables made in mid-sale, whose pages the janitor has the system give before the claims come.
    pub cold: Mutex<Vec<ColdPages>>,
    /// Who may have a cart.
    pub cart_owners: CartOwners,
    /// Buyers whose carts the database has changed by itself, and whether there are any.
    moved_carts: (Mutex<Vec<UserHash>>, AtomicBool),
    /// What is wanted of dead letters, for the drain.
    pub letters: Letters,
    /// Memory that is not used any more, which the janitor frees.
    pub garbage: Mutex<Vec<(Vec<Garbage>, CartGarbage)>>,
    /// The journal's disk has no room but the reserve.
    pub disk_full: AtomicBool,
    /// Numbers.
    pub metrics: Arc<Metrics>,
}

impl Published {
    /// Nothing published yet but the entries that recovery found waiting.
    pub fn new(pending: Pending) -> Self {
        Self {
            views: Views::default(),
            recovered: pending.retired().plus(pending.entries()),
            pending,
            fenced: AtomicBool::new(false),
            cold: Mutex::default(),
            cart_owners: CartOwners::default(),
            moved_carts: Default::default(),
            letters: Letters::default(),
            garbage: Mutex::default(),
            disk_full: AtomicBool::new(false),
            metrics: Arc::default(),
        }
    }

    /// A buyer's cart has been changed in the database, or may have been, by somebody else than the buyer: who reads it finds
    /// it, and what is in memory of it does not count any more. Call it once that is committed.
    pub fn cart_moved(&self, buyer: UserHash) {
        self.cart_owners.insert(buyer);
        self.moved_carts.0.lock().unwrap_or_else(PoisonError::into_inner).push(buyer);
        self.moved_carts.1.store(true, Ordering::Release);
    }

    /// The buyers for whom [`Self::cart_moved`] was called since the last time.
    pub(super) fn take_moved_carts(&self) -> Vec<UserHash> {
        if !self.moved_carts.1.load(Ordering::Relaxed) || !self.moved_carts.1.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut *self.moved_carts.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
