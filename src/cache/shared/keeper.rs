//! The thread that speaks to the cache in Redis: whatever has come, in one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use redis::{Value, cmd};
use tokio::sync::oneshot;

use super::super::touched::ERA;
use crate::clock::tick;
use crate::limits;
use crate::queue::redis::client::{CallError, Connection, Server};

/// What values' keys begin with, behind the prefix of the partition's keys.
const KEYS: &str = "cache:";

/// Keeps values for so many milliseconds, and does not write them down: the append-only file is for what must not be lost. Redis
/// writes there that they have expired.
const KEEP: &str = "redis.set_repl(redis.REPL_NONE) \
                    for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1]) end";

/// What the thread is asked.
pub(super) enum Ask {
    /// A value, by its name.
    Get { name: String, answer: oneshot::Sender<Looked> },
    /// To keep one.
    Put { name: String, value: Vec<u8> },
    /// To end, if that is what the other side wants.
    End,
}

/// A value, if there is one, and the era in which that was so.
pub(super) struct Looked {
    pub(super) era: u64,
    pub(super) value: Option<Vec<u8>>,
}

/// What the thread works with.
pub(super) struct Keeper {
    server: Server,
    lifetime: Duration,
    ready: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    connection: Option<Connection>,
    /// When Redis is tried again.
    retry: Instant,
    /// Whether it is known that the cache can't be used.
    is_told: bool,
    /// Since when so many bytes were written.
    written: (Instant, usize),
}

impl Keeper {
    pub(super) fn new(server: Server, lifetime: Duration, ready: Arc<AtomicBool>, stop: Arc<AtomicBool>) -> Self {
        let (connection, is_told) = (None, false);
        Self { server, lifetime, ready, stop, connection, retry: tick(), is_told, written: (tick(), 0) }
    }

    /// Answers until it is told to end.
    pub(super) fn run(mut self, asked: &Receiver<Ask>) {
        let pause = Duration::from_millis(limits::CACHE_PAUSE_MILLIS);
        while !self.stop.load(Ordering::SeqCst) {
            if self.connection.is_none() && tick() >= self.retry {
                match self.connect() {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        self.ready.store(true, Ordering::SeqCst);
                    }
                    Err(error) => self.away(&error),
                }
            }
            let first = match asked.recv_timeout(pause) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let rest = asked.try_iter().take(limits::CACHE_AT_ONCE - 1);
            let all: Vec<Ask> = std::iter::once(first).chain(rest).collect();
            // Where there is no connection, or it fails, whoever asked finds that nobody will answer.
            if let Some(mut connection) = self.connection.take() {
                match self.serve(&mut connection, all) {
                    Ok(()) => self.connection = Some(connection),
                    Err(error) => self.away(&error),
                }
            }
        }
    }

    fn connect(&self) -> Result<Connection, CallError> {
        let mut connection = self.server.connect()?;
        connection.set_timeout(Duration::from_millis(limits::CACHE_REDIS_MILLIS))?;
        Ok(connection)
    }

    fn away(&mut self, error: &CallError) {
        self.ready.store(false, Ordering::SeqCst);
        self.retry = tick() + Duration::from_millis(limits::CACHE_PAUSE_MILLIS);
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(%error, "the cache in Redis can't be used: the database answers in its place");
        }
    }

    fn serve(&mut self, connection: &mut Connection, asks: Vec<Ask>) -> Result<(), CallError> {
        let (mut names, mut answers, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for ask in asks {
            match ask {
                Ask::Get { name, answer } if !answer.is_closed() => {
                    names.push(name);
                    answers.push(answer);
                }
                Ask::Put { name, value } if self.may_write(name.len() + value.len()) => kept.push((name, value)),
                Ask::Get { .. } | Ask::Put { .. } | Ask::End => {}
            }
        }
        if !names.is_empty() {
            let (era, values) = look(connection, &names)?;
            for (answer, value) in answers.into_iter().zip(values) {
                // Who does not wait any more has asked the database.
                let _ = answer.send(Looked { era, value });
            }
        }
        if !kept.is_empty() {
            self.keep(connection, &kept)?;
        }
        if std::mem::replace(&mut self.is_told, false) {
            tracing::info!("the cache in Redis is used again");
        }
        Ok(())
    }

    /// Whether so much may still be written in this lifetime.
    fn may_write(&mut self, bytes: usize) -> bool {
        let now = tick();
        if now.saturating_duration_since(self.written.0) >= self.lifetime {
            self.written = (now, 0);
        }
        let then = self.written.1 + bytes + limits::CACHE_VALUE_OVERHEAD;
        let may = then <= limits::CACHE_WRITTEN_MAX;
        if may {
            self.written.1 = then;
        }
        may
    }

    fn keep(&self, connection: &mut Connection, kept: &[(String, Vec<u8>)]) -> Result<(), CallError> {
        let mut call = cmd("EVAL");
        call.arg(KEEP).arg(kept.len());
        for (name, _) in kept {
            call.arg(key(connection, name));
        }
        call.arg(self.lifetime.as_millis().max(1).to_string());
        for (_, value) in kept {
            call.arg(value);
        }
        match connection.command(&call) {
            // It can still be read, and there is room for claims before there is for this.
            Err(CallError::Full) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

fn key(connection: &Connection, name: &str) -> String {
    connection.key(&format!("{KEYS}{name}"))
}

/// Values, each where there is one.
type Values = Vec<Option<Vec<u8>>>;

/// The era, and the values under these names at the same moment.
fn look(connection: &mut Connection, names: &[String]) -> Result<(u64, Values), CallError> {
    let mut call = cmd("MGET");
    call.arg(connection.key(ERA));
    for name in names {
        call.arg(key(connection, name));
    }
    let wrong = || CallError::Protocol("MGET answers something else".to_owned());
    let Value::Array(all) = connection.command(&call)? else { return Err(wrong()) };
    let bytes = |value| match value {
        Value::BulkString(bytes) => Some(bytes),
        // Nothing, or a key of another kind, which is none of ours.
        _ => None,
    };
    let mut all = all.into_iter().map(bytes);
    let era = match all.next() {
        Some(None) => 0,
        Some(Some(word)) => std::str::from_utf8(&word).ok().and_then(|w| w.parse().ok()).ok_or_else(wrong)?,
        None => return Err(wrong()),
    };
    let values: Values = all.collect();
    if values.len() == names.len() { Ok((era, values)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_bytes_are_written_in_a_lifetime_and_no_more() {
        let server = Server::new("redis://127.0.0.1:1", "0", Duration::from_secs(1)).unwrap();
        let lifetime = Duration::from_secs(600);
        let mut keeper = Keeper::new(server, lifetime, Arc::default(), Arc::default());
        let each = 1_000 + limits::CACHE_VALUE_OVERHEAD;
        let written = (0..limits::CACHE_WRITTEN_MAX).take_while(|_| keeper.may_write(1_000)).count();
        assert_eq!(written, limits::CACHE_WRITTEN_MAX / each);
        assert!(!keeper.may_write(1_000));
        keeper.lifetime = Duration::ZERO;
        assert!(keeper.may_write(1_000), "a lifetime later");
        assert!(!keeper.may_write(limits::CACHE_WRITTEN_MAX), "more than all");
    }
}
