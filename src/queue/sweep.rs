//! When the sequencer looks for what time brings about: claims that were not settled, campaigns that are long over.
//!
//! Time that leaps is not trusted: where the wall clock and the steady clock disagree about how long it was since the last
//! look, somebody has set a clock, and ten thousand reservations must not expire for it. Looking goes on when the
//! leap has been undone, or after a restart, which is the operator's word that the clock is right.

use crate::limits;
use crate::sale::Timestamp;

/// What a look at the clocks says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Not yet.
    NotYet,
    /// It is time to look for what is due.
    Due,
    /// It would be time, but the clock has leapt by so many microseconds and not come back.
    Leapt(i64),
}

/// The clocks as they were at the last look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sweep {
    last: Option<(Timestamp, i64)>,
    leapt: i64,
    next: i64,
    /// The campaign to look at next.
    at: usize,
}

impl Sweep {
    /// Looks at both clocks: the wall's, and microseconds of one that only ever runs forward.
    pub fn look(&mut self, wall: Timestamp, steady: i64) -> Look {
        if steady < self.next {
            return Look::NotYet;
        }
        self.next = steady + limits::SWEEP_DUE_MILLIS as i64 * 1_000;
        if let Some((wall_before, steady_before)) = self.last.replace((wall, steady)) {
            let step = (wall.0 - wall_before.0) - (steady - steady_before);
            if step.abs() >= limits::CLOCK_JUMP_MICROS {
                self.leapt += step;
            }
        }
        if self.leapt.abs() >= limits::CLOCK_JUMP_MICROS { Look::Leapt(self.leapt) } else { Look::Due }
    }

    /// The places of the campaigns to look at this time, of `count`: a few each time, all of them in turn.
    pub fn turn(&mut self, count: usize) -> std::ops::Range<usize> {
        let from = if self.at >= count { 0 } else { self.at };
        self.at = (from + limits::SWEEP_CAMPAIGNS).min(count);
        from..self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_clock_that_leaps_stops_the_looking_until_it_is_set_back() {
        let mut sweep = Sweep::default();
        let mut look = |wall: i64, steady: i64| sweep.look(Timestamp(wall * SECOND), steady * SECOND);
        assert_eq!(look(1_000, 10), Look::Due);
        assert_eq!(look(1_001, 11), Look::Due);
        // A second more or less is no leap, and a process that slept saw both clocks go on.
        assert_eq!(look(1_003, 12), Look::Due);
        assert_eq!(look(4_603, 3_612), Look::Due);
        assert_eq!(look(8_204, 3_613), Look::Leapt(3_600 * SECOND));
        assert_eq!(look(8_205, 3_614), Look::Leapt(3_600 * SECOND));
        assert_eq!(look(4_606, 3_615), Look::Due);
        assert_eq!(look(1_006, 3_616), Look::Leapt(-3_601 * SECOND));
    }

    #[test]
    fn it_is_time_again_after_a_while_only() {
        let mut sweep = Sweep::default();
        assert_eq!(sweep.look(Timestamp(0), 0), Look::Due);
        assert_eq!(sweep.look(Timestamp(1_000), 1_000), Look::NotYet);
        let later = limits::SWEEP_DUE_MILLIS as i64 * 1_000;
        assert_eq!(sweep.look(Timestamp(later), later), Look::Due);
    }

    #[test]
    fn every_campaign_has_its_turn() {
        let (mut sweep, count) = (Sweep::default(), limits::SWEEP_CAMPAIGNS * 2 + 5);
        let mut seen: Vec<usize> = (0..4).flat_map(|_| sweep.turn(count)).collect();
        seen.truncate(count);
        assert_eq!(seen, Vec::from_iter(0..count));
        assert_eq!(sweep.turn(0), 0..0);
    }
}
