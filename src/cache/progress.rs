//! How far the database is, how much of that this process has heard of, and what a value must be to be used. Pure.
//!
//! Where rows are written by this process it hears of all of them, in order. Where others write them, messages say after which
//! position up to which one they tell of. What they leave out is known by that: a message that does not begin where the last
//! one ended has others before it that were lost, and whatever is older than its beginning is of no use any more. A message
//! that is still missing is known by the position up to which Redis says that the database is.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::plant::{self, Bug};
use crate::sale::Seq;

/// A moment: how far the database surely was, and how often rows had changed that no position tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// A position.
    pub(super) as_of: u64,
    /// Changes without one.
    pub(super) forgets: u64,
}

impl Moment {
    /// Whether what was read then is good enough for who needs this.
    pub(super) fn serves(self, needed: Self) -> bool {
        self.as_of >= needed.as_of && self.forgets >= needed.forgets
    }
}

/// The position up to which the database is known to be by others than who writes rows here.
pub(super) type Known = Box<dyn Fn() -> Seq + Send + Sync>;

/// The positions.
#[derive(Default)]
pub(super) struct Progress {
    /// Everything up to here is in the database, says whoever writes it.
    committed: AtomicU64,
    /// What was touched is stamped up to here, but for what lies before [`Self::floor`].
    heard: AtomicU64,
    /// Of something before this was never heard.
    floor: AtomicU64,
    forgets: AtomicU64,
    /// What others know; none where this process writes all rows.
    known: Option<Known>,
}

impl Progress {
    /// Nothing heard yet of what others write.
    pub(super) fn beside(known: Known) -> Self {
        Self { known: Some(known), ..Self::default() }
    }

    fn known(&self) -> u64 {
        self.known.as_ref().map_or(0, |known| known().0)
    }

    /// What a read that begins now will be.
    pub(super) fn now(&self) -> Moment {
        let forgets = self.forgets.load(Ordering::SeqCst);
        Moment { as_of: self.committed.load(Ordering::SeqCst).max(self.known()), forgets }
    }

    /// What a value must be at least for somebody who asks now; `stamp` is its key's.
    pub(super) fn needed(&self, stamp: Option<&AtomicU64>) -> Moment {
        let forgets = self.forgets.load(Ordering::SeqCst);
        // In this order: what is known first, then how much of that was heard, and the stamps last. A message that is heard in
        // between can then only ask for more.
        let known = self.known();
        let heard = self.heard.load(Ordering::SeqCst);
        let unheard = if heard < known && !plant::on(Bug::TrustUnheard) { known } else { 0 };
        let floor = self.floor.load(Ordering::SeqCst);
        let stamp = stamp.map_or(0, |stamp| stamp.load(Ordering::SeqCst));
        Moment { as_of: unheard.max(floor).max(stamp), forgets }
    }

    /// The database has everything up to `upto`, and what the entries after `after` touched is stamped by `stamp`.
    pub(super) fn hear(&self, after: Seq, upto: Seq, stamp: impl FnOnce()) {
        // Before the stamps, so that a read which begins after a stamp was seen is never older than the stamp; and the stamps
        // before what was heard, so that whoever sees that everything was heard sees them, too.
        self.committed.fetch_max(upto.0, Ordering::SeqCst);
        stamp();
        if after.0 > self.heard.load(Ordering::SeqCst) && !plant::on(Bug::IgnoredGap) {
            self.floor.fetch_max(after.0, Ordering::SeqCst);
        }
        self.heard.fetch_max(upto.0, Ordering::SeqCst);
    }

    /// Rows may have changed that no position tells of: nothing that was read before is used any more.
    pub(super) fn forget(&self) {
        if !plant::on(Bug::KeptUnchanged) {
            self.forgets.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Up to where the database is known to be, and how much of that was heard.
    pub(super) fn told(&self) -> (Seq, Seq) {
        let known = self.known();
        (Seq(known), Seq(self.heard.load(Ordering::SeqCst)))
    }
}
