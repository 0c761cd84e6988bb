//! What of Redis' settings decides whether it keeps what it is given.

use std::str::FromStr;

use redis::{Value, cmd};

use super::client::{CallError, Connection};
use super::protocol;

/// The oldest version that has functions.
const OLDEST: (u32, u32) = (7, 0);

/// A Redis and its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As it names itself.
    pub version: String,
    /// Whether it writes an append-only file.
    pub appendonly: bool,
    /// When it syncs that: `always`, `everysec` or `no`.
    pub appendfsync: String,
    /// What it does when its memory is full.
    pub policy: String,
    /// Bytes that it may use; 0 for all there are.
    pub maxmemory: u64,
    /// Bytes that it uses.
    pub used: u64,
    /// Whether it takes writes.
    pub is_primary: bool,
}

/// What Redis says of itself: lines of a name, a colon and a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info(String);

impl Info {
    /// Asks for some of its sections.
    ///
    /// # Errors
    /// As every call; [`CallError::Unready`] where the user may not ask.
    pub fn read(connection: &mut Connection, sections: &[&str]) -> Result<Self, CallError> {
        let mut info = String::new();
        for section in sections {
            info.push_str(&text(&connection.command(cmd("INFO").arg(*section))?)?);
        }
        Ok(Self(info))
    }

    /// A value; empty where this version does not say it.
    pub fn text(&self, name: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).unwrap_or_default()
    }

    /// A value that is a number.
    pub fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name).parse().ok()
    }
}

/// A setting that makes Redis forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weak {
    /// By which name it can be accepted; none where it can't.
    pub name: Option<String>,
    /// What it does.
    pub what: String,
}

impl Facts {
    /// Asks Redis.
    ///
    /// # Errors
    /// As every call; [`CallError::Unready`] where the user may not ask.
    pub fn read(connection: &mut Connection) -> Result<Self, CallError> {
        let info = Info::read(connection, &["server", "replication", "memory"])?;
        let field = |name: &str| info.text(name).to_owned();
        let mut setting = |name: &str| {
            let answer = connection.command(cmd("CONFIG").arg("GET").arg(name))?;
            match answer {
                Value::Array(pair) if pair.len() == 2 => text(&pair[1]),
                Value::Map(pairs) if pairs.len() == 1 => text(&pairs[0].1),
                _ => Err(CallError::Protocol(format!("no setting {name}"))),
            }
        };
        Ok(Self {
            version: field("redis_version"),
            appendonly: setting("appendonly")? == "yes",
            appendfsync: setting("appendfsync")?,
            policy: setting("maxmemory-policy")?,
            maxmemory: field("maxmemory").parse().unwrap_or(0),
            used: field("used_memory").parse().unwrap_or(0),
            is_primary: field("role") == "master",
        })
    }

    /// Whether it has functions.
    pub fn is_new_enough(&self) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= OLDEST
    }

    /// What makes it forget.
    pub fn weak(&self) -> Vec<Weak> {
        let mut weak = Vec::new();
        if !self.is_new_enough() {
            let what = format!("it is version {}, and functions came with {}.{}", self.version, OLDEST.0, OLDEST.1);
            weak.push(Weak { name: None, what });
        }
        if !self.appendonly {
            let what =
                "appendonly is no: a restart of Redis loses whatever no snapshot has, and every gate has to offer it \
                        again"
                    .to_owned();
            weak.push(Weak { name: Some("appendonly=no".to_owned()), what });
        } else if self.appendfsync != "always" {
            let name = format!("appendfsync={}", self.appendfsync);
            let what = format!(
                "appendfsync is {}: a crash of its machine loses what was not synced, and every gate has to offer it again",
                self.appendfsync
            );
            weak.push(Weak { name: Some(name), what });
        }
        if self.policy != "noeviction" {
            let what =
                format!("maxmemory-policy is {}: it may throw away claims that wait; set noeviction", self.policy);
            weak.push(Weak { name: Some("maxmemory-policy".to_owned()), what });
        }
        weak
    }

    /// What of it nobody has accepted.
    pub fn refused(&self, accepted: &[String]) -> Vec<Weak> {
        let is_open = |weak: &Weak| weak.name.as_ref().is_none_or(|name| !accepted.contains(name));
        self.weak().into_iter().filter(is_open).collect()
    }
}

fn text(value: &Value) -> Result<String, CallError> {
    let bytes = match value {
        Value::VerbatimString { text, .. } => return Ok(text.clone()),
        other => protocol::bytes(other).map_err(|error| CallError::Protocol(error.0))?,
    };
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Facts {
        Facts {
            version: "7.0.15".to_owned(),
            appendonly: true,
            appendfsync: "always".to_owned(),
            policy: "noeviction".to_owned(),
            maxmemory: 0,
            used: 1,
            is_primary: true,
        }
    }

    #[test]
    fn each_weak_setting_is_named_and_can_be_accepted_by_that_name_alone() {
        assert_eq!(sound().weak(), []);
        type Weaken = fn(&mut Facts);
        let cases: [(Weaken, Option<&str>); 5] = [
            (|f| f.appendonly = false, Some("appendonly=no")),
            (|f| f.appendfsync = "everysec".to_owned(), Some("appendfsync=everysec")),
            (|f| f.appendfsync = "no".to_owned(), Some("appendfsync=no")),
            (|f| f.policy = "allkeys-lru".to_owned(), Some("maxmemory-policy")),
            (|f| f.version = "6.2.14".to_owned(), None),
        ];
        for (weaken, name) in cases {
            let mut facts = sound();
            weaken(&mut facts);
            let names: Vec<_> = facts.weak().into_iter().map(|weak| weak.name).collect();
            assert_eq!(names, [name.map(str::to_owned)]);
            let all: Vec<String> = cases.iter().filter_map(|(_, name)| name.map(str::to_owned)).collect();
            let others: Vec<String> = all.iter().filter(|other| Some(other.as_str()) != name).cloned().collect();
            assert_eq!(facts.refused(&others).len(), 1, "{name:?}");
            assert_eq!(facts.refused(&all).len(), usize::from(name.is_none()), "{name:?}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, is_new) in [("7.0.0", true), ("10.1", true), ("8", true), ("6.2.99", false), ("", false)] {
            assert_eq!(Facts { version: version.to_owned(), ..sound() }.is_new_enough(), is_new, "{version}");
        }
    }
}
