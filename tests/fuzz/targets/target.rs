//! What a request says outside its body: path, query, identifiers, cursors and headers. Each is read a second time here,
//! by the contract's words.

use std::borrow::Cow;
use std::net::IpAddr;

use forebay::antiscalper::address::TrustedProxies;
use forebay::ingest::auth::TokenDigest;
use forebay::ingest::routes::{self, Query};
use forebay::ingest::{fuzzing, request};
use forebay::sale::{CampaignId, ClaimId, Sku, UserId};
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, IF_NONE_MATCH};

use super::json::is_id;

/// The first byte says what the rest is.
pub fn run(data: &[u8]) {
    let Some((&what, rest)) = data.split_first() else { return };
    let text = std::str::from_utf8(rest);
    match (what % 8, text) {
        (0, Ok(text)) => path(text),
        (1, Ok(text)) => query(text),
        (2, Ok(text)) => names(text),
        (3, _) => etag(rest),
        (4, _) => key(rest),
        (5, Ok(text)) => forwarded(text),
        (6, _) => credential(rest),
        (7, _) => lengths(rest),
        _ => {}
    }
}

/// The bytes of a percent-encoded text; `%` before anything but two hexadecimal digits stands for itself.
fn decoded(text: &str, plus_is_space: bool) -> Vec<u8> {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    let hex = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16));
    while at < bytes.len() {
        match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) if plus_is_space => out.push(b' '),
            (other, ..) => out.push(other),
        }
        at += 1;
    }
    out
}

fn path(path: &str) {
    let segments: Vec<&str> = path.split('/').collect();
    let name = |segment: &str| -> Option<String> {
        (!segment.is_empty()).then(|| String::from_utf8(decoded(segment, false)).ok())?
    };
    let expected = match segments[..] {
        ["", "v1", "campaigns"] => Some(("campaigns", None)),
        ["", "v1", "campaigns", id] => name(id).map(|id| ("campaign", Some(id))),
        ["", "v1", "claims", id] => name(id).map(|id| ("claim", Some(id))),
        ["", "v1", "claims", id, "cancel"] => name(id).map(|id| ("cancel", Some(id))),
        ["", "v1", "claims", id, "settle"] => name(id).map(|id| ("settle", Some(id))),
        ["", "v1", "carts", user] => name(user).map(|user| ("cart", Some(user))),
        ["", "v1", "carts", user, "items"] => name(user).map(|user| ("items", Some(user))),
        ["", "v1", "users", user, "claims"] => name(user).map(|user| ("claims", Some(user))),
        _ => None,
    };
    assert_eq!(fuzzing::route(path), expected);
    let [single, batch] = ["claims", "claims:batch"].map(|end| match segments[..] {
        ["", "v1", "campaigns", id, last] if last == end => Some(id),
        _ => None,
    });
    assert_eq!(fuzzing::claimed_campaigns(path), (single, batch));
    for segment in segments {
        let ours = routes::decode(segment).map(Cow::into_owned);
        assert_eq!(ours, String::from_utf8(decoded(segment, false)).ok());
    }
}

fn query(text: &str) {
    const NAMES: [&str; 3] = ["wait", "limit", "cursor"];
    let read = Query::new(Some(text)).read(NAMES).ok().map(|all| all.map(|v| v.map(Cow::into_owned)));
    let lossy = |part: &str| String::from_utf8_lossy(&decoded(part, true)).into_owned();
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs: Vec<_> =
        pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(n, v)| (lossy(n), lossy(v))).collect();
    let given = NAMES.map(|name| pairs.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect::<Vec<_>>());
    let expected = given.iter().all(|values| values.len() <= 1).then(|| given.map(|mut values| values.pop()));
    assert_eq!(read, expected);
    for value in expected.iter().flatten().flatten() {
        let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        let number = value.parse::<u128>().ok().filter(|n| is_number && (1..=100).contains(n)).map(|n| n as u64);
        assert_eq!(fuzzing::whole(value, 1, 100).ok(), number, "{value:?}");
        cursor(value);
    }
}

fn cursor(text: &str) {
    if let Ok(seq) = fuzzing::read_cursor(text) {
        assert!((1..=i64::MAX as u64).contains(&seq.0));
        assert_eq!(fuzzing::write_cursor(seq), text, "there is one way to write it");
    }
}

fn names(text: &str) {
    for given in text.split('\n') {
        let user = UserId::parse(given).ok();
        assert_eq!(user.as_ref().map(UserId::as_str), is_id(given).then_some(given));
        assert_eq!(CampaignId::parse(given).is_ok(), is_id(given));
        let is_sku = (1..=64).contains(&given.len()) && given.bytes().all(|b| b.is_ascii_graphic());
        assert_eq!(Sku::parse(given).ok().map(|s| s.as_str().to_owned()), is_sku.then(|| given.to_owned()));
        let hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
        let digits = |(at, b): (usize, u8)| if hyphen(at) { b == b'-' } else { b.is_ascii_hexdigit() };
        let is_uuid = given.len() == 36 && given.bytes().enumerate().all(digits);
        let id = ClaimId::parse(given).map(|id| id.to_string());
        assert_eq!(id, is_uuid.then(|| given.to_ascii_lowercase()));
        cursor(given);
    }
}

/// Headers of one name, a line of the input each; none where a line can't be one.
fn headers(name: &HeaderName, lines: &[u8]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines.split(|&b| b == b'\n') {
        headers.append(name, HeaderValue::from_bytes(line).ok()?);
    }
    Some(headers)
}

fn etag(lines: &[u8]) {
    let Some(headers) = headers(&IF_NONE_MATCH, lines) else { return };
    let own = "\"17\"";
    let text = |line: &[u8]| line.iter().all(|b| (0x20..0x7f).contains(b) || *b == b'\t').then(|| line.to_vec());
    let tags = lines.split(|&b| b == b'\n').filter_map(text).collect::<Vec<_>>().join(&b","[..]);
    let tags = String::from_utf8(tags).expect("ASCII");
    let named = tags.split(',').any(|tag| {
        let tag = tag.trim_matches([' ', '\t']);
        tag == "*" || tag == own || tag == "W/\"17\""
    });
    assert_eq!(routes::has_etag(&headers, own), named);
}

fn key(lines: &[u8]) {
    for (name, most) in [("idempotency-key", 128), ("x-forebay-actor", 64)] {
        let name = HeaderName::from_static(name);
        let Some(headers) = headers(&name, lines) else { return };
        let sound = (1..=most).contains(&lines.len()) && lines.iter().all(u8::is_ascii_graphic);
        let expected = sound.then(|| std::str::from_utf8(lines).expect("ASCII"));
        if most == 64 {
            assert_eq!(fuzzing::actor(&headers).ok().as_deref(), expected);
        } else {
            assert_eq!(request::idempotency_key(&headers).ok(), expected.map(Some));
        }
    }
}

/// Lines of `X-Forwarded-For`, those that begin with a semicolon of `Forwarded`.
fn forwarded(text: &str) {
    let networks = ["10.0.0.0/8", "2001:db8:aa::/48", "::ffff:172.16.0.0/108"];
    let proxies = TrustedProxies::new(networks.iter().map(|n| n.parse().expect("a network")).collect());
    let lines: Vec<&str> = text.split('\n').collect();
    let (standard, plain): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| line.starts_with(';'));
    let standard: Vec<&str> = standard.iter().map(|line| &line[1..]).collect();
    let ask = |peer: IpAddr, plain: &[&str], standard: &[&str]| {
        proxies.client_address(peer, plain.iter().copied(), standard.iter().copied())
    };
    let (proxy, stranger): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [203, 0, 113, 9].into());
    assert_eq!(ask(stranger, &plain, &standard), stranger, "whoever is no proxy speaks for itself");
    let _ = ask(proxy, &plain, &standard);

    let by_plain = ask(proxy, &plain, &[]);
    let hops: Option<Vec<IpAddr>> =
        plain.iter().flat_map(|l| l.split(',')).map(|hop| hop.trim_matches([' ', '\t']).parse().ok()).collect();
    if let Some(hops) = hops.filter(|hops| !hops.is_empty() && hops.len() <= 32) {
        let hops: Vec<IpAddr> = hops.iter().map(IpAddr::to_canonical).collect();
        let client = hops.iter().rev().find(|hop| !proxies.trusts(**hop)).or(hops.first());
        assert_eq!(Some(&by_plain), client, "of plain addresses the last that is no proxy is the client");
    }
    if !proxies.trusts(by_plain) {
        let mut forged = vec!["6.6.6.6, \"", "for=6.6.6.6"];
        forged.extend(&plain);
        assert_eq!(ask(proxy, &forged, &[]), by_plain, "what stands further left changes nothing");
    }
}

fn credential(lines: &[u8]) {
    let Some(headers) = headers(&AUTHORIZATION, lines) else { return };
    let text = std::str::from_utf8(lines).ok().filter(|t| t.bytes().all(|b| (0x20..0x7f).contains(&b) || b == b'\t'));
    let given = text.and_then(|text| text.split_once(' ')).filter(|(s, _)| s.eq_ignore_ascii_case("bearer"));
    let is_right = given.is_some_and(|(_, credential)| credential.trim_matches(' ') == "fuzz-token-0123");
    assert_eq!(TokenDigest::new("fuzz-token-0123").authorize(&headers).is_ok(), is_right);
}

/// The first byte says in what pieces the rest arrives.
fn lengths(data: &[u8]) {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let lower = bytes.to_ascii_lowercase();
    let expected = lower.windows(10).filter(|w| w == b"\ncontent-l").count() as u64;
    assert_eq!(
        fuzzing::length_lines(bytes.chunks(usize::from(piece) + 1)),
        expected,
        "behind pieces of {piece} bytes and one"
    );
}
