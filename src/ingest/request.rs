//! What comes in: a body within its limits and its deadline, and the JSON of a claim, read without copying it.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::{HeaderMap, Request, header};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::reply::Problem;
use crate::limits;
use crate::sale::{FieldError, UserId};

/// The longest a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_millis(limits::BODY_DEADLINE_MILLIS);

/// Reads the whole body, which must be `application/json` and at most `limit` bytes.
///
/// # Errors
/// [`Problem::UnsupportedMediaType`], [`Problem::TooLarge`], or [`Problem::Invalid`] where it breaks off or comes too
/// late.
pub async fn json_body(request: &mut Request<Incoming>, limit: usize) -> Result<Bytes, Problem> {
    check_media(request.headers())?;
    let body = request.body_mut();
    if body.size_hint().lower() > limit as u64 {
        return Err(Problem::TooLarge { limit });
    }
    // A body that came with its head is here at once; only one that is still under way costs a timer.
    let first = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await;
    match first {
        Poll::Ready(Some(Ok(frame))) if body.is_end_stream() && frame.is_data() => {
            let data = frame.into_data().unwrap_or_default();
            if data.len() > limit { Err(Problem::TooLarge { limit }) } else { Ok(data) }
        }
        first => Box::pin(slow_body(first, body, limit)).await,
    }
}

/// Sees to it that there is no body: none was announced, or one that turns out to be of zero bytes, as a client that knows
/// no length beforehand sends it.
///
/// # Errors
/// [`Problem::Invalid`] where there is one, or where its end does not come.
pub async fn no_body(request: &mut Request<Incoming>) -> Result<(), Problem> {
    let body = request.body_mut();
    if body.is_end_stream() {
        return Ok(());
    }
    let given = || Problem::invalid("", "a body was given; expected none");
    if body.size_hint().lower() > 0 {
        return Err(given());
    }
    match Box::pin(slow_body(Poll::Pending, body, 0)).await {
        Ok(_) => Ok(()),
        Err(Problem::TooLarge { .. }) => Err(given()),
        Err(other) => Err(other),
    }
}

type Frame = Result<hyper::body::Frame<Bytes>, hyper::Error>;

/// The rest of a body of which `first` has been asked for.
async fn slow_body(first: Poll<Option<Frame>>, body: &mut Incoming, limit: usize) -> Result<Bytes, Problem> {
    tokio::time::timeout(BODY_DEADLINE, collect(first, body, limit))
        .await
        .unwrap_or_else(|_| Err(Problem::invalid("", format!("the body did not arrive within {BODY_DEADLINE:?}"))))
}

async fn collect(first: Poll<Option<Frame>>, body: &mut Incoming, limit: usize) -> Result<Bytes, Problem> {
    // What is declared is within the limit; memory that nothing arrives for is never touched.
    let mut whole = BytesMut::with_capacity((body.size_hint().lower() as usize).min(limit));
    let mut next = match first {
        Poll::Ready(frame) => frame,
        Poll::Pending => body.frame().await,
    };
    while let Some(frame) = next {
        let frame = frame.map_err(|e| Problem::invalid("", format!("the body broke off: {e}")))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > limit {
                return Err(Problem::TooLarge { limit });
            }
            whole.extend_from_slice(&data);
        }
        next = body.frame().await;
    }
    Ok(whole.freeze())
}

fn check_media(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE).ok_or(Problem::UnsupportedMediaType)?;
    if value.as_bytes() == b"application/json" {
        return Ok(());
    }
    let value = value.to_str().map_err(|_| Problem::UnsupportedMediaType)?;
    let media = value.split(';').next().unwrap_or_default().trim();
    let parameters = value.split(';').skip(1).all(|p| {
        let (name, value) = p.split_once('=').unwrap_or((p, ""));
        name.trim().eq_ignore_ascii_case("charset") && value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    if media.eq_ignore_ascii_case("application/json") && parameters {
        return Ok(());
    }
    Err(Problem::UnsupportedMediaType)
}

/// The header that names a retry.
pub const KEY_HEADER: &str = "Idempotency-Key";

/// The value of `Idempotency-Key`: 1 to 128 visible ASCII characters, at most once.
///
/// # Errors
/// [`Problem::Invalid`] naming the header.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid(KEY_HEADER, "given twice; expected once"));
    }
    check_key(value.to_str().unwrap_or_default()).map(Some)
}

/// An idempotency key, wherever it stands: 1 to 128 visible ASCII characters.
///
/// # Errors
/// [`Problem::Invalid`] naming the header.
pub fn check_key(key: &str) -> Result<&str, Problem> {
    let fits = (1..=limits::IDEMPOTENCY_KEY_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    fits.then_some(key).ok_or_else(|| {
        Problem::invalid(KEY_HEADER, format!("expected 1 to {} visible ASCII characters", limits::IDEMPOTENCY_KEY_MAX))
    })
}

/// The body of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimBody {
    /// The buyer.
    pub user: UserId,
    /// Units, from 1.
    pub quantity: u32,
}

impl ClaimBody {
    /// Reads `{"user":"u1","quantity":1}`; `quantity` may be absent, nothing else may be there.
    ///
    /// # Errors
    /// [`Problem::Invalid`] with the field and what was expected of it.
    pub fn parse(json: &[u8]) -> Result<Self, Problem> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let parsed = RawClaim::deserialize(&mut reader).and_then(|raw| reader.end().map(|()| raw));
        // The path that serde took costs time to follow, so it is followed only when something is wrong.
        let raw = match parsed {
            Ok(raw) => raw,
            Err(_) => crate::sale::campaign::from_json::<RawClaim<'_>>(json)?,
        };
        Self::new(&raw.user, raw.quantity)
    }

    /// Checks what was read.
    ///
    /// # Errors
    /// [`Problem::Invalid`] with `user` or `quantity` and what was expected of it.
    pub fn new(user: &str, quantity: impl Copy + fmt::Display + TryInto<u32>) -> Result<Self, Problem> {
        let user = UserId::parse(user).map_err(|e| FieldError::new("user", format!("expected {e}")))?;
        let whole = quantity.try_into().ok().filter(|&q| q >= 1);
        let quantity = whole
            .ok_or_else(|| FieldError::new("quantity", format!("{quantity} given; expected a whole number from 1")))?;
        Ok(Self { user, quantity })
    }
}

struct RawClaim<'a> {
    user: Cow<'a, str>,
    quantity: u64,
}

impl<'de> Deserialize<'de> for RawClaim<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(ClaimVisitor)
    }
}

struct ClaimVisitor;

impl<'de> Visitor<'de> for ClaimVisitor {
    type Value = RawClaim<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with user and quantity")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawClaim<'de>, A::Error> {
        const FIELDS: &[&str] = &["user", "quantity"];
        let (mut user, mut quantity) = (None, None);
        while let Some(name) = map.next_key::<Text<'de>>()? {
            match &*name.0 {
                "user" if user.is_none() => user = Some(map.next_value::<Text<'de>>()?.0),
                "quantity" if quantity.is_none() => quantity = Some(map.next_value::<u64>()?),
                "user" => return Err(de::Error::duplicate_field("user")),
                "quantity" => return Err(de::Error::duplicate_field("quantity")),
                other => return Err(de::Error::unknown_field(other, FIELDS)),
            }
        }
        let user = user.ok_or_else(|| de::Error::missing_field("user"))?;
        Ok(RawClaim { user, quantity: quantity.unwrap_or(1) })
    }
}

/// A string, borrowed from the document where it has no escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(TextVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_a_user_and_perhaps_a_quantity() {
        let claim = |json: &str| ClaimBody::parse(json.as_bytes());
        let u1 = UserId::parse("u1").unwrap();
        for (json, quantity) in [
            (r#"{"user":"u1"}"#, 1),
            (r#"{"user":"u1","quantity":1}"#, 1),
            (r#" { "quantity" : 7 , "user" : "\u0075\u0031" } "#, 7),
        ] {
            assert_eq!(claim(json).unwrap(), ClaimBody { user: u1, quantity });
        }
        for (json, field) in [
            ("", ""),
            ("[]", ""),
            ("null", ""),
            ("{", ""),
            (r#"{"quantity":1}"#, "user"),
            (r#"{"user":null}"#, "user"),
            (r#"{"user":1}"#, "user"),
            (r#"{"user":""}"#, "user"),
            (r#"{"user":"a b"}"#, "user"),
            (r#"{"user":"u1","user":"u2"}"#, "user"),
            (r#"{"user":"u1","quantity":null}"#, "quantity"),
            (r#"{"user":"u1","quantity":0}"#, "quantity"),
            (r#"{"user":"u1","quantity":-1}"#, "quantity"),
            (r#"{"user":"u1","quantity":1.0}"#, "quantity"),
            (r#"{"user":"u1","quantity":1e3}"#, "quantity"),
            (r#"{"user":"u1","quantity":"1"}"#, "quantity"),
            (r#"{"user":"u1","quantity":4294967296}"#, "quantity"),
            (r#"{"user":"u1","quantity":99999999999999999999}"#, "quantity"),
            (r#"{"user":"u1","amount":1}"#, "amount"),
            (r#"{"user":"u1"} x"#, ""),
        ] {
            let Err(Problem::Invalid { field: seen, expected }) = claim(json) else { panic!("{json} was taken") };
            assert_eq!(seen, field, "{json}: {expected}");
        }
    }
}
