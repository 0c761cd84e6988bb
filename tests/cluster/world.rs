//! A whole system of processes: a Redis, a PostgreSQL server, gates and workers, with proxies before some of them.
//!
//! Gates and workers whose number is the last of their kind reach Redis directly, the others each through a proxy of its own,
//! so that one can be cut off from it while another is not. All of them reach the database through one proxy.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::orders::{Row, Rows};
use crate::redis::{PASSWORD, Redis};
use crate::support::http::{self, Answer, Request};
use crate::support::postgres::Postgres;
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, Server, Site, tail, within};

/// Front ends.
pub const GATES: usize = 3;

/// Drains, of which one works and one stands by.
pub const WORKERS: usize = 2;

/// All front ends.
pub const ALL: [usize; GATES] = [0, 1, 2];

/// The database.
pub const SHOP: &str = "shop";

/// Where the partition's keys are.
const META: &str = "forebay:{0}:meta";
const LIST: &str = "forebay:{0}:list";

/// A gate or a worker, over its restarts.
pub struct Node {
    /// `gate-0` and so on.
    pub name: String,
    /// Its folder, ports and configuration.
    pub site: Site,
    server: Option<Server>,
    /// How long its log was when it was started last.
    logged: usize,
}

impl Node {
    fn new(role: &str, no: usize, redis: u16, store: &str) -> Self {
        let site = Site::new()
            .role(role)
            .text("buffer.kind", "redis")
            .text("redis.url", &format!("redis://forebay:{PASSWORD}@127.0.0.1:{redis}"))
            .text("redis.timeout", "1s")
            .text("redis.lease", "2s")
            .text("cache.redis_ttl", "3s")
            .text("ingest.ack_deadline", "2s")
            .text("store.url", store);
        Self { name: format!("{role}-{no}"), site, server: None, logged: 0 }
    }

    /// Starts it; `environment` is for this run only.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        assert!(self.server.is_none(), "{} runs already", self.name);
        self.logged = self.log().len();
        self.server = Some(self.site.spawn(environment));
    }

    /// Starts it.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.running();
        self.server.take().expect("it runs").kill();
    }

    /// SIGTERM; it must end well.
    pub fn stop(&mut self) {
        self.running();
        let status = self.server.take().expect("it runs").stop();
        assert!(status.success(), "{} ended with {status} on SIGTERM:\n{}", self.name, tail(&self.site.log(), 40));
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.running();
        self.server.as_ref().expect("it runs").signal(signal);
    }

    /// It has ended by itself, as it was meant to.
    pub fn gone(&mut self) {
        assert!(!self.runs(), "{} runs", self.name);
        self.server = None;
    }

    /// The gate's own id, as operators write it.
    pub fn id(&self) -> String {
        let text = std::fs::read_to_string(self.site.data().join("shared")).expect("it knows who it is");
        let id = text.lines().find_map(|line| line.strip_prefix("gate "));
        id.unwrap_or_else(|| panic!("{} does not say who it is: {text}", self.name)).to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.site.log()).unwrap_or_default()
    }

    /// Whether it runs, and has said last that it has the partition and works.
    fn is_active(&self) -> bool {
        let log = self.log();
        let last = log[self.logged..].lines().rev().find(|line| line.contains("the worker is "));
        self.server.is_some() && last.is_some_and(|line| line.contains("the worker is active"))
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| server.ended().is_none())
    }

    /// It must run: nothing that others do ends it.
    fn running(&mut self) {
        let ended = self.server.as_mut().map(|server| server.ended());
        assert_eq!(ended, Some(None), "{} has ended:\n{}", self.name, tail(&self.site.log(), 40));
    }

    /// One request to its admin listener.
    pub fn admin(&self, request: &Request) -> std::io::Result<Answer> {
        http::once(self.site.admin, request, Duration::from_secs(5))
    }

    /// What it says of itself; empty where it doesn't answer.
    pub fn readiness(&self) -> (u16, String) {
        self.admin(&Request::get("/readyz")).map_or((0, String::new()), |answer| (answer.status, answer.text()))
    }
}

/// The system.
pub struct World {
    /// Its Redis.
    pub redis: Redis,
    /// Its database server.
    pub postgres: Postgres,
    /// Between all processes and the database.
    pub store_proxy: Proxy,
    /// Between Redis and the first gates, by their numbers.
    pub gate_proxies: Vec<Proxy>,
    /// Between Redis and the first workers, by their numbers.
    pub worker_proxies: Vec<Proxy>,
    /// Front ends.
    pub gates: Vec<Node>,
    /// Drains.
    pub workers: Vec<Node>,
}

impl World {
    /// A new one that serves.
    pub fn start() -> Self {
        let postgres = Postgres::start(&["max_connections=60", "deadlock_timeout=200ms", "autovacuum=off"]);
        postgres.sql("postgres", &format!("CREATE DATABASE {SHOP}"));
        let store_proxy = Proxy::before(postgres.port);
        let store = postgres.url_at(store_proxy.port, SHOP);
        let redis = Redis::start();
        let proxies = |count: usize| (1..count).map(|_| Proxy::before_redis(redis.port)).collect::<Vec<_>>();
        let (gate_proxies, worker_proxies) = (proxies(GATES), proxies(WORKERS));
        let nodes = |role: &str, count: usize, proxies: &[Proxy]| {
            let port = |no: usize| proxies.get(no).map_or(redis.port, |proxy| proxy.port);
            (0..count).map(|no| Node::new(role, no, port(no), &store)).collect::<Vec<_>>()
        };
        let gates = nodes("gate", GATES, &gate_proxies);
        let workers = nodes("worker", WORKERS, &worker_proxies);
        let mut world = Self { redis, postgres, store_proxy, gate_proxies, worker_proxies, gates, workers };
        world.workers.iter_mut().chain(&mut world.gates).for_each(Node::start);
        world.ready(&ALL);
        world
    }

    /// Waits until these gates are ready.
    pub fn ready(&mut self, gates: &[usize]) {
        for gate in gates {
            self.gates[*gate].running();
            within(PATIENCE, &format!("gate {gate} is ready"), || {
                let (status, text) = self.gates[*gate].readiness();
                self.gates[*gate].running();
                if status != 200 {
                    std::thread::sleep(Duration::from_millis(20));
                    return text.is_empty().then_some(()).and(None);
                }
                Some(())
            });
        }
    }

    /// Public listeners of all gates.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        self.gates.iter().map(|gate| gate.site.public).collect()
    }

    /// Creates a campaign through the gate `gate`, and waits until every gate sells it.
    pub fn create(&self, gate: usize, definition: &Value) {
        let answer = self.gates[gate].admin(&Request::post("/admin/v1/campaigns", definition)).expect("an answer");
        assert_eq!(answer.status, 201, "{definition}: {}", answer.text());
        let path = format!("/v1/campaigns/{}", definition["id"].as_str().expect("an id"));
        for gate in &self.gates {
            within(PATIENCE, &format!("{} knows {path}", gate.name), || {
                let answer = http::once(gate.site.public, &Request::get(&path), Duration::from_secs(5)).ok()?;
                (answer.status == 200).then_some(())
            });
        }
    }

    /// Changes a campaign through the gate `gate`.
    pub fn change(&self, gate: usize, id: &str, change: &Value) {
        let request = Request::patch(&format!("/admin/v1/campaigns/{id}"), change);
        let answer = self.gates[gate].admin(&request).expect("an answer");
        assert_eq!(answer.status, 200, "{change} of {id}: {}", answer.text());
    }

    /// Entries that wait in Redis.
    pub fn waiting(&self) -> Option<u64> {
        redis::from_redis_value(self.redis.ask(&["LLEN", LIST]).ok()?).ok()
    }

    /// A field of what Redis knows of the partition.
    pub fn meta(&self, field: &str) -> Option<String> {
        redis::from_redis_value::<Option<String>>(self.redis.ask(&["HGET", META, field]).ok()?).ok()?
    }

    /// The position up to which Redis has been told that everything is in the database.
    pub fn retired(&self) -> Option<u64> {
        self.meta("retired")?.parse().ok()
    }

    /// Waits until everything that was accepted by now is in the database; how long that took.
    pub fn drained(&self) -> Duration {
        let start = std::time::Instant::now();
        let last = within(PATIENCE, "Redis says how far it is", || self.meta("seq")?.parse::<u64>().ok());
        within(PATIENCE, "everything is drained", || (self.retired()? >= last).then_some(()));
        start.elapsed()
    }

    /// The worker that has the partition.
    pub fn active(&self) -> usize {
        within(PATIENCE, "a worker works", || self.try_active())
    }

    /// The same, where there is one.
    pub fn try_active(&self) -> Option<usize> {
        self.workers.iter().position(Node::is_active)
    }

    /// A campaign's balance by the gate `gate`.
    pub fn balance(&self, gate: usize, id: &str) -> Value {
        let path = format!("/admin/v1/campaigns/{id}/balance");
        let answer = self.gates[gate].admin(&Request::get(&path)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Runs SQL in the shop.
    pub fn sql(&self, text: &str) -> Vec<Vec<String>> {
        self.postgres.sql(SHOP, text)
    }

    /// Ends all sessions of the processes, which makes them take new ones.
    pub fn end_sessions(&self) {
        let text = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                    AND pid <> pg_backend_pid()";
        self.sql(text);
    }

    /// Everything in the database of campaigns and carts whose names begin with `tag`.
    pub fn rows(&self, tag: &str) -> Rows {
        let mut rows = Rows::default();
        let text = format!(
            "SELECT campaign, user_id, claim_id, seq, quantity, amount, status FROM claims WHERE campaign LIKE '{tag}-%'"
        );
        for row in self.sql(&text) {
            let [campaign, user, id, seq, quantity, amount, status] = &row[..] else { panic!("{row:?}") };
            let number = |text: &str| text.parse::<i64>().unwrap_or_else(|e| panic!("{text}: {e}"));
            let amount = (!amount.is_empty()).then(|| number(amount));
            let (id, status) = (id.clone(), status.clone());
            rows.push(campaign, user, Row { id, status, seq: number(seq), quantity: number(quantity), amount });
        }
        let text =
            format!("SELECT user_id, sum(quantity) FROM cart_items WHERE user_id LIKE '{tag}-%' GROUP BY user_id");
        let carts = self.sql(&text).into_iter();
        rows.carts = carts.map(|row| (row[0].clone(), row[1].parse().expect("a number"))).collect();
        rows
    }

    /// Seconds between the first and the last acceptance in campaigns whose names begin with `tag`.
    pub fn rows_accepted_between(&self, tag: &str) -> f64 {
        let text = format!(
            "SELECT extract(epoch FROM max(accepted_at) - min(accepted_at)) FROM claims WHERE campaign LIKE '{tag}-%'"
        );
        self.sql(&text)[0][0].parse().expect("a number")
    }

    /// All processes must run; they end well on SIGTERM.
    pub fn stop(mut self) {
        // All at once: each may wait for something of the others', never for their end.
        for node in self.gates.iter_mut().chain(&mut self.workers) {
            node.signal(Signal::TERM);
        }
        for node in self.gates.iter_mut().chain(&mut self.workers) {
            let mut server = node.server.take().expect("it runs");
            let status = server.wait(PATIENCE);
            assert!(status.success(), "{} ended with {status} on SIGTERM:\n{}", node.name, tail(&node.site.log(), 40));
        }
    }

    /// Every process runs, and none has panicked.
    pub fn is_sound(&mut self) {
        for node in self.gates.iter_mut().chain(&mut self.workers) {
            node.running();
            let log = node.log();
            let panicked = log.lines().find(|line| line.contains("panicked at"));
            assert_eq!(panicked, None, "{} panicked", node.name);
        }
    }

    /// Copies the logs of everything to `folder`.
    pub fn keep_logs(&self, folder: &std::path::Path) {
        let _ = std::fs::create_dir_all(folder);
        for node in self.gates.iter().chain(&self.workers) {
            let _ = std::fs::copy(node.site.log(), folder.join(format!("{}.log", node.name)));
        }
        let _ = std::fs::copy(self.redis.log(), folder.join("redis.log"));
        let _ = std::fs::write(folder.join("postgres.log"), self.postgres.log_text());
        let states: Vec<_> = self.gates.iter().chain(&self.workers).map(|n| json!([n.name, n.readiness()])).collect();
        let redis = self.redis.ask(&["HGETALL", META]);
        let _ = std::fs::write(folder.join("states"), format!("{:#}\n{redis:#?}\n", Value::Array(states)));
    }
}
