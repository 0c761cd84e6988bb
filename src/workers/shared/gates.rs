//! Which gates there are: Redis has those that come and go, the database those that an opening waits for. A gate acknowledges
//! nothing before it is in the database.

use redis::{Value, cmd};

use crate::queue::redis::client::{CallError, Connection};
use crate::queue::redis::protocol::GateState as Word;
use crate::store::{Database, GateRecord, GateState, StoreError};

/// Sets a gate's word if it is still the one that was seen.
const EXCHANGE: &str = "if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then \
                        redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end";

/// Says that a gate has left, and takes its lanes from whoever has them: no call of theirs that comes later is taken.
const SHUT_OUT: &str = "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) \
                        local lane = 'L:' .. ARGV[1] .. '.' \
                        for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do \
                          if string.sub(field, 1, #lane) == lane then \
                            local said = redis.call('HGET', KEYS[2], field) \
                            redis.call('HSET', KEYS[2], field, (string.gsub(said, '^%S+', '-', 1))) \
                          end \
                        end";

/// The fields of a hash whose names are gates.
fn pairs(hash: &Value) -> Result<Vec<(u128, String)>, CallError> {
    let wrong = || CallError::Protocol("a hash of gates that can't be read".to_owned());
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    let pair = |gate: &Value, said: &Value| {
        let gate = u128::from_str_radix(&text(gate)?, 16).map_err(|_| wrong())?;
        Ok((gate, text(said)?))
    };
    match hash {
        Value::Array(all) => {
            all.chunks(2).map(|p| p.get(1).ok_or_else(wrong).and_then(|said| pair(&p[0], said))).collect()
        }
        Value::Map(all) => all.iter().map(|(gate, said)| pair(gate, said)).collect(),
        _ => Err(wrong()),
    }
}

/// The gates as Redis has them.
pub(super) fn read(connection: &mut Connection) -> Result<Vec<(u128, String)>, CallError> {
    let key = connection.key("gates");
    pairs(&connection.command(cmd("HGETALL").arg(key))?)
}

/// What is to be changed in Redis: a gate, the word that was seen, and the one to be.
pub(super) type Change = (u128, &'static str, &'static str);

/// Brings the database up to date with the gates that were `seen`, in the name of `by`, and tells what Redis is to be told.
///
/// # Errors
/// As every read and write.
pub(super) async fn register(
    store: std::sync::Arc<Database>,
    seen: Vec<(u128, String)>,
    by: String,
) -> Result<Vec<Change>, StoreError> {
    let known = store.gates().await?;
    let mut changes = Vec::new();
    for (id, word) in seen {
        let stands = known.iter().find(|gate| gate.id == id);
        let Some((wanted, word)) = wanted(&word, stands) else { continue };
        let stands = match stands {
            Some(gate) if gate.state == wanted => wanted,
            _ => store.set_gate(id, wanted, &by).await?,
        };
        let now = if stands == GateState::Active { Word::Known } else { Word::Left };
        if now.word() != word {
            changes.push((id, word, now.word()));
        }
    }
    Ok(changes)
}

/// The state that a gate asks for by its word; none for a word of another version.
fn wanted(word: &str, stands: Option<&GateRecord>) -> Option<(GateState, &'static str)> {
    if stands.is_some_and(|gate| gate.state == GateState::Dismissed) {
        let word = [Word::New, Word::Known, Word::Left].into_iter().find(|each| each.word() == word)?;
        return Some((GateState::Dismissed, word.word()));
    }
    [(Word::New, GateState::Active), (Word::Known, GateState::Active), (Word::Left, GateState::Left)]
        .into_iter()
        .find_map(|(each, state)| (each.word() == word).then_some((state, each.word())))
}

/// Tells Redis.
pub(super) fn tell(connection: &mut Connection, changes: &[Change]) -> Result<(), CallError> {
    let key = connection.key("gates");
    for (id, seen, now) in changes {
        let mut call = cmd("EVAL");
        call.arg(EXCHANGE).arg(1).arg(&key).arg(format!("{id:032x}")).arg(seen).arg(now);
        connection.command(&call)?;
        tracing::info!(gate = %format!("{id:032x}"), now, "a gate's registration has changed");
    }
    Ok(())
}

/// Has Redis take nothing more from a gate that is to be dismissed, and may still serve.
///
/// # Errors
/// Redis': the gate may be able to go on.
pub fn shut_out(connection: &mut Connection, gate: u128) -> Result<(), CallError> {
    let keys = ["gates", "meta"].map(|key| connection.key(key));
    let mut call = cmd("EVAL");
    call.arg(SHUT_OUT).arg(2).arg(&keys).arg(format!("{gate:032x}")).arg(Word::Left.word());
    connection.command(&call).map(|_| ())
}

/// Those that have offered what they keep for the opening that is under way, which calls itself `token`.
///
/// # Errors
/// Redis', or what can't be read.
pub fn offered(connection: &mut Connection, token: &str) -> Result<Vec<u128>, CallError> {
    let key = connection.key("offered");
    let all = pairs(&connection.command(cmd("HGETALL").arg(key))?)?;
    Ok(all.into_iter().filter(|(_, said)| said.split(' ').next() == Some(token)).map(|(gate, _)| gate).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sale::Timestamp;

    #[test]
    fn a_dismissal_outlives_whatever_the_gate_says() {
        let gate =
            |state| GateRecord { id: 1, state, first_seen: Timestamp(0), changed_at: Timestamp(0), by: "x".into() };
        let (left, dismissed) = (gate(GateState::Left), gate(GateState::Dismissed));
        assert_eq!(wanted("new", None), Some((GateState::Active, "new")));
        assert_eq!(wanted("new", Some(&left)), Some((GateState::Active, "new")), "it came back");
        assert_eq!(
            wanted("known", Some(&left)),
            Some((GateState::Active, "known")),
            "an older Redis: it is waited for"
        );
        assert_eq!(wanted("left", Some(&gate(GateState::Active))), Some((GateState::Left, "left")));
        for word in ["new", "known", "left"] {
            assert_eq!(wanted(word, Some(&dismissed)), Some((GateState::Dismissed, word)));
        }
        assert_eq!(wanted("newer", None), None);
    }
}
