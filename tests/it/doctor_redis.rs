//! `forebay doctor` for a buffer in Redis: it says what Redis will hold and what makes it forget, with the user that gates
//! have, and leaves no key behind, however it ends.

use std::fs;
use std::process::Stdio;

use redis::{Connection, cmd};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::doctor::{finding, report};
use crate::private_redis::Redis;
use crate::support::{PATIENCE, Site, Tool, eventually, stderr, stdout, within};

const SOUND: [&str; 8] = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "512mb"];

fn site(url: &str) -> Site {
    Site::new().text("buffer.kind", "redis").text("redis.url", url).set("buffer.max_entries", 100_000)
}

fn keys(connection: &mut Connection) -> Vec<String> {
    cmd("KEYS").arg("*").query(connection).expect("keys")
}

fn severity<'a>(said: &'a Value, check: &str) -> &'a str {
    finding(said, check)["severity"].as_str().expect("a severity")
}

#[test]
fn what_redis_holds_is_measured_and_no_key_is_left() {
    let redis = Redis::start_with(&SOUND);
    let mut connection = redis.connect();
    let _: () = cmd("HSET").arg("forebay:{0}:meta").arg("layout").arg("1").query(&mut connection).expect("a key");
    let (said, _) = report(&site(&redis.url()));
    let found = &said["figures"]["redis"];
    for name in [
        "claims",
        "per_second",
        "call_median_seconds",
        "call_max_seconds",
        "waiting_bytes",
        "held_bytes",
        "waiting_bytes_with_key",
        "held_bytes_with_key",
    ] {
        assert!(found["calls"][name].as_f64().is_some_and(|n| n > 0.0), "{name}: {found:#}");
    }
    let bytes = |name: &str| found["calls"][name].as_f64().expect("a figure");
    // A claim's entry alone is 55 bytes, what its buyer holds 57, its key 75.
    assert!(bytes("waiting_bytes") > bytes("held_bytes") + 50.0, "{found:#}");
    assert!(bytes("held_bytes_with_key") > bytes("held_bytes") + 70.0, "{found:#}");
    assert!(bytes("held_bytes") > 57.0 && bytes("waiting_bytes_with_key") < 1_000.0, "{found:#}");
    assert_eq!((&found["server"]["is_primary"], found["round_trip"]["count"].as_u64()), (&true.into(), Some(50)));
    for check in ["redis", "redis-settings", "redis-memory", "redis-round-trip"] {
        assert_eq!(severity(&said, check), "fine", "{said:#}");
    }
    assert_eq!(said["figures"]["winners"], Value::Null, "there is no book");
    for name in ["waiting_entries", "held_claims", "seconds_until_full", "seconds_until_full_without_drain"] {
        assert!(said["sale"]["redis"][name].as_f64().is_some_and(|n| n > 0.0), "{name}: {said:#}");
    }
    assert_eq!(keys(&mut connection), ["forebay:{0}:meta"], "nothing but what was there");
}

#[test]
fn what_makes_it_forget_is_dangerous_unless_it_is_accepted() {
    let redis = Redis::start();
    let (said, code) = report(&site(&redis.url()));
    assert_eq!(
        (severity(&said, "redis-settings"), severity(&said, "redis-memory"), code),
        ("danger", "danger", Some(1))
    );
    assert!(finding(&said, "redis-memory")["what"].as_str().unwrap().contains("no maxmemory"), "{said:#}");
    let (said, _) = report(&site(&redis.url()).set("redis.accept", r#"["appendonly=no"]"#));
    assert_eq!(severity(&said, "redis-settings"), "warning", "{said:#}");
    assert!(keys(&mut redis.connect()).is_empty());
}

#[test]
fn the_user_of_the_documentation_may_do_it() {
    let redis = Redis::start_with(&SOUND);
    let text = fs::read_to_string("docs/operations.md").expect("the documentation");
    let line = text.lines().find(|line| line.starts_with("ACL SETUSER forebay ")).expect("the user");
    let mut connection = redis.connect();
    let mut words = line.split_whitespace();
    let mut set = cmd(words.next().expect("a command"));
    for word in words {
        set.arg(word);
    }
    let _: () = set.query(&mut connection).expect("a user");
    let (said, _) = report(&site(&format!("{}?user=forebay&pass=choose-one", redis.url())));
    assert!(said["figures"]["redis"]["calls"]["per_second"].as_f64().is_some_and(|n| n > 0.0), "{said:#}");
    assert!(keys(&mut connection).is_empty());
}

#[test]
fn a_redis_that_takes_no_claims_is_told_and_written_to_by_nobody() {
    let redis = Redis::start_with(&[&SOUND[..], &["--replicaof", "127.0.0.1", "1"]].concat());
    let (said, code) = report(&site(&redis.url()));
    assert_eq!((severity(&said, "redis"), code), ("danger", Some(1)), "{said:#}");
    assert_eq!((&said["figures"]["redis"]["calls"], &said["sale"]), (&Value::Null, &Value::Null));
    let small = Redis::start_with(&[&SOUND[..7], &["64mb"]].concat());
    let (said, code) = report(&site(&small.url()));
    assert_eq!((severity(&said, "redis-memory"), code), ("danger", Some(1)), "{said:#}");
    let gone = small.url();
    drop(small);
    let output = site(&gone).run(["doctor", "--seconds", "1"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(stderr(&output).contains("redis.url"), "{}", stderr(&output));
}

#[test]
fn people_get_a_report_at_the_rate_that_they_expect() {
    let redis = Redis::start_with(&SOUND);
    let output = site(&redis.url()).run(["doctor", "--seconds", "1", "--rate", "1000000"]);
    let text = stdout(&output);
    for said in
        ["claims/s decided over one connection", "bytes a claim while it waits", "1,000,000 claims/s fill it after"]
    {
        assert!(text.contains(said), "{said:?} in {text}{}", stderr(&output));
    }
}

#[test]
fn a_signal_leaves_no_key_and_what_a_killed_run_left_expires() {
    let redis = Redis::start_with(&SOUND);
    let mut connection = redis.connect();
    for signal in [Signal::TERM, Signal::KILL] {
        let site = site(&redis.url());
        // Before Redis come two thirds of the time at most, and each kind of claims has a tenth of it.
        let mut command = site.command(["doctor", "--seconds", "20"]);
        let mut tool = Tool::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        eventually("claims wait in keys that expire", || {
            let list = keys(&mut connection).into_iter().find(|key| key.ends_with(":list"));
            list.is_some_and(|key| cmd("PTTL").arg(key).query::<i64>(&mut connection).expect("a time") > 0)
        });
        kill_process(Pid::from_child(&tool.0), signal).expect("it runs");
        within(PATIENCE, "it ends", || tool.0.try_wait().expect("an own child"));
        for key in keys(&mut connection) {
            assert_eq!(signal, Signal::KILL, "{key} is left");
            let left: i64 = cmd("PTTL").arg(&key).query(&mut connection).expect("a time");
            assert!(left > 0 && left <= 600_000, "{key} expires in {left} ms");
        }
    }
}
