//! `forebay serve`: run the engine.

use std::path::Path;

use super::ServeArgs;

/// Runs the command; the exit code is what it found.
///
/// # Errors
/// It could not be done.
pub fn run(_file: Option<&Path>, _args: &ServeArgs) -> anyhow::Result<u8> {
    anyhow::bail!("this build has no `serve`")
}
