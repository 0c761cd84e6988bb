//! `forebay doctor`: it measures beside a server and before the first start, says what is dangerous, and leaves nothing
//! behind, however it ends.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::sale::flash_sale;
use crate::support::{PATIENCE, Site, Tool, eventually, stderr, stdout, within};

/// Runs it for a second on `site`.
fn doctor(site: &Site, more: &[&str]) -> Output {
    site.run(["doctor", "--seconds", "1"].iter().chain(more).copied())
}

/// What it says as JSON, and its exit code, which must agree.
pub fn report(site: &Site) -> (Value, Option<i32>) {
    let output = doctor(site, &["--json"]);
    let said: Value = serde_json::from_str(&stdout(&output)).unwrap_or_else(|e| panic!("{e}: {}", stderr(&output)));
    let severities: Vec<_> = said["findings"].as_array().unwrap().iter().map(|f| f["severity"].clone()).collect();
    let dangerous = severities.contains(&"danger".into());
    assert_eq!(said["dangerous"], dangerous, "{said:#}");
    assert_eq!(output.status.code(), Some(i32::from(dangerous)), "{said:#}");
    (said, output.status.code())
}

pub fn finding<'a>(said: &'a Value, check: &str) -> &'a Value {
    let found = said["findings"].as_array().unwrap().iter().find(|f| f["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {said:#}"))
}

/// The folders below `folder` in which something is measured.
fn scratches(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("doctor")).collect()
}

#[test]
fn before_the_first_start_everything_is_measured_and_nothing_is_made() {
    let site = Site::new();
    let config = site.config();
    let (said, _) = report(&site);
    let figures = &said["figures"];
    for (of, name) in [
        ("sync", "median_seconds"),
        ("sync", "p99_seconds"),
        ("sync", "max_seconds"),
        ("rows", "per_second"),
        ("rows", "bytes"),
        ("winners", "table_bytes"),
        ("winners", "resident_bytes"),
        ("claims", "journal_bytes"),
        ("claims", "waiting_bytes"),
        ("machine", "memory_book_bytes"),
        ("clock", "seconds"),
    ] {
        assert!(figures[of][name].as_f64().is_some_and(|n| n > 0.0), "{of}.{name}: {figures:#}");
    }
    let batches: Vec<_> = figures["claims"]["rates"].as_array().unwrap().iter().map(|r| r["batch"].clone()).collect();
    assert_eq!(batches, [64, 256]);
    assert_eq!(figures["machine"]["server"], Value::Null);
    for check in ["durability", "sync", "data-file-system", "disk-space", "memory", "open-files", "callers", "clock"] {
        finding(&said, check);
    }
    for name in ["units", "claims_per_second", "seconds_until_full_without_drain", "journal_bytes_per_hour"] {
        assert!(said["sale"][name].as_f64().is_some_and(|n| n > 0.0), "{name}: {said:#}");
    }
    let left: Vec<_> = fs::read_dir(site.folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [config], "neither a data folder nor anything of its own");
}

#[test]
fn people_get_a_report() {
    let output = doctor(&Site::new().text("buffer.durability", "memory"), &[]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}{}", stderr(&output));
    for said in ["measured", "not over HTTP", "findings", "DANGER   durability", "how large a sale fits", "dangerous\n"]
    {
        assert!(text.contains(said), "{said:?} in {text}");
    }
    assert_eq!(stderr(&output), "", "no progress where there is no terminal");
}

#[test]
fn beside_a_running_server_it_takes_no_lock_and_touches_nothing() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("doctor", 100));
    server.claimed("doctor", "u1");
    server.drained("doctor");
    let (said, _) = report(&site);
    if !fs::read_to_string("/proc/locks").unwrap_or_default().is_empty() {
        assert_eq!(said["figures"]["machine"]["server"], server.pid(), "{said:#}");
        assert!(finding(&said, "server")["what"].as_str().unwrap().contains(&server.pid().to_string()));
    }
    assert!(scratches(&site.data()).is_empty());
    server.claimed("doctor", "u2");
    server.drained("doctor");
    let clean = site.run(["audit"]);
    assert_eq!(clean.status.code(), Some(0), "{}", stdout(&clean));
    assert_eq!(site.number("SELECT count(*) FROM claims"), 2);
}

#[test]
fn what_is_dangerous_ends_with_1() {
    let (said, code) = report(&Site::new().text("buffer.durability", "memory"));
    assert_eq!((finding(&said, "durability")["severity"].as_str(), code), (Some("danger"), Some(1)));
    let site = Site::new();
    let mut few = std::process::Command::new("sh");
    few.args(["-c", "ulimit -n 1000; exec \"$@\"", "sh", &crate::support::binary(), "doctor", "--seconds", "1"]);
    let output = few.args(["--json", "--config"]).arg(site.config()).output().expect("a shell");
    let said: Value = serde_json::from_str(&stdout(&output)).unwrap_or_else(|e| panic!("{e}: {}", stderr(&output)));
    assert_eq!(finding(&said, "open-files")["severity"], "danger");
    assert_eq!((said["figures"]["machine"]["open_files"].as_u64(), output.status.code()), (Some(1_000), Some(1)));
}

#[test]
fn a_disk_that_is_memory_is_recognised() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let data = folder.path().join("data");
    let (said, code) = report(&Site::new().text("buffer.data_dir", data.to_str().unwrap()));
    if said["figures"]["machine"]["file_system"]["name"] == "tmpfs" {
        assert_eq!(finding(&said, "data-file-system")["severity"], "danger", "{said:#}");
        assert_eq!(finding(&said, "sync")["severity"], "danger", "{said:#}");
        assert_eq!(code, Some(1));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_measured_ends_with_2() {
    let site = Site::new();
    fs::write(site.data(), "a file").unwrap();
    let output = doctor(&site, &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(
        stderr(&output).contains("buffer.data_dir") && stderr(&output).contains("is a file"),
        "{}",
        stderr(&output)
    );
    // The kernel refuses to write here, even to root.
    let output = doctor(&Site::new().text("buffer.data_dir", "/proc/forebay-data"), &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(stderr(&output).contains("cannot measure in /proc"), "{}", stderr(&output));
    for seconds in ["0", "301", "soon"] {
        assert_eq!(Site::new().run(["doctor", "--seconds", seconds]).status.code(), Some(2), "{seconds}");
    }
    assert_eq!(Site::new().set("buffer.max_entries", 1).run(["doctor"]).status.code(), Some(78));
}

#[test]
fn a_signal_leaves_nothing_behind_and_a_server_starts_beside_it() {
    let site = Site::new();
    fs::create_dir(site.data()).unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let log = fs::File::create(site.folder.path().join("doctor.log")).unwrap();
        let mut command = site.command(["doctor", "--seconds", "300"]);
        let mut tool = Tool::start(command.stdout(Stdio::null()).stderr(log));
        eventually("it measures", || scratches(&site.data()).len() == 2);
        if signal == Signal::TERM {
            assert!(site.start().stop().success(), "what is measured in is nobody's data");
        }
        let id = rustix::process::Pid::from_child(&tool.0);
        let status = within(PATIENCE, "it ends", || {
            // Again, in case it has ended already: then there is nobody to tell.
            let _ = rustix::process::kill_process(id, signal);
            tool.0.try_wait().expect("an own child")
        });
        let said = fs::read_to_string(site.folder.path().join("doctor.log")).unwrap();
        assert_eq!((status.code(), status.signal()), (Some(2), None), "{said}");
        assert!(said.contains("interrupted"), "{said}");
        assert!(scratches(&site.data()).is_empty(), "{:?}", scratches(&site.data()));
    }
}

#[test]
fn what_a_killed_run_left_goes_with_the_next() {
    let site = Site::new();
    let mut command = site.command(["doctor", "--seconds", "300"]);
    let tool = Tool::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    eventually("it measures", || scratches(site.folder.path()).len() == 2);
    drop(tool);
    assert_eq!(scratches(site.folder.path()).len(), 2, "nobody was there to remove them");
    report(&site);
    assert!(scratches(site.folder.path()).is_empty());
}
