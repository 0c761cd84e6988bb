//! Whether more is asked of the buffer than it can decide, and how much may be on its way then.
//!
//! One mechanism: the time that a command would wait, measured against a target. A buffer that keeps up empties its queue each
//! time it takes from it, and nothing here is ever in the way: a burst is what the queue is for. Only where a take leaves
//! commands behind is there a rate, commands decided a second of a time in which there was more to do, and with it a wait. A
//! wait that lasts, or one that no patience is long enough for, is overload: claims beyond what is decided within the target
//! are refused at once, while the buffer goes on at the rate that it has. Refusing by the length of the queue alone could not do that:
//! what is 50 ms of one Redis is 5 s of another.
//!
//! What one take costs by itself is learnt while nothing stands: under overload neighbouring lanes and full batches add to it, and a
//! target that grew with that would grow for ever. But where that cost rises while the bound is on (a disk grows slow), the bound
//! is too small for it, the rate falls with the bound, and the bound with the rate. So where the rate has fallen by half, the
//! bound goes down to its floor for a few takes, and the shortest of them tells what one costs by itself now. While that keeps the
//! target up it is looked at again every few seconds, and may only go down then: beside other gates that do the same it would go up
//! for ever.
//!
//! The idea is CoDel's (Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012): a queue that empties is good, however
//! long it was, and a standing one is bad. What is done about it is not: a claim is never dropped once it is in the queue, so
//! new ones are kept out by a bound on commands under way, rate × target (Little's law). Emptying the line for a moment to measure it is
//! BBR's ProbeRTT (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue 14(5), 2016).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::tick;
use crate::limits;

const TARGET: Duration = Duration::from_millis(limits::OVERLOAD_TARGET_MILLIS);
const PATIENCE: Duration = Duration::from_millis(limits::OVERLOAD_PATIENCE_MILLIS);
const BURST: Duration = Duration::from_millis(limits::OVERLOAD_BURST_MILLIS);
const OVER: Duration = Duration::from_millis(limits::OVERLOAD_OVER_MILLIS);
const WINDOW: Duration = Duration::from_millis(limits::OVERLOAD_WINDOW_MILLIS);
const PROBE_AGAIN: Duration = Duration::from_millis(limits::OVERLOAD_PROBE_AGAIN_MILLIS);

/// No bound.
const FREE: usize = usize::MAX;

/// What front ends ask, and what those who take commands tell.
#[derive(Debug)]
pub struct Overload {
    /// Commands that may be under way; [`FREE`] as long as the buffer keeps up.
    most: AtomicUsize,
    /// Commands that were taken and are not answered.
    taken: AtomicUsize,
    /// Whether one was refused since the last take.
    refused: AtomicBool,
    meter: Mutex<Meter>,
}

impl Overload {
    /// Lets `floor` commands be under way in any case.
    pub fn new(floor: usize) -> Self {
        Self {
            most: AtomicUsize::new(FREE),
            taken: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
            meter: Mutex::new(Meter::new(floor)),
        }
    }

    /// Whether one more claim may enter the queue, which has `waiting()` now.
    pub fn admits(&self, waiting: impl FnOnce() -> usize) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        if most == FREE || waiting() + self.taken.load(Ordering::Relaxed) < most {
            return true;
        }
        self.refused.store(true, Ordering::Relaxed);
        false
    }

    /// Whether claims beyond a bound are refused.
    pub fn is_on(&self) -> bool {
        self.most.load(Ordering::Relaxed) != FREE
    }

    /// Commands that were taken and are not answered.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// So many commands were taken, and so many left behind: they are under way until what this gives is dropped, with their
    /// answers delivered. Whoever takes calls it, one at a time.
    pub fn set_out(self: &Arc<Self>, taken: usize, left: usize) -> UnderWay {
        let now = tick();
        let is_probe = (taken > 0 || self.is_on()) && self.took(now, taken, left);
        UnderWay { overload: self.clone(), since: now, commands: taken, is_probe }
    }

    /// Whether the take is one that a probe counts.
    fn took(&self, now: Instant, taken: usize, left: usize) -> bool {
        let under_way = self.taken.fetch_add(taken, Ordering::Relaxed) + taken + left;
        let refused = self.refused.swap(false, Ordering::Relaxed);
        let mut meter = self.meter();
        let was = meter.most;
        let most = meter.took(now, Take { taken, is_more: left > 0, under_way, refused });
        let is_probe = meter.probe.is_some() && under_way <= meter.floor;
        self.most.store(most, Ordering::Relaxed);
        if (was == FREE) != (most == FREE) {
            let rate = meter.rate as u64;
            drop(meter);
            if most == FREE {
                tracing::info!("commands are decided as they come again; none is refused for it any more");
            } else {
                tracing::warn!(
                    under_way,
                    most,
                    rate,
                    "more commands come than are decided; claims beyond `most` under way are refused as overloaded"
                );
            }
        }
        is_probe
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        // Nothing under it can be left half done.
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commands that are under way.
#[derive(Debug)]
pub struct UnderWay {
    overload: Arc<Overload>,
    since: Instant,
    commands: usize,
    is_probe: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.commands > 0 {
            self.overload.taken.fetch_sub(self.commands, Ordering::Relaxed);
            self.overload.meter().answered(tick().saturating_duration_since(self.since), self.is_probe);
        }
    }
}

/// What a take found.
#[derive(Debug, Clone, Copy)]
struct Take {
    taken: usize,
    is_more: bool,
    under_way: usize,
    refused: bool,
}

/// The bound is at its floor, to see what a take costs by itself.
#[derive(Debug)]
struct Probe {
    since: Instant,
    /// The shortest so far, from taken to answered, and how many there were.
    shortest: Duration,
    takes: u32,
    may_raise: bool,
}

/// The measuring, without threads and clocks of its own.
#[derive(Debug)]
struct Meter {
    /// Commands that may be under way in any case.
    floor: usize,
    /// Commands a second while there was more to do; 0 until that is known.
    rate: f64,
    /// The last take, if it left commands behind or some were refused: the time since then was a busy one.
    busy_since: Option<Instant>,
    /// What was taken in how much of busy time, since the rate was last worked out.
    window: (usize, Duration),
    /// When the rate was last worked out.
    worked_out: Option<Instant>,
    /// What a take costs by itself, from taken to answered: averaged over the last ones that left nothing behind, or what a probe found.
    usual: Duration,
    /// The highest rate since the bound is on, or since the last probe.
    best: f64,
    probe: Option<Probe>,
    /// When to look again whether `usual` is less by now.
    probe_at: Option<Instant>,
    /// Since when the wait is longer than the target.
    standing_since: Option<Instant>,
    /// The last time when the bound was felt.
    felt: Option<Instant>,
    most: usize,
}

impl Meter {
    fn new(floor: usize) -> Self {
        Self {
            floor,
            rate: 0.0,
            busy_since: None,
            window: (0, Duration::ZERO),
            worked_out: None,
            usual: Duration::ZERO,
            best: 0.0,
            probe: None,
            probe_at: None,
            standing_since: None,
            felt: None,
            most: FREE,
        }
    }

    /// What a command may wait. Where one take's work alone lasts long, as with a slow disk whose sync costs the same for one
    /// command as for thousands, less than three of them under way would leave it idle between two.
    fn target(&self) -> Duration {
        TARGET.max(self.usual * 3)
    }

    /// Gives the bound that follows.
    fn took(&mut self, now: Instant, take: Take) -> usize {
        if let Some(since) = self.busy_since {
            self.window.0 += take.taken;
            self.window.1 += now.saturating_duration_since(since);
            self.work_out(now);
        }
        let is_busy = take.is_more || take.refused;
        self.busy_since = is_busy.then_some(now);
        if self.most != FREE {
            if take.refused && self.probe.is_none() {
                self.felt = Some(now);
            }
            let is_over = self.felt.is_none_or(|felt| now.saturating_duration_since(felt) >= OVER);
            if is_over && self.probe.is_none() {
                *self = Self { usual: self.usual, ..Self::new(self.floor) };
                return self.most;
            }
            self.probe(now);
            self.most = self.bound();
            if self.probe.is_some() {
                // What is kept out for this says nothing about the rate.
                self.most = self.floor;
                self.busy_since = None;
            }
            return self.most;
        }
        if !is_busy {
            // It keeps up: what was measured says nothing about the next time.
            *self = Self { usual: self.usual, ..Self::new(self.floor) };
            return FREE;
        }
        let wait = Duration::try_from_secs_f64(take.under_way as f64 / self.rate).unwrap_or_default();
        if self.rate == 0.0 || wait <= self.target() || take.under_way <= self.floor {
            self.standing_since = None;
            return FREE;
        }
        let since = *self.standing_since.get_or_insert(now);
        if wait > self.target().max(BURST) || now.saturating_duration_since(since) >= PATIENCE {
            self.felt = Some(now);
            self.most = self.bound();
        }
        self.most
    }

    /// The rate over the last window; the first one is short, because a queue grows fast, and so is one that took long to come
    /// together, out of moments in which more came than the bound let in. Two takes alone say nothing: they may be of two lanes
    /// that set out together.
    fn work_out(&mut self, now: Instant) {
        let (taken, time) = self.window;
        let is_old = self.worked_out.is_none_or(|then| now.saturating_duration_since(then) >= WINDOW);
        if time >= if is_old { WINDOW / 10 } else { WINDOW } {
            self.worked_out = Some(now);
            self.rate = taken as f64 / time.as_secs_f64();
            self.window = (0, Duration::ZERO);
            self.best = self.best.max(self.rate);
        }
    }

    /// Begins or ends a probe where it is time for that.
    fn probe(&mut self, now: Instant) {
        let Some(probe) = &self.probe else {
            // Where nobody is kept out, it is what comes that has fallen.
            let is_felt = self.felt.is_some_and(|felt| now.saturating_duration_since(felt) < WINDOW);
            let has_fallen = self.rate < self.best / 2.0;
            if is_felt && (has_fallen || self.probe_at.is_some_and(|at| now >= at)) {
                self.probe = Some(Probe { since: now, shortest: BURST, takes: 0, may_raise: has_fallen });
            }
            return;
        };
        // First all that was let in before has to be decided.
        let longest = self.target() + BURST * 2;
        if probe.takes < limits::OVERLOAD_PROBE_TAKES && now.saturating_duration_since(probe.since) < longest {
            return;
        }
        if probe.takes > 0 {
            self.usual = if probe.may_raise { probe.shortest } else { self.usual.min(probe.shortest) };
        }
        self.best = self.rate;
        self.probe_at = (self.target() > TARGET).then(|| now + PROBE_AGAIN);
        self.probe = None;
    }

    fn bound(&self) -> usize {
        ((self.rate * self.target().as_secs_f64()) as usize).max(self.floor)
    }

    fn answered(&mut self, took: Duration, is_probe: bool) {
        if let Some(probe) = self.probe.as_mut().filter(|_| is_probe) {
            probe.shortest = probe.shortest.min(took);
            probe.takes += 1;
        }
        if self.busy_since.is_none() && self.most == FREE {
            // A stall of seconds must not make a target of seconds.
            self.usual = (self.usual * 7 + took.min(BURST)) / 8;
        }
    }
}

#[cfg(test)]
mod tests;
