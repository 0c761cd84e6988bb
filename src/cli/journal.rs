//! `forebay journal`: look into the journal.

use std::path::Path;

use super::JournalArgs;

/// Runs the command; the exit code is what it found.
///
/// # Errors
/// It could not be done.
pub fn run(_file: Option<&Path>, _args: &JournalArgs) -> anyhow::Result<u8> {
    anyhow::bail!("this build has no `journal`")
}
