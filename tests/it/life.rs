//! A server's life: a newcomer's first minutes, kill -9, SIGTERM, and a second signal.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::http::{Connection, Request, once};
use crate::support::sale::{claim, flash_sale};
use crate::support::sql::{Lock, try_sql};
use crate::support::{Site, Tool, eventually, plain, stderr, stdout};

/// `forebay serve --sample` in `folder`, as a newcomer runs it but for its ports, and the line that it prints to paste.
fn newcomer(folder: &std::path::Path, listen: &str, admin: &str) -> (Tool, String) {
    let log = std::fs::File::create(folder.join("../newcomer.log")).unwrap();
    let mut command = plain(["serve", "--sample", "--listen", listen, "--admin-listen", admin]);
    command.current_dir(folder);
    let mut server = Tool::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log));
    let output = server.0.stdout.take().expect("a pipe");
    let line = BufReader::new(output).lines().map_while(Result::ok).find(|l| l.starts_with("curl "));
    (
        server,
        line.unwrap_or_else(|| {
            panic!("no line to paste: {}", crate::support::tail(&folder.join("../newcomer.log"), 20))
        }),
    )
}

#[test]
fn a_newcomer_pastes_the_printed_line_sees_the_row_kills_it_and_has_lost_nothing() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("empty");
    std::fs::create_dir(&folder).unwrap();
    let (listen, admin) = (crate::unused().to_string(), crate::unused().to_string());
    let (server, line) = newcomer(&folder, &listen, &admin);
    let pasted = Command::new("sh").args(["-c", &line]).output().unwrap();
    let answer = stdout(&pasted);
    assert!(answer.starts_with("HTTP/1.1 202"), "{line}\n{answer}{}", stderr(&pasted));
    let body: serde_json::Value = serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap()).unwrap();
    let id = body["claim_id"].as_str().unwrap().to_owned();
    let database = folder.join("forebay-data/forebay.db");
    let row = || try_sql(&database, "SELECT claim_id, campaign, user_id, quantity, amount FROM claims").unwrap();
    let expected = [[id.as_str(), "sample-sale", "u1", "1", "990"]];
    eventually("the row is there", || row() == expected);
    let admin_addr: std::net::SocketAddr = admin.parse().unwrap();
    let ask = |path: &str| once(admin_addr, &Request::get(path), Duration::from_secs(10)).unwrap().json();
    let campaigns = ask("/admin/v1/campaigns");
    let names: Vec<_> = campaigns["campaigns"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap()).collect();
    assert!(names.contains(&"sample-sale") && names.contains(&"sample-packet"), "{names:?}");
    // Dropping a tool is SIGKILL.
    drop(server);
    let (_server, second) = newcomer(&folder, &listen, &admin);
    assert_eq!(second, line);
    let again = stdout(&Command::new("sh").args(["-c", &second]).output().unwrap());
    assert!(again.starts_with("HTTP/1.1 409") && again.contains(&id) && again.contains("already-claimed"), "{again}");
    assert_eq!(row(), expected);
    let sale = ask("/admin/v1/campaigns/sample-sale");
    assert_eq!((&sale["stock"], &sale["free"]), (&json!(10_000), &json!(9_999)), "the sample is not made again");
}

#[test]
fn sigterm_finishes_what_was_admitted_drains_and_ends_with_0() {
    let site = Site::new();
    let mut server = site.start();
    server.create(&flash_sale("term", 100_000));
    let acked: usize = std::thread::scope(|scope| {
        let addr = server.public;
        let buyers: Vec<_> = (0..4)
            .map(|lane| {
                scope.spawn(move || {
                    let mut connection = Connection::open(addr).unwrap();
                    let mut acked = 0;
                    for no in 0.. {
                        match connection.call(&claim("term", &format!("{lane}-{no}"))) {
                            Ok(answer) if answer.status == 202 => acked += 1,
                            Ok(answer) => drop(answer.expect(503, "draining")),
                            Err(_) => break,
                        }
                    }
                    acked
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        server.signal(Signal::TERM);
        buyers.into_iter().map(|b| b.join().unwrap()).sum()
    });
    let status = server.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0), "{}", server.log_tail());
    assert!(acked > 50, "only {acked}");
    assert_eq!(site.number("SELECT count(*) FROM claims"), acked as i64);
    assert!(Connection::open(site.public).is_err(), "nobody listens");
    let server = site.start();
    assert_eq!(server.balance("term")["persisted"], acked);
}

#[test]
fn what_cannot_be_drained_in_the_grace_stays_in_the_journal() {
    let site = Site::new().text("shutdown.grace", "1s");
    let mut server = site.start();
    server.create(&flash_sale("grace", 1_000));
    server.drained("grace");
    let lock = Lock::take(&site.database());
    (0..100).for_each(|no| drop(server.claimed("grace", &format!("u{no}"))));
    let start = Instant::now();
    server.signal(Signal::TERM);
    let status = server.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0), "{}", server.log_tail());
    assert!(start.elapsed() < Duration::from_secs(20), "the grace of a second took {:?}", start.elapsed());
    assert_eq!(site.number("SELECT count(*) FROM claims"), 0);
    lock.release();
    let server = site.start();
    assert_eq!(server.drained("grace")["persisted"], 100);
}

#[test]
fn a_second_signal_ends_at_once_and_loses_nothing() {
    let site = Site::new().text("shutdown.grace", "10m");
    let mut server = site.start();
    server.create(&flash_sale("twice", 1_000));
    server.drained("twice");
    let lock = Lock::take(&site.database());
    (0..100).for_each(|no| drop(server.claimed("twice", &format!("u{no}"))));
    server.signal(Signal::TERM);
    eventually("it is not ready any more", || {
        once(site.admin, &Request::get("/readyz"), Duration::from_secs(5)).is_ok_and(|a| a.status == 503)
            || Connection::open(site.admin).is_err()
    });
    assert!(server.ended().is_none(), "it drains");
    std::thread::sleep(Duration::from_millis(300));
    server.signal(Signal::TERM);
    server.wait(Duration::from_secs(10));
    lock.release();
    let server = site.start();
    assert_eq!(server.drained("twice")["persisted"], 100);
}

#[test]
fn kill_9_loses_nothing_and_a_restart_answers_the_same() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("nine", 1_000));
    let claims: Vec<_> = (0..200).map(|no| server.claimed("nine", &format!("u{no}"))).collect();
    server.kill();
    let server = site.start();
    for (no, claim) in claims.iter().enumerate() {
        let id = claim["claim_id"].as_str().unwrap();
        let read = server.call(&Request::get(&format!("/v1/claims/{id}?wait=20"))).json();
        assert_eq!((&read["receipt"], &read["seq"]), (&claim["receipt"], &claim["seq"]), "u{no}");
    }
    let balance = server.drained("nine");
    assert_eq!((&balance["persisted"], &balance["free"]), (&json!(200), &json!(800)));
}
