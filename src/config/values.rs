//! The values that settings are made of, and how they are written. Pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A text that never shows in `Debug` and has no `Display`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for comparing and connecting, never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Secret(none)" } else { "Secret(hidden)" })
    }
}

/// Where the admin listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddr {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl AdminAddr {
    /// Reads `IP:port` or `unix:/path`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("unix:") {
            // sockaddr_un holds 108 bytes with the closing NUL (unix(7)).
            Some(path) if path.starts_with('/') && path.len() < 108 && !path.contains('\0') => {
                Some(Self::Unix(PathBuf::from(path)))
            }
            Some(_) => None,
            None => text.parse().ok().map(Self::Tcp),
        }
    }

    /// Whether it can be reached from another machine.
    pub fn is_beyond_loopback(&self) -> bool {
        match self {
            Self::Tcp(addr) => !is_loopback(addr.ip()),
            Self::Unix(_) => false,
        }
    }
}

impl fmt::Display for AdminAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Loopback, also when written as an IPv4-mapped IPv6 address.
pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Who may claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Anybody who can connect; only on loopback.
    Open,
    /// Holders of a service key.
    Service,
    /// A signed token of the buyer's session; vocabulary only in this version.
    Session,
}

impl Auth {
    pub(super) const WORDS: [(&'static str, Self); 3] =
        [("open", Self::Open), ("service", Self::Service), ("session", Self::Session)];
}

/// What holds claims until they are in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferKind {
    /// The sequencer and its journal.
    Journal,
    /// Redis, for many gates.
    Redis,
}

impl BufferKind {
    pub(super) const WORDS: [(&'static str, Self); 2] = [("journal", Self::Journal), ("redis", Self::Redis)];
}

/// Which database, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A file of SQLite's.
    Sqlite(PathBuf),
    /// The whole URL.
    Postgres(Secret),
    /// The whole URL; vocabulary only in this version.
    MySql(Secret),
}

impl StoreUrl {
    /// Reads `sqlite:PATH`, `sqlite://PATH`, `postgres://…` or `mysql://…`. SQLite's parameters and in-memory databases
    /// are refused: the store sets the parameters itself, and a database in memory would forget what was drained.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let sound = !path.is_empty() && !path.contains(['?', '\0']) && !path.starts_with(':');
            return sound.then(|| Self::Sqlite(PathBuf::from(path)));
        }
        let (scheme, rest) = text.split_once("://")?;
        match scheme {
            _ if rest.is_empty() => None,
            "postgres" | "postgresql" => Some(Self::Postgres(Secret::new(text))),
            "mysql" | "mariadb" => Some(Self::MySql(Secret::new(text))),
            _ => None,
        }
    }

    /// The file, for SQLite.
    pub fn sqlite_path(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) | Self::MySql(_) => None,
        }
    }
}

/// How a server's table of claims is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionBy {
    /// One table.
    None,
    /// A partition a day, by UTC.
    Day,
}

impl PartitionBy {
    /// Each with its word.
    pub const WORDS: [(&'static str, Self); 2] = [("none", Self::None), ("day", Self::Day)];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, by)| *by == self).map_or("", |(word, _)| word)
    }
}

/// What a service key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Claim, one at a time or in batches.
    ClaimsWrite,
    /// Settle and cancel claims.
    ClaimsSettle,
    /// Change carts.
    CartsWrite,
    /// Read claims, campaigns and carts.
    Read,
}

impl Scope {
    /// Every scope with the contract's word for it.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("claims:write", Self::ClaimsWrite),
        ("claims:settle", Self::ClaimsSettle),
        ("carts:write", Self::CartsWrite),
        ("read", Self::Read),
    ];

    /// Reads the contract's word.
    pub fn parse(text: &str) -> Option<Self> {
        word(&Self::WORDS, text)
    }

    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, s)| *s == self).map_or("", |(w, _)| w)
    }
}

/// A caller with `auth = "service"`.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceKey {
    /// For logs and refusals.
    pub name: String,
    /// Of the whole key as it stands behind `Bearer `, prefix included.
    pub sha256: [u8; 32],
    /// At least one.
    pub scopes: Vec<Scope>,
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceKey").field("name", &self.name).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// Finds a word's value.
pub(super) fn word<T: Copy>(words: &[(&'static str, T)], text: &str) -> Option<T> {
    words.iter().find(|(w, _)| *w == text).map(|(_, value)| *value)
}

/// Reads a whole number with `ms`, `s`, `m` or `h`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    crate::sale::Span::parse(text).map(|span| Duration::from_micros(span.0 as u64))
}

/// Reads 64 hex digits.
pub(super) fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (pair, byte) in bytes.chunks_exact(2).zip(&mut out) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(out)
}

/// Whether `text` is an origin: `http://` or `https://`, a host, perhaps a port, and nothing behind.
pub(super) fn is_origin(text: &str) -> bool {
    let Some(host) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| !port.ends_with(']'))
        .map_or(Some(host), |(name, port)| port.parse::<u16>().is_ok_and(|p| p != 0).then_some(name));
    name.is_some_and(|n| {
        !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'[' | b']' | b':'))
    })
}
