//! Browsers: which origins may read, and what they are told beforehand.

use crate::support::Site;
use crate::support::http::{Answer, Request};
use crate::support::sale::{claim, flash_sale};

const SHOP: &str = "https://shop.example";

fn permission(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

#[test]
fn listed_origins_may_read_and_others_may_not() {
    let site = Site::new().set("ingest.cors_origins", "[\"http://localhost:3000\", \"https://shop.example\"]");
    let server = site.start();
    server.create(&flash_sale("cors", 10));
    let path = "/v1/campaigns/cors/claims";
    let asked = |origin| Request::new("OPTIONS", path).header("Origin", origin);
    let leave = server.call(&asked(SHOP).header("Access-Control-Request-Method", "POST"));
    assert_eq!((leave.status, leave.body.len(), permission(&leave)), (204, 0, Some(SHOP)));
    assert_eq!(leave.header("access-control-allow-methods"), Some("GET, POST"));
    assert!(leave.header("access-control-allow-headers").is_some_and(|h| h.contains("Idempotency-Key")));
    assert_eq!((leave.header("access-control-max-age"), leave.header("vary")), (Some("600"), Some("Origin")));
    let refused = server.call(&asked("https://evil.test").header("Access-Control-Request-Method", "POST"));
    assert_eq!((refused.status, permission(&refused)), (405, None));
    let plain = server.call(&asked(SHOP));
    assert_eq!((plain.status, permission(&plain)), (405, Some(SHOP)), "no method is asked for: no preflight");

    let taken = server.call(&claim("cors", "u1").header("Origin", SHOP));
    assert_eq!((taken.status, permission(&taken)), (202, Some(SHOP)));
    assert!(taken.header("access-control-expose-headers").is_some_and(|h| h.contains("Idempotency-Replayed")));
    let again = server.call(&claim("cors", "u1").header("Origin", SHOP));
    assert_eq!((again.expect(409, "already-claimed").status, permission(&again)), (409, Some(SHOP)), "refusals, too");
    let other = server.call(&claim("cors", "u2").header("Origin", "https://evil.test"));
    assert_eq!((other.status, permission(&other)), (202, None), "what a page may read, not who may claim");
    assert_eq!(permission(&server.call(&Request::get("/v1/campaigns"))), None);
    let admin = server.ask_admin(&Request::get("/version").header("Origin", SHOP));
    assert_eq!((admin.status, permission(&admin)), (200, None), "the operator's listener is no browser's");
}

#[test]
fn without_origins_no_browser_is_told_anything() {
    let server = crate::shared();
    let answer = server.call(&Request::get("/v1/campaigns").header("Origin", SHOP));
    assert_eq!((answer.status, permission(&answer), answer.header("vary")), (200, None, None));
}
