//! `forebay check-config`: says whether the configuration can be used, and everything that is wrong with it.

use std::path::Path;

use super::{EXIT_OK, load, print};
use crate::config::{Config, Overrides};
use crate::sale::Durability;

/// Reads the configuration as `serve` would, without flags.
///
/// # Errors
/// The configuration's, all of them.
pub fn run(file: Option<&Path>) -> anyhow::Result<u8> {
    let config = load(file, &Overrides::default())?;
    print(&summary(&config))?;
    Ok(EXIT_OK)
}

fn summary(config: &Config) -> String {
    let promise = match config.buffer.durability {
        Durability::Disk => "acknowledged claims are on disk",
        Durability::Memory => "ACKNOWLEDGED CLAIMS ARE LOST WITH THE PROCESS (buffer.durability = \"memory\")",
    };
    format!(
        "The configuration is sound.\n  public   {}\n  admin    {}\n  data     {}\n  promise  {promise}\n",
        config.ingest.listen,
        config.ingest.admin_listen,
        config.buffer.data_dir.display(),
    )
}
