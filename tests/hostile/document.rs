//! docs/security.md is held to the code: the tests that it names are there, and its ceilings are those of the limits.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use forebay::limits;

const DOCUMENT: &str = include_str!("../../docs/security.md");

fn texts(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            texts(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(fs::read_to_string(&path).expect("a source file"));
        }
    }
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).expect("digits")).collect();
    groups.join(",")
}

#[test]
fn every_test_that_the_document_names_is_there_and_every_ceiling_is_the_codes() {
    let mut sources = Vec::new();
    for folder in ["src", "tests"] {
        texts(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut sources);
    }
    let quoted: BTreeSet<&str> = DOCUMENT.split('`').skip(1).step_by(2).collect();
    let is_test = |word: &&&str| {
        word.matches('_').count() >= 3
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let named: Vec<_> = quoted.iter().filter(is_test).filter(|word| !word.starts_with("forebay_")).collect();
    assert!(named.len() > 40, "only {} tests are named", named.len());
    let missing: Vec<_> =
        named.iter().filter(|name| !sources.iter().any(|text| text.contains(&format!("fn {name}(")))).collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
    for (name, value) in [
        ("CONNECTIONS_MAX", limits::CONNECTIONS_MAX),
        ("ADMIN_CONNECTIONS_MAX", limits::ADMIN_CONNECTIONS_MAX),
        ("REQUESTS_MAX", limits::REQUESTS_MAX.into()),
        ("CROWDED_REQUESTS", limits::CROWDED_REQUESTS.into()),
        ("H2_STREAMS_MAX", limits::H2_STREAMS_MAX.into()),
        ("H2_RESETS_MAX", limits::H2_RESETS_MAX as u64),
        ("H2_ERRORS_MAX", limits::H2_ERRORS_MAX as u64),
        ("HEAD_MAX", limits::HEAD_MAX as u64),
        ("BODY_MAX", limits::BODY_MAX as u64),
        ("BATCH_BODY_MAX", limits::BATCH_BODY_MAX as u64),
        ("H2_WINDOW", limits::H2_WINDOW.into()),
        ("FIRST_BYTE_MILLIS", limits::FIRST_BYTE_MILLIS),
        ("HEAD_DEADLINE_MILLIS", limits::HEAD_DEADLINE_MILLIS),
        ("BODY_DEADLINE_MILLIS", limits::BODY_DEADLINE_MILLIS),
        ("WRITE_STALL_MILLIS", limits::WRITE_STALL_MILLIS),
        ("SOCKET_SEND_BYTES", limits::SOCKET_SEND_BYTES as u64),
        ("ANSWER_RATE_MIN", limits::ANSWER_RATE_MIN),
        ("H2_ANSWER_MILLIS", limits::H2_ANSWER_MILLIS),
        ("H2_PING_MILLIS", limits::H2_PING_MILLIS),
        ("IDLE_MILLIS", limits::IDLE_MILLIS),
        ("WAIT_MAX_SECS", limits::WAIT_MAX_SECS),
        ("WAITERS_MAX", limits::WAITERS_MAX as u64),
        ("BATCH_MAX", limits::BATCH_MAX as u64),
        ("BATCHES_MAX", limits::BATCHES_MAX as u64),
        ("QUEUE_MAX", limits::QUEUE_MAX as u64),
        ("FORWARDED_HOPS_MAX", limits::FORWARDED_HOPS_MAX as u64),
        ("CART_LINES_MAX", limits::CART_LINES_MAX as u64),
        ("PER_USER_LIMIT_MAX", limits::PER_USER_LIMIT_MAX),
    ] {
        let row = DOCUMENT.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("{name} has no row"));
        let is_number = |c: char| c.is_ascii_digit() || c == ',';
        let value = grouped(value);
        assert!(row.split(|c| !is_number(c)).any(|n| n.trim_matches(',') == value), "{name} is {value}, but: {row}");
    }
}
