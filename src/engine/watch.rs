//! Notices a thread that the node can't do without and that panicked: without the sequencer nothing is answered, without
//! the janitor the journal ends, without the drain the buffer fills.
//!
//! Such a node looks alive and is not, so the process ends and its supervisor starts another: the journal has whatever was
//! acknowledged. The front end's threads tell of themselves ([`crate::ingest::server::Servers::fatal`]).

use std::time::Duration;

use tokio::sync::watch;

use crate::limits;
use crate::sale::Seq;

/// Hears of panics.
#[derive(Debug)]
pub struct Watch {
    tell: watch::Sender<Option<&'static str>>,
}

/// Why the node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {0} thread panicked (its message is above): the node can't go on. Start it again: what was acknowledged is in \
     the journal"
)]
pub struct Panicked(pub &'static str);

impl Watch {
    /// Nobody has panicked yet.
    pub fn new() -> Self {
        Self { tell: watch::Sender::new(None) }
    }

    /// For a thread to keep until it ends.
    pub fn guard(&self, name: &'static str) -> Guard {
        Guard { name, tell: self.tell.clone() }
    }

    /// Whoever panicked first, if anybody has.
    pub fn first(&self) -> Option<Panicked> {
        self.tell.borrow().map(Panicked)
    }

    /// Waits for the first panic of a thread with a guard, or of the drain, whose news is `retired`: it closes when the
    /// drain's thread ends, which it does unasked by a panic only.
    pub async fn panicked(&self, retired: &watch::Receiver<Seq>) -> Panicked {
        let mut hear = self.tell.subscribe();
        let told = async { hear.wait_for(Option::is_some).await.ok().and_then(|name| *name) };
        let drained = async {
            // Looked at now and then: to wait for its changes would wake this thread with every batch.
            while retired.has_changed().is_ok() {
                tokio::time::sleep(Duration::from_millis(limits::DRAIN_LOOK_MILLIS)).await;
            }
        };
        tokio::select! {
            name = told => Panicked(name.unwrap_or("engine's own")),
            () = drained => Panicked("drain"),
        }
    }
}

/// Tells of its thread's panic.
#[derive(Debug)]
pub struct Guard {
    name: &'static str,
    tell: watch::Sender<Option<&'static str>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell.send_if_modified(|first| first.is_none() && first.replace(self.name).is_none());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `work` on a thread that keeps a guard, to its end.
    fn run(watch: &Watch, name: &'static str, work: impl FnOnce() + Send + 'static) {
        let guard = watch.guard(name);
        let ended = std::thread::spawn(move || {
            let _guard = guard;
            work();
        });
        let _ = ended.join();
    }

    #[tokio::test]
    async fn the_first_panic_is_told_and_an_end_in_order_is_not() {
        let (watch, (retire, retired)) = (Watch::new(), watch::channel(Seq(0)));
        run(&watch, "janitor", || {});
        retire.send_replace(Seq(7));
        let soon = Duration::from_millis(2 * limits::DRAIN_LOOK_MILLIS);
        assert!(tokio::time::timeout(soon, watch.panicked(&retired)).await.is_err());
        assert_eq!(watch.first(), None);
        run(&watch, "sequencer", || panic!("on purpose"));
        run(&watch, "janitor", || panic!("on purpose"));
        assert_eq!(watch.panicked(&retired).await, Panicked("sequencer"));
        assert_eq!(watch.first(), Some(Panicked("sequencer")));
    }

    #[tokio::test]
    async fn a_drain_that_is_gone_is_told() {
        let (watch, (retire, retired)) = (Watch::new(), watch::channel(Seq(0)));
        drop(retire);
        assert_eq!(watch.panicked(&retired).await, Panicked("drain"));
    }
}
