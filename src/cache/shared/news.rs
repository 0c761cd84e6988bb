//! What workers tell of rows, on its way into the local cache: said by [`tell`], heard by a thread of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::io::tcp::TcpSettings;
use redis::{IntoConnectionInfo, RedisError};

use super::super::local::LocalCache;
use super::super::touched::{CHANNEL, ERA, Touched};
use crate::clock::tick;
use crate::limits;
use crate::queue::redis::client::{CallError, Connection, Server};
use crate::sale::Seq;

/// Tells every gate. After the commit, and before Redis lets go of what it is about. Where nobody hears it, gates find out.
///
/// # Errors
/// Redis'. Nothing depends on it.
pub fn tell(connection: &mut Connection, messages: &[Touched]) -> Result<(), CallError> {
    let channel = connection.key(CHANNEL);
    let mut all = redis::pipe();
    for message in messages {
        if *message == Touched::Changed {
            // Whoever hears it must find the word changed already.
            let word = rand::random::<u64>().max(1).to_string();
            all.cmd("SET").arg(connection.key(ERA)).arg(word);
        }
        all.cmd("PUBLISH").arg(&channel).arg(message.encode());
    }
    if messages.is_empty() { Ok(()) } else { connection.pipeline(&all).map(|_| ()) }
}

/// The running thread.
pub struct NewsThread {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl NewsThread {
    /// Starts it: what workers tell in the Redis at `url` of the partition that `server` names goes into `cache`. Redis need not be
    /// there. It keeps `guard` until it ends, by a panic too.
    ///
    /// # Errors
    /// Where the system gives no thread, or the URL can't be used.
    pub fn spawn(
        url: &str,
        server: &Server,
        timeout: Duration,
        cache: Arc<LocalCache>,
        guard: impl Send + 'static,
    ) -> io::Result<Self> {
        let unusable = |error: RedisError| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
        let info = url.into_connection_info().map_err(unusable)?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = redis::Client::open(info).map_err(unusable)?;
        let stop = Arc::new(AtomicBool::new(false));
        let ear = Ear { client, channel: server.key(CHANNEL), timeout, cache, stop: stop.clone() };
        let thread = std::thread::Builder::new().name("news".to_owned()).spawn(move || {
            let _guard = guard;
            ear.run();
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends it and waits for it.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
        // A panic there is its guard's news.
        let _ = self.thread.join();
    }
}

struct Ear {
    client: redis::Client,
    channel: String,
    timeout: Duration,
    cache: Arc<LocalCache>,
    stop: Arc<AtomicBool>,
}

/// Why it does not listen on this connection any more.
enum Over {
    /// Redis' words.
    Broken(RedisError),
    /// Entries are retired of which nothing was heard.
    Deaf,
}

impl From<RedisError> for Over {
    fn from(error: RedisError) -> Self {
        Self::Broken(error)
    }
}

impl Ear {
    fn run(self) {
        let mut is_told = false;
        while !self.is_over() {
            let why = match self.listen(&mut is_told) {
                Ok(()) => return,
                Err(Over::Broken(error)) => error.to_string(),
                Err(Over::Deaf) => "nothing is heard of what is retired".to_owned(),
            };
            if !std::mem::replace(&mut is_told, true) {
                tracing::warn!(why, "what workers write is not heard: reads are answered by the database more often");
            }
            std::thread::park_timeout(Duration::from_millis(limits::NEWS_RETRY_MILLIS));
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Listens until it is to end.
    fn listen(&self, is_told: &mut bool) -> Result<(), Over> {
        let mut connection = self.client.get_connection_with_timeout(self.timeout)?;
        connection.set_read_timeout(Some(self.timeout))?;
        let mut ear = connection.as_pubsub();
        ear.subscribe(&self.channel)?;
        // What was written meanwhile shows by its positions; what was changed without one does not.
        self.cache.forget();
        ear.set_read_timeout(Some(Duration::from_millis(limits::NEWS_LOOK_MILLIS)))?;
        let mut silence = Silence::since(&self.cache);
        while !self.is_over() {
            match ear.get_message() {
                Ok(message) => match Touched::decode(message.get_payload_bytes()) {
                    Some(touched) => {
                        self.cache.hear(&touched);
                        if std::mem::replace(is_told, false) {
                            tracing::info!("what workers write is heard again");
                        }
                    }
                    // As if it had been lost: the next one that can be read does not begin where the last one has ended.
                    None => tracing::debug!("a message about rows can't be read: its worker is of another version"),
                },
                Err(error) if error.is_timeout() => {}
                Err(error) => return Err(error.into()),
            }
            if silence.is_too_long(&self.cache) {
                return Err(Over::Deaf);
            }
        }
        Ok(())
    }
}

/// How long nothing was heard of what is retired since.
struct Silence {
    heard: Seq,
    /// Up to where entries were retired when it was listened for the last time that nothing was missing.
    retired: Seq,
    since: Instant,
}

impl Silence {
    fn since(cache: &LocalCache) -> Self {
        let (retired, heard) = cache.told();
        Self { heard, retired, since: tick() }
    }

    fn is_too_long(&mut self, cache: &LocalCache) -> bool {
        let (retired, heard) = cache.told();
        if heard >= retired || heard > self.heard || retired <= self.retired {
            *self = Self { heard, retired: self.retired.max(heard), since: tick() };
            return false;
        }
        tick().saturating_duration_since(self.since) > Duration::from_millis(limits::NEWS_DEAF_MILLIS)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn silence_is_too_long_only_where_there_was_something_to_hear() {
        let known = Arc::new(AtomicU64::new(100));
        let retired = known.clone();
        let retired = move || Seq(retired.load(Ordering::SeqCst));
        let cache = LocalCache::beside(Duration::from_secs(1), Arc::default(), retired, None);
        let hear = |after, upto| {
            let (claims, carts) = (Vec::new(), Vec::new());
            cache.hear(&Touched::Written { after: Seq(after), upto: Seq(upto), claims, carts });
        };
        let long_ago = tick() - Duration::from_millis(limits::NEWS_DEAF_MILLIS + 1);
        let mut silence = Silence::since(&cache);
        let mut is_too_long = || {
            silence.since = long_ago;
            silence.is_too_long(&cache)
        };
        assert!(!is_too_long(), "that was retired before it listened");
        known.store(110, Ordering::SeqCst);
        assert!(is_too_long());
        hear(100, 105);
        assert!(!is_too_long(), "it does hear, if late");
        assert!(is_too_long(), "and then nothing more");
        hear(105, 110);
        assert!(!is_too_long());
        assert!(!is_too_long(), "there is nothing to hear");
    }
}
