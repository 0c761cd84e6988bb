//! What goes back: every status code, every problem type and the bytes of a claim. The only place that knows HTTP
//! statuses.

use bytes::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::Whole;
pub use super::document::{CartDocument, ClaimDocument};
use super::document::{number, plain, text};
use super::request::KEY_HEADER;
use crate::antiscalper::rates::Refused;
use crate::limits;
use crate::metrics::ANSWERS;
use crate::queue::{AdminRefusal, Refusal};
use crate::receipts::KeyRing;
use crate::sale::{CampaignId, ClaimId, FieldError, Timestamp};

/// An answer with its whole body.
pub type Reply = Response<Whole>;

/// The header by which a request is found again in logs.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Seconds after which a caller may try again where nothing better is known.
const RETRY_SECONDS: u64 = 1;

/// Why a request did not get what it asked for; one variant a problem type of the contract.
#[derive(Debug, Clone)]
pub enum Problem {
    /// A field, a header or the body is not what was expected.
    Invalid { field: String, expected: String },
    /// No credential that counts.
    Unauthenticated,
    /// A credential without the scope.
    Forbidden { scope: &'static str },
    /// No such campaign.
    UnknownCampaign,
    /// No such claim.
    UnknownClaim,
    /// No such dead letter, or one that was dealt with.
    UnknownLetter,
    /// A dead letter that the tables still won't take, in the database's words.
    StillDead(String),
    /// No such route.
    NotFound,
    /// The route exists, for these methods.
    MethodNotAllowed { allow: &'static str },
    /// The body is longer than this many bytes.
    TooLarge { limit: usize },
    /// The body is not `application/json`.
    UnsupportedMediaType,
    /// The headers are too long.
    HeadersTooLarge,
    /// The buyer holds what one may hold.
    AlreadyClaimed(ClaimId),
    /// Fewer units are free than were asked for.
    SoldOut { stock_version: u64 },
    /// The window begins at this instant, so many seconds from now.
    NotOpen { opens_at: Timestamp, wait: u64 },
    /// The window is over.
    Ended,
    /// Held by the operator.
    Paused,
    /// A transition that is not possible.
    WrongState { state: &'static str, why: &'static str },
    /// A campaign of that name with another definition is there.
    CampaignExists(CampaignId),
    /// More lines, or more of one, than a cart may hold.
    CartFull,
    /// The key was used with another payload.
    KeyReused,
    /// Too many requests.
    RateLimited(Refused),
    /// Too many requests wait.
    Overloaded,
    /// Too many entries wait for the database.
    BufferFull,
    /// Nothing can be made durable.
    NotDurable,
    /// The node is going down.
    Draining,
    /// Decided, but not known durable.
    OutcomeUnknown(Option<ClaimId>),
    /// The database can't be read now.
    StoreUnavailable,
}

/// A problem's fixed part: slug, status, title.
type Kind = (&'static str, StatusCode, &'static str);

impl Problem {
    /// An input error.
    pub fn invalid(field: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), expected: expected.into() }
    }

    /// The place of its slug in [`SLUGS`], for counting.
    pub fn index(&self) -> usize {
        let slug = self.kind().0;
        SLUGS.iter().position(|s| *s == slug).unwrap_or(SLUGS.len() - 1)
    }

    /// Under which number its answer is counted.
    pub fn kind_of(&self, is_public: bool) -> usize {
        kind(is_public, self.kind().1)
    }

    fn kind(&self) -> Kind {
        use StatusCode as S;
        match self {
            Self::Invalid { .. } => ("invalid-request", S::BAD_REQUEST, "The request is not valid"),
            Self::Unauthenticated => ("unauthenticated", S::UNAUTHORIZED, "A valid credential is needed"),
            Self::Forbidden { .. } => ("forbidden", S::FORBIDDEN, "The credential lacks the scope"),
            Self::UnknownCampaign => ("unknown-campaign", S::NOT_FOUND, "There is no such campaign"),
            Self::UnknownClaim => ("unknown-claim", S::NOT_FOUND, "There is no such claim"),
            Self::UnknownLetter => ("not-found", S::NOT_FOUND, "There is no such dead letter"),
            Self::StillDead(_) => ("wrong-state", S::CONFLICT, "The database still won't take it"),
            Self::NotFound => ("not-found", S::NOT_FOUND, "There is nothing here"),
            Self::MethodNotAllowed { .. } => ("method-not-allowed", S::METHOD_NOT_ALLOWED, "Not with this method"),
            Self::TooLarge { .. } => ("too-large", S::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", S::UNSUPPORTED_MEDIA_TYPE, "The body must be application/json")
            }
            Self::HeadersTooLarge => {
                ("headers-too-large", S::REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too large")
            }
            Self::AlreadyClaimed(_) => ("already-claimed", S::CONFLICT, "The buyer's limit is reached"),
            Self::SoldOut { .. } => ("sold-out", S::CONFLICT, "Sold out"),
            Self::NotOpen { .. } => ("not-open", S::CONFLICT, "Not open yet"),
            Self::Ended => ("ended", S::CONFLICT, "Over"),
            Self::Paused => ("paused", S::CONFLICT, "Paused"),
            Self::WrongState { .. } => ("wrong-state", S::CONFLICT, "Not in this state"),
            Self::CartFull => ("cart-full", S::CONFLICT, "The cart is full"),
            Self::CampaignExists(_) => ("campaign-exists", S::CONFLICT, "Exists with another definition"),
            Self::KeyReused => {
                ("idempotency-key-reused", S::UNPROCESSABLE_ENTITY, "The key was used with another payload")
            }
            Self::RateLimited(_) => ("rate-limited", S::TOO_MANY_REQUESTS, "Too many requests"),
            Self::Overloaded => ("overloaded", S::SERVICE_UNAVAILABLE, "Too many requests wait"),
            Self::BufferFull => ("buffer-full", S::SERVICE_UNAVAILABLE, "Too many entries wait for the database"),
            Self::NotDurable => ("not-durable", S::SERVICE_UNAVAILABLE, "Nothing can be made durable"),
            Self::Draining => ("draining", S::SERVICE_UNAVAILABLE, "The node is going down"),
            Self::OutcomeUnknown(_) => ("outcome-unknown", S::SERVICE_UNAVAILABLE, "The outcome is not known yet"),
            Self::StoreUnavailable => ("overloaded", S::SERVICE_UNAVAILABLE, "The database can't be read now"),
        }
    }

    /// The answer.
    pub fn into_reply(self) -> Reply {
        let status = self.kind().1;
        let mut body = Vec::with_capacity(224);
        self.write(&mut body);
        let mut reply = Response::new(Whole::new(Bytes::from(body)));
        *reply.status_mut() = status;
        reply.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
        self.add_headers(reply.headers_mut(), status);
        reply
    }

    /// Appends the JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (slug, status, title) = self.kind();
        out.extend_from_slice(b"{\"type\":\"urn:forebay:problem:");
        out.extend_from_slice(slug.as_bytes());
        out.extend_from_slice(b"\",\"title\":\"");
        out.extend_from_slice(title.as_bytes());
        out.extend_from_slice(b"\",\"status\":");
        out.extend_from_slice(status.as_str().as_bytes());
        self.write_detail(out);
        out.push(b'}');
    }

    /// The same problem of the claim `no` of a batch: what it names is a field of that claim there.
    pub fn of_member(self, no: usize) -> Self {
        match self {
            Self::Invalid { field, expected } => {
                let field = if field == KEY_HEADER { "idempotency_key" } else { &field };
                Self::Invalid { field: format!("claims[{no}].{field}"), expected }
            }
            other => other,
        }
    }

    fn write_detail(&self, out: &mut Vec<u8>) {
        match self {
            Self::Invalid { field, expected } => {
                text(out, "field", field);
                text(out, "detail", expected);
            }
            Self::Forbidden { scope } => text(out, "detail", &format!("the scope {scope} is needed")),
            Self::MethodNotAllowed { allow } => text(out, "detail", &format!("allowed: {allow}")),
            Self::TooLarge { limit } => text(out, "detail", &format!("at most {limit} bytes")),
            Self::AlreadyClaimed(id) | Self::OutcomeUnknown(Some(id)) => {
                plain(out, "claim_id", &id.to_text());
            }
            Self::SoldOut { stock_version } => number(out, "stock_version", *stock_version),
            Self::NotOpen { opens_at, .. } => plain(out, "opens_at", &opens_at.to_text()),
            // A batch has no header for one of its claims.
            Self::RateLimited(refused) => number(out, "retry_after", refused.retry_after_seconds()),
            Self::WrongState { state, why } => {
                text(out, "state", state);
                text(out, "detail", why);
            }
            Self::CartFull => {
                let (lines, units) = (limits::CART_LINES_MAX, limits::CART_QUANTITY_MAX);
                text(out, "detail", &format!("at most {lines} lines, and {units} of each"));
            }
            Self::StillDead(why) => {
                text(out, "state", "dead");
                text(out, "detail", why);
            }
            Self::CampaignExists(id) => text(out, "detail", &format!("campaign {id} differs from this definition")),
            Self::StoreUnavailable => text(out, "detail", "claims are still taken; ask again"),
            _ => {}
        }
    }

    fn add_headers(&self, headers: &mut hyper::HeaderMap, status: StatusCode) {
        match self {
            Self::Unauthenticated => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::MethodNotAllowed { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Self::RateLimited(refused) => {
                headers.insert(header::RETRY_AFTER, refused.retry_after_seconds().into());
                for (name, value) in [
                    (RATE_LIMIT, refused.rate_limit().to_string()),
                    (RATE_LIMIT_POLICY, refused.rate_limit_policy().to_string()),
                ] {
                    headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
                }
            }
            Self::NotOpen { wait, .. } => {
                headers.insert(header::RETRY_AFTER, (*wait).into());
            }
            _ if status == StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, RETRY_SECONDS.into());
            }
            _ => {}
        }
    }
}

/// The statuses that are told apart, in the order in which answers are counted: what is answered most often is found first. The
/// last stands for any other.
pub const STATUSES: [&str; 23] = [
    "202", "409", "200", "429", "503", "404", "304", "201", "204", "400", "401", "403", "405", "408", "413", "415",
    "422", "431", "500", "501", "504", "505", "other",
];

const _: () = assert!(2 * STATUSES.len() <= ANSWERS);

/// Under which number an answer is counted: those of the public listener first.
pub fn kind_of<B>(is_public: bool, reply: &Response<B>) -> usize {
    kind(is_public, reply.status())
}

fn kind(is_public: bool, status: StatusCode) -> usize {
    let place = STATUSES.iter().position(|known| *known == status.as_str()).unwrap_or(STATUSES.len() - 1);
    if is_public { place } else { STATUSES.len() + place }
}

/// Every slug, in the order in which refusals are counted.
pub const SLUGS: [&str; 27] = [
    "invalid-request",
    "unauthenticated",
    "forbidden",
    "unknown-campaign",
    "unknown-claim",
    "not-found",
    "method-not-allowed",
    "too-large",
    "unsupported-media-type",
    "headers-too-large",
    "already-claimed",
    "sold-out",
    "not-open",
    "ended",
    "paused",
    "wrong-state",
    "cart-full",
    "campaign-exists",
    "idempotency-key-reused",
    "rate-limited",
    "overloaded",
    "buffer-full",
    "not-durable",
    "draining",
    "outcome-unknown",
    "refused",
    "other",
];

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        Self::invalid(error.field, error.message)
    }
}

impl Problem {
    /// The book's refusal of a claim, answered at `now`.
    pub fn from_refusal(refusal: Refusal, now: Timestamp) -> Self {
        match refusal {
            Refusal::AlreadyClaimed(id) => Self::AlreadyClaimed(id),
            Refusal::SoldOut { stock_version } => Self::SoldOut { stock_version },
            Refusal::NotOpen { opens_at } => Self::not_open(opens_at, now),
            Refusal::Ended => Self::Ended,
            Refusal::Paused => Self::Paused,
            Refusal::KeyReused => Self::KeyReused,
            Refusal::OverLimit { limit } => Self::invalid("quantity", format!("at most {limit}")),
            Refusal::UnknownCampaign => Self::UnknownCampaign,
            Refusal::BufferFull => Self::BufferFull,
            Refusal::NotDurable => Self::NotDurable,
        }
    }

    /// Not open before `opens_at`.
    pub fn not_open(opens_at: Timestamp, now: Timestamp) -> Self {
        let wait = (opens_at.0 - now.0).max(0) as u64;
        Self::NotOpen { opens_at, wait: wait.div_ceil(1_000_000).max(1) }
    }
}

impl From<AdminRefusal> for Problem {
    fn from(refusal: AdminRefusal) -> Self {
        match refusal {
            AdminRefusal::Exists(id) => Self::CampaignExists(id),
            AdminRefusal::Unknown(_) => Self::UnknownCampaign,
            AdminRefusal::WrongState { state, why } => Self::WrongState { state, why },
            AdminRefusal::Field(error) => error.into(),
            AdminRefusal::KeyReused => Self::KeyReused,
            AdminRefusal::TooLarge(why) => Self::invalid("stock", why),
            AdminRefusal::BufferFull => Self::BufferFull,
            AdminRefusal::NotDurable => Self::NotDurable,
        }
    }
}

/// A JSON document with status 200.
pub fn json(body: Vec<u8>) -> Reply {
    with_status(StatusCode::OK, body)
}

/// A JSON document of a thing that was created under `location`.
pub fn created(body: Vec<u8>, location: &str) -> Reply {
    let mut reply = with_status(StatusCode::CREATED, body);
    reply.headers_mut().extend(HeaderValue::try_from(location).ok().map(|l| (header::LOCATION, l)));
    reply
}

/// A JSON document for a node that is not ready.
pub fn unavailable(body: Vec<u8>) -> Reply {
    with_status(StatusCode::SERVICE_UNAVAILABLE, body)
}

/// A text of another media type.
pub fn text_body(media: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Whole::new(body.into()));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    reply
}

/// The outcomes of a batch: a whole JSON document, with whatever is to be kept as long as it is.
pub fn outcomes(body: impl AsRef<[u8]> + Send + 'static) -> Reply {
    let mut reply = Response::new(Whole::new(Bytes::from_owner(body)));
    reply.headers_mut().insert(header::CONTENT_TYPE, JSON);
    reply
}

/// Nothing has changed since the caller's `etag`.
pub fn not_modified(etag: &str) -> Reply {
    let mut reply = Response::new(Whole::default());
    *reply.status_mut() = StatusCode::NOT_MODIFIED;
    set_etag(&mut reply, etag);
    reply
}

/// Done, and nothing to say.
pub fn no_content() -> Reply {
    let mut reply = Response::new(Whole::default());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply
}

/// Adds an `ETag`, quotes included.
pub fn set_etag(reply: &mut Reply, etag: &str) {
    reply.headers_mut().extend(HeaderValue::try_from(etag).ok().map(|e| (header::ETAG, e)));
}

fn with_status(status: StatusCode, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Whole::new(Bytes::from(body)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, JSON);
    reply
}

/// The 202 of an accepted claim; `replayed` where its key had been accepted before.
pub fn accepted(document: &ClaimDocument<'_>, keys: &KeyRing, replayed: bool) -> Reply {
    const PREFIX: &[u8; 11] = b"/v1/claims/";
    let mut body = Vec::with_capacity(384);
    document.write(&mut body, keys);
    // A vector with room to spare would become shared bytes, with a counter of their own on the heap.
    body.shrink_to_fit();
    let mut location = [0; PREFIX.len() + 36];
    let (prefix, id) = location.split_at_mut(PREFIX.len());
    prefix.copy_from_slice(PREFIX);
    id.copy_from_slice(&document.claim.claim_id.to_text());
    let mut reply = Response::new(Whole::new(Bytes::from(body)));
    *reply.status_mut() = StatusCode::ACCEPTED;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.extend(HeaderValue::from_bytes(&location).ok().map(|location| (header::LOCATION, location)));
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    reply
}

/// The 202 of a cart's change; `replayed` where its key had been accepted before.
pub fn carted(document: &CartDocument<'_>, replayed: bool) -> Reply {
    let mut body = Vec::with_capacity(160);
    document.write(&mut body);
    let mut reply = with_status(StatusCode::ACCEPTED, body);
    if replayed {
        reply.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    reply
}
