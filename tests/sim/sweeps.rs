//! What time brings about, driven by the world's two clocks: the wall's, which jumps, and a steady one.
//!
//! The world keeps its own account of what the clocks have shown since the process began, and so knows when the
//! sequencer must look for what is due, and when it must not, because a clock has leapt.

use std::ops::Range;

use forebay::sale::Timestamp;

use crate::model::What;
use crate::plan::SECOND;
use crate::world::World;

/// A leap, and the time between two looks, in microseconds.
const LEAP: i64 = 5 * SECOND;
const LOOK: i64 = SECOND / 10;

/// What one process has seen of the clocks.
#[derive(Debug, Default)]
pub struct Clocks {
    last: Option<(i64, i64)>,
    /// By how much the wall clock has leapt, and not come back.
    leapt: i64,
    next: i64,
    /// Up to when the next step lets claims expire.
    pub upto: Option<i64>,
    /// The sale to look at next.
    at: usize,
}

/// What a step begins with: up to when claims expire, what is in the database, and the sales that may leave memory.
#[derive(Debug, Clone)]
pub struct Sweep {
    pub upto: i64,
    pub retired: u64,
    pub turn: Range<usize>,
}

impl Clocks {
    fn look(&mut self, wall: i64, steady: i64, journal: i64) {
        if steady < self.next {
            return;
        }
        self.next = steady + LOOK;
        if let Some((wall_before, steady_before)) = self.last.replace((wall, steady)) {
            let off = (wall - wall_before) - (steady - steady_before);
            self.leapt += if off.abs() >= LEAP { off } else { 0 };
        }
        if self.leapt.abs() < LEAP && wall >= journal {
            self.upto = Some(wall);
        }
    }

    pub fn has_leapt(&self) -> bool {
        self.leapt.abs() >= LEAP
    }

    /// All sales in turn; there are few enough to look at all of them at once.
    pub fn turn(&mut self, count: usize) -> Range<usize> {
        let from = if self.at >= count { 0 } else { self.at };
        self.at = count;
        from..count
    }
}

impl World {
    /// The sequencer looks at the clocks.
    pub fn tick(&mut self) {
        let Some(life) = &mut self.life else { return };
        if !self.ticking {
            return;
        }
        self.clocks.look(self.clock, self.steady, self.model.time);
        let sweeps = life.sequencer.tick(Timestamp(self.clock), self.steady);
        self.trace.line(|| format!("  tick at {} {}: {sweeps}", self.clock, self.steady));
        if life.sequencer.failed() {
            // Nothing comes of it, and the time of what was lost is in the journal's, not in the model's.
            return;
        }
        assert_eq!(sweeps, self.clocks.upto.is_some(), "P6: whether what is due expires: {:?}", self.clocks);
        if self.clocks.has_leapt() {
            self.tally.one("looks at a clock that has leapt");
            assert!(life.published.metrics.clock_leapt.get() > 0 || sweeps, "P7: a leap that nobody is told of");
        }
    }

    /// Time goes by on both clocks.
    pub fn pass(&mut self, micros: i64) {
        self.clock += micros;
        self.steady += micros;
    }

    /// What the model makes of a sweep; gives the facts.
    pub fn expect_sweep(&mut self, sweep: &Sweep) -> Range<usize> {
        let from = self.model.facts.len();
        let done = self.model.expire(self.clock, sweep.upto - self.grace, self.portion);
        self.clocks.upto = (done == self.portion).then_some(sweep.upto);
        self.model.release(self.clock, sweep.turn.clone(), (sweep.upto, self.release_after), sweep.retired);
        from..self.model.facts.len()
    }

    /// Counts what time has really brought about.
    pub fn count_swept(&mut self, facts: Range<usize>) {
        for at in facts {
            let what = if matches!(self.model.facts[at].what, What::Released) { "releases" } else { "expiries" };
            self.tally.one(what);
        }
    }

    /// Lets time go by until nothing can be due any more, on a clock that does not leap.
    pub fn expire_all(&mut self) {
        for _ in 0..5_000 {
            self.pass(SECOND);
            self.submit(Vec::new());
            self.janitor(2);
            self.check();
            if self.clocks.upto.is_none() && self.model.sales.iter().all(|s| s.unsettled.is_empty() || s.state.released)
            {
                return;
            }
        }
        panic!("P6 (no undersell): claims that were never settled are held for ever");
    }
}
