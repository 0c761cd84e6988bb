//! A thread that panics takes the process with it, in order and with an exit code that a supervisor acts on.

use std::fs;
use std::time::Duration;

use rustix::net::{Shutdown, getsockname, shutdown, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};
use serde_json::json;

use crate::support::http::{Connection, once};
use crate::support::sale::{claim, flash_sale};
use crate::support::{PATIENCE, Server, Site};

fn site() -> Site {
    Site::new().text("ingest.ack_deadline", "1s")
}

/// The server must end by itself with 1, say why, and never that all is well.
fn ends_with_1(mut server: Server, site: &Site, why: &str) {
    let status = server.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", server.log_tail());
    let log = fs::read_to_string(site.log()).unwrap();
    assert!(log.contains(why), "no {why:?} in\n{log}");
    assert!(log.contains("\"ERROR\"") && !log.contains("stopped; "), "{log}");
}

#[test]
fn a_panic_of_the_sequencer_ends_the_node_and_a_restart_has_what_was_acknowledged() {
    let site = site();
    // The third batch: the campaign's creation and one claim come before.
    let mut server = site.spawn(&[("FOREBAY_PANIC_AT", "sequencer.batch:3")]);
    assert!(server.ready().is_ok());
    server.create(&flash_sale("panic", 10));
    server.claimed("panic", "u1");
    if let Ok(answer) = once(server.public, &claim("panic", "u2"), PATIENCE) {
        answer.expect(503, "outcome-unknown");
    }
    ends_with_1(server, &site, "the sequencer thread panicked");
    let server = site.start();
    let balance = server.drained("panic");
    assert_eq!((&balance["persisted"], &balance["free"]), (&json!(1), &json!(9)), "{balance}");
}

#[test]
fn a_panic_of_the_janitor_ends_the_node() {
    let site = site();
    let server = site.spawn(&[("FOREBAY_PANIC_AT", "janitor.round:4")]);
    ends_with_1(server, &site, "the janitor thread panicked");
}

#[test]
fn a_panic_of_the_drain_ends_the_node_and_a_restart_drains() {
    let site = site();
    let mut server = site.spawn(&[("FOREBAY_PANIC_AT", "store.before_commit:1")]);
    assert!(server.ready().is_ok());
    server.create(&flash_sale("panic", 10));
    ends_with_1(server, &site, "the drain thread panicked");
    let server = site.start();
    server.claimed("panic", "u1");
    assert_eq!(server.drained("panic")["persisted"], 1);
}

#[test]
fn a_panic_in_a_task_of_the_front_end_that_nobody_joins_ends_the_node() {
    let site = site();
    let server = site.spawn(&[("FOREBAY_PANIC_AT", "ingest.tick:3")]);
    ends_with_1(server, &site, "it panicked");
}

#[test]
fn a_panic_of_a_listeners_thread_during_the_stop_is_no_success() {
    let site = site();
    let mut server = site.spawn(&[("FOREBAY_PANIC_AT", "ingest.finish")]);
    assert!(server.ready().is_ok());
    std::thread::sleep(Duration::from_millis(100));
    server.signal(Signal::TERM);
    ends_with_1(server, &site, "it panicked");
}

/// Shuts the server's public listening socket down from outside: its next `accept` fails for good.
fn break_listener(server: &Server) {
    let pid = server.pid() as i32;
    let handle = pidfd_open(Pid::from_raw(pid).expect("a process"), PidfdFlags::empty()).expect("an own child");
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("an own child") {
        let name = entry.expect("a descriptor").file_name();
        let no = name.to_str().and_then(|n| n.parse().ok()).expect("a number");
        let Ok(socket) = pidfd_getfd(&handle, no, PidfdGetfdFlags::empty()) else { continue };
        let listens = sockopt::socket_acceptconn(&socket).unwrap_or(false);
        if listens && getsockname(&socket).is_ok_and(|addr| addr.try_into() == Ok(server.public)) {
            return shutdown(&socket, Shutdown::Both).expect("a listening socket");
        }
    }
    panic!("nobody listens on {}", server.public);
}

#[test]
fn a_listener_that_fails_ends_the_node_but_not_the_request_under_way() {
    let site = site().set("ingest.threads", 1);
    let mut server = site.spawn(&[]);
    assert!(server.ready().is_ok());
    server.create(&flash_sale("broken", 10));
    let mut connection = Connection::open(server.public).unwrap();
    let (whole, again) = (claim("broken", "u1").bytes(), claim("broken", "u2").bytes());
    connection.send(&whole).unwrap();
    assert_eq!(connection.answer().unwrap().expect("an answer").status, 202, "the connection is taken");
    connection.send(&again[..again.len() - 1]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    break_listener(&server);
    std::thread::sleep(Duration::from_millis(200));
    connection.send(&again[again.len() - 1..]).unwrap();
    let answer = connection.answer().unwrap().expect("an answer, not the end of the connection");
    if answer.status != 202 {
        answer.expect(503, "draining");
    }
    ends_with_1(server, &site, "a listener can't accept any more");
}
