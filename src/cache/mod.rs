//! Caches of reads. They answer only what the database would have answered within their lifetime, and never hide a row
//! from whoever no longer finds it in the buffer. What is not persisted yet is the buffer's to answer, and is asked
//! there first.

pub mod local;

pub use local::LocalCache;
