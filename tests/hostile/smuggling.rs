//! Requests hidden in requests (RFC 9112, section 11.2). Each row is followed by a whole claim of a victim's, which another
//! reading of the row would take for a request of its own, or not. Where readings may differ the row must be refused and the
//! connection closed: then nothing behind it is ever read, and no victim has claimed.

use std::time::Duration;

use crate::support::http::{Connection, Request};
use crate::support::sale::{claim, flash_sale};

const HANG: Duration = Duration::from_secs(5);

/// What must become of a row, and of the claim behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    /// 400, or closed without a word; nothing behind it is read.
    Refused,
    /// 431, and nothing behind it is read.
    TooLarge,
    /// One sound request with only one reading: answered, and what follows is the next request.
    Sound,
    /// One sound request that holds the claim in its body or ends the connection: the claim is not made.
    Swallowed,
}
use Verdict::{Refused, Sound, Swallowed, TooLarge};

/// A row: what it is, its head without the lines that all have, its body, the verdict.
type Row = (&'static str, String, String, Verdict);

/// A POST of a cart's click, whose body is `{}` where nothing else is said: refused with 400 as JSON, but whole as a message.
fn head(lines: &str) -> String {
    format!("POST /v1/carts/u1/items HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{lines}\r\n\r\n")
}

fn lengths() -> Vec<Row> {
    let chunked = "2\r\n{}\r\n0\r\n\r\n";
    let row = |name, lines: &str, body: &str, verdict| (name, head(lines), body.to_owned(), verdict);
    vec![
        row("a length and chunks", "Content-Length: 2\r\nTransfer-Encoding: chunked", chunked, Refused),
        row("chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 12", chunked, Refused),
        row("chunks and a length of 0", "Transfer-Encoding: chunked\r\nContent-Length: 0", chunked, Refused),
        row("chunks and a length in capitals", "TRANSFER-ENCODING: chunked\r\nCONTENT-LENGTH: 2", chunked, Refused),
        row("two lengths that differ", "Content-Length: 2\r\nContent-Length: 3", "{}", Refused),
        row("lengths 0 and 2", "Content-Length: 0\r\nContent-Length: 2", "{}", Refused),
        row("a list of lengths that differ", "Content-Length: 2, 3", "{}", Refused),
        row("a length in hexadecimal", "Content-Length: 0x2", "{}", Refused),
        row("a length with a plus", "Content-Length: +2", "{}", Refused),
        row("a length with a minus", "Content-Length: -2", "{}", Refused),
        row("a length with a fraction", "Content-Length: 2.0", "{}", Refused),
        row("a length with an exponent", "Content-Length: 2e0", "{}", Refused),
        row("a length with a separator", "Content-Length: 1_0", "{}", Refused),
        row("a length with a space within", "Content-Length: 0 2", "{}", Refused),
        row("a length with rubbish behind", "Content-Length: 2abc", "{}", Refused),
        row("a length of nothing", "Content-Length: ", "{}", Refused),
        row("a length in other digits", "Content-Length: \u{0662}", "{}", Refused),
        row("a length beyond 64 bits", "Content-Length: 18446744073709551618", "{}", Refused),
        row("a length with a vertical tab", "Content-Length: \x0b2", "{}", Refused),
        row("a space before a length's colon", "Content-Length : 2", "{}", Refused),
        row("a folded length", "Content-Length:\r\n 2", "{}", Refused),
        row("a length behind a folded line", "X: a\r\n Content-Length: 2", "{}", Refused),
        row("a length behind NUL", "X: a\0\r\nContent-Length: 2", "{}", Refused),
        row("a length behind a carriage return", "X: a\rContent-Length: 2", "{}", Refused),
        row("two lengths behind a bare line feed", "X: a\nContent-Length: 3\r\nContent-Length: 2", "{}", Refused),
        row(
            "chunks behind a bare line feed",
            "Content-Length: 2\r\nX: a\nTransfer-Encoding: chunked",
            chunked,
            Refused,
        ),
        row("a sound length", "Content-Length: 2", "{}", Sound),
        row("a length with zeros in front", "Content-Length: 0002", "{}", Sound),
    ]
}

fn encodings() -> Vec<Row> {
    let chunked = "2\r\n{}\r\n0\r\n\r\n";
    let te = |name, lines: &str, verdict| (name, head(lines), chunked.to_owned(), verdict);
    vec![
        te("an unknown encoding", "Transfer-Encoding: xchunked", Refused),
        te("identity", "Transfer-Encoding: identity", Refused),
        te("gzip alone", "Transfer-Encoding: gzip", Refused),
        te("chunks that are not last", "Transfer-Encoding: chunked, identity", Refused),
        te("chunks first, then another line", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x", Refused),
        te("an encoding in quotes", "Transfer-Encoding: \"chunked\"", Refused),
        te("an encoding with a vertical tab", "Transfer-Encoding: \x0bchunked", Refused),
        te("an encoding with NUL", "Transfer-Encoding: chunked\0", Refused),
        te("a space before the colon", "Transfer-Encoding : chunked", Refused),
        te("a tab before the colon", "Transfer-Encoding\t: chunked", Refused),
        te("a folded name", "Transfer-Encoding\r\n : chunked", Refused),
        te("a folded value", "Transfer-Encoding:\r\n chunked", Refused),
        te("a line that begins with a space", " Transfer-Encoding: chunked", Refused),
        te("an encoding of nothing", "Transfer-Encoding:", Refused),
        te("an underscore for the hyphen", "Transfer_Encoding: chunked\r\nContent-Length: 12", Sound),
        te("sound chunks", "Transfer-Encoding: chunked", Sound),
        te("sound chunks in capitals", "transfer-encoding: CHUNKED", Sound),
        (
            "chunks in HTTP/1.0",
            "POST /v1/carts/u1/items HTTP/1.0\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                .into(),
            chunked.to_owned(),
            Refused,
        ),
    ]
}

fn chunks() -> Vec<Row> {
    let te = |name, body: &str, verdict| (name, head("Transfer-Encoding: chunked"), body.to_owned(), verdict);
    let long = format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "e".repeat(20_000));
    let many = format!("2\r\n{{}}\r\n0\r\n{}\r\n", "T: x\r\n".repeat(2_000));
    let great = format!("2\r\n{{}}\r\n0\r\nT: {}\r\n\r\n", "x".repeat(64 * 1024));
    vec![
        te("a negative chunk", "-2\r\n{}\r\n0\r\n\r\n", Refused),
        te("a chunk with a plus", "+2\r\n{}\r\n0\r\n\r\n", Refused),
        te("a chunk with 0x", "0x2\r\n{}\r\n0\r\n\r\n", Refused),
        te("a chunk of no digits", "\r\n{}\r\n0\r\n\r\n", Refused),
        te("a chunk of words", "two\r\n{}\r\n0\r\n\r\n", Refused),
        te("a chunk that overflows to 0", "10000000000000000\r\n\r\n", Refused),
        te("a chunk that overflows to 2", "10000000000000002\r\n{}\r\n0\r\n\r\n", Refused),
        te("a chunk of 2^64 − 1", "ffffffffffffffff\r\n{}", Refused),
        te("a chunk of 2^63", "8000000000000000\r\n{}", Refused),
        te("a chunk shorter than its data", "1\r\n{}\r\n0\r\n\r\n", Refused),
        te("a chunk longer than its data", "3\r\n{}\r\n0\r\n\r\n", Refused),
        te("a chunk without a line's end", "2\r\n{}0\r\n\r\n", Refused),
        te("a chunk's size ended by a line feed", "2\n{}\r\n0\r\n\r\n", Refused),
        te("a chunk's data ended by a line feed", "2\r\n{}\n0\r\n\r\n", Refused),
        te("a chunk's size ended by a carriage return", "2\r{}\r\n0\r\n\r\n", Refused),
        te("an extension with a line feed", "2;a\nb\r\n{}\r\n0\r\n\r\n", Refused),
        te("an extension of 20,000 bytes", &long, Refused),
        te("2,000 trailers", &many, Refused),
        te("a trailer of 64 KiB", &great, Refused),
        te("a sound extension", "2;a=b\r\n{}\r\n0\r\n\r\n", Sound),
        te("a sound trailer", "2\r\n{}\r\n0\r\nT: x\r\n\r\n", Sound),
        te("a length as a trailer, which counts as one", "2\r\n{}\r\n0\r\nContent-Length: 99\r\n\r\n", Refused),
        te("an encoding as a trailer", "2\r\n{}\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", Sound),
    ]
}

fn targets_and_lines() -> Vec<Row> {
    let raw = |name, bytes: &str, verdict| (name, bytes.to_owned(), String::new(), verdict);
    let cookie = format!("GET /v1/campaigns HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "c=1; ".repeat(8_000));
    let cookies = format!("GET /v1/campaigns HTTP/1.1\r\nHost: a\r\n{}\r\n", "Cookie: c=1\r\n".repeat(400));
    let target = format!("GET /v1/campaigns?{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(40_000));
    vec![
        raw("one word", "GET\r\n\r\n", Refused),
        raw("HTTP/0.9", "GET /v1/campaigns\r\n", Refused),
        raw("two spaces", "GET  /v1/campaigns HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
        raw("a tab for a space", "GET\t/v1/campaigns\tHTTP/1.1\r\nHost: a\r\n\r\n", Refused),
        raw("a space behind the version", "GET /v1/campaigns HTTP/1.1 \r\nHost: a\r\n\r\n", Refused),
        raw("a version in small letters", "GET /v1/campaigns http/1.1\r\nHost: a\r\n\r\n", Refused),
        raw("a version of two digits", "GET /v1/campaigns HTTP/1.10\r\nHost: a\r\n\r\n", Refused),
        raw("carriage returns alone", "GET /v1/campaigns HTTP/1.1\rHost: a\r\r", Refused),
        raw("a carriage return in the target", "GET /v1/campaigns\rX HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
        raw("an asterisk for GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", Sound),
        raw("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Sound),
        raw("no host", "GET /v1/campaigns HTTP/1.1\r\n\r\n", Refused),
        raw("two hosts", "GET /v1/campaigns HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused),
        raw("a host behind a folded line", "GET /v1/campaigns HTTP/1.1\r\nX: a\r\n\tHost: b\r\n\r\n", Refused),
        raw("another host than the target's", "GET http://b/v1/campaigns HTTP/1.1\r\nHost: a\r\n\r\n", Sound),
        raw("another scheme", "GET ftp://b/v1/campaigns HTTP/1.1\r\nHost: a\r\n\r\n", Sound),
        raw("a header without a name", "GET /v1/campaigns HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Refused),
        raw("a header of a bracket", "GET /v1/campaigns HTTP/1.1\r\nHost: a\r\n(b): c\r\n\r\n", Refused),
        raw("a header's name in UTF-8", "GET /v1/campaigns HTTP/1.1\r\nHost: a\r\nñ: c\r\n\r\n", Refused),
        raw("a length of a GET", "GET /v1/campaigns HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", Sound),
        raw(
            "an upgrade to HTTP/2",
            "GET /v1/campaigns HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
            Sound,
        ),
        raw(
            "an upgrade to a web socket",
            "GET /v1/campaigns HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: \
             websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            Sound,
        ),
        raw("an empty line first", "\r\nGET /v1/campaigns HTTP/1.1\r\nHost: a\r\n\r\n", Sound),
        raw(
            "the length taken off the connection",
            "POST /v1/carts/u1/items HTTP/1.1\r\nHost: a\r\nContent-Type: \
             application/json\r\nConnection: Content-Length\r\nContent-Length: 2\r\n\r\n{}",
            Sound,
        ),
        raw("HTTP/1.0 that closes", "GET /v1/campaigns HTTP/1.0\r\n\r\n", Swallowed),
        raw("a connection to close", "GET /v1/campaigns HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", Swallowed),
        raw("a cookie of 40,000 bytes", &cookie, TooLarge),
        raw("400 cookies", &cookies, TooLarge),
        raw("a target of 40,000 bytes", &target, TooLarge),
    ]
}

#[test]
fn a_request_within_a_request_is_never_answered() {
    let _others = crate::among_others();
    let server = crate::shared();
    server.create(&flash_sale("smuggled", 10_000));
    let before = crate::memory(server.pid());
    let rows: Vec<_> = [lengths(), encodings(), chunks(), targets_and_lines()].into_iter().flatten().collect();
    let mut wrong = Vec::new();
    let mut victims = 0;
    for (no, (name, head, body, verdict)) in rows.iter().enumerate() {
        let victim = claim("smuggled", &format!("victim-{no}")).bytes();
        let mut connection = Connection::open(server.public).expect("the server listens");
        connection.patience(HANG).expect("a socket");
        let mut answers = Vec::new();
        // The server may close before it has read everything. What is sound is followed by its next request when it has been
        // answered: a length that comes with chunks in one read counts as theirs, and both are refused.
        let _ = connection.send(&[head.as_bytes(), body.as_bytes()].concat());
        if *verdict == Sound {
            answers.extend(connection.answer().ok().flatten().map(|answer| answer.status));
        }
        let _ = connection.send(&victim);
        let end = read_on(&mut connection, &mut answers);
        let sold = server.balance("smuggled")["free"].as_i64().map(|free| 10_000 - free);
        let made = sold != Some(victims);
        victims += i64::from(made);
        let fits = match verdict {
            Refused => !made && matches!(answers[..], [] | [400]),
            TooLarge => !made && answers == [431],
            Sound => made && matches!(answers[..], [_, 202]) && answers[0] < 500,
            Swallowed => !made && answers == [200],
        };
        if !fits || end == "a hang" {
            wrong.push(format!("{name}: {verdict:?}, but {answers:?}, {end}, the victim's claim made: {made}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    crate::is_well(server, "smuggled", "well", before, 32.0);
    println!("{} requests within requests over HTTP/1.1", rows.len());
}

/// Reads what comes; tells the server after a moment that nothing more will be sent, and how it ended.
fn read_on(connection: &mut Connection, answers: &mut Vec<u16>) -> String {
    // Who shuts its side first is not answered what it has sent ahead.
    connection.patience(Duration::from_millis(300)).expect("a socket");
    let mut is_over = false;
    loop {
        match connection.answer() {
            Ok(Some(answer)) => answers.push(answer.status),
            Ok(None) => return "closed".to_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && !is_over => {
                is_over = true;
                connection.finish();
                connection.patience(HANG).expect("a socket");
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return "a hang".to_owned(),
            Err(e) => return e.to_string(),
        }
    }
}

#[test]
fn a_body_is_only_ever_a_body() {
    let _others = crate::among_others();
    let server = crate::shared();
    server.create(&flash_sale("swallowed", 100));
    let inner = claim("swallowed", "victim").bytes();
    let outer = Request::new("POST", "/v1/carts/u1/items").body("application/json", inner);
    let mut connection = Connection::open(server.public).expect("the server listens");
    connection.send(&[outer.bytes(), claim("swallowed", "next").bytes()].concat()).expect("the server reads");
    assert_eq!(connection.answer().expect("an answer").expect("one").status, 400);
    assert_eq!(connection.answer().expect("an answer").expect("one").field("user"), "next");
    assert_eq!(server.balance("swallowed")["free"], 99);
}
