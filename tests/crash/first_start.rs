//! Killed at each step of the first start, and at the first claim: the next start finds its way.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use crate::support::http::{Connection, Request, once};
use crate::support::sale::{claim, flash_sale};
use crate::support::{Server, Site, stderr, stdout};

const POINTS: [&str; 10] = [
    "journal.identity:1",
    "journal.identity:2",
    "journal.segment_prepared:1",
    "journal.segment_prepared:2",
    "journal.segment_prepared:3",
    "journal.segment_prepared:4",
    "journal.after_write:1",
    "journal.after_sync:1",
    "store.before_commit:1",
    "store.after_commit:1",
];

/// Claims one after the other until the server is gone; gives the users that were acknowledged.
fn sell_until_it_dies(server: &mut Server) -> Vec<String> {
    let mut acked = Vec::new();
    let create = Request::post("/admin/v1/campaigns", &flash_sale("first", 100_000));
    let end = Instant::now() + Duration::from_secs(10);
    let mut connection = None;
    while server.ended().is_none() && Instant::now() < end {
        if acked.is_empty() {
            let _ = once(server.admin, &create, Duration::from_secs(2));
        }
        if connection.is_none() {
            connection = Connection::open(server.public).ok();
        }
        let user = format!("u{}", acked.len());
        let answer = connection.as_mut().map(|c| c.call(&claim("first", &user)));
        match answer {
            Some(Ok(answer)) if answer.status == 202 || answer.slug() == "already-claimed" => acked.push(user),
            Some(Ok(_)) => {}
            _ => {
                connection = None;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
    acked
}

pub fn run() {
    for point in POINTS {
        let site = Site::new().env("FOREBAY_SEGMENT_BYTES", "2162688");
        let mut server = site.spawn(&[("FOREBAY_CRASH_AT", point)]);
        let acked = sell_until_it_dies(&mut server);
        let status = server.ended().unwrap_or_else(|| panic!("{point} was never reached"));
        assert_eq!(status.signal(), Some(9), "{point}: {status}\n{}", server.log_tail());
        drop(server);
        let server = site.start();
        let create = Request::post("/admin/v1/campaigns", &flash_sale("first", 100_000));
        let created = server.ask_admin(&create).status;
        assert!(created == 201 && acked.is_empty() || created == 200, "{point}: {created} after {} acks", acked.len());
        for user in &acked {
            server.call(&claim("first", user)).expect(409, "already-claimed");
        }
        server.claimed("first", "later");
        let balance = server.drained("first");
        let rows = balance["persisted"].as_u64().expect("a number") as usize;
        // One more may have been decided without its answer getting through.
        assert!(rows == acked.len() + 1 || rows == acked.len() + 2, "{point}: {balance} after {} acks", acked.len());
        assert!(server.stop().success(), "{point}");
        let audit = site.run(["audit"]);
        assert!(audit.status.success(), "{point}: {}{}", stdout(&audit), stderr(&audit));
    }
}
