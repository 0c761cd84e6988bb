//! Whoever means harm, against the real server: requests that no client should send, over HTTP/1.1 and HTTP/2, as bytes over
//! sockets; floods, slow and deaf peers by the thousand beside good buyers; keys without end at the limiter; descriptors that
//! run out; and secrets that must show nowhere. After each of them the server must be well: ready, selling, as large as before.
//!
//! Some of these measure memory, processor or latency of a process and must be alone for it: they hold [`QUIET`] to
//! themselves, the others share it. `FOREBAY_HOSTILE_STRICT=1` asks for the ratio that docs/security.md states instead of the
//! wider one that a busy machine can keep.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)]
#[path = "../shared/redis.rs"]
mod private_redis;

mod bad_requests;
mod canaries;
mod crowd;
mod descriptors;
mod document;
mod floods;
mod frames;
mod h2;
mod limiter;
mod places;
mod smuggling;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use support::http::Request;
use support::sale::claim;
use support::{Server, shared};

static QUIET: RwLock<()> = RwLock::new(());

/// Beside others of its kind, but not beside a measurement.
pub fn among_others() -> RwLockReadGuard<'static, ()> {
    QUIET.read().unwrap_or_else(PoisonError::into_inner)
}

/// With the machine to itself, as far as these tests go.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    QUIET.write().unwrap_or_else(PoisonError::into_inner)
}

/// A line of /proc/PID/status in bytes.
pub fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("an own child, or this process");
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Processor time that a process has used.
pub fn processor(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("an own child");
    // The name in parentheses may hold anything; the fields are counted behind it (proc(5)): utime and stime, in 1/100 s.
    let fields: Vec<_> = text[text.rfind(')').expect("a name") + 1..].split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    Duration::from_millis(ticks * 10)
}

/// The mebibytes by which a figure has grown, for people.
pub fn mib(before: u64, after: u64) -> f64 {
    (after as f64 - before as f64) / (1024.0 * 1024.0)
}

/// Checks that `server` is well: ready, selling `campaign` to `user` without delay, and at most `mib` larger than `before`.
pub fn is_well(server: &Server, campaign: &str, user: &str, before: u64, most_mib: f64) {
    let start = Instant::now();
    let ready = server.ask_admin(&Request::get("/readyz"));
    assert_eq!(ready.status, 200, "{user}: {}", ready.text());
    let sold = server.call(&claim(campaign, user));
    assert_eq!(sold.status, 202, "{user}: {}", sold.text());
    assert!(start.elapsed() < Duration::from_secs(5), "{user}: a good claim took {:?}", start.elapsed());
    let grown = mib(before, memory(server.pid()));
    assert!(grown < most_mib, "{user}: the server has grown by {grown:.1} MiB");
}
