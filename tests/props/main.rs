//! What the queue's pieces must hold to, whatever comes in: each against a naive model (plain maps and vectors) that
//! shares no code with it, over random sequences that proptest shrinks when they fail.

mod book;
mod book_model;
mod calendar;
mod carts;
mod codec;
mod disk;
mod front;
mod pending;
mod sequencer;
mod support;
mod sweep;
mod tables;
mod winners;

/// Random cases of one property, without files beside the sources: the smallest failing input is printed instead.
fn cases(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config { cases, failure_persistence: None, ..Default::default() }
}
