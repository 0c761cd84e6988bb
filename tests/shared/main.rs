//! Redis as the buffer. `admission` holds the library of functions against the book.
//!
//! `FOREBAY_SHARED_SEEDS=100000 cargo test --release --features testing --test shared` is the long run.

mod admission;
mod draws;
mod gate;
mod leases;
mod redis;
