//! The command line: one file a subcommand, each a thin shell around the engine or the admin listener.
//!
//! Exit codes: 0 done; 1 failed, an audit found a mismatch, or the doctor something dangerous; 2 usage (clap's), or an
//! audit or a measurement that could not be made; 78 (EX_CONFIG of sysexits.h) a configuration that can't be used. Results
//! go to standard output, complaints to standard error, one `error: …` line each.

pub mod audit;
pub mod campaign;
pub mod check_config;
pub mod client;
pub mod completions;
pub mod config;
pub mod dead_letters;
pub mod doctor;
pub mod export;
pub mod journal;
pub mod key;
pub mod migrate;
pub mod receipt;
pub mod recover;
pub mod serve;
mod table;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError, Overrides, Problem};
use crate::engine::Role;
use crate::store::{Database, Mode};

/// Done.
pub const EXIT_OK: u8 = 0;
/// It did not work, an audit found a mismatch, or the doctor something dangerous.
pub const EXIT_FAILURE: u8 = 1;
/// An audit or a measurement could not be made. (clap ends with the same code on wrong usage.)
pub const EXIT_NOT_MADE: u8 = 2;
/// The configuration can't be used: EX_CONFIG of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;

/// The write buffer in front of a shop's database during a timed sale.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, propagate_version = true)]
pub struct Cli {
    /// Configuration file; without it forebay.toml in the current folder, if there is one.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the engine.
    Serve(ServeArgs),
    /// Check the configuration and name every problem; ends with 78 when it is wrong.
    CheckConfig,
    /// Print every key with its default and meaning, as a file to start from.
    Config,
    /// Create and change campaigns of a running engine.
    Campaign(campaign::CampaignArgs),
    /// List what the database would not take, and write it again or give it up.
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Match journal, receipts and rows, and check that nothing was lost, doubled or oversold.
    Audit(AuditArgs),
    /// Measure this machine with this configuration, and name what is dangerous before a sale.
    Doctor(doctor::DoctorArgs),
    /// Write all campaigns as static JSON for a CDN.
    Export(export::ExportArgs),
    /// Look into the journal.
    Journal(JournalArgs),
    /// Say what is wrong with the pair of journal and database, and mend it with --yes.
    Recover(recover::RecoverArgs),
    /// Check receipts.
    Receipt(ReceiptArgs),
    /// Bring the database to this version's tables.
    Migrate(MigrateArgs),
    /// Make credentials for services.
    Key(key::KeyArgs),
    /// Print a shell's completion script.
    Completions(completions::CompletionsArgs),
}

/// `forebay serve`
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Make the sample campaigns where they are missing, and print a line that claims from one.
    #[arg(long)]
    pub sample: bool,
    /// What this process does of a buffer in Redis: take claims (gate), write to the database (worker), or both (all).
    #[arg(long, value_enum, default_value_t = Role::All)]
    pub role: Role,
    #[command(flatten)]
    pub data: DataArgs,
    /// Address of the public listener (ingest.listen).
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Address of the admin listener (ingest.admin_listen).
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Option<String>,
}

impl ServeArgs {
    /// The settings that these flags override.
    pub fn overrides(&self) -> Overrides {
        Overrides { listen: self.listen.clone(), admin_listen: self.admin_listen.clone(), ..self.data.overrides() }
    }
}

/// The data folder, for commands that read it.
#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// Folder of the journal (buffer.data_dir).
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
}

impl DataArgs {
    /// The settings that these flags override.
    pub fn overrides(&self) -> Overrides {
        Overrides { data_dir: self.data_dir.clone(), ..Overrides::default() }
    }
}

/// `forebay audit`
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// Only this campaign.
    #[arg(long, value_name = "ID")]
    pub campaign: Option<String>,
    /// Claims to match as they were answered with 202, one JSON document a line; - reads standard input.
    #[arg(long, value_name = "FILE")]
    pub receipts: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub data: DataArgs,
}

/// `forebay journal`
#[derive(Debug, Clone, Args)]
pub struct JournalArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub action: JournalAction,
}

/// The actions of `forebay journal`
#[derive(Debug, Clone, Subcommand)]
pub enum JournalAction {
    /// Print what is in it.
    Inspect(DataArgs),
    /// Check every frame, and say where the first damage is.
    Verify(DataArgs),
}

/// `forebay receipt`
#[derive(Debug, Clone, Args)]
pub struct ReceiptArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub action: ReceiptAction,
}

/// The actions of `forebay receipt`
#[derive(Debug, Clone, Subcommand)]
pub enum ReceiptAction {
    /// Check the receipts of claims as they were answered, one JSON document a line.
    Verify(ReceiptVerifyArgs),
    /// Make a new key; the old ones go on verifying.
    Rotate(DataArgs),
}

/// `forebay receipt verify`
#[derive(Debug, Clone, Args)]
pub struct ReceiptVerifyArgs {
    /// The file to read, one a line; standard input without it, or with -.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub data: DataArgs,
}

/// `forebay migrate`
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub data: DataArgs,
}

/// Parses the command line, runs it, and returns the exit code. Wrong usage ends the process in clap.
pub fn main() -> u8 {
    let cli = Cli::parse();
    let finds = matches!(cli.command, Command::Audit(_) | Command::Doctor(_));
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            match error.is::<ConfigError>() {
                true => EXIT_CONFIG,
                false if finds => EXIT_NOT_MADE,
                false => EXIT_FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let file = cli.config.as_deref();
    match cli.command {
        Command::Serve(args) => serve::run(file, &args),
        Command::CheckConfig => check_config::run(file),
        Command::Config => config::run(),
        Command::Campaign(args) => campaign::run(file, &args),
        Command::DeadLetters(args) => dead_letters::run(file, &args),
        Command::Audit(args) => audit::run(file, &args),
        Command::Doctor(args) => doctor::run(file, &args),
        Command::Export(args) => export::run(file, &args),
        Command::Journal(args) => journal::run(file, &args),
        Command::Recover(args) => recover::run(file, &args),
        Command::Receipt(args) => receipt::run(file, &args),
        Command::Migrate(args) => migrate::run(file, &args),
        Command::Key(args) => key::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// The configuration of a command. Its error keeps its type, from which [`main`] tells the exit code.
pub(super) fn load(file: Option<&Path>, flags: &Overrides) -> anyhow::Result<Config> {
    let config = Config::load(file, flags)?;
    let wrong = crate::store::url_problems(&config.store).into_iter().map(|(key, message)| {
        // Neither the value nor its place: there may be a password in it.
        Problem { key: key.to_owned(), value: None, origin: None, message }
    });
    let problems: Vec<_> = wrong.collect();
    if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems).into()) }
}

/// The database that the configuration names; not touched yet.
pub(crate) fn database(config: &Config, mode: Mode) -> anyhow::Result<Database> {
    Ok(Database::of(&config.store, mode)?)
}

/// One `error: …` line; a wrong configuration has one a problem.
fn complain(error: &anyhow::Error) {
    // Standard error may be closed, and then there is nobody left to tell.
    let mut stderr = io::stderr().lock();
    if let Some(ConfigError::Invalid(problems)) = error.downcast_ref() {
        for problem in problems {
            let _ = writeln!(stderr, "error: {problem}");
        }
        return;
    }
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some errors repeat their cause in their own text.
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    let _ = writeln!(stderr, "error: {line}");
}

/// Writes to standard output. A reader that has seen enough (`forebay config | head`) is no failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| anyhow::Error::new(e).context("cannot write to standard output")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_takes_config() {
        for command in ["serve", "check-config", "config", "audit", "migrate", "doctor", "recover"] {
            let cli = Cli::try_parse_from(["forebay", command, "--config", "x.toml"]).expect(command);
            assert_eq!(cli.config.as_deref(), Some(Path::new("x.toml")), "{command}");
        }
        for command in [
            ["campaign", "list"],
            ["journal", "verify"],
            ["receipt", "verify"],
            ["completions", "bash"],
            ["export", "--dir=d"],
        ] {
            let line = ["forebay"].into_iter().chain(command).chain(["--config", "x.toml"]);
            assert!(Cli::try_parse_from(line).is_ok(), "{command:?}");
        }
    }

    #[test]
    fn serve_flags_become_overrides() {
        let cli = Cli::try_parse_from(["forebay", "serve", "--sample", "--data-dir", "d", "--listen", "127.0.0.1:1"]);
        let Ok(Cli { command: Command::Serve(args), .. }) = cli else { panic!("{cli:?}") };
        assert!(args.sample);
        let expected = Overrides { listen: Some("127.0.0.1:1".into()), admin_listen: None, data_dir: Some("d".into()) };
        assert_eq!(args.overrides(), expected);
    }
}
