//! What stands between a Redis that lost something and the buyers: openings, lanes and their sessions.

use forebay::queue::redis::protocol::layout::{self, Lay};
use forebay::queue::redis::protocol::{self, GateState, Retiring, Word};
use forebay::sale::{Seq, Timestamp, UserId};
use redis::{Value, cmd};

use crate::draws::{SECOND, START};
use crate::gate::{GATE, Gate, bytes, lay_meta};
use crate::leases::{claim, gate, user};
use crate::paper::{DISK, KEY};
use crate::redis::Redis;

fn submit(gate: &mut Gate, n: u32) -> Result<Seq, String> {
    gate.submit(START, 1_000_000, vec![claim(n)]).map(|said| {
        assert_eq!(said.count, 1);
        said.first
    })
}

fn refusal(gate: &mut Gate) -> String {
    submit(gate, 999).expect_err("nothing is admitted")
}

/// The positions of what waits of a buyer.
fn waiting(gate: &mut Gate, n: u32) -> Vec<Seq> {
    let look = protocol::look_claim(KEY.user(&user(n)).tag());
    let said = gate.submit(START, 1_000_000, vec![look]).expect("open");
    let found = protocol::looked_waiting(&said.answers[0], DISK).expect("entries");
    found.iter().map(|entry| entry.seq).collect()
}

/// Opens what is there, under the next epoch.
fn reopen(gate: &mut Gate, token: &str) {
    let base = gate.status("").seq.to_string();
    gate.call("recover", &[token, &base]).expect("an opening");
    let epoch = gate.epoch + 1;
    assert_eq!(gate.open(token, epoch), Ok(Word::Ok));
    assert!(refusal(gate).contains(&format!("EPOCH {epoch}")), "the epoch before is over");
    gate.epoch = epoch;
}

#[test]
fn a_restart_closes_the_partition_until_it_is_opened_anew() {
    let mut redis = Redis::start_with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let before = gate(&redis, "p", 3);
    let last = before.nonce;
    redis.restart();
    let gate = &mut Gate { connection: redis.connect(), ..before };
    assert!(refusal(gate).contains("CLOSED"));
    assert!(gate.hello("s2").expect_err("closed").contains("CLOSED"));
    assert!(gate.call("changes", &["0", "9"]).expect_err("closed").contains("CLOSED"));
    let status = gate.status("");
    assert_eq!((status.exists, status.is_open, status.epoch, status.seq, status.entries), (true, false, 1, Seq(4), 4));
    let taken = gate.take(START, "w1", Seq(0), 9, SECOND).expect("a lease");
    assert!(!taken.is_open && taken.items.is_empty(), "what Redis has is not known to be all");
    reopen(gate, "t2");
    let status = gate.status("");
    assert_eq!((status.is_open, status.epoch, status.opened_by.as_str()), (true, 2, "t2"));
    assert_eq!((status.identity, status.recovery), (Some(7), None));
    let call = gate.hello("s2").expect("open").expect("its last call");
    assert_eq!((call.nonce, call.first, call.count), (last, Seq(1), 4));
    assert_eq!(waiting(gate, 1), [Seq(3)], "what waits is found again");
    assert_eq!(submit(gate, 7), Ok(Seq(5)));
    assert_eq!(waiting(gate, 7), [Seq(5)]);
}

#[test]
fn a_redis_that_went_back_or_lost_entries_is_closed() {
    let redis = Redis::start_with(&["--save", "", "--appendonly", "no", "--enable-debug-command", "yes"]);
    let gate = &mut gate(&redis, "p", 3);
    let (meta, list) = (format!("{}meta", gate.prefix), format!("{}list", gate.prefix));
    let run = |gate: &mut Gate, words: &[&[u8]]| -> Value {
        let mut command = cmd(std::str::from_utf8(words[0]).expect("a name"));
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query(&mut gate.connection).unwrap_or_else(|error| panic!("{error}"))
    };
    // One key of it comes back from somewhere.
    let Value::BulkString(old) = run(gate, &[b"DUMP", meta.as_bytes()]) else { panic!("no dump") };
    submit(gate, 7).expect("open");
    let Value::BulkString(new) = run(gate, &[b"DUMP", meta.as_bytes()]) else { panic!("no dump") };
    run(gate, &[b"RESTORE", meta.as_bytes(), b"0", &old, b"REPLACE"]);
    assert!(refusal(gate).contains("CLOSED"));
    run(gate, &[b"RESTORE", meta.as_bytes(), b"0", &new, b"REPLACE"]);
    assert_eq!(submit(gate, 8), Ok(Seq(6)));
    // Entries are gone.
    let Value::BulkString(item) = run(gate, &[b"RPOP", list.as_bytes()]) else { panic!("no entry") };
    assert!(refusal(gate).contains("CLOSED") && !gate.status("").is_open);
    run(gate, &[b"RPUSH", list.as_bytes(), &item]);
    // The same process reads an older file.
    run(gate, &[b"SAVE"]);
    assert_eq!(submit(gate, 9), Ok(Seq(7)));
    run(gate, &[b"DEBUG", b"RELOAD", b"NOSAVE"]);
    assert!(refusal(gate).contains("CLOSED"));
    assert_eq!(gate.status("").seq, Seq(6));
    reopen(gate, "t2");
    assert_eq!((waiting(gate, 8), waiting(gate, 9)), (vec![Seq(6)], vec![]));
    run(gate, &[b"FLUSHALL"]);
    assert!(refusal(gate).contains("EMPTY") && !gate.status("").exists);
}

#[test]
fn a_session_that_is_over_can_do_nothing_in_its_lane() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 0);
    assert_eq!(submit(gate, 1), Ok(Seq(2)));
    let last = gate.nonce;
    for session in ["s2", "s3"] {
        let call = gate.hello(session).expect("open").expect("its last call");
        assert_eq!((call.nonce, call.first, call.count), (last, Seq(2), 1), "also if it was not used meanwhile");
    }
    for over in ["s1", "s2", "s", "s33", ""] {
        gate.session = over.to_owned();
        assert!(refusal(gate).contains("LANE"), "{over:?}");
    }
    gate.session = "s3".to_owned();
    assert_eq!(waiting(gate, 1), [Seq(2)], "a call that makes nothing");
    let last = gate.nonce;
    gate.lane = format!("{GATE}.1");
    assert!(refusal(gate).contains("LANE"), "a lane that nobody has begun");
    assert_eq!(gate.hello("s9"), Ok(None));
    gate.lane = format!("{GATE}.0");
    let call = gate.hello("s4").expect("open").expect("its last call");
    assert_eq!((call.nonce, call.first, call.count), (last, Seq(3), 0));
}

#[test]
fn an_opening_takes_what_gates_offer_and_nothing_else() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 3);
    let said = |gate: &mut Gate, function: &str, args: &[&str]| {
        protocol::word(&gate.call(function, args).expect("an answer")).expect("a word")
    };
    assert_eq!(said(gate, "offer", &["t2", GATE, "9", "x"]), Word::Lost, "none is under way");
    let status = protocol::status(&gate.call("recover", &["t2", ""]).expect("an answer")).expect("a state");
    assert!(status.is_open && status.recovery.is_none(), "as it was before");
    assert!(refusal(gate).contains("FENCED recovering"));
    assert_eq!(said(gate, "offer", &["t2", GATE, "9", "x"]), Word::Lost, "from where is not known yet");
    gate.call("recover", &["t2", "4"]).expect("an answer");
    let status = gate.status("");
    assert_eq!((status.recovery.as_deref(), status.recovery_base), (Some("t2"), Some(Seq(4))));
    assert_eq!(said(gate, "offer", &["t2", GATE, "9", "x", "y"]), Word::Ok);
    assert_eq!(said(gate, "offer", &["t2", GATE, "10", "y", "z"]), Word::Ok, "the same again, and more");
    assert_eq!(said(gate, "offer", &["t2", "b", "9", "other"]), Word::Conflict);
    assert_eq!(said(gate, "offered", &["t1", GATE, "1", "11"]), Word::Lost);
    assert_eq!(said(gate, "offered", &["t2", GATE, "1", "11"]), Word::Ok);
    let all = |gate: &mut Gate, key: &str| -> Vec<(String, String)> {
        let mut all: Vec<_> =
            cmd("HGETALL").arg(format!("{}{key}", gate.prefix)).query(&mut gate.connection).expect(key);
        all.sort();
        all
    };
    let texts = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    };
    assert_eq!(all(gate, "offers"), texts(&[("10", "y"), ("11", "z"), ("9", "x")]));
    assert_eq!(all(gate, "offered"), texts(&[(GATE, "t2 1 11")]));
    // The worker's lease goes on meanwhile; its entries do not.
    let taken = gate.take(START, "w1", Seq(0), 9, SECOND).expect("a lease");
    assert!(!taken.is_open && taken.items.is_empty());
    let mut retiring = Retiring::new(Seq(0));
    let first = gate.waiting(Seq(1)).remove(0);
    retiring.add(&first.event);
    assert_eq!(gate.retire((START, "w1", SECOND), &retiring, &[]), Word::Lost);
    // Another worker begins again: what was offered to the first one is gone, and that can do nothing any more.
    gate.call("recover", &["t3", "4"]).expect("an answer");
    assert!(!gate.has("offers") && !gate.has("offered"));
    let mut lay = Lay::new("t2");
    lay.add("DEL", "list", []);
    assert_eq!((gate.lay_out(&mut lay), gate.open("t2", 2)), (Word::Lost, Ok(Word::Lost)));
    assert_eq!(gate.waiting(Seq(1)).len(), 4);
    assert_eq!(gate.open("t3", 2), Ok(Word::Ok));
    gate.epoch = 2;
    assert_eq!(gate.retire((START, "w1", SECOND), &retiring, &[]), Word::Ok);
    assert_eq!(submit(gate, 9), Ok(Seq(5)));
}

#[test]
fn a_partition_that_was_laid_out_anew_is_opened_only_whole() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 2);
    let items: Vec<Vec<u8>> = {
        let key = format!("{}list", gate.prefix);
        cmd("LRANGE").arg(key).arg(1).arg(-1).query(&mut gate.connection).expect("the list")
    };
    let _: i64 = cmd("HSET")
        .arg(format!("{}meta", gate.prefix))
        .arg("fenced")
        .arg("a fault")
        .query(&mut gate.connection)
        .expect("set");
    gate.call("recover", &["t2", "1"]).expect("an opening");
    let mut lay = Lay::new("t2");
    lay_meta(&mut lay, Seq(3), Timestamp(START), 1, Seq(1));
    lay.add("UNLINK", "list", []);
    assert_eq!(gate.lay_out(&mut lay), Word::Ok);
    assert!(gate.open("t2", 2).expect_err("not open").contains("FENCED a fault"));
    lay.add("HDEL", "meta", [b"fenced".to_vec()]);
    assert_eq!(gate.lay_out(&mut lay), Word::Ok);
    assert!(gate.open("t2", 2).expect_err("not open").contains("CLOSED"), "entries are missing");
    assert!(!gate.status("").is_open);
    lay.add("RPUSH", "list", items);
    assert_eq!((gate.lay_out(&mut lay), gate.open("t2", 2)), (Word::Ok, Ok(Word::Ok)));
    gate.epoch = 2;
    assert_eq!((waiting(gate, 0), waiting(gate, 1), waiting(gate, 2)), (vec![Seq(2)], vec![Seq(3)], vec![]));
}

#[test]
fn a_gate_is_noted_when_it_asks_for_the_first_time() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 0);
    assert_eq!(gate.status("").gate, GateState::Unknown);
    assert_eq!((gate.status(GATE).gate, gate.status(GATE).gate), (GateState::New, GateState::New));
    for state in [GateState::Known, GateState::Left] {
        let gates = format!("{}gates", gate.prefix);
        let _: i64 = cmd("HSET").arg(gates).arg(GATE).arg(state.word()).query(&mut gate.connection).expect("set");
        assert_eq!(gate.status(GATE).gate, state);
    }
}

#[test]
fn a_cart_is_forgotten_where_nothing_of_it_waits() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 0);
    let buyer = UserId::parse("u1").expect("a name");
    let forget = |gate: &mut Gate| gate.call("forget_cart", &["u1"]).expect("an answer") == [Value::Int(1)];
    let (key, loading) = ("t:u1", format!("{}l:u1", gate.prefix));
    let lay = |gate: &mut Gate, version: &str| {
        let key = format!("{}{key}", gate.prefix);
        let _: i64 =
            cmd("HSET").arg(key).arg("").arg(version).arg("s1").arg("3").query(&mut gate.connection).expect("set");
    };
    assert!(forget(gate), "there is none");
    lay(gate, "1");
    let _: () = cmd("SET").arg(&loading).arg("5").query(&mut gate.connection).expect("set");
    assert!(!forget(gate) && gate.has(key), "its operation waits");
    let said = gate.submit(START, 9, vec![protocol::look_cart(&buyer)]).expect("open");
    let (version, lines) = protocol::looked_cart(&said.answers[0]).expect("a cart").expect("it is there");
    assert_eq!((version, lines.len(), lines[0].1), (Seq(1), 1, 3));
    gate.take(START, "w1", Seq(0), 9, SECOND).expect("a lease");
    let mut retiring = Retiring::new(Seq(0));
    retiring.add(&gate.waiting(Seq(1))[0].event);
    assert_eq!(gate.retire((START, "w1", SECOND), &retiring, &[]), Word::Ok);
    assert!(forget(gate) && !gate.has(key) && !gate.has("l:u1"), "who loads it must do so again");
    let said = gate.submit(START, 9, vec![protocol::look_cart(&buyer)]).expect("open");
    assert_eq!(protocol::looked_cart(&said.answers[0]), Ok(None));
}

#[test]
fn the_packed_records_are_those_that_the_library_writes() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 1);
    let key = format!("{}h:0", gate.prefix);
    let held: Vec<u8> = cmd("HGET").arg(key).arg(user(0).as_str()).query(&mut gate.connection).expect("a hold");
    let entry = gate.waiting(Seq(1)).remove(1);
    let forebay::sale::Event::Claimed(mine) = entry.event else { panic!("a claim waits") };
    let (claim_id, amount) = (mine.claim_id, mine.amount);
    assert_eq!(layout::tag(&entry.event), Some(KEY.user(&user(0)).tag()));
    let hold = layout::Hold { claim_id, quantity: 1, hold: 0, settled: false, amount };
    assert_eq!(hold.pack(), held);
    let said = gate.submit(START, 9, vec![protocol::look_campaign(mine.campaign, 0)]).expect("open");
    let Value::Array(parts) = &said.answers[0] else { panic!("no campaign") };
    let numbers = layout::Numbers::read(bytes(&parts[0])).expect("numbers");
    assert_eq!((numbers.get("waiting"), numbers.get("free"), numbers.get("last")), (1, 999, 2));
}

#[test]
fn a_long_list_is_gone_through_in_parts_before_it_is_open() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 1);
    let item: Vec<u8> = {
        let key = format!("{}list", gate.prefix);
        cmd("LINDEX").arg(key).arg(1).query(&mut gate.connection).expect("an entry")
    };
    gate.call("recover", &["t2", "2"]).expect("an opening");
    let (mut lay, count) = (Lay::new("t2"), 50_000);
    for _ in 0..count / 1_000 {
        lay.add("RPUSH", "list", vec![item.clone(); 1_000]);
        assert_eq!(gate.lay_out(&mut lay), Word::Ok);
    }
    lay_meta(&mut lay, Seq(2 + count), Timestamp(START), 1, Seq(0));
    assert_eq!((gate.lay_out(&mut lay), lay.is_empty()), (Word::Ok, true));
    let mut calls = 1;
    while gate.open("t2", 2) == Ok(Word::More) {
        assert!(!gate.status("").is_open && refusal(gate).contains("recovering"));
        calls += 1;
    }
    assert_eq!(calls, 3);
    gate.epoch = 2;
    assert_eq!(waiting(gate, 0).len() as u64, 1 + count);
}
