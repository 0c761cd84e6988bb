//! Secrets show nowhere. Each secret here has a value of its own, and everything that the binary says while it works, is
//! refused, fails or panics, at the most talkative log level, is searched for all of them: logs, answers, metrics, messages of
//! every command. Users and idempotency keys are searched for in logs and metrics; answers give a user back to who named it.

use std::fs;
use std::time::{Duration, Instant};

use forebay::config::{Config, FileText, Overrides};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::among_others;
use crate::h2::{END_STREAM, Peer, block, fields, headers};
use crate::private_redis::Redis;
use crate::support::http::{Answer, Request, once};
use crate::support::postgres::Postgres;
use crate::support::sale::{batch, claim, flash_sale, limited};
use crate::support::{PATIENCE, Server, Site, stderr, stdout, within};

const TOKEN: &str = "canary-of-the-admin-token";
const KEY: &str = "fbk_canary-of-a-service-key";
const WRONG: &str = "canary-of-a-wrong-credential";
const DATABASE: &str = "canary-of-the-database-password";
const REDIS: &str = "canary-of-the-redis-password";
const USER: &str = "canary-of-a-user";
const IDEMPOTENCY: &str = "canary-of-an-idempotency-key";

/// What must show nowhere at all.
const SECRETS: [&str; 5] = [TOKEN, KEY, WRONG, DATABASE, REDIS];

/// Everything that was said, to be searched at the end.
#[derive(Default)]
struct Said {
    words: Vec<(String, String)>,
}

impl Said {
    fn note(&mut self, where_from: &str, text: impl Into<String>) {
        self.words.push((where_from.to_owned(), text.into()));
    }

    fn answer(&mut self, what: &str, answer: &Answer) {
        self.note(what, format!("{:?} {}", answer.headers, answer.text()));
    }

    /// Runs a command to its end and keeps what it said.
    fn run(&mut self, site: &Site, arguments: &[&str]) {
        let output = site.run(arguments.iter().copied());
        self.note(&format!("forebay {}", arguments.join(" ")), stdout(&output) + &stderr(&output));
    }

    fn must_not_have(&self, secrets: &[&str]) {
        let mut found = Vec::new();
        for (from, text) in &self.words {
            for line in text.lines() {
                for secret in secrets.iter().filter(|s| line.contains(**s)) {
                    found.push(format!("{secret:?} in {from}: {line:.300}"));
                }
            }
        }
        assert!(found.is_empty(), "{} times, among them:\n{}", found.len(), found[..found.len().min(10)].join("\n"));
        assert!(self.words.iter().any(|(_, text)| !text.is_empty()), "nothing was said at all");
    }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn service_site() -> Site {
    let table = format!(
        "[[service_keys]]\nname = \"orders\"\nsha256 = \"{}\"\nscopes = [\"claims:write\", \"claims:settle\", \
         \"carts:write\", \"read\"]\n",
        sha256(KEY)
    );
    Site::new()
        .text("ingest.auth", "service")
        .text("ingest.admin_token", TOKEN)
        .text("antiscalper.user_rate", "3/m")
        .tables(&table)
        .env("FOREBAY_LOG", "trace")
}

fn with_key(request: Request) -> Request {
    request.header("Authorization", &format!("Bearer {KEY}"))
}

fn admin(site: &Site, request: &Request) -> Answer {
    let request = request.clone().header("Authorization", &format!("Bearer {TOKEN}"));
    once(site.admin, &request, PATIENCE).expect("an answer")
}

/// Good and bad requests with secrets in them, over both listeners and both versions of HTTP.
fn talk(site: &Site, server: &Server, said: &mut Said) -> Vec<String> {
    assert_eq!(admin(site, &Request::post("/admin/v1/campaigns", &flash_sale("canary", 50))).status, 201);
    assert_eq!(admin(site, &Request::post("/admin/v1/campaigns", &limited("canary-2", 50, 5))).status, 201);
    let keyed = with_key(claim("canary-2", USER).key(IDEMPOTENCY));
    for _ in 0..5 {
        said.answer("a claim", &server.call(&keyed));
    }
    let bearer = |text: &str| claim("canary", "u").header("Authorization", text);
    for request in [
        with_key(claim("canary", USER)),
        with_key(claim("canary", "a b")),
        with_key(claim("nowhere", USER)),
        with_key(Request::get("/nowhere")),
        with_key(Request::new("DELETE", "/v1/campaigns")),
        with_key(claim("canary", "u").key(IDEMPOTENCY).key(IDEMPOTENCY)),
        with_key(with_key(claim("canary", "u"))),
        with_key(batch("canary-2", &json!([{"user": USER, "idempotency_key": IDEMPOTENCY}, {"user": 1}]))),
        with_key(Request::post(&format!("/v1/carts/{USER}/items"), &json!({"sku": "s", "op": "add", "quantity": 1}))),
        with_key(Request::get(&format!("/v1/users/{USER}/claims"))),
        bearer(&format!("Bearer {WRONG}")),
        bearer(&format!("Basic {WRONG}")),
        bearer(WRONG),
        bearer(&format!("Bearer {KEY} x")),
        Request::get(&format!("/v1/campaigns?key={WRONG}")),
        Request::post("/v1/campaigns/canary/claims", &json!({ "password": "x", "user": WRONG }))
            .header("Cookie", WRONG),
    ] {
        said.answer(&format!("{request:.60?}"), &server.call(&request));
    }
    let authorization = [("authorization", format!("Bearer {KEY}")), ("content-type", "application/json".to_owned())];
    let lines: Vec<(&str, &str)> = authorization.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let mut peer = Peer::greet(server.public, &[]).expect("the server listens");
    let _ = peer.send(&headers(1, END_STREAM, &block(fields("GET", "/v1/campaigns/canary", &lines))));
    said.note("an answer over HTTP/2", format!("{:?}", peer.outcome(1, PATIENCE)));
    let _ = peer.send(&headers(3, END_STREAM, &block(fields("POST", "/v1/campaigns/canary/claims", &lines))));
    said.note("a refusal over HTTP/2", format!("{:?}", peer.outcome(3, PATIENCE)));
    for path in ["/metrics", "/version", "/readyz", "/admin/v1/campaigns", "/admin/v1/campaigns/canary/balance"] {
        said.answer(path, &admin(site, &Request::get(path)));
        let wrong = Request::get(path).header("Authorization", &format!("Bearer {WRONG}"));
        said.answer(path, &once(site.admin, &wrong, PATIENCE).expect("an answer"));
    }
    // Users are in answers, but in no metric.
    vec![admin(site, &Request::get("/metrics")).text()]
}

/// The keys of receipts, as their files have them.
fn receipt_keys(site: &Site) -> Vec<String> {
    let folder = fs::read_dir(site.data().join(forebay::receipts::FOLDER)).expect("the keys' folder");
    let key = |entry: fs::DirEntry| fs::read_to_string(entry.path()).expect("keys are text").trim().to_owned();
    let keys: Vec<String> = folder.flatten().map(key).collect();
    assert!(!keys.is_empty() && keys.iter().all(|key| key.len() == 64), "{} keys", keys.len());
    keys
}

fn started(site: &Site, environment: &[(&str, &str)]) -> Server {
    let mut server = site.spawn(environment);
    let ask = Request::get("/readyz").header("Authorization", &format!("Bearer {TOKEN}"));
    within(PATIENCE, "the server is ready", || {
        assert!(server.ended().is_none(), "{}", server.log_tail());
        once(site.admin, &ask, Duration::from_secs(5)).ok().filter(|a| a.status == 200)
    });
    server
}

#[test]
fn a_server_at_its_most_talkative_tells_no_secret_in_logs_answers_or_metrics() {
    let _others = among_others();
    let site = service_site();
    let mut said = Said::default();
    let server = started(&site, &[]);
    let metrics = talk(&site, &server, &mut said);
    for arguments in [
        &["campaign", "list"][..],
        &["campaign", "show", "canary"],
        &["dead-letters", "list"],
        &["check-config"],
        &["config"],
        &["audit"],
        &["journal", "verify"],
        &["doctor", "--seconds", "1"],
    ] {
        said.run(&site, arguments);
    }
    assert!(server.stop().success());
    let log = fs::read_to_string(site.log()).expect("the log is there");
    assert!(log.lines().count() > 20, "the log says little: {} lines", log.lines().count());
    let mut of_callers = Said::default();
    of_callers.note("the log", log.clone());
    of_callers.note("the metrics", metrics.concat());
    of_callers.must_not_have(&[USER, IDEMPOTENCY]);
    said.note("the log", log);
    let keys = receipt_keys(&site);
    let all: Vec<&str> = SECRETS.into_iter().chain(keys.iter().map(String::as_str)).collect();
    said.must_not_have(&all);
}

#[test]
fn a_panic_tells_no_secret() {
    let _others = among_others();
    let site = service_site();
    let mut server = started(&site, &[("FOREBAY_PANIC_AT", "sequencer.batch:3"), ("RUST_BACKTRACE", "1")]);
    assert_eq!(admin(&site, &Request::post("/admin/v1/campaigns", &flash_sale("canary", 50))).status, 201);
    for no in 0..3 {
        let request = with_key(claim("canary", &format!("{USER}-{no}")).key(IDEMPOTENCY));
        let _ = once(site.public, &request, Duration::from_secs(10));
    }
    assert_eq!(server.wait(PATIENCE).code(), Some(1), "{}", server.log_tail());
    let mut said = Said::default();
    let log = fs::read_to_string(site.log()).expect("the log is there");
    assert!(log.contains("panicked"), "{log}");
    said.note("the log", log);
    let keys = receipt_keys(&site);
    let all: Vec<&str> =
        SECRETS.into_iter().chain([USER, IDEMPOTENCY]).chain(keys.iter().map(String::as_str)).collect();
    said.must_not_have(&all);
}

/// What a start and every command say with each of these configurations, with which none of them can do its work.
fn complaints(sites: &[Site]) -> Vec<(String, String)> {
    let complain = |site: &Site| {
        let mut said = Said::default();
        // Some start nevertheless, and go on trying.
        let (mut server, start) = (site.spawn(&[]), Instant::now());
        while server.ended().is_none() && start.elapsed() < Duration::from_secs(4) {
            std::thread::sleep(Duration::from_millis(50));
        }
        server.kill();
        let text = fs::read_to_string(site.log()).expect("the log is there");
        assert!(!text.is_empty(), "it said nothing");
        said.note("forebay serve", text);
        for arguments in
            [&["check-config"][..], &["migrate"], &["audit"], &["doctor", "--seconds", "1"], &["campaign", "list"]]
        {
            said.run(site, arguments);
        }
        said.words
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = sites.iter().map(|site| scope.spawn(move || complain(site))).collect();
        all.into_iter().flat_map(|one| one.join().expect("it only complains")).collect()
    })
}

#[test]
fn starts_that_fail_for_a_database_or_redis_tell_no_password() {
    let _others = among_others();
    let mut said = Said::default();
    let talkative = || Site::new().env("FOREBAY_LOG", "trace").text("ingest.admin_token", TOKEN);
    let nobody = crate::support::free_port();

    // The database: a password that is wrong, a server that is not there, URLs that can't be read.
    let mut postgres = Postgres::start(&[]);
    let rules = "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    fs::write(postgres.data().join("data/pg_hba.conf"), rules).expect("the server's rules can be written");
    postgres.sql("postgres", "CREATE ROLE shop LOGIN PASSWORD 'another'");
    postgres.stop();
    postgres.run();
    let wrong = format!("postgres://shop:{DATABASE}@127.0.0.1:{}/postgres", postgres.port);
    let urls = [
        wrong,
        format!("postgres://shop:{DATABASE}@127.0.0.1:{nobody}/postgres"),
        format!("postgres://shop:{DATABASE}@127.0.0.1:port/postgres"),
        format!("postgres://shop:{DATABASE}@/?unknown={DATABASE}"),
        format!("postgers://shop:{DATABASE}@127.0.0.1/postgres"),
        format!("mysql://shop:{DATABASE}@127.0.0.1/shop"),
        format!("shop:{DATABASE}@127.0.0.1"),
    ];
    let mut sites: Vec<Site> = urls.iter().map(|url| talkative().text("store.url", url)).collect();

    // Redis: the same.
    let redis = Redis::start();
    ::redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("another").exec(&mut redis.connect()).expect("it obeys");
    let socket = redis.url();
    let urls = [
        format!("{socket}?pass={REDIS}"),
        format!("redis://shop:{REDIS}@127.0.0.1:{nobody}"),
        format!("redis://:{REDIS}@127.0.0.1:port"),
        format!("rediss://:{REDIS}@127.0.0.1:{nobody}/0"),
        format!("rdis://:{REDIS}@127.0.0.1"),
    ];
    sites.extend(urls.iter().map(|url| talkative().text("buffer.kind", "redis").text("redis.url", url)));
    said.words.extend(complaints(&sites));
    let told = said.words.iter().any(|(_, text)| text.contains("password authentication failed"));
    assert!(told, "the password was not wrong: {:?}", said.words);
    said.must_not_have(&SECRETS);
}

#[test]
fn a_configuration_that_is_wrong_is_told_without_its_secrets() {
    let _others = among_others();
    let mut said = Said::default();
    let site = Site::new().env("FOREBAY_LOG", "trace");
    for text in [
        // A line that is no TOML, with a secret in it.
        format!("[ingest]\nadmin_token = \"{TOKEN}\n"),
        format!("[ingest]\nadmin_token = {TOKEN}\n"),
        format!("[ingest]\nadmin_token: \"{TOKEN}\"\n"),
        format!("[ingest]\nadmin_token = \"{TOKEN}\" listen = 1\n"),
        format!("[store]\nurl = 'postgres://shop:{DATABASE}@db/shop\n"),
        format!("[store]\nurl = \"a\"\nurl = \"postgres://shop:{DATABASE}@db/shop\"\n"),
        // A secret where it does not belong, or of the wrong shape.
        format!("[ingest]\nadmin_token = \"{TOKEN} with a space\"\n"),
        format!("[ingest]\nadmin_token = [\"{TOKEN}\"]\n"),
        format!("[ingest]\nadmin_tokn = \"{TOKEN}\"\n"),
        format!("[ingest]\nadmin_token = \"{TOKEN}\"\nadmin_token_file = \"/nowhere\"\n"),
        format!("[ingest.admin_token]\nvalue = \"{TOKEN}\"\n"),
        format!("[redis]\nurl = [\"redis://:{REDIS}@127.0.0.1\"]\n"),
        format!("[redis]\nurl = \"redis://:{REDIS}@127.0.0.1\"\n"),
        format!("[redis]\npassword = \"{REDIS}\"\n"),
        format!("[store]\nurl = [\"postgres://shop:{DATABASE}@db/shop\"]\n"),
        format!("[store]\nreplica_url = \"postgres://shop:{DATABASE}@db:port/shop\"\n"),
        format!("[store]\npassword = \"{DATABASE}\"\n"),
        format!("[[service_keys]]\nname = \"orders\"\nsha256 = \"{KEY}\"\nscopes = [\"read\"]\n"),
        format!("[[service_keys]]\nname = \"orders\"\nkey = \"{KEY}\"\nscopes = [\"read\"]\n"),
        format!("[[service_keys]]\nname = \"orders\"\nsha256 = [\"{KEY}\"]\nscopes = [\"read\"]\n"),
    ] {
        let path = site.folder.path().join("wrong.toml");
        fs::write(&path, &text).expect("a file");
        for command in ["check-config", "serve"] {
            let mut command = crate::support::plain([command, "--config", path.to_str().expect("a path")]);
            let output = command.current_dir(site.folder.path()).output().expect("the binary runs");
            assert_eq!(output.status.code(), Some(78), "{text}: {}", stdout(&output));
            said.note(&text.replace("canary", "c."), stdout(&output) + &stderr(&output));
        }
    }
    for (name, value) in [
        ("FOREBAY_INGEST__ADMIN_TOKEN", format!("{TOKEN} with a space")),
        ("FOREBAY_STORE__URL", format!("postgers://shop:{DATABASE}@db/shop")),
        ("FOREBAY_REDIS__URL", format!("redis://:{REDIS}@127.0.0.1")),
        ("FOREBAY_INGEST__ADMIN_TOKN", TOKEN.to_owned()),
    ] {
        let mut command = site.command(["check-config"]);
        let output = command.env(name, value).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(78), "{name}");
        said.note(name, stdout(&output) + &stderr(&output));
    }
    said.must_not_have(&SECRETS);
}

#[test]
fn what_holds_a_secret_does_not_print_it() {
    let _others = among_others();
    let text = format!(
        "[ingest]\nauth = \"service\"\nadmin_token = \"{TOKEN}\"\n[buffer]\nkind = \"redis\"\n[redis]\nurl = \
         \"redis://:{REDIS}@127.0.0.1\"\n[store]\nurl = \"postgres://shop:{DATABASE}@127.0.0.1/shop\"\nreplica_url = \
         \"postgres://shop:{DATABASE}@127.0.0.2/shop\"\n[[service_keys]]\nname = \"orders\"\nsha256 = \"{}\"\nscopes = \
         [\"read\"]\n",
        sha256(KEY)
    );
    let file = FileText { name: "canaries.toml", text: &text };
    let config = Config::from_parts(Some(file), [], &Overrides::default()).expect("a sound configuration");
    let mut said = Said::default();
    said.note("Debug of the configuration", format!("{config:?} {config:#?}"));
    let authenticator = forebay::ingest::auth::Authenticator::new(config.ingest.auth, &config.service_keys);
    said.note("Debug of the authenticator", format!("{authenticator:?}"));
    said.note("Debug of the token", format!("{:?}", forebay::ingest::auth::TokenDigest::new(TOKEN)));
    let folder = tempfile::tempdir().expect("a folder");
    let ring = forebay::receipts::KeyRing::open_or_create(folder.path()).expect("keys are made");
    said.note("Debug of the receipt keys", format!("{ring:?}"));
    let hash = sha256(KEY);
    said.must_not_have(&[&SECRETS[..], &[&hash]].concat());
}
