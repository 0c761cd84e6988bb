//! Floods of frames that each cost their sender little (CVE-2023-44487, CVE-2024-27316, CVE-2025-8671 and their kin): the
//! connection ends, or its frames come to nothing; the server stays as large as it was and goes on selling meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::h2::{
    self, CONTINUATION, DATA, END_STREAM, HEADERS, Outcome, PING, PRIORITY, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    block, fields, frame, get, headers,
};
use crate::support::http::{Connection, Request};
use crate::support::sale::{claim, flash_sale, limited};
use crate::support::{Server, Site};
use crate::{among_others, is_well, memory, mib};

/// Frames of one flood: enough for every bound to be met many times over. `FOREBAY_HOSTILE_FRAMES` makes it more.
fn frames() -> u32 {
    match std::env::var("FOREBAY_HOSTILE_FRAMES") {
        Ok(text) => {
            text.parse().unwrap_or_else(|_| panic!("FOREBAY_HOSTILE_FRAMES: {text:?} given; expected a number"))
        }
        Err(_) => 20_000,
    }
}

/// How long a flood may take, or its sender be blocked, with a busy machine in mind.
const PATIENCE: Duration = Duration::from_secs(20);

/// What must become of the connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// The server ends it, long before all was sent.
    Ends,
    /// It may live: what is sent comes to nothing.
    Lives,
}

/// A flood: its name, what comes first, the frames for number n, what must become of it.
type Flood = (&'static str, Vec<u8>, fn(u32) -> Vec<u8>, Fate);

/// The stream of number `no`.
fn stream(no: u32) -> u32 {
    2 * no + 1
}

fn open(stream: u32) -> Vec<u8> {
    let post = fields("POST", "/v1/campaigns/flood/claims", &[("content-type", "application/json")]);
    headers(stream, 0, &block(post))
}

fn floods() -> Vec<Flood> {
    vec![
        (
            "rapid reset",
            Vec::new(),
            |no| {
                let ask = headers(stream(no), END_STREAM, &block(get("/v1/campaigns")));
                [ask, frame(RST_STREAM, 0, stream(no), &[0, 0, 0, 8])].concat()
            },
            Fate::Ends,
        ),
        (
            "resets provoked by windows wider by nothing",
            Vec::new(),
            |no| [open(stream(no)), frame(WINDOW_UPDATE, 0, stream(no), &[0; 4])].concat(),
            Fate::Ends,
        ),
        (
            "resets provoked by windows too wide",
            Vec::new(),
            |no| [open(stream(no)), frame(WINDOW_UPDATE, 0, stream(no), &[0x7f, 0xff, 0xff, 0xff])].concat(),
            Fate::Ends,
        ),
        (
            "resets provoked by data behind the end",
            Vec::new(),
            |no| {
                let ask = headers(stream(no), END_STREAM, &block(get("/v1/campaigns")));
                [ask, frame(DATA, 0, stream(no), b"x")].concat()
            },
            Fate::Ends,
        ),
        (
            "resets provoked by lengths that are wrong",
            Vec::new(),
            |no| {
                let lines = [("content-type", "application/json"), ("content-length", "5")];
                let post = fields("POST", "/v1/campaigns/flood/claims", &lines);
                [headers(stream(no), 0, &block(post)), frame(DATA, END_STREAM, stream(no), b"too long")].concat()
            },
            Fate::Ends,
        ),
        (
            "requests without a method",
            Vec::new(),
            |no| headers(stream(no), END_STREAM, &block([(":scheme", "http"), (":path", "/")])),
            Fate::Ends,
        ),
        ("continuations without end", frame(HEADERS, 0, 1, &[0x82]), |_| frame(CONTINUATION, 0, 1, b""), Fate::Ends),
        (
            "continuations of cookies",
            frame(HEADERS, 0, 1, &block(get("/"))),
            |_| frame(CONTINUATION, 0, 1, &block([("cookie", "c".repeat(100))])),
            Fate::Ends,
        ),
        ("data of nothing", open(1), |_| frame(DATA, 0, 1, b""), Fate::Ends),
        ("data of one byte", open(1), |_| frame(DATA, 0, 1, b" "), Fate::Ends),
        ("data that is all padding", open(1), |_| frame(DATA, h2::PADDED, 1, &[0; 1]), Fate::Ends),
        ("settings", Vec::new(), |no| h2::settings_frame(&[(4, 65_535 + no % 7)]), Fate::Lives),
        ("settings of nothing", Vec::new(), |_| frame(SETTINGS, 0, 0, b""), Fate::Lives),
        ("pings", Vec::new(), |no| frame(PING, 0, 0, &u64::from(no).to_be_bytes()), Fate::Lives),
        ("priorities", Vec::new(), |no| frame(PRIORITY, 0, stream(no), &[0, 0, 0, 0, 7]), Fate::Lives),
        ("window updates", Vec::new(), |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), Fate::Lives),
        ("strange frames", Vec::new(), |no| frame(200, 0, stream(no), b"whatever"), Fate::Lives),
        ("more streams than are allowed", Vec::new(), |no| open(stream(no)), Fate::Lives),
        ("refused requests", Vec::new(), |no| headers(stream(no), END_STREAM, &block(get("/nowhere"))), Fate::Lives),
    ]
}

/// Sends a flood without reading what comes until it is sent or the server takes no more; gives the frames sent.
fn send(peer: &mut Peer, flood: &Flood) -> usize {
    let (_, first, next, _) = flood;
    if peer.send(first).is_err() {
        return 0;
    }
    let start = Instant::now();
    for no in (0..frames()).step_by(500) {
        let bytes: Vec<u8> = (no..no + 500).flat_map(next).collect();
        if peer.send(&bytes).is_err() || start.elapsed() > PATIENCE {
            return no as usize;
        }
    }
    frames() as usize
}

/// Sells to good buyers until `over`; gives how many, and how long the slowest waited.
fn sell(server: &Server, prefix: &str, over: &AtomicBool) -> (usize, Duration) {
    let mut connection = Connection::open(server.public).expect("the server listens");
    let (mut sold, mut slowest) = (0, Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answer = connection.call(&claim("flood", &format!("{prefix}-{sold}"))).expect("good buyers are answered");
        assert_eq!(answer.status, 202, "{}", answer.text());
        sold += 1;
        slowest = slowest.max(start.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    (sold, slowest)
}

#[test]
fn floods_of_frames_end_or_come_to_nothing_and_the_sale_goes_on() {
    let _others = among_others();
    // One thread, so that good buyers and the flood share it.
    let site = Site::new().set("ingest.threads", 1);
    let server = site.start();
    server.create(&flash_sale("flood", 1_000_000));
    let mut wrong = Vec::new();
    for (no, flood) in floods().iter().enumerate() {
        let (name, fate) = (flood.0, flood.3);
        let before = memory(server.pid());
        let over = AtomicBool::new(false);
        let (sent, outcome, (sold, slowest)) = std::thread::scope(|scope| {
            let selling = scope.spawn(|| sell(&server, &format!("f{no}"), &over));
            let mut peer = Peer::greet(server.public, &[]).expect("the server listens");
            let sent = send(&mut peer, flood);
            // Whatever it said is there by now, or its end is.
            let outcome = peer.outcome(u32::MAX >> 1, Duration::from_millis(300));
            over.store(true, Ordering::Relaxed);
            (sent, outcome, selling.join().expect("good buyers are served"))
        });
        let ended = matches!(outcome, Outcome::End(_) | Outcome::Closed);
        let grown = mib(before, memory(server.pid()));
        println!(
            "flood of {name}: {sent} frames sent, {outcome:?}, {grown:+.1} MiB; beside it {sold} sold, the slowest in \
             {slowest:.0?}"
        );
        if fate == Fate::Ends && !ended {
            wrong.push(format!("{name}: still there after {sent} frames: {outcome:?}"));
        }
        if slowest > Duration::from_secs(2) {
            wrong.push(format!("{name}: a good buyer waited {slowest:.1?}"));
        }
        is_well(&server, "flood", &format!("well-{no}"), before, 48.0);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Connections whose readers take nothing, of each kind, and streams of each.
const DEAF: usize = 4;
const STREAMS: u32 = 250;

/// The kinds, by the window that they give a stream: none, one byte, as many as fit but no more for the connection than one
/// answer and a half, and enough for all while nobody reads the socket.
const WINDOWS: [u32; 4] = [0, 1, 65_535, 1 << 30];

#[test]
fn answers_that_nobody_takes_are_given_up_however_their_reader_holds_them_back() {
    let _others = among_others();
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("flood", 1_000));
    server.create(&limited("list", 1_000, 100));
    for no in 0..100 {
        let one = claim("list", "collector").key(&format!("k{no}"));
        assert_eq!(server.call(&one).status, 202);
    }
    let page = server.call(&Request::get("/v1/users/collector/claims?limit=100"));
    assert_eq!(page.json()["claims"].as_array().map(Vec::len), Some(100), "{}", page.text());
    let (before, start) = (memory(server.pid()), Instant::now());
    let mut peers: Vec<Peer> = Vec::new();
    for window in WINDOWS.into_iter().flat_map(|window| [window; DEAF]) {
        let mut peer = Peer::greet(server.public, &[(4, window)]).expect("the server listens");
        if window == 1 << 30 {
            peer.send(&frame(WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes())).expect("the server reads");
        }
        for no in 0..STREAMS {
            let ask = headers(stream(no), END_STREAM, &block(get("/v1/users/collector/claims?limit=100")));
            peer.send(&ask).expect("the server reads");
        }
        peers.push(peer);
    }
    std::thread::sleep(Duration::from_secs(2));
    let held = mib(before, memory(server.pid()));
    // Nobody answers pings either; what ends first, ends them.
    let open = || server.metric("forebay_connections").expect("it is there");
    while open() > 0.5 {
        assert!(start.elapsed() < Duration::from_secs(30), "{} are still open", open());
        std::thread::sleep(Duration::from_millis(200));
    }
    println!(
        "{} connections of {STREAMS} pages of {} bytes, held back in four ways: {held:.1} MiB, {:.1} MiB each; all cut within \
         {:.1?}",
        peers.len(),
        page.body.len(),
        held / peers.len() as f64,
        start.elapsed()
    );
    // A page takes more than its bytes: the buffer that it was written into is up to twice as large, and a stream has its own.
    let most = STREAMS as f64 * page.body.len() as f64 * 3.0 / (1024.0 * 1024.0);
    assert!(held / (peers.len() as f64) < most, "{held:.1} MiB are more than the answers");
    is_well(&server, "flood", "well", before, held.max(64.0));
}

#[test]
fn who_reads_nothing_but_answers_pings_is_cut_all_the_same() {
    let _others = among_others();
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("flood", 1_000));
    let mut peer = Peer::greet(server.public, &[(4, 1)]).expect("the server listens");
    peer.send(&headers(1, END_STREAM, &block(get("/v1/campaigns")))).expect("the server reads");
    let start = Instant::now();
    let mut pings = 0;
    loop {
        match peer.frame(start + Duration::from_secs(35)) {
            Ok(Some(ping)) if ping.kind == PING && ping.flags == 0 => {
                pings += 1;
                let _ = peer.send(&frame(PING, h2::ACK, 0, &ping.payload));
                // Another request now and then does not make the first one's answer younger.
                let _ = peer.send(&headers(2 * pings + 1, END_STREAM, &block(get("/nowhere"))));
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(e) => panic!("still open after {:?}: {e}", start.elapsed()),
        }
    }
    println!("a reader of one byte that answered {pings} pings was cut after {:.1?}", start.elapsed());
    assert!(start.elapsed() > Duration::from_secs(10), "{:?}", start.elapsed());
    let again = server.call(&Request::post("/v1/campaigns/flood/claims", &json!({"user": "well"})));
    assert_eq!(again.status, 202);
}
