//! Workers between Redis and a database: takeovers, outages, refused rows, wishes, backlogs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::config::PartitionBy;
use forebay::limits;
use forebay::queue::letters::LetterDone;
use forebay::queue::redis::protocol;
use forebay::queue::redis::wishes::{self, Wish};
use forebay::store::postgres::PostgresStore;
use forebay::store::{Database, GateState, Mode};
use forebay::workers::shared::Phase;
use redis::{Value, cmd};

use crate::postgres::Postgres;
use crate::shop::{Shop, is_active, wait_for};

fn field(shop: &Shop, key: &str, name: &str) -> i64 {
    let mut connection = shop.server.connect().expect("Redis");
    let key = connection.key(key);
    match connection.command(cmd("HGET").arg(key).arg(name)).expect("a field") {
        Value::BulkString(bytes) => String::from_utf8(bytes).expect("text").parse().expect("a number"),
        Value::Nil => 0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn entries_become_rows_and_leave_redis_with_their_sums() {
    let shop = Shop::new();
    let worker = shop.worker();
    let mut buyer = shop.buyer();
    buyer.create("");
    buyer.claim(0..500).expect("claimed");
    shop.wait_rows(500);
    shop.wait_retired();
    assert_eq!((field(&shop, "c:0", "waiting"), field(&shop, "c:0", "waiting_money")), (0, 0));
    assert_eq!((field(&shop, "z:0", "persisted"), field(&shop, "z:0", "persisted_money")), (500, 500 * 990));
    assert_eq!(field(&shop, "c:0", "free"), 1_000_000 - 500);
    let mut connection = shop.server.connect().expect("Redis");
    let index = connection.key("w");
    assert_eq!(connection.command(cmd("EXISTS").arg(index)), Ok(Value::Int(0)), "nothing waits");
    // What is there when it is told to end is brought into the database first, and the next one need not wait.
    buyer.claim(500..1_500).expect("claimed");
    let epoch = shop.status().epoch;
    assert_eq!(worker.stop(Duration::from_secs(20)), 0);
    shop.wait_rows(1_500);
    let began = Instant::now();
    let next = shop.worker();
    wait_for("the next one", || is_active(&next));
    assert!(began.elapsed() < shop.lease + Duration::from_secs(5));
    assert_eq!(shop.status().epoch, epoch, "nothing was opened anew");
}

#[test]
fn a_worker_that_falls_silent_is_replaced_and_does_no_harm_when_it_is_back() {
    let shop = Shop::new();
    let first = shop.worker();
    let mut buyer = shop.buyer();
    buyer.create("");
    wait_for("the first one", || is_active(&first));
    let second = shop.worker();
    wait_for("the second one to stand by", || second.state().phase() == Phase::Standby);
    let mut claimed = 0;
    for round in 0..4 {
        let (active, other) = if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
        buyer.claim(claimed..claimed + 3_000).expect("claimed");
        active.pause(true);
        wait_for("the other one", || is_active(other));
        buyer.claim(claimed + 3_000..claimed + 4_000).expect("claimed");
        claimed += 4_000;
        // It goes on in the middle of the other's work.
        active.pause(false);
        shop.wait_rows(claimed);
        wait_for("the old one to stand by", || active.state().phase() == Phase::Standby);
        assert!(is_active(other));
    }
    shop.wait_retired();
    assert_eq!(shop.number("SELECT count(DISTINCT claim_id) FROM claims"), claimed);
    assert_eq!(shop.number("SELECT persisted_units FROM campaigns"), claimed);
    assert_eq!(shop.number("SELECT count(*) FROM dead_letters"), 0);
    assert_eq!(field(&shop, "z:0", "persisted") as u64, claimed);
    assert_eq!(shop.number("SELECT cursor FROM forebay_meta"), claimed + 1);
}

#[test]
fn it_starts_before_redis_is_there_and_goes_on_after_redis_was_away() {
    let mut shop = Shop::without_redis();
    let worker = shop.worker();
    wait_for("it to miss Redis", || matches!(worker.state().phase(), Phase::Away(_)));
    shop.start_redis();
    let mut buyer = shop.buyer();
    buyer.create("");
    buyer.claim(0..2_000).expect("claimed");
    let epoch = shop.status().epoch;
    shop.end_redis();
    wait_for("it to miss Redis again", || matches!(worker.state().phase(), Phase::Away(_)));
    assert!(!worker.state().is_ready());
    // Another process of Redis, with the same keys: it has to be opened anew.
    shop.start_redis();
    let mut buyer = shop.buyer();
    assert!(shop.status().epoch > epoch);
    buyer.claim(2_000..3_000).expect("claimed");
    shop.wait_rows(3_000);
    shop.wait_retired();
    assert_eq!(field(&shop, "z:0", "persisted"), 3_000);
    assert!(is_active(&worker));
}

#[test]
fn what_is_claimed_while_the_database_is_away_becomes_rows_when_it_is_back() {
    let shop = Shop::new();
    let worker = shop.worker();
    let mut buyer = shop.buyer();
    buyer.create("");
    buyer.claim(0..100).expect("claimed");
    shop.wait_rows(100);
    let epoch = shop.status().epoch;
    let aside = shop.database().with_extension("aside");
    std::fs::rename(shop.database(), &aside).expect("moved");
    buyer.claim(100..5_000).expect("claimed");
    wait_for("a failed batch", || shop.metrics.drain_retries.get() > 1);
    // Longer than a lease: an outage of the database is no reason to give the partition up.
    std::thread::sleep(shop.lease * 2);
    assert!(is_active(&worker));
    assert_eq!(shop.status().worker.as_deref(), Some(worker.name()));
    std::fs::rename(&aside, shop.database()).expect("moved back");
    shop.wait_rows(5_000);
    shop.wait_retired();
    assert_eq!(shop.status().epoch, epoch);
}

#[test]
fn a_backlog_of_any_length_is_read_piece_by_piece() {
    let shop = Shop::new();
    let worker = shop.worker();
    let mut buyer = shop.buyer();
    buyer.create("");
    // Somebody reads for a long time: no batch comes through.
    wait_for("the creation", || shop.number("SELECT count(*) FROM campaigns") == 1);
    let aside = shop.database().with_extension("aside");
    std::fs::rename(shop.database(), &aside).expect("moved");
    buyer.claim(0..20_000).expect("claimed");
    let most = limits::WORK_AHEAD_BATCHES * shop.batch_max as u64;
    wait_for("it to have read ahead", || worker.state().backlog().ahead >= most / 2);
    std::thread::sleep(Duration::from_millis(300));
    let backlog = worker.state().backlog();
    assert!(backlog.ahead <= most, "{backlog:?}");
    assert!(backlog.waiting >= 20_000, "{backlog:?}");
    std::fs::rename(&aside, shop.database()).expect("moved back");
    shop.wait_rows(20_000);
    shop.wait_retired();
}

#[test]
fn a_row_that_is_refused_blocks_nothing_and_is_dealt_with_as_operators_wish() {
    let shop = Shop::new();
    let _worker = shop.worker();
    let mut buyer = shop.buyer();
    buyer.create("");
    wait_for("the creation", || shop.number("SELECT count(*) FROM campaigns") == 1);
    shop.sql(
        "CREATE TRIGGER poison BEFORE INSERT ON claims WHEN NEW.user_id = 'poison' \
         BEGIN SELECT RAISE(ABORT, 'CHECK constraint failed: poison'); END",
    );
    buyer.claim(0..50).expect("claimed");
    buyer.claim_as("poison").expect("claimed");
    buyer.claim(50..100).expect("claimed");
    shop.wait_rows(100);
    shop.wait_retired();
    assert_eq!(shop.sql("SELECT user_id FROM dead_letters"), ["poison"]);
    assert_eq!((field(&shop, "z:0", "persisted"), field(&shop, "z:0", "dead")), (100, 1));
    let ask = |id, wish: &Wish| {
        let mut connection = shop.server.connect().expect("Redis");
        wishes::ask(&mut connection, id, wish).expect("an answer")
    };
    let requeue = Wish::Requeue { cart: None };
    assert!(matches!(ask(1, &requeue), LetterDone::Refused(why) if why.contains("poison")));
    assert_eq!(ask(77, &requeue), LetterDone::Unknown);
    let discard = Wish::Discard { by: "ops".into(), reason: "a test".into() };
    assert_eq!(ask(1, &discard), LetterDone::Unknown, "its units come back by its end");
    shop.sql("DROP TRIGGER poison");
    assert_eq!(ask(1, &requeue), LetterDone::Done);
    assert_eq!(ask(1, &requeue), LetterDone::Closed("requeued"));
    shop.wait_rows(101);
    // Redis is told of it although no entry comes.
    wait_for("the sums", || (field(&shop, "z:0", "persisted"), field(&shop, "z:0", "dead")) == (101, 0));
}

#[test]
fn a_wish_that_nobody_serves_is_not_served_later() {
    let shop = Shop::new();
    let mut connection = shop.server.connect().expect("Redis");
    let (list, name) = (connection.key("wishes"), "a".repeat(32));
    // As a gate leaves it that has stopped waiting: the name is there, the wish has expired.
    connection.command(cmd("RPUSH").arg(&list).arg(&name)).expect("pushed");
    assert_eq!(wishes::next(&mut connection), Ok(None));
    for n in 0..limits::WISHES_MAX {
        connection.command(cmd("RPUSH").arg(&list).arg(n)).expect("pushed");
    }
    let wish = Wish::Requeue { cart: None };
    assert_eq!(wishes::ask(&mut connection, 1, &wish), Ok(LetterDone::Unavailable), "too many wait");
}

#[test]
fn gates_are_registered_and_one_that_was_dismissed_is_told() {
    let shop = Shop::new();
    let worker = shop.worker();
    wait_for("the worker", || is_active(&worker));
    let (a, b) = (format!("{:032x}", 0xa1), format!("{:032x}", 0xb2));
    let said = |gate: &str| {
        let mut connection = shop.server.connect().expect("Redis");
        let answer = connection.call("status", &[gate.as_bytes()]).expect("an answer");
        forebay::queue::redis::protocol::status(&answer).expect("a status").gate
    };
    use forebay::queue::redis::protocol::GateState as Word;
    assert_eq!((said(&a), said(&b)), (Word::New, Word::New));
    wait_for("both to be known", || said(&a) == Word::Known && said(&b) == Word::Known);
    assert_eq!(
        shop.sql("SELECT id || ' ' || state FROM gates ORDER BY id"),
        [format!("{a} active"), format!("{b} active")]
    );
    let mut connection = shop.server.connect().expect("Redis");
    let gates = connection.key("gates");
    connection.command(cmd("HSET").arg(&gates).arg(&a).arg("left")).expect("left");
    wait_for("it to have left", || shop.sql("SELECT state FROM gates ORDER BY id") == ["left", "active"]);
    connection.command(cmd("HSET").arg(&gates).arg(&a).arg("new")).expect("back");
    wait_for("it to be back", || {
        said(&a) == Word::Known && shop.sql("SELECT state FROM gates ORDER BY id")[0] == "active"
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = shop.store(Mode::ReadWrite);
    assert_eq!(runtime.block_on(store.set_gate(0xb2, GateState::Dismissed, "ops")), Ok(GateState::Dismissed));
    wait_for("it to be told", || said(&b) == Word::Left);
    connection.command(cmd("HSET").arg(&gates).arg(&b).arg("new")).expect("it insists");
    wait_for("it to be told again", || said(&b) == Word::Left);
}

#[test]
fn claims_expire_while_a_worker_is_active() {
    let shop = Shop::new();
    let _worker = shop.worker();
    let mut buyer = shop.buyer();
    buyer.create(r#","reservation_ttl":"1s""#);
    buyer.claim(0..700).expect("claimed");
    shop.wait_rows(700);
    // As a gate does it that looks for what is due.
    let mut connection = shop.server.connect().expect("Redis");
    let mut sweep = || {
        let status =
            protocol::status(&connection.call("status", &[b""]).expect("a status")).expect("one that can be read");
        let numbers = [status.at.0, 0, 200, i64::MAX / 4, 0, 0].map(|number| number.to_string());
        let epoch = status.epoch.to_string();
        let args = [&[epoch.as_bytes(), b""], &numbers.each_ref().map(String::as_bytes)[..]].concat();
        protocol::swept(&connection.call("sweep", &args).expect("a sweep")).expect("one that can be read").expired
    };
    let mut expired = 0;
    wait_for("all to be due", || {
        expired += sweep();
        expired == 700
    });
    wait_for("the claims to expire", || shop.number("SELECT count(*) FROM claims WHERE status = 'expired'") == 700);
    shop.wait_retired();
    assert_eq!(field(&shop, "c:0", "free"), 1_000_000);
    assert_eq!((field(&shop, "z:0", "persisted"), field(&shop, "z:0", "returned")), (0, 700));
}

#[test]
fn a_cart_goes_once_the_database_has_it_and_is_forgotten_where_the_database_changes_it() {
    let shop = Shop::new();
    let _worker = shop.worker();
    let mut buyer = shop.buyer();
    wait_for("the tables", || shop.number("SELECT count(*) FROM forebay_meta") == 1);
    shop.sql(
        "CREATE TRIGGER poison BEFORE INSERT ON cart_items WHEN NEW.sku = 'poison' \
         BEGIN SELECT RAISE(ABORT, 'CHECK constraint failed: poison'); END",
    );
    let mut connection = shop.server.connect().expect("Redis");
    let cart = connection.key("t:ann");
    let mut ttl = || connection.command(cmd("PTTL").arg(&cart)).expect("an answer");
    buyer.put("ann", "poison", 2);
    wait_for("the letter", || shop.number("SELECT count(*) FROM dead_letters") == 1);
    wait_for("the cart to be let go", || matches!(ttl(), Value::Int(millis) if millis > 0));
    shop.sql("DROP TRIGGER poison");
    let wish = Wish::Requeue { cart: forebay::sale::UserId::parse("ann").ok() };
    let mut asking = shop.server.connect().expect("Redis");
    assert_eq!(wishes::ask(&mut asking, 1, &wish), Ok(LetterDone::Done));
    assert_eq!(ttl(), Value::Int(-2), "it is there no more: the next click loads what the database has");
    assert_eq!(shop.sql("SELECT sku || ' ' || quantity FROM cart_items"), ["poison 2"]);
}

#[test]
fn on_a_server_a_takeover_in_the_middle_leaves_each_entry_one_row() {
    let shop = Shop::new();
    let scratch = Postgres::scratch();
    let store = || {
        let opened = PostgresStore::open(&scratch.url(), None, PartitionBy::None, Mode::ReadWrite).expect("a URL");
        Arc::new(Database::Postgres(Box::new(opened)))
    };
    let (first, second) = (shop.worker_of(store()), shop.worker_of(store()));
    let mut buyer = shop.buyer();
    buyer.create("");
    let mut claimed = 0;
    for _ in 0..3 {
        wait_for("one to be active", || is_active(&first) || is_active(&second));
        let (active, other) = if is_active(&first) { (&first, &second) } else { (&second, &first) };
        buyer.claim(claimed..claimed + 5_000).expect("claimed");
        active.pause(true);
        wait_for("the other one", || is_active(other));
        active.pause(false);
        claimed += 5_000;
        wait_for("the rows", || scratch.sql("SELECT count(*) FROM claims") == [[claimed.to_string()]]);
    }
    shop.wait_retired();
    let sums = "SELECT count(DISTINCT claim_id), (SELECT persisted_units FROM campaigns), \
                (SELECT cursor FROM forebay_meta), (SELECT count(*) FROM dead_letters) FROM claims";
    let (all, last) = (claimed.to_string(), (claimed + 1).to_string());
    assert_eq!(scratch.sql(sums), [[all.as_str(), &all, &last, "0"]]);
}
