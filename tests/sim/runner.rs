//! Runs seeds, and tells what went wrong in one: the seed, the step, the last lines of its trace, and how to see it
//! again.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::record::{Tally, Trace};
use crate::world::{Shape, World};

/// A promise that was broken.
#[derive(Debug)]
pub struct Broken {
    pub seed: u64,
    pub operation: u64,
    pub message: String,
    pub trace: String,
}

/// A run that broke no promise.
#[derive(Debug)]
pub struct Held {
    pub totals: Tally,
    pub faults: u64,
    pub hash: u64,
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A broken promise is a panic that is caught here; only its message is wanted, not the usual report of it.
fn be_quiet_inside() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PLACE.set(info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default());
            } else {
                usual(info);
            }
        }));
    });
}

/// Runs a world quietly; the message of the promise that it broke.
pub fn attempt(world: &mut World, run: impl FnOnce(&mut World)) -> Result<(), String> {
    be_quiet_inside();
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| run(world)));
    QUIET.set(false);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        format!("{text} ({})", PLACE.take())
    })
}

/// Runs one seed; `traced` keeps its last lines, `loud` prints all of them.
///
/// # Errors
/// The promise that was broken.
pub fn run_traced(seed: u64, shape: Shape, loud: bool) -> Result<Held, Box<Broken>> {
    let mut world = World::new(seed, Trace::new(true, loud));
    let result = attempt(&mut world, |w| w.run(shape));
    finish(&world, result)
}

/// Runs one seed without a trace, and again with one if it breaks a promise.
///
/// # Errors
/// As [`run_traced`].
pub fn run(seed: u64, shape: Shape) -> Result<Held, Box<Broken>> {
    let mut world = World::new(seed, Trace::default());
    match attempt(&mut world, |w| w.run(shape)) {
        Ok(()) => finish(&world, Ok(())),
        Err(message) => {
            let again = run_traced(seed, shape, false);
            Err(again.err().unwrap_or_else(|| panic!("seed {seed} broke a promise once and not again: {message}")))
        }
    }
}

fn finish(world: &World, result: Result<(), String>) -> Result<Held, Box<Broken>> {
    match result {
        Ok(()) => {
            Ok(Held { totals: world.totals(), faults: world.faults(), hash: world.trace.hash() ^ world.disk.digest() })
        }
        Err(message) => {
            let operation = world.tally.get("operations");
            Err(Box::new(Broken { seed: world.seed, operation, message, trace: world.trace.last() }))
        }
    }
}

impl Broken {
    /// Everything that helps to find out why.
    pub fn report(&self) -> String {
        format!(
            "seed {} broke a promise at operation {}: {}\n\nthe last lines of its trace:\n{}\n\nreplay: \
             FOREBAY_SIM_SEED={} cargo test --features testing --test sim replay -- --nocapture",
            self.seed, self.operation, self.message, self.trace, self.seed
        )
    }
}
