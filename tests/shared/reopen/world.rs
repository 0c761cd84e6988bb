//! Gates, a worker and a database around one Redis.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay::queue::journal::Identity;
use forebay::queue::redis::client::{Connection, Server};
use forebay::queue::redis::kept::{House, Kept};
use forebay::queue::redis::protocol::{self, Retiring, Word};
use forebay::queue::{AdminAction, AdminCommand, ClaimCommand, Lease, MoveCommand};
use forebay::sale::check_in::{Day, Zone};
use forebay::sale::red_packet::Seed;
use forebay::sale::{
    Asked, CampaignNo, CampaignSpec, Claim, ClaimId, Durability, Entry, Event, Fate, Seq, Timestamp, UserId,
};
use forebay::store::sqlite::SqliteStore;
use forebay::store::{Database, Mode, Store};
use forebay::workers::batch;
use forebay::workers::shared::reopen::{Progress, ReopenError, Reopening};
use redis::{Value, cmd};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::paper::KEY;
use crate::redis::Redis;

pub const JOURNAL: u128 = 0xdb;
const START: i64 = 1_800_000_000_000_000;
const MINUTE: i64 = 60_000_000;

const SPECS: [&str; 5] = [
    r#"{"id":"sale","kind":"flash_sale","opens_at":"2026-01-01T00:00:00Z","closes_at":"2036-01-01T00:00:00Z",
        "per_user_limit":2,"stock":25,"currency":"CNY","price":990,"reservation_ttl":"15m"}"#,
    r#"{"id":"packet","kind":"red_packet","opens_at":"2026-01-01T00:00:00Z","closes_at":"2036-01-01T00:00:00Z",
        "stock":20,"currency":"CNY","red_packet":{"total":2000,"min":1,"max":300,"split":"random"}}"#,
    r#"{"id":"daily","kind":"check_in","opens_at":"2026-01-01T00:00:00Z","closes_at":"2036-01-01T00:00:00Z",
        "check_in":{"points":10,"time_zone":"UTC"},"stock":null}"#,
    // More than anybody asks for, so that a unit that came back is missed by nobody but its buyer.
    r#"{"id":"plenty","kind":"flash_sale","opens_at":"2026-01-01T00:00:00Z","closes_at":"2036-01-01T00:00:00Z",
        "per_user_limit":2,"stock":10000,"currency":"CNY","price":990}"#,
    r#"{"id":"three","kind":"flash_sale","opens_at":"2026-01-01T00:00:00Z","closes_at":"2036-01-01T00:00:00Z",
        "per_user_limit":3,"stock":10000,"currency":"CNY","price":990}"#,
];
/// The number of one of which a buyer may hold three.
pub const THREE: CampaignNo = CampaignNo(4);
/// The campaign's number of which nobody is sold out.
pub const PLENTY: CampaignNo = CampaignNo(3);

/// What becomes of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It was started anew and has everything.
    Nothing,
    /// It has nothing.
    All,
    /// It has what was copied last.
    Old,
}

struct Gate {
    id: u128,
    kept: Arc<Kept>,
    _house: House,
    _folder: TempDir,
}

pub struct World {
    _redis: Redis,
    pub connection: Connection,
    raw: redis::Connection,
    pub store: Arc<Database>,
    runtime: Arc<Runtime>,
    _folder: TempDir,
    gates: Vec<Gate>,
    /// What was acknowledged: an item of the list a position.
    pub acked: BTreeMap<Seq, Vec<u8>>,
    /// What is in the database.
    pub written: Vec<Entry>,
    pub specs: Vec<CampaignSpec>,
    copied: Vec<(Vec<u8>, Vec<u8>)>,
    epoch: u64,
    now: i64,
    random: u64,
    tokens: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let redis = Redis::start();
        let server = Server::new(&redis.url(), "0", std::time::Duration::from_secs(20)).expect("a URL");
        let folder = TempDir::new().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("a.db").display());
        let store = Database::Sqlite(Box::new(SqliteStore::open(&url, Mode::ReadWrite).expect("a store")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(store.migrate()).expect("tables");
        let gates = (0..2).map(|n| {
            let folder = TempDir::new().expect("a folder");
            let identity = Identity { journal: 0xa1 + n, hash_key: KEY.0 };
            let (kept, house) = Kept::open(folder.path(), identity, Durability::Disk).expect("a journal");
            Gate { id: 0xa1 + n, kept, _house: house, _folder: folder }
        });
        let mut world = Self {
            connection: server.connect().expect("a connection"),
            raw: redis.connect(),
            _redis: redis,
            store: Arc::new(store),
            runtime: Arc::new(runtime),
            _folder: folder,
            gates: gates.collect(),
            acked: BTreeMap::new(),
            written: Vec::new(),
            specs: Vec::new(),
            copied: Vec::new(),
            epoch: 0,
            now: START,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            tokens: 0,
        };
        world.reopen();
        SPECS.iter().for_each(|json| world.create(json));
        world
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below
    }

    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn create(&mut self, json: &str) {
        let spec = CampaignSpec::parse(json.as_bytes()).expect("a definition");
        let seed = Seed([spec.id.as_str().len() as u8; 16]);
        let asked = Asked { by: "ops".to_owned(), key: None };
        let command = AdminCommand { asked, action: AdminAction::Create(spec.clone(), seed) };
        let total = spec.red_packet.map_or(forebay::sale::Money(0), |packet| packet.total);
        let stock = if spec.red_packet.is_some() { spec.stock } else { forebay::sale::Units(0) };
        let shares = protocol::shares(&spec, &seed, total, stock, 0);
        let mut name = "";
        if !shares.is_empty() {
            name = "new:1";
            let key = self.connection.key(name);
            let texts: Vec<_> = shares.iter().map(|share| share.0).collect();
            self.connection.command(cmd("RPUSH").arg(key).arg(texts)).expect("shares");
        }
        self.submit(vec![protocol::create(&command, &spec, seed, 1, name)], true);
        self.specs.push(spec);
    }

    fn call(&mut self, gate: usize, commands: &[Vec<u8>]) -> Vec<Value> {
        let lane = format!("{:032x}.0", self.gates[gate].id);
        let (epoch, now) = (self.epoch.to_string(), self.now.to_string());
        let hello = [epoch.as_bytes(), lane.as_bytes(), b"s", now.as_bytes()];
        self.connection.call("hello", &hello).expect("a lane");
        let mut args: Vec<&[u8]> = vec![epoch.as_bytes(), lane.as_bytes(), b"s", now.as_bytes(), b"100000"];
        args.extend(commands.iter().map(Vec::as_slice));
        self.connection.call("submit", &args).expect("open")
    }

    /// Has a gate call the library; where it `lives`, it keeps what was accepted, and acknowledges it.
    pub fn submit(&mut self, commands: Vec<Vec<u8>>, lives: bool) {
        let gate = self.draw(2) as usize;
        let answer = self.call(gate, &commands);
        let said = protocol::submitted(&answer, &[]).expect("an answer");
        if said.count == 0 || !lives {
            return;
        }
        let kept = &self.gates[gate].kept;
        kept.keep(self.epoch, said.first, said.at, said.count, &said.entries).expect("kept");
        let block = forebay::queue::redis::kept::Block {
            epoch: self.epoch,
            first: said.first,
            at: said.at,
            count: said.count,
            entries: &said.entries,
        };
        for (place, item) in block.items_after(Seq(0)).1.into_iter().enumerate() {
            let seq = said.first.plus(place as u64);
            assert!(self.acked.insert(seq, item).is_none(), "position {seq} was acknowledged twice");
        }
    }

    fn claim(&mut self) -> Vec<u8> {
        let campaign = CampaignNo(self.draw(SPECS.len() as u64) as u32);
        let user = self.draw(30);
        let quantity = if [0, 3].contains(&campaign.0) { 1 + self.draw(2) as u32 } else { 1 };
        self.claim_of(campaign, user, quantity)
    }

    /// The claim of a user.
    pub fn claim_of(&mut self, campaign: CampaignNo, user: u64, quantity: u32) -> Vec<u8> {
        let user = UserId::parse(&format!("u{user}")).expect("a user");
        let (user_hash, random, keyed) = (KEY.user(&user), self.draw(1 << 34), self.draw(2) == 0);
        let claim_id = ClaimId::new(Timestamp(self.now), user_hash, random);
        let key = keyed.then(|| KEY.key(campaign, &user, &random.to_string()));
        let command = ClaimCommand { campaign, quantity, receipt_key: 1, user, user_hash, claim_id, key };
        let zone = Zone::parse("time_zone", "UTC").expect("a zone");
        let days: Vec<Day> = vec![zone.day(Timestamp(self.now))];
        protocol::claim(&command, Durability::Disk, if campaign.0 == 2 { &days } else { &[] })
    }

    /// The end of something that somebody holds, if anybody does, and whether it may be lost: not where somebody else may have what was
    /// given back.
    fn end(&mut self) -> Option<(Vec<u8>, bool)> {
        let claims = self.acked.iter().filter_map(|(seq, item)| {
            match protocol::entry(item, *seq, Durability::Disk).expect("an entry").event {
                Event::Claimed(claim) if claim.campaign.0 != 2 => Some(claim),
                _ => None,
            }
        });
        let claims: Vec<_> = claims.collect();
        let claim = claims.get(self.draw(claims.len().max(1) as u64) as usize)?;
        let to = if self.draw(3) == 0 { Fate::Settled } else { Fate::Cancelled };
        Some((Self::end_of(claim, to), claim.campaign == PLENTY))
    }

    /// The end of a claim.
    pub fn end_of(claim: &Claim, to: Fate) -> Vec<u8> {
        let (claim_id, campaign, user) = (claim.claim_id, claim.campaign, claim.user);
        let command = MoveCommand { claim_id, campaign, user, to, by: "shop".into(), reason: "".into() };
        protocol::end(&command, &claim.user)
    }

    fn sweep(&mut self) {
        let (epoch, now) = (self.epoch.to_string(), self.now.to_string());
        let args = [epoch.as_bytes(), now.as_bytes(), now.as_bytes(), b"0", b"100", b"9000000000000000", b"0", b"10"];
        self.connection.call("sweep", &args).expect("open");
    }

    /// So many calls of gates, with what a worker does between them.
    pub fn sell(&mut self, calls: u64) {
        for _ in 0..calls {
            self.now += self.draw(40) as i64 * MINUTE / 60;
            let lives = self.draw(12) != 0;
            match self.draw(20) {
                0 => self.drain(5),
                1 => {
                    self.now += 5 * MINUTE;
                    self.sweep();
                }
                2..7 => {
                    if let Some((end, may_be_lost)) = self.end() {
                        self.submit(vec![end], lives || !may_be_lost);
                    }
                }
                _ => {
                    let claims = (0..1 + self.draw(3)).map(|_| self.claim()).collect();
                    self.submit(claims, lives);
                }
            }
        }
    }

    fn items(&mut self) -> Vec<Vec<u8>> {
        let key = self.connection.key("list");
        let Value::Array(all) = self.connection.command(cmd("LRANGE").arg(key).arg(0).arg(-1)).expect("a list") else {
            panic!("a list")
        };
        all.into_iter().map(|item| if let Value::BulkString(item) = item { item } else { panic!("{item:?}") }).collect()
    }

    /// What waits.
    pub fn waiting(&mut self) -> Vec<Entry> {
        let status = self.status();
        let items = self.items();
        assert_eq!(status.seq.0 - status.retired.0, items.len() as u64, "the list is whole");
        let seqs = status.retired.0 + 1..;
        let read = |(item, seq): (&Vec<u8>, u64)| protocol::entry(item, Seq(seq), Durability::Disk).expect("an entry");
        items.iter().zip(seqs).map(read).collect()
    }

    pub fn status(&mut self) -> protocol::Status {
        protocol::status(&self.connection.call("status", &[b""]).expect("an answer")).expect("a state")
    }

    fn drain(&mut self, most: usize) {
        let mut entries = self.waiting();
        entries.truncate(most);
        let Some(last) = entries.last().map(|entry| entry.seq) else { return };
        let after = Seq(entries[0].seq.0 - 1);
        let mut retiring = Retiring::new(after);
        entries.iter().for_each(|entry| retiring.add(&entry.event));
        let specs = &self.specs;
        let name =
            |no: CampaignNo| specs.get(no.0 as usize).map(|spec| (spec.id, spec.currency, spec.check_in.is_some()));
        let lease = Lease { after, entries: entries.clone() };
        let batch = batch::of(&lease, name).expect("names");
        self.wait(self.store.write(&batch, &[])).unwrap_or_else(|error| panic!("{error}\n{entries:#?}"));
        self.written.extend(entries);
        let totals = self.wait(self.store.totals()).expect("sums");
        let (now, epoch, upto) = (self.now.to_string(), self.epoch.to_string(), last.to_string());
        let database = forebay::workers::drain::balances(&totals);
        let sums = retiring.sums(&database);
        let lease = b"1000000000";
        self.connection.call("take", &[now.as_bytes(), b"w", upto.as_bytes(), b"0", lease]).expect("a lease");
        let args = [now.as_bytes(), b"w", epoch.as_bytes(), upto.as_bytes(), lease, &sums];
        let answer = self.connection.call("retire", &args).expect("an answer");
        assert_eq!(protocol::word(&answer), Ok(Word::Ok));
        if self.draw(2) == 0 {
            self.gates.iter().for_each(|gate| gate.kept.retired(last));
        }
    }

    pub fn drain_all(&mut self) {
        while !self.waiting().is_empty() {
            self.drain(100);
        }
    }

    /// Every key with its value.
    pub fn dump(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut keys: Vec<Vec<u8>> = cmd("KEYS").arg("*").query(&mut self.raw).expect("keys");
        keys.sort();
        let dump = |key: Vec<u8>| {
            let value = cmd("DUMP").arg(&key).query(&mut self.raw).expect("a value");
            (key, value)
        };
        keys.into_iter().map(dump).collect()
    }

    /// Remembers Redis as it is.
    pub fn copy(&mut self) {
        self.copied = self.dump();
    }

    pub fn lose(&mut self, loss: Loss) {
        let run = |raw: &mut redis::Connection, command: &mut redis::Cmd| {
            let _: Value = command.query(raw).expect("done");
        };
        // As a start does: what the library remembers is gone.
        run(&mut self.raw, cmd("FUNCTION").arg("FLUSH"));
        if loss != Loss::Nothing {
            run(&mut self.raw, &mut cmd("FLUSHALL"));
        }
        if loss == Loss::Old {
            for (key, value) in &self.copied {
                run(&mut self.raw, cmd("RESTORE").arg(key).arg(0).arg(value));
            }
        }
    }

    /// An opening.
    pub fn begin(&mut self) -> Reopening {
        self.tokens += 1;
        self.wait(self.store.bind(JOURNAL)).expect("bound");
        Reopening::new(format!("t{}", self.tokens), Durability::Disk, 0)
    }

    /// One step of it; gates see to what is asked of them.
    pub fn step(&mut self, opening: &mut Reopening) -> Result<Progress, ReopenError> {
        let gates: Vec<u128> = self.gates.iter().map(|gate| gate.id).collect();
        let (runtime, store) = (self.runtime.clone(), self.store.clone());
        let progress = runtime.block_on(opening.step(&mut self.connection, &store, &gates))?;
        if let Progress::Waiting { gates } = &progress {
            for gate in gates {
                self.offer(*gate);
            }
        }
        Ok(progress)
    }

    fn offer(&mut self, id: u128) {
        let status = self.status();
        let (Some(token), Some(base)) = (status.recovery, status.recovery_base) else { return };
        let gate = self.gates.iter().find(|gate| gate.id == id).expect("a gate");
        let name = format!("{id:032x}");
        let mut blocks = Vec::new();
        gate.kept.each_after(base, &mut |block| blocks.push(block.items_after(base))).expect("read");
        for (first, items) in blocks {
            let first = first.to_string();
            let mut args = vec![token.as_bytes(), name.as_bytes(), first.as_bytes()];
            args.extend(items.iter().map(Vec::as_slice));
            let answer = self.connection.call("offer", &args).expect("an answer");
            assert_eq!(protocol::word(&answer), Ok(Word::Ok));
        }
        let (epoch, last) = gate.kept.last().unwrap_or_default();
        let (epoch, last) = (epoch.to_string(), last.to_string());
        let args = [token.as_bytes(), name.as_bytes(), epoch.as_bytes(), last.as_bytes()];
        let answer = self.connection.call("offered", &args).expect("an answer");
        assert_eq!(protocol::word(&answer), Ok(Word::Ok));
    }

    /// Begins an opening, and dies after so many steps of it, unless it is done by then.
    pub fn die_after(&mut self, steps: u32) {
        let mut opening = self.begin();
        for _ in 0..steps {
            if let Progress::Opened { epoch } = self.step(&mut opening).expect("a step") {
                self.epoch = epoch;
                // The next one finds an open partition, as after a worker's restart.
                return;
            }
        }
    }

    pub fn reopen(&mut self) {
        let mut opening = self.begin();
        for _ in 0..10_000 {
            if let Progress::Opened { epoch } = self.step(&mut opening).unwrap_or_else(|error| panic!("{error}")) {
                assert!(epoch > self.epoch, "epoch {epoch} after {}", self.epoch);
                self.epoch = epoch;
                return;
            }
        }
        panic!("never opened");
    }

    /// The positions of what waits of a buyer.
    pub fn look(&mut self, tag: [u8; 6]) -> Vec<Seq> {
        let answer = self.call(0, &[protocol::look_claim(tag)]);
        let said = protocol::submitted(&answer, &[]).expect("an answer");
        let found = protocol::looked_waiting(&said.answers[0], Durability::Disk).expect("entries");
        found.iter().map(|entry| entry.seq).collect()
    }

    /// A key of the partition.
    pub fn ask(&mut self, name: &str, key: &str, words: &[&str]) -> Value {
        let mut command = cmd(name);
        command.arg(self.connection.key(key)).arg(words);
        self.connection.command(&command).expect("an answer")
    }
}
