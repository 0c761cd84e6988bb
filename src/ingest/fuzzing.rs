//! The readers of requests that nothing outside the front end calls, for the fuzz targets; test builds only.

use hyper::HeaderMap;

use super::reply::Problem;
use super::routes::{self, Route};
use super::{admin, carts, dead_letters, reads, wire};
use crate::sale::{CartOp, Fate, Seq, Sku};

/// The body of a cart's operation.
///
/// # Errors
/// [`Problem::Invalid`].
pub fn cart_op(body: &[u8]) -> Result<(Sku, CartOp), Problem> {
    carts::parse(body)
}

/// The body that gives a dead letter up.
///
/// # Errors
/// [`Problem::Invalid`].
pub fn drop_reason(body: &[u8]) -> Result<Box<str>, Problem> {
    dead_letters::reason(body)
}

/// Who asks.
///
/// # Errors
/// [`Problem::Invalid`].
pub fn actor(headers: &HeaderMap) -> Result<String, Problem> {
    admin::actor(headers)
}

/// Where a path of the public listener leads, but for claims and batches, and the name in it.
pub fn route(path: &str) -> Option<(&'static str, Option<String>)> {
    let (kind, name) = match routes::route(path).ok()? {
        Route::Campaigns => return Some(("campaigns", None)),
        Route::Campaign(name) => ("campaign", name),
        Route::Claim(name) => ("claim", name),
        Route::End(name, Fate::Cancelled) => ("cancel", name),
        Route::End(name, _) => ("settle", name),
        Route::ClaimsOf(name) => ("claims", name),
        Route::Cart(name) => ("cart", name),
        Route::CartItems(name) => ("items", name),
    };
    Some((kind, Some(name.into_owned())))
}

/// The campaign of a path of a claim, and that of a path of a batch.
pub fn claimed_campaigns(path: &str) -> (Option<&str>, Option<&str>) {
    (routes::claimed_campaign(path), routes::batched_campaign(path))
}

/// A number in a query.
///
/// # Errors
/// [`Problem::Invalid`].
pub fn whole(text: &str, least: u64, most: u64) -> Result<u64, Problem> {
    reads::whole("number", text, least, most)
}

/// Where a page ended.
///
/// # Errors
/// [`Problem::Invalid`].
pub fn read_cursor(text: &str) -> Result<Seq, Problem> {
    reads::read_cursor(text)
}

/// The cursor behind a page that ended at `seq`.
pub fn write_cursor(seq: Seq) -> String {
    reads::write_cursor(seq)
}

/// The lines that begin with `content-l` in bytes that arrive in pieces.
pub fn length_lines<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut lines = wire::LengthLines::default();
    pieces.map(|piece| lines.count(piece)).sum()
}
