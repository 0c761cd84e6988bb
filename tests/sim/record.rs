//! What a run leaves behind: counts that show it was not vacuous, and a trace that shows what happened.

use std::collections::{BTreeMap, VecDeque};

use crate::disk::mix;

/// Lines kept for a failure.
const KEPT: usize = 30;

/// The trace: kept only where somebody will look, because a run can always be had again.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    loud: bool,
    step: u64,
    hash: u64,
    last: VecDeque<String>,
}

impl Trace {
    pub fn new(on: bool, loud: bool) -> Self {
        Self { on, loud, ..Self::default() }
    }

    pub fn begin(&mut self, step: u64) {
        self.step = step;
    }

    pub fn is_on(&self) -> bool {
        self.on
    }

    pub fn line(&mut self, line: impl FnOnce() -> String) {
        if !self.on {
            return;
        }
        let line = format!("{:4} {}", self.step, line());
        if self.loud {
            eprintln!("{line}");
        }
        self.hash = mix(self.hash, line.as_bytes());
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn last(&self) -> String {
        self.last.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

/// Counts by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn add(&mut self, what: &'static str, n: u64) {
        *self.0.entry(what).or_default() += n;
    }

    pub fn one(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, n)| self.add(what, *n));
    }

    /// A table of name and count.
    pub fn table(&self) -> String {
        self.0.iter().map(|(what, n)| format!("  {n:>12}  {what}")).collect::<Vec<_>>().join("\n")
    }
}

/// What is injected into a run, by name: each must happen often, and a seed's sum must reach the least.
pub const FAULTS: [&str; 25] = [
    "write: EIO once",
    "write: EIO for ever",
    "write: short",
    "write: ENOSPC",
    "sync: EIO once",
    "sync: EIO for ever",
    "sync: EIO, pages dropped",
    "folder sync: EIO",
    "read: EIO",
    "create, rename, remove: EIO",
    "crash inside a change of the disk",
    "power cut, all unsynced lost",
    "power cut, torn",
    "process killed",
    "bit flip",
    "clock jumps",
    "database: outage",
    "database: locked",
    "database: committed, reply lost",
    "database: committed, then gone",
    "database: not committed, reply lost",
    "database: error before the commit",
    "database: delivered twice",
    "database: crash before the commit",
    "database: crash after the commit",
];

/// What follows from them, or from the plan: it must happen often, too, but no seed may count it as a fault.
pub const CONSEQUENCES: [&str; 7] = [
    "torn write",
    "power cut, names lost",
    "database: poison row",
    "database: poison line of a cart",
    "database: a letter's call is struck",
    "database: the end of a dead letter's claim",
    "flips found",
];
