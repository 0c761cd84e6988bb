//! What `/metrics` tells beyond its names, which `monitoring/check` holds to the documents: that the numbers are right.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::http::{Connection, Request};
use crate::support::sale::{claim, flash_sale};
use crate::support::sql::Lock;
use crate::support::{Server, Site, eventually};

fn number(server: &Server, name: &str) -> f64 {
    server.metric(name).unwrap_or_else(|| panic!("no {name}"))
}

fn answers(server: &Server, listener: &str, status: u16) -> f64 {
    number(server, &format!("forebay_answers_total{{listener=\"{listener}\",status=\"{status}\"}}"))
}

#[test]
fn answers_are_counted_by_listener_and_status_whoever_wrote_them() {
    let site = Site::new();
    let server = site.start();
    let admin = answers(&server, "admin", 201);
    server.create(&flash_sale("answers", 1));
    assert_eq!(answers(&server, "admin", 201), admin + 1.0);
    server.claimed("answers", "first");
    server.call(&claim("answers", "second")).expect(409, "sold-out");
    server.call(&claim("nowhere", "second")).expect(404, "unknown-campaign");
    // hyper answers this one by itself, and ours goes out in its place.
    let mut broken = TcpStream::connect(server.public).unwrap();
    broken.write_all(b"nonsense\r\n\r\n").unwrap();
    let mut text = String::new();
    broken.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    for (status, count) in [(202, 1.0), (409, 1.0), (404, 1.0), (400, 1.0), (503, 0.0)] {
        assert_eq!(answers(&server, "public", status), count, "{status}");
    }
}

#[test]
fn a_backlog_shows_how_much_how_old_and_how_far_and_goes_down_when_it_is_drained() {
    let site = Site::new().set("buffer.max_entries", 1_000);
    let server = site.start();
    server.create(&flash_sale("behind", 5_000));
    server.drained("behind");
    let before = number(&server, "forebay_journal_retired_seq");
    let lock = Lock::take(&site.database());
    let mut connection = Connection::open(server.public).unwrap();
    let full = (0..1_200).find(|n| connection.call(&claim("behind", &format!("b{n}"))).unwrap().status == 503);
    assert!(full.is_some_and(|n| n >= 900), "the bound is kept: {full:?}");
    assert_eq!(number(&server, "forebay_buffer_entries_max"), 1_000.0);
    assert_eq!(number(&server, "forebay_buffer_full{cause=\"entries\"}"), 1.0);
    assert_eq!(number(&server, "forebay_buffer_full{cause=\"room\"}"), 0.0);
    eventually("it gets old", || number(&server, "forebay_buffer_oldest_age_seconds") > 0.2);
    assert_eq!(number(&server, "forebay_journal_retired_seq"), before);
    assert_eq!(number(&server, "forebay_units{campaign=\"behind\",place=\"accepted\"}"), full.unwrap() as f64);
    drop(lock);
    eventually("it is drained", || number(&server, "forebay_buffer_entries") == 0.0);
    assert_eq!(number(&server, "forebay_journal_retired_seq"), number(&server, "forebay_journal_last_seq"));
    assert_eq!(number(&server, "forebay_buffer_full{cause=\"entries\"}"), 0.0);
    assert_eq!(number(&server, "forebay_buffer_oldest_age_seconds"), 0.0);
    assert_eq!(number(&server, "forebay_units{campaign=\"behind\",place=\"persisted\"}"), full.unwrap() as f64);
}

#[test]
fn a_campaign_is_shown_in_the_state_it_is_in_until_a_day_after_its_end() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("state", 10));
    let mut over = flash_sale("over", 10);
    over["opens_at"] = "2020-01-01T00:00:00Z".into();
    over["closes_at"] = "2020-01-02T00:00:00Z".into();
    server.create(&over);
    let in_state = |state: &str| {
        server.metric(&format!("forebay_campaign_state{{campaign=\"state\",kind=\"flash_sale\",state=\"{state}\"}}"))
    };
    assert_eq!((in_state("open"), in_state("paused")), (Some(1.0), None));
    let patch = Request::patch("/admin/v1/campaigns/state", &serde_json::json!({"state": "paused"}));
    assert_eq!(server.ask_admin(&patch).status, 200);
    assert_eq!((in_state("open"), in_state("paused")), (None, Some(1.0)));
    assert_eq!(number(&server, "forebay_stock_units{campaign=\"state\"}"), 10.0);
    assert_eq!(server.metric("forebay_stock_units{campaign=\"over\"}"), None, "nobody watches it any more");
    assert_eq!(server.metric("forebay_campaign_opens_timestamp_seconds{campaign=\"over\"}"), None);
    assert_eq!(
        number(&server, "forebay_stock_free{campaign=\"over\"}"),
        10.0,
        "what the contract names is there for good"
    );
}

#[test]
fn the_process_its_disks_and_its_readiness_are_told() {
    let site = Site::new();
    let server = site.start();
    let held: Vec<_> = (0..50).map(|_| TcpStream::connect(server.public).unwrap()).collect();
    eventually("they are let in", || number(&server, "forebay_connections") >= 50.0);
    assert!(number(&server, "forebay_connections_opened_total") >= 50.0);
    assert!(number(&server, "process_open_fds") >= 50.0);
    assert!(number(&server, "process_max_fds") >= number(&server, "process_open_fds"));
    assert!(number(&server, "process_resident_memory_bytes") > 1e6);
    assert!(number(&server, "process_cpu_seconds_total") > 0.0);
    for disk in ["data", "database"] {
        let (free, size) = (
            format!("forebay_disk_free_bytes{{disk=\"{disk}\"}}"),
            format!("forebay_disk_size_bytes{{disk=\"{disk}\"}}"),
        );
        assert!(number(&server, &free) > 0.0 && number(&server, &free) <= number(&server, &size));
    }
    assert_eq!(number(&server, "forebay_ready"), 1.0);
    let reasons =
        ["recovering", "draining", "not-durable", "database-fenced", "not-working", "redis-away", "opening", "stuck"];
    for reason in reasons {
        assert_eq!(number(&server, &format!("forebay_not_ready{{reason=\"{reason}\"}}")), 0.0, "{reason}");
    }
    let node = "forebay_node_info{role=\"embedded\",buffer=\"journal\",durability=\"disk\"}";
    assert_eq!(number(&server, node), 1.0);
    drop(held);
}

#[test]
fn what_is_logged_is_counted_at_the_levels_that_want_reading() {
    let site = Site::new();
    let server = site.start();
    let lines = |level: &str| number(&server, &format!("forebay_log_lines_total{{level=\"{level}\"}}"));
    let before = (lines("warn"), lines("error"));
    server.create(&flash_sale("logged", 10));
    server.drained("logged");
    let lock = Lock::take(&site.database());
    server.claimed("logged", "one");
    eventually("that the database can't be written is said", || lines("warn") + lines("error") > before.0 + before.1);
    drop(lock);
    let log = || std::fs::read_to_string(site.log()).unwrap();
    let written = |level: &str| log().matches(&format!("\"level\":\"{level}\"")).count() as f64;
    eventually("both say the same", || (lines("warn"), lines("error")) == (written("WARN"), written("ERROR")));
    assert!(written("WARN") + written("ERROR") > 0.0, "{}", log());
}
