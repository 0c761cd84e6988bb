//! Whether the threads that the node can't do without still turn: each counts its rounds, and whoever watches compares the
//! counts.
//!
//! - A thread enters itself ([`Pulses::enter`]) and counts where its loop comes round ([`beat`]). A count that stands still says
//!   that the loop hangs, whatever a timer of some other thread would say.
//! - The place is the thread's own, so that what it calls can count for it, too: a thread that waits for an answer of Redis' is
//!   alive, and the wait has its own bound.
//! - Counting costs an addition; no clock is read. Nobody need watch.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

thread_local! {
    static OWN: RefCell<Option<Arc<Pulse>>> = const { RefCell::new(None) };
}

/// Counts a round of the calling thread, if it has entered itself.
pub fn beat() {
    OWN.with_borrow(|own| {
        if let Some(pulse) = own {
            pulse.rounds.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// One thread's count.
#[derive(Debug)]
pub struct Pulse {
    /// The thread's name.
    pub name: String,
    /// For how long it may stand still and be well.
    pub patience: Duration,
    rounds: AtomicU64,
}

impl Pulse {
    /// Rounds so far.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

/// The threads that have entered themselves.
#[derive(Debug, Default)]
pub struct Pulses(Arc<Mutex<Vec<Arc<Pulse>>>>);

impl Pulses {
    /// Enters the calling thread until what is given back is dropped, on the same thread. It counts at least once in
    /// `patience`. A thread has one place: the last one counts.
    #[must_use]
    pub fn enter(&self, name: &str, patience: Duration) -> Entered {
        let pulse = Arc::new(Pulse { name: name.to_owned(), patience, rounds: AtomicU64::new(0) });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(pulse.clone());
        OWN.set(Some(pulse.clone()));
        Entered { all: self.0.clone(), pulse }
    }

    /// All that are there now.
    pub fn all(&self) -> Vec<Arc<Pulse>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A thread's place. A thread that panics leaves it, too: that is told elsewhere.
#[derive(Debug)]
pub struct Entered {
    all: Arc<Mutex<Vec<Arc<Pulse>>>>,
    pulse: Arc<Pulse>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, &self.pulse));
        // The thread's own memory may be gone already where it ends by a panic.
        let _ = OWN.try_with(|own| own.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    #[test]
    fn a_round_counts_for_the_thread_that_makes_it_and_for_no_other() {
        let pulses = Pulses::default();
        let own = pulses.enter("one", PATIENCE);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _other = pulses.enter("other", PATIENCE);
                (0..3).for_each(|_| beat());
                let counts: Vec<_> = pulses.all().iter().map(|pulse| (pulse.name.clone(), pulse.rounds())).collect();
                assert_eq!(counts, [("one".to_owned(), 0), ("other".to_owned(), 3)]);
            });
        });
        beat();
        let left = pulses.all();
        assert_eq!((left.len(), left[0].rounds()), (1, 1), "who has ended is not missed");
        drop(own);
        beat();
        assert!(pulses.all().is_empty());
        assert_eq!(left[0].rounds(), 1);
    }

    #[test]
    fn a_thread_that_panics_leaves_its_place() {
        let pulses = Pulses::default();
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| {
                let _own = pulses.enter("one", PATIENCE);
                panic!("on purpose");
            });
            assert!(ended.join().is_err());
        });
        assert!(pulses.all().is_empty());
    }
}
