//! Who may call.
//!
//! - `open` asks nothing; the configuration allows it on loopback only.
//! - `service`: `Authorization: Bearer <key>`. Only digests are kept: a key is looked up by its SHA-256, so neither a leak
//!   of the configuration nor the time that a look-up takes tells a key.
//! - The operator's token is compared as digests, too, without stopping at the first difference.
//! - All failures look alike: missing, malformed, unknown or given twice is `unauthenticated`; only a known caller without
//!   the scope is told so.

use std::collections::HashMap;
use std::fmt;

use hyper::{HeaderMap, header};
use sha2::{Digest, Sha256};

use super::reply::Problem;
use crate::config::{Auth, Scope, ServiceKey};

/// The digest of the operator's token.
#[derive(Clone, Copy)]
pub struct TokenDigest([u8; 32]);

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(hidden)")
    }
}

impl TokenDigest {
    /// The digest of `token`.
    pub fn new(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Lets a request through that carries the token.
    ///
    /// # Errors
    /// [`Problem::Unauthenticated`].
    pub fn authorize(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let given = Self::new(bearer(headers).ok_or(Problem::Unauthenticated)?);
        let difference = self.0.iter().zip(given.0).fold(0, |difference, (a, b)| difference | (a ^ b));
        if std::hint::black_box(difference) == 0 { Ok(()) } else { Err(Problem::Unauthenticated) }
    }
}

/// Scopes as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Scopes(u8);

impl Scopes {
    fn of(scopes: &[Scope]) -> Self {
        Self(scopes.iter().fold(0, |bits, &scope| bits | Self::bit(scope)))
    }

    fn bit(scope: Scope) -> u8 {
        match scope {
            Scope::ClaimsWrite => 1,
            Scope::ClaimsSettle => 2,
            Scope::CartsWrite => 4,
            Scope::Read => 8,
        }
    }

    fn has(self, scope: Scope) -> bool {
        self.0 & Self::bit(scope) != 0
    }
}

/// Who may call the public listener.
#[derive(Debug)]
pub enum Authenticator {
    /// Anybody who can connect.
    Open,
    /// Holders of a key.
    Service(Services),
}

/// What a caller is called where nobody is asked for a key.
const ANYBODY: &str = "anybody";

/// The callers that have a key, by the key's digest.
pub struct Services(HashMap<[u8; 32], (String, Scopes)>);

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.values().map(|(name, _)| name)).finish()
    }
}

impl Authenticator {
    /// From the configuration, where [`Auth::Session`] is refused in this version; until it is served, it lets nobody in.
    pub fn new(auth: Auth, keys: &[ServiceKey]) -> Self {
        let keys = match auth {
            Auth::Open => return Self::Open,
            Auth::Service => keys,
            Auth::Session => &[],
        };
        let entry = |key: &ServiceKey| (key.sha256, (key.name.clone(), Scopes::of(&key.scopes)));
        Self::Service(Services(keys.iter().map(entry).collect()))
    }

    /// Lets a request through whose caller has `scope`; gives the caller's name.
    ///
    /// # Errors
    /// [`Problem::Unauthenticated`], or [`Problem::Forbidden`] for a known caller without the scope.
    pub fn authorize(&self, headers: &HeaderMap, scope: Scope) -> Result<&str, Problem> {
        let Self::Service(services) = self else { return Ok(ANYBODY) };
        let key = bearer(headers).ok_or(Problem::Unauthenticated)?;
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let (name, scopes) = services.0.get(&digest).ok_or(Problem::Unauthenticated)?;
        if scopes.has(scope) { Ok(name) } else { Err(Problem::Forbidden { scope: scope.as_str() }) }
    }
}

/// The credential of `Authorization: Bearer …`, given once; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let (scheme, credential) = value.split_once(' ')?;
    let credential = credential.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !credential.is_empty()).then_some(credential)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[&str]) -> HeaderMap {
        values.iter().map(|v| (header::AUTHORIZATION, v.parse().unwrap())).collect()
    }

    fn service(scopes: &[Scope]) -> Authenticator {
        let sha256 = Sha256::digest(b"fbk_secret").into();
        let key = ServiceKey { name: "orders".into(), sha256, scopes: scopes.to_vec() };
        Authenticator::new(Auth::Service, &[key])
    }

    #[test]
    fn an_open_listener_asks_nothing() {
        assert!(Authenticator::new(Auth::Open, &[]).authorize(&HeaderMap::new(), Scope::ClaimsWrite).is_ok());
    }

    #[test]
    fn a_service_may_do_what_its_scopes_say() {
        let claims = service(&[Scope::ClaimsWrite, Scope::CartsWrite]);
        for good in ["Bearer fbk_secret", "bearer fbk_secret", "BEARER  fbk_secret"] {
            assert!(claims.authorize(&with(&[good]), Scope::ClaimsWrite).is_ok(), "{good}");
        }
        let refused = claims.authorize(&with(&["Bearer fbk_secret"]), Scope::Read);
        assert!(matches!(refused, Err(Problem::Forbidden { scope: "read" })));
        let refused = claims.authorize(&with(&["Bearer fbk_secret"]), Scope::ClaimsSettle);
        assert!(matches!(refused, Err(Problem::Forbidden { scope: "claims:settle" })));
    }

    #[test]
    fn every_bad_credential_looks_the_same() {
        let service = service(&[Scope::Read]);
        let session = Authenticator::new(Auth::Session, &[]);
        let token = TokenDigest::new("operator");
        for bad in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &["Bearer wrong"],
            &["Basic fbk_secret"],
            &["fbk_secret"],
            &["Bearer fbk_secret x"],
            &["Bearer fbk_secret", "Bearer fbk_secret"],
        ] {
            for result in [
                service.authorize(&with(bad), Scope::Read).map(|_| ()),
                session.authorize(&with(bad), Scope::Read).map(|_| ()),
                token.authorize(&with(bad)),
            ] {
                assert!(matches!(result, Err(Problem::Unauthenticated)), "{bad:?}");
            }
        }
    }

    #[test]
    fn the_operators_token_lets_in_and_shows_nowhere() {
        let token = TokenDigest::new("operator");
        assert!(token.authorize(&with(&["Bearer operator"])).is_ok());
        assert!(token.authorize(&with(&["Bearer operatos"])).is_err());
        assert_eq!(format!("{token:?}"), "TokenDigest(hidden)");
        assert_eq!(format!("{:?}", service(&[Scope::Read])), "Service([\"orders\"])");
    }
}
