//! `forebay serve`: run the engine.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::Context as _;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use super::{EXIT_OK, ServeArgs};
use crate::config::LOG_VARIABLE;
use crate::engine::{self, RunOptions};
use crate::metrics::LOGGED;

/// Runs the command until a signal ends it.
///
/// # Errors
/// It could not start, or ended by itself.
pub fn run(file: Option<&Path>, args: &ServeArgs) -> anyhow::Result<u8> {
    let config = super::load(file, &args.overrides())?;
    log()?;
    engine::run(&config, RunOptions { sample: args.sample, role: args.role })?;
    Ok(EXIT_OK)
}

/// Logs to standard error: for people on a terminal, one JSON document a line otherwise.
fn log() -> anyhow::Result<()> {
    let wanted = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&wanted)
        .with_context(|| format!("{LOG_VARIABLE}: {wanted:?} given; expected a level such as info, or module=level"))?;
    let counted = tracing_subscriber::registry().with(filter).with(Counting);
    let written = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        counted.with(written.with_target(false)).init();
    } else {
        counted.with(written.with_ansi(false).json().flatten_event(true)).init();
    }
    Ok(())
}

/// Counts what is logged: whoever watches the numbers alone is to know that there is something to read.
struct Counting;

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        match *event.metadata().level() {
            Level::ERROR => LOGGED.errors.add(1),
            Level::WARN => LOGGED.warnings.add(1),
            _ => {}
        }
    }
}
