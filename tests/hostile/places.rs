//! Places: one address takes no more connections than its share, all of them together no more than there are.

use std::time::Duration;

use crate::support::http::{Connection, Request};
use crate::support::sale::{claim, flash_sale};
use crate::support::{Server, Site, eventually};
use crate::{among_others, is_well, memory};

/// Connections an address, in these tests.
const SHARE: usize = 10;

/// Opens `count` connections and gives those that answer, and how many were turned away with the documented words.
fn open(server: &Server, count: usize) -> (Vec<Connection>, usize) {
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..count {
        let mut connection = Connection::open(server.public).expect("the kernel takes it");
        connection.patience(Duration::from_secs(5)).expect("a socket");
        let answer = match connection.call(&Request::get("/v1/campaigns")) {
            Ok(answer) => answer,
            // The words came, and a reset for the request behind them overtook them.
            Err(_) => {
                refused += 1;
                continue;
            }
        };
        match answer.status {
            200 => held.push(connection),
            _ => {
                answer.expect(503, "overloaded");
                assert!(answer.header("retry-after").is_some());
                refused += 1;
            }
        }
    }
    (held, refused)
}

#[test]
fn an_address_holds_no_more_than_its_share_of_connections() {
    let _others = among_others();
    let site = Site::new().set("ingest.connections_per_address", SHARE);
    let server = site.start();
    server.create(&flash_sale("share", 100));
    let before = memory(server.pid());
    let (held, refused) = open(&server, 3 * SHARE);
    assert_eq!((held.len(), refused), (SHARE, 2 * SHARE));
    assert_eq!(server.metric("forebay_connections_refused_total{reason=\"address\"}"), Some(2.0 * SHARE as f64));
    assert_eq!(server.metric("forebay_connections_refused_total{reason=\"full\"}"), Some(0.0));
    drop(held);
    eventually("places are given back", || {
        crate::support::http::once(server.public, &claim("share", "u1"), Duration::from_secs(5))
            .is_ok_and(|answer| matches!(answer.status, 202 | 409))
    });
    is_well(&server, "share", "u2", before, 32.0);
}

#[test]
fn a_proxy_of_the_operators_may_hold_as_many_as_there_are() {
    let _others = among_others();
    let site =
        Site::new().set("ingest.connections_per_address", SHARE).set("ingest.trusted_proxies", "[\"127.0.0.1\"]");
    let server = site.start();
    let (held, refused) = open(&server, 5 * SHARE);
    assert_eq!((held.len(), refused), (5 * SHARE, 0));
}
