//! The threads around the sequencer: its own loop, and the janitor that keeps segments and snapshots behind it.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::command::Outcome;
use super::journal::disk::Disk;
use super::sequencer::{Replies, Sequencer, Submission, Ticket};
use super::{Buffer, Shared};
use crate::clock::Clock;
use crate::limits;
use crate::plant;
use crate::pulse;

/// Sorts a batch's answers by front end and delivers each its share with one wake.
pub(super) struct Postman<'a> {
    shared: &'a Shared,
    sorted: Vec<Vec<(Ticket, Outcome)>>,
}

impl<'a> Postman<'a> {
    /// For the front ends of `shared`.
    pub fn new(shared: &'a Shared) -> Self {
        Self { shared, sorted: shared.mailboxes.iter().map(|_| Vec::new()).collect() }
    }
}

impl Replies for Postman<'_> {
    fn deliver(&mut self, answers: &mut Vec<(Ticket, Outcome)>) {
        if let [only] = &mut self.sorted[..] {
            std::mem::swap(only, answers);
        }
        for answer in answers.drain(..) {
            self.sorted[answer.0.front as usize].push(answer);
        }
        for (mailbox, share) in self.shared.mailboxes.iter().zip(&mut self.sorted) {
            if !share.is_empty() {
                mailbox.deliver(share);
            }
        }
    }
}

/// Runs the sequencer on a thread of its own until [`Buffer::stop`]; gives it back when the queue is empty. The thread keeps
/// `guard` until it ends, by a panic too.
///
/// # Errors
/// Where the system gives no thread.
pub fn spawn<D: Disk>(
    buffer: &Buffer,
    mut sequencer: Sequencer<D>,
    clock: impl Clock + 'static,
    guard: impl Send + 'static,
) -> io::Result<std::thread::JoinHandle<Sequencer<D>>> {
    let shared = buffer.0.clone();
    std::thread::Builder::new().name("sequencer".to_owned()).spawn(move || {
        let _guard = guard;
        let patience = Duration::from_millis(limits::PULSE_MILLIS);
        let _pulse = shared.published.metrics.pulses.enter("sequencer", patience);
        shared.bell.attach(std::thread::current());
        let mut postman = Postman::new(&shared);
        let mut batch = Vec::with_capacity(limits::SEQUENCER_BATCH_MAX);
        let mut is_more = false;
        loop {
            pulse::beat();
            // The bell does not ring again for what a full batch left behind, nor for what falls due.
            let idle = if sequencer.is_expiring() { limits::SWEEP_DUE_MILLIS } else { limits::IDLE_MARK_MILLIS };
            let go_on = is_more || sequencer.is_sweeping();
            let has_rung = go_on || shared.bell.wait(Some(Duration::from_millis(idle)));
            is_more = take(&shared, &mut batch);
            let left = if is_more { shared.queue.len() } else { 0 };
            let under_way = shared.overload.set_out(batch.len(), left);
            let now = clock.now();
            if sequencer.tick(now, crate::clock::steady_micros()) || !batch.is_empty() {
                plant::crash_point("sequencer.batch");
                sequencer.step(now, &mut batch, &mut postman);
            }
            drop(under_way);
            if is_more {
                continue;
            }
            let is_over = shared.stop.load(Ordering::SeqCst) && shared.queue.is_empty();
            if is_over || !has_rung {
                sequencer.mark(now);
            }
            if is_over {
                return sequencer;
            }
        }
    })
}

/// Takes what has arrived, up to the limit; whether there may be more. How long claims gather into a batch is for the
/// front ends to say, who know whether more are about to come: they ring when it is enough.
fn take(shared: &Shared, batch: &mut Vec<Submission>) -> bool {
    while batch.len() < limits::SEQUENCER_BATCH_MAX {
        let Some(submission) = shared.queue.pop() else { return false };
        batch.push(submission);
    }
    true
}
