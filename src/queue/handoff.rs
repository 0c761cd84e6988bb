//! How front-end threads and the sequencer wake each other: a doorbell one way, a mailbox the other.
//!
//! Both are wake-once-a-batch: a front end rings once it has run out of claims to submit, the sequencer delivers all
//! answers of a batch to a front end in one go. No wake is ever lost; tests/model proves it over all interleavings
//! (this file takes its primitives from `super::sync`, so that the same text runs under the model checker).

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::sync::{AtomicU8, Mutex, Ordering, Thread, park, park_timeout};

/// Wakes one sleeping thread. A ring is kept until it is heard, so that one during the thread's work is not lost.
#[derive(Debug)]
pub struct Doorbell {
    state: AtomicU8,
    thread: Mutex<Option<Thread>>,
}

const SILENT: u8 = 0;
const ASLEEP: u8 = 1;
const RUNG: u8 = 2;

impl Default for Doorbell {
    fn default() -> Self {
        Self { state: AtomicU8::new(SILENT), thread: Mutex::new(None) }
    }
}

impl Doorbell {
    /// Makes the calling thread the one that the bell wakes.
    pub fn attach(&self, thread: Thread) {
        *self.thread.lock().unwrap() = Some(thread);
    }

    /// Wakes the thread if it sleeps. Call it after the work is visible.
    pub fn ring(&self) {
        // Both sides change one value, and its changes have an order: whoever hears this ring sees all that was done before
        // it, and who does not was asleep before it, and is woken.
        if self.state.swap(RUNG, Ordering::SeqCst) == ASLEEP
            && let Some(thread) = &*self.thread.lock().unwrap()
        {
            thread.unpark();
        }
    }

    /// Sleeps until the bell has rung since the last call, or for at most `limit`; tells whether it rang. It may return
    /// early without a ring.
    pub fn wait(&self, limit: Option<Duration>) -> bool {
        let asleep = self.state.compare_exchange(SILENT, ASLEEP, Ordering::SeqCst, Ordering::SeqCst);
        if asleep.is_ok() {
            match limit {
                Some(limit) => park_timeout(limit),
                None => park(),
            }
        }
        self.state.swap(SILENT, Ordering::SeqCst) == RUNG
    }
}

/// Takes batches of values from one thread to a task on another.
#[derive(Debug)]
pub struct Mailbox<T> {
    inner: Mutex<(Vec<T>, Option<Waker>)>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { inner: Mutex::new((Vec::new(), None)) }
    }
}

impl<T> Mailbox<T> {
    /// Hands over all of `values`, in order, and wakes the receiver once. `values` is empty afterwards.
    pub fn deliver(&self, values: &mut Vec<T>) {
        let mut inner = self.inner.lock().unwrap();
        inner.0.append(values);
        let waker = inner.1.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes all that was delivered into `out`, which must be empty; pending where there is nothing.
    pub fn poll_take(&self, cx: &mut Context<'_>, out: &mut Vec<T>) -> Poll<()> {
        let mut inner = self.inner.lock().unwrap();
        if inner.0.is_empty() {
            if inner.1.as_ref().is_none_or(|w| !w.will_wake(cx.waker())) {
                inner.1 = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        std::mem::swap(&mut inner.0, out);
        Poll::Ready(())
    }
}
