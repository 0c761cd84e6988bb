//! The listeners' threads: they accept, serve HTTP/1.1 and HTTP/2 (by prior knowledge), keep the deadlines and end in order.
//!
//! - Each public thread has its own socket, runtime, [`Door`] and connections; the admin listener has a thread of its own,
//!   so that a scrape or an export never delays a claim, and answers until the public ones have ended.
//! - A connection beyond [`limits::connections_max`] is told so and closed: left waiting in the backlog its client could not
//!   tell an overloaded node from a dead one.
//! - The end: listeners close, what rests is closed, requests under way finish (over HTTP/1.1 with `Connection: close`,
//!   over HTTP/2 after a GOAWAY), reads that wait are answered; what is left after the grace is dropped.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::connection::Connections;
use super::listen::{self, AcceptError, ListenError};
use super::pace::Pace;
use super::reply::Problem;
use super::session::{self, Admin, Public, Routes};
use super::waits::Waits;
use super::{App, Door, wire};
use crate::clock::{self, Seldom};
use crate::config::AdminAddr;
use crate::limits;
use crate::plant;
use crate::pulse;

/// Why the listeners could not be started, or one of them ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address can't be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread or its runtime could not be made.
    #[error("a thread of the front end can't be started: {0}")]
    Thread(#[from] io::Error),
    /// A listener or its thread failed while it ran.
    #[error("{0}")]
    Failed(String),
}

/// The running listeners.
pub struct Servers {
    public: Option<SocketAddr>,
    admin: AdminAddr,
    public_stop: watch::Sender<Option<Duration>>,
    admin_stop: watch::Sender<Option<Duration>>,
    public_threads: Vec<JoinHandle<()>>,
    admin_thread: JoinHandle<()>,
    failed: watch::Receiver<Option<String>>,
    _lock: Option<listen::AddressLock>,
}

impl Servers {
    /// Opens both listeners and starts `threads` public threads, fronts 0 to `threads` − 1 of the buffer, at least 1 where
    /// there is a public listener; and the admin thread, front `threads`.
    ///
    /// # Errors
    /// [`ServeError`]; nothing listens any more then.
    pub fn spawn(
        app: &Arc<App>,
        public: Option<&SocketAddr>,
        admin: &AdminAddr,
        threads: u16,
    ) -> Result<Self, ServeError> {
        let listening = public.map(|public| listen::public(*public, threads.into())).transpose()?;
        let (admin_listener, admin) = match admin {
            AdminAddr::Tcp(addr) => {
                let socket = listen::admin_tcp(*addr)?;
                let addr = socket.local_addr()?;
                (AdminListener::Tcp(socket), AdminAddr::Tcp(addr))
            }
            AdminAddr::Unix(path) => (AdminListener::Unix(listen::admin_unix(path)?), admin.clone()),
        };
        let (tell, failed) = watch::channel(None);
        let (public_stop, public_told) = watch::channel(None);
        let (admin_stop, admin_told) = watch::channel(None);
        let mut public_threads = Vec::new();
        let (public, sockets, lock) = match listening {
            Some(listening) => (Some(listening.addr), listening.sockets, Some(listening.lock)),
            None => (None, Vec::new(), None),
        };
        for (no, socket) in (0..).zip(sockets) {
            let (app, stop) = (app.clone(), public_told.clone());
            let requests_max = limits::REQUESTS_MAX / u32::from(threads.max(1));
            let start = Start { app, front: no, is_public: true, requests_max, stop, tell: tell.clone() };
            public_threads.push(start.spawn(format!("ingest-{no}"), async move |thread| {
                let listener = TcpListener::from_std(socket)?;
                serve::<Public, _>(thread, listener).await
            })?);
        }
        let requests_max = limits::REQUESTS_MAX;
        let start = Start { app: app.clone(), front: threads, is_public: false, requests_max, stop: admin_told, tell };
        let admin_thread = start.spawn("admin".to_owned(), async move |thread| match admin_listener {
            AdminListener::Tcp(socket) => serve::<Admin, _>(thread, TcpListener::from_std(socket)?).await,
            AdminListener::Unix(socket) => serve::<Admin, _>(thread, UnixListener::from_std(socket)?).await,
        })?;
        Ok(Self { public, admin, public_stop, admin_stop, public_threads, admin_thread, failed, _lock: lock })
    }

    /// Where claims are taken, if they are.
    pub fn public(&self) -> Option<SocketAddr> {
        self.public
    }

    /// Where operators are listened to.
    pub fn admin(&self) -> &AdminAddr {
        &self.admin
    }

    /// Waits until a listener or a thread fails.
    pub async fn fatal(&self) -> ServeError {
        let mut failed = self.failed.clone();
        let failed = failed.wait_for(Option::is_some).await.ok().and_then(|f| f.clone());
        ServeError::Failed(failed.unwrap_or_else(|| "every listener has ended".to_owned()))
    }

    /// Accepts no more, lets requests finish for at most `grace`, then ends all threads. Say before that the node is
    /// draining ([`App::draining`]). The admin listener ends last.
    ///
    /// # Errors
    /// The listener or thread that failed first, before this or meanwhile; all have ended nevertheless.
    pub fn stop(self, grace: Duration) -> Result<(), ServeError> {
        self.public_stop.send_replace(Some(grace));
        for thread in self.public_threads {
            // A panic has been told by the thread's guards.
            let _ = thread.join();
        }
        self.admin_stop.send_replace(Some(Duration::ZERO));
        let _ = self.admin_thread.join();
        if let AdminAddr::Unix(path) = &self.admin {
            let _ = std::fs::remove_file(path);
        }
        self.failed.borrow().clone().map_or(Ok(()), |why| Err(ServeError::Failed(why)))
    }
}

enum AdminListener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// What a thread is started with.
struct Start {
    app: Arc<App>,
    front: u16,
    is_public: bool,
    requests_max: u32,
    stop: watch::Receiver<Option<Duration>>,
    tell: watch::Sender<Option<String>>,
}

impl Start {
    fn spawn<F>(self, name: String, run: F) -> io::Result<JoinHandle<()>>
    where
        F: AsyncFnOnce(Rc<Thread>) -> io::Result<()> + Send + 'static,
    {
        // Made here, so that what is missing is told to whoever starts the thread.
        let report = Report { name: name.clone(), tell: self.tell };
        std::thread::Builder::new().name(name).spawn(move || {
            let _guard = OnPanic(report.clone());
            let patience = Duration::from_millis(limits::PULSE_MILLIS);
            let _pulse = self.app.buffer.metrics().pulses.enter(&report.name, patience);
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().event_interval(limits::EVENT_INTERVAL);
            if self.is_public {
                let pace = Pace::new(self.app.buffer.clone());
                builder.on_thread_park(move || pace.rest());
            }
            let built = builder.build_local(Default::default());
            let result = built.and_then(|runtime| {
                let (app, stop, report) = (self.app, self.stop, report.clone());
                runtime.block_on(async { run(Thread::new(app, self.front, self.requests_max, stop, report)).await })
            });
            if let Err(error) = result {
                report.failed(&error);
            }
        })
    }
}

/// Tells of a thread that can't go on; the first such news counts.
#[derive(Clone)]
struct Report {
    name: String,
    tell: watch::Sender<Option<String>>,
}

impl Report {
    fn failed(&self, why: &dyn fmt::Display) {
        let news = || format!("the listener of thread {} has failed: {why}", self.name);
        self.tell.send_if_modified(|first| first.is_none() && first.replace(news()).is_none());
    }
}

/// Tells of the panic of the thread, or the task, that it belongs to.
struct OnPanic(Report);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed(&"it panicked (the message is above)");
        }
    }
}

/// Starts a task that its thread can't do without: the runtime would keep its panic to itself.
fn spawn_vital(report: &Report, task: impl Future<Output = ()> + 'static) {
    let guard = OnPanic(report.clone());
    tokio::task::spawn_local(async move {
        let _guard = guard;
        task.await;
    });
}

/// What the connections of a thread share.
pub struct Thread {
    door: Rc<Door>,
    waits: Rc<Waits>,
    connections: Rc<Connections>,
    scratch: Rc<RefCell<Vec<u8>>>,
    requests_max: u32,
    stop: watch::Receiver<Option<Duration>>,
    report: Report,
}

impl Thread {
    fn new(
        app: Arc<App>,
        front: u16,
        requests_max: u32,
        stop: watch::Receiver<Option<Duration>>,
        report: Report,
    ) -> Rc<Self> {
        let front = app.buffer.front(front);
        spawn_vital(&report, front.clone().run());
        let waits = Waits::new(app.retired.clone());
        spawn_vital(&report, waits.clone().run());
        let thread = Rc::new(Self {
            door: Door::new(app, front),
            waits,
            connections: Rc::default(),
            scratch: wire::scratch(),
            requests_max,
            stop,
            report,
        });
        spawn_vital(&thread.report, thread.clone().keep_deadlines());
        thread
    }

    /// The way into the engine.
    pub fn door(&self) -> &Rc<Door> {
        &self.door
    }

    /// Reads that wait for the drain.
    pub fn waits(&self) -> &Rc<Waits> {
        &self.waits
    }

    /// Requests that may be under way at a time.
    pub(super) fn requests_max(&self) -> u32 {
        self.requests_max
    }

    /// The buffer for reads.
    pub(super) fn scratch(&self) -> Rc<RefCell<Vec<u8>>> {
        self.scratch.clone()
    }

    /// Whether nothing new is begun any more.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    async fn keep_deadlines(self: Rc<Self>) {
        let start = clock::tick();
        let mut every = tokio::time::interval(Duration::from_millis(limits::SWEEP_MILLIS));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut swept = 0;
        loop {
            every.tick().await;
            pulse::beat();
            plant::crash_point("ingest.tick");
            self.door.front.sweep();
            let millis = start.elapsed().as_millis() as u64;
            if millis >= swept + limits::CONNECTION_TICK_MILLIS {
                swept = millis;
                self.connections.sweep(millis, self.is_stopping());
            }
        }
    }

    /// Waits until the node stops; tells how long requests may still take.
    pub(super) async fn stopped(&self) -> Duration {
        let mut stop = self.stop.clone();
        let told = stop.wait_for(Option::is_some).await;
        told.ok().and_then(|grace| *grace).unwrap_or_default()
    }

    async fn finish(&self, grace: Duration) {
        plant::crash_point("ingest.finish");
        self.waits.end();
        if tokio::time::timeout(grace, self.until_empty()).await.is_ok() {
            return;
        }
        let open = self.connections.open();
        if open == 0 {
            return;
        }
        tracing::warn!(connections = open, "the grace is over; open requests lose their answers");
        self.connections.end_all();
        // Their tasks end when they are next polled, which is at once.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.until_empty()).await;
    }

    async fn until_empty(&self) {
        /// How often it is looked.
        const LOOK: Duration = Duration::from_millis(10);
        while self.connections.open() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A listener's socket.
trait Listener {
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;
    async fn accept_one(&self) -> io::Result<(Self::Stream, IpAddr)>;
    /// Sends `words` as far as the fresh connection takes them at once, and closes it.
    fn turn_away(stream: Self::Stream, words: &[u8]) -> io::Result<()>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept_one(&self) -> io::Result<(TcpStream, IpAddr)> {
        self.accept().await.map(|(stream, peer)| (stream, peer.ip()))
    }

    fn turn_away(stream: TcpStream, words: &[u8]) -> io::Result<()> {
        stream.into_std()?.write(words).map(drop)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept_one(&self) -> io::Result<(UnixStream, IpAddr)> {
        self.accept().await.map(|(stream, _)| (stream, Ipv4Addr::LOCALHOST.into()))
    }

    fn turn_away(stream: UnixStream, words: &[u8]) -> io::Result<()> {
        stream.into_std()?.write(words).map(drop)
    }
}

/// Accepts until the node stops, then lets requests finish.
async fn serve<R: Routes, L: Listener>(thread: Rc<Thread>, listener: L) -> io::Result<()> {
    let result = accept_all::<R, L>(&thread, &listener).await;
    drop(listener);
    let grace = match result {
        Ok(grace) => grace,
        // Told at once, so that the node stops for it; what is under way goes on until then, and has the stop's grace.
        Err(error) => {
            tracing::error!(%error, "a listener can't accept any more");
            thread.report.failed(&error);
            thread.stopped().await
        }
    };
    thread.finish(grace).await;
    Ok(())
}

async fn accept_all<R: Routes, L: Listener>(thread: &Rc<Thread>, listener: &L) -> io::Result<Duration> {
    let mut stopped = pin!(thread.stopped());
    let mut pause = limits::ACCEPT_PAUSE_MILLIS.0;
    let news = Seldom::new();
    loop {
        let accepted = tokio::select! {
            biased;
            grace = &mut stopped => return Ok(grace),
            accepted = listener.accept_one() => accepted,
        };
        let error = match accepted {
            Ok((stream, peer)) => {
                pause = limits::ACCEPT_PAUSE_MILLIS.0;
                admit::<R, L>(thread, stream, peer);
                continue;
            }
            Err(error) => error,
        };
        match AcceptError::classify(&error) {
            AcceptError::Connection => {}
            AcceptError::Fatal => return Err(error),
            AcceptError::Exhausted => {
                // While connections come and go at the edge, every second accept fails: that is one piece of news.
                if let Some(others) = news.is_due(Duration::from_millis(limits::ACCEPT_TELL_MILLIS)) {
                    tracing::error!(%error, others, "out of descriptors or memory for connections; new ones wait");
                }
                thread.door.app.buffer.metrics().accept_pauses.add(1);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                pause = (pause * 2).min(limits::ACCEPT_PAUSE_MILLIS.1);
            }
        }
    }
}

fn admit<R: Routes, L: Listener>(thread: &Rc<Thread>, stream: L::Stream, peer: IpAddr) {
    let metrics = thread.door.app.buffer.metrics();
    // Threads look at one number without a lock, so together they may go over by one each.
    let (open, most) = if R::IS_PUBLIC {
        (metrics.connections.get(), thread.door.app.connections_max)
    } else {
        (thread.connections.open() as u64, limits::ADMIN_CONNECTIONS_MAX)
    };
    let guest = thread.door.app.guests.as_ref().filter(|_| R::IS_PUBLIC).map(|guests| guests.admit(peer));
    let (is_full, is_greedy) = (open >= most, matches!(guest, Some(None)));
    if is_full || is_greedy {
        thread.door.refused(R::IS_PUBLIC, &Problem::Overloaded);
        metrics.connections_refused[usize::from(!is_full)].add(1);
        // Whoever does not get the words sees the connection closed, which says the same.
        let _ = L::turn_away(stream, &wire::last_words(Problem::Overloaded, &thread.door));
        return;
    }
    let entered = thread.connections.enter(R::IS_PUBLIC.then(|| metrics.clone()));
    let entered = entered.holding(guest.flatten());
    let at = entered.at;
    let task = tokio::task::spawn_local(session::converse::<R, L::Stream>(thread.clone(), stream, peer, entered));
    thread.connections.set_task(at, task.abort_handle());
}
