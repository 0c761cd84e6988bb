//! What a Redis does as the buffer, by the functions that gates and workers call, in a partition of its own.
//!
//! The partition's keys are `forebay:{doctor-…}:…`, so that the user of gates and workers may write them. They go when it is
//! dropped, however that comes about. What a killed run leaves Redis removes itself after a while, because every key has an
//! expiry from its first moments on.

use std::collections::HashSet;
use std::time::Duration;

use ::redis::{Value, cmd};
use anyhow::{Context as _, bail, ensure};

use super::figures::{RedisCalls, RedisFigures, RedisServer, RedisWeak, RoundTrips};
use super::measure::{Budget, claim, creation};
use crate::clock::{Clock as _, SystemClock, tick};
use crate::config::Config;
use crate::engine::folder::fresh_identity;
use crate::limits;
use crate::queue::redis::client::{CallError, Connection, Server};
use crate::queue::redis::facts::{Facts, Info};
use crate::queue::redis::protocol::layout::{self, Lay};
use crate::queue::redis::protocol::{self, Bundle, Word};
use crate::queue::{AdminAction, HashKey, Outcome};
use crate::sale::{CampaignNo, Durability, Money, Seq, Timestamp};

/// Measures the Redis of the configuration.
///
/// # Errors
/// It can't be reached or asked, or an interruption.
pub fn redis(config: &Config, budget: &Budget) -> anyhow::Result<RedisFigures> {
    let partition = format!("doctor-{:016x}", rand::random::<u64>());
    let server = Server::new(config.redis.url.expose(), &partition, config.redis.timeout);
    let server = server.map_err(|why| anyhow::anyhow!("{why}"))?;
    let mut connection = connect(&server)?;
    let facts = Facts::read(&mut connection)?;
    let info = Info::read(&mut connection, &["memory", "persistence"])?;
    let round_trip = round_trips(&mut connection, budget)?;
    let figures = server_figures(&facts, &info, &config.redis.accept);
    let calls = match can_write(&figures) {
        true => Some(calls(&server, connection, budget)?),
        false => None,
    };
    Ok(RedisFigures { name: server.name().to_owned(), server: figures, round_trip, calls })
}

fn connect(server: &Server) -> Result<Connection, CallError> {
    let mut connection = server.connect()?;
    connection.set_timeout(Duration::from_millis(limits::DOCTOR_REDIS_PATIENCE_MILLIS))?;
    Ok(connection)
}

fn server_figures(facts: &Facts, info: &Info, accepted: &[String]) -> RedisServer {
    let weak = facts.weak().into_iter().filter(|_| facts.is_new_enough());
    let failed = |name: &str| info.text(name) == "err";
    RedisServer {
        version: facts.version.clone(),
        has_functions: facts.is_new_enough(),
        is_primary: facts.is_primary,
        weak: weak
            .map(|weak| {
                let is_accepted = weak.name.as_ref().is_some_and(|name| accepted.contains(name));
                RedisWeak { what: weak.what, name: weak.name, is_accepted }
            })
            .collect(),
        maxmemory_bytes: facts.maxmemory,
        used_bytes: facts.used,
        machine_bytes: info.number("total_system_memory").filter(|bytes| *bytes > 0),
        file_failed: failed("aof_last_write_status") || failed("rdb_last_bgsave_status"),
    }
}

/// Whether there can be a partition, and is room for it.
fn can_write(server: &RedisServer) -> bool {
    let room = server.room_bytes().is_none_or(|room| room >= limits::DOCTOR_REDIS_FREE_MIN);
    server.has_functions && server.is_primary && !server.file_failed && room
}

impl RedisServer {
    /// Bytes that claims may take before gates refuse more, or before the machine has no more memory; none where neither
    /// bound is known.
    pub fn room_bytes(&self) -> Option<u64> {
        let bound = match self.maxmemory_bytes {
            0 => self.machine_bytes?,
            most => most,
        };
        Some((bound / 100 * limits::MEMORY_FULL_PERCENT).saturating_sub(self.used_bytes))
    }
}

fn round_trips(connection: &mut Connection, budget: &Budget) -> anyhow::Result<RoundTrips> {
    let mut times = Vec::with_capacity(limits::DOCTOR_PINGS);
    for _ in 0..limits::DOCTOR_PINGS {
        budget.check()?;
        let start = tick();
        connection.command(&cmd("PING"))?;
        times.push(start.elapsed());
    }
    let (median_seconds, max_seconds) = middle_and_last(&mut times);
    Ok(RoundTrips { count: times.len(), median_seconds, max_seconds })
}

/// The middle and the last of some times, in seconds; there is at least one.
fn middle_and_last(times: &mut [Duration]) -> (f64, f64) {
    times.sort_unstable();
    (times[times.len() / 2].as_secs_f64(), times[times.len() - 1].as_secs_f64())
}

/// The partition, while it is measured in.
struct Partition {
    server: Server,
    connection: Connection,
    /// The last entry, and the last one that was retired.
    seq: Seq,
    retired: Seq,
    is_cleared: bool,
}

/// There is one lane, one session, one worker, one opening.
const WORD: &str = "doctor";
const EPOCH: &str = "1";

/// Memory and processor of a Redis, at a moment.
struct Used {
    bytes: f64,
    processor: Option<f64>,
}

impl Partition {
    /// Lays an empty one out and opens it.
    fn open(server: &Server, connection: Connection) -> anyhow::Result<Self> {
        let mut new = Self { server: server.clone(), connection, seq: Seq(0), retired: Seq(0), is_cleared: false };
        new.connection.call("recover", &[WORD.as_bytes(), b"0"])?;
        let mut lay = Lay::new(WORD);
        let fields = layout::meta(Seq(0), Timestamp(0), 0, Seq(0));
        let words = fields.into_iter().flat_map(|(name, value)| [name.as_bytes().to_vec(), value.into_bytes()]);
        lay.add("HSET", "meta", words);
        new.expect_ok("lay", &lay.take())?;
        let identity = format!("{:032x}", fresh_identity().journal);
        new.expect_ok("open", &[WORD, EPOCH, &identity])?;
        new.connection.call("hello", &[EPOCH.as_bytes(), WORD.as_bytes(), WORD.as_bytes(), b""])?;
        Ok(new)
    }

    fn expect_ok<A: AsRef<[u8]>>(&mut self, function: &str, args: &[A]) -> anyhow::Result<()> {
        let args: Vec<&[u8]> = args.iter().map(AsRef::as_ref).collect();
        let word = protocol::word(&self.connection.call(function, &args)?)?;
        ensure!(word == Word::Ok, "{function} answers {word:?}");
        Ok(())
    }

    /// Has commands decided, all in one call; each must be taken, with the letter `taken`.
    fn submit(&mut self, bundles: &[Bundle], commands: &[Vec<u8>], taken: u8) -> anyhow::Result<()> {
        let room = u64::from(u32::MAX).to_string();
        let head = [EPOCH, WORD, WORD, "", &room].map(str::as_bytes);
        let words = bundles.iter().flat_map(Bundle::words).chain(commands.iter().map(Vec::as_slice));
        let args: Vec<&[u8]> = head.into_iter().chain(words).collect();
        let answer = self.connection.call("submit", &args)?;
        let said = protocol::submitted(&answer, bundles)?;
        let is_taken = |outcome: &Outcome| matches!(outcome, Outcome::Accepted { .. });
        ensure!(said.bundled.iter().all(is_taken), "Redis does not take what it should: {:?}", said.bundled);
        for answer in said.answers {
            let answer = protocol::bytes(answer)?;
            ensure!(answer.first() == Some(&taken), "Redis does not take what it should: {answer:?}");
        }
        self.seq = Seq(said.first.0 + u64::from(said.count) - 1);
        Ok(())
    }

    /// Creates the campaign with the number `no`; gives its price.
    fn create(&mut self, no: CampaignNo) -> anyhow::Result<Option<Money>> {
        let command = creation(&format!("doctor-{}", no.0), 2 * limits::DOCTOR_REDIS_CLAIMS_MAX)?;
        let AdminAction::Create(spec, seed) = &command.action else { bail!("no creation") };
        let bytes = protocol::create(&command, spec, *seed, 0, "");
        self.submit(&[], &[bytes], b'C')?;
        Ok(spec.price)
    }

    /// Has everything be in the database.
    fn retire(&mut self) -> anyhow::Result<()> {
        let lease = limits::DOCTOR_REDIS_EXPIRY_MILLIS.to_string();
        let after = self.retired.to_string();
        let take = ["", WORD, &after, "0", &lease].map(str::as_bytes);
        ensure!(protocol::taken(&self.connection.call("take", &take)?)?.is_some(), "another worker is here");
        let (upto, sums) = (self.seq.to_string(), self.retired.0.to_le_bytes());
        let words: [&[u8]; 6] = [b"", WORD.as_bytes(), EPOCH.as_bytes(), upto.as_bytes(), lease.as_bytes(), &sums];
        self.expect_ok("retire", &words)?;
        self.retired = self.seq;
        Ok(())
    }

    fn used(&mut self) -> anyhow::Result<Used> {
        let info = Info::read(&mut self.connection, &["memory", "cpu"])?;
        let [user, system] = ["used_cpu_user_main_thread", "used_cpu_sys_main_thread"].map(|n| info.number::<f64>(n));
        Ok(Used {
            bytes: info.number("used_memory").context("Redis does not say what memory it uses")?,
            processor: user.zip(system).map(|(user, system)| user + system),
        })
    }

    /// Has every key go by itself, should nobody be there to remove it.
    fn expire(&mut self) -> anyhow::Result<()> {
        let mut all = ::redis::pipe();
        all.atomic();
        for key in keys(&mut self.connection)? {
            all.cmd("PEXPIRE").arg(key).arg(limits::DOCTOR_REDIS_EXPIRY_MILLIS);
        }
        self.connection.pipeline(&all)?;
        Ok(())
    }

    /// Removes everything.
    fn clear(&mut self) -> Result<(), CallError> {
        // The one that was measured with may be broken.
        let mut connection = connect(&self.server)?;
        // From now on a call that is still on its way writes nothing, and the functions forget their own memory of it.
        connection.call("recover", &[b"over", b""])?;
        let found = keys(&mut connection)?;
        if !found.is_empty() {
            connection.command(cmd("UNLINK").arg(found.into_iter().collect::<Vec<_>>()))?;
        }
        self.is_cleared = true;
        Ok(())
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        if !self.is_cleared {
            // What stays expires.
            let _ = self.clear();
        }
    }
}

/// The partition's keys, by looking for them: whoever adds one to the library need not think of this.
fn keys(connection: &mut Connection) -> Result<HashSet<Vec<u8>>, CallError> {
    let (pattern, mut cursor, mut found) = (connection.key("*"), b"0".to_vec(), HashSet::new());
    let wrong = || CallError::Protocol("SCAN answers something else".to_owned());
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1_000);
        let Value::Array(answer) = connection.command(&scan)? else { return Err(wrong()) };
        let [Value::BulkString(next), Value::Array(some)] = &answer[..] else { return Err(wrong()) };
        found.extend(some.iter().filter_map(|key| match key {
            Value::BulkString(key) => Some(key.clone()),
            _ => None,
        }));
        if next == b"0" {
            return Ok(found);
        }
        cursor.clone_from(next);
    }
}

/// What claims of one kind took.
struct Phase {
    claims: u64,
    times: Vec<Duration>,
    waiting_bytes: f64,
    held_bytes: f64,
    processor_seconds: Option<f64>,
}

fn calls(server: &Server, connection: Connection, budget: &Budget) -> anyhow::Result<RedisCalls> {
    let mut partition = Partition::open(server, connection)?;
    let mut plain = phase(&mut partition, CampaignNo(0), false, budget)?;
    let keyed = phase(&mut partition, CampaignNo(1), true, budget)?;
    partition.clear().context("what was measured in can't be removed; it expires")?;
    let whole: Duration = plain.times.iter().sum();
    let (call_median_seconds, call_max_seconds) = middle_and_last(&mut plain.times);
    Ok(RedisCalls {
        batch: limits::DOCTOR_CALL,
        claims: plain.claims,
        per_second: plain.claims as f64 / whole.as_secs_f64(),
        call_median_seconds,
        call_max_seconds,
        processor_seconds: plain.processor_seconds,
        waiting_bytes: plain.waiting_bytes,
        held_bytes: plain.held_bytes,
        waiting_bytes_with_key: keyed.waiting_bytes,
        held_bytes_with_key: keyed.held_bytes,
    })
}

/// Claims of a campaign of their own, which wait and then are in the database.
fn phase(partition: &mut Partition, no: CampaignNo, keyed: bool, budget: &Budget) -> anyhow::Result<Phase> {
    let price = partition.create(no)?;
    partition.expire()?;
    let (key, mut times, mut claims) = (HashKey(fresh_identity().hash_key), Vec::new(), 0);
    let before = partition.used()?;
    let is_over = budget.part(0.1);
    while claims < limits::DOCTOR_REDIS_CLAIMS_MIN || (claims < limits::DOCTOR_REDIS_CLAIMS_MAX && !is_over()) {
        budget.check()?;
        let (bundles, some) = commands(key, (no, price), claims, keyed)?;
        let start = tick();
        partition.submit(&bundles, &some, b'A')?;
        times.push(start.elapsed());
        if claims == 0 {
            partition.expire()?;
        }
        claims += limits::DOCTOR_CALL as u64;
    }
    let waiting = partition.used()?;
    partition.retire()?;
    let held = partition.used()?;
    budget.check()?;
    let each = |more: f64| more.max(0.0) / claims as f64;
    Ok(Phase {
        claims,
        times,
        waiting_bytes: each(waiting.bytes - before.bytes),
        held_bytes: each(held.bytes - before.bytes),
        processor_seconds: waiting.processor.zip(before.processor).map(|(after, before)| each(after - before)),
    })
}

/// The claims of the next call, as a gate packs them.
fn commands(
    key: HashKey,
    (no, price): (CampaignNo, Option<Money>),
    first: u64,
    keyed: bool,
) -> anyhow::Result<(Vec<Bundle>, Vec<Vec<u8>>)> {
    let now = SystemClock.now();
    let (mut bundle, mut others) = (Bundle::new(no, price), Vec::new());
    for n in first..first + limits::DOCTOR_CALL as u64 {
        let mut command = claim(key, n, now)?;
        command.campaign = no;
        command.key = keyed.then(|| key.key(no, &command.user, "doctor"));
        if Bundle::is_plain(&command) {
            ensure!(bundle.push(&command), "a buyer twice");
        } else {
            others.push(protocol::claim(&command, Durability::Disk, &[]));
        }
    }
    let bundles = if bundle.is_empty() { Vec::new() } else { vec![bundle] };
    Ok((bundles, others))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(maxmemory_bytes: u64, machine_bytes: Option<u64>) -> RedisServer {
        let (version, weak) = ("7.0.15".to_owned(), Vec::new());
        RedisServer {
            version,
            has_functions: true,
            is_primary: true,
            weak,
            maxmemory_bytes,
            used_bytes: 1 << 20,
            machine_bytes,
            file_failed: false,
        }
    }

    #[test]
    fn room_ends_where_gates_refuse_or_where_the_machine_does() {
        assert_eq!(server(100 << 20, Some(1 << 30)).room_bytes(), Some((92 << 20) - (1 << 20)));
        assert_eq!(server(0, Some(100 << 20)).room_bytes(), Some((92 << 20) - (1 << 20)));
        assert_eq!(server(1 << 20, None).room_bytes(), Some(0), "it is over that already");
        assert_eq!(server(0, None).room_bytes(), None);
    }

    #[test]
    fn nothing_is_written_where_it_can_not_be_or_would_fill_redis() {
        assert!(can_write(&server(0, None)));
        assert!(can_write(&server(1 << 30, None)));
        assert!(!can_write(&server(64 << 20, None)));
        assert!(!can_write(&RedisServer { is_primary: false, ..server(0, None) }));
        assert!(!can_write(&RedisServer { has_functions: false, ..server(0, None) }));
    }

    #[test]
    fn the_middle_and_the_slowest_are_those_of_the_sorted_times() {
        let mut times: Vec<_> = [9, 1, 3].map(Duration::from_secs).into();
        assert_eq!(middle_and_last(&mut times), (3.0, 9.0));
    }
}
