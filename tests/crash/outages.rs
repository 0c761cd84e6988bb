//! Half a minute without a usable database, under load: no sale notices.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::client::Client;
use crate::ledger::{Ledger, Sold};
use crate::support::sale::{flash_sale, red_packet};
use crate::support::sql::Lock;
use crate::support::{Server, Site};

const SLICES: usize = 6;
const SLICE: Duration = Duration::from_secs(5);

fn start_sales(site: &Site, server: &Server) -> (Client, Vec<Sold>, PathBuf) {
    server.create(&flash_sale("outage", 1_000_000));
    server.create(&red_packet("outage-packet", 500, 54_321));
    let path = site.folder.path().join("ledger");
    let mut client = Client::start(site, &path, 3, Duration::from_millis(3));
    client.sell("outage", "one");
    client.sell("outage-packet", "packet");
    let sold = |id: &str, stock, total| Sold { id: id.to_owned(), stock, total };
    (client, vec![sold("outage", 1_000_000, None), sold("outage-packet", 500, Some(54_321))], path)
}

/// Half a minute in which claims must be acknowledged all the time and the lag must grow.
fn half_a_minute(server: &Server, path: &std::path::Path) {
    let (mut acked, mut waiting) = (Ledger::read(path).acks(), 0.0);
    for slice in 0..SLICES {
        std::thread::sleep(SLICE);
        let now = Ledger::read(path).acks();
        let entries = server.metric("forebay_buffer_entries").unwrap_or_default();
        assert!(now > acked + 50, "slice {slice}: only {} claims were acknowledged", now - acked);
        assert!(entries > waiting, "slice {slice}: {entries} entries wait, {waiting} did before");
        (acked, waiting) = (now, entries);
    }
    let age = server.metric("forebay_buffer_oldest_age_seconds").unwrap_or_default();
    assert!(age > 20.0, "the oldest entry waits for {age} s only");
}

fn finish(site: &Site, server: Server, client: Client, path: &std::path::Path, sold: &[Sold]) {
    client.stop();
    let ledger = Ledger::read(path);
    assert_eq!(ledger.lost + ledger.unknown.len(), 0, "an outage of the database cost answers");
    let refused: Vec<_> = ledger.refused.keys().filter(|s| *s != "sold-out").collect();
    assert!(refused.is_empty(), "{refused:?}");
    ledger.settle(site, server, sold);
}

/// Another process holds the database's write lock.
pub fn locked() {
    let site = Site::new();
    let server = site.start();
    let (client, sold, path) = start_sales(&site, &server);
    server.drained("outage-packet");
    let lock = Lock::take(&site.store());
    half_a_minute(&server, &path);
    lock.release();
    finish(&site, server, client, &path, &sold);
}

/// A folder mounted upon itself, so that it can be made read-only.
struct Mounted(PathBuf);

impl Mounted {
    fn mount(&self, arguments: &[&str]) {
        let output = Command::new("mount").args(arguments).arg(&self.0).output().expect("mount is needed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mount {arguments:?}: {said}; this test needs root");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The file system of the database is read-only when the server starts, and writable again half a minute later.
pub fn read_only() {
    let site = Site::new();
    let shop = site.folder.path().join("shop");
    fs::create_dir(&shop).expect("a folder");
    let site = site.text("store.url", &format!("sqlite:{}", shop.join("shop.db").display()));
    // After the site, so that it is unmounted before the site's folder is removed.
    let folder = Mounted(shop);
    folder.mount(&["--bind", folder.0.to_str().expect("a path")]);
    let server = site.start();
    server.create(&flash_sale("early", 10));
    server.claimed("early", "u1");
    server.drained("early");
    assert!(server.stop().success());
    folder.mount(&["-o", "remount,bind,ro"]);
    let server = site.start();
    server.create(&flash_sale("later", 10));
    let (client, sold, path) = start_sales(&site, &server);
    half_a_minute(&server, &path);
    folder.mount(&["-o", "remount,bind,rw"]);
    finish(&site, server, client, &path, &sold);
    assert!(fs::metadata(site.store()).is_ok_and(|m| m.len() > 0));
}
