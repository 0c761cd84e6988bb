//! One connection: where it stands, since when, and the bytes that go through it.
//!
//! - **Deadlines without timers.** A connection notes its [`Phase`] and a coarse tick in two cells; once a tick its
//!   thread looks at all of them and ends those that stayed too long. A timer a request (hyper's `header_read_timeout`)
//!   costs more than the rest of this file.
//! - **An answer that its reader does not take ends the connection.** Over HTTP/1.1 a connection has one answer at a time,
//!   whose bytes must leave at [`limits::ANSWER_RATE_MIN`]: a peer that reads a byte now and then is not alive enough. Over
//!   HTTP/2 the peer's windows hold answers back without the socket ever being full, so each is noted until the last of its
//!   bytes is dropped ([`Unsent`]), wherever it waits by then.
//! - **Ending a connection drops its task**, and with it the requests it carries: as if the client had gone. What they
//!   have submitted is the buffer's and goes on.
//!
//! Everything here belongs to one thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::AbortHandle;

use crate::antiscalper::guests::Guest;
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

/// What a thread's connections share.
#[derive(Debug)]
struct Common {
    /// The tick.
    clock: Cell<u64>,
    /// Requests under way, and answers over HTTP/2 that are not wholly sent.
    busy: Cell<u32>,
}

impl Default for Common {
    fn default() -> Self {
        // Tick 0 is "never" in `Meter::stalled`.
        Self { clock: Cell::new(1), busy: Cell::new(0) }
    }
}

/// The parts of [`limits::H2_ANSWER_MILLIS`] in which answers begin, one more than are let pass.
const SPANS: usize = 5;

/// A connection's notes.
#[derive(Debug)]
pub struct Meter {
    common: Rc<Common>,
    phase: Cell<Phase>,
    since: Cell<u64>,
    active: Cell<u32>,
    /// The tick since which the peer takes nothing; 0 where it does.
    stalled: Cell<u64>,
    /// Bytes that it took since.
    taken: Cell<u64>,
    /// Answers that are not wholly sent, by the span in which they began.
    unsent: [Cell<u32>; SPANS],
    lengths: Cell<u64>,
    /// Whether bytes are HTTP/2's frames: then they need not be a request's.
    framed: Cell<bool>,
}

const fn ticks(millis: u64) -> u64 {
    millis.div_ceil(limits::CONNECTION_TICK_MILLIS)
}

const SPAN: u64 = ticks(limits::H2_ANSWER_MILLIS) / (SPANS as u64 - 1);

/// The place of the span that is under way, or of the one that is `later` from it.
const fn span(tick: u64, later: u64) -> usize {
    ((tick / SPAN + later) % SPANS as u64) as usize
}

impl Meter {
    fn new(common: Rc<Common>) -> Self {
        let since = Cell::new(common.clock.get());
        Self {
            common,
            phase: Cell::new(Phase::New),
            since,
            active: Cell::new(0),
            stalled: Cell::new(0),
            taken: Cell::new(0),
            unsent: Default::default(),
            lengths: Cell::new(0),
            framed: Cell::new(false),
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.now());
    }

    fn now(&self) -> u64 {
        self.common.clock.get()
    }

    /// Bytes arrived.
    pub fn received(&self) {
        if !self.framed.get() && matches!(self.phase.get(), Phase::New | Phase::Idle) {
            self.enter(Phase::Head);
        }
    }

    /// The connection speaks HTTP/2. A ping, or a window's update, begins no request: it has the time of a head for its first
    /// one, and is idle between requests whatever frames come. hyper asks by pings of its own whether the peer is there.
    pub fn speaks_frames(&self) {
        self.framed.set(true);
    }

    /// The peer took so many bytes of what it is sent, or none for now.
    pub fn wrote(&self, bytes: Option<usize>) {
        match bytes {
            Some(bytes) => {
                self.taken.set(self.taken.get() + bytes as u64);
                // A long answer's body leaves after its request has ended: as long as it does, nothing is idle. (Over HTTP/2 our own pings
                // leave, too, and answers are noted by themselves.)
                if bytes > 0 && !self.framed.get() && self.phase.get() == Phase::Idle {
                    self.since.set(self.now());
                }
            }
            None if self.stalled.get() == 0 => {
                self.stalled.set(self.now());
                self.taken.set(0);
            }
            None => {}
        }
    }

    /// Everything that there was to send is with the system.
    pub fn flushed(&self) {
        self.stalled.set(0);
    }

    /// An answer over HTTP/2 begins to leave; it is under way until what is returned is dropped with its last bytes.
    pub fn sends(self: &Rc<Self>) -> Unsent {
        let at = span(self.now(), 0);
        self.unsent[at].set(self.unsent[at].get() + 1);
        self.common.busy.set(self.common.busy.get() + 1);
        Unsent { meter: self.clone(), at }
    }

    /// Whether more than `most` requests are under way on this connection's thread and more of them here than each connection
    /// may have then, a request that has just begun included. Who has but a few is served whatever the others do.
    pub fn is_crowded(&self, most: u32) -> bool {
        let unsent: u32 = self.unsent.iter().map(Cell::get).sum();
        self.common.busy.get() > most && self.active.get() + unsent > limits::CROWDED_REQUESTS
    }

    /// So many lines that begin like `Content-Length` arrived.
    pub fn saw_lengths(&self, lines: u64) {
        self.lengths.set(self.lengths.get() + lines);
    }

    /// A request begins; it ends with the value that is returned.
    pub fn begin(self: &Rc<Self>) -> Busy {
        self.active.set(self.active.get() + 1);
        self.common.busy.set(self.common.busy.get() + 1);
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
        let no_request = match self.phase.get() {
            Phase::New | Phase::Idle => true,
            Phase::Head => self.framed.get(),
            Phase::Busy => false,
        };
        // Over HTTP/2 an answer may wait for its reader's window, which no stall shows.
        no_request && self.stalled.get() == 0 && self.unsent.iter().all(|answers| answers.get() == 0)
    }

    /// At what it is too slow, if it is.
    fn overdue(&self) -> Option<Slow> {
        let now = self.now();
        let earned = self.taken.get() * 1_000 / limits::ANSWER_RATE_MIN;
        if self.stalled.get() != 0 && now - self.stalled.get() > ticks(limits::WRITE_STALL_MILLIS + earned) {
            return Some(Slow::Taking);
        }
        // The span that comes next had its last turn as long ago as an answer may take.
        if self.unsent[span(now, 1)].get() > 0 {
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
        meter.common.busy.set(meter.common.busy.get() - 1);
        if meter.active.get() == 0 {
            meter.enter(Phase::Idle);
        }
    }
}

/// An answer that is not wholly sent; see [`Meter::sends`].
#[derive(Debug)]
pub struct Unsent {
    meter: Rc<Meter>,
    at: usize,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        let (begun, busy) = (&self.meter.unsent[self.at], &self.meter.common.busy);
        begun.set(begun.get() - 1);
        busy.set(busy.get() - 1);
    }
}

/// A thread's connections.
#[derive(Default)]
pub struct Connections {
    common: Rc<Common>,
    places: RefCell<Vec<Option<Place>>>,
    free: RefCell<Vec<usize>>,
    open: Cell<usize>,
}

struct Place {
    meter: Rc<Meter>,
    task: Option<AbortHandle>,
    counted: Option<Arc<Metrics>>,
}

impl Connections {
    /// Takes a connection in; it is out when the returned value is dropped. `counted` has the gauge that shows it.
    pub fn enter(self: &Rc<Self>, counted: Option<Arc<Metrics>>) -> Entered {
        let meter = Rc::new(Meter::new(self.common.clone()));
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
        Entered { table: self.clone(), at, meter, counted, _guest: None }
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
        self.common.clock.set(1 + millis / limits::CONNECTION_TICK_MILLIS);
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
    /// Held for its `Drop`.
    _guest: Option<Guest>,
}

impl Entered {
    /// The same, with the place that its address has for it.
    pub fn holding(self, guest: Option<Guest>) -> Self {
        let mut held = self;
        held._guest = guest;
        held
    }
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
#[path = "connection_tests.rs"]
mod tests;
