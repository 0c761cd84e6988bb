//! The threads around the sequencer: its own loop, and the janitor that keeps segments and snapshots behind it.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::command::Outcome;
use super::journal::disk::Disk;
use super::sequencer::{Replies, Sequencer, Submission, Ticket};
use super::{Buffer, Shared};
use crate::clock::{Clock, tick};
use crate::limits;
use crate::plant;

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
        shared.bell.attach(std::thread::current());
        let mut postman = Postman { shared: &shared, sorted: shared.mailboxes.iter().map(|_| Vec::new()).collect() };
        let mut batch = Vec::with_capacity(limits::SEQUENCER_BATCH_MAX);
        loop {
            gather(&shared, sequencer.syncs(), &mut batch);
            if batch.is_empty() {
                if shared.stop.load(Ordering::SeqCst) && shared.queue.is_empty() {
                    sequencer.mark(clock.now());
                    return sequencer;
                }
                sequencer.mark(clock.now());
                continue;
            }
            plant::crash_point("sequencer.batch");
            sequencer.step(clock.now(), &mut batch, &mut postman);
        }
    })
}

/// Takes what has arrived, up to the limit; sleeps where nothing has.
///
/// Where every front-end thread is busy, more is about to arrive, and a sync shared by more claims leaves more of the
/// core to them: then, and only then (and never where nothing is synced), it waits for up to [`limits::GATHER_MICROS`].
/// A front end that has run out of work ends the wait, so that a node with time to spare never waits at all.
fn gather(shared: &Shared, syncs: bool, batch: &mut Vec<Submission>) {
    let idle = Duration::from_millis(limits::IDLE_MARK_MILLIS);
    let stopping = || shared.stop.load(Ordering::SeqCst);
    if shared.queue.is_empty() && !stopping() {
        shared.bell.sleep(Some(idle), || !shared.queue.is_empty() || stopping());
    }
    let enough = || shared.parked.load(Ordering::SeqCst) > 0 || shared.queue.len() >= limits::SEQUENCER_BATCH_MAX;
    if syncs && !shared.queue.is_empty() && !enough() && !stopping() {
        let (start, limit) = (tick(), Duration::from_micros(limits::GATHER_MICROS));
        shared.gathering.store(true, Ordering::SeqCst);
        while let Some(left) = limit.checked_sub(start.elapsed())
            && !enough()
            && !stopping()
        {
            shared.bell.sleep(Some(left), || enough() || stopping());
        }
        shared.gathering.store(false, Ordering::SeqCst);
    }
    while batch.len() < limits::SEQUENCER_BATCH_MAX {
        let Some(submission) = shared.queue.pop() else { return };
        batch.push(submission);
    }
}
