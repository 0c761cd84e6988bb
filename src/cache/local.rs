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
//! may share one: that costs a read, never a wrong answer. Claims and pages have the stamp of the buyer's 40-bit address, which
//! every claim id carries: the end of a claim names no buyer, and touches the page all the same. What no commit of this process
//! touches (an operator's SQL) and what is requeued from the dead letters is seen within the lifetime.
//!
//! Where other processes write the rows, steps 1 and 3 are a worker's, and 2 is a message ([`LocalCache::hear`]) that may come
//! late or never. Whoever misses an entry in the buffer knows from the same look up to where Redis says that the database is. If
//! everything up to there was heard, stamps tell as above; if not, only what was read since is used (`progress.rs`). There a
//! cache that all processes share may answer before the database does, by the same rule ([`super::tier`]).

use std::fmt::Display;
use std::future::Future;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use moka::future::Cache;

use super::progress::{Moment, Progress};
use super::tier::{Found, Tier};
use super::touched::Touched;
use super::value::Value;
use crate::limits;
use crate::metrics::Metrics;
use crate::plant::{self, Bug};
use crate::sale::{ClaimId, Seq, UserHash, UserId};
use crate::store::{Row, StoreError, StoredCart, StoredClaim};

/// A buyer's first page, newest claims first.
pub type Page = Arc<Vec<StoredClaim>>;

/// The cache.
pub struct LocalCache {
    claims: Table<ClaimId, Option<StoredClaim>>,
    pages: Table<UserId, Page>,
    carts: Table<UserId, Arc<StoredCart>>,
    stamps: Stamps,
    cart_stamps: Stamps,
    progress: Progress,
    tier: Option<Arc<dyn Tier>>,
    metrics: Arc<Metrics>,
}

impl LocalCache {
    /// A cache in the process that writes the rows, whose values live for `lifetime`; zero for none: then every read goes to the
    /// database.
    pub fn new(lifetime: Duration, metrics: Arc<Metrics>) -> Self {
        Self::with(lifetime, metrics, Progress::default(), None)
    }

    /// A cache in a process that hears of rows that others write. `retired` is the position up to which the database is, as
    /// far as anybody here knows: whoever has missed an entry in the buffer finds that position or a later one there.
    /// Behind it stands `tier`, if there is one. A `lifetime` of zero leaves out both.
    pub fn beside(
        lifetime: Duration,
        metrics: Arc<Metrics>,
        retired: impl Fn() -> Seq + Send + Sync + 'static,
        tier: Option<Arc<dyn Tier>>,
    ) -> Self {
        Self::with(lifetime, metrics, Progress::beside(Box::new(retired)), tier)
    }

    fn with(lifetime: Duration, metrics: Arc<Metrics>, progress: Progress, tier: Option<Arc<dyn Tier>>) -> Self {
        let pages = |_: &UserId, value: &Stamped<Page>| 1 + value.value.len() as u32;
        let carts = |_: &UserId, value: &Stamped<Arc<StoredCart>>| 1 + value.value.lines.len() as u32;
        let stamps = || Stamps::new(if lifetime.is_zero() { 0 } else { limits::CACHE_STAMPS });
        Self {
            claims: Table::new('c', lifetime, |_, _| 1),
            pages: Table::new('p', lifetime, pages),
            carts: Table::new('t', lifetime, carts),
            stamps: stamps(),
            cart_stamps: stamps(),
            progress,
            tier,
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
        self.claims.get(id, self.stamps.of(id.address()), self, read).await
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
        self.pages.get(user, self.stamps.of(hash.address()), self, read).await
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
        self.carts.get(user, self.cart_stamps.of(hash.address()), self, read).await
    }

    /// Outdates what is kept of `rows`' claims and buyers. After their commit, before they are retired.
    pub fn on_persisted(&self, rows: &[Row]) {
        let Some(upto) = rows.last().map(Row::seq) else { return };
        self.progress.hear(Seq(0), upto, || {
            for row in rows {
                match row {
                    Row::Claim(row) => self.stamps.stamp(row.claim.claim_id.address(), upto),
                    Row::End(end) => self.stamps.stamp(end.moved.claim_id.address(), upto),
                    Row::Cart(row) => self.cart_stamps.stamp(row.address, upto),
                    Row::Campaign(_) | Row::Void(_) => {}
                }
            }
        });
    }

    /// Outdates what another process has written or changed. One thread only, in whatever order messages arrive.
    pub fn hear(&self, message: &Touched) {
        match message {
            Touched::Written { after, upto, claims, carts } => self.progress.hear(*after, *upto, || {
                claims.iter().for_each(|address| self.stamps.stamp(*address, *upto));
                carts.iter().for_each(|address| self.cart_stamps.stamp(*address, *upto));
            }),
            Touched::Changed => self.progress.forget(),
        }
    }

    /// Outdates everything: messages may have been lost that no position tells of.
    pub fn forget(&self) {
        self.progress.forget();
    }

    /// The position up to which the database is, as far as anybody here knows; and the one up to which messages have told.
    pub fn told(&self) -> (Seq, Seq) {
        self.progress.told()
    }
}

/// A value, and when its read began.
#[derive(Clone)]
struct Stamped<V> {
    value: V,
    at: Moment,
}

/// The last commits that touched what lies at an address, all addresses in a table of fixed size.
struct Stamps {
    all: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Stamps {
    fn new(count: usize) -> Self {
        // Keyed at random: a client that chooses ids can't choose which of them share a stamp.
        Self { all: (0..count).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }

    /// None where nothing is kept.
    fn of(&self, address: u64) -> Option<&AtomicU64> {
        self.all.get(self.hasher.hash_one(address) as usize % self.all.len().max(1))
    }

    fn stamp(&self, address: u64, upto: Seq) {
        if let Some(stamp) = self.of(address) {
            stamp.fetch_max(upto.0, Ordering::SeqCst);
        }
    }
}

/// Values by key.
struct Table<K, V> {
    /// What its keys' names begin with where processes share them.
    kind: char,
    /// None where nothing is kept.
    cache: Option<Cache<K, Stamped<V>>>,
}

impl<K, V> Table<K, V>
where
    K: Copy + Eq + Hash + Display + Send + Sync + 'static,
    V: Value + Clone + Send + Sync + 'static,
{
    fn new(kind: char, lifetime: Duration, weigh: impl Fn(&K, &Stamped<V>) -> u32 + Send + Sync + 'static) -> Self {
        let build =
            || Cache::builder().max_capacity(limits::CACHE_CLAIMS_MAX).time_to_live(lifetime).weigher(weigh).build();
        Self { kind, cache: (!lifetime.is_zero()).then(build) }
    }

    async fn get<R, F>(&self, key: K, stamp: Option<&AtomicU64>, local: &LocalCache, read: R) -> Result<V, StoreError>
    where
        R: Fn() -> F,
        F: Future<Output = Result<V, StoreError>>,
    {
        let Some(cache) = &self.cache else { return local.ask(&read).await };
        let needed = local.progress.needed(stamp);
        let missed = AtomicBool::new(false);
        loop {
            let load = async {
                missed.store(true, Ordering::Relaxed);
                self.load(key, stamp, local, &read).await
            };
            let found = cache.try_get_with(key, load).await.map_err(|e: Arc<StoreError>| (*e).clone());
            if let Ok(outdated) = &found
                && !outdated.at.serves(needed)
            {
                // Ends: whatever read begins from here on serves.
                cache.invalidate(&key).await;
                continue;
            }
            let counter = if missed.into_inner() { &local.metrics.cache_misses } else { &local.metrics.cache_hits };
            counter.add(1);
            return found.map(|stamped| stamped.value);
        }
    }

    /// Looks where processes share values, and then in the database.
    async fn load<R, F>(
        &self,
        key: K,
        stamp: Option<&AtomicU64>,
        local: &LocalCache,
        read: &R,
    ) -> Result<Stamped<V>, StoreError>
    where
        R: Fn() -> F,
        F: Future<Output = Result<V, StoreError>>,
    {
        let Some(tier) = &local.tier else {
            let at = local.progress.now();
            return Ok(Stamped { value: local.ask(read).await?, at });
        };
        // Anew: who waits for this may have come since the first one asked.
        let needed = local.progress.needed(stamp);
        let name = format!("{}:{key}", self.kind);
        let metrics = &local.metrics.cache_redis;
        let mark = match tier.get(name.clone()).await {
            Found::Away => {
                metrics.away.add(1);
                None
            }
            Found::Nothing(mark) => {
                metrics.misses.add(1);
                Some(mark)
            }
            Found::Value(mark, as_of, bytes) => {
                let at = Moment { as_of: as_of.0, forgets: needed.forgets };
                if at.serves(needed)
                    && let Some(value) = V::decode(&bytes)
                {
                    metrics.hits.add(1);
                    return Ok(Stamped { value, at });
                }
                metrics.misses.add(1);
                Some(mark)
            }
        };
        let mut at = local.progress.now();
        let value = local.ask(read).await?;
        if plant::on(Bug::ReadAtItsEnd) {
            at = local.progress.now();
        }
        if let Some(mark) = mark {
            tier.put(name, mark, Seq(at.as_of), value.encode());
        }
        Ok(Stamped { value, at })
    }
}

impl LocalCache {
    /// Asks the database.
    async fn ask<R, F, V>(&self, read: &R) -> Result<V, StoreError>
    where
        R: Fn() -> F,
        F: Future<Output = Result<V, StoreError>>,
    {
        let read = read().await;
        let metrics = &self.metrics.cache_database;
        if read.is_ok() {
            metrics.hits.add(1)
        } else {
            metrics.misses.add(1)
        }
        read
    }
}

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod tests;
