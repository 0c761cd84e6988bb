//! What the limiter promises, on a scripted clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use governor::state::keyed::HashMapStateStore;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Default)]
struct ScriptedTime(Arc<AtomicU64>);

impl ScriptedTime {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Time for ScriptedTime {
    fn nanos(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

fn limiter(user: &str, address: &str, max_keys: usize) -> (Limiter<ScriptedTime>, ScriptedTime) {
    let time = ScriptedTime::default();
    time.advance(Duration::from_secs(7));
    (Limiter::new(rate(user), rate(address), max_keys, time.clone()), time)
}

const HOME: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)));

#[test]
fn a_rate_is_read_as_it_is_written() {
    for text in ["off", "1/s", "10/s", "600/m", "36000/h", "1000000/s"] {
        assert_eq!(rate(text).to_string(), text);
    }
    let ten = Rate::Per { limit: NonZeroU32::new(10).unwrap(), window: Window::Second };
    assert_eq!(rate("10/s"), ten);
    assert_eq!(serde_json::from_str::<Rate>("\"10/s\"").unwrap(), ten);
}

#[test]
fn what_is_no_rate_is_refused_with_what_was_given_and_what_is_expected() {
    for text in
        ["", "10", "/s", "10/", "10/d", "10/S", "-1/s", "+1/s", "1.5/s", " 10/s", "10 /s", "10/s ", "Off", "１/s"]
    {
        let error = text.parse::<Rate>().unwrap_err();
        assert_eq!(error, RateError::Malformed(text.to_owned()));
        assert!(error.to_string().contains(&format!("{text:?}")) && error.to_string().contains("\"10/s\""));
    }
    for text in ["0/s", "1000001/s", "4294967296/m", "99999999999999999999/h"] {
        let error = text.parse::<Rate>().unwrap_err();
        assert_eq!(error, RateError::OutOfRange(text.to_owned()));
        assert!(error.to_string().contains("1 to 1000000"));
    }
}

#[test]
fn a_burst_passes_then_the_steady_rate() {
    for (text, limit, window) in [("10/s", 10, 1), ("600/m", 600, 60), ("36000/h", 36_000, 3_600), ("7/s", 7, 1)] {
        let (limiter, time) = limiter(text, "off", 100);
        let passed = |tries: u32| (0..tries).filter(|_| limiter.check(Some("u"), None).is_ok()).count() as u32;
        assert_eq!(passed(limit + 5), limit, "{text}");
        let (exact, tick) = (Duration::from_secs(window) / limit, Duration::from_nanos(TICK_NANOS));
        let Rate::Per { limit, window } = rate(text) else { unreachable!() };
        let interval = on_grid(limit, window).replenish_interval();
        assert!(interval >= exact && interval - exact < tick, "{text}");
        for _ in 0..20 {
            time.advance(interval - tick);
            assert_eq!(passed(1), 0, "{text}");
            time.advance(tick);
            assert_eq!(passed(2), 1, "{text}");
        }
        // Whole again after a window, which is longer by less than a tick a unit.
        time.advance(interval * limit.get());
        assert_eq!(passed(limit.get() + 5), limit.get(), "{text}");
    }
}

#[test]
fn the_wait_that_a_refusal_names_is_neither_too_short_nor_too_long() {
    let (limiter, time) = limiter("4/m", "off", 100);
    assert!((0..4).all(|_| limiter.check(Some("u"), None).is_ok()));
    let wait = limiter.check(Some("u"), None).unwrap_err().retry_after;
    assert!(wait <= Duration::from_secs(15) + Duration::from_nanos(TICK_NANOS));
    time.advance(wait - Duration::from_nanos(TICK_NANOS));
    assert!(limiter.check(Some("u"), None).is_err());
    time.advance(Duration::from_nanos(2 * TICK_NANOS));
    assert!(limiter.check(Some("u"), None).is_ok());
}

#[test]
fn a_refusal_renders_the_headers_of_the_draft() {
    let mut refused = Refused { policy: "user", limit: 10, window_seconds: 1, retry_after: Duration::from_millis(100) };
    assert_eq!(refused.rate_limit_policy().to_string(), "\"user\";q=10;w=1");
    assert_eq!(refused.rate_limit().to_string(), "\"user\";r=0;t=1");
    for (nanos, seconds) in [(0, 1), (1, 1), (1_000_000_000, 1), (1_000_000_001, 2), (1_199_999_999_999, 1_200)] {
        refused.retry_after = Duration::from_nanos(nanos);
        assert_eq!(refused.retry_after_seconds(), seconds);
    }
    assert!(refused.to_string().contains("more than 10 requests in 1 s for this user; try again in 1200 s"));
}

#[test]
fn a_refusal_by_one_dimension_costs_nothing_of_the_other() {
    let (limiter, time) = limiter("3/m", "5/m", 100);
    assert!((0..3).all(|_| limiter.check(Some("a"), HOME).is_ok()));
    for _ in 0..50 {
        assert_eq!(limiter.check(Some("a"), HOME).unwrap_err().policy, "user");
    }
    assert!((0..2).all(|_| limiter.check(Some("b"), HOME).is_ok()), "the address still has 2 of its 5");
    for _ in 0..50 {
        assert_eq!(limiter.check(Some("b"), HOME).unwrap_err().policy, "address");
    }
    let elsewhere = Some("203.0.113.1".parse().unwrap());
    assert!(limiter.check(Some("b"), elsewhere).is_ok(), "the user still has 1 of its 3");
    assert_eq!(limiter.check(Some("b"), elsewhere).unwrap_err().policy, "user");
    assert_eq!(limiter.check(Some("a"), HOME).unwrap_err().policy, "user", "the longer wait of the two");
    time.advance(Duration::from_secs(61));
    assert!((0..3).all(|_| limiter.check(Some("a"), HOME).is_ok()));
}

#[test]
fn the_last_unit_of_an_address_gone_since_it_was_peeked_costs_the_user_nothing() {
    let users = Dimension::new("user", rate("2/h"), 100).unwrap();
    let addresses = Dimension::new("address", rate("1/h"), 100).unwrap();
    assert_eq!((users.peek(1), addresses.peek(2)), (Ok(()), Ok(())));
    assert!(addresses.take(2).is_ok(), "another thread");
    assert!((0..5).all(|_| commit_both(&users, 1, &addresses, 2).is_err()));
    assert!(users.take(1).is_ok() && users.take(1).is_ok());
    assert!(users.take(1).is_err());
}

#[test]
fn of_two_refusals_the_longer_wait_is_reported() {
    for (user, address, reported) in [("1/s", "1/m", "address"), ("1/m", "1/s", "user")] {
        let (limiter, _) = limiter(user, address, 100);
        assert!(limiter.check(Some("u"), HOME).is_ok());
        assert_eq!(limiter.check(Some("u"), HOME).unwrap_err().policy, reported);
    }
}

#[test]
fn what_is_off_or_unknown_is_not_limited() {
    let (off, _) = limiter("off", "off", 100);
    assert!((0..1_000).all(|_| off.check(Some("u"), HOME).is_ok()));
    assert_eq!((off.keys(), off.evictions()), (0, 0));
    let (on, _) = limiter("1/s", "1/s", 100);
    assert!((0..1_000).all(|_| on.check(None, None).is_ok()));
    assert!(on.check(Some("u"), None).is_ok() && on.check(None, HOME).is_ok());
    assert!(on.check(Some("u"), None).is_err() && on.check(None, HOME).is_err());
    assert_eq!(on.keys(), 2);
}

#[test]
fn a_neighbour_in_the_64_shares_the_limit() {
    let (limiter, _) = limiter("off", "1/s", 100);
    let from = |text: &str| limiter.check(None, Some(text.parse().unwrap()));
    assert!(from("2001:db8::1").is_ok());
    assert_eq!(from("2001:db8::2").unwrap_err().policy, "address");
    assert!(from("2001:db8:0:1::1").is_ok());
}

#[test]
fn a_million_attackers_neither_grow_the_memory_nor_reset_a_punished_key() {
    let (limiter, time) = limiter("10/s", "off", 10_000);
    let store = &limiter.user.as_ref().unwrap().store;
    let capacity = store.capacity();
    let mut passed = 0;
    for attacker in 0..1_000_000_u32 {
        if attacker % 100 == 0 {
            passed += u32::from(limiter.check(Some("scalper"), None).is_ok());
        }
        assert!(limiter.check(Some(&format!("u-{attacker}")), None).is_ok());
        time.advance(Duration::from_micros(1)); // 100,000 keys are live at once, ten times what there is room for
    }
    assert!(passed <= 10 + 10, "{passed} passed: a burst, and 10 in the second that it took");
    assert!(passed >= 19, "{passed} passed: a limit is no ban");
    assert_eq!(store.capacity(), capacity);
    assert!(limiter.keys() <= capacity && limiter.keys() > capacity * 99 / 100);
    assert!(limiter.evictions() > 500_000);
}

#[test]
fn threads_that_hammer_one_key_get_the_burst_and_no_more() {
    for round in 0..50 {
        // One bucket, and a crowd that keeps evicting in it: the hardest place to stay exact.
        let (limiter, _) = limiter("100/h", "150/h", 8);
        assert!((0..2).all(|_| limiter.check(Some("hammered"), HOME).is_ok()), "more than one of the crowd takes");
        let passed = AtomicU32::new(2);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (limiter, passed) = (&limiter, &passed);
                scope.spawn(move || {
                    for i in 0..200 {
                        let _ = limiter.check(Some(&format!("{thread}-{i}")), None);
                        if limiter.check(Some("hammered"), HOME).is_ok() {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 100, "round {round}");
    }
}

#[test]
fn threads_that_race_for_an_addresss_last_units_burn_no_units_of_users() {
    for round in 0..200 {
        let (limiter, _) = limiter("1/h", "10/h", 1_000);
        let refused = std::thread::scope(|scope| {
            let threads = [0, 1, 2, 3].map(|thread| {
                let limiter = &limiter;
                scope.spawn(move || {
                    let users = (0..10).map(|i| format!("{thread}-{i}"));
                    users.filter(|user| limiter.check(Some(user), HOME).is_err()).collect::<Vec<_>>()
                })
            });
            threads.map(|thread| thread.join().unwrap()).concat()
        });
        assert_eq!(refused.len(), 30, "round {round}");
        assert!(refused.iter().all(|user| limiter.check(Some(user), None).is_ok()), "round {round}");
    }
}

proptest! {
    #[test]
    fn the_store_agrees_with_governors_own_while_nothing_is_evicted(
        limit in 1_u32..200,
        window in prop_oneof![Just(Window::Second), Just(Window::Minute), Just(Window::Hour)],
        start in prop_oneof![Just(0_u64), any::<u32>().prop_map(|s| u64::from(s) << 20)],
        steps in prop::collection::vec((0_u64..5, prop_oneof![Just(0_u64), 1_u64..2_000_000_000, 1_u64..20_000_000_000_000]), 1..400),
    ) {
        let quota = on_grid(NonZeroU32::new(limit).unwrap(), window);
        let ours = Dimension::new("user", Rate::Per { limit: NonZeroU32::new(limit).unwrap(), window }, 1_000).unwrap();
        let theirs: Governor<HashMapStateStore<u64>> =
            RateLimiter::new(quota, HashMapStateStore::new(HashMap::default()), CheckClock);
        let mut now = start;
        for (who, pause) in steps {
            now += pause;
            CheckClock::set(now);
            let key = who.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let expected = theirs.check_key(&key).map_err(|until| ours.refused(&until));
            prop_assert_eq!(ours.peek(key), expected);
            prop_assert_eq!(ours.take(key).map(drop), expected);
        }
        prop_assert_eq!(ours.store.evictions(), 0);
    }
}
