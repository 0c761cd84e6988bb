//! What operators want done with dead letters, on its way from a gate to the worker: only the worker writes to the database.
//!
//! A wish is a key that expires when its gate has stopped waiting, and its name in a list: one that comes too late is not
//! there any more. What the worker had begun by then it finishes; the gate says that it does not know.

use std::time::Duration;

use redis::{Value, cmd};

use super::client::{CallError, Connection};
use crate::limits;
use crate::queue::letters::LetterDone;
use crate::sale::UserId;

/// The list of names.
const LIST: &str = "wishes";

/// How letters are dealt with, in the contract's words.
const CLOSED: [&str; 3] = ["requeued", "dropped", "expired"];

/// What is to be done with a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Write it as its row; `cart` is the buyer whose cart it is of, if it is of one.
    Requeue { cart: Option<UserId> },
    /// Close it. Not for a claim's: its units come back by the claim's end.
    Discard { by: String, reason: String },
}

/// A wish that a worker has to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    name: String,
    /// The letter's number.
    pub id: u64,
    /// What is to be done with it.
    pub wish: Wish,
}

/// Asks the active worker, and waits until it has done it, at most [`limits::WISH_PATIENCE_MILLIS`];
/// [`LetterDone::Unavailable`] where none has by then, or too many wishes wait. Blocks: not for a thread that serves others,
/// and `connection` is for this alone.
///
/// # Errors
/// Redis'. Then it is not known whether it will be done.
pub fn ask(connection: &mut Connection, id: u64, wish: &Wish) -> Result<LetterDone, CallError> {
    let name = format!("{:032x}", rand::random::<u128>());
    let (list, asked, answer) = (connection.key(LIST), connection.key(&key(&name)), connection.key(&answer_key(&name)));
    let waiting: u64 = number(&connection.command(cmd("LLEN").arg(&list))?)?;
    if waiting >= limits::WISHES_MAX as u64 {
        return Ok(LetterDone::Unavailable);
    }
    let patience = Duration::from_millis(limits::WISH_PATIENCE_MILLIS);
    let mut both = redis::pipe();
    both.atomic().cmd("SET").arg(&asked).arg(encode(id, wish)).arg("PX").arg(limits::WISH_PATIENCE_MILLIS);
    both.cmd("RPUSH").arg(&list).arg(&name);
    connection.pipeline(&both)?;
    connection.set_timeout(patience + Duration::from_millis(limits::WISH_SLACK_MILLIS))?;
    let seconds = patience.as_secs_f64();
    match connection.command(cmd("BLPOP").arg(&answer).arg(seconds))? {
        Value::Array(found) => match &found[..] {
            [_, Value::BulkString(bytes)] => done(bytes),
            _ => Err(CallError::Protocol("an answer to a wish without its words".to_owned())),
        },
        _ => {
            // Nobody came: nobody is to do it later. Where somebody just began, nobody waits for that.
            connection.command(cmd("DEL").arg(&asked))?;
            Ok(LetterDone::Unavailable)
        }
    }
}

/// The next wish that somebody still waits for.
///
/// # Errors
/// Redis'.
pub fn next(connection: &mut Connection) -> Result<Option<Asked>, CallError> {
    loop {
        let list = connection.key(LIST);
        let Value::BulkString(name) = connection.command(cmd("LPOP").arg(list))? else { return Ok(None) };
        let Ok(name) = String::from_utf8(name) else { continue };
        let asked = connection.key(&key(&name));
        // Taken away, so that no other worker does it again.
        let Value::BulkString(bytes) = connection.command(cmd("GETDEL").arg(asked))? else { continue };
        if let Some((id, wish)) = decode(&bytes) {
            return Ok(Some(Asked { name, id, wish }));
        }
        tracing::warn!("a wish about a dead letter can't be read: its gate is of another version");
    }
}

/// Tells the gate what became of its wish. One that does not wait any more is told nothing.
///
/// # Errors
/// Redis'.
pub fn answer(connection: &mut Connection, asked: &Asked, done: &LetterDone) -> Result<(), CallError> {
    let answer = connection.key(&answer_key(&asked.name));
    let mut both = redis::pipe();
    both.atomic().cmd("RPUSH").arg(&answer).arg(words(done));
    both.cmd("PEXPIRE").arg(&answer).arg(limits::WISH_PATIENCE_MILLIS);
    connection.pipeline(&both).map(|_| ())
}

fn key(name: &str) -> String {
    format!("wish:{name}")
}

fn answer_key(name: &str) -> String {
    format!("wish-answer:{name}")
}

fn number(value: &Value) -> Result<u64, CallError> {
    match value {
        Value::Int(number) => Ok(number.unsigned_abs()),
        other => Err(CallError::Protocol(format!("{other:?} where a number is expected"))),
    }
}

fn encode(id: u64, wish: &Wish) -> String {
    let json = match wish {
        Wish::Requeue { cart } => serde_json::json!({ "id": id, "cart": cart.map(|user| user.as_str().to_owned()) }),
        Wish::Discard { by, reason } => serde_json::json!({ "id": id, "by": by, "reason": reason }),
    };
    json.to_string()
}

fn decode(bytes: &[u8]) -> Option<(u64, Wish)> {
    let json: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let text = |name: &str| json.get(name).and_then(|value| value.as_str());
    let id = json.get("id")?.as_u64()?;
    let wish = match (text("by"), text("reason")) {
        (Some(by), Some(reason)) => Wish::Discard { by: by.to_owned(), reason: reason.to_owned() },
        (None, None) => Wish::Requeue { cart: text("cart").map(UserId::parse).transpose().ok()? },
        _ => return None,
    };
    Some((id, wish))
}

fn words(done: &LetterDone) -> String {
    match done {
        LetterDone::Done => "done".to_owned(),
        LetterDone::Refused(why) => format!("refused {why}"),
        LetterDone::Closed(word) => format!("closed {word}"),
        LetterDone::Unknown => "unknown".to_owned(),
        LetterDone::Unavailable => "unavailable".to_owned(),
    }
}

fn done(bytes: &[u8]) -> Result<LetterDone, CallError> {
    let text = String::from_utf8_lossy(bytes);
    let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
    Ok(match word {
        "done" => LetterDone::Done,
        "refused" => LetterDone::Refused(rest.to_owned()),
        "unknown" => LetterDone::Unknown,
        "unavailable" => LetterDone::Unavailable,
        "closed" => {
            let end = CLOSED.into_iter().find(|end| *end == rest);
            LetterDone::Closed(end.ok_or_else(|| CallError::Protocol(format!("a letter closed as {rest:?}")))?)
        }
        _ => return Err(CallError::Protocol(format!("{text:?} is no answer to a wish"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_and_answers_are_read_as_they_were_written() {
        let cart = Some(UserId::parse("u.1@x").unwrap());
        for wish in [
            Wish::Requeue { cart: None },
            Wish::Requeue { cart },
            Wish::Discard { by: "ops \"a\"".into(), reason: String::new() },
        ] {
            assert_eq!(decode(encode(u64::MAX, &wish).as_bytes()), Some((u64::MAX, wish)));
        }
        assert_eq!(decode(b"{\"id\":1,\"by\":\"x\"}"), None);
        for each in [
            LetterDone::Done,
            LetterDone::Refused("value too long: 5 > 4".into()),
            LetterDone::Closed("dropped"),
            LetterDone::Unknown,
            LetterDone::Unavailable,
        ] {
            assert_eq!(done(words(&each).as_bytes()), Ok(each));
        }
        assert!(done(b"closed by magic").is_err() && done(b"perhaps").is_err());
    }
}
