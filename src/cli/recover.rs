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
    /// With a buffer in Redis: a gate whose folder is lost for good, by its 32 hexadecimal digits. What only it had is lost.
    #[arg(long, value_name = "ID", value_parser = gate)]
    pub dismiss_gate: Option<u128>,
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

fn gate(text: &str) -> Result<u128, String> {
    let read = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
    read.ok_or_else(|| "expected the 32 hexadecimal digits by which `forebay recover` lists it".to_owned())
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
    let told = recover::run(
        &config,
        &Wish { yes: args.yes, accept_loss: args.accept_loss, keep, dismiss_gate: args.dismiss_gate },
    )?;
    super::print(&told.text)?;
    Ok(if told.is_right { EXIT_OK } else { EXIT_FAILURE })
}
