//! One connection to Redis, and the calls of the library over it. Blocking: each thread that talks to Redis has its own.

use std::fmt;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{Cmd, ConnectionLike, IntoConnectionInfo, RedisError, Value, cmd};

use super::LIBRARY;
use crate::pulse;

/// A Redis, and the partition in it that is ours.
#[derive(Clone)]
pub struct Server {
    client: redis::Client,
    name: String,
    prefix: String,
    timeout: Duration,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({}, {})", self.name, self.prefix)
    }
}

/// Why the library would not do what it was asked. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// There is no partition: Redis is new, or has lost everything.
    Empty,
    /// Its keys are laid out as another version does it.
    Layout(String),
    /// It is fenced, for this reason.
    Fenced(String),
    /// It is open under another epoch.
    Epoch(u64),
    /// Redis is another process than the one in which the partition was opened, or has gone back: it must be opened anew.
    Closed,
    /// Another connection has taken this lane over.
    Lane,
    /// The lane's gate has left, or was dismissed.
    Left,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is no partition in it"),
            Self::Layout(found) => write!(f, "its keys are of layout {found}, which is another version's"),
            Self::Fenced(why) => write!(f, "the partition is fenced: {why}"),
            Self::Epoch(epoch) => write!(f, "the partition is open under epoch {epoch}"),
            Self::Closed => f.write_str("it was started anew, and the partition is not open yet"),
            Self::Lane => f.write_str("another connection has taken this lane over"),
            Self::Left => f.write_str("this gate has left, or was dismissed"),
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The connection broke, or the answer took too long. Whether the call was carried out is unknown, and it may still be:
    /// the connection is of no use any more.
    #[error("Redis can't be reached: {0}")]
    Lost(String),
    /// Redis says that it can't now: it loads, is busy, is a replica, knows no such user. Nothing was done.
    #[error("Redis can't be used: {0}")]
    Unready(String),
    /// Redis has no memory left. Nothing was done.
    #[error("Redis is full")]
    Full,
    /// The library says no. Nothing was done.
    #[error("{0}")]
    Refused(Refused),
    /// An answer that can't be read, or another call's: the connection is of no use any more.
    #[error("Redis answers what can't be read: {0}")]
    Protocol(String),
}

impl CallError {
    /// Whether the call may have been carried out, or may still be.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Protocol(_))
    }
}

impl Server {
    /// The partition `partition` in the Redis at `url` (`redis://`, `rediss://` or `unix://`). Nothing is connected yet. No
    /// call takes longer than `timeout`.
    ///
    /// # Errors
    /// What is wrong with the URL, in words without it: it may hold a password.
    pub fn new(url: &str, partition: &str, timeout: Duration) -> Result<Self, String> {
        let info = url.into_connection_info().map_err(|error| error.to_string())?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let name = info.addr().to_string();
        let client = redis::Client::open(info).map_err(|error| error.to_string())?;
        Ok(Self { client, name, prefix: format!("forebay:{{{partition}}}:"), timeout })
    }

    /// Where it is, without user and password.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A key's whole name.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A new connection.
    ///
    /// # Errors
    /// [`CallError::Lost`] or [`CallError::Unready`].
    pub fn connect(&self) -> Result<Connection, CallError> {
        pulse::beat();
        let connected = self.client.get_connection_with_timeout(self.timeout).map_err(|error| failed(&error))?;
        for set in [connected.set_read_timeout(Some(self.timeout)), connected.set_write_timeout(Some(self.timeout))] {
            set.map_err(|error| CallError::Lost(error.to_string()))?;
        }
        Ok(Connection { inner: connected, meta: self.key("meta"), prefix: self.prefix.clone(), nonce: rand::random() })
    }
}

/// A connection.
pub struct Connection {
    inner: redis::Connection,
    meta: String,
    prefix: String,
    nonce: u64,
}

impl Connection {
    /// A key's whole name.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The nonce that the next call will carry.
    pub fn next_nonce(&self) -> u64 {
        self.nonce.wrapping_add(1)
    }

    /// Calls a function of the library with a nonce before `args`, and gives what follows the nonce in its answer. Loads the
    /// library where Redis doesn't know it.
    ///
    /// # Errors
    /// Why there is no answer. After [`CallError::is_unknown`] drop the connection.
    pub fn call(&mut self, function: &str, args: &[&[u8]]) -> Result<Vec<Value>, CallError> {
        self.nonce = self.next_nonce();
        let nonce = self.nonce.to_string();
        match self.call_once(&nonce, function, args) {
            Err(CallError::Unready(why)) if why.contains("Function not found") => {
                self.load()?;
                self.call_once(&nonce, function, args)
            }
            other => other,
        }
    }

    fn call_once(&mut self, nonce: &str, function: &str, args: &[&[u8]]) -> Result<Vec<Value>, CallError> {
        let mut call = cmd("FCALL");
        call.arg(LIBRARY.function(function)).arg(1).arg(&self.meta).arg(nonce);
        for arg in args {
            call.arg(*arg);
        }
        let Value::Array(mut answer) = self.command(&call)? else {
            return Err(CallError::Protocol(format!("{function} answers no list")));
        };
        match answer.first() {
            Some(Value::BulkString(echoed)) if echoed == nonce.as_bytes() => Ok(answer.split_off(1)),
            _ => Err(CallError::Protocol(format!("{function} answers with another call's nonce"))),
        }
    }

    /// Brings this binary's library. One that is there already is the same, for its name is its text's digest.
    fn load(&mut self) -> Result<(), CallError> {
        match self.command(cmd("FUNCTION").arg("LOAD").arg(&LIBRARY.text)) {
            Err(CallError::Unready(why)) if why.contains("already exists") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Runs any command.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn command(&mut self, command: &Cmd) -> Result<Value, CallError> {
        pulse::beat();
        let answer = self.inner.req_command(command).map_err(|error| failed(&error))?;
        answer.extract_error().map_err(|error| failed(&error))
    }

    /// Runs commands in one go; the first error is the answer.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn pipeline(&mut self, commands: &redis::Pipeline) -> Result<Vec<Value>, CallError> {
        pulse::beat();
        commands.query(&mut self.inner).map_err(|error| failed(&error))
    }

    /// For how long an answer is waited for from now on.
    ///
    /// # Errors
    /// [`CallError::Lost`] where the socket won't take it.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), CallError> {
        self.inner.set_read_timeout(Some(timeout)).map_err(|error| CallError::Lost(error.to_string()))
    }
}

/// Sorts an error by what it says of the call. Redis' words name keys and functions, never values.
fn failed(error: &RedisError) -> CallError {
    let words = error.detail().unwrap_or_default();
    match error.code() {
        Some("REFUSED") => refused(words),
        Some("FENCED") => CallError::Refused(Refused::Fenced(words.to_owned())),
        Some("OOM") => CallError::Full,
        Some(code) => CallError::Unready(format!("{code} {words}").trim_end().to_owned()),
        None if matches!(error.kind(), redis::ErrorKind::Parse | redis::ErrorKind::UnexpectedReturnType) => {
            CallError::Protocol(error.to_string())
        }
        None if error.kind() == redis::ErrorKind::AuthenticationFailed => CallError::Unready(error.to_string()),
        None => CallError::Lost(error.to_string()),
    }
}

fn refused(words: &str) -> CallError {
    let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
    CallError::Refused(match word {
        "EMPTY" => Refused::Empty,
        "CLOSED" => Refused::Closed,
        "LANE" => Refused::Lane,
        "LEFT" => Refused::Left,
        "LAYOUT" => Refused::Layout(rest.to_owned()),
        "FENCED" => Refused::Fenced(rest.to_owned()),
        "EPOCH" => match rest.parse() {
            Ok(epoch) => Refused::Epoch(epoch),
            Err(_) => return CallError::Protocol(format!("epoch {rest:?}")),
        },
        _ => return CallError::Protocol(format!("the library refuses with {words:?}")),
    })
}
