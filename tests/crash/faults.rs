//! A disk whose fdatasync fails, or hangs for half a minute: strace stands between the sequencer and the kernel.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

use crate::client::Client;
use crate::ledger::{Ledger, Sold};
use crate::support::http::{Answer, Connection, Request};
use crate::support::sale::{batch_for, claim, flash_sale, limited, outcomes, word};
use crate::support::{Server, Site, Tool, eventually, within};

/// Lets strace do `what` to the sequencer's fdatasync, and only to it.
fn inject(server: &Server, what: &str) -> Tool {
    let mut command = Command::new("strace");
    command.args(["-q", "-p", &server.thread("sequencer").to_string(), "-e", "trace=fdatasync", "-o", "/dev/null"]);
    command.args(["-e", &format!("inject=fdatasync:{what}")]).stdin(Stdio::null());
    let mut tool = Tool::start(&mut command);
    let traced = || {
        let status = format!("/proc/{}/task/{}/status", server.pid(), server.thread("sequencer"));
        let text = std::fs::read_to_string(status).unwrap_or_default();
        text.lines().any(|l| l.strip_prefix("TracerPid:").is_some_and(|n| n.trim() != "0"))
    };
    let ended = |tool: &mut Tool| tool.0.try_wait().expect("a child");
    within(Duration::from_secs(10), "strace is attached (it needs root, or the right to trace)", || {
        assert!(ended(&mut tool).is_none(), "strace ended: it needs root, or the right to trace other processes");
        traced().then_some(())
    });
    tool
}

fn sold(id: &str, stock: i64) -> Sold {
    Sold { id: id.to_owned(), stock, total: None }
}

/// One failed sync: unknown for its batch, not durable for all that come later, until a restart has read what is there.
pub fn failing_sync() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("eio", 1_000_000));
    server.create(&limited("eio-keyed", 1_000_000, 2));
    let path = site.folder.path().join("ledger");
    let mut client = Client::start_claiming(&site, &path, 8, Duration::from_millis(1));
    client.sell("eio", "one");
    client.sell("eio-keyed", "keyed");
    eventually("claims are acknowledged", || Ledger::read(&path).acks() > 200);
    let strace = inject(&server, "error=EIO:when=40");
    eventually("the journal is fenced", || server.metric("forebay_fenced") == Some(1.0));
    let ready = server.ask_admin(&Request::get("/readyz"));
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert!(ready.text().contains("not-durable"), "{}", ready.text());
    assert_eq!(server.ask_admin(&Request::get("/livez")).status, 200);
    // Long enough for a second sync to succeed, if anybody tried one.
    for no in 0..50 {
        let refused = server.call(&claim("eio", &format!("late-{no}")));
        refused.expect(503, "not-durable");
        assert!(refused.header("retry-after").is_some());
        std::thread::sleep(Duration::from_millis(10));
    }
    let paused = server.change("eio", &serde_json::json!({"state": "paused"}));
    assert_eq!(paused.status, 503, "an operator's wish is not durable either: {}", paused.text());
    let unknown = Ledger::read(&path).unknown;
    assert!(!unknown.is_empty(), "nobody was told that the outcome is unknown");
    let id = unknown[0].clone();
    let read = server.call(&Request::get(&format!("/v1/claims/{id}")));
    assert_eq!((read.status, read.field("status")), (200, "unknown".to_owned()), "{}", read.text());
    strace.stop();
    server.kill();
    let server = site.start();
    let more = Ledger::read(&path).acks() + 100;
    eventually("claims are acknowledged again", || Ledger::read(&path).acks() > more);
    for id in &unknown {
        let read = server.call(&Request::get(&format!("/v1/claims/{id}?wait=20")));
        assert!(read.status == 404 || read.field("status") == "persisted", "it has not resolved: {}", read.text());
    }
    client.stop();
    let ledger = Ledger::read(&path);
    assert!(ledger.refused.get("not-durable").is_some_and(|&n| n > 0), "{:?}", ledger.refused);
    ledger.settle(&site, server, &[sold("eio", 1_000_000), sold("eio-keyed", 1_000_000)]);
}

/// The deadline of this scenario's answers, and how much later they may come on a busy machine.
const DEADLINE: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_secs(4);

/// Batches that wait for the sync, most of what the queue takes; single claims alone don't fill it in time on a busy machine. Gives
/// how many of their claims are told to be unknown.
fn pile_up(server: &Server) -> usize {
    let send = |no: usize| {
        let start = Instant::now();
        let answer = server.call(&batch_for("hang", &format!("pile-{no}-"), 1_000));
        let took = start.elapsed();
        assert!(took < DEADLINE + SLACK, "a batch took {took:?}");
        outcomes(&answer).iter().filter(|o| word(o) == "outcome-unknown").count()
    };
    std::thread::scope(|scope| {
        let sent: Vec<_> = (0..48).map(|no| scope.spawn(move || send(no))).collect();
        sent.into_iter().map(|s| s.join().expect("no panic")).sum()
    })
}

/// Many claims at once over a few connections, until one is told `overloaded`; every answer keeps the deadline.
async fn flood(server: &Server, end: Instant) -> (usize, usize) {
    let (mut unknown, mut overloaded) = (0, 0);
    for wave in 0.. {
        if Instant::now() > end || overloaded > 0 {
            break;
        }
        let lanes: Vec<_> = (0..16).map(|lane| tokio::spawn(wave_of_claims(server.public, wave * 16 + lane))).collect();
        for lane in lanes {
            for slug in lane.await.expect("no panic") {
                match slug.as_str() {
                    "outcome-unknown" => unknown += 1,
                    "overloaded" => overloaded += 1,
                    // Those that were decided before the sync hung, or after it.
                    "accepted" => {}
                    other => panic!("an answer of a node whose sync hangs: {other}"),
                }
            }
        }
    }
    (unknown, overloaded)
}

async fn wave_of_claims(addr: std::net::SocketAddr, lane: usize) -> Vec<String> {
    let stream = tokio::net::TcpStream::connect(addr).await.expect("the server listens");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let driving = tokio::spawn(connection);
    let calls: Vec<_> = (0..256)
        .map(|no| {
            let mut sender = sender.clone();
            let body = Full::new(Bytes::from(format!("{{\"user\":\"flood-{lane}-{no}\"}}")));
            let request = hyper::Request::post(format!("http://{addr}/v1/campaigns/hang/claims"));
            let request = request.header("content-type", "application/json").body(body).expect("a request");
            tokio::spawn(async move {
                sender.ready().await.expect("room for a stream");
                let start = Instant::now();
                let answer = sender.send_request(request).await.expect("an answer");
                let took = start.elapsed();
                assert!(took < DEADLINE + SLACK, "an answer took {took:?}");
                let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
                let body: Value = serde_json::from_slice(&body).expect("JSON");
                let slug = body["type"].as_str().and_then(|t| t.rsplit(':').next()).unwrap_or("accepted");
                slug.to_owned()
            })
        })
        .collect();
    let mut slugs = Vec::new();
    for call in calls {
        slugs.push(call.await.expect("no panic"));
    }
    driving.abort();
    slugs
}

/// A sync that hangs for half a minute: answers keep their deadline, the queue fills up and says so, and in the end
/// everything resolves.
pub fn hanging_sync() {
    let site = Site::new().text("ingest.ack_deadline", "1s");
    let server = site.start();
    server.create(&flash_sale("hang", 1_000_000));
    (0..50).for_each(|no| drop(server.claimed("hang", &format!("before-{no}"))));
    let strace = inject(&server, "delay_enter=30000000:when=5");
    let mut connection = Connection::open(server.public).expect("the server listens");
    let mut told: Option<(String, Answer)> = None;
    for no in 0..1_000 {
        let user = format!("probe-{no}");
        let start = Instant::now();
        let answer = connection.call(&claim("hang", &user)).expect("an answer");
        let took = start.elapsed();
        assert!(took < DEADLINE + SLACK, "an answer took {took:?}");
        if answer.status == 503 {
            assert!(took >= DEADLINE, "it gave up after {took:?}");
            told = Some((user, answer));
            break;
        }
    }
    let hung = Instant::now();
    let (user, answer) = told.expect("the sync hangs");
    let id = answer.expect(503, "outcome-unknown").field("claim_id");
    let read = server.call(&Request::get(&format!("/v1/claims/{id}")));
    assert_eq!((read.status, read.field("status")), (200, "unknown".to_owned()), "{}", read.text());
    assert_eq!(server.ask_admin(&Request::get("/livez")).status, 200);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let piled = pile_up(&server);
    let (unknown, overloaded) = runtime.block_on(flood(&server, hung + Duration::from_secs(26)));
    println!("hanging sync: {piled} unknown by batches and {unknown} alone, {overloaded} overloaded");
    let unknown = unknown + piled;
    assert!(unknown > 1_000 && overloaded > 0, "{unknown} unknown, {overloaded} overloaded: the queue was never full");
    let resolved = within(Duration::from_secs(60), "the claim resolves", || {
        let read = server.call(&Request::get(&format!("/v1/claims/{id}?wait=30")));
        (read.field("status") != "unknown").then_some(read)
    });
    assert_eq!(resolved.field("status"), "persisted", "{}", resolved.text());
    strace.stop();
    // What piled up behind the hanging sync is more than may be under way, so that claims are refused until it is decided.
    eventually("nothing is refused any more", || server.metric("forebay_overloaded") == Some(0.0));
    let again = server.call(&claim("hang", &user));
    assert_eq!(again.expect(409, "already-claimed").field("claim_id"), id);
    server.claimed("hang", "after");
    server.drained("hang");
    assert_eq!(server.metric("forebay_fenced"), Some(0.0), "a slow disk is not a failed one");
    let rows = site.number("SELECT count(*) FROM claims");
    let distinct = site.number("SELECT count(DISTINCT user_id) FROM claims");
    assert!(rows == distinct && rows > unknown as i64, "{rows} rows of {distinct} buyers, {unknown} unknown");
    assert!(server.stop().success());
    assert!(site.run(["audit"]).status.success());
}
