//! The cache in this process: claims by id, buyers' first pages and carts, for a few seconds; each is read once, however many
//! wait for it.
//!
//! The race it must not lose: a read that began before a commit and ends after it would put "no such claim" into the
//! cache just after the entry has left the buffer, and a buyer would be told that a claim never was. Removing keys
//! after a commit can't help, as the outdated value comes later. So every value carries how far the database was when
//! its read *began*, and every key a stamp of the last commit that touched it:
//!
//! 1. the drain commits, 2. [`LocalCache::on_persisted`] notes how far the database is now and stamps the keys, 3. the
//!    entries leave the buffer.
//!
//! Whoever misses an entry in the buffer comes after 3, and so sees the stamp; a value whose read began before 2 is
//! older than the stamp, is not used, and the database is read again. Stamps live in tables of fixed size, so that two keys
//! may share one: that costs a read, never a wrong answer. A buyer's page has the stamp of the buyer's 40-bit address, which
//! every claim id carries: the end of a claim names no buyer, and touches the page all the same. What no commit of this process
//! touches (an operator's SQL) and what is requeued from the dead letters is seen within the lifetime.

use std::future::Future;
use std::hash::{BuildHasher, Hash, RandomState};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use moka::future::Cache;

use crate::limits;
use crate::metrics::Metrics;
use crate::sale::{ClaimId, Seq, UserHash, UserId};
use crate::store::{Row, StoreError, StoredCart, StoredClaim};

/// A buyer's first page, newest claims first.
pub type Page = Arc<Vec<StoredClaim>>;

/// The cache.
pub struct LocalCache {
    claims: Table<ClaimId, ClaimId, Option<StoredClaim>>,
    pages: Table<UserId, u64, Page>,
    carts: Table<UserId, u64, Arc<StoredCart>>,
    /// Everything up to here is in the database.
    committed: AtomicU64,
    metrics: Arc<Metrics>,
}

impl LocalCache {
    /// A cache whose values live for `lifetime`; zero for none: then every read goes to the database.
    pub fn new(lifetime: Duration, metrics: Arc<Metrics>) -> Self {
        let pages = |_: &UserId, value: &Stamped<Page>| 1 + value.value.len() as u32;
        let carts = |_: &UserId, value: &Stamped<Arc<StoredCart>>| 1 + value.value.lines.len() as u32;
        Self {
            claims: Table::new(lifetime, |_, _| 1),
            pages: Table::new(lifetime, pages),
            carts: Table::new(lifetime, carts),
            committed: AtomicU64::new(0),
            metrics,
        }
    }

    /// A claim by its id; `read` asks the database. Ask the buffer first.
    ///
    /// # Errors
    /// What `read` failed with: everyone who waited for it gets the error, the next one reads again.
    pub async fn claim<R, F>(&self, id: ClaimId, read: R) -> Result<Option<StoredClaim>, StoreError>
    where
        R: Fn() -> F,
        F: Future<Output = Result<Option<StoredClaim>, StoreError>>,
    {
        self.claims.get(id, id, self, read).await
    }

    /// A buyer's first page; `read` asks the database, always for the same number of claims. Ask the buffer first. `hash` is
    /// the buyer's, as in the buyer's claim ids.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn page<R, F>(&self, user: UserId, hash: UserHash, read: R) -> Result<Page, StoreError>
    where
        R: Fn() -> F,
        F: Future<Output = Result<Page, StoreError>>,
    {
        self.pages.get(user, hash.address(), self, read).await
    }

    /// A buyer's cart; `read` asks the database. Ask the buffer first. `hash` is the buyer's.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn cart<R, F>(&self, user: UserId, hash: UserHash, read: R) -> Result<Arc<StoredCart>, StoreError>
    where
        R: Fn() -> F,
        F: Future<Output = Result<Arc<StoredCart>, StoreError>>,
    {
        self.carts.get(user, hash.address(), self, read).await
    }

    /// Outdates what is kept of `rows`' claims and buyers. After their commit, before they are retired.
    pub fn on_persisted(&self, rows: &[Row]) {
        let Some(upto) = rows.last().map(Row::seq) else { return };
        // First, so that a read which begins after a stamp was seen is never older than the stamp.
        self.committed.fetch_max(upto.0, Ordering::SeqCst);
        for row in rows {
            let id = match row {
                Row::Claim(row) => row.claim.claim_id,
                Row::End(end) => end.moved.claim_id,
                Row::Cart(row) => {
                    self.carts.stamp(row.address, upto);
                    continue;
                }
                Row::Campaign(_) | Row::Void(_) => continue,
            };
            self.claims.stamp(id, upto);
            self.pages.stamp(id.address(), upto);
        }
    }
}

/// A value, and the position up to which the database was surely complete when its read began.
#[derive(Clone)]
struct Stamped<V> {
    value: V,
    as_of: u64,
}

/// Values by key; a key's stamp is found by its mark, which all keys that one commit touches together may share.
struct Table<K, M, V> {
    /// None where nothing is kept.
    cache: Option<Cache<K, Stamped<V>>>,
    stamps: Box<[AtomicU64]>,
    hasher: RandomState,
    marks: PhantomData<fn(M)>,
}

impl<K: Copy + Eq + Hash + Send + Sync + 'static, M: Hash, V: Clone + Send + Sync + 'static> Table<K, M, V> {
    fn new(lifetime: Duration, weigh: impl Fn(&K, &Stamped<V>) -> u32 + Send + Sync + 'static) -> Self {
        let build =
            || Cache::builder().max_capacity(limits::CACHE_CLAIMS_MAX).time_to_live(lifetime).weigher(weigh).build();
        let cache = (!lifetime.is_zero()).then(build);
        let stamps = cache.iter().flat_map(|_| 0..limits::CACHE_STAMPS).map(|_| AtomicU64::new(0)).collect();
        // Keyed at random: a client that chooses ids can't choose which of them share a stamp.
        Self { cache, stamps, hasher: RandomState::new(), marks: PhantomData }
    }

    /// The stamp of what is kept under `mark`.
    fn place(&self, mark: M) -> Option<&AtomicU64> {
        let at = self.hasher.hash_one(mark) as usize % self.stamps.len().max(1);
        self.stamps.get(at)
    }

    fn stamp(&self, mark: M, upto: Seq) {
        if let Some(place) = self.place(mark) {
            place.fetch_max(upto.0, Ordering::SeqCst);
        }
    }

    async fn get<R, F>(&self, key: K, mark: M, local: &LocalCache, read: R) -> Result<V, StoreError>
    where
        R: Fn() -> F,
        F: Future<Output = Result<V, StoreError>>,
    {
        let Some(cache) = &self.cache else { return read().await };
        let needed = self.place(mark).map_or(0, |place| place.load(Ordering::SeqCst));
        let missed = AtomicBool::new(false);
        loop {
            let load = async {
                missed.store(true, Ordering::Relaxed);
                let as_of = local.committed.load(Ordering::SeqCst);
                Ok(Stamped { value: read().await?, as_of })
            };
            let found = cache.try_get_with(key, load).await.map_err(|e: Arc<StoreError>| (*e).clone());
            if let Ok(outdated) = &found
                && outdated.as_of < needed
            {
                // Ends: whatever read begins from here on finds at least `needed` committed.
                cache.invalidate(&key).await;
                continue;
            }
            let counter = if missed.into_inner() { &local.metrics.cache_misses } else { &local.metrics.cache_hits };
            counter.add(1);
            return found.map(|stamped| stamped.value);
        }
    }
}

#[cfg(test)]
mod tests;
