//! Who may call: service keys with scopes, the operator's token, and what an open listener is refused.

use crate::support::http::Request;
use crate::support::sale::{claim, flash_sale};
use crate::support::{Site, stdout};

/// A key with its table, from the command that makes them.
fn key(site: &Site, name: &str, scopes: &str) -> (String, String) {
    let text = stdout(
        &crate::support::plain(["key", "new", "--name", name, "--scope", scopes])
            .current_dir(site.folder.path())
            .output()
            .expect("the binary runs"),
    );
    let secret = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c))).find(|w| w.starts_with("fbk_"));
    let table: String =
        text.lines().skip_while(|l| !l.starts_with("[[service_keys]]")).map(|l| format!("{l}\n")).collect();
    assert!(table.contains("sha256"), "{text}");
    (secret.unwrap_or_else(|| panic!("no key in {text}")).to_owned(), table)
}

#[test]
fn a_service_does_what_its_scopes_say_and_all_bad_credentials_look_alike() {
    let site = Site::new();
    let (orders, first) = key(&site, "orders", "claims:write,read");
    let (reader, second) = key(&site, "reader", "read");
    let site = site.text("ingest.auth", "service").tables(&first).tables(&second);
    let server = site.start();
    server.create(&flash_sale("auth", 10));
    let bearer = |key: &str| format!("Bearer {key}");
    let taken = server.call(&claim("auth", "u1").header("Authorization", &bearer(&orders)));
    assert_eq!(taken.status, 202, "{}", taken.text());
    let id = taken.field("claim_id");
    for path in ["/v1/campaigns", "/v1/campaigns/auth", "/v1/users/u1/claims", &format!("/v1/claims/{id}")] {
        let read = server.call(&Request::get(path).header("Authorization", &bearer(&reader)));
        assert_eq!(read.status, 200, "{path}");
        server.call(&Request::get(path)).expect(401, "unauthenticated");
    }
    let refused = server.call(&claim("auth", "u2").header("Authorization", &bearer(&reader)));
    refused.expect(403, "forbidden");
    let good = bearer(&orders);
    let mut bodies = Vec::new();
    for bad in ["", "Bearer", "Bearer fbk_wrong", "Basic dTpw", &orders, &format!("{good}x"), &format!("{good} x")] {
        let answer = server.call(&claim("auth", "u3").header("Authorization", bad));
        answer.expect(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{bad:?}");
        bodies.push(answer.body);
    }
    let twice = claim("auth", "u3").header("Authorization", &good).header("Authorization", &good);
    bodies.push(server.call(&twice).expect(401, "unauthenticated").body.clone());
    bodies.push(server.call(&claim("auth", "u3")).expect(401, "unauthenticated").body.clone());
    bodies.push(server.call(&claim("nowhere", "u3")).expect(401, "unauthenticated").body.clone());
    assert!(bodies.windows(2).all(|w| w[0] == w[1]), "bad credentials can be told apart");
    assert_eq!(server.balance("auth")["free"], 9);
    let log = std::fs::read_to_string(site.log()).unwrap();
    assert!(!log.contains(&orders) && !log.contains("fbk_"), "a key is in the log");
}

#[test]
fn the_operators_token_is_asked_for_on_every_admin_route() {
    let token = "a-token-of-the-operator-0123456789";
    let site = Site::new().text("ingest.admin_token", token);
    let mut server = site.spawn(&[]);
    let admin = |request: &Request| crate::support::http::once(site.admin, request, std::time::Duration::from_secs(5));
    let bearer = format!("Bearer {token}");
    crate::support::eventually("the server is ready", || {
        assert!(server.ended().is_none(), "{}", server.log_tail());
        admin(&Request::get("/readyz").header("Authorization", &bearer)).is_ok_and(|a| a.status == 200)
    });
    for (request, status) in [
        (Request::post("/admin/v1/campaigns", &flash_sale("token", 1)), 201),
        (Request::get("/admin/v1/campaigns"), 200),
        (Request::get("/admin/v1/campaigns/token/balance"), 200),
        (Request::get("/metrics"), 200),
    ] {
        for bad in ["", "Bearer wrong-token-wrong-token", "Basic dTpw"] {
            let refused = admin(&request.clone().header("Authorization", bad)).unwrap();
            refused.expect(401, "unauthenticated");
        }
        let let_in = admin(&request.clone().header("Authorization", &bearer)).unwrap();
        assert_eq!(let_in.status, status, "{request:?}: {}", let_in.text());
    }
    let log = std::fs::read_to_string(site.log()).unwrap();
    assert!(!log.contains(token), "the token is in the log");
}

#[test]
fn beyond_loopback_nothing_starts_without_credentials() {
    let open = Site::new().text("ingest.listen", "0.0.0.0:0");
    let (status, text) = open.refuse();
    assert_eq!(status.code(), Some(78), "{text}");
    assert!(text.contains("ingest.auth") && text.contains("service"), "{text}");
    let admin = Site::new().text("ingest.admin_listen", "0.0.0.0:0");
    let (status, text) = admin.refuse();
    assert_eq!(status.code(), Some(78), "{text}");
    assert!(text.contains("ingest.admin_token"), "{text}");
    assert!(!open.data().exists() && !admin.data().exists(), "a refused start makes nothing");
}
