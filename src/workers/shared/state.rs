//! What is told of a worker: to whoever asks whether it is ready, and in metrics.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::sale::{Seq, Timestamp};

/// What a worker is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The database is not ready, for this reason; it is tried again and again.
    Preparing(String),
    /// Redis can't be reached or used, for this reason. What was read of it before goes on into the database.
    Away(String),
    /// Another worker has the partition; this one takes over when that one is gone.
    Standby,
    /// It has the partition and makes it ready: what it does, or which gates it waits for.
    Opening(String),
    /// Entries go into the database.
    Active {
        /// The epoch of the partition.
        epoch: u64,
    },
    /// It has given the partition up, and a transaction of its own is still under way; it stands by afterwards.
    Ending(String),
    /// It has the lease, and must not go on without somebody: what is wrong. It looks again and again.
    Stuck(String),
    /// It was told to end.
    Stopped,
}

impl Phase {
    /// Its name, without what goes with it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Preparing(_) => "preparing",
            Self::Away(_) => "away",
            Self::Standby => "standby",
            Self::Opening(_) => "opening",
            Self::Active { .. } => "active",
            Self::Ending(_) => "ending",
            Self::Stuck(_) => "stuck",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preparing(why) => write!(f, "waiting for the database: {why}"),
            Self::Away(why) => write!(f, "waiting for Redis: {why}"),
            Self::Standby => f.write_str("standing by"),
            Self::Opening(what) => write!(f, "opening the partition: {what}"),
            Self::Active { epoch } => write!(f, "active in epoch {epoch}"),
            Self::Ending(why) => write!(f, "ending what is under way: {why}"),
            Self::Stuck(why) => write!(f, "stuck: {why}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// Numbers of a worker, as of its last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Entries in Redis that are not in the database, or not known to be.
    pub waiting: u64,
    /// Those of them that this worker has read.
    pub ahead: u64,
    /// The last entry that Redis knows to be in the database.
    pub retired: Seq,
    /// When the oldest entry was decided that this worker has read and not written; it reads the oldest first.
    pub oldest: Option<Timestamp>,
}

/// What a worker is doing, for other threads.
#[derive(Debug)]
pub struct WorkerState(Mutex<(Phase, Backlog)>);

impl WorkerState {
    pub(super) fn new() -> Self {
        Self(Mutex::new((Phase::Preparing("not asked yet".to_owned()), Backlog::default())))
    }

    /// What it is doing now.
    pub fn phase(&self) -> Phase {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// How much waits, as far as it knows: zeroes while it stands by.
    pub fn backlog(&self) -> Backlog {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Whether it does what it is there for: it works, or would at once.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase(), Phase::Active { .. } | Phase::Standby)
    }

    pub(super) fn set(&self, phase: Phase) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0 == phase {
            return;
        }
        match &phase {
            Phase::Preparing(_) | Phase::Away(_) | Phase::Ending(_) => tracing::warn!("the worker is {phase}"),
            Phase::Stuck(_) => tracing::error!("the worker is {phase}"),
            _ => tracing::info!("the worker is {phase}"),
        }
        if !matches!(phase, Phase::Active { .. } | Phase::Away(_)) {
            now.1 = Backlog::default();
        }
        now.0 = phase;
    }

    pub(super) fn set_backlog(&self, backlog: Backlog) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = backlog;
    }
}
