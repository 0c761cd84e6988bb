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
        assert_ne!(answer.slug(), "not-found", "{} is documented and not served", operation.id);
        held.check(&operation.id, &answer);
        other_listener(held, &server, operation);
    }
    other_methods(held, &server);
    for listener in [Listener::Public, Listener::Admin] {
        for path in ["/", "/nothing", "/v1", "/v1/carts/u1", "/admin/v1", "/admin/v1/dead-letters"] {
            let answer = call(&server, listener, &Request::get(path));
            answer.expect(404, "not-found");
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

pub fn guarded(held: &Held) {
    let key = "fbk_a-key-without-any-scope-of-use";
    let token = "the-token-of-the-operator";
    let digest: String = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let table = format!("[[service_keys]]\nname = \"carts\"\nsha256 = \"{digest}\"\nscopes = [\"carts:write\"]\n");
    let site = Site::new().text("ingest.auth", "service").text("ingest.admin_token", token).tables(&table);
    let server = site.start();
    for operation in &held.operations {
        let request = || Request::new(&operation.method, &operation.path_with(NOBODY));
        if !operation.is_guarded() {
            held.ask(&server, &operation.id, &request(), 200, "");
            continue;
        }
        held.ask(&server, &operation.id, &request(), 401, "unauthenticated");
        let wrong = request().header("Authorization", "Bearer wrong");
        held.ask(&server, &operation.id, &wrong, 401, "unauthenticated");
        match operation.listener {
            Listener::Public => {
                let known = request().header("Authorization", &format!("Bearer {key}"));
                held.ask(&server, &operation.id, &known, 403, "forbidden");
            }
            Listener::Admin => {
                let known = request().header("Authorization", &format!("Bearer {token}"));
                let answer = server.ask_admin(&known);
                held.check(&operation.id, &answer);
                assert_ne!(answer.status, 401, "{}", operation.id);
            }
        }
    }
}
