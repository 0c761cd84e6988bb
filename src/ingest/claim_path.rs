//! The path of a claim. One function, read top to bottom.
//!
//! Submitting transfers ownership: a client that goes away loses the reply, never the claim, and no task is spawned for
//! it. What is refused on the spot is refused from the published snapshot, without a lock, an allocation or a hop; who
//! may hold a claim already goes on to the sequencer and is told so, whatever became of the sale.

use std::net::IpAddr;
use std::rc::Rc;

use hyper::Method;

use super::reply::{self, ClaimDocument, Problem, Reply};
use super::request::{self, ClaimBody, KEY_HEADER};
use super::session::Asked;
use super::{App, Door, routes};
use crate::limits;
use crate::queue::{
    Answer, CampaignView, ClaimCommand, ClaimOutcome, Command, Outcome, Refusal, Replay, SubmitError, Waiting, views,
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
    let Submitted { command, sale, waiting } = submit(door, peer, request).await?;
    let answer = waiting.await;
    let (claim, replayed) = outcome(app, &command, answer)?;
    Ok(reply::accepted(&sale.document(&claim), &app.receipts, replayed))
}

/// All that is kept of a request while its outcome is on the way.
struct Submitted {
    command: ClaimCommand,
    sale: Sale,
    waiting: Waiting,
}

/// What an answer shows of the campaign.
pub(super) struct Sale {
    campaign: CampaignId,
    currency: Option<Currency>,
}

impl Sale {
    pub(super) fn of(view: &CampaignView) -> Self {
        Self { campaign: view.id, currency: view.currency }
    }

    /// An acceptance as it was answered first.
    pub(super) fn document<'a>(&'a self, claim: &'a Claim) -> ClaimDocument<'a> {
        let (campaign, currency) = (&self.campaign, self.currency);
        ClaimDocument { claim, campaign, currency, status: ClaimStatus::Accepted, version: 1 }
    }
}

/// Reads, checks and submits. The request's own memory is free again when this returns.
async fn submit(door: &Rc<Door>, peer: IpAddr, mut request: Asked) -> Result<Submitted, Problem> {
    let app = &*door.app;
    admit(app, &request)?;
    let body = request::json_body(&mut request, limits::BODY_MAX).await?;
    let wanted = ClaimBody::parse(&body)?;
    let headers = request.headers();
    let key = request::idempotency_key(headers)?;

    let campaigns = app.buffer.campaigns();
    let view = named(app, &campaigns, routes::claimed_campaign(request.uri().path()))?;
    let address = || app.client_address(peer, headers);
    let (command, waiting) = enter(door, view, app.clock.now(), &wanted, key, address)?;
    Ok(Submitted { command, sale: Sale::of(view), waiting })
}

/// Whether claims are taken now, and from this caller.
pub(super) fn admit(app: &App, request: &Asked) -> Result<(), Problem> {
    if request.method() != Method::POST {
        return Err(Problem::MethodNotAllowed { allow: "POST" });
    }
    if app.is_draining() {
        return Err(Problem::Draining);
    }
    app.auth.authorize(request.headers(), crate::config::Scope::ClaimsWrite).map(|_| ())
}

/// The campaign that a path's segment names.
pub(super) fn named<'a>(
    app: &App,
    campaigns: &'a views::Index,
    segment: Option<&str>,
) -> Result<&'a CampaignView, Problem> {
    let campaign = segment.and_then(routes::decode).ok_or(Problem::UnknownCampaign)?;
    let id = CampaignId::parse(&campaign).map_err(|_| Problem::UnknownCampaign)?;
    // A gate that has read no campaigns yet can't say that there is none.
    let unknown = if app.buffer.is_fenced() { Problem::NotDurable } else { Problem::UnknownCampaign };
    campaigns.get(&id).map(|view| &**view).ok_or(unknown)
}

/// One claim's way into the queue, whether it came alone or in a batch. `address` is asked for only when the limits are.
///
/// # Errors
/// The problem to answer with; nothing was submitted.
#[inline]
pub(super) fn enter(
    door: &Rc<Door>,
    view: &CampaignView,
    now: Timestamp,
    wanted: &ClaimBody,
    key: Option<&str>,
    address: impl FnOnce() -> Option<IpAddr>,
) -> Result<(ClaimCommand, Waiting), Problem> {
    let app = &*door.app;
    check_quantity(view, wanted.quantity, key.is_some())?;
    let user_hash = app.buffer.hash_key().user(&wanted.user);
    refuse_on_the_spot(app, view, now, wanted, (user_hash, key.is_some()))?;
    app.antiscalper.check(Some(wanted.user.as_str()), address()).map_err(Problem::RateLimited)?;
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
    Ok((command, waiting))
}

/// What became of a claim: the acceptance, and whether it is an earlier one's. Counts it.
///
/// # Errors
/// The problem to answer with; nothing was accepted, but for [`Problem::OutcomeUnknown`].
#[inline]
pub(super) fn outcome(app: &App, command: &ClaimCommand, answer: Answer) -> Result<(Claim, bool), Problem> {
    count(app, command, &answer);
    match answer {
        Answer::Decided(Outcome::Accepted { seq, at, amount }) => Ok((accepted(app, command, seq, at, amount), false)),
        Answer::Decided(Outcome::Replayed(replay)) => Ok((replayed_claim(command, &replay), true)),
        Answer::Decided(Outcome::Refused(refusal)) => Err(Problem::from_refusal(refusal, app.clock.now())),
        Answer::Decided(
            Outcome::Unknown | Outcome::Admin(_) | Outcome::Moved(_) | Outcome::Cart(_) | Outcome::Looked(_),
        )
        | Answer::Late => Err(Problem::OutcomeUnknown(Some(command.claim_id))),
    }
}

fn check_quantity(view: &CampaignView, quantity: u32, has_key: bool) -> Result<(), Problem> {
    let most = if view.kind == CampaignKind::RedPacket { Units(1) } else { view.per_user_limit };
    if u64::from(quantity) > most.0 {
        return Err(Problem::invalid("quantity", format!("{quantity} given; expected 1 to {most}")));
    }
    if view.per_user_limit.0 > 1 && !has_key {
        let why = format!("required, because a buyer may hold {} here: a retry could not be told", view.per_user_limit);
        return Err(Problem::invalid(KEY_HEADER, why));
    }
    Ok(())
}

/// Refuses from the published snapshot, unless the buyer may hold a claim already, or the key may be an earlier one's.
fn refuse_on_the_spot(
    app: &App,
    view: &CampaignView,
    now: Timestamp,
    wanted: &ClaimBody,
    (user, has_key): (UserHash, bool),
) -> Result<(), Problem> {
    let (problem, outcome) = match view.state(now) {
        CampaignState::Open if u64::from(wanted.quantity) > view.free().0 => {
            (Problem::SoldOut { stock_version: view.stock_version() }, ClaimOutcome::SoldOut)
        }
        CampaignState::Open if app.buffer.is_full() => (Problem::BufferFull, ClaimOutcome::Refused),
        CampaignState::Open => return Ok(()),
        CampaignState::Scheduled => (Problem::not_open(view.opens_at(), now), ClaimOutcome::NotOpen),
        CampaignState::Paused => (Problem::Paused, ClaimOutcome::NotOpen),
        CampaignState::Ended | CampaignState::Closed => (Problem::Ended, ClaimOutcome::NotOpen),
    };
    if view.may_hold(user) || (has_key && view.has_former_holders()) {
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
