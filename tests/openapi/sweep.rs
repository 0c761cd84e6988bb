//! What every operation answers alike: to broken HTTP, to heads that are too large, without a credential, on the wrong
//! listener and with the wrong method.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::document::{Listener, Operation};
use crate::held::Held;
use crate::support::http::{Answer, Connection, Request};
use crate::support::{Server, Site};

/// Connections that the admin listener takes.
const ADMIN_CONNECTIONS: u64 = forebay::limits::ADMIN_CONNECTIONS_MAX;

/// An identifier that is nobody's.
const NOBODY: &str = "nobody";

/// The title of what is answered on a path that is not served.
const NOTHING_HERE: &str = "There is nothing here";

/// Every scope that a service's key may have.
const SCOPES: [&str; 4] = ["claims:write", "claims:settle", "carts:write", "read"];

pub fn every_operation(held: &Held) {
    let site = Site::new();
    let server = site.start();
    for operation in &held.operations {
        let request = || Request::new(&operation.method, &operation.path_with(NOBODY));
        held.ask(&server, &operation.id, &request().header("Host", "another"), 400, "invalid-request");
        let large = request().header("X-Large", &"x".repeat(20 * 1024));
        held.ask(&server, &operation.id, &large, 431, "headers-too-large");
        let named = request().header("X-Request-Id", "a-request-of-mine");
        let answer = call(&server, operation.listener, &named);
        assert_eq!(answer.header("x-request-id"), Some("a-request-of-mine"), "{}", operation.id);
        // A thing that is not there has another title than a path that is not served.
        assert!(!answer.text().contains(NOTHING_HERE), "{} is documented and not served", operation.id);
        held.check(&operation.id, &answer);
        other_listener(held, &server, operation);
    }
    other_methods(held, &server);
    for listener in [Listener::Public, Listener::Admin] {
        let letters = ["/admin/v1/dead-letters/", "/admin/v1/dead-letters/7", "/admin/v1/dead-letters//7/requeue"];
        for path in ["/", "/nothing", "/v1", "/v1/carts", "/v1/carts/u1/items/s1", "/admin/v1"].iter().chain(&letters) {
            let answer = call(&server, listener, &Request::get(path));
            answer.expect(404, "not-found");
            assert!(answer.text().contains(NOTHING_HERE), "{}", answer.text());
            held.check_shared("NoRoute", &answer);
        }
    }
    too_many_connections(held, &server);
}

fn call(server: &Server, listener: Listener, request: &Request) -> Answer {
    match listener {
        Listener::Public => server.call(request),
        Listener::Admin => server.ask_admin(request),
    }
}

fn other_listener(held: &Held, server: &Server, operation: &Operation) {
    let other = if operation.listener == Listener::Public { Listener::Admin } else { Listener::Public };
    let answer = call(server, other, &Request::new(&operation.method, &operation.path_with(NOBODY)));
    answer.expect(404, "not-found");
    held.check_shared("NoRoute", &answer);
}

fn other_methods(held: &Held, server: &Server) {
    let mut methods: BTreeMap<(&str, bool), BTreeSet<&str>> = BTreeMap::new();
    for operation in &held.operations {
        let at = methods.entry((&operation.path, operation.listener == Listener::Public)).or_default();
        at.insert(&operation.method);
    }
    for ((path, is_public), served) in methods {
        let listener = if is_public { Listener::Public } else { Listener::Admin };
        let operation = held.operations.iter().find(|o| o.path == path).expect("it was listed");
        for method in ["GET", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"] {
            if served.contains(method) {
                continue;
            }
            let answer = call(server, listener, &Request::new(method, &operation.path_with(NOBODY)));
            answer.expect(405, "method-not-allowed");
            held.check_shared("OtherMethod", &answer);
            let allowed: BTreeSet<_> = answer.header("allow").unwrap_or_default().split(", ").collect();
            assert_eq!(allowed, served, "{method} {path}");
        }
    }
}

/// The words for a connection too many come whatever would have been asked on it.
fn too_many_connections(held: &Held, server: &Server) {
    let open = || Connection::open(server.admin).expect("a connection");
    let mut taken: Vec<_> = (0..ADMIN_CONNECTIONS).map(|_| open()).collect();
    let answer = open().answer().expect("the words").expect("an answer");
    answer.expect(503, "overloaded");
    for operation in held.operations.iter().filter(|o| o.listener == Listener::Admin) {
        held.check(&operation.id, &answer);
    }
    held.check_shared("NoConnection", &answer);
    taken.clear();
}

/// A key with the scopes, and the table that makes it known.
fn key_with<'a>(name: &str, scopes: impl Iterator<Item = &'a str>) -> (String, String) {
    let key = format!("fbk_a-key-of-{name}");
    let digest: String = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let scopes: Vec<_> = scopes.collect();
    (key, format!("[[service_keys]]\nname = \"{name}\"\nsha256 = \"{digest}\"\nscopes = {scopes:?}\n"))
}

pub fn guarded(held: &Held) {
    let token = "the-token-of-the-operator";
    let (mut tables, mut only, mut others) = (String::new(), BTreeMap::new(), BTreeMap::new());
    for (no, scope) in SCOPES.into_iter().enumerate() {
        let one = key_with(&format!("only-{no}"), std::iter::once(scope));
        let rest = key_with(&format!("but-{no}"), SCOPES.into_iter().filter(|s| *s != scope));
        tables += &(one.1 + &rest.1);
        only.insert(scope, one.0);
        others.insert(scope, rest.0);
    }
    let site = Site::new().text("ingest.auth", "service").text("ingest.admin_token", token).tables(&tables);
    let server = site.start();
    for operation in &held.operations {
        let request = || Request::new(&operation.method, &operation.path_with(NOBODY));
        let bearing = |credential: &str| request().header("Authorization", &format!("Bearer {credential}"));
        if !operation.is_guarded() {
            held.ask(&server, &operation.id, &request(), 200, "");
            continue;
        }
        held.ask(&server, &operation.id, &request(), 401, "unauthenticated");
        held.ask(&server, &operation.id, &bearing("wrong"), 401, "unauthenticated");
        let enough = match (operation.listener, operation.scope()) {
            (Listener::Public, Some(scope)) => {
                held.ask(&server, &operation.id, &bearing(&others[scope]), 403, "forbidden");
                &only[scope]
            }
            (Listener::Public, None) => panic!("{} names no scope", operation.id),
            (Listener::Admin, _) => token,
        };
        let answer = call(&server, operation.listener, &bearing(enough));
        held.check(&operation.id, &answer);
        assert!(!matches!(answer.status, 401 | 403), "{}: {}", operation.id, answer.text());
    }
}
