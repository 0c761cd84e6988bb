//! HTTP/2 that breaks its own rules (RFC 9113): each row is a connection of its own, and ends as the rule says, in a problem, a
//! reset of the stream or the end of the connection; never in an acceptance, a hang or a fault of ours.

use std::time::Duration;

use crate::h2::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Outcome, PADDED, PING, PRIORITY, PUSH_PROMISE,
    Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, fields, frame, frame_of, get, headers, settings_frame,
};
use crate::support::sale::flash_sale;

const HANG: Duration = Duration::from_secs(5);

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What a row may end in.
#[derive(Debug, Clone, Copy)]
enum Ends {
    /// The connection, with one of these codes or without a word.
    Connection(&'static [u32]),
    /// The stream, with one of these codes; or 400; or the connection with the same codes, which is stricter.
    Stream(&'static [u32]),
    /// An answer with this status; 431 is h2's own, with no body.
    Answer(u64),
}
use Ends::{Answer, Connection, Stream};

/// A name, the bytes behind preface and settings, what they end in. Stream 1 is the one that is looked at.
type Row = (&'static str, Vec<u8>, Ends);

const SIZE: Ends = Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]);
const PROTOCOL: Ends = Connection(&[PROTOCOL_ERROR]);
const COMPRESSION: Ends = Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);
const MALFORMED: Ends = Stream(&[PROTOCOL_ERROR]);

fn good() -> Vec<u8> {
    headers(1, END_STREAM, &block(get("/v1/campaigns")))
}

fn frames() -> Vec<Row> {
    let open = || headers(1, 0, &block(fields("POST", "/v1/carts/u1/items", &[("content-type", "application/json")])));
    let then = |first: Vec<u8>, second: Vec<u8>| [first, second].concat();
    let closed = Connection(&[STREAM_CLOSED, PROTOCOL_ERROR]);
    vec![
        ("data on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL),
        ("data on a stream that was never opened", frame(DATA, 0, 1, b"x"), PROTOCOL),
        ("data padded beyond its end", then(open(), frame(DATA, PADDED, 1, &[9, b'{', b'}'])), PROTOCOL),
        ("padded data without a length", then(open(), frame(DATA, PADDED, 1, b"")), Connection(&[PROTOCOL_ERROR, 6])),
        ("headers on stream 0", headers(0, END_STREAM, &block(get("/"))), PROTOCOL),
        ("headers on an even stream", headers(2, END_STREAM, &block(get("/"))), PROTOCOL),
        (
            "headers on a stream below the last",
            then(headers(5, END_STREAM, &block(get("/"))), headers(3, END_STREAM, &block(get("/")))),
            closed,
        ),
        (
            "headers padded beyond their end",
            frame(HEADERS, PADDED | END_HEADERS | END_STREAM, 1, &[200, 0x82]),
            PROTOCOL,
        ),
        ("a priority on stream 0", frame(PRIORITY, 0, 0, &[0, 0, 0, 3, 1]), PROTOCOL),
        ("a priority of four bytes", then(open(), frame(PRIORITY, 0, 1, &[0; 4])), Connection(&[FRAME_SIZE_ERROR, 1])),
        ("a reset of stream 0", frame(RST_STREAM, 0, 0, &[0; 4]), PROTOCOL),
        ("a reset of a stream that was never opened", frame(RST_STREAM, 0, 1, &[0; 4]), PROTOCOL),
        ("a reset of three bytes", then(open(), frame(RST_STREAM, 0, 1, &[0; 3])), SIZE),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5]), SIZE),
        ("an acknowledgement with settings", frame(SETTINGS, 1, 0, &[0; 6]), SIZE),
        ("a push that is neither on nor off", settings_frame(&[(2, 2)]), PROTOCOL),
        ("a window of 2^31", settings_frame(&[(4, 1 << 31)]), Connection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR])),
        ("frames of 16,383 bytes", settings_frame(&[(5, 16_383)]), PROTOCOL),
        ("frames of 2^24 bytes", settings_frame(&[(5, 1 << 24)]), PROTOCOL),
        ("a promise of a client's", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]), PROTOCOL),
        ("a ping on a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7]), SIZE),
        ("a ping of nine bytes", frame(PING, 0, 0, &[0; 9]), SIZE),
        ("a farewell on a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        ("a farewell of four bytes", frame(GOAWAY, 0, 0, &[0; 4]), SIZE),
        ("a window wider by 0", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL),
        ("a stream's window wider by 0", then(open(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])), Stream(&[PROTOCOL_ERROR])),
        (
            "a window beyond 2^31 − 1",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            Connection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "a stream's window beyond 2^31 − 1",
            then(open(), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])),
            Stream(&[FLOW_CONTROL_ERROR]),
        ),
        ("a window's update of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), SIZE),
        ("a window of a stream that was never opened", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), PROTOCOL),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &[0x82]), PROTOCOL),
        (
            "a continuation of another stream",
            then(frame(HEADERS, END_STREAM, 1, &[0x82]), frame(CONTINUATION, END_HEADERS, 3, &[0x84])),
            PROTOCOL,
        ),
        ("data within a header block", then(frame(HEADERS, 0, 1, &[0x82]), frame(DATA, 0, 1, b"x")), PROTOCOL),
        ("a ping within a header block", then(frame(HEADERS, 0, 1, &[0x82]), frame(PING, 0, 0, &[0; 8])), PROTOCOL),
        ("a strange frame within a header block", then(frame(HEADERS, 0, 1, &[0x82]), frame(99, 0, 1, b"x")), PROTOCOL),
        ("a frame of 16,385 bytes", then(open(), frame(DATA, 0, 1, &[b' '; 16_385])), SIZE),
        ("a frame that says 16 MiB", frame_of(0xff_ffff, DATA, 0, 1, b"x"), SIZE),
        ("an answer's bytes", b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), SIZE),
        ("a strange frame", then(frame(99, 255, 77, b"whatever"), good()), Answer(200)),
        ("settings that nobody knows", then(settings_frame(&[(0xfefe, 7)]), good()), Answer(200)),
    ]
}

fn blocks() -> Vec<Row> {
    let raw = |bytes: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, bytes);
    let many: Vec<(String, String)> =
        get("/v1/campaigns").into_iter().chain((0..2_000).map(|_| ("cookie".to_owned(), "c=1".to_owned()))).collect();
    let great: Vec<(String, String)> =
        get("/v1/campaigns").into_iter().chain([("cookie".to_owned(), "c".repeat(30_000))]).collect();
    // One entry of the dynamic table, named again and again: 61,000 bytes of fields in 300 of a block.
    let mut bomb = block(get("/v1/campaigns"));
    bomb.extend([0x40, 1, b'x', 127, 73]);
    bomb.extend([b'y'; 200]);
    bomb.extend([0xbe; 300]);
    vec![
        ("the field of number 0", raw(&[0x80]), COMPRESSION),
        ("a field beyond the table", raw(&[0xff, 0x20]), COMPRESSION),
        ("a number beyond 32 bits", raw(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), COMPRESSION),
        ("a number that does not end", raw(&[0xff, 0x80]), COMPRESSION),
        ("a name longer than the block", raw(&[0, 20, b'a']), COMPRESSION),
        ("a Huffman code that is its end", raw(&[0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'a']), COMPRESSION),
        ("a table larger than was allowed", raw(&[0x3f, 0xe1, 0xff, 0x03, 0x82]), COMPRESSION),
        ("a table's size behind a field", raw(&[0x82, 0x20]), COMPRESSION),
        ("2,000 cookies", headers(1, END_STREAM, &block(many)), Answer(431)),
        ("a cookie of 30,000 bytes", headers(1, END_STREAM, &block(great)), Answer(431)),
        ("one entry named 300 times", headers(1, END_STREAM, &bomb), Connection(&[ENHANCE_YOUR_CALM])),
    ]
}

fn requests() -> Vec<Row> {
    let list = |fields: &[(&str, &str)]| headers(1, END_STREAM, &block(fields.iter().copied()));
    let with =
        |name: &str, value: &str| headers(1, END_STREAM, &block(fields("GET", "/v1/campaigns", &[(name, value)])));
    let post = |lines: &[(&str, &str)], body: &[u8]| {
        let all: Vec<_> = [("content-type", "application/json")].into_iter().chain(lines.iter().copied()).collect();
        let head = headers(1, 0, &block(fields("POST", "/v1/campaigns/frames/claims", &all)));
        [head, frame(DATA, END_STREAM, 1, body)].concat()
    };
    let (m, s, p, a) = ((":method", "GET"), (":scheme", "http"), (":path", "/v1/campaigns"), (":authority", "a"));
    let claim = br#"{"user":"smuggled"}"#;
    let open = || {
        headers(1, 0, &block(fields("POST", "/v1/campaigns/frames/claims", &[("content-type", "application/json")])))
    };
    vec![
        ("no method", list(&[s, p, a]), MALFORMED),
        ("no scheme", list(&[m, p, a]), MALFORMED),
        ("no path", list(&[m, s, a]), MALFORMED),
        ("no fields", list(&[]), MALFORMED),
        ("an empty path", list(&[m, s, (":path", ""), a]), MALFORMED),
        ("a path without its slash", list(&[m, s, (":path", "v1/campaigns"), a]), Stream(&[PROTOCOL_ERROR])),
        ("a path with a space", list(&[m, s, (":path", "/v1/a b"), a]), MALFORMED),
        ("a path with a line's end", list(&[m, s, (":path", "/v1\r\nX: y"), a]), MALFORMED),
        ("a method with a space", list(&[(":method", "GET /"), s, p, a]), MALFORMED),
        ("two methods", list(&[m, m, s, p, a]), MALFORMED),
        ("two paths", list(&[m, s, p, p, a]), MALFORMED),
        ("two authorities", list(&[m, s, p, a, a]), MALFORMED),
        ("a status of a request", list(&[m, s, p, a, (":status", "200")]), MALFORMED),
        ("a strange field with a colon", list(&[m, s, p, a, (":foo", "x")]), MALFORMED),
        (
            "a protocol that was not offered",
            list(&[(":method", "CONNECT"), (":protocol", "websocket"), s, p, a]),
            MALFORMED,
        ),
        ("a method behind other fields", list(&[s, p, a, ("x", "y"), m]), MALFORMED),
        ("a name in capitals", with("X-Name", "y"), MALFORMED),
        ("a name with a space", with("x y", "z"), MALFORMED),
        ("a name with a colon", with("x:y", "z"), MALFORMED),
        ("no name", with("", "z"), MALFORMED),
        ("a value with NUL", with("x", "a\0b"), MALFORMED),
        ("a value with a line's end", with("x", "a\r\nhost: b"), MALFORMED),
        ("a connection to keep alive", with("connection", "keep-alive"), MALFORMED),
        ("a keep-alive", with("keep-alive", "timeout=5"), MALFORMED),
        ("a proxy's connection", with("proxy-connection", "close"), MALFORMED),
        ("an upgrade", with("upgrade", "h2c"), MALFORMED),
        ("chunks", post(&[("transfer-encoding", "chunked")], claim), MALFORMED),
        ("chunks that are not last", post(&[("transfer-encoding", "chunked, gzip")], claim), MALFORMED),
        ("an encoding other than trailers", with("te", "gzip"), MALFORMED),
        ("a length that is too great", post(&[("content-length", "20")], claim), MALFORMED),
        ("a length that is too small", post(&[("content-length", "18")], claim), MALFORMED),
        ("a length of 0 with a body", post(&[("content-length", "0")], claim), MALFORMED),
        ("two lengths that differ", post(&[("content-length", "19"), ("content-length", "20")], claim), MALFORMED),
        ("a list of lengths that differ", post(&[("content-length", "19, 20")], claim), MALFORMED),
        ("a negative length", post(&[("content-length", "-19")], claim), MALFORMED),
        ("a length with a plus", post(&[("content-length", "+19")], claim), MALFORMED),
        ("a length with rubbish behind", post(&[("content-length", "19abc")], claim), MALFORMED),
        ("a length beyond 64 bits", post(&[("content-length", "18446744073709551635")], claim), MALFORMED),
        ("trailers with a method", [open(), headers(1, END_STREAM, &block([(":method", "GET")]))].concat(), MALFORMED),
        (
            "trailers that do not end the stream",
            [open(), frame(DATA, 0, 1, claim), headers(1, 0, &block([("x", "y")]))].concat(),
            MALFORMED,
        ),
        ("CONNECT", list(&[(":method", "CONNECT"), (":authority", "a:80")]), Answer(404)),
        ("a trailers' encoding, which is sound", with("te", "trailers"), Answer(200)),
    ]
}

/// Whether the outcome is one of those that the row may have.
fn fits(ends: Ends, outcome: &Outcome) -> bool {
    match (ends, outcome) {
        (Connection(_), Outcome::Closed) => true,
        (Connection(codes), Outcome::End(code)) => codes.contains(code),
        (Stream(codes), Outcome::Reset(code) | Outcome::End(code)) => codes.contains(code),
        (Stream(_), answer) => answer.problem().is_some_and(|(status, _)| status == 400),
        (Answer(200), Outcome::Answer(body)) => body["campaigns"].is_array(),
        (Answer(431), Outcome::Answer(body)) => body.is_null(),
        (Answer(status), answer) => answer.problem().is_some_and(|(s, _)| s == status),
        _ => false,
    }
}

#[test]
fn frames_that_break_the_rules_end_in_what_the_rules_say() {
    let _others = crate::among_others();
    let server = crate::shared();
    server.create(&flash_sale("frames", 1_000));
    let before = crate::memory(server.pid());
    let rows: Vec<_> = [frames(), blocks(), requests()].into_iter().flatten().collect();
    let mut wrong = Vec::new();
    for (name, bytes, ends) in &rows {
        let mut peer = Peer::greet(server.public, &[]).expect("the server listens");
        // The server may close before it has read everything.
        let _ = peer.send(bytes);
        let outcome = peer.outcome(1, HANG);
        if !fits(*ends, &outcome) {
            wrong.push(format!("{name}: {ends:?}, but {outcome:?}"));
        }
    }
    // h2 does not insist on settings as the first frame; a request is all the same, and gets its answer.
    let mut first = Peer::connect(server.public).expect("the server listens");
    let _ = first.send(&[h2::PREFACE, &good()].concat());
    let outcome = first.outcome(1, HANG);
    if !fits(Answer(200), &outcome) {
        wrong.push(format!("no settings first: {outcome:?}"));
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert_eq!(server.balance("frames")["free"], 1_000, "a broken request has claimed");
    crate::is_well(server, "frames", "well", before, 32.0);
    println!("{} breaches of HTTP/2's rules", rows.len() + 1);
}
