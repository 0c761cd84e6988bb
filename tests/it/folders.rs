//! A data folder that is not ours, not writable, in use, newer or damaged: nothing starts, nothing is changed, and the
//! message says what to do.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::support::sale::flash_sale;
use crate::support::{Server, Site, stdout};

/// Every file below a folder with a sum of its bytes, but for the lock's, which says who looked last, and unfinished ones,
/// which nothing relies on and every start clears away.
fn content(folder: &Path) -> BTreeMap<PathBuf, u32> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.ends_with("LOCK") || path.extension().is_some_and(|e| e == "tmp") => {}
                false => drop(all.insert(path.clone(), crc32c(&fs::read(path).unwrap()))),
            }
        }
    }
    all
}

/// A site that has run, with some claims in its journal.
fn used() -> Site {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("folder", 1_000));
    (0..200).for_each(|no| drop(server.claimed("folder", &format!("u{no}"))));
    server.drained("folder");
    assert!(server.stop().success());
    site
}

/// The first segment that has frames: the one in which the journal began.
fn first_segment(site: &Site) -> PathBuf {
    let names = fs::read_dir(site.journal()).unwrap().map(|e| e.unwrap().path());
    names.filter(|p| p.extension().is_some_and(|e| e == "seg")).min().expect("a segment")
}

#[test]
fn a_folder_with_other_things_in_it_is_refused() {
    let site = Site::new();
    fs::create_dir(site.data()).unwrap();
    fs::write(site.data().join("holiday.jpg"), "precious").unwrap();
    let (status, text) = site.refuse();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("holiday.jpg") && text.contains("buffer.data_dir"), "{text}");
    assert_eq!(fs::read_dir(site.data()).unwrap().count(), 1, "nothing was put there");
}

#[test]
fn a_file_in_the_folders_place_is_refused() {
    let site = Site::new();
    fs::write(site.data(), "a file").unwrap();
    let (status, text) = site.refuse();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("is a file"), "{text}");
    assert_eq!(fs::read(site.data()).unwrap(), b"a file");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_in_words() {
    // The kernel refuses to write here, even to root.
    let site = Site::new().text("buffer.data_dir", "/proc/forebay-data");
    let (status, text) = site.refuse();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("/proc/forebay-data"), "{text}");
}

#[test]
fn a_second_server_on_the_folder_is_told_who_holds_it() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("held", 10));
    let second = Site::new().text("buffer.data_dir", site.data().to_str().unwrap());
    let (status, text) = second.refuse();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("process {}", server.pid())), "{text}");
    server.claimed("held", "u1");
    server.kill();
    assert_eq!(second.start().balance("held")["free"], 9, "the kernel has given the folder back");
}

#[test]
fn a_second_server_on_the_port_is_refused_and_takes_no_connection() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("port", 100));
    for (key, addr) in [("listen", site.public), ("admin_listen", site.admin)] {
        let second = Site::new().text(&format!("ingest.{key}"), &addr.to_string());
        let (status, text) = second.refuse();
        assert_eq!(status.code(), Some(1), "{text}");
        assert!(text.contains(&addr.to_string()) && text.contains(&format!("ingest.{key}")), "{text}");
    }
    (0..50).for_each(|no| drop(server.claimed("port", &format!("u{no}"))));
}

#[test]
fn damage_inside_the_journal_refuses_to_start_naming_file_and_offset() {
    let site = used();
    let segment = first_segment(&site);
    let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
    let mut bytes = fs::read(&segment).unwrap();
    let used_bytes = bytes.iter().rposition(|b| *b != 0).unwrap();
    let at = used_bytes / 2;
    bytes[at] ^= 0x10;
    fs::File::options().write(true).open(&segment).unwrap().write_all_at(&bytes[at..=at], at as u64).unwrap();
    let before = content(&site.journal());
    let (status, text) = site.refuse();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains(&name) && text.contains("damaged at byte") && text.contains("restore"), "{text}");
    assert_eq!(content(&site.journal()), before, "the refused start has changed something");
    let verify = site.run(["journal", "verify"]);
    assert_eq!(verify.status.code(), Some(1));
    assert!(stdout(&verify).contains(&name), "{}", stdout(&verify));
    bytes[at] ^= 0x10;
    fs::write(&segment, &bytes).unwrap();
    assert_eq!(site.start().balance("folder")["free"], 800);
}

#[test]
fn a_torn_write_at_the_end_is_cut_off_and_nothing_acknowledged_with_it() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("folder", 1_000));
    (0..200).for_each(|no| drop(server.claimed("folder", &format!("u{no}"))));
    server.kill();
    let segment = first_segment(&site);
    let mut bytes = fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
    // The begin of a frame that never came to its end: half a header's worth of other bytes.
    let torn = end.next_multiple_of(8) + 8;
    bytes[torn..torn + 20].fill(0xa5);
    fs::write(&segment, &bytes).unwrap();
    let server = site.start();
    assert_eq!(server.drained("folder")["persisted"], 200);
    server.claimed("folder", "later");
}

#[test]
fn a_journal_of_a_newer_forebay_is_left_alone() {
    let site = used();
    let identity = site.journal().join("identity");
    let mut bytes = fs::read(&identity).unwrap();
    bytes[8..12].copy_from_slice(&9_u32.to_le_bytes());
    let check = crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&check.to_le_bytes());
    fs::write(&identity, &bytes).unwrap();
    let before = content(&site.journal());
    let (status, text) = site.refuse();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("newer forebay") && text.contains("identity"), "{text}");
    assert_eq!(content(&site.journal()), before);
}

/// CRC-32C bit by bit: a test that used the product's own would share its faults.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn a_journal_without_its_identity_is_refused_and_not_begun_anew() {
    let site = used();
    fs::remove_file(site.journal().join("identity")).unwrap();
    let before = content(&site.journal());
    let (status, text) = site.refuse();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("identity"), "{text}");
    assert_eq!(content(&site.journal()), before);
}

#[test]
fn the_journals_commands_work_beside_a_running_server_and_after_it() {
    let site = Site::new();
    let server: Server = site.start();
    server.create(&flash_sale("beside", 1_000));
    (0..100).for_each(|no| drop(server.claimed("beside", &format!("u{no}"))));
    for when in ["beside", "after"] {
        let inspect = site.run(["journal", "inspect"]);
        assert_eq!(inspect.status.code(), Some(0), "{when}: {inspect:?}");
        let text = stdout(&inspect);
        assert!(text.contains(".seg") && text.contains("last entry 101"), "{when}: {text}");
        assert_eq!(site.run(["journal", "verify"]).status.code(), Some(0), "{when}");
        if when == "beside" {
            server.signal(rustix::process::Signal::KILL);
            crate::support::eventually("it is gone", || !Path::new(&format!("/proc/{}/exe", server.pid())).exists());
        }
    }
    let absent = Site::new();
    let output: std::process::Output = absent.run(["journal", "verify"]);
    assert_eq!(output.status.code(), Some(1), "there is no journal");
    assert!(!absent.data().exists(), "looking has made nothing");
    let help = crate::support::plain(["journal", "--help"]).output().unwrap();
    assert!(help.status.success());
}
