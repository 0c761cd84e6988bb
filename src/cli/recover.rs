//! `forebay recover`: say what is wrong with the pair of journal and database, and mend it with --yes. Exit code 0: the pair
//! is right, or is now; 1: it is wrong.

use std::path::Path;

use clap::{Args, ValueEnum};

use super::{DataArgs, EXIT_FAILURE, EXIT_OK};
use crate::engine::recover::{self, Keep, Wish};

/// `forebay recover`
#[derive(Debug, Clone, Args)]
pub struct RecoverArgs {
    /// Do it; without this it only says what it found and what it would do.
    #[arg(long)]
    pub yes: bool,
    /// Go on even where entries are in neither side; the balance shows what is missing as an error.
    #[arg(long)]
    pub accept_loss: bool,
    /// The side that stays where the two do not belong together; the other one gets another name.
    #[arg(long, value_name = "SIDE")]
    pub keep: Option<Side>,
    #[command(flatten)]
    pub data: DataArgs,
}

/// A side of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// The data folder's journal.
    Journal,
    /// The database.
    Database,
}

/// Runs the command.
///
/// # Errors
/// It could not be done; what was begun is gone on with by the next run.
pub fn run(file: Option<&Path>, args: &RecoverArgs) -> anyhow::Result<u8> {
    let config = super::load(file, &args.data.overrides())?;
    let keep = args.keep.map(|side| match side {
        Side::Journal => Keep::Journal,
        Side::Database => Keep::Database,
    });
    let told = recover::run(&config, &Wish { yes: args.yes, accept_loss: args.accept_loss, keep })?;
    super::print(&told.text)?;
    Ok(if told.is_right { EXIT_OK } else { EXIT_FAILURE })
}
