//! How many connections an address holds at a time, where the operator limits that.
//!
//! - An address is what [`super::rate_key`] makes of it: an IPv6 subscriber owns a /64 and gets one share for it.
//! - The operator's own proxies are not limited: behind one address of theirs stand all buyers.
//! - **Bounded by what it counts**: an address is here only while it holds a connection, and connections have their own limit.
//! - One lock for all threads, held for a look-up: it is taken when a connection opens and when it closes, and not at all
//!   where nothing is limited.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::address::{RateKey, TrustedProxies, rate_key};

/// The connections of every address.
#[derive(Debug)]
pub struct Guests {
    most: NonZeroU32,
    proxies: TrustedProxies,
    open: Mutex<HashMap<RateKey, u32>>,
}

/// One connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Guest {
    /// None for a proxy of the operator's.
    counted: Option<(Arc<Guests>, RateKey)>,
}

impl Guests {
    /// At most `most` connections an address, but for `proxies`.
    pub fn new(most: NonZeroU32, proxies: TrustedProxies) -> Arc<Self> {
        Arc::new(Self { most, proxies, open: Mutex::default() })
    }

    /// A place for one more connection of `peer`; none where it has its share.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Guest> {
        if self.proxies.trusts(peer) {
            return Some(Guest { counted: None });
        }
        let key = rate_key(peer);
        let mut open = self.open();
        let count = open.entry(key).or_default();
        if *count >= self.most.get() {
            return None;
        }
        *count += 1;
        Some(Guest { counted: Some((self.clone(), key)) })
    }

    /// Addresses that hold connections.
    pub fn addresses(&self) -> usize {
        self.open().len()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<RateKey, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Some((guests, key)) = self.counted.take() else { return };
        if let Entry::Occupied(mut count) = guests.open().entry(key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests(most: u32) -> Arc<Guests> {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        Guests::new(NonZeroU32::new(most).unwrap(), proxies)
    }

    #[test]
    fn an_address_has_its_share_and_gets_a_place_back_with_each_connection_that_closes() {
        let guests = guests(2);
        let admit = |peer: &str| guests.admit(peer.parse().unwrap());
        let (first, second) = (admit("198.51.100.7"), admit("198.51.100.7"));
        assert!(first.is_some() && second.is_some() && admit("198.51.100.7").is_none());
        assert!(admit("::ffff:198.51.100.7").is_none(), "the same address in another form");
        let other = admit("198.51.100.8");
        assert!(other.is_some(), "another address has its own share");
        assert_eq!(guests.addresses(), 2);
        drop(first);
        assert!(admit("198.51.100.7").is_some());
        drop((second, other));
        assert_eq!(guests.addresses(), 0, "who holds nothing takes no memory");
    }

    #[test]
    fn a_subscriber_of_ipv6_has_one_share_for_all_its_addresses() {
        let guests = guests(1);
        let held = guests.admit("2001:db8:1:2::1".parse().unwrap());
        assert!(held.is_some() && guests.admit("2001:db8:1:2:ffff::9".parse().unwrap()).is_none());
        assert!(guests.admit("2001:db8:1:3::1".parse().unwrap()).is_some());
    }

    #[test]
    fn proxies_of_the_operators_are_not_limited() {
        let guests = guests(1);
        let held: Vec<_> = (0..100).map(|_| guests.admit("10.1.2.3".parse().unwrap())).collect();
        assert!(held.iter().all(Option::is_some));
        assert_eq!(guests.addresses(), 0);
    }
}
