//! Configuration: text and variables become settings within their ranges, or complaints that name the key and no secret.

use std::ffi::OsString;

use forebay::config::{Config, ConfigError, FileText, Overrides};

/// A file, and behind each zero byte a variable, `NAME=VALUE`.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Files that the input names are not read here: one of them might be a device without an end.
    if text.to_ascii_lowercase().contains("_file") {
        return;
    }
    let mut parts = text.split('\0');
    let file = FileText { name: "fuzz.toml", text: parts.next().unwrap_or_default() };
    let variable = |(name, value): (&str, &str)| (OsString::from(name), OsString::from(value));
    let env: Vec<_> = parts.filter_map(|part| part.split_once('=')).map(variable).collect();
    match Config::from_parts(Some(file), env.clone(), &Overrides::default()) {
        Ok(config) => sound(&config),
        Err(error) => told(&error, text),
    }
}

fn sound(c: &Config) {
    let seconds = |least: f64, most: f64, d: std::time::Duration| (least..=most).contains(&d.as_secs_f64());
    assert!(c.ingest.threads <= 256 && seconds(0.1, 60.0, c.ingest.ack_deadline));
    assert!((1_000..=100_000_000).contains(&c.antiscalper.max_keys));
    assert!((1_000..=100_000_000).contains(&c.buffer.max_entries));
    assert!(c.workers.count <= 64 && (1..=10_000).contains(&c.workers.batch_max));
    assert!(seconds(0.0, 720.0 * 3_600.0, c.buffer.keep_journal));
    assert!(seconds(0.0, 3_600.0, c.campaigns.settle_grace));
    assert!(seconds(60.0, 8_760.0 * 3_600.0, c.campaigns.release_after));
    assert!(seconds(0.0, 60.0, c.cache.local_ttl) && seconds(0.0, 600.0, c.shutdown.grace));
    let names: std::collections::HashSet<_> = c.service_keys.iter().map(|key| &key.name).collect();
    assert_eq!(names.len(), c.service_keys.len(), "two keys of one name");
    if !c.ingest.listen.ip().is_loopback() {
        assert_ne!(format!("{:?}", c.ingest.auth), "Open", "open to the world");
    }
}

fn told(error: &ConfigError, text: &str) {
    let messages = error.messages();
    assert!(!messages.is_empty() && messages.iter().all(|m| !m.trim().is_empty()));
    if let ConfigError::Invalid(problems) = error {
        for (problem, message) in problems.iter().zip(&messages) {
            assert!(!problem.key.is_empty() && !problem.message.is_empty(), "{problem:?}");
            assert!(message.starts_with(&problem.key), "{message}");
            assert!(!problem.key.chars().any(char::is_control), "{:?} is printed as it is", problem.key);
        }
    }
    if let Some(secret) = secret(text) {
        assert!(messages.iter().all(|m| !m.contains(secret)), "{messages:?} tell {secret:?}");
    }
}

/// A token that the text sets, if it stands there once and looks like nothing else.
fn secret(text: &str) -> Option<&str> {
    let (_, behind) = text.split_once("admin_token = \"")?;
    let (token, _) = behind.split_once(['"', '\n', '\0'])?;
    let plain = token.len() >= 16 && token.bytes().all(|b| b.is_ascii_digit());
    (plain && text.matches(token).count() == 1).then_some(token)
}
