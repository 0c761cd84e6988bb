//! The house rules as a test: which layer may know which, how long a file and a function may be, what has to be said at
//! the top of a file, and what may not be left behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the top; a module may use those of the layers below its own, and its own module.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["engine", "audit"],
    &["ingest", "workers"],
    &["cache"],
    &["antiscalper", "queue", "store"],
    &["receipts", "config"],
    &["sale", "limits", "clock", "metrics", "plant", "pulse"],
];

/// Within the lowest layer, who may use whom.
const GROUND: &[(&str, &[&str])] =
    &[("sale", &["limits"]), ("clock", &["sale"]), ("receipts", &["sale"]), ("metrics", &["pulse"])];

/// Files that decide without doing: never async, and no clock, no log line, no I/O.
const PURE: &[&str] = &[
    "src/queue/book.rs",
    "src/queue/change.rs",
    "src/queue/winners.rs",
    "src/queue/keys.rs",
    "src/queue/ledger.rs",
    "src/queue/codec.rs",
    "src/queue/journal/frame.rs",
    "src/workers/batch.rs",
    "src/workers/retry.rs",
    "src/sale/red_packet.rs",
    "src/sale/campaign.rs",
    "src/cache/progress.rs",
    "src/cache/touched.rs",
    "src/cache/value.rs",
];

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "nothing in {folder}");
    found
}

fn everything() -> Vec<(PathBuf, String)> {
    ["src", "tests", "bench", "loadtest", "fuzz/fuzz_targets"].into_iter().flat_map(sources).collect()
}

/// The part of a source file that is not its unit tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn module_of(path: &Path) -> String {
    let name = path.components().nth(1).unwrap().as_os_str().to_str().unwrap();
    name.trim_end_matches(".rs").to_owned()
}

/// The modules that a text names after `crate::`.
fn used(text: &str) -> Vec<String> {
    let code: Vec<_> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    code.split("crate::")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned())
        .collect()
}

#[test]
fn dependencies_point_downwards_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let from = module_of(&path);
        let Some(own) = rank(&from) else { continue };
        for to in used(product(&text)) {
            let Some(other) = rank(&to) else { continue };
            let ground = GROUND.iter().any(|(a, b)| *a == from && b.contains(&to.as_str()));
            if to != from && other <= own && !ground {
                wrong.push(format!("{} uses {to}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_has_its_layer() {
    for (path, _) in sources("src") {
        let module = module_of(&path);
        assert!(
            rank(&module).is_some() || matches!(&*module, "main" | "lib"),
            "{module} is in no layer of tests/tidy.rs"
        );
    }
}

#[test]
fn each_kind_of_knowledge_has_one_place() {
    let rules: &[(&str, &[&str])] = &[
        ("StatusCode", &["src/ingest/reply.rs", "src/cli/"]),
        ("sqlx::", &["src/store/"]),
        ("Instant::now", &["src/clock.rs"]),
        ("SystemTime::now", &["src/clock.rs"]),
        ("hyper::", &["src/ingest/", "src/cli/client.rs"]),
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let name = path.to_str().unwrap();
        for (what, places) in rules {
            let code = product(&text).lines().filter(|l| !l.trim_start().starts_with("//"));
            if !places.iter().any(|p| name.starts_with(p)) && code.clone().any(|l| l.contains(what)) {
                wrong.push(format!("{name} knows {what}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_files_stay_pure() {
    let sources: BTreeMap<_, _> = sources("src").into_iter().collect();
    for name in PURE {
        let text = product(&sources[Path::new(name)]);
        for banned in ["async ", ".await", "tracing::", "crate::clock", "std::fs", "tokio"] {
            let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
            assert!(code.clone().all(|l| !l.contains(banned)), "{name} has {banned:?}");
        }
    }
}

#[test]
fn files_say_what_they_are_and_stay_readable() {
    let mut wrong = Vec::new();
    for (path, text) in everything() {
        if !text.starts_with("//!") {
            wrong.push(format!("{} does not begin with its contract", path.display()));
        }
        let lines = text.lines().count();
        if lines > 500 {
            wrong.push(format!("{} has {lines} lines", path.display()));
        }
        // rustfmt keeps code to 120; it leaves alone only comments, which may run over a little, and raw strings.
        if let Some(line) = text.lines().find(|l| l.chars().count() > 140 && !l.contains("r#\"")) {
            wrong.push(format!("{}: {line}", path.display()));
        }
        wrong.extend(long_functions(&text).into_iter().map(|f| format!("{}: {f}", path.display())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Functions of more than 70 lines, told by indentation: rustfmt closes a function where it opened it.
fn long_functions(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_fn = ["fn ", "pub fn ", "pub(super) fn ", "pub(crate) fn ", "async fn ", "pub async fn "];
        if !is_fn.iter().any(|f| code.starts_with(f)) {
            continue;
        }
        let indent = &line[..line.len() - code.len()];
        let close = format!("{indent}}}");
        let length = lines[start..].iter().position(|l| *l == close).unwrap_or(0);
        if length > 70 {
            found.push(format!("{length} lines: {code}"));
        }
    }
    found
}

#[test]
fn nothing_unfinished_is_left_behind() {
    let marks = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["to", "do!("].concat(),
        ["unimpl", "emented!("].concat(),
        ["#[ign", "ore"].concat(),
    ];
    for (path, text) in everything() {
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{} has {mark}", path.display());
        }
    }
}

#[test]
fn no_path_of_one_machine_is_in_the_tree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let home = format!("{}/", root.parent().unwrap().display());
    for (path, text) in everything() {
        assert!(home.len() < 3 || !text.contains(&home), "{} names {home}", path.display());
    }
}
