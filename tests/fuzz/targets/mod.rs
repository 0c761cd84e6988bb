//! What a fuzz target does with its input: one function each, used by `fuzz/fuzz_targets` and by the replay in
//! `tests/fuzz`. It returns when all is well and panics when the product panicked, hung on to a lie, or took what it must
//! refuse. What is right is worked out here a second time, from the documents, with no code of the product's.

#![allow(dead_code)]

pub mod codec;
pub mod config;
pub mod disk;
pub mod format;
pub mod journal;
pub mod json;
pub mod receipt;
pub mod request;
pub mod snapshot;
pub mod target;

/// One input in, nothing out.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also its folder in `fuzz/corpus` and its file in `fuzz/fuzz_targets`.
pub const ALL: [(&str, Target); 7] = [
    ("codec", codec::run),
    ("config", config::run),
    ("journal", journal::run),
    ("receipt", receipt::run),
    ("request", request::run),
    ("snapshot", snapshot::run),
    ("target", target::run),
];

/// The longest input that a target is made for; more only costs time.
pub const INPUT_MAX: usize = 4_096;
