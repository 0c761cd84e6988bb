//! The hand-off between front ends and sequencer under the model checker: every interleaving of a small case.
//!
//! The product's own file is compiled here against loom's primitives instead of the standard library's. Loom explores
//! the interleavings exhaustively; a lost wake shows as a deadlock.

mod sync {
    pub use loom::sync::Mutex;
    pub use loom::sync::atomic::{AtomicU8, Ordering};
    pub use loom::thread::{Thread, park};

    /// The model has no time: a sleep with a limit is a sleep that nobody ends early.
    pub fn park_timeout(_: std::time::Duration) {
        park();
    }
}

#[path = "../../src/queue/handoff.rs"]
mod handoff;

use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Wake, Waker};

use handoff::{Doorbell, Mailbox};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};

/// A stand-in for the lock-free queue: what matters here is when its content becomes visible.
#[derive(Default)]
struct Queue(AtomicUsize);

/// Takes `count` submissions, sleeping whenever there is none. On a thread of its own: loom would end a `join` early by an
/// unpark that was meant for a sleep.
fn sequencer(bell: Arc<Doorbell>, queue: Arc<Queue>, count: usize) -> loom::thread::JoinHandle<()> {
    loom::thread::spawn(move || {
        bell.attach(loom::thread::current());
        let mut taken = 0;
        while taken < count {
            taken += queue.0.swap(0, Ordering::SeqCst);
            if taken < count {
                bell.wait(None);
            }
        }
    })
}

fn submit(bell: &Doorbell, queue: &Queue) {
    queue.0.fetch_add(1, Ordering::SeqCst);
    bell.ring();
}

#[test]
fn a_submission_is_never_slept_through() {
    loom::model(|| {
        let (bell, queue) = (Arc::new(Doorbell::default()), Arc::new(Queue::default()));
        let sequencer = sequencer(bell.clone(), queue.clone(), 1);
        submit(&bell, &queue);
        sequencer.join().unwrap();
    });
}

#[test]
fn two_front_ends_ring_and_both_are_heard() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let (bell, queue) = (Arc::new(Doorbell::default()), Arc::new(Queue::default()));
        let sequencer = sequencer(bell.clone(), queue.clone(), 2);
        let other = {
            let (bell, queue) = (bell.clone(), queue.clone());
            loom::thread::spawn(move || submit(&bell, &queue))
        };
        submit(&bell, &queue);
        other.join().unwrap();
        sequencer.join().unwrap();
    });
}

/// Wakes a task of the model. Not by unparking its thread: loom forgets an unpark that comes while a thread waits for a
/// mutex, which a real thread does not.
struct Notified(loom::sync::Notify);

impl Wake for Notified {
    fn wake(self: StdArc<Self>) {
        self.0.notify();
    }
}

#[test]
fn an_answer_wakes_whoever_waits_for_it() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::default());
        let sequencer = {
            let mailbox = mailbox.clone();
            loom::thread::spawn(move || {
                mailbox.deliver(&mut vec![1]);
                mailbox.deliver(&mut vec![2, 3]);
            })
        };
        let notified = StdArc::new(Notified(loom::sync::Notify::new()));
        let waker = Waker::from(notified.clone());
        let (mut seen, mut mail) = (Vec::new(), Vec::new());
        while seen.len() < 3 {
            match mailbox.poll_take(&mut Context::from_waker(&waker), &mut mail) {
                Poll::Ready(()) => seen.append(&mut mail),
                Poll::Pending => notified.0.wait(),
            }
        }
        assert_eq!(seen, [1, 2, 3], "in the order of delivery");
        sequencer.join().unwrap();
    });
}
