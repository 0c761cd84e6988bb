//! A claim whose row the database refused is in the dead letters, and its buyer's all the same.

use std::time::{Duration, Instant};

use crate::support::Site;
use crate::support::http::Request;
use crate::support::sale::{claim_of, limited};

/// Requests that the cache has answered or passed on.
fn reads(server: &crate::support::Server) -> f64 {
    let result =
        |result| server.metric(&format!("forebay_cache_requests_total{{level=\"local\",result=\"{result}\"}}"));
    result("hit").unwrap_or(0.0) + result("miss").unwrap_or(0.0)
}

#[test]
fn an_acknowledged_claim_is_found_even_where_its_row_was_refused() {
    for local_ttl in ["2s", "0s"] {
        let site = Site::new().text("cache.local_ttl", local_ttl);
        let server = site.start();
        server.create(&limited("dead", 100, 3));
        server.drained("dead");
        site.sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON claims WHEN NEW.quantity = 2 \
             BEGIN SELECT RAISE(ABORT, 'this row is refused'); END",
        );
        let [first, told] = [1, 2].map(|n| server.call(&claim_of("dead", "u1", n).key(&format!("k{n}"))).json());
        let balance = server.drained("dead");
        assert_eq!((&balance["persisted"], &balance["dead"], &balance["error"]), (&1.into(), &2.into(), &0.into()));
        assert_eq!((&balance["money"]["dead"], &balance["money"]["error"]), (&1_980.into(), &0.into()));
        let path = format!("/v1/claims/{}", told["claim_id"].as_str().unwrap());
        assert_eq!(server.call(&Request::get(&path)).json(), told, "accepted, as it was told");
        let list = server.call(&Request::get("/v1/users/u1/claims")).json();
        let shown: Vec<_> = list["claims"].as_array().unwrap().iter().map(|c| (&c["claim_id"], &c["status"])).collect();
        assert_eq!(shown, [(&told["claim_id"], &"accepted".into()), (&first["claim_id"], &"persisted".into())]);

        let before = reads(&server);
        let start = Instant::now();
        let waited = server.call(&Request::get(&format!("{path}?wait=2")));
        assert_eq!(waited.json(), told);
        assert!(start.elapsed() >= Duration::from_millis(1_900), "an answer at once makes its client ask for ever");
        let same = server.call(&Request::get(&format!("{path}?wait=1")).header("If-None-Match", "\"1\""));
        assert_eq!(same.status, 304);
        let looks = reads(&server) - before;
        assert!(looks < 20.0, "two long polls looked {looks} times: they spin");
        drop(server);
        let server = site.start();
        assert_eq!(server.call(&Request::get(&path)).json(), told, "after a restart");
    }
}
