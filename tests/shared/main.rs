//! Redis as the buffer. `admission` holds the library of functions against the book.
//!
//! `FOREBAY_SHARED_SEEDS=100000 cargo test --release --features testing --test shared` is the long run.

mod admission;
mod bundles;
mod caches;
mod draws;
mod gate;
mod leases;
mod looks;
mod openings;
mod paper;
#[path = "../support/postgres.rs"]
mod postgres;
mod redis;
mod reopen;
mod restock;
mod shop;
mod workers;
