//! From file, environment and flags to one flat table of settings, each with where it came from.
//!
//! A text of the environment or a flag becomes what the key's default is (a number, a list); where it can't, it stays a
//! text and is refused when it is read. So the file stays strict (`threads = "4"` is refused) without the environment
//! needing quotes. Values and their origins are [`config::Value`]s.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::sync::LazyLock;

use config::{File, FileFormat, Source as _, Value, ValueKind};

use super::{ConfigError, FileText, Overrides};

/// The defaults, the known keys and their meaning.
pub(super) const DEFAULTS: &str = include_str!("defaults.toml");

/// The array of tables, which defaults can't show other than as a comment.
pub(super) const SERVICE_KEYS: &str = "service_keys";

const ENV_PREFIX: &str = "FOREBAY_";

/// The log filter (`forebay=debug`): not a setting, because logging begins before settings are read.
pub const LOG_VARIABLE: &str = "FOREBAY_LOG";

/// Where a test ends the process, or has it panic or hang, and how small its segments are; known to test builds only, so that a production
/// binary refuses them.
const TEST_VARIABLES: [&str; 4] = ["FOREBAY_CRASH_AT", "FOREBAY_PANIC_AT", "FOREBAY_HANG_AT", "FOREBAY_SEGMENT_BYTES"];

/// Settings by key path, such as `ingest.listen`.
pub(super) type Settings = BTreeMap<String, Value>;

/// What was found wrong with one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its path, such as `ingest.listen`.
    pub key: String,
    /// What it was set to, with secrets hidden; none where there was no value.
    pub value: Option<String>,
    /// The file, variable or flag that it came from.
    pub origin: Option<String>,
    /// What was expected, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that was set, and what was wrong with setting it.
pub(super) struct Layered {
    pub(super) settings: Settings,
    pub(super) problems: Vec<Problem>,
}

/// The lowest layer: every key but the service keys.
pub(super) static KNOWN: LazyLock<Settings> = LazyLock::new(|| {
    let table = parse(DEFAULTS).unwrap_or_else(|e| panic!("config/defaults.toml is not TOML: {e}"));
    let mut flat = Settings::new();
    flatten("", table, &|_| false, &mut flat);
    flat
});

/// Whether the key holds a secret: those that a `_file` key stands beside.
pub(super) fn is_secret(key: &str) -> bool {
    KNOWN.contains_key(&format!("{key}_file"))
}

fn is_known(key: &str) -> bool {
    key == SERVICE_KEYS || KNOWN.contains_key(key)
}

fn is_section(path: &str) -> bool {
    KNOWN.keys().any(|k| k.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// Puts the layers over each other and refuses unknown keys in each.
pub(super) fn merge(
    file: Option<FileText<'_>>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &Overrides,
) -> Result<Layered, ConfigError> {
    let mut layered = Layered { settings: KNOWN.clone(), problems: Vec::new() };
    if let Some(file) = file {
        let layer = file_layer(file, &mut layered.problems)?;
        add(layer, &mut layered);
    }
    let layer = env_layer(env, &mut layered.problems);
    add(layer, &mut layered);
    add(flag_layer(flags), &mut layered);
    Ok(layered)
}

fn parse(text: &str) -> Result<config::Map<String, Value>, config::ConfigError> {
    File::from_str(text, FileFormat::Toml).collect()
}

fn file_layer(file: FileText<'_>, problems: &mut Vec<Problem>) -> Result<Settings, ConfigError> {
    let table = parse(file.text).map_err(|e| {
        let reason = match e {
            config::ConfigError::FileParse { cause, .. } => without_excerpt(&cause.to_string()),
            other => other.to_string(),
        };
        ConfigError::Syntax { path: file.name.to_owned(), reason }
    })?;
    let mut flat = Settings::new();
    flatten("", table, &is_known, &mut flat);
    let mut layer = Settings::new();
    for (key, value) in flat {
        let origin = file.name.to_owned();
        if is_known(&key) {
            layer.insert(key, Value::new(Some(&origin), value.kind));
            continue;
        }
        let message = match value.kind {
            _ if is_section(&key) => format!("expected a table, written [{key}] with its keys below"),
            _ => format!("no such key; the nearest known one is {}", nearest(&key)),
        };
        let key = printable(&key);
        problems.push(Problem { key, value: None, origin: Some(origin), message });
    }
    Ok(layer)
}

/// A parser's message on one line, with the place and the reason but not the line of the file that it shows between
/// them: a quote missing behind a secret would put the secret there.
fn without_excerpt(message: &str) -> String {
    let is_excerpt = |line: &str| {
        let gutter = line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
        gutter.trim_start().starts_with('|')
    };
    message.lines().filter(|line| !line.is_empty() && !is_excerpt(line)).collect::<Vec<_>>().join(": ")
}

/// A key that nobody knows, on one line; an empty one as quotes.
fn printable(key: &str) -> String {
    if key.is_empty() { "\"\"".to_owned() } else { key.escape_debug().to_string() }
}

/// Spreads tables into paths. Stops at what `leaf` names, so that a table in a value's place is refused as such.
fn flatten(prefix: &str, table: config::Map<String, Value>, leaf: &dyn Fn(&str) -> bool, out: &mut Settings) {
    for (name, value) in table {
        let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value.kind {
            ValueKind::Table(inner) if !leaf(&path) && (!inner.is_empty() || is_empty_section(&path)) => {
                flatten(&path, inner, leaf, out);
            }
            kind => {
                out.insert(path, Value::new(None, kind));
            }
        }
    }
}

/// `[cache]` with nothing below is no mistake; asked only of empty tables, which the defaults have none of.
fn is_empty_section(path: &str) -> bool {
    is_section(path)
}

fn env_layer(env: impl IntoIterator<Item = (OsString, OsString)>, problems: &mut Vec<Problem>) -> Settings {
    let mut layer = Settings::new();
    let mut names: Vec<_> = env.into_iter().collect();
    names.sort();
    for (name, value) in names {
        let name = name.to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(ENV_PREFIX).filter(|_| !is_not_ours(&name)) else { continue };
        let key = rest.to_ascii_lowercase().replace("__", ".");
        let origin = format!("environment variable {}", name.escape_debug());
        let mut refuse = |message: String| {
            let key = printable(&key);
            problems.push(Problem { key, value: None, origin: Some(origin.clone()), message });
        };
        if key == SERVICE_KEYS || key.starts_with("service_keys.") {
            refuse("service keys are tables and can be set in the file only, as [[service_keys]]".to_owned());
        } else if let Some(default) = KNOWN.get(&key) {
            match value.into_string() {
                Ok(text) => drop(layer.insert(key, Value::new(Some(&origin), typed(text, default)))),
                Err(_) => refuse("expected UTF-8".to_owned()),
            }
        } else {
            let known = nearest(&key);
            refuse(format!("no such key; the nearest known one is {known} ({})", variable(&known)));
        }
    }
    layer
}

/// Variables with our prefix that are no settings: the log filter, those of test builds, and those that Kubernetes puts
/// into every container beside a service called `forebay` (`FOREBAY_SERVICE_HOST`, `FOREBAY_PORT_8080_TCP_ADDR`, …).
fn is_not_ours(name: &str) -> bool {
    name == LOG_VARIABLE
        || (cfg!(feature = "testing") && TEST_VARIABLES.contains(&name))
        || name == "FOREBAY_SERVICE_HOST"
        || name == "FOREBAY_SERVICE_PORT"
        || name.starts_with("FOREBAY_SERVICE_PORT_")
        || name == "FOREBAY_PORT"
        || (name.starts_with("FOREBAY_PORT_") && !name.contains("__"))
}

/// The variable that sets `key`.
pub(super) fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// What a text means for a key with this default.
fn typed(text: String, default: &Value) -> ValueKind {
    match &default.kind {
        ValueKind::I64(_) => text.trim().parse().map_or(ValueKind::String(text), ValueKind::I64),
        ValueKind::Array(_) => {
            let parts = text.split(',').map(str::trim).filter(|_| !text.trim().is_empty());
            ValueKind::Array(parts.map(|p| Value::new(None, p)).collect())
        }
        _ => ValueKind::String(text),
    }
}

fn flag_layer(flags: &Overrides) -> Settings {
    let all = [
        ("ingest.listen", "flag --listen", &flags.listen),
        ("ingest.admin_listen", "flag --admin-listen", &flags.admin_listen),
        ("buffer.data_dir", "flag --data-dir", &flags.data_dir),
    ];
    let set = all.into_iter().filter_map(|(key, origin, text)| {
        let value = Value::new(Some(&origin.to_owned()), text.as_deref()?);
        Some((key.to_owned(), value))
    });
    set.collect()
}

/// Lays `layer` over what is there. A `_file` key becomes the secret in that file, in its own layer: the file that the
/// environment names wins over the secret in the configuration file.
fn add(mut layer: Settings, into: &mut Layered) {
    let files: Vec<String> = layer.keys().filter(|k| k.strip_suffix("_file").is_some_and(is_secret)).cloned().collect();
    for key in files {
        let Some(value) = layer.remove(&key) else { continue };
        let origin = value.origin().unwrap_or_default().to_owned();
        let ValueKind::String(path) = &value.kind else {
            into.problems.push(problem(&key, &value, "expected the path of a file, as text".to_owned()));
            continue;
        };
        if path.is_empty() {
            continue;
        }
        let target = key.trim_end_matches("_file").to_owned();
        let inline = layer.get(&target).is_some_and(|v| !matches!(&v.kind, ValueKind::String(s) if s.is_empty()));
        if inline {
            let message = format!("set either {target} or {key}, not both");
            into.problems.push(problem(&key, &value, message));
            continue;
        }
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim_end_matches(['\r', '\n']).is_empty() => {
                into.problems.push(problem(&key, &value, "the file is empty; expected the secret in it".to_owned()));
            }
            Ok(text) => {
                let from = format!("{path}, named by {key} in {origin}");
                let secret = text.trim_end_matches(['\r', '\n']);
                layer.insert(target, Value::new(Some(&from), secret));
            }
            Err(e) => into.problems.push(problem(&key, &value, format!("cannot read the file: {e}"))),
        }
    }
    into.settings.extend(layer);
}

/// A problem with a value, its secrets hidden.
pub(super) fn problem(key: &str, value: &Value, message: String) -> Problem {
    let origin = value.origin().map(str::to_owned);
    Problem { key: key.to_owned(), value: Some(show(key, &value.kind)), origin, message }
}

fn show(key: &str, kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) if text.is_empty() => "\"\"".to_owned(),
        // A token is hidden whatever it was mistaken for; a URL where a password could be in it.
        _ if key == "ingest.admin_token" => "(hidden)".to_owned(),
        ValueKind::String(text) if is_secret(key) && text.contains(['@', '?']) => "(hidden)".to_owned(),
        ValueKind::String(text) => shorten(&format!("{text:?}")),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| show(key, &item.kind)).collect();
            shorten(&format!("[{}]", items.join(", ")))
        }
        other => other.to_string(),
    }
}

fn shorten(text: &str) -> String {
    const MOST: usize = 120;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    format!("{}…", text.chars().take(MOST).collect::<String>())
}

/// The known key that looks most like `key`: by the whole path, or by its last part in another section.
pub(super) fn nearest(key: &str) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |known: &str| {
        let whole = strsim::damerau_levenshtein(key, known);
        let tail = strsim::damerau_levenshtein(&last(key), &last(known)) + 1;
        (whole.min(tail), whole)
    };
    let mut names = KNOWN.keys().map(String::as_str).chain([SERVICE_KEYS]).collect::<Vec<_>>();
    names.sort_by_key(|known| distance(known));
    names.first().copied().unwrap_or_default().to_owned()
}
