//! How a red packet is split: without bias, within its bounds, to the last minor unit.
//!
//! With `left` money and `n` shares: `lo = max(min, left − (n−1)·max)`, `hi = min(max, left − (n−1)·min)`,
//! `q, r = divmod(left, n)`, `h = min(q − lo, hi − q − [r>0])`; the share is `q − h + uniform{0..2h}`, plus one with
//! probability `r/n`. Its mean is `left/n` at every position, the bounds hold for it and for all that follow, the last
//! takes the rest. (The usual `min … 2 × mean` favours early or late buyers by up to 40 % when `min` is large.)

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::campaign::{RedPacketSpec, Split};
use super::{Money, Units};

/// What a packet's shares are drawn from: stored with the campaign, never shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u8; 16]);

impl Seed {
    /// A number below `bound`, the same for the same `(position, purpose)`. 128 bits reduced to at most 54: the bias is
    /// below 2^−74.
    fn below(&self, bound: u64, position: u64, purpose: u8) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write_u64(position);
        hasher.write_u8(purpose);
        (hasher.finish128().as_u128() % u128::from(bound)) as u64
    }
}

/// The next share of a packet with `left` money and `shares` shares to go (at least 1); `position` counts the shares
/// drawn so far, so that the sequence follows from the seed.
///
/// # Panics
/// Where no share is left, or the bounds can't be met: both are refused before a packet exists.
pub fn next_share(spec: &RedPacketSpec, seed: &Seed, left: Money, shares: Units, position: u64) -> Money {
    assert!(shares.0 > 0, "a share of a packet that has none left");
    let (left, n) = (i128::from(left.0), i128::from(shares.0));
    let (min, max) = (i128::from(spec.min.0), spec.max.map_or(i128::MAX >> 32, |m| i128::from(m.0)));
    let lo = min.max(left - (n - 1) * max);
    let hi = max.min(left - (n - 1) * min);
    let (q, r) = (left / n, left % n);
    let extra = i128::from(r > 0);
    let h = match spec.split {
        Split::Even => 0,
        Split::Random => (q - lo).min(hi - q - extra).max(0),
    };
    let mut share = q - h + i128::from(seed.below((2 * h + 1) as u64, position, 0));
    if r > 0 && i128::from(seed.below(n as u64, position, 1)) < r {
        share += 1;
    }
    assert!(lo <= share && share <= hi, "share {share} outside {lo}..={hi}");
    Money(share as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(total: i64, min: i64, max: Option<i64>, split: Split) -> RedPacketSpec {
        RedPacketSpec { total: Money(total), min: Money(min), max: max.map(Money), split }
    }

    fn split_all(spec: &RedPacketSpec, shares: u64, seed: u64) -> Vec<i64> {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let (mut left, seed) = (spec.total.0, Seed(key));
        (0..shares)
            .map(|i| {
                let share = next_share(spec, &seed, Money(left), Units(shares - i), i);
                left -= share.0;
                share.0
            })
            .collect()
    }

    #[test]
    fn shares_sum_to_the_total_within_the_bounds() {
        for (total, shares, min, max) in [
            (100, 18, 1, None),
            (4_000, 20, 100, None),
            (4_000, 20, 100, Some(300)),
            (18, 18, 1, None),
            (54, 18, 3, Some(3)),
            (1, 1, 1, None),
            (9_007_199_254_740_991, 3, 1, None),
            (1_000, 7, 100, Some(200)),
            (1_399, 7, 100, Some(200)),
        ] {
            for split in [Split::Random, Split::Even] {
                let spec = spec(total, min, max, split);
                assert_eq!(spec.check_feasible(spec.total, Units(shares)), Ok(()));
                for seed in 0..500 {
                    let all = split_all(&spec, shares, seed);
                    assert_eq!(all.iter().sum::<i64>(), total);
                    assert!(all.iter().all(|&s| s >= min && max.is_none_or(|m| s <= m)), "{all:?}");
                    if split == Split::Even {
                        assert!(all.iter().max().unwrap() - all.iter().min().unwrap() <= 1, "{all:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_position_has_the_same_mean() {
        for (total, shares, min, max) in [(100, 18, 1, None), (4_000, 20, 100, None), (4_000, 20, 100, Some(300))] {
            let spec = spec(total, min, max, Split::Random);
            let seeds = 20_000;
            let mut sums = vec![0i64; shares as usize];
            let mut squares = vec![0f64; shares as usize];
            for seed in 0..seeds {
                for (i, share) in split_all(&spec, shares, seed).into_iter().enumerate() {
                    sums[i] += share;
                    squares[i] += (share * share) as f64;
                }
            }
            let mean = total as f64 / shares as f64;
            for (i, (&sum, &square)) in sums.iter().zip(&squares).enumerate() {
                let seen = sum as f64 / seeds as f64;
                let deviation = (square / seeds as f64 - seen * seen).sqrt() / (seeds as f64).sqrt();
                // Five standard errors: a false alarm in about one of 10^6 positions; the seeds are fixed anyway.
                assert!(
                    (seen - mean).abs() < 5.0 * deviation + 1e-9,
                    "position {i}: {seen} against {mean} ± {deviation}"
                );
            }
        }
    }

    #[test]
    fn a_random_split_does_vary() {
        let spec = spec(10_000, 1, None, Split::Random);
        assert_ne!(split_all(&spec, 10, 1), split_all(&spec, 10, 2));
        assert_eq!(split_all(&spec, 10, 1), split_all(&spec, 10, 1));
    }

    #[test]
    fn one_yuan_over_eighteen_shares_leaves_nobody_empty_handed() {
        let spec = spec(100, 1, None, Split::Random);
        for seed in 0..2_000 {
            assert!(split_all(&spec, 18, seed).iter().all(|&s| s >= 1));
        }
    }

    #[test]
    fn hopeless_packets_are_refused_by_the_name_of_the_field() {
        for (total, shares, min, max, field) in [
            (17, 18, 1, None, "red_packet.min"),
            (100, 18, 6, None, "red_packet.min"),
            (100, 18, 1, Some(5), "red_packet.max"),
            (100, 18, 5, Some(4), "red_packet.max"),
        ] {
            let spec = spec(total, min, max, Split::Random);
            assert_eq!(spec.check_feasible(spec.total, Units(shares)).unwrap_err().field, field);
        }
    }
}
