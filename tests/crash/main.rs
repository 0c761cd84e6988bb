//! Real processes, really killed: the binary under load from a client process of its own, ended by SIGKILL at random and
//! at named points, with a disk that fails, hangs, is full or loses its power, and a database that is locked or read-only. Afterwards the
//! client's ledger (intent before sending, acceptance on receipt) is compared with the rows: nothing lost, nothing
//! doubled, nothing oversold, money exact. A run in which the faults did not really hit fails.
//!
//! Not libtest's harness, because the same binary is also the client process, and because the scenarios that take
//! half a minute run at the same time. `FOREBAY_CRASH_ROUNDS`, `FOREBAY_POWER_CUTS` and `FOREBAY_CRASH_SEED` make longer or repeated runs.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod disk_full;
mod faults;
mod first_start;
mod ledger;
mod outages;
mod power;
mod rounds;
mod small_disk;

use std::process::ExitCode;
use std::time::Instant;

type Scenario = (&'static str, fn());

const SCENARIOS: [Scenario; 8] = [
    ("killed_again_and_again_under_load_nothing_is_lost_doubled_or_oversold", rounds::run),
    ("killed_during_its_first_start_it_starts_again", first_start::run),
    ("after_a_failed_sync_nothing_is_acknowledged_until_a_restart", faults::failing_sync),
    ("a_sync_that_hangs_delays_answers_no_further_than_their_deadline", faults::hanging_sync),
    ("a_full_disk_refuses_in_time_and_goes_on_when_there_is_room", disk_full::run),
    ("after_power_cuts_all_that_was_acknowledged_is_there", power::run),
    ("half_a_minute_of_a_locked_database_stops_no_sale", outages::locked),
    ("half_a_minute_of_a_read_only_database_stops_no_sale", outages::read_only),
];

fn main() -> ExitCode {
    if std::env::var_os(client::ROLE).is_some() {
        client::main();
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        SCENARIOS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<_> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    let chosen: Vec<_> = SCENARIOS.into_iter().filter(|(name, _)| wanted(name)).collect();
    println!("\nrunning {} tests", chosen.len());
    let start = Instant::now();
    let running: Vec<_> = chosen
        .iter()
        .map(|&(name, run)| (name, std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread")))
        .collect();
    let mut failed = 0;
    for (name, thread) in running {
        let passed = thread.join().is_ok();
        failed += usize::from(!passed);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, filtered, took) = (chosen.len() - failed, SCENARIOS.len() - chosen.len(), start.elapsed());
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out; \
         finished in {:.2}s\n",
        took.as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
