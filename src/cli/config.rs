//! `forebay config`: every key with its default and meaning, as TOML that changes nothing when it is used as it is.

use super::{EXIT_OK, print};

/// Prints the document. Reads no configuration, so that it helps where there is a broken one.
///
/// # Errors
/// Standard output can't be written.
pub fn run() -> anyhow::Result<u8> {
    print(crate::config::describe())?;
    Ok(EXIT_OK)
}
