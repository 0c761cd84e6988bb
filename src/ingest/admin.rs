//! The operator's listener: campaigns are made and changed here, balances and claims are read, machines ask how it goes.
//!
//! Changes are commands through the same sequencer and journal as claims, with the name of who asked and an idempotency
//! key. These routes do not exist on the public listener.

use std::rc::Rc;

use bytes::Bytes;
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response};
use rand::TryRngCore;

use super::body::Whole;
use super::export::Export;
use super::reply::{self, Problem, Reply};
use super::routes::decode;
use super::{App, Door, dead_letters, ops, reads, request, scrape};
use crate::limits;
use crate::queue::{
    AdminAction, AdminCommand, AdminDone, AdminRefusal, Answer, Away, Balance, CampaignView, Command, Outcome,
    SubmitError,
};
use crate::sale::campaign::CampaignPatch;
use crate::sale::{Asked, CampaignId, CampaignNo, CampaignSpec, CampaignState, Timestamp, red_packet::Seed};

/// Whole answers, and exports.
pub type AdminBody = Either<Whole, Export>;

/// Who asks, for the journal. Not a credential: the token is.
const ACTOR: HeaderName = HeaderName::from_static("x-forebay-actor");

/// Who asks where nobody says so.
const NOBODY: &str = "operator";

const CAMPAIGNS: &str = "/admin/v1/campaigns";

/// Answers a request of the admin listener.
///
/// # Errors
/// The problem to answer with.
pub async fn answer(door: &Rc<Door>, request: Request<Incoming>) -> Result<Response<AdminBody>, Problem> {
    let (app, path) = (&*door.app, request.uri().path());
    // What a load balancer asks must not need a secret, and tells nothing that is one.
    let is_open = matches!(path, "/livez" | "/readyz");
    if let Some(token) = app.admin_token.as_ref().filter(|_| !is_open) {
        token.authorize(request.headers())?;
    }
    let whole = |reply: Reply| reply.map(Either::Left);
    if path == CAMPAIGNS {
        return match *request.method() {
            Method::GET => Ok(whole(reply::json(reads::campaigns_json(app).await))),
            Method::POST => create(door, request).await.map(whole),
            _ => Err(Problem::MethodNotAllowed { allow: "GET, POST" }),
        };
    }
    if let Some(rest) = path.strip_prefix(CAMPAIGNS).and_then(|rest| rest.strip_prefix('/')) {
        let rest = rest.to_owned();
        return campaign(door, &rest, request).await;
    }
    if let Some(rest) = path.strip_prefix(dead_letters::PATH).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        let rest = rest.to_owned();
        return dead_letters::answer(door, &rest, request).await.map(whole);
    }
    let known = match path {
        "/livez" => ops::live(),
        "/readyz" => ops::ready(app),
        "/version" => ops::version(),
        "/metrics" if request.method() == Method::GET => scrape::metrics(&door.app),
        "/metrics" => return Err(Problem::MethodNotAllowed { allow: "GET" }),
        _ => return Err(Problem::NotFound),
    };
    only_get(&request)?;
    Ok(whole(known))
}

fn only_get(request: &Request<Incoming>) -> Result<(), Problem> {
    if request.method() == Method::GET { Ok(()) } else { Err(Problem::MethodNotAllowed { allow: "GET" }) }
}

/// `/admin/v1/campaigns/{id}` and what is under it.
async fn campaign(door: &Rc<Door>, rest: &str, request: Request<Incoming>) -> Result<Response<AdminBody>, Problem> {
    let app = &*door.app;
    let (id, what) = rest.split_once('/').map_or((rest, None), |(id, what)| (id, Some(what)));
    if !matches!(what, None | Some("balance" | "claims.csv")) {
        return Err(Problem::NotFound);
    }
    let id = decode(id).ok_or(Problem::UnknownCampaign)?;
    let id = CampaignId::parse(&id).map_err(|_| Problem::UnknownCampaign)?;
    match (what, request.method()) {
        (None, &Method::GET) => reads::campaign(app, id.as_str(), request.headers()).map(|r| r.map(Either::Left)),
        (None, &Method::PATCH) => change(door, id, request).await.map(|r| r.map(Either::Left)),
        (None, _) => Err(Problem::MethodNotAllowed { allow: "GET, PATCH" }),
        (Some(what), &Method::GET) => {
            let campaigns = app.buffer.campaigns();
            let view = campaigns.get(&id).ok_or(Problem::UnknownCampaign)?.clone();
            drop(campaigns);
            if what == "balance" {
                let read = app.buffer.balance(&door.front, view.no).await;
                let balance = read.map_err(|Away| Problem::StoreUnavailable)?;
                return Ok(reply::json(balance_json(&view, app.clock.now(), &balance)).map(Either::Left));
            }
            Ok(export(app, id))
        }
        (Some(_), _) => Err(Problem::MethodNotAllowed { allow: "GET" }),
    }
}

fn export(app: &App, id: CampaignId) -> Response<AdminBody> {
    let mut reply = reply::text_body("text/csv; charset=utf-8", Bytes::new());
    // The characters of an id that a file name can't hold everywhere stand for themselves within the quotes.
    let name = HeaderValue::try_from(format!("attachment; filename=\"{id}.csv\""));
    reply.headers_mut().extend(name.ok().map(|name| (header::CONTENT_DISPOSITION, name)));
    reply.map(|_| Either::Right(Export::new(app.store.clone(), id)))
}

fn balance_json(view: &CampaignView, now: Timestamp, b: &Balance) -> Vec<u8> {
    let has_stock = view.shown_free().is_some();
    let stock = |units: u64| has_stock.then_some(units);
    let is_over = matches!(view.state(now), CampaignState::Ended | CampaignState::Closed);
    let document = serde_json::json!({
        "campaign": view.id.as_str(), "stock": stock(b.stock), "free": stock(b.free), "accepted": b.accepted,
        "persisted": b.persisted, "settled": b.settled, "returned": b.returned, "dead": b.dead, "error": b.error(),
        "money": {
            "stock": has_stock.then_some(b.money_stock), "free": has_stock.then_some(b.money_free),
            "accepted": b.money_accepted, "persisted": b.money_persisted, "settled": b.money_settled,
            "returned": b.money_returned, "dead": b.money_dead, "error": b.money_error(),
            // What nobody claimed, once nobody can any more.
            "unclaimed": (is_over && has_stock).then_some(b.money_free),
        },
    });
    document.to_string().into_bytes()
}

async fn create(door: &Rc<Door>, mut request: Request<Incoming>) -> Result<Reply, Problem> {
    let body = request::json_body(&mut request, limits::ADMIN_BODY_MAX).await?;
    let spec = CampaignSpec::parse(&body)?;
    let asked = asked(&door.app, request.headers(), spec.id)?;
    let id = spec.id;
    let done = done(submit_create(door, spec, asked).await?)?;
    let is_new = matches!(done, AdminDone::Created(_));
    let body = document(&door.app, number(&done))?;
    Ok(if is_new { reply::created(body, &format!("{CAMPAIGNS}/{id}")) } else { reply::json(body) })
}

async fn change(door: &Rc<Door>, id: CampaignId, mut request: Request<Incoming>) -> Result<Reply, Problem> {
    let body = request::json_body(&mut request, limits::ADMIN_BODY_MAX).await?;
    let patch = CampaignPatch::parse(&body)?;
    let asked = asked(&door.app, request.headers(), id)?;
    let done = done(submit(door, AdminCommand { asked, action: AdminAction::Change(id, patch) }).await?)?;
    Ok(reply::json(document(&door.app, number(&done))?))
}

/// Makes a campaign. Its shares are drawn from a seed of the system's own randomness: whoever knew it would know every
/// share to come.
///
/// # Errors
/// The problem to answer with where no outcome came.
pub async fn submit_create(door: &Rc<Door>, spec: CampaignSpec, asked: Asked) -> Result<Outcome, Problem> {
    let mut seed = Seed([0; 16]);
    rand::rngs::OsRng.try_fill_bytes(&mut seed.0).map_err(|error| {
        tracing::error!(%error, "the system gives no random numbers");
        Problem::Overloaded
    })?;
    submit(door, AdminCommand { asked, action: AdminAction::Create(spec, seed) }).await
}

async fn submit(door: &Rc<Door>, command: AdminCommand) -> Result<Outcome, Problem> {
    if door.app.is_draining() {
        return Err(Problem::Draining);
    }
    let waiting = door.front.submit(Command::Admin(Box::new(command))).map_err(|error| match error {
        SubmitError::Overloaded => Problem::Overloaded,
        SubmitError::NotDurable => Problem::NotDurable,
    })?;
    match waiting.await {
        Answer::Decided(outcome) => Ok(outcome),
        Answer::Late => Err(Problem::OutcomeUnknown(None)),
    }
}

fn done(outcome: Outcome) -> Result<AdminDone, Problem> {
    match outcome {
        Outcome::Admin(result) => result.map_err(|refusal: AdminRefusal| refusal.into()),
        _ => Err(Problem::OutcomeUnknown(None)),
    }
}

fn number(done: &AdminDone) -> CampaignNo {
    match done {
        AdminDone::Created(no) | AdminDone::Identical(no) | AdminDone::Changed(no) | AdminDone::Replayed(no) => *no,
    }
}

/// The campaign as it is now; it was published before the outcome came.
fn document(app: &App, no: CampaignNo) -> Result<Vec<u8>, Problem> {
    let campaigns = app.buffer.campaigns();
    let view = campaigns.number(no).ok_or(Problem::UnknownCampaign)?;
    Ok(reads::campaign_json(app, view).1)
}

fn asked(app: &App, headers: &HeaderMap, id: CampaignId) -> Result<Asked, Problem> {
    let key = request::idempotency_key(headers)?.map(|key| app.buffer.hash_key().admin_key(id.as_str(), key));
    Ok(Asked { by: actor(headers)?, key })
}

/// Who asks.
///
/// # Errors
/// [`Problem::Invalid`] naming the header.
pub(super) fn actor(headers: &HeaderMap) -> Result<String, Problem> {
    let mut values = headers.get_all(ACTOR).iter();
    let Some(value) = values.next() else { return Ok(NOBODY.to_owned()) };
    let text = value
        .to_str()
        .ok()
        .filter(|text| (1..=limits::ACTOR_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()));
    text.filter(|_| values.next().is_none()).map(str::to_owned).ok_or_else(|| {
        let expected = format!("expected 1 to {} visible ASCII characters, once", limits::ACTOR_MAX);
        Problem::invalid("X-Forebay-Actor", expected)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_a_short_visible_name_or_the_operator() {
        let with = |values: &[&str]| actor(&values.iter().map(|v| (ACTOR, v.parse().unwrap())).collect());
        assert_eq!(with(&[]).unwrap(), "operator");
        assert_eq!(with(&["alice@shop"]).unwrap(), "alice@shop");
        for bad in [&[""][..], &["a b"], &["é"], &["a", "b"], &[&"x".repeat(65)]] {
            assert!(matches!(with(bad), Err(Problem::Invalid { .. })), "{bad:?}");
        }
    }
}
