//! Forebay: the write buffer in front of a shop's database during a timed sale.
//!
//! Modules in reading order; ARCHITECTURE.md has the walk of one claim through them.

#![forbid(unsafe_code)]

pub mod sale;

pub mod clock;
pub mod config;
pub mod limits;
pub mod metrics;
pub mod plant;
pub mod pulse;

pub mod antiscalper;
pub mod queue;
pub mod store;

pub mod cache;
pub mod receipts;
pub mod workers;

pub mod ingest;

pub mod audit;
pub mod engine;

pub mod cli;
