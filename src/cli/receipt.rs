//! `forebay receipt`: check receipts.

use std::path::Path;

use super::ReceiptArgs;

/// Runs the command; the exit code is what it found.
///
/// # Errors
/// It could not be done.
pub fn run(_file: Option<&Path>, _args: &ReceiptArgs) -> anyhow::Result<u8> {
    anyhow::bail!("this build has no `receipt`")
}
