//! Whose turn it is to take what has come, and when it sets out.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::tick;
use crate::limits;

/// What all lanes of a gate share.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Held by the lane that waits for commands.
    mine: Mutex<()>,
    /// Lanes that are under way, and that one of them is back.
    under_way: Mutex<usize>,
    back: Condvar,
}

/// A lane that is under way; dropped when it is back.
pub(super) struct UnderWay(Arc<Turn>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        *lock(&self.0.under_way) -= 1;
        self.0.back.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turn {
    /// Waits for the turn; it is the caller's until it drops this.
    pub(super) fn mine(&self) -> MutexGuard<'_, ()> {
        lock(&self.mine)
    }

    /// Waits until `enough` has come for a call of its own, or no lane is under way; not long. Whoever has the turn calls it.
    pub(super) fn gather(&self, enough: impl Fn() -> bool) {
        let until = tick() + Duration::from_millis(limits::LANE_GATHER_MILLIS);
        let mut under_way = lock(&self.under_way);
        while *under_way > 0 && !enough() && tick() < until {
            let waited = self.back.wait_timeout(under_way, Duration::from_micros(limits::LANE_LOOK_MICROS));
            under_way = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Says that the caller, who has the turn, is under way until it drops this.
    pub(super) fn set_out(self: &Arc<Self>) -> UnderWay {
        *lock(&self.under_way) += 1;
        UnderWay(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_commands_wait_for_the_lane_that_is_under_way() {
        let turn = Arc::new(Turn::default());
        turn.gather(|| false);
        let away = turn.set_out();
        turn.gather(|| true);
        // It comes back while another one waits, which would else wait for as long as commands may.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let _turn = turn.mine();
                turn.gather(|| false);
                *lock(&turn.under_way)
            });
            drop(away);
            assert_eq!(waiting.join().expect("no panic"), 0);
        });
    }

    #[test]
    fn nobody_waits_for_long_for_a_lane_that_hangs() {
        let turn = Arc::new(Turn::default());
        let _hangs = turn.set_out();
        turn.gather(|| false);
        assert_eq!(*lock(&turn.under_way), 1);
    }
}
