//! `forebay migrate`: bring the database to this version's tables.

use std::path::Path;

use super::{EXIT_OK, MigrateArgs};
use crate::store::Mode;

/// Runs the command; the exit code is what it found.
///
/// # Errors
/// It could not be done.
pub fn run(file: Option<&Path>, args: &MigrateArgs) -> anyhow::Result<u8> {
    let config = super::load(file, &args.data.overrides())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let applied = runtime.block_on(async {
        let store = super::database(&config, Mode::ReadWrite)?;
        let applied = store.migrate().await;
        store.close().await;
        anyhow::Ok(applied?)
    })?;
    super::print(&match applied {
        0 => "the tables are up to date\n".to_owned(),
        n => format!("{n} migrations applied\n"),
    })?;
    Ok(EXIT_OK)
}
