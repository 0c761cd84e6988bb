//! The workers: they carry decided entries from the buffer into the database, and never decide anything.
//!
//! - A batch is one transaction, and it is sent again, the same, until it is known to be committed. Only then is it
//!   retired from the buffer: a batch is never given up, and nothing is retired on a guess.
//! - A row that the database won't take goes to the dead letters in the same transaction as the rows around it. What
//!   ails the whole table is an outage: the entries wait, acknowledgements go on.
//! - Ingest knows nothing of this module, nor this module of ingest.
//!
//! [`drain`] is the step and [`letters`] what it does between two, free of timers and threads, so that a simulation can
//! drive them; [`pool`] is the thread that does, [`shared`] what feeds it from Redis; [`batch`], [`retry`] and [`dead_letters`] are pure.

pub mod batch;
pub mod dead_letters;
pub mod drain;
#[cfg(test)]
mod fake;
pub mod letters;
pub mod pool;
pub mod retry;
pub mod shared;

pub use drain::{Drain, Refresh, Step};
pub use pool::{DrainHandle, DrainSettings};
