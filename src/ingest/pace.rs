//! How a front-end thread makes room for the drain where the database is far behind.
//!
//! At half load a thread is woken for nearly every request by itself, and the few requests of each look are a batch with a
//! sync of its own: a claim costs one and a half times what it costs under full load, and on one core too little is left for the
//! drain, which has the lowest priority. So while the database is far behind, a thread that has nothing more to do rests before
//! it waits for its sockets. Requests and outcomes wait for the look that follows, a millisecond each at the longest, and come in larger
//! batches. A database that takes nothing at all has no use for the core, and nobody rests for it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;
use crate::limits;
use crate::queue::Buffer;
use crate::sale::Seq;

/// The pace of one thread.
pub(super) struct Pace {
    buffer: Buffer,
    last: Mutex<Last>,
}

struct Last {
    /// The last look that may have followed a rest.
    look: Instant,
    /// How far the database was, and when it was first seen there.
    retired: Seq,
    moved: Instant,
}

impl Pace {
    /// As fast as can be, until the database falls behind.
    pub fn new(buffer: Buffer) -> Self {
        let now = clock::tick();
        Self { buffer, last: Mutex::new(Last { look: now, retired: Seq::default(), moved: now }) }
    }

    /// Rests, if it is time to. Call it where the thread has nothing more to do, before it waits for something to happen.
    pub fn rest(&self) {
        if !self.buffer.is_behind() {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, retired) = (clock::tick(), self.buffer.retired());
        if retired != last.retired {
            (last.retired, last.moved) = (retired, now);
        }
        let rest = until_look(now.duration_since(last.look), now.duration_since(last.moved));
        if !rest.is_zero() {
            self.buffer.metrics().ingest_rests.add(1);
            std::thread::sleep(rest);
        }
        last.look = clock::tick();
    }
}

/// How much longer a thread rests whose last look is so long ago, and so long ago it is that something came into the database.
fn until_look(looked: Duration, moved: Duration) -> Duration {
    if moved > Duration::from_millis(limits::BEHIND_STILL_MILLIS) {
        return Duration::ZERO;
    }
    Duration::from_micros(limits::INGEST_REST_MICROS).saturating_sub(looked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISTANCE: Duration = Duration::from_micros(limits::INGEST_REST_MICROS);
    const STILL: Duration = Duration::from_millis(limits::BEHIND_STILL_MILLIS);

    #[test]
    fn looks_keep_their_distance_and_a_late_one_waits_for_nothing() {
        for moved in [Duration::ZERO, STILL] {
            assert_eq!(until_look(Duration::ZERO, moved), DISTANCE);
            assert_eq!(until_look(DISTANCE / 4, moved), DISTANCE * 3 / 4);
            for looked in [DISTANCE, DISTANCE * 2, Duration::MAX] {
                assert_eq!(until_look(looked, moved), Duration::ZERO);
            }
        }
    }

    #[test]
    fn nobody_rests_for_a_database_that_takes_nothing() {
        for moved in [STILL * 2, Duration::MAX] {
            assert_eq!(until_look(Duration::ZERO, moved), Duration::ZERO);
        }
    }
}
