//! `forebay completions SHELL`: a completion script on standard output.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, EXIT_OK, print};

/// `forebay completions`
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell to complete in.
    pub shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// Standard output can't be written.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "forebay", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(EXIT_OK)
}
