//! What users of other such engines complained of, each as a test.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use crate::support::http::{Answer, Connection, Request};
use crate::support::sale::{claim, claim_of, flash_sale, limited};
use crate::support::sql::Lock;
use crate::support::{Server, Site, eventually};

#[test]
fn sixty_four_requests_at_once_of_one_buyer_give_one_claim_and_its_name_to_the_others() {
    let server = crate::shared();
    server.create(&flash_sale("rush", 1_000));
    for round in 0..5 {
        let user = format!("u{round}");
        let mut connections: Vec<_> = (0..64).map(|_| Connection::open(server.public).unwrap()).collect();
        let request = claim("rush", &user).bytes();
        let (last, first) = (request.len() - 1, &request[..request.len() - 1]);
        connections.iter_mut().for_each(|c| c.send(first).unwrap());
        connections.iter_mut().for_each(|c| c.send(&request[last..]).unwrap());
        let answers: Vec<Answer> = connections.iter_mut().map(|c| c.answer().unwrap().expect("an answer")).collect();
        let (taken, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 202);
        assert_eq!((taken.len(), refused.len()), (1, 63));
        let id = taken[0].field("claim_id");
        for answer in refused {
            assert_eq!(answer.expect(409, "already-claimed").field("claim_id"), id);
        }
    }
    assert_eq!(server.balance("rush")["free"], 995);
}

#[test]
fn sixty_four_retries_at_once_with_one_key_are_one_claim_with_one_answer() {
    let server = crate::shared();
    server.create(&limited("rush-key", 1_000, 10));
    let request = claim_of("rush-key", "u1", 2).key("k").bytes();
    let mut connections: Vec<_> = (0..64).map(|_| Connection::open(server.public).unwrap()).collect();
    connections.iter_mut().for_each(|c| c.send(&request).unwrap());
    let answers: Vec<Answer> = connections.iter_mut().map(|c| c.answer().unwrap().expect("an answer")).collect();
    assert!(answers.iter().all(|a| a.status == 202 && a.body == answers[0].body));
    assert_eq!(answers.iter().filter(|a| a.header("idempotency-replayed").is_none()).count(), 1, "one was the first");
    assert_eq!(server.balance("rush-key")["free"], 998);
}

#[test]
fn a_full_buffer_drops_nothing_says_so_and_drains() {
    let site = Site::new().set("buffer.max_entries", 1_000).set("workers.batch_max", 50);
    let server = site.start();
    server.create(&flash_sale("full", 100_000));
    server.drained("full");
    let lock = Lock::take(&site.database());
    let mut connection = Connection::open(server.public).unwrap();
    let mut taken = HashSet::new();
    let mut refusals = 0;
    for no in 0..1_500 {
        let answer = connection.call(&claim("full", &format!("u{no}"))).unwrap();
        match answer.status {
            202 => assert!(taken.insert(answer.field("claim_id"))),
            _ => {
                answer.expect(503, "buffer-full");
                assert!(answer.header("retry-after").is_some());
                refusals += 1;
            }
        }
    }
    assert!((900..=1_001).contains(&taken.len()) && refusals > 400, "{} taken, {refusals} refused", taken.len());
    let holder = server.call(&claim("full", "u0"));
    holder.expect(409, "already-claimed");
    let balance = server.balance("full");
    assert_eq!(balance["accepted"], taken.len(), "{balance}");
    assert!(server.metric("forebay_buffer_entries").is_some_and(|n| n >= 1_000.0));
    lock.release();
    let balance = server.drained("full");
    assert_eq!(balance["persisted"], taken.len());
    let rows: HashSet<_> = site.sql("SELECT claim_id FROM claims").into_iter().map(|r| r[0].clone()).collect();
    assert_eq!(rows, taken);
    server.claimed("full", "u1499");
}

#[test]
fn one_poison_row_blocks_nothing() {
    let site = Site::new().set("workers.batch_max", 200);
    let server = site.start();
    server.create(&flash_sale("poison", 10_000));
    server.drained("poison");
    site.sql(
        "CREATE TRIGGER refuse BEFORE INSERT ON claims WHEN NEW.user_id = 'u250' \
         BEGIN SELECT RAISE(ABORT, 'this row is refused'); END",
    );
    let mut connection = Connection::open(server.public).unwrap();
    let mut ids = Vec::new();
    for no in 0..500 {
        let answer = connection.call(&claim("poison", &format!("u{no}"))).unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text());
        ids.push(answer.field("claim_id"));
    }
    let balance = server.drained("poison");
    assert_eq!((&balance["persisted"], &balance["dead"]), (&json!(499), &json!(1)), "{balance}");
    let dead = site.sql("SELECT claim_id, user_id, quantity, amount, reason FROM dead_letters");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0][..4], [ids[250].clone(), "u250".into(), "1".into(), "990".into()]);
    assert!(dead[0][4].contains("this row is refused"), "{dead:?}");
    assert_eq!(site.number("SELECT count(*) FROM claims"), 499);
    eventually("it is counted", || server.metric("forebay_dead_letters") == Some(1.0));
    server.call(&claim("poison", "u250")).expect(409, "already-claimed");
    server.claimed("poison", "later");
    assert_eq!(server.drained("poison")["persisted"], 500);
    let audit = site.run(["audit"]);
    assert_eq!(audit.status.code(), Some(0), "{}{}", crate::support::stdout(&audit), crate::support::stderr(&audit));
}

#[test]
fn a_client_that_timed_out_learns_the_truth_by_asking_again() {
    let server = crate::shared();
    server.create(&limited("timeout", 10, 2));
    server.create(&flash_sale("timeout-one", 10));
    for (campaign, keyed) in [("timeout", true), ("timeout-one", false)] {
        let request = claim(campaign, "u1");
        let request = if keyed { request.key("k") } else { request };
        let mut impatient = Connection::open(server.public).unwrap();
        impatient.send(&request.bytes()).unwrap();
        eventually("the claim is held", || server.balance(campaign)["free"] == 9);
        drop(impatient);
        let truth = server.call(&request);
        let id = truth.field("claim_id");
        if keyed {
            assert_eq!((truth.status, truth.header("idempotency-replayed")), (202, Some("true")));
        } else {
            truth.expect(409, "already-claimed");
        }
        let read = server.call(&Request::get(&format!("/v1/claims/{id}?wait=20")));
        assert_eq!((read.field("user"), read.field("status")), ("u1".into(), "persisted".into()));
    }
}

#[test]
fn stock_that_is_added_in_mid_sale_is_sold() {
    let server = crate::shared();
    server.create(&flash_sale("midsale", 50));
    let sell = |server: &Server, from: usize| {
        let mut connection = Connection::open(server.public).unwrap();
        let claims = (from..from + 60).map(|no| connection.call(&claim("midsale", &format!("u{no}"))).unwrap());
        claims.filter(|a| a.status == 202).count()
    };
    assert_eq!(sell(server, 0), 50);
    server.call(&claim("midsale", "late")).expect(409, "sold-out");
    assert_eq!(server.change("midsale", &json!({"add_stock": 30})).status, 200);
    assert_eq!(server.call(&claim("midsale", "late")).status, 202, "sold out was reversible");
    assert_eq!(sell(server, 100), 29);
    let refused = server.call(&claim("midsale", "later"));
    assert_eq!(refused.expect(409, "sold-out").json()["stock_version"], 2);
    let balance = server.drained("midsale");
    assert_eq!((&balance["persisted"], &balance["free"]), (&json!(80), &json!(0)));
}

#[test]
fn a_restock_under_load_counts_once_however_often_it_is_retried() {
    let server = crate::shared();
    server.create(&flash_sale("restock", 100));
    let sold: usize = std::thread::scope(|scope| {
        let buyers: Vec<_> = (0..4)
            .map(|lane| {
                scope.spawn(move || {
                    let mut connection = Connection::open(server.public).unwrap();
                    let claims =
                        (0..400).map(|no| connection.call(&claim("restock", &format!("{lane}-{no}"))).unwrap());
                    claims.filter(|a| a.status == 202).count()
                })
            })
            .collect();
        let restocks: Vec<_> = (0..8)
            .map(|_| {
                let body = json!({"add_stock": 50});
                let request = Request::patch("/admin/v1/campaigns/restock", &body).key("truck-1");
                scope.spawn(move || server.ask_admin(&request).status)
            })
            .collect();
        assert!(restocks.into_iter().all(|r| r.join().unwrap() == 200));
        buyers.into_iter().map(|b| b.join().unwrap()).sum()
    });
    assert_eq!(sold, 150);
    assert_eq!(server.balance("restock")["stock"], 150);
}

#[test]
fn a_winner_whose_answer_was_lost_is_told_so_after_the_sale_is_sold_out() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("lost", 200));
    let mut gone: Vec<_> = (0..20).map(|_| Connection::open(server.public).unwrap()).collect();
    for (no, connection) in gone.iter_mut().enumerate() {
        connection.send(&claim("lost", &format!("winner-{no}")).bytes()).unwrap();
    }
    eventually("the winners hold their units", || server.balance("lost")["free"] == 180);
    // Their answers are on the way, and nobody reads them.
    drop(gone);
    let mut connection = Connection::open(server.public).unwrap();
    for no in 0..180 {
        assert_eq!(connection.call(&claim("lost", &format!("u{no}"))).unwrap().status, 202);
    }
    let told = |server: &Server| {
        let ids = (0..20).map(|no| {
            let answer = server.call(&claim("lost", &format!("winner-{no}")));
            answer.expect(409, "already-claimed").field("claim_id")
        });
        ids.collect::<Vec<_>>()
    };
    server.call(&claim("lost", "loser")).expect(409, "sold-out");
    let first = told(&server);
    assert_eq!(server.change("lost", &json!({"state": "paused"})).status, 200);
    assert_eq!(told(&server), first);
    server.drained("lost");
    assert_eq!(told(&server), first);
    server.kill();
    let server = site.start();
    assert_eq!(told(&server), first, "after a restart");
    let wins = site.sql("SELECT claim_id FROM claims WHERE user_id LIKE 'winner-%' ORDER BY seq");
    let rows: HashSet<_> = wins.into_iter().map(|r| r[0].clone()).collect();
    assert_eq!(rows, first.into_iter().collect());
}

#[test]
fn a_sale_that_is_sold_out_answers_quickly_while_others_still_sell() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("hot", 10));
    server.create(&flash_sale("cold", 1_000));
    let (mut hot, mut cold) = (Connection::open(server.public).unwrap(), Connection::open(server.public).unwrap());
    hot.patience(Duration::from_secs(10)).unwrap();
    let mut sold = 0;
    for no in 0..500 {
        let answer = hot.call(&claim("hot", &format!("u{no}"))).unwrap();
        sold += usize::from(answer.status == 202);
        assert!(answer.status == 202 || answer.slug() == "sold-out", "{}", answer.text());
        assert_eq!(cold.call(&claim("cold", &format!("u{no}"))).unwrap().status, 202);
    }
    assert_eq!(sold, 10);
    assert_eq!(server.drained("cold")["persisted"], 500);
}
