//! Caches of reads. They answer only what the database would have answered within their lifetime, and never hide a row
//! from whoever no longer finds it in the buffer. What is not persisted yet is the buffer's to answer, and is asked
//! there first.
//!
//! [`local`] is the cache in this process. Where other processes write the rows, [`touched`] is what they tell of them,
//! `progress` how much of that was heard and what a value must be to be used, [`shared`] a cache in Redis behind the
//! local one. Only [`shared`] speaks to Redis.

pub mod local;
mod progress;
pub mod shared;
pub mod tier;
pub mod touched;
mod value;

pub use local::LocalCache;
