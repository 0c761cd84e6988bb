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

/// Sorts a batch's answers by front end and delivers each its share with one wake.
struct Postman<'a> {
    shared: &'a Shared,
    sorted: Vec<Vec<(Ticket, Outcome)>>,
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

/// Runs the sequencer on a thread of its own until [`Buffer::stop`]; gives it back when the queue is empty.
///
/// # Errors
/// Where the system gives no thread.
pub fn spawn<D: Disk>(
    buffer: &Buffer,
    mut sequencer: Sequencer<D>,
    clock: impl Clock + 'static,
) -> io::Result<std::thread::JoinHandle<Sequencer<D>>> {
    let shared = buffer.0.clone();
    std::thread::Builder::new().name("sequencer".to_owned()).spawn(move || {
        shared.bell.attach(std::thread::current());
        let mut postman = Postman { shared: &shared, sorted: shared.mailboxes.iter().map(|_| Vec::new()).collect() };
        let mut batch = Vec::with_capacity(limits::SEQUENCER_BATCH_MAX);
        loop {
            gather(&shared, &mut batch);
            if batch.is_empty() {
                if shared.stop.load(Ordering::SeqCst) && shared.queue.is_empty() {
                    sequencer.mark(clock.now());
                    return sequencer;
                }
                sequencer.mark(clock.now());
                continue;
            }
            sequencer.step(clock.now(), &mut batch, &mut postman);
        }
    })
}

/// Takes what has arrived, up to the limit; sleeps where nothing has.
fn gather(shared: &Shared, batch: &mut Vec<Submission>) {
    let limit = Duration::from_millis(limits::IDLE_MARK_MILLIS);
    if shared.queue.is_empty() && !shared.stop.load(Ordering::SeqCst) {
        shared.bell.sleep(Some(limit), || !shared.queue.is_empty() || shared.stop.load(Ordering::SeqCst));
    }
    while batch.len() < limits::SEQUENCER_BATCH_MAX {
        let Some(submission) = shared.queue.pop() else { return };
        batch.push(submission);
    }
}
