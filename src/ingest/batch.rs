//! The path of a batch of claims, top to bottom: each member goes the way of a single claim, and has an outcome of its own.
//!
//! - **What is known before any member is looked at is answered for the whole**: credential, method, media type, length, a
//!   document that is none, the campaign, a node that goes down. Everything else is the member's, in the very document that
//!   the claim would have been refused with by itself, but that a field is named by its place: `claims[3].quantity`.
//! - **All members are submitted before any outcome is awaited**, so that one ring and one sync serve them all. They are in the
//!   queue in their order, and are decided in it.
//! - **A batch is so many claims, not one request**, to the limits by user and by address and to the numbers: whoever batches
//!   gets no more through than by asking one by one.
//! - **Memory is bounded**: [`limits::BATCHES_MAX`] batches at once, each of which keeps its place until the last byte of its
//!   answer has been handed over. Body and document are gone before the first outcome is awaited.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::batch_body::{self, Member};
use super::claim_path::{self, Sale};
use super::reply::{self, Problem, Reply};
use super::request::{self, KEY_HEADER};
use super::session::Asked;
use super::{App, Door, routes};
use crate::limits;
use crate::queue::{ClaimCommand, Waiting};

/// Bytes of a usual outcome: an accepted claim with short ids and its receipt.
const OUTCOME_BYTES: usize = 448;

/// Answers `POST /v1/campaigns/{campaign}/claims:batch`: one outcome a claim, in the order of the claims.
///
/// # Errors
/// The problem to answer with where it concerns the whole; nothing was accepted.
pub(super) async fn claims(door: &Rc<Door>, peer: IpAddr, request: Asked) -> Result<Reply, Problem> {
    let app = &*door.app;
    let Submitted { sale, members, place } = submit(door, peer, request).await?;
    let mut body = Vec::with_capacity(members.len() * OUTCOME_BYTES);
    for (no, member) in members.into_iter().enumerate() {
        if no > 0 && no % limits::BATCH_TURN == 0 {
            tokio::task::yield_now().await;
        }
        body.extend_from_slice(if no == 0 { b"{\"outcomes\":[" } else { b"," });
        // Only the first that is not decided yet has to be waited for: the others of its sync arrive with it.
        let outcome = match member {
            Entered::Waits(command, waiting) => claim_path::outcome(app, &command, waiting.await),
            Entered::Refused(problem) => Err(problem),
        };
        match outcome {
            Ok((claim, replayed)) => {
                body.extend_from_slice(b"{\"claim\":");
                sale.document(&claim).write(&mut body, &app.receipts);
                body.extend_from_slice(if replayed { b",\"replayed\":true}" } else { b",\"replayed\":false}" });
            }
            Err(problem) => {
                app.buffer.metrics().refusals[problem.index()].add(1);
                body.extend_from_slice(b"{\"problem\":");
                problem.of_member(no).write(&mut body);
                body.push(b'}');
            }
        }
    }
    body.extend_from_slice(b"]}");
    Ok(reply::outcomes(Document { body, _place: place }))
}

/// All that is kept of a batch while its outcomes are on the way.
struct Submitted {
    sale: Sale,
    members: Vec<Entered>,
    place: Place,
}

/// Where a member stands once all are submitted.
enum Entered {
    /// Its outcome is on the way.
    Waits(ClaimCommand, Waiting),
    /// Refused on the spot.
    Refused(Problem),
}

/// Reads, checks and submits all members. The request's own memory is free again when this returns.
async fn submit(door: &Rc<Door>, peer: IpAddr, mut request: Asked) -> Result<Submitted, Problem> {
    let app = &*door.app;
    claim_path::admit(app, &request)?;
    if request.headers().contains_key(KEY_HEADER) {
        return Err(Problem::invalid(KEY_HEADER, "given for a batch; expected idempotency_key in each claim"));
    }
    let place = Place::take(&door.app)?;
    let body = request::json_body(&mut request, limits::BATCH_BODY_MAX).await?;
    let claims = batch_body::parse(&body)?;

    let campaigns = app.buffer.campaigns();
    let view = claim_path::named(app, &campaigns, routes::batched_campaign(request.uri().path()))?;
    let (now, address) = (app.clock.now(), app.client_address(peer, request.headers()));
    let enter = |member: &Member<'_>| {
        let (wanted, key) = member.check()?;
        claim_path::enter(door, view, now, &wanted, key, || address)
    };
    let entered = claims.iter().map(|member| match enter(member) {
        Ok((command, waiting)) => Entered::Waits(command, waiting),
        Err(problem) => Entered::Refused(problem),
    });
    Ok(Submitted { sale: Sale::of(view), members: entered.collect(), place })
}

/// A batch's place among [`limits::BATCHES_MAX`]; free again when it is dropped.
struct Place(Arc<App>);

impl Place {
    fn take(app: &Arc<App>) -> Result<Self, Problem> {
        let before = app.batches.fetch_add(1, Ordering::Relaxed);
        let place = Self(app.clone());
        if before < limits::BATCHES_MAX { Ok(place) } else { Err(Problem::Overloaded) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.batches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's text, and its batch's place.
struct Document {
    body: Vec<u8>,
    _place: Place,
}

impl AsRef<[u8]> for Document {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}
