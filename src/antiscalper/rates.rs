//! Rates and the limiter: governor's GCRA for each of two dimensions, over the [`BoundedStore`].
//!
//! - **Peek both, then take both.** A refusal by one dimension must not cost a unit of the other. governor has no peek,
//!   so each dimension is two governor limiters of one quota over the same slots, one of which only reads. Between
//!   peeking and taking another thread may take the last unit of the second: then the first is given back.
//! - **One clock read a check.** Both dimensions, peeked and taken, see the same moment: governor's clock here,
//!   `CheckClock`, returns what the check has read from its [`Time`].
//! - **All time is on the grid of ticks** (1,024 ns), the clock's and the quota's, so that the store rounds nothing. The
//!   interval between units is rounded up: by less than a tick, and never past the configured rate.
//! - **Nothing is allocated by a check, and a rate that is off costs nothing**: no hash, no clock, no memory.

use std::cell::Cell;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::{NotUntil, Quota, RateLimiter};
use siphasher::sip::SipHasher13;

use super::address::rate_key;
use super::slots::{BoundedStore, ReadOnly, TICK_NANOS, Written};
use crate::clock::tick;
pub use crate::sale::rate::{Rate, RateError, Window};

/// A refusal: all that the reply says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} requests in {window_seconds} s for this {policy}; try again in {} s", self.retry_after_seconds())]
pub struct Refused {
    /// The dimension that is exhausted: `"user"` or `"address"`.
    pub policy: &'static str,
    /// Requests a window.
    pub limit: u32,
    /// Seconds of the window.
    pub window_seconds: u64,
    /// The time until one request will pass.
    pub retry_after: Duration,
}

impl Refused {
    /// `Retry-After`: whole seconds, rounded up, at least 1.
    pub fn retry_after_seconds(&self) -> u64 {
        (self.retry_after.as_secs() + u64::from(self.retry_after.subsec_nanos() > 0)).max(1)
    }

    /// The value of `RateLimit`, such as `"user";r=0;t=1` (draft-ietf-httpapi-ratelimit-headers-10, section 4).
    pub fn rate_limit(&self) -> impl fmt::Display + use<> {
        RateLimitField { policy: self.policy, seconds: self.retry_after_seconds() }
    }

    /// The value of `RateLimit-Policy`, such as `"user";q=10;w=1` (the same draft, section 3).
    pub fn rate_limit_policy(&self) -> impl fmt::Display + use<> {
        RateLimitPolicyField(*self)
    }
}

struct RateLimitField {
    policy: &'static str,
    seconds: u64,
}

impl fmt::Display for RateLimitField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\";r=0;t={}", self.policy, self.seconds)
    }
}

struct RateLimitPolicyField(Refused);

impl fmt::Display for RateLimitPolicyField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\";q={};w={}", self.0.policy, self.0.limit, self.0.window_seconds)
    }
}

/// Where a limiter has its time from.
pub trait Time {
    /// Nanoseconds since a fixed moment of the past; never less than an earlier answer.
    fn nanos(&self) -> u64;
}

/// The machine's monotone clock, from the moment it was made.
#[derive(Debug, Clone, Copy)]
pub struct MonotoneTime(Instant);

impl Default for MonotoneTime {
    fn default() -> Self {
        Self(tick())
    }
}

impl Time for MonotoneTime {
    fn nanos(&self) -> u64 {
        u64::try_from(tick().duration_since(self.0).as_nanos()).unwrap_or(u64::MAX)
    }
}

thread_local! {
    static CHECK_TIME: Cell<u64> = const { Cell::new(0) };
}

/// governor's clock: the moment of the check that this thread is in, in nanoseconds on the grid of ticks. Without it
/// governor would read the clock at every step, and two steps of one check would see two times.
#[derive(Debug, Clone, Copy)]
struct CheckClock;

impl CheckClock {
    fn set(nanos: u64) {
        CHECK_TIME.set(nanos & !(TICK_NANOS - 1));
    }
}

impl Clock for CheckClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        CHECK_TIME.get().into()
    }
}

type Governor<S> = RateLimiter<u64, S, CheckClock, NoOpMiddleware<Nanos>>;

/// One quota over its own store.
#[derive(Debug)]
struct Dimension {
    policy: &'static str,
    limit: NonZeroU32,
    window: Window,
    taking: Governor<BoundedStore>,
    peeking: Governor<ReadOnly>,
    store: BoundedStore,
}

impl Dimension {
    fn new(policy: &'static str, rate: Rate, max_keys: usize) -> Option<Self> {
        let Rate::Per { limit, window } = rate else { return None };
        let quota = on_grid(limit, window);
        let store = BoundedStore::new(max_keys);
        CheckClock::set(0); // a limiter counts from the moment at which it was made, the store from the clock's zero
        let taking = RateLimiter::new(quota, store.clone(), CheckClock);
        let peeking = RateLimiter::new(quota, store.read_only(), CheckClock);
        Some(Self { policy, limit, window, taking, peeking, store })
    }

    fn peek(&self, key: u64) -> Result<(), Refused> {
        self.peeking.check_key(&key).map_err(|until| self.refused(&until))
    }

    fn take(&self, key: u64) -> Result<Written, Refused> {
        match self.taking.check_key(&key) {
            Ok(()) => Ok(BoundedStore::last_write()),
            Err(until) => Err(self.refused(&until)),
        }
    }

    #[cold]
    fn refused(&self, until: &NotUntil<Nanos>) -> Refused {
        Refused {
            policy: self.policy,
            limit: self.limit.get(),
            window_seconds: self.window.seconds(),
            retry_after: until.wait_time_from(CheckClock.now()),
        }
    }
}

/// The quota with its interval rounded up to whole ticks.
fn on_grid(limit: NonZeroU32, window: Window) -> Quota {
    let ticks = (window.seconds() * 1_000_000_000).div_ceil(u64::from(limit.get()) * TICK_NANOS);
    let interval = Duration::from_nanos(ticks * TICK_NANOS);
    Quota::with_period(interval).expect("a window is at least one tick").allow_burst(limit)
}

/// The limits per user and per address.
#[derive(Debug)]
pub struct Limiter<T = MonotoneTime> {
    user: Option<Dimension>,
    address: Option<Dimension>,
    /// Keyed at random for each process, so that nobody can choose keys that meet in one bucket.
    hasher: SipHasher13,
    time: T,
}

impl<T: Time> Limiter<T> {
    /// Room for `max_keys` users and as many addresses, 8 bytes each; none for a rate that is off.
    pub fn new(user_rate: Rate, address_rate: Rate, max_keys: usize, time: T) -> Self {
        Self {
            user: Dimension::new("user", user_rate, max_keys),
            address: Dimension::new("address", address_rate, max_keys),
            hasher: SipHasher13::new_with_keys(rand::random(), rand::random()),
            time,
        }
    }

    /// Takes one unit of each dimension that is on and known, or none at all. Where both refuse, the one that makes the
    /// caller wait longer is reported.
    ///
    /// # Errors
    /// [`Refused`] with what the reply needs.
    pub fn check(&self, user: Option<&str>, address: Option<IpAddr>) -> Result<(), Refused> {
        let user = self.user.as_ref().zip(user);
        let address = self.address.as_ref().zip(address);
        let user_key = |id: &str| self.hasher.hash(id.as_bytes());
        let address_key = |address| self.hasher.hash(rate_key(address).as_bytes());
        if user.is_some() || address.is_some() {
            CheckClock::set(self.time.nanos());
        }
        match (user, address) {
            (None, None) => Ok(()),
            (Some((users, id)), None) => users.take(user_key(id)).map(drop),
            (None, Some((addresses, address))) => addresses.take(address_key(address)).map(drop),
            (Some((users, id)), Some((addresses, address))) => {
                take_both(users, user_key(id), addresses, address_key(address))
            }
        }
    }

    /// Keys that are kept, of both dimensions (estimated for large stores).
    pub fn keys(&self) -> usize {
        self.stores().map(BoundedStore::len).sum()
    }

    /// Keys there is room for, in both dimensions; 0 where no rate is on.
    pub fn capacity(&self) -> usize {
        self.stores().map(BoundedStore::capacity).sum()
    }

    /// Keys that lost their state to others before it had replenished.
    pub fn evictions(&self) -> u64 {
        self.stores().map(BoundedStore::evictions).sum()
    }

    fn stores(&self) -> impl Iterator<Item = &BoundedStore> {
        [&self.user, &self.address].into_iter().flatten().map(|dimension| &dimension.store)
    }
}

fn take_both(users: &Dimension, user: u64, addresses: &Dimension, address: u64) -> Result<(), Refused> {
    match (users.peek(user), addresses.peek(address)) {
        (Ok(()), Ok(())) => commit_both(users, user, addresses, address),
        (Err(one), Err(other)) => Err(if other.retry_after > one.retry_after { other } else { one }),
        (one, other) => one.and(other),
    }
}

/// Another thread may have taken the last unit of the address since it was peeked: then the user's is given back.
fn commit_both(users: &Dimension, user: u64, addresses: &Dimension, address: u64) -> Result<(), Refused> {
    let taken = users.take(user)?;
    addresses.take(address).map(drop).inspect_err(|_| users.store.undo(taken))
}

#[cfg(test)]
#[path = "rates_tests.rs"]
mod tests;
