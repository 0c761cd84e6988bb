//! Clients that are slow on purpose: each is cut within its deadline, and nobody else waits for them. All kinds at once,
//! since each takes its ten seconds.

use std::time::{Duration, Instant};

use crate::support::http::Connection;
use crate::support::sale::{claim, flash_sale};
use crate::support::{Server, Site};

/// The deadlines are ten seconds, kept to within a tick; the rest is patience with a busy machine.
const CUT_BY: Duration = Duration::from_secs(25);

const HEAD: &[u8] = b"POST /v1/campaigns/slow/claims HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";

/// Sends `first`, then `drip` twice a second, until the server ends the connection or answers; gives the answer's status.
fn suffer(server: &Server, name: &str, first: &[u8], drip: &[u8]) -> u16 {
    let start = Instant::now();
    let mut connection = Connection::open(server.public).expect("the server listens");
    connection.patience(Duration::from_millis(500)).expect("a socket");
    let _ = connection.send(first);
    loop {
        assert!(start.elapsed() < CUT_BY, "{name}: still open after {:?}", start.elapsed());
        match connection.answer() {
            Ok(Some(answer)) => return answer.status,
            Ok(None) => break,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if !drip.is_empty() {
            let _ = connection.send(drip);
        }
    }
    let took = start.elapsed();
    assert!(took > Duration::from_secs(2), "{name}: cut after {took:?} already");
    0
}

/// A name, what is sent first, what is sent again and again, and the statuses that may come back; 0 for none.
type Case = (&'static str, Vec<u8>, &'static [u8], &'static [u16]);

#[test]
fn slow_clients_are_cut_in_time_and_hold_nobody_up() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("slow", 100_000));
    let length = |n: usize| [HEAD, format!("Content-Length: {n}\r\n\r\n").as_bytes()].concat();
    let cases: [Case; 7] = [
        ("nothing at all", Vec::new(), b"", &[0]),
        ("one byte and no more", b"P".to_vec(), b"", &[0, 408]),
        ("half a head and no more", HEAD.to_vec(), b"", &[0, 408]),
        ("a head that never ends", HEAD.to_vec(), b"X-Drip: 1\r\n", &[0, 408]),
        ("half of HTTP/2's preface", b"PRI * HTTP/2.0\r\n".to_vec(), b"", &[0, 400, 408]),
        ("half a body and no more", [length(100), b"{\"user\":".to_vec()].concat(), b"", &[0, 400, 408]),
        ("a body that never ends", length(10_000), b" ", &[0, 400, 408]),
    ];
    std::thread::scope(|scope| {
        let (server, cases) = (&server, &cases);
        let slow: Vec<_> = cases
            .iter()
            .map(|(name, first, drip, statuses)| {
                scope.spawn(move || {
                    let status = suffer(server, name, first, drip);
                    assert!(statuses.contains(&status), "{name}: {status}");
                })
            })
            .collect();
        let reader = scope.spawn(|| deaf_reader(server));
        let mut served = 0;
        while slow.iter().any(|s| !s.is_finished()) {
            let start = Instant::now();
            server.claimed("slow", &format!("quick-{served}"));
            assert!(start.elapsed() < Duration::from_secs(5), "a claim waited for {:?}", start.elapsed());
            served += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(served > 100, "only {served} claims were served beside the slow ones");
        slow.into_iter().for_each(|s| s.join().expect("cut in time"));
        reader.join().expect("cut in time");
    });
    assert_eq!(server.metric("forebay_connections").map(|n| n < 20.0), Some(true), "connections are left over");
    for (cause, least) in [("silent", 1.0), ("slow-head", 4.0), ("not-reading", 1.0)] {
        let cut = server.metric(&format!("forebay_connections_cut_total{{cause=\"{cause}\"}}"));
        assert!(cut.is_some_and(|cut| cut >= least), "{cause}: {cut:?} were counted");
    }
}

/// Asks for much and reads nothing: the server must not keep its answers for ever.
fn deaf_reader(server: &Server) {
    let mut connection = Connection::open(server.public).expect("the server listens");
    connection.patience(Duration::from_secs(1)).expect("a socket");
    let start = Instant::now();
    let requests: Vec<u8> = (0..200).flat_map(|_| claim("nowhere", "deaf").bytes()).collect();
    loop {
        assert!(start.elapsed() < CUT_BY, "a peer that takes nothing is still open after {:?}", start.elapsed());
        match connection.send(&requests) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
}
