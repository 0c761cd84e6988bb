//! Descriptors run out, and come back: who is connected is served, who is not waits, nobody's processor spins, and once there
//! are descriptors again the next connection is taken.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::support::http::Connection;
use crate::support::sale::{claim, flash_sale};
use crate::support::{PATIENCE, Server, Site, eventually, within};
use crate::{among_others, is_well, memory, processor};

/// Descriptors that the server keeps room for beyond those that it has.
const ROOM: usize = 40;

/// How long it stays without.
const SPELL: Duration = Duration::from_secs(4);

/// Descriptors of a server that may have few, and connections that they leave room for.
const FEW: u64 = 600;

fn descriptors(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("an own child").count()
}

fn allow(server: &Server, most: u64) {
    let pid = Pid::from_raw(server.pid() as i32).expect("a process id");
    let limit = Rlimit { current: Some(most), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(pid), Resource::Nofile, limit).expect("an own child's limit can be set");
}

#[test]
fn without_descriptors_the_connected_are_served_and_with_them_the_next_are_taken() {
    let _others = among_others();
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("few", 10_000));
    let mut connected = Connection::open(server.public).expect("the server listens");
    assert_eq!(connected.call(&claim("few", "first")).expect("an answer").status, 202);
    // What the journal prepares ahead needs descriptors; afterwards nothing does for as long as this takes.
    let segments = || fs::read_dir(site.journal()).expect("the journal").count();
    within(PATIENCE, "the journal has what it prepares", || {
        let (before, ()) = (segments(), std::thread::sleep(Duration::from_secs(1)));
        (segments() == before).then_some(())
    });
    let (before, usual) = (memory(server.pid()), descriptors(&server));
    let plenty = getrlimit(Resource::Nofile).current.expect("there is a limit");
    allow(&server, (usual + ROOM) as u64);

    // The kernel completes connections that nobody accepts; those that find no room in its queue either are not made.
    let mut held: Vec<Connection> = Vec::new();
    while held.len() < 4 * ROOM {
        held.push(Connection::open(server.public).expect("the kernel takes it"));
    }
    eventually("descriptors have run out", || descriptors(&server) >= usual + ROOM);
    let (used, start) = (processor(server.pid()), Instant::now());
    let mut served = 0;
    while start.elapsed() < SPELL {
        let answer = connected.call(&claim("few", &format!("during-{served}"))).expect("who is connected is served");
        assert_eq!(answer.status, 202, "{}", answer.text());
        served += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    let spent = processor(server.pid()) - used;
    assert!(descriptors(&server) >= usual + ROOM, "they had come back meanwhile");
    assert!(spent < SPELL / 2, "{spent:?} of processor in {SPELL:?}: something spins");

    // First by themselves, as peers go; then by the operator.
    drop(held);
    let start = Instant::now();
    is_well(&server, "few", "after", before, 32.0);
    let back = start.elapsed();
    println!(
        "descriptors: {served} claims on the open connection in {SPELL:?} without any, {spent:?} of processor; the \
              next connection served after {back:.0?}"
    );
    let mut held: Vec<Connection> = Vec::new();
    while held.len() < 2 * ROOM {
        held.push(Connection::open(server.public).expect("the kernel takes it"));
    }
    eventually("descriptors have run out again", || descriptors(&server) >= usual + ROOM);
    allow(&server, plenty);
    is_well(&server, "few", "raised", before, 32.0);
    let log = fs::read_to_string(site.log()).expect("the log is there");
    let told = log.lines().filter(|l| l.contains("out of descriptors")).count();
    assert!((1..=10).contains(&told), "told {told} times");
}

#[test]
fn a_server_of_few_descriptors_keeps_those_of_its_journal_to_itself() {
    let _others = among_others();
    let site = Site::new();
    let mut server = site.spawn_by(|command| {
        // The hard limit, too: the soft one is raised as far as it may be.
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -Sn 256 && ulimit -Hn {FEW} && exec \"$0\" \"$@\""));
        shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        shell
    });
    assert!(server.ready().is_ok(), "{}", server.log_tail());
    server.create(&flash_sale("few", 10_000));
    let before = memory(server.pid());
    let room = forebay::limits::connections_max(FEW) as usize;
    let mut held = Vec::new();
    let mut refused = 0;
    for no in 0..2 * FEW as usize {
        let mut connection = Connection::open(server.public).expect("the kernel takes it");
        match connection.call(&claim("few", &format!("u{no}"))) {
            Ok(answer) if answer.status == 202 => held.push(connection),
            Ok(answer) => refused += usize::from(answer.expect(503, "overloaded").status == 503),
            Err(_) => refused += 1,
        }
    }
    println!("{FEW} descriptors: {} connections held, {refused} refused", held.len());
    assert_eq!((held.len(), refused), (room, 2 * FEW as usize - room));
    for (no, connection) in held.iter_mut().enumerate() {
        assert_eq!(connection.call(&claim("few", &format!("again-{no}"))).expect("an answer").status, 202);
    }
    drop(held);
    eventually("places are given back", || server.metric("forebay_connections").is_some_and(|n| n < 5.0));
    is_well(&server, "few", "well", before, 32.0);
    let log = fs::read_to_string(site.log()).expect("the log is there");
    assert!(log.contains("few files may be open") && !log.contains("out of descriptors"), "{log}");
}
