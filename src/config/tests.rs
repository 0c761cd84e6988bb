//! What a configuration may say, what it may not and how that is told. The environment is always a table here, never
//! the process's own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use super::layers::{DEFAULTS, KNOWN, nearest};
use super::*;

const HASH: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

fn load_all(text: &str, env: &[(&str, &str)], flags: &Overrides) -> Result<Config, ConfigError> {
    let env = env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
    Config::from_parts(Some(FileText { name: "shop.toml", text }), env, flags)
}

fn load(text: &str) -> Result<Config, ConfigError> {
    load_all(text, &[], &Overrides::default())
}

fn load_env(env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load_all("", env, &Overrides::default())
}

fn messages<T: std::fmt::Debug>(result: Result<T, ConfigError>) -> String {
    result.expect_err("expected a refusal").messages().join("\n")
}

fn defaults() -> Config {
    Config::from_parts(None, [], &Overrides::default()).expect("the defaults are sound")
}

/// A file, and what the refusal must say (its key, value and origin among it).
const BAD_FILES: &[(&str, &str)] = &[
    ("ingest", "shop.toml is not TOML"),
    ("[ingest]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"", "shop.toml is not TOML"),
    ("[workers]\ncount = 99999999999999999999", "shop.toml is not TOML"),
    ("ingest = 5", "ingest (shop.toml): expected a table, written [ingest]"),
    ("[ingest.listen]\nx = 1", "ingest.listen = a table (shop.toml): expected an address as IP:port"),
    ("[ingest]\nlisten = \"localhost:8080\"", "ingest.listen = \"localhost:8080\" (shop.toml): expected an address"),
    ("[ingest]\nlisten = \":8080\"", "expected an address as IP:port"),
    ("[ingest]\nlisten = \"127.0.0.1\"", "expected an address as IP:port"),
    ("[ingest]\nlisten = \"127.0.0.1:65536\"", "expected an address as IP:port"),
    ("[ingest]\nlisten = 8080", "ingest.listen = 8080 (shop.toml): expected an address"),
    ("[ingest]\nadmin_listen = \"unix:relative\"", "or a Unix socket as unix:/path"),
    ("[ingest]\nadmin_listen = \"127.0.0.1:8080\"", "expected another address than ingest.listen"),
    ("[ingest]\nadmin_listen = \"0.0.0.0:8081\"", "ingest.admin_token = \"\": expected a token of 16 characters"),
    ("[ingest]\nadmin_token = \"short\"", "ingest.admin_token = (hidden) (shop.toml): expected 16 to 1024 visible"),
    ("[ingest]\nadmin_token = \"sixteen chars and spaces\"", "ingest.admin_token = (hidden)"),
    ("[ingest]\nadmin_token = 1234567890123456", "ingest.admin_token = (hidden)"),
    ("[ingest]\nthreads = 257", "ingest.threads = 257 (shop.toml): expected a whole number from 0 to 256"),
    ("[ingest]\nthreads = -1", "ingest.threads = -1 (shop.toml): expected a whole number"),
    ("[ingest]\nthreads = \"4\"", "ingest.threads = \"4\" (shop.toml): expected a whole number"),
    ("[ingest]\nthreads = 1.5", "ingest.threads = 1.5 (shop.toml): expected a whole number"),
    ("[ingest]\nthreads = true", "ingest.threads = true (shop.toml): expected a whole number"),
    ("[ingest]\nauth = \"none\"", "ingest.auth = \"none\" (shop.toml): expected one of \"open\", \"service\""),
    ("[ingest]\nauth = \"Open\"", "expected one of \"open\""),
    ("[ingest]\nauth = \"session\"", "this version knows no sessions"),
    ("[ingest]\nauth = \"service\"", "expected at least one [[service_keys]] table"),
    ("[ingest]\nlisten = \"0.0.0.0:8080\"", "ingest.auth = \"open\": expected \"service\", because ingest.listen"),
    ("[ingest]\nlisten = \"[::]:8080\"", "is beyond loopback"),
    ("[ingest]\ntrusted_proxies = \"10.0.0.0/8\"", "expected a list of texts, each a network"),
    ("[ingest]\ntrusted_proxies = [\"10.0.0.0/33\"]", "\"10.0.0.0/33\" in the list: expected a network"),
    ("[ingest]\ntrusted_proxies = [10]", "10 in the list: expected a network"),
    ("[ingest]\ncors_origins = [\"*\"]", "\"*\" in the list: expected an origin"),
    ("[ingest]\ncors_origins = [\"https://shop.example/\"]", "expected an origin such as"),
    ("[ingest]\nack_deadline = \"5\"", "ingest.ack_deadline = \"5\" (shop.toml): expected a duration such as"),
    ("[ingest]\nack_deadline = 5", "ingest.ack_deadline = 5 (shop.toml): expected a duration"),
    ("[ingest]\nack_deadline = \"99ms\"", "from 100ms to 60s"),
    ("[ingest]\nack_deadline = \"61s\"", "from 100ms to 60s"),
    ("[ingest]\nack_deadline = \"1.5s\"", "expected a duration"),
    ("[ingest]\nack_deadline = \"99999999999999999999h\"", "expected a duration"),
    (
        "[antiscalper]\nuser_rate = \"10\"",
        "antiscalper.user_rate = \"10\" (shop.toml): \"10\" is not a rate: expected a number and",
    ),
    ("[antiscalper]\nuser_rate = \"0/s\"", "is out of range: expected 1 to"),
    ("[antiscalper]\nuser_rate = 10", "antiscalper.user_rate = 10 (shop.toml): expected a rate as text"),
    ("[antiscalper]\naddress_rate = \"10/fortnight\"", "antiscalper.address_rate"),
    ("[antiscalper]\nmax_keys = 999", "antiscalper.max_keys = 999 (shop.toml): expected a whole number from 1000"),
    ("[antiscalper]\nmax_keys = 100_000_001", "to 100000000"),
    ("[buffer]\nkind = \"kafka\"", "expected one of \"journal\", \"redis\""),
    ("[buffer]\nkind = \"redis\"", "redis.url = \"\": expected redis://…, rediss://… or unix://…, because buffer.kind"),
    (
        "[buffer]\nkind = \"redis\"\n[redis]\nurl = \"redis://c:x/9\"",
        "redis.url = \"redis://c:x/9\" (shop.toml): it can't be read",
    ),
    ("[redis]\ntimeout = \"10ms\"", "from 100ms to 30s"),
    ("[redis]\nlease = \"500ms\"", "from 1s to 60s"),
    ("[redis]\nlanes = 17", "redis.lanes = 17 (shop.toml): expected a whole number from 0 to 16"),
    ("[redis]\naccept = [\"everything\"]", "\"everything\" in the list: expected one of \"appendonly=no\", \"append"),
    ("[buffer]\ndata_dir = \"\"", "buffer.data_dir = \"\" (shop.toml): expected the path of a folder"),
    ("[buffer]\nkeep_journal = \"721h\"", "from 0s to 720h"),
    ("[buffer]\ndurability = \"tape\"", "expected one of \"disk\", \"memory\""),
    ("[buffer]\nmax_entries = 0", "buffer.max_entries = 0 (shop.toml): expected a whole number from 1000"),
    ("[buffer]\nmax_entries = 100_000_001", "to 100000000"),
    (
        "[redis]\nurl = \"redis://:hunter2@cache:6379\"",
        "redis.url = (hidden) (shop.toml): expected nothing, because buffer.kind = \"journal\"",
    ),
    ("[redis]\nurl = \"http://cache\"", "expected redis://"),
    (
        "[redis]\nnodes = [\"cache:6379\"]",
        "redis.nodes = [\"cache:6379\"] (shop.toml): this version knows a single Redis only",
    ),
    ("[redis]\nsentinels = [\"cache\"]", "expected a sentinel as host:port"),
    ("[store]\nurl = \"mysql://db/shop\"", "store.url = \"mysql://db/shop\" (shop.toml): MySQL is not in this version"),
    ("[store]\nurl = \"sqlite::memory:\"", "expected sqlite:PATH (a file, without parameters)"),
    ("[store]\nurl = \"sqlite:a.db?mode=ro\"", "expected sqlite:PATH (a file, without parameters)"),
    ("[store]\nurl = \"forebay.db\"", "expected sqlite:PATH"),
    (
        "[store]\nreplica_url = \"postgres://db/shop\"",
        "store.replica_url = \"postgres://db/shop\" (shop.toml): expected nothing",
    ),
    (
        "[store]\nurl = \"postgres://a:hunter2@db/shop\"\nreplica_url = \"sqlite:a.db\"",
        "store.replica_url = \"sqlite:a.db\" (shop.toml): expected postgres://",
    ),
    ("[store]\nurl = \"postgres://\"", "store.url"),
    ("[store]\npartition_by = \"day\"", "store.partition_by = \"day\" (shop.toml): expected \"none\""),
    ("[store]\npartition_by = \"week\"", "expected one of \"none\", \"day\""),
    ("[store]\nurl = \"postgres://db/shop\"\n[workers]\ncount = 2", "expected 0 or 1, because one transaction after"),
    ("[workers]\ncount = 65", "workers.count = 65 (shop.toml): expected a whole number from 0 to 64"),
    ("[workers]\ncount = 2", "workers.count = 2 (shop.toml): expected 0 or 1, because SQLite has one writer"),
    ("[store]\nurl = \"sqlite:a.db\"\n[workers]\ncount = 64", "workers.count = 64 (shop.toml): expected 0 or 1"),
    ("[workers]\nbatch_max = 0", "from 1 to 10000"),
    ("[workers]\nbatch_max = 10_001", "workers.batch_max = 10001"),
    ("[cache]\nlocal_ttl = \"61s\"", "from 0s to 60s"),
    ("[shutdown]\ngrace = \"11m\"", "from 0s to 10m"),
    ("[campaigns]\nsettle_grace = \"2h\"", "from 0s to 1h"),
    ("[campaigns]\nrelease_after = \"1s\"", "from 1m to 8760h"),
    ("listen = \"127.0.0.1:1\"", "listen (shop.toml): no such key; the nearest known one is ingest.listen"),
    ("[ingest]\nlisten_admin = \"x\"", "ingest.listen_admin (shop.toml): no such key"),
    ("[Ingest]\nthreads = 1", "Ingest.threads (shop.toml): no such key; the nearest known one is ingest.threads"),
    ("[bufer]\nkind = \"journal\"", "bufer.kind (shop.toml): no such key; the nearest known one is buffer.kind"),
    ("[buffer]\nbatch_max = 5", "the nearest known one is workers.batch_max"),
    ("[kafka]", "kafka (shop.toml): no such key"),
    (
        "[ingest]\nadmin_token_file = \"no/such/file\"",
        "ingest.admin_token_file = \"no/such/file\" (shop.toml): cannot read",
    ),
    ("[ingest]\nadmin_token_file = 7", "expected the path of a file"),
    ("[ingest]\nadmin_token = \"0123456789abcdef\"\nadmin_token_file = \"f\"", "set either ingest.admin_token or"),
];

/// Fields of one service key, and what the refusal must say.
const BAD_KEYS: &[(&str, &str)] = &[
    ("", "service_keys[0].name (shop.toml): missing"),
    ("name = \"a\"\nscopes = [\"read\"]", "service_keys[0].sha256 (shop.toml): missing"),
    ("name = \"a\"\nsha256 = \"HASH\"", "service_keys[0].scopes (shop.toml): missing"),
    ("name = \"a b\"\nsha256 = \"HASH\"\nscopes = [\"read\"]", "service_keys[0].name (shop.toml): expected 1 to 64"),
    ("name = 7\nsha256 = \"HASH\"\nscopes = [\"read\"]", "service_keys[0].name (shop.toml): expected text"),
    (
        "name = \"a\"\nsha256 = \"fbk_x\"\nscopes = [\"read\"]",
        "service_keys[0].sha256 (shop.toml): expected the SHA-256",
    ),
    ("name = \"a\"\nsha256 = \"HASH0\"\nscopes = [\"read\"]", "64 hex digits"),
    ("name = \"a\"\nsha256 = \"HASH\"\nscopes = []", "service_keys[0].scopes (shop.toml): expected at least one"),
    ("name = \"a\"\nsha256 = \"HASH\"\nscopes = \"read\"", "service_keys[0].scopes (shop.toml): expected a list"),
    ("name = \"a\"\nsha256 = \"HASH\"\nscopes = [[1]]", "service_keys[0].scopes"),
    ("name = \"a\"\nsha256 = \"HASH\"\nscopes = [\"admin\"]", "\"admin\" is no scope; expected among claims:write"),
    ("name = \"a\"\nsha256 = \"HASH\"\nscopes = [\"read\", \"read\"]", "\"read\" is there twice"),
    (
        "nam = \"a\"\nsha256 = \"HASH\"\nscopes = []",
        "service_keys[0].nam (shop.toml): no such key; the nearest known one is name",
    ),
];

/// A variable, its value, and what the refusal must say.
const BAD_VARIABLES: &[(&str, &str, &str)] = &[
    (
        "FOREBAY_INGEST__THREADS",
        "many",
        "ingest.threads = \"many\" (environment variable FOREBAY_INGEST__THREADS): expected a",
    ),
    ("FOREBAY_INGEST__THREADS", "", "ingest.threads = \"\""),
    ("FOREBAY_WORKERS__COUNT", "65", "workers.count = 65"),
    ("FOREBAY_INGEST__LISTN", "x", "the nearest known one is ingest.listen (FOREBAY_INGEST__LISTEN)"),
    ("FOREBAY_INGEST_LISTEN", "x", "the nearest known one is ingest.listen (FOREBAY_INGEST__LISTEN)"),
    ("FOREBAY_", "x", "no such key"),
    ("FOREBAY_SERVICE_KEYS", "x", "in the file only, as [[service_keys]]"),
    ("FOREBAY_SERVICE_KEYS__0__NAME", "x", "in the file only, as [[service_keys]]"),
    ("FOREBAY_INGEST__TRUSTED_PROXIES", "10.0.0.0/8,,fd00::/8", "\"\" in the list: expected a network"),
    ("FOREBAY_INGEST__ADMIN_TOKEN", "hunter2", "ingest.admin_token = (hidden) (environment variable"),
    ("FOREBAY_BUFFER__KIND", "redis", "redis.url = \"\": expected redis://"),
    ("FOREBAY_CACHE__LOCAL_TTL", "2", "expected a duration such as 500ms, 30s, 15m, 24h, from 0s to 60s"),
];

#[test]
fn every_bad_file_is_refused_with_its_key_value_origin_and_expectation() {
    for (text, expected) in BAD_FILES {
        let told = messages(load(text));
        assert!(told.contains(expected), "{text}\n  told: {told}\n  expected: {expected}");
        assert!(!told.contains("hunter2"), "a secret is in: {told}");
    }
}

#[test]
fn a_syntax_error_is_told_on_one_line_by_place_without_the_line_itself() {
    let told = messages(load("[ingest]\nadmin_token = \"hunter2-hunter2-hunter2\nthreads = 1"));
    assert!(told.starts_with("shop.toml is not TOML: TOML parse error at line 2, column "), "{told}");
    assert!(!told.contains("hunter2") && !told.contains('\n'), "{told}");
    let told = messages(load("[ingest]\nadmin_token = hunter2-hunter2-hunter2"));
    assert!(told.contains("line 2") && !told.contains("hunter2"), "{told}");
}

#[test]
fn every_bad_service_key_is_refused_by_its_field() {
    for (fields, expected) in BAD_KEYS {
        let told = messages(load(&format!("[[service_keys]]\n{}", fields.replace("HASH", HASH))));
        assert!(told.contains(expected), "{fields}\n  told: {told}\n  expected: {expected}");
        assert!(!told.contains("fbk_"), "a key in the hash's place must not be shown: {told}");
    }
    let twice = format!("[[service_keys]]\nname = \"a\"\nsha256 = \"{HASH}\"\nscopes = [\"read\"]\n").repeat(2);
    let told = messages(load(&twice));
    assert!(told.contains("service_keys[1].name (shop.toml): \"a\" is also the name of key 0"), "{told}");
    assert!(told.contains("service_keys[1].sha256 (shop.toml): the same key as 0"), "{told}");
    let told = messages(load("service_keys = 5"));
    assert!(told.contains("service_keys = 5 (shop.toml): expected tables, each written [[service_keys]]"), "{told}");
}

#[test]
fn every_bad_variable_is_refused_by_its_name() {
    for (name, value, expected) in BAD_VARIABLES {
        let told = messages(load_env(&[(name, value)]));
        assert!(told.contains(expected), "{name}={value}\n  told: {told}\n  expected: {expected}");
        assert!(!told.contains("hunter2"), "a secret is in: {told}");
    }
}

#[test]
fn all_problems_are_found_in_one_go() {
    let text = "[ingest]\nthreads = 300\nlissten = 1\n[workers]\ncount = 65\n[buffer]\nkind = \"kafka\"";
    let error = load_all(text, &[("FOREBAY_CACHE__LOCAL_TTL", "x")], &Overrides::default()).unwrap_err();
    let keys: Vec<_> = match &error {
        ConfigError::Invalid(problems) => problems.iter().map(|p| p.key.as_str()).collect(),
        other => panic!("{other}"),
    };
    assert_eq!(keys, ["buffer.kind", "cache.local_ttl", "ingest.lissten", "ingest.threads", "workers.count"]);
}

#[test]
fn a_rule_is_silent_about_a_key_that_could_not_be_read() {
    let error = load("[ingest]\nlisten = \"0.0.0.0:80\"\nauth = \"servce\"").unwrap_err();
    assert_eq!(error.messages().len(), 1, "{error}");
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let text = "[ingest]\nlisten = \"127.0.0.1:1\"\nthreads = 1\nack_deadline = \"1s\"";
    let env = [("FOREBAY_INGEST__LISTEN", "127.0.0.1:2"), ("FOREBAY_INGEST__THREADS", " 2 "), ("PATH", "/bin")];
    let flags = Overrides { listen: Some("127.0.0.1:3".into()), ..Overrides::default() };
    let config = load_all(text, &env, &flags).unwrap();
    assert_eq!(config.ingest.listen.port(), 3);
    assert_eq!(config.ingest.threads, 2);
    assert_eq!(config.ingest.ack_deadline, Duration::from_secs(1));
    assert_eq!(config.workers.batch_max, 1_000);
    let told = messages(load_all(text, &env, &Overrides { listen: Some("x".into()), ..Overrides::default() }));
    assert!(told.contains("ingest.listen = \"x\" (flag --listen)"), "{told}");
}

#[test]
fn lists_of_the_environment_are_separated_by_commas() {
    let config = load_env(&[
        ("FOREBAY_INGEST__TRUSTED_PROXIES", "10.0.0.0/8, fd00::/8,192.0.2.1"),
        ("FOREBAY_INGEST__CORS_ORIGINS", "https://shop.example,http://localhost:3000"),
    ])
    .unwrap();
    let proxies: Vec<_> = config.ingest.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"]);
    assert_eq!(config.ingest.cors_origins, ["https://shop.example", "http://localhost:3000"]);
    let none = load_all(
        "[ingest]\ntrusted_proxies = [\"10.0.0.0/8\"]",
        &[("FOREBAY_INGEST__TRUSTED_PROXIES", "")],
        &Overrides::default(),
    );
    assert!(none.unwrap().ingest.trusted_proxies.is_empty());
}

#[test]
fn a_secret_comes_from_a_file_and_the_file_named_in_the_higher_layer_wins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "0123456789abcdef-from-file\n").unwrap();
    let path = path.to_str().unwrap();
    let text = "[ingest]\nadmin_token = \"0123456789abcdef\"\nadmin_listen = \"0.0.0.0:8081\"";
    let env = [("FOREBAY_INGEST__ADMIN_TOKEN_FILE", path)];
    let config = load_all(text, &env, &Overrides::default()).unwrap();
    assert_eq!(config.ingest.admin_token.expose(), "0123456789abcdef-from-file");
    assert!(!format!("{config:?}").contains("0123456789abcdef"), "{config:?}");

    let both = [("FOREBAY_INGEST__ADMIN_TOKEN_FILE", path), ("FOREBAY_INGEST__ADMIN_TOKEN", "0123456789abcdef")];
    let told = messages(load_env(&both));
    assert!(told.contains("set either ingest.admin_token or ingest.admin_token_file, not both"), "{told}");

    std::fs::write(path, "\n").unwrap();
    let told = messages(load_env(&env));
    assert!(told.contains("the file is empty"), "{told}");
    std::fs::write(path, "hunter2\n").unwrap();
    let told = messages(load_env(&env));
    assert!(told.contains("token, named by ingest.admin_token_file in environment variable"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn the_database_follows_the_data_folder_unless_it_is_set() {
    let path = |config: Config| config.store.url.sqlite_path().unwrap().to_owned();
    assert_eq!(path(defaults()), Path::new("forebay-data/forebay.db"));
    let flags = Overrides { data_dir: Some("/srv/sale".into()), ..Overrides::default() };
    assert_eq!(path(load_all("", &[], &flags).unwrap()), Path::new("/srv/sale/forebay.db"));
    for url in ["sqlite:x.db", "sqlite://x.db"] {
        let text = format!("[store]\nurl = \"{url}\"");
        assert_eq!(path(load_all(&text, &[], &flags).unwrap()), Path::new("x.db"));
    }
}

#[test]
fn a_server_is_taken_with_the_journal_and_its_password_is_never_shown() {
    let text =
        "[store]\nurl = \"postgres://shop:hunter2@db/shop\"\nreplica_url = \"postgresql://shop:hunter2@db2/shop\"";
    let config = load(text).unwrap();
    assert!(matches!(&config.store.url, StoreUrl::Postgres(url) if url.expose().ends_with("@db/shop")));
    assert!(matches!(&config.store.replica_url, Some(StoreUrl::Postgres(url)) if url.expose().contains("@db2/")));
    assert_eq!(config.store.url.sqlite_path(), None);
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}

#[test]
fn what_describe_prints_changes_nothing_and_names_every_key_of_the_contract() {
    assert_eq!(load(describe()).unwrap(), defaults());
    assert_eq!(load("[cache]\n[redis]").unwrap(), defaults());
    let contract = [
        "antiscalper.address_rate",
        "antiscalper.max_keys",
        "antiscalper.user_rate",
        "buffer.data_dir",
        "buffer.durability",
        "buffer.keep_journal",
        "buffer.kind",
        "buffer.max_entries",
        "cache.local_ttl",
        "cache.redis_ttl",
        "campaigns.release_after",
        "campaigns.settle_grace",
        "ingest.ack_deadline",
        "ingest.admin_listen",
        "ingest.admin_token",
        "ingest.admin_token_file",
        "ingest.auth",
        "ingest.connections_per_address",
        "ingest.cors_origins",
        "ingest.listen",
        "ingest.threads",
        "ingest.trusted_proxies",
        "redis.accept",
        "redis.lanes",
        "redis.lease",
        "redis.nodes",
        "redis.sentinels",
        "redis.timeout",
        "redis.url",
        "redis.url_file",
        "shutdown.grace",
        "store.partition_by",
        "store.replica_url",
        "store.replica_url_file",
        "store.url",
        "store.url_file",
        "workers.batch_max",
        "workers.count",
    ];
    assert_eq!(KNOWN.keys().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(contract));
}

#[test]
fn the_document_tells_the_ranges_that_are_enforced() {
    let number = |n: &usize| {
        let digits = n.to_string();
        let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap()).collect();
        groups.join("_")
    };
    let ranges = [
        ("threads", read::THREADS),
        ("connections_per_address", read::CONNECTIONS_PER_ADDRESS),
        ("max_keys", read::MAX_KEYS),
        ("max_entries", read::MAX_ENTRIES),
        ("count", read::WORKERS),
        ("batch_max", read::BATCH_MAX),
    ];
    let mut all: Vec<_> = ranges.iter().map(|(key, r)| (*key, number(r.start()), number(r.end()))).collect();
    for (key, [least, most]) in [
        ("ack_deadline", read::ACK_DEADLINE),
        ("keep_journal", read::KEEP_JOURNAL),
        ("settle_grace", read::SETTLE_GRACE),
        ("release_after", read::RELEASE_AFTER),
        ("local_ttl", read::LOCAL_TTL),
        ("redis_ttl", read::REDIS_TTL),
        ("grace", read::GRACE),
    ] {
        all.push((key, least.to_owned(), most.to_owned()));
    }
    for (key, least, most) in all {
        let before = DEFAULTS.split(&format!("\n{key} =")).next().unwrap();
        let comment = before.rsplit('\n').next().unwrap();
        assert!(comment.contains(&format!("{least} to {most}")), "{key}: {comment}");
    }
}

#[test]
fn the_example_of_a_service_key_in_the_document_is_sound() {
    let example: String = DEFAULTS
        .lines()
        .filter_map(|l| l.strip_prefix("# "))
        .skip_while(|l| *l != "[[service_keys]]")
        .take(4)
        .fold(String::new(), |text, line| text + line + "\n");
    let text = format!("{example}[ingest]\nauth = \"service\"\nlisten = \"0.0.0.0:8080\"");
    let config = load(&text).unwrap();
    assert_eq!(config.service_keys[0].name, "orders");
    assert_eq!(config.service_keys[0].scopes.len(), Scope::WORDS.len());
}

#[test]
fn the_nearest_key_is_the_one_a_person_meant() {
    for (wrong, meant) in [
        ("ingest.lsten", "ingest.listen"),
        ("ingest.admintoken", "ingest.admin_token"),
        ("buffer.datadir", "buffer.data_dir"),
        ("antiscalper.user-rate", "antiscalper.user_rate"),
        ("worker.count", "workers.count"),
        ("server.threads", "ingest.threads"),
        ("service_key", "service_keys"),
        ("grace", "shutdown.grace"),
    ] {
        assert_eq!(nearest(wrong), meant, "{wrong}");
    }
}

#[test]
fn variables_of_kubernetes_and_the_log_filter_are_no_settings() {
    let env = [
        ("FOREBAY_SERVICE_HOST", "10.0.0.1"),
        ("FOREBAY_SERVICE_PORT", "80"),
        ("FOREBAY_SERVICE_PORT_HTTP", "80"),
        ("FOREBAY_PORT", "tcp://10.0.0.1:80"),
        ("FOREBAY_PORT_80_TCP_ADDR", "10.0.0.1"),
        (LOG_VARIABLE, "debug"),
    ];
    assert_eq!(load_env(&env).unwrap(), defaults());
}

#[test]
fn loopback_needs_neither_token_nor_keys() {
    for (public, admin) in [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.9.9.9:1", "unix:/run/forebay.sock"),
        ("[::1]:1", "[::1]:2"),
        ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:2"),
    ] {
        let text = format!("[ingest]\nlisten = \"{public}\"\nadmin_listen = \"{admin}\"");
        assert!(load(&text).is_ok(), "{text}");
    }
}

#[test]
fn a_file_that_was_asked_for_must_exist() {
    let error = Config::load(Some(Path::new("no/such.toml")), &Overrides::default()).unwrap_err();
    assert!(error.to_string().contains("cannot read the configuration file no/such.toml"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Config::load(Some(folder.path()), &Overrides::default()), Err(ConfigError::Unreadable { .. })));
}
