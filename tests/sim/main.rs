//! Deterministic simulation of the engine's heart: book, sequencer, journal and drain, driven by one seed, step by
//! step, on a simulated clock, disk and database. No thread, no real time, no order that depends on a hash.
//!
//! - `cargo test --features testing --test sim` runs ten thousand seeds, the planted bugs and the large worlds.
//! - `FOREBAY_SIM_SEEDS=1000000 cargo test --release --features testing --test sim ten_thousand` is the long run;
//!   `FOREBAY_SIM_FIRST` gives its first seed.
//! - `FOREBAY_SIM_IMAGES=1000 cargo test --release --features testing --test sim images` crashes at every change of the disk that so
//!   many seeds make.
//! - `FOREBAY_SIM_SEED=… cargo test --features testing --test sim replay -- --nocapture` shows one seed, line by line.

mod carts;
mod check;
mod clicks;
mod convert;
mod database;
mod disk;
mod ends;
mod images;
mod landed;
mod large;
mod letters;
mod life;
mod lines;
mod medium;
mod model;
mod operators;
mod plan;
mod planted;
mod record;
mod requeued;
mod rng;
mod runner;
mod sale;
mod seeds;
mod store;
mod sweeps;
mod world;
mod year;
