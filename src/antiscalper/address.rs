//! Who is calling: the address behind the proxies, and the key under which it is limited.
//!
//! Forwarding headers are written by anyone, so they are read only when the peer is a trusted proxy, and **from the
//! right**: each trusted hop vouches for the one entry that it appended. The first address that is not trusted is the
//! client. An entry that can't be read (an obfuscated identifier, `unknown`, garbage) stops the walk at the last hop
//! that was good. What stands further left is the client's own invention and is never reached.
//!
//! **`Forwarded` and `X-Forwarded-For` together** are believed when both lead to the same client; otherwise the peer's
//! own address counts. Most proxies append to one of the two and pass the other on untouched, so whichever "wins" by
//! rule, a client could forge that one; where they differ, forging only lands it among those limited together.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::limits::FORWARDED_HOPS_MAX;

/// The networks of our own proxies.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

/// What an address is limited by: an IPv4 address, or the /64 of an IPv6 address, since a subscriber owns all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateKey {
    /// The whole address.
    V4([u8; 4]),
    /// The first 64 bits.
    V6([u8; 8]),
}

impl RateKey {
    /// The bytes to hash.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::V4(bytes) => bytes,
            Self::V6(bytes) => bytes,
        }
    }
}

/// The key under which `address` is limited; an IPv4-mapped IPv6 address counts as the IPv4 address it is.
pub fn rate_key(address: IpAddr) -> RateKey {
    match address.to_canonical() {
        IpAddr::V4(v4) => RateKey::V4(v4.octets()),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h, ..] = v6.octets();
            RateKey::V6([a, b, c, d, e, f, g, h])
        }
    }
}

impl TrustedProxies {
    /// Networks in IPv4-mapped IPv6 form count as the IPv4 networks that they are.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks.into_iter().map(canonical_network).collect())
    }

    /// Whether `address` is one of our proxies.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address of the client behind `peer`, given the lines of both headers in the order of the message. A line
    /// that is not text must be passed as `""`: dropping it would let a neighbouring, forged line take its place.
    pub fn client_address<'a>(
        &self,
        peer: IpAddr,
        forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
        forwarded: impl DoubleEndedIterator<Item = &'a str>,
    ) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let mut forwarded_for = forwarded_for.peekable();
        let mut forwarded = forwarded.peekable();
        let has_both = forwarded_for.peek().is_some() && forwarded.peek().is_some();
        let by_x = self.walk(peer, forwarded_for.rev().flat_map(|line| line.rsplit(',').map(node)));
        let by_standard = self.walk(peer, forwarded.rev().flat_map(|line| elements(line).map(for_node)));
        match (by_x, by_standard) {
            (a, b) if a == b => a,
            _ if has_both => peer,
            (a, b) if a == peer => b,
            (a, _) => a,
        }
    }

    /// From the right: past the trusted hops to the first that is not.
    fn walk(&self, peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut nearest = peer;
        for hop in hops.take(FORWARDED_HOPS_MAX) {
            let Some(address) = hop else { return nearest };
            nearest = address;
            if !self.trusts(address) {
                break;
            }
        }
        nearest
    }
}

fn canonical_network(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Ok(mapped) = Ipv4Net::new(v4, length)
    {
        return IpNet::V4(mapped);
    }
    network
}

/// One address as proxies write it: bare or in brackets, with or without a port.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches([' ', '\t']);
    let address = if let Some(bracketed) = text.strip_prefix('[') {
        let (inside, after) = bracketed.split_once(']')?;
        after.is_empty().then_some(()).or_else(|| is_port(after.strip_prefix(':')?))?;
        IpAddr::V6(inside.parse().ok()?)
    } else if let Some((host, port)) = text.split_once(':')
        && !port.contains(':')
    {
        is_port(port)?;
        IpAddr::V4(host.parse::<Ipv4Addr>().ok()?)
    } else {
        text.parse().ok()?
    };
    Some(address.to_canonical())
}

/// A port number, or RFC 7239's obfuscated one.
fn is_port(text: &str) -> Option<()> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    (number || text.len() > 1 && text.starts_with('_')).then_some(())
}

/// The last elements of a `Forwarded` line from the right. A quoted string may hold commas, and only reading from the
/// left tells what is quoted, so their places are noted in passing. An open quote spoils the line: one `None`.
fn elements(line: &str) -> impl Iterator<Item = Option<&str>> {
    let mut places = [None; FORWARDED_HOPS_MAX];
    let mut count = 0;
    let mut rest = Some(line);
    while let Some(text) = rest {
        let Some((element, after)) = split_unquoted(text, b',') else {
            (places, count) = ([None; FORWARDED_HOPS_MAX], 1);
            break;
        };
        places[count % FORWARDED_HOPS_MAX] = Some(element);
        (count, rest) = (count + 1, after);
    }
    (count.saturating_sub(FORWARDED_HOPS_MAX)..count).rev().map(move |i| places[i % FORWARDED_HOPS_MAX])
}

/// The text before the first `separator` outside quotes, and the text after it if there is one. `None`: an open quote.
fn split_unquoted(text: &str, separator: u8) -> Option<(&str, Option<&str>)> {
    let (mut quoted, mut escaped) = (false, false);
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => return Some((&text[..i], Some(&text[i + 1..]))),
            _ => {}
        }
    }
    (!quoted).then_some((text, None))
}

/// The address of an element's one `for` parameter.
fn for_node(element: Option<&str>) -> Option<IpAddr> {
    let mut rest = element;
    let mut found = None;
    while let Some(text) = rest {
        let (pair, after) = split_unquoted(text, b';')?;
        rest = after;
        let Some((name, value)) = pair.split_once('=') else { continue };
        if name.trim_matches([' ', '\t']).eq_ignore_ascii_case("for") && found.replace(value).is_some() {
            return None;
        }
    }
    let value = found?.trim_matches([' ', '\t']);
    match value.strip_prefix('"') {
        Some(quoted) => node(quoted.strip_suffix('"')?),
        None => node(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &[&str] = &[];

    fn proxies() -> TrustedProxies {
        let networks = ["10.0.0.0/8", "192.168.1.1/32", "2001:db8:aa::/48", "::ffff:172.16.0.0/108"];
        TrustedProxies::new(networks.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn the_client_is_the_first_untrusted_address_from_the_right() {
        #[rustfmt::skip]
        let table: &[(&str, &[&str], &[&str], &str)] = &[
            // peer, X-Forwarded-For, Forwarded, client
            ("203.0.113.9", NONE, NONE, "203.0.113.9"),
            ("203.0.113.9", &["1.1.1.1"], NONE, "203.0.113.9"),
            ("203.0.113.9", NONE, &["for=1.1.1.1"], "203.0.113.9"),
            ("::ffff:203.0.113.9", &["1.1.1.1"], NONE, "203.0.113.9"),
            ("10.0.0.1", NONE, NONE, "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7"], NONE, "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], NONE, "198.51.100.7"),
            ("172.16.3.4", &["198.51.100.7"], NONE, "198.51.100.7"),
            ("172.32.0.1", &["198.51.100.7"], NONE, "172.32.0.1"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.7"], NONE, "198.51.100.7"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.7, 10.0.0.2"], NONE, "198.51.100.7"),
            ("10.0.0.1", &["6.6.6.6", "198.51.100.7,10.0.0.2", "192.168.1.1"], NONE, "198.51.100.7"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], NONE, "10.0.0.3"),
            ("10.0.0.1", &["198.51.100.7:4711"], NONE, "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7:port"], NONE, "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7:70000"], NONE, "10.0.0.1"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], NONE, "2001:db8::7"),
            ("10.0.0.1", &["[2001:db8::7]"], NONE, "2001:db8::7"),
            ("10.0.0.1", &["[2001:db8::7]x"], NONE, "10.0.0.1"),
            ("10.0.0.1", &["[2001:db8::7"], NONE, "10.0.0.1"),
            ("10.0.0.1", &["[198.51.100.7]"], NONE, "10.0.0.1"),
            ("10.0.0.1", &["2001:db8::7"], NONE, "2001:db8::7"),
            ("10.0.0.1", &["fe80::1%eth0"], NONE, "10.0.0.1"),
            ("10.0.0.1", &["::ffff:198.51.100.7"], NONE, "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7, ::ffff:10.9.9.9"], NONE, "198.51.100.7"),
            ("2001:db8:aa::1", &["198.51.100.7, 2001:db8:aa:1::2"], NONE, "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7, garbage, 10.0.0.2"], NONE, "10.0.0.2"),
            ("10.0.0.1", &["198.51.100.7, unknown"], NONE, "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7,"], NONE, "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7", ""], NONE, "10.0.0.1"),
            ("10.0.0.1", &["010.0.0.2"], NONE, "10.0.0.1"),
            ("10.0.0.1", NONE, &["for=198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", NONE, &["For=198.51.100.7;proto=https;by=10.0.0.1"], "198.51.100.7"),
            ("10.0.0.1", NONE, &["proto=https ; for=\"198.51.100.7:99\" "], "198.51.100.7"),
            ("10.0.0.1", NONE, &["for=6.6.6.6, for=198.51.100.7", "for=10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", NONE, &["for=\"[2001:db8::7]:4711\""], "2001:db8::7"),
            ("10.0.0.1", NONE, &["for=\"[2001:db8::7]:_p\""], "2001:db8::7"),
            ("10.0.0.1", NONE, &["for=198.51.100.7, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", NONE, &["for=198.51.100.7, for=unknown"], "10.0.0.1"),
            ("10.0.0.1", NONE, &["for=198.51.100.7, proto=http"], "10.0.0.1"),
            ("10.0.0.1", NONE, &["for=6.6.6.6;for=198.51.100.7"], "10.0.0.1"),
            ("10.0.0.1", NONE, &["host=\"a, for=6.6.6.6\";for=198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", NONE, &["host=\"a\\\", for=6.6.6.6\";for=198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", NONE, &["for=6.6.6.6;host=\", for=198.51.100.7"], "10.0.0.1"),
            ("10.0.0.1", NONE, &["for=\"198.51.100.7"], "10.0.0.1"),
            ("10.0.0.1", NONE, &[""], "10.0.0.1"),
            // Both: believed when they agree, otherwise the peer.
            ("10.0.0.1", &["198.51.100.7"], &["for=198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.7"], &["for=198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7"], &["for=6.6.6.6"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6"], &["for=_hidden"], "10.0.0.1"),
            ("10.0.0.1", &[""], &["for=6.6.6.6"], "10.0.0.1"),
        ];
        for (peer, x, standard, client) in table {
            let found = proxies().client_address(peer.parse().unwrap(), x.iter().copied(), standard.iter().copied());
            assert_eq!(found.to_string(), *client, "{peer} {x:?} {standard:?}");
        }
        assert!(table.len() >= 25);
    }

    #[test]
    fn an_endless_chain_is_followed_no_further_than_the_limit() {
        let hop = |i: usize| format!("10.1.{}.{}", i / 256, i % 256);
        let chain: Vec<String> = (0..10_000).map(hop).collect();
        let by = |line: String, standard: bool| {
            let (x, f) = if standard { (None, Some(line.as_str())) } else { (Some(line.as_str()), None) };
            proxies().client_address("10.0.0.1".parse().unwrap(), x.into_iter(), f.into_iter()).to_string()
        };
        assert_eq!(by(chain.join(","), false), hop(10_000 - FORWARDED_HOPS_MAX));
        assert_eq!(by(format!("for={}", chain.join(",for=")), true), hop(10_000 - FORWARDED_HOPS_MAX));
    }

    #[test]
    fn an_ipv6_address_is_limited_by_its_64_and_a_mapped_one_as_ipv4() {
        let key = |text: &str| rate_key(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), key("2001:db8:1:2::"));
        assert_ne!(key("2001:db8:1:2::"), key("2001:db8:1:3::"));
        assert_eq!(key("::ffff:198.51.100.7"), RateKey::V4([198, 51, 100, 7]));
        assert_ne!(key("198.51.100.7"), key("198.51.100.8"));
        assert_eq!(key("2001:db8:1:2::9").as_bytes(), [0x20, 1, 0xd, 0xb8, 0, 1, 0, 2]);
    }
}
