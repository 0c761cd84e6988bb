//! The client process: buyers that never stop, and a ledger of what they were told.
//!
//! A line is written before its request is sent and another when its answer is in, each with one write call, so that
//! the ledger is true whatever happens to anybody. The process outlives every server; it learns of campaigns from lines
//! on its standard input (name, tab, kind) and ends when that does.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::support::http::{Answer, Connection, Request};
use crate::support::{Site, Tool, within};

/// The variable that makes this binary the client: address, ledger, lanes, pause in microseconds, what it does, with tabs
/// between.
pub const ROLE: &str = "FOREBAY_CRASH_CLIENT";

/// How long an answer may take: longer than any deadline of the server's.
const PATIENCE: Duration = Duration::from_secs(20);

/// After how many refusals for want of room or durability a buyer leaves an end or a click as it is.
const REFUSALS: u32 = 5;

/// The client as its parent sees it.
pub struct Client {
    process: Tool,
}

impl Client {
    /// Starts `lanes` buyers that pause between two claims, end some of them, and fill carts beside.
    pub fn start(site: &Site, ledger: &Path, lanes: usize, pause: Duration) -> Self {
        Self::start_as(site, ledger, lanes, pause, "all")
    }

    /// Starts `lanes` buyers that only claim.
    pub fn start_claiming(site: &Site, ledger: &Path, lanes: usize, pause: Duration) -> Self {
        Self::start_as(site, ledger, lanes, pause, "claims")
    }

    fn start_as(site: &Site, ledger: &Path, lanes: usize, pause: Duration, what: &str) -> Self {
        let role = format!("{}\t{}\t{lanes}\t{}\t{what}", site.public, ledger.display(), pause.as_micros());
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.env(ROLE, role).stdin(Stdio::piped());
        Self { process: Tool::start(&mut command) }
    }

    /// Tells of a campaign.
    pub fn sell(&mut self, campaign: &str, kind: &str) {
        self.process.write(&format!("{campaign}\t{kind}\n"));
    }

    /// Ends its input and waits until its last answers are written down.
    pub fn stop(mut self) {
        drop(self.process.0.stdin.take());
        let ended = within(Duration::from_secs(60), "the client ends", || self.process.0.try_wait().expect("a child"));
        assert!(ended.success(), "the client process failed: {ended}");
    }
}

struct Shared {
    addr: SocketAddr,
    ledger: Mutex<File>,
    campaigns: Mutex<Vec<(String, String)>>,
    over: AtomicBool,
    pause: Duration,
    /// Whether it only claims.
    claims_only: bool,
}

impl Shared {
    fn note(&self, what: &str, buyer: &Buyer, rest: &str) {
        let line = format!("{what}\t{}\t{}\t{}\t{rest}\n", buyer.campaign, buyer.user, buyer.key);
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.write_all(line.as_bytes()).expect("the ledger can be written");
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

struct Buyer {
    campaign: String,
    user: String,
    /// Empty for none.
    key: String,
}

impl Buyer {
    fn request(&self) -> Request {
        let path = format!("/v1/campaigns/{}/claims", self.campaign);
        let request = Request::post(&path, &json!({ "user": self.user }));
        if self.key.is_empty() { request } else { request.key(&self.key) }
    }
}

/// The client process's main function.
pub fn main() {
    let role = std::env::var(ROLE).expect("its role");
    let mut parts = role.split('\t');
    let mut next = || parts.next().expect("five parts");
    let addr = next().parse().expect("an address");
    let ledger = OpenOptions::new().create(true).append(true).open(next()).expect("the ledger");
    let lanes: u64 = next().parse().expect("a number");
    let pause = Duration::from_micros(next().parse().expect("a number"));
    let claims_only = next() == "claims";
    let shared = Shared {
        claims_only,
        addr,
        ledger: Mutex::new(ledger),
        campaigns: Mutex::default(),
        over: AtomicBool::new(false),
        pause,
    };
    std::thread::scope(|scope| {
        let shared = &shared;
        let lanes: Vec<_> = (0..lanes).map(|no| scope.spawn(move || lane(shared, no))).collect();
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let (campaign, kind) = line.split_once('\t').expect("a name and a kind");
            let mut campaigns = shared.campaigns.lock().unwrap_or_else(PoisonError::into_inner);
            campaigns.push((campaign.to_owned(), kind.to_owned()));
        }
        shared.over.store(true, Ordering::Relaxed);
        lanes.into_iter().for_each(|l| l.join().expect("a buyer does not panic"));
    });
}

fn lane(shared: &Shared, lane: u64) {
    let mut random = StdRng::seed_from_u64(lane);
    let mut connection = None;
    for no in 0_u64.. {
        if shared.is_over() {
            return;
        }
        if no % 8 == 7 && !shared.claims_only {
            click(shared, &mut connection, lane, no);
            std::thread::sleep(shared.pause);
            continue;
        }
        let Some(buyer) = buyer(shared, lane, no, &mut random) else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        shared.note("intent", &buyer, "");
        let answer = persist(shared, &mut connection, &buyer, &mut random);
        if let Some(first) = answer.filter(|a| a.status == 202) {
            if random.random_ratio(1, 16) {
                ask_again(shared, &mut connection, &buyer, &first);
            }
            if !shared.claims_only && random.random_ratio(1, 8) {
                end(shared, &mut connection, &buyer, &first, if random.random_bool(0.5) { "settle" } else { "cancel" });
            }
        }
        std::thread::sleep(shared.pause);
    }
}

/// One of the oldest two campaigns, which last, or one of the newest, which sell out.
fn buyer(shared: &Shared, lane: u64, no: u64, random: &mut StdRng) -> Option<Buyer> {
    let campaigns = shared.campaigns.lock().unwrap_or_else(PoisonError::into_inner);
    let count = campaigns.len();
    let newest = count.saturating_sub(4);
    let at = if random.random_bool(0.5) { random.random_range(0..count.clamp(1, 2)) } else { newest + no as usize % 4 };
    let (campaign, kind) = campaigns.get(at.min(count.checked_sub(1)?))?.clone();
    let key = if kind == "keyed" { format!("key-{lane}-{no}") } else { String::new() };
    Some(Buyer { campaign, user: format!("u{lane}-{no}"), key })
}

/// Claims; after a lost answer half of the buyers give up, the others ask until they know.
fn persist(shared: &Shared, connection: &mut Option<Connection>, buyer: &Buyer, random: &mut StdRng) -> Option<Answer> {
    let gives_up = random.random_bool(0.5);
    loop {
        match attempt(shared, connection, buyer) {
            Ok(answer) => {
                let told = format!("{}\t{}\t{}", answer.status, answer.slug(), answer.field("claim_id"));
                match (answer.status, answer.slug().as_str()) {
                    (202, _) => shared.note("ack", buyer, &answer.text()),
                    (409, "already-claimed") => shared.note("told", buyer, &answer.field("claim_id")),
                    (503, "outcome-unknown") => {
                        shared.note("unknown", buyer, &answer.field("claim_id"));
                        if gives_up || shared.is_over() {
                            return None;
                        }
                        std::thread::sleep(Duration::from_millis(50));
                        continue;
                    }
                    (503 | 409, _) => shared.note("no", buyer, &told),
                    _ => shared.note("wrong", buyer, &format!("{told}\t{}", answer.text())),
                }
                if answer.status == 503 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return Some(answer);
            }
            Err(error) => {
                *connection = None;
                shared.note("lost", buyer, &error.to_string());
                if gives_up || shared.is_over() {
                    return None;
                }
            }
        }
    }
}

/// Brings the claim to an end, and asks until it is known that it has come to it.
fn end(shared: &Shared, connection: &mut Option<Connection>, buyer: &Buyer, first: &Answer, what: &str) {
    let id = first.field("claim_id");
    shared.note("ending", buyer, &format!("{id}\t{what}"));
    let request = Request::new("POST", &format!("/v1/claims/{id}/{what}"));
    let mut refusals = 0;
    while !shared.is_over() && refusals < REFUSALS {
        match call(shared, connection, &request) {
            Ok(answer) if answer.status == 200 => return shared.note("ended", buyer, &format!("{id}\t{what}")),
            Ok(answer) if answer.status == 503 => {
                refusals += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(answer) => return shared.note("wrong", buyer, &format!("{what} of {id}: {}", answer.text())),
            Err(error) => {
                *connection = None;
                shared.note("lost", buyer, &error.to_string());
            }
        }
    }
}

/// Puts one more thing into this lane's own cart, under a key, and asks until it is known to be there.
fn click(shared: &Shared, connection: &mut Option<Connection>, lane: u64, no: u64) {
    let buyer = Buyer { campaign: "cart".into(), user: format!("cart-{lane}"), key: format!("click-{no}") };
    let body = json!({ "sku": format!("s{}", no % 5), "op": "add", "quantity": 1 + no % 3 });
    let request = Request::post(&format!("/v1/carts/{}/items", buyer.user), &body).key(&buyer.key);
    shared.note("click", &buyer, &(1 + no % 3).to_string());
    let mut refusals = 0;
    while !shared.is_over() && refusals < REFUSALS {
        match call(shared, connection, &request) {
            Ok(answer) if answer.status == 202 => return shared.note("clicked", &buyer, &(1 + no % 3).to_string()),
            Ok(answer) if answer.status == 503 => {
                refusals += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(answer) => return shared.note("wrong", &buyer, &format!("a click: {}", answer.text())),
            Err(error) => {
                *connection = None;
                shared.note("lost", &buyer, &error.to_string());
            }
        }
    }
}

fn attempt(shared: &Shared, connection: &mut Option<Connection>, buyer: &Buyer) -> std::io::Result<Answer> {
    call(shared, connection, &buyer.request())
}

fn call(shared: &Shared, connection: &mut Option<Connection>, request: &Request) -> std::io::Result<Answer> {
    while connection.is_none() {
        match Connection::open(shared.addr) {
            Ok(open) => {
                open.patience(PATIENCE)?;
                *connection = Some(open);
            }
            Err(error) if shared.is_over() => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    let answer = connection.as_mut().expect("it was opened").call(request)?;
    if answer.header("connection") == Some("close") {
        *connection = None;
    }
    Ok(answer)
}

/// A retry must be told the same: with a key byte for byte, without one by name.
fn ask_again(shared: &Shared, connection: &mut Option<Connection>, buyer: &Buyer, first: &Answer) {
    match attempt(shared, connection, buyer) {
        Ok(again) => {
            let keyed = again.status == 202 && again.body == first.body && !buyer.key.is_empty();
            let named = again.slug() == "already-claimed" && again.field("claim_id") == first.field("claim_id");
            if !(keyed || named && buyer.key.is_empty() || again.status == 503) {
                shared.note("wrong", buyer, &format!("first {} then {}", first.text(), again.text()));
            }
        }
        Err(error) => {
            *connection = None;
            shared.note("lost", buyer, &error.to_string());
        }
    }
}
