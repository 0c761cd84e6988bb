//! Bugs to plant and points to die at, for tests that must prove they would notice.
//!
//! Compiled in by the feature `testing` only. Without it every question here is a constant `false` and every crash
//! point is nothing, so that the product carries neither the bugs nor the cost of asking for them.

/// A bug that a test can switch on in its own thread, to see that the simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The answer leaves before the sync that covers it.
    AckBeforeSync,
    /// An `already-claimed` leaves before the acceptance that it reveals is durable.
    EarlyAlreadyClaimed,
    /// A segment goes as soon as a snapshot covers it, whether or not the database has its entries.
    EarlyTrim,
    /// A batch whose commit's reply was lost is sent again as if it were new.
    BlindCommitRetry,
    /// A prepared segment is used before its name is durable.
    MissingDirSync,
    /// A failed sync is tried again, and its success believed.
    RetryAfterEio,
    /// A claim at the very instant of closing is taken.
    WindowOffByOne,
    /// A position is given to two entries.
    ReusedSeq,
    /// A claim that was paid expires all the same.
    ExpireAfterSettle,
    /// The units of a claim that is given back are added twice.
    DoubleReturn,
    /// Where clicks on one line of a cart are written as one row, they are added once more.
    DoubledCartAdd,
    /// A requeued letter whose reply was lost is not looked for in the database's sums.
    LostRequeue,
    /// A check-in's day is the server's, so that one local day is counted as two.
    CheckInTwoDays,
    /// A cache takes it that it has heard of whatever is known to be in the database.
    TrustUnheard,
    /// A cache goes on after a message that was lost as if there had been none.
    IgnoredGap,
    /// A value counts as read when its read has ended.
    ReadAtItsEnd,
    /// A cache keeps what was read before rows were changed that no position tells of.
    KeptUnchanged,
}

#[cfg(feature = "testing")]
mod switches {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::sync::{Mutex, OnceLock, PoisonError};

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants `bug` in this thread; `None` takes it out again.
    pub fn set(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether `bug` is planted in this thread.
    pub fn on(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Bytes of a new journal segment: those of `FOREBAY_SEGMENT_BYTES`, so that a test of the whole program sees segments
    /// fill up, or else the `usual` ones.
    pub fn segment_bytes(usual: u64) -> u64 {
        std::env::var("FOREBAY_SEGMENT_BYTES").ok().and_then(|bytes| bytes.parse().ok()).unwrap_or(usual)
    }

    /// A point, and the how manieth time it counts.
    type Wanted = Option<(String, u64)>;

    /// Ends the process by SIGKILL where `FOREBAY_CRASH_AT` is `name` (the first time) or `name:N` (the N-th time); panics
    /// where `FOREBAY_PANIC_AT` is; never goes on where `FOREBAY_HANG_AT` is.
    pub fn crash_point(name: &'static str) {
        static WANTED: OnceLock<[Wanted; 3]> = OnceLock::new();
        static SEEN: OnceLock<Mutex<HashMap<&'static str, u64>>> = OnceLock::new();
        let wanted = WANTED.get_or_init(|| {
            ["FOREBAY_CRASH_AT", "FOREBAY_PANIC_AT", "FOREBAY_HANG_AT"].map(|variable| {
                let text = std::env::var(variable).ok()?;
                let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
                Some((name.to_owned(), times.parse().unwrap_or(1)))
            })
        });
        let [crash, panic, hang] = wanted.each_ref().map(|w| w.as_ref().filter(|(wanted, _)| wanted == name));
        if crash.is_none() && panic.is_none() && hang.is_none() {
            return;
        }
        let count = {
            let mut seen = SEEN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
            let count = seen.entry(name).or_default();
            *count += 1;
            *count
        };
        if crash.is_some_and(|(_, times)| *times == count) {
            // SIGKILL, not abort: nothing of this process may run any more, exactly as in a real kill.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        while hang.is_some_and(|(_, times)| *times == count) {
            std::thread::park();
        }
        assert!(panic.is_none_or(|(_, times)| *times != count), "a panic was asked for at {name}");
    }
}

#[cfg(feature = "testing")]
pub use switches::{crash_point, on, segment_bytes, set};

/// Whether `bug` is planted: never, in this build.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub const fn on(_bug: Bug) -> bool {
    false
}

/// A place to die at: nothing, in this build.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub const fn crash_point(_name: &'static str) {}

/// Bytes of a new journal segment: the `usual` ones, in this build.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub const fn segment_bytes(usual: u64) -> u64 {
    usual
}
