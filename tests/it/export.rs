//! `forebay export`: static files that name each other rightly, change when the campaigns do, and never between.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::http::Request;
use crate::support::sale::{claim, claim_of, flash_sale, limited};
use crate::support::{Server, Site, Tool, eventually, stderr, stdout, within};

/// The folder of a site's export.
fn dir(site: &Site) -> PathBuf {
    site.folder.path().join("cdn")
}

fn export<'a>(site: &'a Site, more: &[&'a str]) -> std::process::Output {
    let dir = dir(site);
    site.run(["export", "--dir", dir.to_str().unwrap()].into_iter().chain(more.iter().copied()))
}

/// What a reader of the CDN sees: the pointer and the document that it names, which must be whole.
fn read(dir: &Path) -> Option<(Value, Value)> {
    let pointer: Value = serde_json::from_slice(&fs::read(dir.join("campaigns.json")).ok()?).expect("never half");
    let file = pointer["file"].as_str().unwrap();
    let document = fs::read(dir.join(file)).expect("the pointer names what is there");
    let hash: String = Sha256::digest(&document).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((file, &pointer["sha256"]), (&*format!("campaigns-{}.json", &hash[..16]), &hash.clone().into()));
    Some((pointer, serde_json::from_slice(&document).expect("JSON")))
}

/// The campaign `id` in the current document.
fn campaign(dir: &Path, id: &str) -> Option<Value> {
    let (_, document) = read(dir)?;
    document["campaigns"].as_array().unwrap().iter().find(|c| c["id"] == id).cloned()
}

fn documents(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("campaigns-")).count()
}

fn pause(server: &Server, id: &str, state: &str) {
    assert_eq!(server.change(id, &json!({ "state": state })).status, 200);
}

#[test]
fn the_document_is_that_of_the_api_without_what_changes_with_every_claim() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("one", 1));
    server.create(&limited("two", 1_000, 5));
    server.claimed("one", "u1");
    let output = export(&site, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let (pointer, document) = read(&dir(&site)).unwrap();
    assert!(stdout(&output).contains(pointer["file"].as_str().unwrap()), "{}", stdout(&output));
    let mut expected = server.call(&Request::get("/v1/campaigns")).json();
    for campaign in expected["campaigns"].as_array_mut().unwrap() {
        let free = campaign.as_object_mut().unwrap().remove("free").unwrap();
        campaign["sold_out"] = (free == 0).into();
    }
    assert_eq!(document, expected);
    assert_eq!(
        (&document["campaigns"][0]["sold_out"], &document["campaigns"][1]["sold_out"]),
        (&true.into(), &false.into())
    );

    let before = fs::read(dir(&site).join("campaigns.json")).unwrap();
    assert_eq!(server.call(&claim_of("two", "u1", 2).key("k")).status, 202);
    assert!(stdout(&export(&site, &[])).contains("unchanged"), "a claim is no news");
    assert_eq!(fs::read(dir(&site).join("campaigns.json")).unwrap(), before, "not even the time");
}

#[test]
fn what_stands_in_the_way_is_named() {
    let site = Site::new();
    let output = export(&site, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&site.admin.to_string()), "no server: {}", stderr(&output));
    fs::remove_dir_all(dir(&site)).unwrap();
    fs::write(dir(&site), "").unwrap();
    let output = export(&site, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cdn is a file; expected a folder"), "{}", stderr(&output));
    let output = site.run(["export", "--dir", "/proc/forebay-cdn"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--dir /proc/forebay-cdn can't be made"), "{}", stderr(&output));
    assert_eq!(site.run(["export"]).status.code(), Some(2));
    assert!(stdout(&site.run(["export", "--help"])).contains("\"sold_out\": true or false"));
}

#[test]
fn watching_follows_changes_by_hand_by_claims_and_by_time() {
    let site = Site::new();
    let server = site.start();
    let now = jiff::Timestamp::now();
    let mut soon = flash_sale("soon", 10);
    soon["opens_at"] = (now + jiff::SignedDuration::from_secs(3)).to_string().into();
    soon["closes_at"] = (now + jiff::SignedDuration::from_secs(6)).to_string().into();
    server.create(&soon);
    server.create(&flash_sale("few", 2));
    fs::create_dir(dir(&site)).unwrap();
    fs::write(dir(&site).join("index.html"), "theirs").unwrap();
    let dir = dir(&site);
    let mut command = site.command(["export", "--watch", "--dir", dir.to_str().unwrap()]);
    let mut tool = Tool::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let until = |id: &str, name: &str, value: Value| {
        within(crate::support::PATIENCE, &format!("{id}: {name} = {value}"), || {
            campaign(&dir, id).filter(|c| c[name] == value)
        })
    };
    until("soon", "state", "scheduled".into());
    server.create(&flash_sale("late", 1));
    until("late", "state", "open".into());
    server.claimed("few", "u1");
    assert_eq!(until("few", "sold_out", false.into()).get("free"), None);
    server.claimed("few", "u2");
    until("few", "sold_out", true.into());
    server.change("few", &json!({"add_stock": 1}));
    until("few", "sold_out", false.into());
    until("soon", "state", "open".into());
    until("soon", "state", "ended".into());
    pause(&server, "late", "paused");
    until("late", "state", "paused".into());
    crate::support::eventually("only the newest three are left", || documents(&dir) == 3);
    assert!(dir.join("index.html").exists());
    let status = ended(&mut tool, rustix::process::Signal::TERM);
    assert!(status.success(), "{status}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3 + 2, "nothing half-written");
}

fn ended(tool: &mut Tool, signal: rustix::process::Signal) -> std::process::ExitStatus {
    rustix::process::kill_process(rustix::process::Pid::from_child(&tool.0), signal).expect("an own child");
    within(crate::support::PATIENCE, "it ends", || tool.0.try_wait().expect("an own child"))
}

#[test]
fn watching_outlives_the_server_and_says_so_once() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("kept", 10));
    let dir = dir(&site);
    let log = site.folder.path().join("export.log");
    let mut command = site.command(["export", "--watch", "--dir", dir.to_str().unwrap()]);
    let mut tool = Tool::start(command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()));
    eventually("it has written", || campaign(&dir, "kept").is_some());
    let before = fs::read(dir.join("campaigns.json")).unwrap();
    server.kill();
    let lines = || fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    eventually("the loss is told", || !lines().is_empty());
    // Several rounds pass; what is told is told once.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(lines().len(), 1, "{:?}", lines());
    assert!(lines()[0].contains(&site.admin.to_string()), "{:?}", lines());
    assert_eq!(fs::read(dir.join("campaigns.json")).unwrap(), before, "what was written stays");
    let second = export(&site, &[]);
    assert!(stderr(&second).contains("another `forebay export`"), "{}", stderr(&second));
    let server = site.start();
    eventually("the return is told", || lines().len() == 2);
    assert!(lines()[1].contains("the server is back"), "{:?}", lines());
    assert_eq!(fs::read(dir.join("campaigns.json")).unwrap(), before, "nothing has changed");
    assert_eq!(server.call(&claim("kept", "u1")).status, 202);
    pause(&server, "kept", "paused");
    eventually("it goes on", || campaign(&dir, "kept").is_some_and(|c| c["state"] == "paused"));
    assert!(ended(&mut tool, rustix::process::Signal::INT).success());
    assert_eq!(lines().len(), 2, "{:?}", lines());
}
