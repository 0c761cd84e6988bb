//! Carts: a change is acknowledged when it is durable, and a reader always sees what was acknowledged.
//!
//! The book decides a change when it knows the cart. A buyer who never had one is told by a filter; any other cart that is
//! not in use is loaded here, from the entries that wait and the database, and submitted again. What waits is read first,
//! and counts only beyond the row's own position: a batch that lands in between neither loses an operation nor doubles one.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use hyper::{HeaderMap, Method};
use serde::Deserialize;

use super::reply::{self, CartDocument, Problem, Reply};
use super::routes::has_etag;
use super::session::Asked;
use super::{Door, reads, request};
use crate::config::Scope;
use crate::limits;
use crate::queue::carts::{CartBase, Line};
use crate::queue::{Answer, Away, CartCommand, CartNow, CartOutcome, Command, Outcome, SubmitError};
use crate::sale::campaign::{Object, from_json};
use crate::sale::{CartOp, FieldError, Sku, UserHash, UserId};
use crate::store::{Store, StoreError, StoredCart};

/// How often a cart is loaded for one change: it may be forgotten again in between, but not over and over.
const LOADS: usize = 3;

/// Answers `POST /v1/carts/{user}/items`.
///
/// # Errors
/// The problem to answer with; nothing was changed, but for [`Problem::OutcomeUnknown`].
pub(super) async fn change(door: &Rc<Door>, peer: IpAddr, user: &str, mut request: Asked) -> Result<Reply, Problem> {
    let app = &*door.app;
    if request.method() != Method::POST {
        return Err(Problem::MethodNotAllowed { allow: "POST" });
    }
    if app.is_draining() {
        return Err(Problem::Draining);
    }
    app.auth.authorize(request.headers(), Scope::CartsWrite)?;
    let body = request::json_body(&mut request, limits::BODY_MAX).await?;
    let (sku, op) = parse(&body)?;
    let user = UserId::parse(user).map_err(|e| Problem::invalid("user", format!("expected {e}")))?;
    let headers = request.headers();
    let hashes = app.buffer.hash_key();
    let key = request::idempotency_key(headers)?.map(|key| hashes.cart_key(&user, key, &sku, op));
    if app.buffer.is_full() {
        return Err(Problem::BufferFull);
    }
    app.antiscalper.check(Some(user.as_str()), app.client_address(peer, headers)).map_err(Problem::RateLimited)?;
    drop(request);

    let user_hash = hashes.user(&user);
    let mut base = if app.buffer.may_have_cart(user_hash) { CartBase::Unknown } else { CartBase::Empty };
    for _ in 0..LOADS {
        let command = CartCommand { user, user_hash, sku, op, key, base };
        let waiting = door.front.submit(Command::Cart(Box::new(command))).map_err(|error| match error {
            SubmitError::Overloaded => Problem::Overloaded,
            SubmitError::NotDurable => Problem::NotDurable,
        })?;
        let document = |version, replayed| {
            reply::carted(&CartDocument { user: &user, sku: &sku, version, durability: app.durability }, replayed)
        };
        match waiting.await {
            Answer::Decided(Outcome::Cart(outcome)) => match outcome {
                CartOutcome::Done(seq) => return Ok(document(seq, false)),
                CartOutcome::Replayed(seq) => return Ok(document(seq, true)),
                CartOutcome::Load(number) => base = load(door, &user, user_hash, number).await?,
                CartOutcome::Full => return Err(Problem::CartFull),
                CartOutcome::KeyReused => return Err(Problem::KeyReused),
                CartOutcome::BufferFull => return Err(Problem::BufferFull),
                CartOutcome::NotDurable => return Err(Problem::NotDurable),
            },
            _ => return Err(Problem::OutcomeUnknown(None)),
        }
    }
    Err(Problem::Overloaded)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOp {
    sku: String,
    op: String,
    #[serde(default, deserialize_with = "given")]
    quantity: Option<u64>,
}

/// A field that may be absent, but not null.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    u64::deserialize(from).map(Some)
}

/// Reads `{"sku":"s1","op":"add","quantity":1}`.
///
/// # Errors
/// [`Problem::Invalid`] with the field and what was expected of it.
pub(super) fn parse(body: &[u8]) -> Result<(Sku, CartOp), Problem> {
    let Object(raw) = from_json::<Object<RawOp>>(body)?;
    let sku = Sku::parse(&raw.sku).map_err(|e| FieldError::new("sku", format!("expected {e}")))?;
    let most = limits::CART_QUANTITY_MAX;
    let wrong = |what: String| Problem::from(FieldError::new("quantity", what));
    let within = |least: u32, quantity: u64| {
        let sound = u32::try_from(quantity).ok().filter(|q| (least..=most).contains(q));
        sound.ok_or_else(|| wrong(format!("{quantity} given; expected {least} to {most}")))
    };
    let op = match (raw.op.as_str(), raw.quantity) {
        ("add", quantity) => CartOp::Add(within(1, quantity.unwrap_or(1))?),
        ("set", Some(quantity)) => CartOp::Set(within(0, quantity)?),
        ("set", None) => return Err(wrong(format!("missing; set needs 0 to {most}"))),
        ("remove", None) => CartOp::Remove,
        ("remove", Some(_)) => return Err(wrong("given; remove takes none".to_owned())),
        (other, _) => {
            let what = format!("{other:?} given; expected \"add\", \"set\" or \"remove\"");
            return Err(FieldError::new("op", what).into());
        }
    };
    Ok((sku, op))
}

async fn load(door: &Rc<Door>, user: &UserId, hash: UserHash, number: u64) -> Result<CartBase, Problem> {
    let app = &*door.app;
    if app.buffer.gate().is_some() {
        // Nothing of it waits, or it would be there: the database has the whole cart.
        let StoredCart { version, lines } = app.store.cart(user).await.map_err(reads::unavailable)?;
        return Ok(CartBase::Stored { number, version, lines });
    }
    let cart = now(door, user, hash, async || app.store.cart(user).await).await?;
    let hashes = app.buffer.hash_key();
    let lines = cart.lines.iter().map(|(sku, quantity)| Line { sku: hashes.sku(sku), quantity: *quantity });
    Ok(CartBase::Loaded { number, lines: lines.collect() })
}

/// A cart as it was acknowledged; `read` asks the database.
async fn now(
    door: &Rc<Door>,
    user: &UserId,
    hash: UserHash,
    read: impl AsyncFn() -> Result<StoredCart, StoreError>,
) -> Result<StoredCart, Problem> {
    let waiting = match door.app.buffer.cart_of(&door.front, user, hash).await {
        Ok(CartNow::Over(waiting)) => waiting,
        Ok(CartNow::Whole(version, mut lines)) => {
            lines.sort();
            return Ok(StoredCart { version, lines });
        }
        // A cart that leaves something out that was acknowledged is worse than none.
        Err(Away) => return Err(Problem::StoreUnavailable),
    };
    let mut cart = read().await.map_err(reads::unavailable)?;
    cart.overlay(&waiting);
    Ok(cart)
}

/// Answers `GET /v1/carts/{user}`.
///
/// # Errors
/// The problem to answer with.
pub(super) async fn show(door: &Rc<Door>, user: &str, headers: &HeaderMap) -> Result<Reply, Problem> {
    let app = &*door.app;
    let user = UserId::parse(user).map_err(|e| Problem::invalid("user", format!("expected {e}")))?;
    let hash = app.buffer.hash_key().user(&user);
    let cart = if app.buffer.may_have_cart(hash) {
        let read = async || app.store.cart(&user).await.map(Arc::new);
        let cached = async || app.cache.cart(user, hash, read).await.map(|cart| (*cart).clone());
        now(door, &user, hash, cached).await?
    } else {
        StoredCart::default()
    };
    let etag = format!("\"{}\"", cart.version);
    if has_etag(headers, &etag) {
        return Ok(reply::not_modified(&etag));
    }
    let items: Vec<_> = cart
        .lines
        .iter()
        .map(|(sku, quantity)| serde_json::json!({ "sku": sku.as_str(), "quantity": quantity }))
        .collect();
    let document = serde_json::json!({ "user": user.as_str(), "version": cart.version.0, "items": items });
    let mut reply = reply::json(document.to_string().into_bytes());
    reply::set_etag(&mut reply, &etag);
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_a_sku_a_word_and_perhaps_a_quantity() {
        let op = |json: &str| parse(json.as_bytes()).map(|(sku, op)| (sku.to_string(), op));
        for (json, expected) in [
            (r#"{"sku":"s1","op":"add","quantity":3}"#, CartOp::Add(3)),
            (r#"{"sku":"s1","op":"add"}"#, CartOp::Add(1)),
            (r#"{"sku":"s1","op":"set","quantity":0}"#, CartOp::Set(0)),
            (r#"{"sku":"s1","op":"remove"}"#, CartOp::Remove),
        ] {
            assert_eq!(op(json).unwrap(), ("s1".to_owned(), expected), "{json}");
        }
        for (json, field) in [
            (r#"{"op":"add"}"#, "sku"),
            (r#"{"sku":"","op":"add"}"#, "sku"),
            (r#"{"sku":"a b","op":"add"}"#, "sku"),
            (r#"{"sku":"é","op":"add"}"#, "sku"),
            (r#"{"sku":"s1"}"#, "op"),
            (r#"{"sku":"s1","op":"take"}"#, "op"),
            (r#"{"sku":"s1","op":"add","quantity":0}"#, "quantity"),
            (r#"{"sku":"s1","op":"add","quantity":1000001}"#, "quantity"),
            (r#"{"sku":"s1","op":"add","quantity":null}"#, "quantity"),
            (r#"{"sku":"s1","op":"add","quantity":1.0}"#, "quantity"),
            (r#"{"sku":"s1","op":"set"}"#, "quantity"),
            (r#"{"sku":"s1","op":"remove","quantity":1}"#, "quantity"),
            (r#"{"sku":"s1","op":"add","user":"u1"}"#, "user"),
            (r#"["s1","add",3]"#, ""),
        ] {
            let Err(Problem::Invalid { field: seen, expected }) = op(json) else { panic!("{json} was taken") };
            assert_eq!(seen, field, "{json}: {expected}");
        }
    }
}
