//! Turning scalpers back: limits per user and per address, in fixed memory.
//!
//! This module knows neither stock nor queue, nor HTTP: it is told who calls, and says yes, or who must wait how long.
//!
//! **Order of the checks**, the cheapest refusal first: what needs no state of ours (campaign closed, paused, sold out;
//! bad credentials) has been refused before a request comes here, so that a flood of those touches no slot. Then, in
//! one call, both rates: [`Antiscalper::check`] looks at the user's and at the address's, and takes from both only if
//! both allow it.
//!
//! - [`address`]: the caller's address behind trusted proxies, and its prefix.
//! - [`guests`]: how many connections an address holds at a time.
//! - [`rates`]: what a rate is, what a refusal says, GCRA by governor.
//! - [`slots`]: the fixed memory below it (P7: memory does not grow with attackers).
//!
//! The limits hold for one process and since its start. They degrade locally: after a restart, or for a key that had
//! to make room, a caller has its burst again. What must hold exactly (stock, one per buyer) is the book's business.

pub mod address;
pub mod guests;
pub mod rates;
pub mod slots;

use std::net::IpAddr;

pub use address::{RateKey, TrustedProxies, rate_key};
use rates::{Limiter, MonotoneTime};
pub use rates::{Rate, RateError, Refused};

/// The checks of one process, shared by all its threads.
#[derive(Debug)]
pub struct Antiscalper(Limiter);

impl Antiscalper {
    /// Keeps up to `max_keys` users and as many addresses, 8 bytes each; nothing for a rate that is off.
    pub fn new(user_rate: Rate, address_rate: Rate, max_keys: usize) -> Self {
        Self(Limiter::new(user_rate, address_rate, max_keys, MonotoneTime::default()))
    }

    /// Takes one unit from the user's and the address's rate, or from neither. A `None` is not limited.
    ///
    /// # Errors
    /// [`Refused`]: which rate is exhausted and when to come back. It has cost the caller nothing.
    pub fn check(&self, user: Option<&str>, address: Option<IpAddr>) -> Result<(), Refused> {
        self.0.check(user, address)
    }

    /// Keys that are kept: the metric `forebay_limiter_keys`.
    pub fn keys(&self) -> usize {
        self.0.keys()
    }

    /// Keys there is room for; 0 where no rate is on.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Keys that had to make room for others before they had replenished. When this grows, `max_keys` is too small for
    /// the attack.
    pub fn evictions(&self) -> u64 {
        self.0.evictions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_clock_limits_a_user_and_says_when_to_come_back() {
        let antiscalper = Antiscalper::new("3/h".parse().unwrap(), Rate::Off, 100);
        assert!((0..3).all(|_| antiscalper.check(Some("u-1"), None).is_ok()));
        let refused = antiscalper.check(Some("u-1"), None).unwrap_err();
        assert_eq!((refused.policy, refused.limit, refused.window_seconds), ("user", 3, 3_600));
        assert!(refused.retry_after_seconds() > 0 && refused.retry_after_seconds() <= 1_200 + 1);
        assert_eq!(antiscalper.check(Some("u-2"), None), Ok(()));
        assert_eq!((antiscalper.keys(), antiscalper.evictions(), antiscalper.capacity()), (2, 0, 104));
    }
}
