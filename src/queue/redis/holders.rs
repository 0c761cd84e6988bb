//! The thread that reads who holds claims of a campaign of which nothing can be claimed any more, so that a gate can refuse
//! all others without a call. Until it knows, every claim is Redis' to answer: a holder is told of the own claim, and a
//! repeated key gets its first answer, whatever became of the sale.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use redis::{Value, cmd};

use super::super::filter::HolderFilter;
use super::super::{CampaignView, HashKey};
use super::client::{CallError, Connection, Server};
use super::gate::{Gate, GateClock};
use super::protocol;
use crate::clock::Clock;
use crate::limits;
use crate::pulse;
use crate::sale::{Units, UserId};

/// The running thread.
pub struct HoldersThread {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl HoldersThread {
    /// Starts it. Buyers are hashed with `key`. It keeps `guard` until it ends, by a panic too.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn(server: Server, gate: Arc<Gate>, key: HashKey, guard: impl Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let reader = Reader { server, gate, key, stop: stop.clone(), connection: None };
        let thread = std::thread::Builder::new().name("holders".to_owned()).spawn(move || {
            let _guard = guard;
            reader.run();
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

struct Reader {
    server: Server,
    gate: Arc<Gate>,
    key: HashKey,
    stop: Arc<AtomicBool>,
    connection: Option<Connection>,
}

impl Reader {
    fn run(mut self) {
        let patience = Duration::from_millis(limits::PULSE_REDIS_MILLIS);
        let _pulse = self.gate.published().metrics.clone().pulses.enter("holders", patience);
        while !self.stop.load(Ordering::SeqCst) {
            pulse::beat();
            let now = GateClock(self.gate.clone()).now();
            let views = self.gate.published().views.load().all().to_vec();
            for view in views.iter().filter(|view| view.wants_holders(now)) {
                if self.gate.is_up()
                    && let Err(error) = self.read(view)
                {
                    tracing::debug!(%error, campaign = view.id.as_str(), "who holds claims could not be read");
                    self.connection = None;
                }
            }
            std::thread::park_timeout(Duration::from_millis(limits::HOLDERS_LOOK_MILLIS));
        }
    }

    fn read(&mut self, view: &CampaignView) -> Result<(), CallError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.server.connect()?,
        };
        let seen = (view.version(), view.stock_version());
        let key = connection.key(&format!("h:{}", view.no.0));
        let Value::Int(count) = connection.command(cmd("HLEN").arg(&key))? else { return Err(unreadable()) };
        let holders = HolderFilter::new(Units(count.max(1) as u64));
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(&key).arg(&cursor).arg("COUNT").arg(limits::HOLDERS_SCAN);
            let Value::Array(parts) = connection.command(&scan)? else { return Err(unreadable()) };
            let [Value::BulkString(next), Value::Array(pairs)] = &parts[..] else { return Err(unreadable()) };
            for pair in pairs.chunks(2) {
                let name = protocol::bytes(&pair[0]).ok().and_then(|bytes| std::str::from_utf8(bytes).ok());
                if let Some(user) = name.and_then(|name| UserId::parse(name).ok()) {
                    holders.insert(self.key.user(&user));
                }
            }
            cursor = String::from_utf8_lossy(next).into_owned();
            let has_changed = (view.version(), view.stock_version()) != seen;
            if cursor == "0" || has_changed || self.stop.load(Ordering::SeqCst) {
                break;
            }
            // The sale goes on beside this, for others.
            std::thread::sleep(Duration::from_millis(limits::HOLDERS_PAUSE_MILLIS));
        }
        // What was seen may be a moment old: somebody may have given units back, and somebody else have claimed them.
        let (fields, campaign) = (["version", "stock_version"], connection.key(&format!("c:{}", view.no.0)));
        let Value::Array(now) = connection.command(cmd("HMGET").arg(campaign).arg(&fields[..]))? else {
            return Err(unreadable());
        };
        let number =
            |value: &Value| protocol::bytes(value).ok().and_then(|b| std::str::from_utf8(b).ok()?.parse().ok());
        if cursor == "0" && now.iter().map(number).eq([Some(seen.0), Some(seen.1)]) {
            view.know_holders(holders, Units(count as u64), seen);
        }
        self.connection = Some(connection);
        Ok(())
    }
}

fn unreadable() -> CallError {
    CallError::Protocol("an answer about who holds claims".to_owned())
}
