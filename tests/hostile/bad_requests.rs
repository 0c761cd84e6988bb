//! What a broken or hostile caller may send to the public listener: each row gets the documented problem (or, where
//! there is no HTTP to answer to, a closed connection), never a 5xx, never a hang, and the sale goes on. Rows that are not about
//! HTTP/1.1's own bytes are sent over HTTP/2, too, and must be answered alike.

use std::sync::OnceLock;
use std::time::Duration;

use crate::h2::{self, END_STREAM, Outcome, Peer};
use crate::support::Server;
use crate::support::http::{Connection, Request};
use crate::support::sale::{claim, flash_sale, limited, red_packet};

/// A hang is whatever takes longer. The slow ones, which the server's own deadlines end, are in `slow_clients`.
const HANG: Duration = Duration::from_secs(5);

struct Row {
    name: &'static str,
    bytes: Vec<u8>,
    /// 0 where a closed connection is as good as a refusal with 400.
    status: u16,
    slug: &'static str,
    field: Option<&'static str>,
}

fn row(name: &'static str, bytes: impl Into<Vec<u8>>, status: u16, slug: &'static str) -> Row {
    Row { name, bytes: bytes.into(), status, slug, field: None }
}

/// A claim's body that is refused with 400 for `field`.
fn body(name: &'static str, body: impl AsRef<[u8]>, field: &'static str) -> Row {
    let bytes = to_claims("bad-sale", "application/json", body.as_ref()).bytes();
    Row { name, bytes, status: 400, slug: "invalid-request", field: Some(field) }
}

fn to_claims(campaign: &str, media: &str, body: &[u8]) -> Request {
    Request::new("POST", &format!("/v1/campaigns/{campaign}/claims")).body(media, body)
}

fn good(user: &str) -> Request {
    claim("bad-sale", user)
}

/// A good claim with other headers than its own: `headers` ends with a line break or is empty.
fn with_head(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /v1/campaigns/bad-sale/claims HTTP/1.1\r\n{headers}\r\n{body}").into_bytes()
}

const HOST: &str = "Host: a\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
const USER: &str = r#"{"user":"x"}"#;

fn fields() -> Vec<Row> {
    vec![
        body("no body", "", ""),
        body("white space only", " \r\n\t", ""),
        body("no object but a list", "[]", ""),
        body("no object but a text", "\"u1\"", ""),
        body("no object but a number", "1", ""),
        body("null", "null", ""),
        body("true", "true", ""),
        body("an object that does not end", "{", ""),
        body("an object that ends in mid-field", r#"{"user":"u1","#, ""),
        body("a text that does not end", r#"{"user":"u1"#, "user"),
        body("two documents", r#"{"user":"u1"}{"user":"u2"}"#, ""),
        body("rubbish behind the document", r#"{"user":"u1"} x"#, ""),
        body("a comma too many", r#"{"user":"u1",}"#, ""),
        body("single quotes", "{'user':'u1'}", ""),
        body("a comment", r#"{"user":"u1"/* one */}"#, ""),
        body("a byte order mark", "\u{feff}{\"user\":\"u1\"}", ""),
        body("UTF-16", b"\xff\xfe{\0\"\0u\0s\0e\0r\0\"\0:\0\"\0u\0\"\0}\0", ""),
        body("user missing", "{}", "user"),
        body("user missing beside a quantity", r#"{"quantity":1}"#, "user"),
        body("user null", r#"{"user":null}"#, "user"),
        body("user a number", r#"{"user":17}"#, "user"),
        body("user true", r#"{"user":true}"#, "user"),
        body("user a list", r#"{"user":["u1"]}"#, "user"),
        body("user an object", r#"{"user":{"id":"u1"}}"#, "user"),
        body("user empty", r#"{"user":""}"#, "user"),
        body("user of one space", r#"{"user":" "}"#, "user"),
        body("user with a space", r#"{"user":"a b"}"#, "user"),
        body("user with a slash", r#"{"user":"a/b"}"#, "user"),
        body("user with a quote", r#"{"user":"a\"b"}"#, "user"),
        body("user with a percent sign", r#"{"user":"a%20b"}"#, "user"),
        body("user that begins with a dot", r#"{"user":".a"}"#, "user"),
        body("user that begins with a minus", r#"{"user":"-a"}"#, "user"),
        body("user with NUL as an escape", r#"{"user":"a\u0000"}"#, "user"),
        body("user with NUL as a byte", b"{\"user\":\"a\0\"}", "user"),
        body("user with a line break", r#"{"user":"a\n"}"#, "user"),
        body("user with a raw line break", "{\"user\":\"a\n\"}", "user"),
        body("user in Chinese", r#"{"user":"用户"}"#, "user"),
        body("user with an emoji", r#"{"user":"a😀"}"#, "user"),
        body("user of bad UTF-8", b"{\"user\":\"a\xff\"}", "user"),
        body("user of an overlong sequence", b"{\"user\":\"a\xc0\x80\"}", "user"),
        body("user of half a surrogate pair", r#"{"user":"a\ud83d"}"#, "user"),
        body("user of an unknown escape", r#"{"user":"a\x41"}"#, "user"),
        body("user of 65 characters", format!(r#"{{"user":"{}"}}"#, "u".repeat(65)), "user"),
        body("user of 10,000 characters", format!(r#"{{"user":"{}"}}"#, "u".repeat(10_000)), "user"),
        body("user twice", r#"{"user":"u1","user":"u2"}"#, "user"),
        body("user twice, once escaped", r#"{"user":"u1","\u0075ser":"u1"}"#, "user"),
        body("unknown field", r#"{"user":"u1","coupon":"c"}"#, "coupon"),
        body("a field in capitals", r#"{"User":"u1"}"#, "User"),
        body("an amount of the caller's", r#"{"user":"u1","amount":1}"#, "amount"),
        body("a price of the caller's", r#"{"user":"u1","price":1}"#, "price"),
        body("a claim id of the caller's", r#"{"user":"u1","claim_id":"x"}"#, "claim_id"),
        body("an empty field name", r#"{"user":"u1","":1}"#, ""),
        body("a prototype", r#"{"user":"u1","__proto__":{}}"#, "__proto__"),
    ]
}

fn numbers() -> Vec<Row> {
    let quantity = |name, text: &str| body(name, format!(r#"{{"user":"u1","quantity":{text}}}"#), "quantity");
    vec![
        quantity("quantity null", "null"),
        quantity("quantity 0", "0"),
        quantity("quantity −0", "-0"),
        quantity("quantity −1", "-1"),
        quantity("quantity 1.0", "1.0"),
        quantity("quantity 1.5", "1.5"),
        quantity("quantity 1e0", "1e0"),
        quantity("quantity 1e3", "1e3"),
        quantity("quantity 1e400", "1e400"),
        quantity("quantity 2 where one is the limit", "2"),
        quantity("quantity 2^32", "4294967296"),
        quantity("quantity 2^32 + 1", "4294967297"),
        quantity("quantity 2^53", "9007199254740992"),
        quantity("quantity 2^64", "18446744073709551616"),
        quantity("quantity −2^63", "-9223372036854775808"),
        quantity("quantity of 400 digits", &"9".repeat(400)),
        quantity("quantity with a plus", "+1"),
        quantity("quantity with a leading zero", "01"),
        body("quantity in hexadecimal", r#"{"user":"u1","quantity":0x1}"#, ""),
        quantity("quantity NaN", "NaN"),
        quantity("quantity Infinity", "Infinity"),
        quantity("quantity a text", "\"1\""),
        quantity("quantity empty", "\"\""),
        quantity("quantity true", "true"),
        quantity("quantity a list", "[1]"),
        quantity("quantity an object", "{}"),
        quantity("quantity twice", r#"1,"quantity":1"#),
        body("1,000 lists in one another", "[".repeat(1_000), ""),
        body("8,000 lists in one another", "[".repeat(8_000), ""),
        body("user of 2,000 objects in one another", format!(r#"{{"user":{}"#, r#"{"a":"#.repeat(2_000)), "user"),
        body("unknown field of 7,000 lists", format!(r#"{{"user":"u1","a":{}"#, "[".repeat(7_000)), "a"),
        Row {
            name: "two of a red packet",
            bytes: to_claims("bad-packet", "application/json", br#"{"user":"u1","quantity":2}"#).bytes(),
            status: 400,
            slug: "invalid-request",
            field: Some("quantity"),
        },
    ]
}

fn routes() -> Vec<Row> {
    let no_body = |method, path| Request::new(method, path).bytes();
    let at = |path: &str| Request::post(path, &serde_json::json!({"user": "u1"})).bytes();
    vec![
        row("unknown campaign", claim("nowhere", "u1").bytes(), 404, "unknown-campaign"),
        row("campaign of 65 characters", claim(&"c".repeat(65), "u1").bytes(), 404, "unknown-campaign"),
        row("campaign that is no id", claim("%20", "u1").bytes(), 404, "unknown-campaign"),
        row("campaign of NUL", claim("%00", "u1").bytes(), 404, "unknown-campaign"),
        row("campaign of bad UTF-8", claim("%ff", "u1").bytes(), 404, "unknown-campaign"),
        row("campaign decoded twice", claim("bad%252Dsale", "u1").bytes(), 404, "unknown-campaign"),
        row("campaign with an encoded slash", claim("bad-sale%2Fclaims", "u1").bytes(), 404, "unknown-campaign"),
        row("a slash at the end", at("/v1/campaigns/bad-sale/claims/"), 404, "not-found"),
        row("two slashes", at("/v1//campaigns/bad-sale/claims"), 404, "not-found"),
        row("dots", at("/v1/campaigns/../campaigns/bad-sale/claims"), 404, "not-found"),
        row("another case", at("/V1/campaigns/bad-sale/claims"), 404, "not-found"),
        row("nothing there", no_body("GET", "/favicon.ico"), 404, "not-found"),
        row("the root", no_body("GET", "/"), 404, "not-found"),
        row("an admin route", no_body("GET", "/admin/v1/campaigns"), 404, "not-found"),
        row("creating a campaign", at("/admin/v1/campaigns"), 404, "not-found"),
        row("metrics", no_body("GET", "/metrics"), 404, "not-found"),
        row("readiness", no_body("GET", "/readyz"), 404, "not-found"),
        row("a path of 8,000 characters", no_body("GET", &format!("/{}", "a".repeat(8_000))), 404, "not-found"),
        row("claims read with GET", no_body("GET", "/v1/campaigns/bad-sale/claims"), 405, "method-not-allowed"),
        row("claims with PUT", no_body("PUT", "/v1/campaigns/bad-sale/claims"), 405, "method-not-allowed"),
        row("claims with DELETE", no_body("DELETE", "/v1/campaigns/bad-sale/claims"), 405, "method-not-allowed"),
        row("a method of one's own", no_body("CLAIM", "/v1/campaigns/bad-sale/claims"), 405, "method-not-allowed"),
        row("a campaign with POST", at("/v1/campaigns/bad-sale"), 405, "method-not-allowed"),
        row("the campaigns with DELETE", no_body("DELETE", "/v1/campaigns"), 405, "method-not-allowed"),
        row("a claim that is no id", no_body("GET", "/v1/claims/17"), 404, "unknown-claim"),
        row("a claim in braces", no_body("GET", "/v1/claims/%7B%7D"), 404, "unknown-claim"),
        row(
            "an unknown claim",
            no_body("GET", "/v1/claims/0192f0c1-7d2e-7c3a-8f00-3a6b1c2d4e5f"),
            404,
            "unknown-claim",
        ),
        row("a wait of 31 s", no_body("GET", "/v1/claims/17?wait=31"), 400, "invalid-request"),
        row("a negative wait", no_body("GET", "/v1/claims/17?wait=-1"), 400, "invalid-request"),
        row("a wait that is no number", no_body("GET", "/v1/claims/17?wait=soon"), 400, "invalid-request"),
        row("a page of none", no_body("GET", "/v1/users/u1/claims?limit=0"), 400, "invalid-request"),
        row("a page of 101", no_body("GET", "/v1/users/u1/claims?limit=101"), 400, "invalid-request"),
        row("a page of many", no_body("GET", "/v1/users/u1/claims?limit=many"), 400, "invalid-request"),
        row("a cursor of one's own", no_body("GET", "/v1/users/u1/claims?cursor=%00%ff"), 400, "invalid-request"),
        row("a cursor of words", no_body("GET", "/v1/users/u1/claims?cursor=next"), 400, "invalid-request"),
    ]
}

fn media_and_length() -> Vec<Row> {
    let media = |name, media: &str| {
        row(name, to_claims("bad-sale", media, USER.as_bytes()).bytes(), 415, "unsupported-media-type")
    };
    let large = |len: usize| to_claims("bad-sale", "application/json", &vec![b' '; len]).bytes();
    let key = |name, key: &str| Row {
        name,
        bytes: good("u1").key(key).bytes(),
        status: 400,
        slug: "invalid-request",
        field: Some("Idempotency-Key"),
    };
    vec![
        media("text", "text/plain"),
        media("a form", "application/x-www-form-urlencoded"),
        media("almost JSON", "application/json5"),
        media("a problem", "application/problem+json"),
        media("JSON in Latin-1", "application/json; charset=iso-8859-1"),
        media("JSON with a parameter of one's own", "application/json; v=1"),
        media("an empty type", ""),
        media("two types", "application/json, text/plain"),
        row("no type", with_head(&format!("{HOST}Content-Length: 12\r\n"), USER), 415, "unsupported-media-type"),
        row("a body of 16 KiB and 1", large(16 * 1024 + 1), 413, "too-large"),
        row("a body of 64 KiB", large(64 * 1024), 413, "too-large"),
        row(
            "a length of 1 TiB",
            with_head(&format!("{HOST}{JSON}Content-Length: 1099511627776\r\n"), USER),
            413,
            "too-large",
        ),
        row(
            "chunks beyond 16 KiB",
            with_head(
                &format!("{HOST}{JSON}Transfer-Encoding: chunked\r\n"),
                &format!("4001\r\n{}\r\n0\r\n\r\n", " ".repeat(0x4001)),
            ),
            413,
            "too-large",
        ),
        key("an empty key", ""),
        key("a key of 129 characters", &"k".repeat(129)),
        key("a key with a space", "a b"),
        key("a key in Latin-1", "\u{e9}"),
        Row {
            name: "two keys",
            bytes: good("u1").key("a").key("b").bytes(),
            status: 400,
            slug: "invalid-request",
            field: Some("Idempotency-Key"),
        },
        Row {
            name: "no key where it is required",
            bytes: claim("bad-limited", "u1").bytes(),
            status: 400,
            slug: "invalid-request",
            field: Some("Idempotency-Key"),
        },
    ]
}

fn wire() -> Vec<Row> {
    let cut = |name, bytes: Vec<u8>| row(name, bytes, 0, "invalid-request");
    let head = |name, headers: &str, body: &str| row(name, with_head(headers, body), 0, "invalid-request");
    let long = format!("{HOST}{JSON}X-Long: {}\r\nContent-Length: 12\r\n", "x".repeat(20 * 1024));
    let many: String = (0..100).map(|i| format!("X-{i}: {i}\r\n")).collect();
    let mut rows = vec![
        head("a body shorter than its length", &format!("{HOST}{JSON}Content-Length: 13\r\n"), USER),
        head("a negative length", &format!("{HOST}{JSON}Content-Length: -1\r\n"), USER),
        head("a length with a plus", &format!("{HOST}{JSON}Content-Length: +12\r\n"), USER),
        head("a length in words", &format!("{HOST}{JSON}Content-Length: twelve\r\n"), USER),
        head("a length beyond 64 bits", &format!("{HOST}{JSON}Content-Length: 99999999999999999999\r\n"), USER),
        head("two lengths that differ", &format!("{HOST}{JSON}Content-Length: 12\r\nContent-Length: 13\r\n"), USER),
        head("a list of lengths", &format!("{HOST}{JSON}Content-Length: 12, 13\r\n"), USER),
        head(
            "a length and chunks",
            &format!("{HOST}{JSON}Content-Length: 12\r\nTransfer-Encoding: chunked\r\n"),
            &format!("c\r\n{USER}\r\n0\r\n\r\n"),
        ),
        head(
            "chunks and a length",
            &format!("{HOST}{JSON}Transfer-Encoding: chunked\r\nContent-Length: 12\r\n"),
            &format!("c\r\n{USER}\r\n0\r\n\r\n"),
        ),
        head("an unknown encoding", &format!("{HOST}{JSON}Transfer-Encoding: identity\r\n"), USER),
        head("chunks that are not last", &format!("{HOST}{JSON}Transfer-Encoding: chunked, gzip\r\n"), USER),
        head("a chunk of no number", &format!("{HOST}{JSON}Transfer-Encoding: chunked\r\n"), "zz\r\nabc\r\n"),
        head("a negative chunk", &format!("{HOST}{JSON}Transfer-Encoding: chunked\r\n"), "-1\r\nabc\r\n"),
        head("a chunk beyond 64 bits", &format!("{HOST}{JSON}Transfer-Encoding: chunked\r\n"), "fffffffffffffffff\r\n"),
        head("a chunk without its end", &format!("{HOST}{JSON}Transfer-Encoding: chunked\r\n"), "3\r\nabcdef\r\n"),
        head("chunks that break off", &format!("{HOST}{JSON}Transfer-Encoding: chunked\r\n"), "c\r\n{\"us"),
        head("two hosts", &format!("{HOST}Host: b\r\n{JSON}Content-Length: 12\r\n"), USER),
        head("the same host twice", &format!("{HOST}{HOST}{JSON}Content-Length: 12\r\n"), USER),
        head("no host", &format!("{JSON}Content-Length: 12\r\n"), USER),
        head("a header without a colon", &format!("{HOST}nonsense\r\n{JSON}Content-Length: 12\r\n"), USER),
        head("a header without a name", &format!("{HOST}: a\r\n{JSON}Content-Length: 12\r\n"), USER),
        head("a header's name with a space", &format!("{HOST}X y: a\r\n{JSON}Content-Length: 12\r\n"), USER),
        head("a space before the colon", &format!("{HOST}{JSON}Content-Length : 12\r\n"), USER),
        head("a folded header", &format!("{HOST}X: a\r\n b\r\n{JSON}Content-Length: 12\r\n"), USER),
        head("NUL in a header", &format!("{HOST}X: a\0b\r\n{JSON}Content-Length: 12\r\n"), USER),
        cut("no version", b"POST /v1/campaigns\r\n\r\n".to_vec()),
        cut("version 3.0", b"GET /v1/campaigns HTTP/3.0\r\nHost: a\r\n\r\n".to_vec()),
        cut("version 1.9", b"GET /v1/campaigns HTTP/1.9\r\nHost: a\r\n\r\n".to_vec()),
        cut("no HTTP at all", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec()),
        cut("a path with a space", b"GET /v1/a b HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        cut("a path with NUL", b"GET /v1/\0 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        cut("a method with a slash", b"G/T /v1/campaigns HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        cut("NULs", vec![0; 100]),
        cut("half of the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM".to_vec()),
        cut(
            "HTTP/2 with rubbish behind its preface",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        ),
    ];
    rows.push(row("a header of 20 KiB", with_head(&long, USER), 431, "headers-too-large"));
    let many = format!("{HOST}{JSON}{many}Content-Length: 12\r\n");
    rows.push(row("100 headers", with_head(&many, USER), 431, "headers-too-large"));
    rows
}

/// Sends a row and says what is wrong with the answer, if anything is.
fn try_row(server: &Server, row: &Row) -> Option<String> {
    let mut connection = Connection::open(server.public).expect("the server listens");
    connection.patience(HANG).expect("a socket");
    // The server may refuse and close before it has read everything: then sending fails, and the answer is there.
    let _ = connection.send(&row.bytes);
    if row.status == 0 {
        connection.finish();
    }
    let answer = match connection.answer() {
        Ok(Some(answer)) => answer,
        Ok(None) if row.status == 0 => return None,
        Err(e) if row.status == 0 && !matches!(e.kind(), std::io::ErrorKind::WouldBlock) => return None,
        other => return Some(format!("no answer: {other:?}")),
    };
    let status = if row.status == 0 { 400 } else { row.status };
    if answer.status != status || answer.slug() != row.slug {
        return Some(format!("{} {}", answer.status, answer.text()));
    }
    if row.field.is_some_and(|field| answer.field("field") != field) {
        return Some(format!("the field is {:?}: {}", answer.field("field"), answer.text()));
    }
    (row.slug == "invalid-request" && row.status == 400 && answer.field("detail").is_empty())
        .then(|| format!("it does not say what was expected: {}", answer.text()))
}

#[test]
fn a_bad_request_gets_its_problem_and_the_sale_goes_on() {
    let _others = crate::among_others();
    let server = campaigns();
    let before = crate::memory(server.pid());
    let rows: Vec<_> = [fields(), numbers(), routes(), media_and_length(), wire()].into_iter().flatten().collect();
    assert!(rows.len() >= 170, "{} rows", rows.len());
    let free = server.balance("bad-sale")["free"].as_i64();
    let mut wrong = Vec::new();
    for (no, row) in rows.iter().enumerate() {
        wrong.extend(try_row(server, row).map(|what| format!("{}: {what}", row.name)));
        let served = server.call(&good(&format!("after-{no}")));
        if served.status != 202 {
            wrong.push(format!("{}: then a good claim got {} {}", row.name, served.status, served.text()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    let left = server.balance("bad-sale")["free"].as_i64();
    assert_eq!(left, free.map(|f| f - rows.len() as i64), "bad requests have claimed something");
    crate::is_well(server, "bad-well", "well-after-1", before, 32.0);
    println!("{} bad requests over HTTP/1.1", rows.len());
}

/// The server with the campaigns of these tests; what is counted is sold by one of them alone.
fn campaigns() -> &'static Server {
    static MADE: OnceLock<()> = OnceLock::new();
    let server = crate::shared();
    MADE.get_or_init(|| {
        server.create(&flash_sale("bad-sale", 10_000));
        server.create(&flash_sale("bad-well", 10_000));
        server.create(&red_packet("bad-packet", 100, 10_000));
        server.create(&limited("bad-limited", 100, 3));
    });
    server
}

/// A request's fields and its body as HTTP/2 has them.
type Fields = Vec<(String, Vec<u8>)>;

fn as_http2(bytes: &[u8]) -> (Fields, Vec<u8>) {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a request has a head");
    let mut lines = bytes[..end].split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    let first = lines.next().expect("a request line");
    let first: Vec<_> = first.split(|b| *b == b' ').map(<[u8]>::to_vec).collect();
    let [method, path, _] = &first[..] else { panic!("{first:?}") };
    let fixed = [(":method", method.clone()), (":scheme", b"http".to_vec()), (":path", path.clone())];
    let mut fields: Fields = fixed.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    for line in lines {
        let colon = line.iter().position(|b| *b == b':').expect("a header");
        let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
        let value = line[colon + 1..].trim_ascii().to_vec();
        fields.push((if name == "host" { ":authority".to_owned() } else { name }, value));
    }
    // What follows the first four may come in any order.
    fields.sort_by_key(|(name, _)| !name.starts_with(':'));
    (fields, bytes[end + 4..].to_vec())
}

#[test]
fn the_same_requests_over_http_2_are_answered_alike() {
    let _others = crate::among_others();
    let server = campaigns();
    let before = crate::memory(server.pid());
    let framing = ["a length of 1 TiB", "chunks beyond 16 KiB"];
    let rows: Vec<_> = [fields(), numbers(), routes(), media_and_length()].into_iter().flatten().collect();
    let rows: Vec<_> = rows.into_iter().filter(|row| !framing.contains(&row.name)).collect();
    let mut wrong = Vec::new();
    // A stream each on as few connections as that takes: a refusal must not end what others use.
    for (group, rows) in rows.chunks(40).enumerate() {
        let mut peer = Peer::greet(server.public, &[(4, 1 << 20)]).expect("the server listens");
        for (row, stream) in rows.iter().zip((1..).step_by(2)) {
            let (fields, body) = as_http2(&row.bytes);
            let mut bytes = h2::headers(stream, if body.is_empty() { END_STREAM } else { 0 }, &h2::block(fields));
            let pieces = body.chunks(16_384).count();
            for (no, piece) in body.chunks(16_384).enumerate() {
                let end = if no + 1 == pieces { END_STREAM } else { 0 };
                bytes.extend(h2::frame(h2::DATA, end, stream, piece));
            }
            let outcome = peer.send(&bytes).map(|()| peer.outcome(stream, HANG));
            let expected = (u64::from(row.status), row.slug.to_owned());
            let seen = outcome.as_ref().ok().and_then(Outcome::problem);
            let field = match &outcome {
                Ok(Outcome::Answer(body)) => body["field"].as_str().unwrap_or_default().to_owned(),
                _ => String::new(),
            };
            if seen != Some(expected) || row.field.is_some_and(|f| f != field) {
                wrong.push(format!("{}: {outcome:?}", row.name));
            }
        }
        crate::is_well(server, "bad-well", &format!("well-2-{group}"), before, 32.0);
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    println!("{} bad requests over HTTP/2", rows.len());
}

#[test]
fn refused_bodies_do_not_derail_the_requests_pipelined_behind_them() {
    let _others = crate::among_others();
    let server = crate::shared();
    server.create(&flash_sale("bad-pipeline", 100));
    let mut connection = Connection::open(server.public).unwrap();
    let bad = to_claims("bad-pipeline", "application/json", b"{\"user\":}").bytes();
    let wrong_media = to_claims("bad-pipeline", "text/plain", USER.as_bytes()).bytes();
    let unknown = claim("nowhere", "u1").bytes();
    let good = claim("bad-pipeline", "u1").bytes();
    connection.send(&[bad, wrong_media, unknown, good].concat()).unwrap();
    let mut statuses = Vec::new();
    while statuses.len() < 4 {
        match connection.answer().unwrap() {
            Some(answer) => statuses.push(answer.status),
            None => break,
        }
    }
    assert_eq!(statuses, [400, 415, 404, 202]);
}

#[test]
fn a_method_that_is_not_allowed_is_answered_with_those_that_are() {
    let _others = crate::among_others();
    let server = crate::shared();
    for (method, path, allow) in [
        ("GET", "/v1/campaigns/x/claims", "POST"),
        ("DELETE", "/v1/campaigns/x", "GET"),
        ("POST", "/v1/claims/17", "GET"),
        ("PUT", "/v1/users/u1/claims", "GET"),
    ] {
        let answer = server.call(&Request::new(method, path));
        answer.expect(405, "method-not-allowed");
        let listed: Vec<_> = answer.header("allow").unwrap_or_default().split(", ").map(str::to_owned).collect();
        assert!(listed.iter().any(|m| m == allow), "{method} {path}: {listed:?}");
    }
}
