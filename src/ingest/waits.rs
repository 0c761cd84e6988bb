//! Requests of one thread that wait until an entry is in the database.
//!
//! One task a thread watches the drain and wakes exactly those whose entry it has passed: with thousands of waiters a
//! batch costs as many wakes as it has persisted claims that somebody waits for, and no more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::sync::watch;

use crate::limits;
use crate::sale::Seq;

/// A thread's waiting requests.
pub struct Waits {
    retired: watch::Receiver<Seq>,
    waiting: RefCell<BTreeMap<(Seq, u64), Waker>>,
    next: Cell<u64>,
    over: Cell<bool>,
}

impl Waits {
    /// Nobody waits yet for what `retired` will tell.
    pub fn new(retired: watch::Receiver<Seq>) -> Rc<Self> {
        Rc::new(Self { retired, waiting: RefCell::default(), next: Cell::new(0), over: Cell::new(false) })
    }

    /// Wakes those whose entry has been retired, until the drain ends. Spawn it once.
    pub async fn run(self: Rc<Self>) {
        let mut retired = self.retired.clone();
        while retired.changed().await.is_ok() {
            let upto = *retired.borrow_and_update();
            let later = self.waiting.borrow_mut().split_off(&(upto.next(), 0));
            let due = self.waiting.replace(later);
            due.into_values().for_each(Waker::wake);
        }
        self.end();
    }

    /// Wakes all, and lets nobody wait any more.
    pub fn end(&self) {
        self.over.set(true);
        self.waiting.take().into_values().for_each(Waker::wake);
    }

    /// Whether nobody may wait any more.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Waits until waiting is over.
    pub fn until_over(self: &Rc<Self>) -> UntilRetired {
        self.until_retired(Seq(u64::MAX))
    }

    /// Waits until `seq` is in the database, or waiting is over.
    pub fn until_retired(self: &Rc<Self>, seq: Seq) -> UntilRetired {
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        UntilRetired { waits: self.clone(), key: (seq, ticket) }
    }
}

/// See [`Waits::until_retired`].
pub struct UntilRetired {
    waits: Rc<Waits>,
    key: (Seq, u64),
}

impl Future for UntilRetired {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The look comes before the place in the map: what is retired in between is told by the watch, whose task takes
        // the map's entries on this same thread and therefore later.
        if self.waits.is_over() || *self.waits.retired.borrow() >= self.key.0 {
            return Poll::Ready(());
        }
        self.waits.waiting.borrow_mut().insert(self.key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for UntilRetired {
    fn drop(&mut self) {
        self.waits.waiting.borrow_mut().remove(&self.key);
    }
}

/// One of the places for waiting requests of all threads.
pub struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    /// A place, if one is left of [`limits::WAITERS_MAX`].
    pub fn take(taken: &'a AtomicUsize) -> Option<Self> {
        let room = |n| (n < limits::WAITERS_MAX).then_some(n + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok().map(|_| Self(taken))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_are_woken_whose_entry_is_in_the_database() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (tell, hear) = watch::channel(Seq(5));
            let waits = Waits::new(hear);
            tokio::task::spawn_local(waits.clone().run());
            waits.until_retired(Seq(5)).await;
            let tasks: Vec<_> =
                [6, 7, 8, 9].map(|seq| tokio::task::spawn_local(waits.until_retired(Seq(seq)))).into_iter().collect();
            let settle = async || {
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
            };
            settle().await;
            tell.send(Seq(7)).unwrap();
            settle().await;
            assert_eq!(tasks.iter().map(|t| t.is_finished()).collect::<Vec<_>>(), [true, true, false, false]);
            tasks[2].abort();
            settle().await;
            assert_eq!(waits.waiting.borrow().len(), 1, "who goes leaves no entry behind");
            drop(tell);
            settle().await;
            assert!(tasks[3].is_finished() && waits.is_over(), "nobody waits for a drain that has ended");
        });
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let taken = AtomicUsize::new(limits::WAITERS_MAX - 1);
        let last = Place::take(&taken);
        assert!(last.is_some() && Place::take(&taken).is_none());
        drop(last);
        assert!(Place::take(&taken).is_some());
    }
}
