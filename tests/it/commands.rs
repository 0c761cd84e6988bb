//! The command line: configuration, campaigns of a running server, audit and receipts.

use std::fs;
use std::process::Output;

use serde_json::Value;

use crate::support::http::Request;
use crate::support::sale::{flash_sale, limited};
use crate::support::{Site, plain, stderr, stdout};

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// Runs a command that must succeed, and gives what it printed.
fn done<'a>(site: &Site, arguments: impl IntoIterator<Item = &'a str>) -> String {
    let output = site.run(arguments);
    assert_eq!(code(&output), Some(0), "{}{}", stdout(&output), stderr(&output));
    stdout(&output)
}

#[test]
fn check_config_names_every_problem_at_once() {
    let site = Site::new();
    assert_eq!(code(&site.run(["check-config"])), Some(0));
    let wrong = Site::new()
        .text("ingest.ack_deadline", "soon")
        .set("ingest.threads", -1)
        .set("buffer.max_entries", 10)
        .text("buffer.durabilty", "disk")
        .text("antiscalper.user_rate", "10 per second")
        .text("store.url", "mysql://localhost/shop");
    let output = wrong.run(["check-config"]);
    assert_eq!(code(&output), Some(78));
    let text = stderr(&output);
    for key in ["ingest.ack_deadline", "ingest.threads", "buffer.max_entries", "antiscalper.user_rate", "store.url"] {
        assert!(text.lines().any(|l| l.starts_with("error: ") && l.contains(key)), "{key} in {text}");
    }
    assert!(text.contains("buffer.durabilty") && text.contains("buffer.durability"), "the nearest key: {text}");
    let (status, text) = wrong.refuse();
    assert_eq!(status.code(), Some(78), "{text}");
    assert!(!wrong.data().exists());
    let missing = plain(["check-config", "--config", "/nowhere/forebay.toml"]).output().unwrap();
    assert_eq!(code(&missing), Some(78));
    assert!(stderr(&missing).contains("/nowhere/forebay.toml"));
    let unreadable = Site::new().text("store.url", "postgres://shop:hunter2@[x/shop").run(["check-config"]);
    assert_eq!(code(&unreadable), Some(78), "{}", stderr(&unreadable));
    assert!(stderr(&unreadable).contains("store.url") && !stderr(&unreadable).contains("hunter2"), "no password");
}

#[test]
fn what_config_prints_is_read_back_as_the_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = plain(arguments.iter().copied()).current_dir(folder.path()).output().unwrap();
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let printed = run(&["config"]);
    for key in ["max_entries", "ack_deadline", "user_rate", "grace", "admin_token", "batch_max", "local_ttl"] {
        assert!(printed.lines().any(|l| l.starts_with(key)), "{key}");
    }
    let defaults = run(&["check-config"]);
    fs::write(folder.path().join("forebay.toml"), &printed).unwrap();
    assert_eq!(run(&["check-config"]), defaults);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let addresses: Vec<_> = (0..3).map(|_| crate::unused()).collect();
    let site = Site::new().text("ingest.listen", &addresses[0].to_string());
    let environment = [("FOREBAY_INGEST__LISTEN", addresses[1].to_string())];
    let mut server = site.spawn(&environment.each_ref().map(|(n, v)| (*n, v.as_str())));
    server.ready().expect("it starts");
    assert!(crate::support::http::Connection::open(addresses[1]).is_ok(), "the environment's");
    assert!(crate::support::http::Connection::open(addresses[0]).is_err(), "the file's");
    drop(server);
    let mut command = site.command(["serve", "--listen", &addresses[2].to_string()]);
    command.env("FOREBAY_INGEST__LISTEN", addresses[1].to_string());
    let log = fs::File::create(site.folder.path().join("flags.log")).unwrap();
    let _server = crate::support::Tool::start(command.stdout(log.try_clone().unwrap()).stderr(log));
    crate::support::eventually("the flag's", || crate::support::http::Connection::open(addresses[2]).is_ok());
}

#[test]
fn campaigns_of_a_running_server_are_run_by_command_line() {
    let site = Site::new();
    let server = site.start();
    let window = ["--opens-at", "2020-01-01T00:00:00Z", "--closes-at", "2099-01-01T00:00:00Z"];
    let create = ["campaign", "create", "--id", "cli", "--kind", "flash_sale", "--stock", "10", "--price", "5"];
    let created = done(&site, create.into_iter().chain(["--currency", "CNY"]).chain(window));
    let created: Value = serde_json::from_str(&created).expect("the campaign as JSON");
    assert_eq!((&created["id"], &created["state"]), (&"cli".into(), &"open".into()));
    let file = site.folder.path().join("packet.json");
    fs::write(&file, crate::support::sale::red_packet("cli-packet", 5, 500).to_string()).unwrap();
    done(&site, ["campaign", "create", "--file", file.to_str().unwrap()]);
    let list = done(&site, ["campaign", "list"]);
    assert!(list.contains("cli-packet") && list.contains("red_packet"), "{list}");
    let list: Value = serde_json::from_str(&done(&site, ["campaign", "list", "--json"])).unwrap();
    assert_eq!(list["campaigns"].as_array().unwrap().len(), 2);
    let state = |id: &str| -> String {
        let shown: Value = serde_json::from_str(&done(&site, ["campaign", "show", id])).unwrap();
        shown["state"].as_str().unwrap().to_owned()
    };
    for (action, expected) in [("pause", "paused"), ("open", "open"), ("close", "closed")] {
        done(&site, ["campaign", action, "cli"]);
        assert_eq!(state("cli"), expected);
    }
    let restock = ["campaign", "restock", "cli-packet", "--add", "5", "--add-total", "100", "--idempotency-key", "t1"];
    (0..2).for_each(|_| drop(done(&site, restock)));
    let shown = server.ask_admin(&Request::get("/admin/v1/campaigns/cli-packet")).json();
    assert_eq!((&shown["stock"], &shown["red_packet"]["total"]), (&10.into(), &600.into()));
    done(&site, ["campaign", "rewindow", "cli-packet", "--opens-at", "2098-01-01T00:00:00Z"]);
    assert_eq!(state("cli-packet"), "scheduled");

    for (arguments, said) in [
        (vec!["campaign", "open", "cli"], "closed"),
        (vec!["campaign", "show", "nowhere"], "nowhere"),
        (vec!["campaign", "restock", "cli-packet", "--add", "-100"], "add_stock"),
    ] {
        let refused = site.run(arguments.clone());
        assert_eq!(code(&refused), Some(1), "{arguments:?}");
        assert!(stderr(&refused).starts_with("error: "), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(said) || said == "nowhere", "{arguments:?}: {}", stderr(&refused));
    }
    assert!(server.stop().success());
    let alone = site.run(["campaign", "list"]);
    assert_eq!(code(&alone), Some(1));
    assert!(stderr(&alone).contains(&site.admin.to_string()), "{}", stderr(&alone));
}

/// A site with some sales over, the bodies of its claims, and its server stopped.
fn sold() -> (Site, Vec<String>) {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("audit", 1_000));
    server.create(&crate::support::sale::red_packet("audit-packet", 50, 5_000));
    let mut bodies = Vec::new();
    for no in 0..50 {
        for campaign in ["audit", "audit-packet"] {
            bodies.push(server.claimed(campaign, &format!("u{no}")).to_string());
        }
    }
    server.drained("audit");
    server.drained("audit-packet");
    assert!(server.stop().success());
    (site, bodies)
}

fn audit(site: &Site, more: &[&str]) -> (Option<i32>, String) {
    let output = site.run(["audit"].iter().chain(more).copied());
    (code(&output), stdout(&output) + &stderr(&output))
}

#[test]
fn an_audit_is_clean_beside_a_server_that_has_not_drained_yet() {
    let site = Site::new();
    let server = site.start();
    server.create(&limited("audit", 1_000, 5));
    server.drained("audit");
    (0..20).for_each(|no| {
        let claim = crate::support::sale::claim_of("audit", &format!("u{no}"), 2).key("k");
        assert_eq!(server.call(&claim).status, 202);
    });
    server.drained("audit");
    let lock = crate::support::sql::Lock::take(&site.database());
    (20..40).for_each(|no| {
        let claim = crate::support::sale::claim_of("audit", &format!("u{no}"), 2).key("k");
        assert_eq!(server.call(&claim).status, 202);
    });
    let (status, text) = audit(&site, &[]);
    assert_eq!(status, Some(0), "{text}");
    let (status, text) = audit(&site, &["--json", "--campaign", "audit"]);
    assert_eq!(status, Some(0), "{text}");
    let found: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&found["clean"], &found["campaigns"][0]["accepted"]), (&true.into(), &40.into()), "{text}");
    lock.release();
    server.drained("audit");
    assert_eq!(audit(&site, &[]).0, Some(0));
}

#[test]
fn an_audit_finds_a_row_that_was_tampered_with() {
    for (what, sql) in [
        ("a row that is gone", "DELETE FROM claims WHERE user_id = 'u7' AND campaign = 'audit'"),
        (
            "an amount that was changed",
            "UPDATE claims SET amount = amount + 1 WHERE user_id = 'u7' AND campaign = 'audit'",
        ),
        ("a share that was changed", "UPDATE claims SET amount = amount + 1 WHERE seq = (SELECT max(seq) FROM claims)"),
        ("another buyer", "UPDATE claims SET user_id = 'thief' WHERE user_id = 'u7' AND campaign = 'audit'"),
        ("a second unit", "UPDATE claims SET quantity = 2 WHERE user_id = 'u7' AND campaign = 'audit'"),
    ] {
        let (site, bodies) = sold();
        let receipts = site.folder.path().join("receipts");
        fs::write(&receipts, bodies.join("\n")).unwrap();
        let all = ["--receipts", receipts.to_str().unwrap()];
        let (status, text) = audit(&site, &all);
        assert_eq!(status, Some(0), "before: {text}");
        site.sql(sql);
        let (status, text) = audit(&site, &all);
        assert_eq!(status, Some(1), "{what}: {text}");
    }
}

#[test]
fn an_audit_that_cannot_be_made_says_so_with_2() {
    let nothing = Site::new();
    assert_eq!(audit(&nothing, &[]).0, Some(2), "{}", audit(&nothing, &[]).1);
    let (site, _) = sold();
    fs::rename(site.database(), site.folder.path().join("away.db")).unwrap();
    let (status, text) = audit(&site, &[]);
    assert_eq!(status, Some(2), "{text}");
}

#[test]
fn receipts_are_proven_and_forged_ones_found() {
    let (site, bodies) = sold();
    let file = site.folder.path().join("claims.json");
    let verify = |lines: &[String]| {
        fs::write(&file, lines.join("\n")).unwrap();
        let output = site.run(["receipt", "verify", "--file", file.to_str().unwrap()]);
        (code(&output), stdout(&output) + &stderr(&output))
    };
    let (status, text) = verify(&bodies);
    assert_eq!(status, Some(0), "{text}");
    for (what, from, to) in [
        ("the amount", "\"amount\":990", "\"amount\":1"),
        ("the buyer", "\"user\":\"u0\"", "\"user\":\"u1\""),
        ("the campaign", "\"campaign\":\"audit\"", "\"campaign\":\"audit-packet\""),
        ("the quantity", "\"quantity\":1", "\"quantity\":2"),
        ("the key", "\"receipt\":\"k1.", "\"receipt\":\"k2."),
    ] {
        let forged = bodies[0].replace(from, to);
        assert_ne!(forged, bodies[0], "{what}: {}", bodies[0]);
        let (status, text) = verify(&[bodies[1].clone(), forged]);
        assert_eq!(status, Some(1), "{what}: {text}");
        assert!(text.contains("line 2"), "{what}: {text}");
    }
    let server = site.start();
    let again = server.call(&Request::get("/v1/users/u0/claims")).json();
    let (status, text) = verify(&again["claims"].as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>());
    assert_eq!(status, Some(0), "what is read later is proven, too: {text}");
}

#[test]
fn small_commands_do_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| plain(arguments.iter().copied()).current_dir(folder.path()).output().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.status.success() && stdout(&script).contains("forebay"), "{shell}");
    }
    assert_eq!(code(&run(&["frobnicate"])), Some(2));
    assert_eq!(code(&run(&["serve", "--sampel"])), Some(2));
    assert!(stdout(&run(&["--version"])).contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
    let migrated = Site::new();
    fs::create_dir(migrated.data()).unwrap();
    done(&migrated, ["migrate"]);
    assert_eq!(migrated.number("SELECT count(*) FROM claims"), 0);
    let again = done(&migrated, ["migrate"]);
    assert!(again.contains("up to date"), "{again}");
    let server = migrated.start();
    server.create(&flash_sale("migrated", 1));
}
