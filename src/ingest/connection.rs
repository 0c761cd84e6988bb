//! One connection: where it stands, since when, and the bytes that go through it.
//!
//! - **Deadlines without timers.** A connection notes its [`Phase`] and a coarse tick in two cells; once a tick its
//!   thread looks at all of them and ends those that stayed too long. A timer a request (hyper's `header_read_timeout`)
//!   costs more than the rest of this file.
//! - **Ending a connection drops its task**, and with it the requests it carries: as if the client had gone. What they
//!   have submitted is the buffer's and goes on.
//!
//! Everything here belongs to one thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::AbortHandle;

use crate::limits;
use crate::metrics::Metrics;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing came yet.
    New,
    /// A request's head is under way.
    Head,
    /// A request is being answered; its own deadlines hold.
    Busy,
    /// Between two requests.
    Idle,
}

/// A connection's notes.
#[derive(Debug)]
pub struct Meter {
    clock: Rc<Cell<u64>>,
    phase: Cell<Phase>,
    since: Cell<u64>,
    active: Cell<u32>,
    /// The tick since which the peer takes nothing; 0 where it does.
    stalled: Cell<u64>,
    lengths: Cell<u64>,
    /// Whether bytes are HTTP/2's frames: then they need not be a request's.
    framed: Cell<bool>,
}

const fn ticks(millis: u64) -> u64 {
    millis.div_ceil(limits::CONNECTION_TICK_MILLIS)
}

impl Meter {
    fn new(clock: Rc<Cell<u64>>) -> Self {
        let since = Cell::new(clock.get());
        Self {
            clock,
            phase: Cell::new(Phase::New),
            since,
            active: Cell::new(0),
            stalled: Cell::new(0),
            lengths: Cell::new(0),
            framed: Cell::new(false),
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.clock.get());
    }

    /// Bytes arrived.
    pub fn received(&self) {
        if !self.framed.get() && matches!(self.phase.get(), Phase::New | Phase::Idle) {
            self.enter(Phase::Head);
        }
    }

    /// The connection speaks HTTP/2. A ping, or a window's update, begins no request: from here on it is idle unless
    /// requests are under way, and hyper asks by pings of its own whether the peer is still there.
    pub fn speaks_frames(&self) {
        self.framed.set(true);
        self.enter(Phase::Idle);
    }

    /// The peer took something of what it is sent, or nothing.
    pub fn wrote(&self, something: bool) {
        if something {
            self.stalled.set(0);
        } else if self.stalled.get() == 0 {
            self.stalled.set(self.clock.get());
        }
    }

    /// So many lines that begin like `Content-Length` arrived.
    pub fn saw_lengths(&self, lines: u64) {
        self.lengths.set(self.lengths.get() + lines);
    }

    /// A request begins; it ends with the value that is returned.
    pub fn begin(self: &Rc<Self>) -> Busy {
        self.active.set(self.active.get() + 1);
        self.phase.set(Phase::Busy);
        Busy(self.clone())
    }

    /// Takes note of a request's `Content-Length`, if it has one, and tells whether a chunked one came with another that
    /// hyper took away: then more lines came in than requests have shown.
    pub fn hides_length(&self, has_length: bool, is_chunked: bool) -> bool {
        if has_length {
            self.lengths.set(self.lengths.get().saturating_sub(1));
        }
        is_chunked && self.lengths.get() > 0
    }

    fn is_at_rest(&self) -> bool {
        matches!(self.phase.get(), Phase::New | Phase::Idle) && self.stalled.get() == 0
    }

    /// At what it is too slow, if it is.
    fn overdue(&self) -> Option<Slow> {
        let now = self.clock.get();
        if self.stalled.get() != 0 && now - self.stalled.get() > ticks(limits::WRITE_STALL_MILLIS) {
            return Some(Slow::Taking);
        }
        let (slow, longest) = match self.phase.get() {
            Phase::New => (Slow::Silent, limits::FIRST_BYTE_MILLIS),
            Phase::Head => (Slow::Head, limits::HEAD_DEADLINE_MILLIS),
            Phase::Idle => (Slow::Idle, limits::IDLE_MILLIS),
            Phase::Busy => return None,
        };
        (now - self.since.get() > ticks(longest)).then_some(slow)
    }
}

/// What a connection was ended for; the order is that in which they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
enum Slow {
    Silent,
    Head,
    Idle,
    Taking,
}

/// The names of what connections are ended for, as metrics have them.
pub(super) const CUTS: [&str; 4] = ["silent", "slow-head", "idle", "not-reading"];

/// A request that is being answered.
#[derive(Debug)]
pub struct Busy(Rc<Meter>);

impl Drop for Busy {
    fn drop(&mut self) {
        let meter = &self.0;
        meter.active.set(meter.active.get() - 1);
        if meter.active.get() == 0 {
            meter.enter(Phase::Idle);
        }
    }
}

/// A thread's connections.
pub struct Connections {
    clock: Rc<Cell<u64>>,
    places: RefCell<Vec<Option<Place>>>,
    free: RefCell<Vec<usize>>,
    open: Cell<usize>,
}

struct Place {
    meter: Rc<Meter>,
    task: Option<AbortHandle>,
    counted: Option<Arc<Metrics>>,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            // Tick 0 is "never" in `Meter::stalled`.
            clock: Rc::new(Cell::new(1)),
            places: RefCell::default(),
            free: RefCell::default(),
            open: Cell::new(0),
        }
    }
}

impl Connections {
    /// Takes a connection in; it is out when the returned value is dropped. `counted` has the gauge that shows it.
    pub fn enter(self: &Rc<Self>, counted: Option<Arc<Metrics>>) -> Entered {
        let meter = Rc::new(Meter::new(self.clock.clone()));
        let place = Some(Place { meter: meter.clone(), task: None, counted: counted.clone() });
        let mut places = self.places.borrow_mut();
        let at = self.free.borrow_mut().pop().unwrap_or_else(|| {
            places.push(None);
            places.len() - 1
        });
        places[at] = place;
        self.open.set(self.open.get() + 1);
        if let Some(metrics) = &counted {
            metrics.connections.inc();
            metrics.connections_opened.add(1);
        }
        Entered { table: self.clone(), at, meter, counted }
    }

    /// Tells which task drives a connection.
    pub fn set_task(&self, at: usize, task: AbortHandle) {
        if let Some(Some(place)) = self.places.borrow_mut().get_mut(at) {
            place.task = Some(task);
        }
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Sets the time, in milliseconds since the thread began, and ends what is overdue; with `draining` also what rests.
    pub fn sweep(&self, millis: u64, draining: bool) {
        self.clock.set(1 + millis / limits::CONNECTION_TICK_MILLIS);
        self.end(|place| {
            let slow = place.meter.overdue();
            if let (Some(slow), Some(metrics)) = (slow, &place.counted) {
                metrics.connections_cut[slow as usize].add(1);
            }
            slow.is_some() || (draining && place.meter.is_at_rest())
        });
    }

    /// Ends all.
    pub fn end_all(&self) {
        self.end(|_| true);
    }

    fn end(&self, which: impl Fn(&Place) -> bool) {
        // Aborting only schedules: the tasks' own `Entered` leave the table later, not under this borrow.
        for place in self.places.borrow().iter().flatten() {
            if which(place)
                && let Some(task) = &place.task
            {
                task.abort();
            }
        }
    }
}

/// A connection that is in the table.
pub struct Entered {
    table: Rc<Connections>,
    /// Its place.
    pub at: usize,
    /// Its notes.
    pub meter: Rc<Meter>,
    counted: Option<Arc<Metrics>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.table.places.borrow_mut()[self.at] = None;
        self.table.free.borrow_mut().push(self.at);
        self.table.open.set(self.table.open.get() - 1);
        if let Some(metrics) = &self.counted {
            metrics.connections.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn settle() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    /// Runs `phases` on a connection, then lets `millis` pass, and tells whether it still lives.
    async fn lives(millis: u64, draining: bool, act: impl Fn(&Rc<Meter>) -> Option<Busy>) -> bool {
        let table = Rc::new(Connections::default());
        let entered = table.enter(None);
        let (at, meter) = (entered.at, entered.meter.clone());
        let task = tokio::task::spawn_local(async move {
            let _entered = entered;
            std::future::pending::<()>().await;
        });
        table.set_task(at, task.abort_handle());
        table.sweep(5_000, false);
        let _busy = act(&meter);
        table.sweep(5_000 + millis, draining);
        settle().await;
        let lives = !task.is_finished();
        assert_eq!(table.open(), usize::from(lives), "the table knows");
        lives
    }

    fn local(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn a_connection_that_stays_too_long_in_a_phase_is_ended() {
        local(async {
            assert!(lives(4_000, false, |_| None).await, "9 s without a byte");
            assert!(!lives(5_300, false, |_| None).await, "more than 10 s without a byte");
            let head = |m: &Rc<Meter>| {
                m.received();
                None
            };
            assert!(lives(9_000, false, head).await);
            assert!(!lives(10_300, false, head).await, "a head may take 10 s");
            let idle = |m: &Rc<Meter>| {
                drop(m.begin());
                None
            };
            assert!(lives(74_000, false, idle).await);
            assert!(!lives(75_300, false, idle).await);
            let stalled = |m: &Rc<Meter>| {
                m.wrote(false);
                Some(m.begin())
            };
            assert!(lives(9_000, false, stalled).await);
            assert!(!lives(10_300, false, stalled).await, "who takes nothing goes, busy or not");
            let busy = |m: &Rc<Meter>| Some(m.begin());
            assert!(lives(600_000, false, busy).await, "a request has its own deadlines");
        });
    }

    #[test]
    fn trickled_bytes_do_not_prolong_a_head() {
        local(async {
            let table = Rc::new(Connections::default());
            let entered = table.enter(None);
            let meter = entered.meter.clone();
            for second in 0..10 {
                meter.received();
                assert_eq!(meter.overdue(), None, "after {second} s");
                table.sweep(second * 1_000 + 1_000, false);
            }
            table.sweep(10_200, false);
            assert_eq!(meter.overdue(), Some(Slow::Head));
            drop(meter.begin());
            assert_eq!(meter.overdue(), None, "the next request has its own time");
        });
    }

    #[test]
    fn frames_that_are_no_requests_leave_a_connection_idle() {
        local(async {
            let pinged = |m: &Rc<Meter>| {
                m.received();
                m.speaks_frames();
                m.received();
                None
            };
            assert!(lives(74_000, false, pinged).await);
            assert!(!lives(75_300, false, pinged).await);
        });
    }

    #[test]
    fn draining_ends_what_rests_and_lets_requests_finish() {
        local(async {
            assert!(!lives(100, true, |_| None).await);
            assert!(lives(100, true, |m| Some(m.begin())).await);
            let unsent = |m: &Rc<Meter>| {
                drop(m.begin());
                m.wrote(false);
                None
            };
            assert!(lives(100, true, unsent).await, "an answer that is still under way is waited for");
        });
    }

    #[test]
    fn a_place_is_used_again() {
        let table = Rc::new(Connections::default());
        let metrics = Arc::new(Metrics::default());
        let one = table.enter(Some(metrics.clone()));
        assert_eq!(metrics.connections.get(), 1);
        let at = one.at;
        drop(one);
        assert_eq!((table.enter(None).at, metrics.connections.get()), (at, 0));
    }

    #[test]
    fn a_chunked_request_with_a_length_is_known_by_the_one_line_too_many() {
        let meter = Meter::new(Rc::new(Cell::new(1)));
        meter.saw_lengths(2);
        assert!(!meter.hides_length(true, false), "the first is the request's own");
        assert!(meter.hides_length(false, true), "the second was taken away");
        let plain = Meter::new(Rc::new(Cell::new(1)));
        assert!(!plain.hides_length(false, true));
    }
}
