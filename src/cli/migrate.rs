//! `forebay migrate`: bring the database to this version's tables.

use std::path::Path;

use super::MigrateArgs;

/// Runs the command; the exit code is what it found.
///
/// # Errors
/// It could not be done.
pub fn run(_file: Option<&Path>, _args: &MigrateArgs) -> anyhow::Result<u8> {
    anyhow::bail!("this build has no `migrate`")
}
