//! Dead letters on the operator's listener: what the database would not take, and what is to become of it.
//!
//! - `GET /admin/v1/dead-letters?limit=&cursor=`: the open ones, oldest first.
//! - `POST /admin/v1/dead-letters/{id}/requeue`: written as its row, now that what was wrong has been mended.
//! - `POST /admin/v1/dead-letters/{id}/drop` `{"reason":"…"}`: given up. A claim's units come back: its end is an entry of
//!   the journal like any other, with the name of who asked and the reason.
//!
//! Either may be repeated and changes nothing then: the database remembers what became of a letter, so a retry needs no key
//! to be recognised, and one is only looked at.

use std::rc::Rc;

use hyper::body::Incoming;
use hyper::{Method, Request};
use serde::Deserialize;

use super::reply::{self, Problem, Reply};
use super::routes::Query;
use super::{App, Door, admin, ends, reads, request};
use crate::limits;
use crate::queue::letters::LetterDone;
use crate::queue::redis::wishes::Wish;
use crate::sale::campaign::{Object, from_json, without_controls};
use crate::sale::{Fate, FieldError};
use crate::store::{DeadLetter, LetterEnd, Store};

/// Where they are.
pub(super) const PATH: &str = "/admin/v1/dead-letters";

/// Answers what is asked of [`PATH`] (`rest` empty) or of what is under it (`rest` begins with a slash).
///
/// # Errors
/// The problem to answer with.
pub(super) async fn answer(door: &Rc<Door>, rest: &str, request: Request<Incoming>) -> Result<Reply, Problem> {
    let app = &*door.app;
    if rest.is_empty() {
        if request.method() != Method::GET {
            return Err(Problem::MethodNotAllowed { allow: "GET" });
        }
        return list(app, &Query::new(request.uri().query())).await;
    }
    let (id, what) = rest.strip_prefix('/').and_then(|rest| rest.split_once('/')).ok_or(Problem::NotFound)?;
    let id = reads::whole("id", id, 1, i64::MAX as u64).map_err(|_| Problem::NotFound)?;
    if !matches!(what, "requeue" | "drop") {
        return Err(Problem::NotFound);
    }
    if request.method() != Method::POST {
        return Err(Problem::MethodNotAllowed { allow: "POST" });
    }
    if app.is_draining() {
        return Err(Problem::Draining);
    }
    request::idempotency_key(request.headers())?;
    match what {
        "requeue" => requeue(app, id).await,
        _ => give_up(door, id, request).await,
    }
}

async fn list(app: &App, query: &Query<'_>) -> Result<Reply, Problem> {
    let [limit, cursor] = query.read(["limit", "cursor"])?;
    let limit = limit
        .map_or(Ok(limits::PAGE_DEFAULT.into()), |l| reads::whole("limit", &l, 1, limits::PAGE_MAX.into()))?
        as u32;
    let after = cursor.map_or(Ok(0), |c| reads::whole("cursor", &c, 1, i64::MAX as u64))?;
    let mut letters = app.store.dead_letters(after, limit + 1).await.map_err(reads::unavailable)?;
    let is_more = letters.len() > limit as usize;
    letters.truncate(limit as usize);
    let next = letters.last().filter(|_| is_more).map(|last| last.id.to_string());
    let shown: Vec<_> = letters.iter().map(document).collect();
    Ok(reply::json(serde_json::json!({ "dead_letters": shown, "next_cursor": next }).to_string().into_bytes()))
}

fn document(letter: &DeadLetter) -> serde_json::Value {
    let payload = serde_json::from_str::<serde_json::Value>(&letter.payload);
    serde_json::json!({
        "id": letter.id, "seq": letter.seq.0, "kind": letter.kind, "campaign": letter.campaign.as_ref().map(|id| id.as_str()),
        "claim_id": letter.claim_id.map(|id| id.to_string()), "user": letter.user.as_ref().map(|user| user.as_str()),
        "quantity": letter.quantity.map(|units| units.0), "amount": letter.amount.map(|money| money.0),
        "at": letter.at.to_string(), "reason": letter.reason,
        "payload": payload.unwrap_or_else(|_| letter.payload.clone().into()),
    })
}

async fn requeue(app: &App, id: u64) -> Result<Reply, Problem> {
    let letter = app.store.dead_letter(id).await.map_err(reads::unavailable)?;
    let buyer = letter.filter(|letter| letter.kind == "cart").and_then(|letter| letter.user);
    let done = app.buffer.deal_with(id, Wish::Requeue { cart: buyer }).await;
    done_reply(id, LetterEnd::Requeued, done)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: String,
}

async fn give_up(door: &Rc<Door>, id: u64, mut request: Request<Incoming>) -> Result<Reply, Problem> {
    let app = &*door.app;
    let by: Box<str> = admin::actor(request.headers())?.into();
    let body = request::json_body(&mut request, limits::ADMIN_BODY_MAX).await?;
    let reason = reason(&body)?;
    let Some(letter) = app.store.dead_letter(id).await.map_err(reads::unavailable)? else {
        let closed = app.store.closed_letter(id).await.map_err(reads::unavailable)?;
        let done = closed.map_or(LetterDone::Unknown, |end| LetterDone::Closed(end.as_str()));
        return done_reply(id, LetterEnd::Dropped, done);
    };
    let is_end = letter.kind == "end";
    match letter.claim_id.filter(|_| letter.kind == "claim") {
        Some(claim) => {
            ends::move_to(door, ends::MoveTo { id: claim, to: Fate::Cancelled, by, reason }).await?;
            done_reply(id, LetterEnd::Dropped, LetterDone::Done)
        }
        None => {
            let wish = Wish::Discard { by: by.into(), reason: reason.into() };
            match app.buffer.deal_with(id, wish).await {
                LetterDone::Unknown if is_end => {
                    let why =
                        "its units are free already, and only its row does not say so: requeue it once that is mended";
                    Err(Problem::WrongState { state: "dead", why })
                }
                done => done_reply(id, LetterEnd::Dropped, done),
            }
        }
    }
}

/// Reads `{"reason":"…"}`: 1 to [`limits::REASON_MAX`] bytes that are not all white, and no control characters.
///
/// # Errors
/// [`Problem::Invalid`] with what was expected.
pub(super) fn reason(body: &[u8]) -> Result<Box<str>, Problem> {
    let reason = from_json::<Object<Why>>(body)?.0.reason;
    if reason.trim().is_empty() || reason.len() > limits::REASON_MAX {
        let expected = format!("{} bytes given; expected 1 to {}, for the record", reason.len(), limits::REASON_MAX);
        return Err(FieldError::new("reason", expected).into());
    }
    without_controls("reason", &reason)?;
    Ok(reason.into())
}

/// The answer to whoever wants letter `id` to come to the end `to`.
fn done_reply(id: u64, to: LetterEnd, done: LetterDone) -> Result<Reply, Problem> {
    let to = to.as_str();
    match done {
        LetterDone::Closed(state) if state != to => Err(Problem::WrongState { state, why: "that is final" }),
        LetterDone::Done | LetterDone::Closed(_) => {
            Ok(reply::json(serde_json::json!({ "id": id, "outcome": to }).to_string().into_bytes()))
        }
        LetterDone::Refused(why) => Err(Problem::StillDead(why)),
        LetterDone::Unknown => Err(Problem::UnknownLetter),
        LetterDone::Unavailable => Err(Problem::StoreUnavailable),
    }
}
