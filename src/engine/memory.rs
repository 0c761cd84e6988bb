//! What this machine can hold.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits;

/// Allows as many open files as the system permits this process: a connection is one.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, current = ?limit.current, "the number of open files can't be raised");
    }
}

/// Connections of the public listener that open files leave room for, after [`raise_open_files`].
pub fn connections_max() -> u64 {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let (connections, wanted) = (limits::connections_max(files), limits::OPEN_FILES_NEEDED);
    if connections < limits::CONNECTIONS_MAX {
        tracing::warn!(
            files,
            connections,
            "few files may be open, and the journal keeps its own; for more connections allow {wanted} (LimitNOFILE=, ulimit -n)"
        );
    }
    connections
}

/// Bytes that the book's tables may take: a third of what is available at the start, by the machine's account or the
/// control group's, whichever is less. Another third is for the book that a snapshot replays into, which is as large, the
/// rest for waiting entries and connections.
pub fn budget() -> u64 {
    available().unwrap_or(FALLBACK) / 3
}

/// Bytes that are free for a process now; none where neither account can be read.
pub fn available() -> Option<u64> {
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_machine(&text));
    machine.into_iter().chain(group).min()
}

/// Where neither can be read: what any server has.
const FALLBACK: u64 = 1 << 30;

fn of_machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|l| l.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        assert_eq!(of_machine("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(of_machine("nothing"), None);
        assert!(budget() > 0);
    }
}
