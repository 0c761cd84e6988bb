//! A thread that owns database work: whoever asks for some may go away, and the work goes on to its end.
//!
//! **No future around the database is ever cancelled.** A caller waits for an answer, and may stop waiting; the work itself
//! belongs to the lane, and so does the patience with it: what hangs is given up on when its time is over, whether its caller
//! is still there or not. A half-sent message or a forgotten transaction can't come of it, and a connection whose answer never
//! comes is given up on, not torn off.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::super::StoreError;
use crate::limits;

/// The thread and its runtime. Dropping it ends both.
pub(super) struct Lane {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    /// Starts a thread of this name, at this niceness (0 to 19) if one is given.
    ///
    /// # Errors
    /// [`StoreError::Outage`] where the system gives none.
    pub(super) fn spawn(name: &'static str, nice: Option<i32>) -> Result<Self, StoreError> {
        let outage = |e: std::io::Error| StoreError::Outage(format!("the thread {name} can't be started: {e}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(outage)?;
        let (handle, (end, ended)) = (runtime.handle().clone(), oneshot::channel::<()>());
        let work = move || {
            if let Some(nice) = nice
                && let Err(error) = rustix::process::nice(nice)
            {
                tracing::warn!(%error, name, "it keeps the priority of the front end");
            }
            let _ = runtime.block_on(ended);
            // What still hangs there hangs in the network; nobody waits for it any more.
            runtime.shutdown_timeout(Duration::from_millis(limits::STORE_LANE_END_MILLIS));
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(outage)?;
        Ok(Self { handle, end: Some(end), thread: Some(thread) })
    }

    /// Has the lane do `work`, and waits for it, at most `limit`. Whoever stops waiting earlier stops nothing. Gives none
    /// where the limit has passed: then the work goes on by itself.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        self.watch(limit, work, || {}).await
    }

    /// The same; the lane calls `give_up` where the limit has passed, also where nobody waits any more by then.
    pub(super) async fn watch<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = T> + Send + 'static,
        give_up: impl FnOnce() + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let working = self.handle.spawn(work);
        let watching = self.handle.spawn(async move {
            let done = tokio::time::timeout(limit, working).await;
            if done.is_err() {
                give_up();
            }
            done.ok()
        });
        match watching.await {
            Ok(Some(Ok(done))) => Ok(Some(done)),
            Ok(Some(Err(error))) | Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(Some(Err(_))) | Err(_) => Err(closed()),
            Ok(None) => Ok(None),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The store was closed.
pub(super) fn closed() -> StoreError {
    StoreError::Outage("the store is closed".to_owned())
}

/// Calls of one kind whose answer nobody waits for any more. There may be only so many: each has a connection.
#[derive(Debug, Default)]
pub(super) struct Hanging(AtomicUsize);

impl Hanging {
    /// Nobody waits for some work any more. Whether another connection may take its place.
    pub(super) fn gives_up(&self, waited: &Waited) -> bool {
        if self.0.fetch_add(1, Ordering::SeqCst) < limits::STORE_GIVEN_UP_MAX && waited.give_up() {
            return true;
        }
        self.0.fetch_sub(1, Ordering::SeqCst);
        false
    }

    /// Some work has ended. Whether its place is still its own.
    pub(super) fn ended(&self, waited: &Waited) -> bool {
        let is_wanted = waited.done();
        if !is_wanted {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
        is_wanted
    }
}

/// Whether somebody still waits for a piece of work: settled by whoever comes first, the work's end or the patience's.
#[derive(Debug, Clone, Default)]
pub(super) struct Waited(Arc<AtomicU8>);

const RUNNING: u8 = 0;
const DONE: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Waited {
    /// The work has ended. Whether somebody still waits for it.
    pub(super) fn done(&self) -> bool {
        self.0.swap(DONE, Ordering::SeqCst) != GIVEN_UP
    }

    /// Nobody waits any more. Whether the work was still going on.
    pub(super) fn give_up(&self) -> bool {
        self.0.compare_exchange(RUNNING, GIVEN_UP, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits_for_it_any_more() {
        let lane = Lane::spawn("lane-test", None).unwrap();
        let (send, receive) = oneshot::channel();
        let work = async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            send.send(7).unwrap();
        };
        assert_eq!(lane.run(Duration::from_millis(1), work).await, Ok(None), "nobody waits so long");
        assert_eq!(receive.await, Ok(7));
        let ((send, receive), (go, begin)) = (oneshot::channel(), oneshot::channel::<()>());
        {
            let work = async move {
                begin.await.unwrap();
                send.send(8).unwrap();
            };
            let mut waiting = std::pin::pin!(lane.run(Duration::from_secs(60), work));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        go.send(()).unwrap();
        assert_eq!(receive.await, Ok(8), "a caller that goes away stops nothing");
        assert_eq!(lane.run(Duration::from_secs(60), async { 9 }).await, Ok(Some(9)));
    }

    #[tokio::test]
    async fn what_hangs_is_given_up_on_though_its_caller_has_gone() {
        let lane = Lane::spawn("lane-test", None).unwrap();
        let hang = std::future::pending::<()>;
        let (send, receive) = oneshot::channel();
        {
            let mut waiting =
                std::pin::pin!(lane.watch(Duration::from_millis(20), hang(), move || send.send(()).unwrap()));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(receive.await, Ok(()));
        let (send, mut receive) = oneshot::channel();
        let done = lane.watch(Duration::from_secs(60), async { 9 }, move || send.send(()).unwrap());
        assert_eq!(done.await, Ok(Some(9)));
        assert!(receive.try_recv().is_err(), "what has ended is not given up on");
    }

    #[test]
    fn so_many_calls_of_a_kind_may_hang_and_each_that_ends_makes_room() {
        let hanging = Hanging::default();
        let calls: Vec<Waited> = (0..limits::STORE_GIVEN_UP_MAX).map(|_| Waited::default()).collect();
        assert!(calls.iter().all(|waited| hanging.gives_up(waited)));
        let (next, ended) = (Waited::default(), Waited::default());
        assert!(!hanging.gives_up(&next), "one too many waits on");
        assert!(hanging.ended(&ended), "somebody waits for this one");
        assert!(!hanging.gives_up(&ended), "it has ended");
        assert!(!hanging.ended(&calls[0]), "this one's place was given away");
        assert!(hanging.gives_up(&next));
    }

    #[test]
    fn work_is_given_up_on_only_while_it_goes_on() {
        let (ended, left) = (Waited::default(), Waited::default());
        assert!(ended.done() && !ended.give_up());
        assert!(left.give_up() && !left.done());
    }
}
