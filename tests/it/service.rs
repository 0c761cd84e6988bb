//! What a service manager hears, over a socket of the test's own: that the node is ready, that it is alive for as long as its
//! threads turn, and how much longer a start or a stop takes.

use std::cell::RefCell;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::http::{Request, once};
use crate::support::sale::{batch_for, claim, flash_sale, outcomes, word};
use crate::support::sql::Lock;
use crate::support::{PATIENCE, Server, Site, within};
use crate::unused;

/// What the manager gives a silent service, in microseconds.
const WATCHDOG: &str = "1000000";

/// The manager, and all that it has heard.
struct Manager {
    socket: UnixDatagram,
    lines: RefCell<Vec<String>>,
}

impl Manager {
    /// Listens where a server of this site will look for it.
    fn of(site: &Site) -> (Self, String) {
        let path = site.folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (Self { socket, lines: RefCell::default() }, path.to_str().unwrap().to_owned())
    }

    /// All lines so far.
    fn heard(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let mut lines = self.lines.borrow_mut();
        while let Ok(len) = self.socket.recv(&mut bytes) {
            let text = String::from_utf8(bytes[..len].to_vec()).unwrap();
            lines.extend(text.lines().map(str::to_owned));
        }
        lines.clone()
    }

    /// All lines so far, once there is one that `holds` says is it.
    fn until(&self, what: &str, holds: impl Fn(&str) -> bool) -> Vec<String> {
        within(PATIENCE, what, || Some(self.heard()).filter(|lines| lines.iter().any(|line| holds(line))))
    }

    /// The lines of so much time from now on.
    fn during(&self, time: Duration) -> Vec<String> {
        let before = self.heard().len();
        std::thread::sleep(time);
        self.heard().split_off(before)
    }
}

fn pings(lines: &[String]) -> usize {
    lines.iter().filter(|line| *line == "WATCHDOG=1").count()
}

fn start(site: &Site, environment: &[(&str, &str)]) -> (Server, Manager) {
    let (manager, path) = Manager::of(site);
    let own = [("NOTIFY_SOCKET", &*path), ("WATCHDOG_USEC", WATCHDOG)];
    let all: Vec<_> = own.into_iter().chain(environment.iter().copied()).collect();
    (site.spawn(&all), manager)
}

#[test]
fn the_manager_hears_that_the_node_is_ready_alive_and_ending() {
    let site = Site::new();
    let (mut server, manager) = start(&site, &[]);
    let mut before = manager.until("it is ready", |line| line == "READY=1");
    before.truncate(before.iter().position(|line| line == "READY=1").unwrap());
    assert_eq!(pings(&before), 0, "alive before it is ready: {before:?}");
    server.ready().unwrap();
    server.create(&flash_sale("one", 5));
    server.claimed("one", "u1");
    let status = |line: &str| line == "STATUS=taking claims; no entries wait for the database";
    manager.until("what it does", status);
    let lines = manager.during(Duration::from_secs(2));
    assert!(pings(&lines) >= 3, "{lines:?}");
    server.signal(Signal::TERM);
    let lines = manager.until("that it stops", |line| line == "STOPPING=1");
    assert_eq!(lines.iter().filter(|line| *line == "READY=1").count(), 1, "{lines:?}");
    assert!(server.wait(PATIENCE).success(), "{}", server.log_tail());
    let lines = manager.heard();
    assert!(lines.iter().any(|line| line.starts_with("EXTEND_TIMEOUT_USEC=")), "a stop asks for its time: {lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("STATUS=stopping; ")), "{lines:?}");
}

/// Pings end when the thread that reaches `point` hangs there, and the manager is told which one.
fn falls_silent(point: &str, threads: &[&str]) {
    let site = Site::new().text("ingest.ack_deadline", "500ms");
    let (mut server, manager) = start(&site, &[("FOREBAY_HANG_AT", point)]);
    let lines = manager.until("a first ping", |line| line == "WATCHDOG=1");
    assert!(lines.iter().any(|line| line == "READY=1"), "{lines:?}");
    // Some work for the sequencer; whether it is answered is the hanging thread's business.
    let _ = once(server.admin, &Request::post("/admin/v1/campaigns", &flash_sale("one", 5)), Duration::from_secs(2));
    let named = |line: &str| threads.iter().any(|thread| line == format!("STATUS=the {thread} thread hangs"));
    manager.until(point, named);
    let lines = manager.during(Duration::from_secs(2));
    assert_eq!(pings(&lines), 0, "{point}: {lines:?}");
    assert_eq!(server.ended(), None, "the manager ends it");
    let log = fs::read_to_string(site.log()).unwrap();
    assert!(log.contains("a thread does not come round"), "{log}");
}

#[test]
fn pings_end_when_a_thread_hangs_that_the_node_cant_do_without() {
    let cases: [(&str, &[&str]); 4] = [
        ("sequencer.batch", &["sequencer"]),
        ("ingest.tick:40", &["ingest-0", "ingest-1", "ingest-2", "ingest-3", "admin"]),
        ("drain.turn:5", &["drain"]),
        ("janitor.round:9", &["janitor"]),
    ];
    std::thread::scope(|scope| {
        let all = cases.map(|(point, threads)| scope.spawn(move || falls_silent(point, threads)));
        all.into_iter().for_each(|one| one.join().unwrap());
    });
}

#[test]
fn pings_go_on_while_the_database_is_away() {
    let site = Site::new();
    let (mut server, manager) = start(&site, &[]);
    server.ready().unwrap();
    server.create(&flash_sale("one", 50));
    server.drained("one");
    let lock = Lock::take(&site.database());
    assert_eq!(server.call(&claim("one", "u1")).status, 202);
    // Longer than any thread may stand still with this limit.
    let lines = manager.during(Duration::from_secs(5));
    assert!(pings(&lines) >= 10, "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("hangs")), "{lines:?}");
    // One for the claim, and one for the campaign where the lock came before that was written.
    let waits = ["1 entry waits", "2 entries wait"].map(|n| format!("STATUS=taking claims; {n} for the database"));
    manager.until("what waits", |line| waits.iter().any(|words| words == line));
    lock.release();
    server.drained("one");
}

#[test]
fn a_recovery_asks_for_time_while_it_gets_on_and_not_when_it_hangs() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("one", 1_000_000));
    // More than a recovery reads before it says how far it is.
    let filler = "u".repeat(50);
    for no in 0..120 {
        let answer = server.call(&batch_for("one", &format!("{filler}{no}-"), 1_000));
        assert!(outcomes(&answer).iter().all(|outcome| word(outcome) == "claimed"));
    }
    server.kill();
    let (_server, manager) = start(&site, &[("FOREBAY_HANG_AT", "start.recovering")]);
    let lines = manager.until("that it recovers", |line| line.starts_with("STATUS=recovering the journal: "));
    let asked = |lines: &[String]| lines.iter().filter(|line| line.starts_with("EXTEND_TIMEOUT_USEC=")).count();
    assert!((1..=2).contains(&asked(&lines)), "{lines:?}");
    let lines = manager.during(Duration::from_secs(2));
    assert!(lines.is_empty(), "a start that hangs asks for nothing: {lines:?}");
}

#[test]
fn a_gate_that_waits_for_redis_asks_for_time_again_and_again() {
    let redis = format!("redis://{}", unused());
    let site = Site::new().text("buffer.kind", "redis").text("redis.url", &redis).role("gate");
    let (mut server, manager) = start(&site, &[]);
    manager.until("what it waits for", |line| line.starts_with("STATUS=waiting for Redis at "));
    let lines = manager.during(Duration::from_secs(3));
    let asked = lines.iter().filter(|line| line.starts_with("EXTEND_TIMEOUT_USEC=")).count();
    assert!(asked >= 3 && pings(&lines) == 0, "{lines:?}");
    assert_eq!(server.ended(), None);
}
