//! The path of a claim. One function, read top to bottom.
//!
//! Submitting transfers ownership: a client that goes away loses the reply, never the claim, and no task is spawned for
//! it. What is refused on the spot is refused from the published snapshot, without a lock, an allocation or a hop; who
//! may hold a claim already goes on to the sequencer and is told so, whatever became of the sale.

use std::net::IpAddr;
use std::rc::Rc;

use hyper::Method;

use super::reply::{self, ClaimDocument, Problem, Reply};
use super::request::{self, ClaimBody};
use super::session::Asked;
use super::{App, Door, routes};
use crate::limits;
use crate::queue::{
    Answer, CampaignView, ClaimCommand, ClaimOutcome, Command, Outcome, Refusal, Replay, SubmitError, Waiting,
};
use crate::sale::{
    CampaignId, CampaignKind, CampaignState, Claim, ClaimId, ClaimStatus, Currency, Seq, Timestamp, Units, UserHash,
};

/// Answers `POST /v1/campaigns/{campaign}/claims`: claims units for the buyer that the body names.
///
/// # Errors
/// The problem to answer with; nothing was accepted, but for [`Problem::OutcomeUnknown`].
pub(super) async fn claim(door: &Rc<Door>, peer: IpAddr, request: Asked) -> Result<Reply, Problem> {
    let app = &*door.app;
    let Submitted { command, campaign, currency, waiting } = submit(door, peer, request).await?;
    let answer = waiting.await;

    count(app, &command, &answer);
    let (claim, replayed) = match answer {
        Answer::Decided(Outcome::Accepted { seq, at, amount }) => (accepted(app, &command, seq, at, amount), false),
        Answer::Decided(Outcome::Replayed(replay)) => (replayed_claim(&command, &replay), true),
        Answer::Decided(Outcome::Refused(refusal)) => return Err(Problem::from_refusal(refusal, app.clock.now())),
        Answer::Decided(Outcome::Unknown | Outcome::Admin(_)) | Answer::Late => {
            return Err(Problem::OutcomeUnknown(Some(command.claim_id)));
        }
    };
    let status = ClaimStatus::Accepted;
    let document = ClaimDocument { claim: &claim, campaign: &campaign, currency, status, version: 1 };
    Ok(reply::accepted(&document, &app.receipts, replayed))
}

/// All that is kept of a request while its outcome is on the way.
struct Submitted {
    command: ClaimCommand,
    campaign: CampaignId,
    currency: Option<Currency>,
    waiting: Waiting,
}

/// Reads, checks and submits. The request's own memory is free again when this returns.
async fn submit(door: &Rc<Door>, peer: IpAddr, mut request: Asked) -> Result<Submitted, Problem> {
    let app = &*door.app;
    if request.method() != Method::POST {
        return Err(Problem::MethodNotAllowed { allow: "POST" });
    }
    if app.is_draining() {
        return Err(Problem::Draining);
    }
    app.auth.authorize(request.headers(), crate::config::Scope::ClaimsWrite)?;
    let body = request::json_body(&mut request, limits::BODY_MAX).await?;
    let wanted = ClaimBody::parse(&body)?;
    let headers = request.headers();
    let key = request::idempotency_key(headers)?;

    let campaigns = app.buffer.campaigns();
    let path = request.uri().path();
    let campaign = routes::claimed_campaign(path).and_then(routes::decode).ok_or(Problem::UnknownCampaign)?;
    let id = CampaignId::parse(&campaign).map_err(|_| Problem::UnknownCampaign)?;
    let view = campaigns.get(&id).ok_or(Problem::UnknownCampaign)?;
    check_quantity(view, wanted.quantity, key.is_some())?;
    let now = app.clock.now();
    let user_hash = app.buffer.hash_key().user(&wanted.user);
    refuse_on_the_spot(app, view, now, wanted.quantity, user_hash)?;
    let address = app.client_address(peer, headers);
    app.antiscalper.check(Some(wanted.user.as_str()), address).map_err(Problem::RateLimited)?;
    let command = ClaimCommand {
        campaign: view.no,
        quantity: wanted.quantity,
        receipt_key: app.receipts.current_key(),
        user: wanted.user,
        user_hash,
        claim_id: ClaimId::new(now, user_hash, door.random()),
        key: key.map(|key| app.buffer.hash_key().key(view.no, &wanted.user, key)),
    };
    let waiting = door.front.submit(Command::Claim(command)).map_err(|error| match error {
        SubmitError::Overloaded => Problem::Overloaded,
        SubmitError::NotDurable => Problem::NotDurable,
    })?;
    Ok(Submitted { command, campaign: view.id, currency: view.currency, waiting })
}

fn check_quantity(view: &CampaignView, quantity: u32, has_key: bool) -> Result<(), Problem> {
    let most = if view.kind == CampaignKind::RedPacket { Units(1) } else { view.per_user_limit };
    if u64::from(quantity) > most.0 {
        return Err(Problem::invalid("quantity", format!("{quantity} given; expected 1 to {most}")));
    }
    if view.per_user_limit.0 > 1 && !has_key {
        let why = format!("required, because a buyer may hold {} here: a retry could not be told", view.per_user_limit);
        return Err(Problem::invalid("Idempotency-Key", why));
    }
    Ok(())
}

/// Refuses from the published snapshot, unless the buyer may hold a claim already.
fn refuse_on_the_spot(
    app: &App,
    view: &CampaignView,
    now: Timestamp,
    quantity: u32,
    user: UserHash,
) -> Result<(), Problem> {
    let (problem, outcome) = match view.state(now) {
        CampaignState::Open if u64::from(quantity) > view.free().0 => {
            (Problem::SoldOut { stock_version: view.stock_version() }, ClaimOutcome::SoldOut)
        }
        CampaignState::Open if app.buffer.is_full() => (Problem::BufferFull, ClaimOutcome::Refused),
        CampaignState::Open => return Ok(()),
        CampaignState::Scheduled => (Problem::not_open(view.opens_at(), now), ClaimOutcome::NotOpen),
        CampaignState::Paused => (Problem::Paused, ClaimOutcome::NotOpen),
        CampaignState::Ended | CampaignState::Closed => (Problem::Ended, ClaimOutcome::NotOpen),
    };
    if view.may_hold(user) {
        return Ok(());
    }
    view.count(outcome);
    Err(problem)
}

fn accepted(
    app: &App,
    command: &ClaimCommand,
    seq: Seq,
    accepted_at: Timestamp,
    amount: Option<crate::sale::Money>,
) -> Claim {
    Claim {
        claim_id: command.claim_id,
        campaign: command.campaign,
        user: command.user,
        quantity: Units(command.quantity.into()),
        amount,
        hold: 0,
        receipt_key: command.receipt_key,
        key: command.key,
        seq,
        accepted_at,
        durability: app.durability,
    }
}

fn replayed_claim(command: &ClaimCommand, replay: &Replay) -> Claim {
    Claim {
        claim_id: replay.claim_id,
        campaign: command.campaign,
        user: command.user,
        quantity: Units(replay.quantity.into()),
        amount: replay.amount,
        hold: 0,
        receipt_key: replay.receipt_key,
        key: command.key,
        seq: replay.seq,
        accepted_at: replay.at,
        durability: replay.durability,
    }
}

fn count(app: &App, command: &ClaimCommand, answer: &Answer) {
    let outcome = match answer {
        Answer::Decided(Outcome::Accepted { .. }) => ClaimOutcome::Accepted,
        Answer::Decided(Outcome::Replayed(_)) => ClaimOutcome::Replayed,
        Answer::Decided(Outcome::Refused(refusal)) => match refusal {
            Refusal::AlreadyClaimed(_) => ClaimOutcome::AlreadyClaimed,
            Refusal::SoldOut { .. } => ClaimOutcome::SoldOut,
            Refusal::NotOpen { .. } | Refusal::Ended | Refusal::Paused => ClaimOutcome::NotOpen,
            _ => ClaimOutcome::Refused,
        },
        _ => ClaimOutcome::Unknown,
    };
    if let Some(view) = app.buffer.campaigns().number(command.campaign) {
        view.count(outcome);
    }
}
