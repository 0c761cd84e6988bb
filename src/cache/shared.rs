//! The cache in Redis that all gates share, behind the one in each process, and the ear for what workers tell of rows.
//!
//! - It is asked by one thread for all front ends, in calls of many, over a connection of its own. Front ends wait for it at most
//!   [`limits::CACHE_REDIS_MILLIS`]; lanes and runtimes never do. Where it failed or was too slow, it is not asked again for a
//!   while, and the database answers.
//! - A value carries the position as of which it was read, the epoch of the partition and a word that changes whenever rows were
//!   changed that no position tells of. So no key has to be removed: what is outdated is not used, and is written over.
//! - It never stands in the way of claims. A gate writes a bounded number of bytes in a lifetime, nothing where Redis has not plenty
//!   of room, and nothing that would be written down: what is kept goes neither into the append-only file nor to replicas. Only
//!   that it has expired does, as a `DEL` of some 70 bytes each.

mod keeper;
pub mod news;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use self::keeper::{Ask, Keeper, Looked};
use super::tier::{Finding, Found, Mark, Tier};
use super::value::FORMAT;
use crate::limits;
use crate::queue::redis::client::Server;
use crate::queue::redis::gate::Gate;
use crate::sale::Seq;

/// What stands before a value: format, epoch, era, position.
const HEAD_BYTES: usize = 1 + 3 * 8;

/// The cache.
pub struct SharedCache {
    asks: SyncSender<Ask>,
    /// Whether it can be asked, as far as its thread knows.
    ready: Arc<AtomicBool>,
    gate: Arc<Gate>,
}

/// Its running thread.
pub struct SharedCacheThread {
    asks: SyncSender<Ask>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl SharedCache {
    /// Starts it: values live for `lifetime`, which is not zero. The thread keeps `guard` until it ends, by a panic too. Redis
    /// need not be there.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn(
        server: Server,
        gate: Arc<Gate>,
        lifetime: Duration,
        guard: impl Send + 'static,
    ) -> io::Result<(Arc<Self>, SharedCacheThread)> {
        let (asks, asked) = mpsc::sync_channel(limits::CACHE_ASKS_MAX);
        let (ready, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let keeper = Keeper::new(server, lifetime, ready.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("cache".to_owned()).spawn(move || {
            let _guard = guard;
            keeper.run(&asked);
        })?;
        let cache = Arc::new(Self { asks: asks.clone(), ready, gate });
        Ok((cache, SharedCacheThread { asks, stop, thread }))
    }

    async fn look(&self, name: String) -> Found {
        // A partition that is not open may be about to be laid out anew, and nothing that is there is of its epoch.
        let Some(epoch) = self.gate.epoch().filter(|_| self.ready.load(Ordering::Relaxed)) else { return Found::Away };
        let (answer, answered) = oneshot::channel();
        if self.asks.try_send(Ask::Get { name, answer }).is_err() {
            return Found::Away;
        }
        let patience = Duration::from_millis(limits::CACHE_REDIS_MILLIS);
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(Looked { era, value })) => found(Mark { epoch, era }, value),
            _ => Found::Away,
        }
    }
}

impl Tier for SharedCache {
    fn get(&self, name: String) -> Finding<'_> {
        Box::pin(self.look(name))
    }

    fn put(&self, name: String, mark: Mark, as_of: Seq, value: Vec<u8>) {
        if value.len() > limits::CACHE_VALUE_MAX || !self.gate.has_spare_memory() {
            return;
        }
        let mut bytes = Vec::with_capacity(HEAD_BYTES + value.len());
        bytes.push(FORMAT);
        for number in [mark.epoch, mark.era, as_of.0] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&value);
        // Where too many wait already, this one is read of the database again.
        let _ = self.asks.try_send(Ask::Put { name, value: bytes });
    }
}

impl SharedCacheThread {
    /// Ends it and waits for it, at most an answer of Redis long.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        // Where there is no room it has something to wake for anyway.
        let _ = self.asks.try_send(Ask::End);
        // A panic there is its guard's news.
        let _ = self.thread.join();
    }
}

/// What a value with its head is to who looks for one under `mark`.
fn found(mark: Mark, value: Option<Vec<u8>>) -> Found {
    let of_use = value.and_then(|mut bytes| {
        let body = (bytes.len() >= HEAD_BYTES).then(|| bytes.split_off(HEAD_BYTES))?;
        let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        let read = Mark { epoch: number(1)?, era: number(9)? };
        (bytes[0] == FORMAT && read == mark).then_some((Seq(number(17)?), body))
    });
    of_use.map_or(Found::Nothing(mark), |(as_of, body)| Found::Value(mark, as_of, body))
}
