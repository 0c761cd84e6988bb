//! The only place that reads the time.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sale::Timestamp;

/// Wall-clock time, injected wherever a decision depends on it.
pub trait Clock: Send + Sync {
    /// Microseconds since the Unix epoch.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A clock that a test sets.
#[derive(Debug, Default)]
pub struct ScriptedClock(AtomicI64);

impl ScriptedClock {
    /// Starts at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Jumps to `now`, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ScriptedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Monotone time for measuring how long something took; never for deciding when something happened.
pub fn tick() -> Instant {
    Instant::now()
}

/// Microseconds on a clock that only ever runs forward, and runs on while the machine is suspended, as the wall's does.
pub fn steady_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// News that is told at most every so often, however often it comes.
#[derive(Debug, Default)]
pub struct Seldom {
    /// When it was last told, as [`steady_micros`]; 0 before that.
    last: AtomicI64,
    left_out: AtomicU64,
}

impl Seldom {
    /// Not told yet.
    pub const fn new() -> Self {
        Self { last: AtomicI64::new(0), left_out: AtomicU64::new(0) }
    }

    /// How often it was not told since the last time, where it is time to tell it again: after `pause`.
    pub fn is_due(&self, pause: Duration) -> Option<u64> {
        let (now, last) = (steady_micros(), self.last.load(Ordering::Relaxed));
        let is_early = last != 0 && now - last < pause.as_micros() as i64;
        if is_early || self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}

/// Processor time that the calling thread has used so far.
pub fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap_or(0), used.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_all_the_time_is_told_now_and_then_with_how_often_it_was_not() {
        let (news, never, always) = (Seldom::new(), Duration::from_secs(3_600), Duration::ZERO);
        assert_eq!(news.is_due(never), Some(0));
        assert_eq!([news.is_due(never), news.is_due(never)], [None, None]);
        assert_eq!(news.is_due(always), Some(2));
        assert_eq!(news.is_due(always), Some(0));
    }
}
