//! `forebay serve`: run the engine.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use super::{EXIT_OK, ServeArgs};
use crate::config::LOG_VARIABLE;
use crate::engine::{self, RunOptions};

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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.with_ansi(false).json().flatten_event(true).init();
    }
    Ok(())
}
