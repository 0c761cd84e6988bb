//! A disk that is full: a small ext4 of its own, and a file that takes what is left of it.

use std::fs;
use std::time::Duration;

use crate::client::Client;
use crate::ledger::{Ledger, Sold};
use crate::small_disk::SmallDisk;
use crate::support::sale::{claim, flash_sale};
use crate::support::{Site, eventually, within};

const FULL_WITHIN: Duration = Duration::from_secs(300);

/// What the ballast gives back must hold the rows, SQLite's log and the journal of all that is accepted until the client is
/// told to stop, which on a busy machine are 60,000 claims and more; a smaller disk is full once more.
const DISK_MIB: u64 = 512;

pub fn run() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let disk = SmallDisk::make(place.path(), DISK_MIB);
    let data = disk.folder.join("data");
    let site = Site::new().text("buffer.data_dir", data.to_str().expect("a path"));
    let site = site.env("FOREBAY_SEGMENT_BYTES", "2162688");
    let site = site.text("store.url", &format!("sqlite:{}", data.join("forebay.db").display()));
    let server = site.start();
    server.create(&flash_sale("full", 5_000_000));
    let path = site.folder.path().join("ledger");
    let mut client = Client::start(&site, &path, 24, Duration::ZERO);
    client.sell("full", "one");
    eventually("claims are acknowledged", || Ledger::read(&path).acks() > 500);
    let ballast = disk.fill();
    let full = |ledger: &Ledger| ledger.refused.get("buffer-full").copied().unwrap_or_default();
    // The segments that are there already must be written full first, beside all the other scenarios.
    within(FULL_WITHIN, "claims are refused", || (full(&Ledger::read(&path)) > 200).then_some(()));
    let refused = server.call(&claim("full", "late"));
    refused.expect(503, "buffer-full");
    assert!(refused.header("retry-after").is_some());
    let ledger = Ledger::read(&path);
    let acked = ledger.acks();
    assert!(ledger.unknown.is_empty() && ledger.lost == 0, "the disk was full before it was noticed: {ledger:?}");
    let others: Vec<_> = ledger.refused.keys().filter(|s| *s != "buffer-full").collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(server.metric("forebay_fenced"), Some(0.0), "a full disk is no failed write");
    fs::remove_file(ballast).expect("it can be removed");
    eventually("it goes on", || Ledger::read(&path).acks() > acked + 500);
    client.stop();
    let ledger = Ledger::read(&path);
    println!(
        "full disk: {} acks, {} of them before there was room again, {} refusals",
        ledger.acks(),
        acked,
        full(&ledger)
    );
    ledger.settle(&site, server, &[Sold { id: "full".to_owned(), stock: 5_000_000, total: None }]);
}
