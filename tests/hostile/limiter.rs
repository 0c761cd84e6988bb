//! Keys without end at the limiter: ten million users and as many addresses take the memory that was there from the start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use forebay::antiscalper::{Antiscalper, Rate};

use crate::support::http::{Connection, Request};
use crate::support::sale::{claim, flash_sale};
use crate::support::{Site, eventually};
use crate::{alone, among_others, is_well, memory, mib};

/// Distinct users, and distinct addresses.
const KEYS: u32 = 10_000_000;

/// Keys that the limiter has room for, of each kind.
const ROOM: usize = 1_000_000;

/// Callers behind the proxy of the server under test.
const CALLERS: u32 = 10_000;

fn rate(text: &str) -> Rate {
    text.parse().expect("a rate")
}

/// Every other address is of IPv6: as many /64 as there are.
fn address(no: u32) -> IpAddr {
    if no.is_multiple_of(2) {
        Ipv4Addr::from_bits(no).into()
    } else {
        Ipv6Addr::from_bits(u128::from(no) << 64 | 0x2001 << 112).into()
    }
}

#[test]
fn ten_million_users_and_addresses_take_no_more_memory_than_none() {
    let _alone = alone();
    let antiscalper = Antiscalper::new(rate("10/m"), rate("10/m"), ROOM);
    // Somebody who is over the limit when the flood begins is still over it when it ends.
    let greedy = (Some("greedy"), Some(IpAddr::from([192, 0, 2, 1])));
    assert_eq!((0..20).filter(|_| antiscalper.check(greedy.0, greedy.1).is_ok()).count(), 10);
    let (before, start) = (memory(std::process::id()), Instant::now());
    let mut name = String::with_capacity(16);
    let mut refused = 0;
    for no in 0..KEYS {
        name.clear();
        name.push('u');
        name.push_str(itoa(no, &mut [0; 10]));
        refused += u32::from(antiscalper.check(Some(&name), Some(address(no))).is_err());
        if no % 1_000_000 == 999_999 {
            let _ = antiscalper.check(greedy.0, greedy.1);
        }
    }
    let (grown, took) = (mib(before, memory(std::process::id())), start.elapsed());
    let (keys, evictions) = (antiscalper.keys(), antiscalper.evictions());
    println!(
        "limiter: {KEYS} users and {KEYS} addresses in {took:.1?}: {grown:+.1} MiB, {keys} keys kept, {evictions} given \
         up, {refused} refused that had asked for nothing yet"
    );
    assert!(grown < 4.0, "{grown:.1} MiB");
    assert!(keys <= 2 * ROOM.next_multiple_of(8) && keys > ROOM, "{keys} keys");
    assert!(evictions > u64::from(KEYS), "the flood was none: {evictions}");
    // Two keys may meet in a bucket and a tag: 8 in 2^24 of each kind, each costing a unit of ten.
    assert!(refused < KEYS / 100_000, "{refused} callers were refused for others");
    assert!(
        antiscalper.check(greedy.0, greedy.1).is_err(),
        "the flood has made the limiter forget who is over the limit"
    );
}

/// A number's digits, without allocating for it.
fn itoa(number: u32, digits: &mut [u8; 10]) -> &str {
    let (mut rest, mut at) = (number, 10);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return std::str::from_utf8(&digits[at..]).expect("digits");
        }
    }
}

#[test]
fn callers_that_forge_their_addresses_leave_the_servers_memory_as_it_is() {
    let _others = among_others();
    let site = Site::new()
        .text("antiscalper.user_rate", "5/m")
        .text("antiscalper.address_rate", "5/m")
        .set("antiscalper.max_keys", 2_000)
        .set("ingest.trusted_proxies", "[\"127.0.0.0/8\"]");
    let server = site.start();
    server.create(&flash_sale("forged", 100));
    server.create(&flash_sale("over", 1_000_000));
    // What a claim needs is there before it is measured; what winners and waiting entries take is 300 bytes each.
    let warm = flood(&server, 0..1_000);
    let (before, start) = (memory(server.pid()), Instant::now());
    let statuses = flood(&server, 1_000..1_000 + CALLERS);
    let grown = mib(before, memory(server.pid()));
    println!(
        "limiter behind a proxy: {CALLERS} users and addresses in {:.1?}: {grown:+.1} MiB, answers {statuses:?}",
        start.elapsed()
    );
    assert_eq!(warm.len() + statuses.len(), CALLERS as usize / 1_000 + 1);
    assert!(grown < 16.0, "{grown:.1} MiB");
    eventually("the limiter is full", || server.metric("forebay_limiter_keys").is_some_and(|n| n > 3_900.0));
    let keys = server.metric("forebay_limiter_keys").expect("it is there");
    assert!(keys <= 4_000.0, "{keys} keys");
    // The limit holds for one address that the proxy vouches for, whatever its caller writes further left.
    let mut let_in = 0;
    for no in 0..20 {
        let forged = format!("203.0.113.{no}, 198.51.100.77");
        let request = claim("forged", &format!("same-{no}")).header("X-Forwarded-For", &forged);
        let answer = server.call(&request);
        assert!(
            matches!((answer.status, answer.slug().as_str()), (202, _) | (429, "rate-limited")),
            "{}",
            answer.text()
        );
        let_in += usize::from(answer.status == 202);
    }
    assert!((5..=6).contains(&let_in), "{let_in} of 20 were let in");
    is_well(&server, "forged", "well", before, 32.0);
}

/// Sends a claim each for callers of which every one has another name and another address, in pipelines of a thousand.
fn flood(server: &crate::support::Server, callers: std::ops::Range<u32>) -> Vec<u16> {
    let mut connection = Connection::open(server.public).expect("the server listens");
    connection.patience(Duration::from_secs(30)).expect("a socket");
    let mut last = Vec::new();
    let all: Vec<u32> = callers.collect();
    for thousand in all.chunks(1_000) {
        let mut status = 0;
        for hundred in thousand.chunks(100) {
            let bytes: Vec<u8> = hundred.iter().flat_map(|no| forged(*no).bytes()).collect();
            connection.send(&bytes).expect("the server reads");
            for _ in hundred {
                status = connection.answer().expect("an answer").expect("one").status;
                assert_eq!(status, 202, "nobody has asked before");
            }
        }
        last.push(status);
    }
    last
}

/// A claim that is accepted, by a buyer and from an address of its own.
fn forged(no: u32) -> Request {
    let [a, b, c, d] = (0x0b00_0000 + no).to_be_bytes();
    claim("over", &format!("f{no}")).header("X-Forwarded-For", &format!("{a}.{b}.{c}.{d}"))
}
