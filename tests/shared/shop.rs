//! A Redis that keeps what it has, a SQLite database, workers between the two, and somebody who claims.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::metrics::Metrics;
use forebay::queue::book::create_digest;
use forebay::queue::carts::CartBase;
use forebay::queue::redis::client::{CallError, Connection, Server};
use forebay::queue::redis::protocol;
use forebay::queue::{AdminAction, AdminCommand, CartCommand, CartOutcome, ClaimCommand, HashKey};
use forebay::sale::red_packet::Seed;
use forebay::sale::{Asked, CampaignNo, CampaignSpec, CartOp, ClaimId, Durability, Seq, Sku, Timestamp, UserId};
use forebay::store::sqlite::SqliteStore;
use forebay::store::{Database, Mode, SharedSecrets};
use forebay::workers::shared::{Phase, SharedWorker, WorkerHandle, WorkerSettings};
use redis::Value;
use tempfile::TempDir;

pub const KEY: HashKey = HashKey([9; 16]);

pub struct Shop {
    redis: Option<Child>,
    folder: TempDir,
    pub server: Server,
    pub metrics: Arc<Metrics>,
    pub lease: Duration,
    pub batch_max: usize,
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.end_redis();
    }
}

/// Waits for something, far longer than it takes on an idle machine, and says what, where it does not come.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(180), "waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Shop {
    /// With a Redis, but for the worker and the database.
    pub fn new() -> Self {
        let mut shop = Self::without_redis();
        shop.start_redis();
        shop
    }

    pub fn without_redis() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let server = Server::new(&url_in(&folder), "0", Duration::from_secs(1)).expect("a URL");
        let (metrics, lease) = (Arc::new(Metrics::default()), Duration::from_millis(900));
        Self { redis: None, folder, server, metrics, lease, batch_max: 100 }
    }

    /// Where Redis is.
    pub fn url(&self) -> String {
        url_in(&self.folder)
    }

    /// Bytes of Redis' append-only file, as it is made up of several.
    pub fn written_down(&self) -> u64 {
        let parts = std::fs::read_dir(self.folder.path().join("appendonlydir")).expect("an append-only file");
        parts.map(|part| part.expect("a part").metadata().expect("its size").len()).sum()
    }

    pub fn start_redis(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket"])
            .arg(self.folder.path().join("redis.sock"))
            .args(["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no", "--dir"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .spawn();
        self.redis = Some(child.expect("redis-server, which ./test installs"));
        wait_for("Redis", || self.server.connect().is_ok_and(|mut c| c.command(&redis::cmd("PING")).is_ok()));
    }

    pub fn end_redis(&mut self) {
        if let Some(mut child) = self.redis.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("forebay.db")
    }

    pub fn store(&self, mode: Mode) -> Arc<Database> {
        let url = format!("sqlite:{}", self.database().display());
        Arc::new(Database::Sqlite(Box::new(SqliteStore::open(&url, mode).expect("a URL"))))
    }

    pub fn settings(&self) -> WorkerSettings {
        WorkerSettings {
            batch_max: self.batch_max,
            lease: self.lease,
            durability: Durability::Disk,
            secrets: SharedSecrets { hash_key: KEY.0, receipt_keys: vec![1], identity: 7 },
            metrics: self.metrics.clone(),
        }
    }

    pub fn worker(&self) -> WorkerHandle {
        self.worker_of(self.store(Mode::ReadWrite))
    }

    pub fn worker_of(&self, store: Arc<Database>) -> WorkerHandle {
        SharedWorker::spawn(self.server.clone(), store, self.settings(), ()).expect("a worker")
    }

    /// One that reaches Redis otherwise.
    pub fn worker_at(&self, server: Server) -> WorkerHandle {
        SharedWorker::spawn(server, self.store(Mode::ReadWrite), self.settings(), ()).expect("a worker")
    }

    /// Sends Redis a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let redis = self.redis.as_ref().expect("it runs");
        rustix::process::kill_process(rustix::process::Pid::from_child(redis), signal).expect("a signal");
    }

    /// Runs SQL and gives the rows.
    pub fn sql(&self, text: &str) -> Vec<String> {
        sql(&self.database(), text)
    }

    pub fn number(&self, text: &str) -> u64 {
        self.sql(text)[0].parse().expect("a number")
    }

    /// Waits until so many claims are rows.
    pub fn wait_rows(&self, count: u64) {
        wait_for(&format!("{count} rows"), || self.number("SELECT count(*) FROM claims") == count);
    }

    /// Waits until Redis has told that it has nothing that the database has not.
    pub fn wait_retired(&self) {
        wait_for("everything to be retired", || {
            let status = self.status();
            status.seq == status.retired && status.entries == 0
        });
    }

    pub fn status(&self) -> protocol::Status {
        let mut connection = self.server.connect().expect("Redis");
        protocol::status(&connection.call("status", &[b""]).expect("an answer")).expect("a status")
    }

    /// Somebody who claims, once the partition is open.
    pub fn buyer(&self) -> Buyer {
        wait_for("the partition to be open", || self.status().is_open);
        let mut connection = self.server.connect().expect("Redis");
        let epoch = self.status().epoch.to_string();
        connection.call("hello", &[epoch.as_bytes(), b"g.0", b"s", b""]).expect("a lane");
        Buyer { connection, epoch }
    }
}

fn url_in(folder: &TempDir) -> String {
    format!("unix://{}", folder.path().join("redis.sock").display())
}

/// Runs SQL in a shell of its own.
pub fn sql(database: &Path, text: &str) -> Vec<String> {
    let output = Command::new("sqlite3")
        .args(["-batch", "-bail", "-cmd", ".timeout 20000"])
        .arg(database)
        .arg(text)
        .output()
        .expect("sqlite3");
    assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

pub fn is_active(worker: &WorkerHandle) -> bool {
    matches!(worker.state().phase(), Phase::Active { .. })
}

pub struct Buyer {
    connection: Connection,
    epoch: String,
}

impl Buyer {
    /// Calls `submit`; the last entry's position.
    pub fn submit(&mut self, commands: &[Vec<u8>]) -> Result<Seq, CallError> {
        let mut args: Vec<&[u8]> = vec![self.epoch.as_bytes(), b"g.0", b"s", b"", b"10000000"];
        args.extend(commands.iter().map(Vec::as_slice));
        let answer = self.connection.call("submit", &args)?;
        let said = protocol::submitted(&answer, &[]).expect("an answer");
        Ok(Seq(said.first.0 + u64::from(said.count) - 1))
    }

    /// Makes the campaign "sale" with `more` in its definition.
    pub fn create(&mut self, more: &str) {
        let json = format!(
            r#"{{"id":"sale","kind":"flash_sale","opens_at":"2020-01-01T00:00:00Z","closes_at":"2099-01-01T00:00:00Z",
                "stock":1000000,"currency":"CNY","price":990{more}}}"#
        );
        let (spec, seed) = (CampaignSpec::parse(json.as_bytes()).expect("a sale"), Seed([1; 16]));
        let wish = AdminCommand { asked: Asked::default(), action: AdminAction::Create(spec.clone(), seed) };
        self.submit(&[protocol::create(&wish, &spec, seed, create_digest(&spec), "")]).expect("made");
    }

    /// Claims of these buyers, each in a call of its own or all in one.
    pub fn claim(&mut self, numbers: impl IntoIterator<Item = u64>) -> Result<Seq, CallError> {
        let all: Vec<_> = numbers.into_iter().map(|n| claim(&format!("u{n}"), n)).collect();
        let mut last = Seq(0);
        for some in all.chunks(200) {
            last = self.submit(some)?;
        }
        Ok(last)
    }

    /// Puts so many of a thing into a buyer's cart, which nobody has loaded yet.
    pub fn put(&mut self, user: &str, sku: &str, quantity: u32) {
        let (user, sku) = (UserId::parse(user).expect("a name"), Sku::parse(sku).expect("a thing"));
        let (op, base) = (CartOp::Set(quantity), CartBase::Unknown);
        let command = CartCommand { user, user_hash: KEY.user(&user), sku, op, key: None, base };
        let mut loaded = None;
        loop {
            let epoch = self.epoch.clone();
            let args = [epoch.as_bytes(), b"g.0", b"s", b"", b"1000", &protocol::cart(&command, loaded.as_ref())];
            let answer = self.connection.call("submit", &args).expect("an answer");
            let said = protocol::submitted(&answer, &[]).expect("an answer");
            let Value::BulkString(word) = &said.answers[0] else { panic!("{said:?}") };
            match protocol::cart_outcome(word).expect("an outcome") {
                CartOutcome::Load(number) => {
                    loaded = Some(protocol::LoadedCart { number, version: Seq(0), lines: Vec::new() });
                }
                CartOutcome::Done(_) => return,
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn claim_as(&mut self, user: &str) -> Result<Seq, CallError> {
        self.submit(&[claim(user, 1_000_000_000)])
    }
}

fn claim(user: &str, n: u64) -> Vec<u8> {
    let user = UserId::parse(user).expect("a name");
    let user_hash = KEY.user(&user);
    let claim_id = ClaimId::new(Timestamp(1_763_640_000_000_000), user_hash, n);
    let (campaign, quantity, receipt_key, key) = (CampaignNo(0), 1, 1, None);
    let command = ClaimCommand { campaign, quantity, receipt_key, user, user_hash, claim_id, key };
    protocol::claim(&command, Durability::Disk, &[])
}
