//! Shared mode with real processes: three gates and two workers between a private Redis and a private PostgreSQL server, and
//! buyers outside of all of them who write down what they were told. Something is taken away, killed, stopped, cut off or put
//! back as it was before; then everything is held against everything: what was acknowledged is a row, once, as it was said;
//! what was refused is not; limits, stock and money are exact; the backlog is empty, the audit clean, every gate's balance
//! right. Each scenario prints a line of figures.
//!
//! `cargo test --features testing --test cluster` runs each once, short; words after `--` choose scenarios by their names.
//! All run one after the other on one system, which thereby gets the history of all of them; after a failure the next begins
//! with a new one, and the logs of the failed one are in the folder that is printed.
//!
//! - `FOREBAY_CLUSTER_MINUTES=600 cargo test --release --features testing --test cluster` goes through them again and again
//!   for that long, in a random order, each longer and harder, with a new system for every pass.
//! - `FOREBAY_CLUSTER_SEED` repeats what was left to chance; it is printed.
//! - `FOREBAY_CLUSTER_RATE` is the operations a second, `FOREBAY_CLUSTER_FRESH=1` takes a new system for every scenario.
//!
//! Not libtest's harness: scenarios share a system, and run one after the other so that their times mean something.

#[path = "../support/mod.rs"]
mod support;

mod clock;
mod database_faults;
mod events;
mod lane;
mod load;
mod notices;
mod orders;
mod process_faults;
mod reads;
mod redis;
mod redis_faults;
mod run;
mod sales;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use run::{Run, Scale, Scenario};
use world::World;

/// All of them.
fn scenarios() -> Vec<Scenario> {
    let (sales, reads, redis) = (sales::SCENARIOS, reads::SCENARIOS, redis_faults::SCENARIOS);
    let all = [sales, reads, redis, database_faults::SCENARIOS, process_faults::SCENARIOS];
    all.concat()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// What stays over scenarios.
struct Runner {
    world: Option<World>,
    scale: Scale,
    seed: u64,
    is_fresh: bool,
    /// Scenarios so far.
    no: u64,
    passed: usize,
    failed: usize,
}

impl Runner {
    /// Runs a scenario; whether all was well.
    fn run(&mut self, (name, scenario): Scenario) {
        self.no += 1;
        let begin = Instant::now();
        let folder = tempfile::Builder::new().prefix("forebay-cluster-").tempdir().expect("a temporary folder");
        let (tag, seed) = (format!("s{}", self.no), self.seed.wrapping_add(self.no));
        let world = &mut self.world;
        let scale = self.scale;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let world = world.get_or_insert_with(World::start);
            let mut run = Run::begin(world, &tag, scale, seed);
            scenario(&mut run);
            run.settle(folder.path())
        }));
        let outcome = outcome.unwrap_or_else(|_| Err("it panicked".to_owned()));
        let took = begin.elapsed().as_secs_f64();
        match outcome {
            Ok(line) => {
                self.passed += 1;
                println!("test {name} ... ok ({took:.1} s): {line}");
                if self.is_fresh {
                    self.end_world();
                }
            }
            Err(why) => {
                self.failed += 1;
                println!("test {name} ... FAILED ({took:.1} s)\n{why}");
                keep(self.world.take(), folder);
            }
        }
    }

    /// Ends the system as operators do: every process ends well.
    fn end_world(&mut self) {
        let Some(world) = self.world.take() else { return };
        if catch_unwind(AssertUnwindSafe(|| world.stop())).is_err() {
            self.failed += 1;
            println!("test every_process_ends_well_on_sigterm ... FAILED");
        }
    }
}

/// Keeps what a failure can be understood from.
fn keep(world: Option<World>, folder: tempfile::TempDir) {
    let folder: PathBuf = folder.keep();
    if let Some(world) = &world {
        world.keep_logs(&folder);
        show(&folder);
    }
    println!("---- logs are in {}", folder.display());
}

fn show(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "log") || path.ends_with("states") {
            println!("---- {}\n{}", path.display(), support::tail(&path, 12));
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = scenarios();
    if arguments.iter().any(|a| a == "--list") {
        all.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<_> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    notices::what_is_wrong();
    let mut chosen: Vec<_> = all.iter().copied().filter(|(name, _)| wanted(name)).collect();
    let minutes = number("FOREBAY_CLUSTER_MINUTES");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let seed = number("FOREBAY_CLUSTER_SEED").unwrap_or(now);
    let mut scale = if minutes.is_some() { Scale::LONG } else { Scale::SHORT };
    scale.rate = number("FOREBAY_CLUSTER_RATE").unwrap_or(scale.rate);
    println!("\nrunning {} tests\ncluster: FOREBAY_CLUSTER_SEED={seed}", chosen.len());
    let begin = Instant::now();
    let is_fresh = std::env::var_os("FOREBAY_CLUSTER_FRESH").is_some();
    let mut runner = Runner { world: None, scale, seed, is_fresh, no: 0, passed: 0, failed: 0 };
    let end = begin + Duration::from_secs(60 * minutes.unwrap_or(0));
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        if minutes.is_some() {
            chosen.shuffle(&mut random);
        }
        for scenario in &chosen {
            if minutes.is_none() || Instant::now() < end {
                runner.run(*scenario);
            }
        }
        runner.end_world();
        if Instant::now() >= end {
            break;
        }
    }
    let (passed, failed) = (runner.passed, runner.failed);
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let (filtered, took) = (all.len() - chosen.len(), begin.elapsed().as_secs_f64());
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out; \
         finished in {took:.2}s\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
