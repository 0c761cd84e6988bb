//! How long to wait before the next attempt: decorrelated jitter, so that nodes that lost one database together don't
//! come back to it together. (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)

use std::time::Duration;

use crate::limits::{RETRY_MAX_MILLIS, RETRY_MIN_MILLIS};

/// The waits between attempts. The same seed gives the same waits.
#[derive(Debug, Clone)]
pub struct Backoff {
    state: u64,
    last: u64,
}

impl Backoff {
    /// Waits drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, last: 0 }
    }

    /// The next wait: between [`RETRY_MIN_MILLIS`] and three times the last one, at most [`RETRY_MAX_MILLIS`].
    pub fn next_wait(&mut self) -> Duration {
        let (least, most) = (RETRY_MIN_MILLIS * 1_000, RETRY_MAX_MILLIS * 1_000);
        let upper = (self.last * 3).clamp(least * 3, most * 3);
        let micros = (least + self.random() % (upper - least + 1)).min(most);
        self.last = micros;
        Duration::from_micros(micros)
    }

    /// An attempt succeeded: the next failure begins with a short wait again.
    pub fn reset(&mut self) {
        self.last = 0;
    }

    /// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). Our own, because a
    /// simulation's seeds must give the same run after a library has changed its generator.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_their_bounds_and_start_anew_after_a_success() {
        let (least, most) = (Duration::from_millis(RETRY_MIN_MILLIS), Duration::from_millis(RETRY_MAX_MILLIS));
        for seed in 0..200 {
            let mut backoff = Backoff::new(seed);
            let mut last = least;
            let waits: Vec<_> = (0..50).map(|_| backoff.next_wait()).collect();
            for &wait in &waits {
                assert!(wait >= least && wait <= most && wait <= last * 3, "seed {seed}: {wait:?} after {last:?}");
                last = wait;
            }
            assert!(waits.contains(&most), "seed {seed}: a long outage is asked about rarely: {waits:?}");
            backoff.reset();
            assert!(backoff.next_wait() <= least * 3, "seed {seed}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_waits_and_two_seeds_different_ones() {
        let waits = |seed| {
            let mut backoff = Backoff::new(seed);
            std::array::from_fn::<_, 8, _>(|_| backoff.next_wait())
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }
}
