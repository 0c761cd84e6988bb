//! A claim comes to its end: the service that owns the order says that it is paid, or gives it back.
//!
//! Both may be repeated and change nothing then. The claim is looked up first, wherever it is, because the book knows a
//! claim within its campaign only; the book decides. What it does not hold has come to an end before, and by the time that
//! the book says so that is durable and can be read.

use std::rc::Rc;

use hyper::Method;

use super::reads::{self, Seen};
use super::reply::{Problem, Reply};
use super::session::Asked;
use super::{Door, request};
use crate::config::Scope;
use crate::queue::{Answer, Command, MoveCommand, MoveDone, MoveRefusal, Outcome, SubmitError};
use crate::sale::{CampaignNo, ClaimId, ClaimStatus, Fate, UserId};

/// Answers `POST /v1/claims/{claim_id}/cancel` and `…/settle`: brings the claim to the end `to`; `id` is none where the path
/// names what is no claim's id.
///
/// # Errors
/// The problem to answer with; nothing was changed, but for [`Problem::OutcomeUnknown`].
pub(super) async fn end(door: &Rc<Door>, mut request: Asked, id: Option<ClaimId>, to: Fate) -> Result<Reply, Problem> {
    let app = &*door.app;
    if request.method() != Method::POST {
        return Err(Problem::MethodNotAllowed { allow: "POST" });
    }
    let by: Box<str> = app.auth.authorize(request.headers(), Scope::ClaimsSettle)?.into();
    if app.is_draining() {
        return Err(Problem::Draining);
    }
    request::no_body(&mut request).await?;
    let id = id.ok_or(Problem::UnknownClaim)?;
    move_to(door, MoveTo { id, to, by, reason: Box::default() }).await
}

/// What is to become of a claim, who asks and why.
pub(super) struct MoveTo {
    pub id: ClaimId,
    pub to: Fate,
    pub by: Box<str>,
    pub reason: Box<str>,
}

/// Brings a claim to an end and shows it.
///
/// # Errors
/// As [`end`].
pub(super) async fn move_to(door: &Rc<Door>, wanted: MoveTo) -> Result<Reply, Problem> {
    let app = &*door.app;
    let seen = reads::look(door, wanted.id).await?;
    let Some((campaign, user)) = holding(&seen, wanted.to)?.or_else(|| unsaid(&seen)) else {
        return Ok(seen.reply(app));
    };
    let (claim_id, to) = (wanted.id, wanted.to);
    let (by, reason) = (wanted.by, wanted.reason);
    let command = MoveCommand { claim_id, campaign, user, to, by, reason };
    let waiting = door.front.submit(Command::Move(Box::new(command))).map_err(|error| match error {
        SubmitError::Overloaded => Problem::Overloaded,
        SubmitError::NotDurable => Problem::NotDurable,
    })?;
    match waiting.await {
        Answer::Decided(Outcome::Moved(Ok(MoveDone::Moved | MoveDone::Repeated))) => Ok(seen.after(to).reply(app)),
        Answer::Decided(Outcome::Moved(Err(refusal))) => refused(door, claim_id, to, refusal, &seen).await,
        _ => Err(Problem::OutcomeUnknown(Some(claim_id))),
    }
}

/// The campaign in which to end the claim, and its buyer; none where it has come to this end already.
fn holding(seen: &Seen, to: Fate) -> Result<Option<(CampaignNo, UserId)>, Problem> {
    match seen {
        Seen::Held { status, .. } if *status == to.status() => Ok(None),
        Seen::Held { claim, status: ClaimStatus::Accepted | ClaimStatus::Persisted, .. } => {
            Ok(Some((claim.campaign, claim.user)))
        }
        Seen::Held { status, .. } => Err(final_state(*status)),
        Seen::Unsettled { id, .. } if seen.status() == ClaimStatus::Unknown => Err(Problem::OutcomeUnknown(Some(*id))),
        Seen::Unsettled { .. } => Err(final_state(seen.status())),
    }
}

/// The same of a paid claim whose end waits still. Another gate may have had it accepted and died before it kept that: whoever
/// decides it again keeps it, and only what is kept is told.
fn unsaid(seen: &Seen) -> Option<(CampaignNo, UserId)> {
    match seen {
        Seen::Held { claim, status: ClaimStatus::Settled, waiting: Some(_), .. } => Some((claim.campaign, claim.user)),
        _ => None,
    }
}

fn final_state(status: ClaimStatus) -> Problem {
    Problem::WrongState { state: status.as_str(), why: "that is final" }
}

async fn refused(door: &Rc<Door>, id: ClaimId, to: Fate, refusal: MoveRefusal, seen: &Seen) -> Result<Reply, Problem> {
    let state = seen.status().as_str();
    match refusal {
        // It came to an end between the look and the decision: that end is what the next look finds.
        MoveRefusal::NotHeld | MoveRefusal::Settled => {
            let now = reads::look(door, id).await?;
            match holding(&now, to)? {
                None => Ok(now.reply(&door.app)),
                Some(_) => Err(Problem::WrongState { state, why: "the book does not hold it" }),
            }
        }
        MoveRefusal::CheckIn => Err(Problem::WrongState { state, why: "a check-in is final" }),
        MoveRefusal::Released => {
            Err(Problem::WrongState { state, why: "its campaign is over for good, and its claims have left memory" })
        }
        MoveRefusal::BufferFull => Err(Problem::BufferFull),
        MoveRefusal::NotDurable => Err(Problem::NotDurable),
    }
}
