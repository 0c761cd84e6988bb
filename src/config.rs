//! What an operator may change: flags over environment over file over defaults, read once, checked as a whole.
//!
//! - The defaults and the meaning of every key are one document, `config/defaults.toml`: it is the lowest layer, the
//!   list of known keys, and what `forebay config` prints. No default is kept anywhere else.
//! - Nothing is clamped, guessed or ignored. Every complaint names the key, the value, where it came from and what was
//!   expected, and all of them are found in one go.
//! - A secret is never in a message nor in `Debug`.
//! - The process environment is read by [`Config::load`] and nowhere else; [`Config::from_parts`] is pure but for the
//!   secret files that its input names.

mod layers;
mod read;
mod rules;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

pub use layers::{LOG_VARIABLE, Problem};
pub use values::{AdminAddr, Auth, BufferKind, PartitionBy, Scope, Secret, ServiceKey, StoreUrl};

use crate::sale::Durability;
use crate::sale::rate::Rate;

/// The file that is read without `--config`, from the current folder, if it is there.
pub const DEFAULT_FILE: &str = "forebay.toml";

/// Every setting, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The front end.
    pub ingest: Ingest,
    /// Callers of `auth = "service"`; names and hashes are unique.
    pub service_keys: Vec<ServiceKey>,
    /// Limits of what one user or one address may ask.
    pub antiscalper: Antiscalper,
    /// What holds claims until they are in the database.
    pub buffer: Buffer,
    /// Shared mode's Redis.
    pub redis: Redis,
    /// The database.
    pub store: Store,
    /// The drain.
    pub workers: Workers,
    /// Caches of reads.
    pub cache: Cache,
    /// What time does to campaigns and their claims.
    pub campaigns: Campaigns,
    /// What SIGTERM does.
    pub shutdown: Shutdown,
}

/// `[ingest]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingest {
    /// The public listener.
    pub listen: SocketAddr,
    /// The admin listener.
    pub admin_listen: AdminAddr,
    /// Bearer token of the admin listener; empty only on loopback or a Unix socket.
    pub admin_token: Secret,
    /// 0 to 256; 0 is one a core.
    pub threads: usize,
    /// Who may claim.
    pub auth: Auth,
    /// Connections that one address may hold at a time, the proxies apart; 0 is as many as there are.
    pub connections_per_address: u32,
    /// Proxies whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins that browsers may call from.
    pub cors_origins: Vec<String>,
    /// 100 ms to 60 s.
    pub ack_deadline: Duration,
}

/// `[antiscalper]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Antiscalper {
    /// Requests of one user.
    pub user_rate: Rate,
    /// Requests of one address.
    pub address_rate: Rate,
    /// 1,000 to 100,000,000.
    pub max_keys: usize,
}

/// `[buffer]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffer {
    /// What holds claims until they are in the database.
    pub kind: BufferKind,
    /// Folder of the journal and the receipt keys.
    pub data_dir: PathBuf,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// 1,000 to 100,000,000.
    pub max_entries: usize,
    /// 0 s to 720 h: how long segments stay that the journal does not need any more.
    pub keep_journal: Duration,
}

/// `[redis]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// `redis://`, `rediss://` or `unix://`; empty with `buffer.kind = "journal"`.
    pub url: Secret,
    /// Nodes of a cluster; always empty in this version.
    pub nodes: Vec<String>,
    /// Sentinels; always empty in this version.
    pub sentinels: Vec<String>,
    /// 100 ms to 30 s: how long an answer of Redis' is waited for.
    pub timeout: Duration,
    /// 1 s to 60 s: how long a worker that says nothing keeps the partition to itself.
    pub lease: Duration,
    /// 0 (as many as suit) to 16: calls of one gate that are under way at a time.
    pub lanes: usize,
    /// Weak settings of Redis' that the operator accepts, each as `setting=value`.
    pub accept: Vec<String>,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// SQLite or PostgreSQL; an empty `store.url` is already resolved to a path here.
    pub url: StoreUrl,
    /// For reads; always none in this version.
    pub replica_url: Option<StoreUrl>,
    /// How a server's table of claims is divided; decided at the first start.
    pub partition_by: PartitionBy,
}

/// `[workers]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// 0 to 64; 0 is as the store suits. At most 1: one writer moves the database's position.
    pub count: usize,
    /// 1 to 10,000 entries.
    pub batch_max: usize,
}

/// `[campaigns]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Campaigns {
    /// 0 s to 1 h.
    pub settle_grace: Duration,
    /// 1 min to a year.
    pub release_after: Duration,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// 0 s to 60 s.
    pub local_ttl: Duration,
    /// 0 s to 60 s.
    pub redis_ttl: Duration,
}

/// `[shutdown]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// 0 s to 10 min.
    pub grace: Duration,
}

/// What flags set; they win over everything else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`: `ingest.listen`.
    pub listen: Option<String>,
    /// `--admin-listen`: `ingest.admin_listen`.
    pub admin_listen: Option<String>,
    /// `--data-dir`: `buffer.data_dir`.
    pub data_dir: Option<String>,
}

/// A configuration file: what to call it in messages, and its text.
#[derive(Debug, Clone, Copy)]
pub struct FileText<'a> {
    /// Its path, as the operator wrote it.
    pub name: &'a str,
    /// TOML.
    pub text: &'a str,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read; a file named by `--config` must exist.
    #[error(
        "cannot read the configuration file {path}; name another with --config, or print one with `forebay config`"
    )]
    Unreadable {
        /// As the operator wrote it.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not TOML: {reason}")]
    Syntax {
        /// As the operator wrote it.
        path: String,
        /// With line and column.
        reason: String,
    },
    /// Something is wrong with what is set: at least one problem, in the order of the keys.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

impl ConfigError {
    /// Each complaint on its own.
    pub fn messages(&self) -> Vec<String> {
        match self {
            Self::Invalid(problems) => problems.iter().map(Problem::to_string).collect(),
            other => vec![other.to_string()],
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads the configuration: `path` if given (it must exist), else [`DEFAULT_FILE`] if it exists; then the process
    /// environment; then `flags`.
    ///
    /// # Errors
    /// [`ConfigError`], with every problem that was found.
    pub fn load(path: Option<&Path>, flags: &Overrides) -> Result<Self, ConfigError> {
        let name = path.map_or_else(|| DEFAULT_FILE.to_owned(), |p| p.display().to_string());
        let text = match std::fs::read_to_string(path.unwrap_or(Path::new(DEFAULT_FILE))) {
            Ok(text) => Some(text),
            Err(e) if path.is_none() && e.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(ConfigError::Unreadable { path: name, source }),
        };
        let file = text.as_deref().map(|text| FileText { name: &name, text });
        Self::from_parts(file, std::env::vars_os(), flags)
    }

    /// The same from given parts. Of `env` only names that begin with `FOREBAY_` are looked at.
    ///
    /// # Errors
    /// [`ConfigError`], with every problem that was found.
    pub fn from_parts(
        file: Option<FileText<'_>>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &Overrides,
    ) -> Result<Self, ConfigError> {
        let layered = layers::merge(file, env, flags)?;
        let mut reader = read::Reader::new(layered);
        let config = read::read(&mut reader);
        rules::check(&config, &mut reader);
        let problems = reader.finish();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems)) }
    }
}

/// Every key with its default and meaning: TOML that, read as a file, changes nothing.
pub fn describe() -> &'static str {
    layers::DEFAULTS
}
