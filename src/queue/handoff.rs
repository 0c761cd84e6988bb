//! How front-end threads and the sequencer wake each other: a doorbell one way, a mailbox the other.
//!
//! Both are wake-once-a-batch: a front end rings after it has polled all that was ready, the sequencer delivers all
//! answers of a batch to a front end in one go. No wake is ever lost; tests/model proves it over all interleavings
//! (this file takes its primitives from `super::sync`, so that the same text runs under the model checker).

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::sync::{AtomicBool, Mutex, Ordering, Thread, park, park_timeout};

/// Wakes one sleeping thread.
#[derive(Debug)]
pub struct Doorbell {
    asleep: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Default for Doorbell {
    fn default() -> Self {
        Self { asleep: AtomicBool::new(false), thread: Mutex::new(None) }
    }
}

impl Doorbell {
    /// Makes the calling thread the one that the bell wakes.
    pub fn attach(&self, thread: Thread) {
        *self.thread.lock().unwrap() = Some(thread);
    }

    /// Wakes the thread if it sleeps. Call it after the work is visible to `has_work` of [`Self::sleep`].
    pub fn ring(&self) {
        // Both sides swap, and swaps of one flag have an order: if this one comes first, the sleeper's sees all that was
        // done before it, the work included, and if the sleeper's comes first, this one finds it asleep.
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = &*self.thread.lock().unwrap()
        {
            thread.unpark();
        }
    }

    /// Sleeps until the bell rings, or for at most `limit`; not at all where `has_work`. May return early.
    pub fn sleep(&self, limit: Option<Duration>, has_work: impl Fn() -> bool) {
        self.asleep.swap(true, Ordering::SeqCst);
        if !has_work() {
            match limit {
                Some(limit) => park_timeout(limit),
                None => park(),
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
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
