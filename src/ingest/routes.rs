//! Which request goes where on the public listener, and what paths, queries and conditional headers mean.
//!
//! - The path of a claim is recognised first, by its two ends, then that of a batch; everything else is split at its
//!   slashes.
//! - A segment is percent-decoded once, after the split, so that an encoded slash never makes a segment; what is no
//!   identifier then is unknown.
//! - Unknown query parameters are ignored, as caches and trackers add them; a known one given twice is refused.

use std::borrow::Cow;
use std::rc::Rc;

use hyper::{HeaderMap, Method, header};

use super::reply::{Problem, Reply};
use super::session::{Asked, Session};
use super::{batch, carts, claim_path, ends, reads};
use crate::config::Scope;
use crate::sale::{ClaimId, Fate};

/// A request of the public listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Campaigns,
    Campaign(Cow<'a, str>),
    Claim(Cow<'a, str>),
    End(Cow<'a, str>, Fate),
    ClaimsOf(Cow<'a, str>),
    Cart(Cow<'a, str>),
    CartItems(Cow<'a, str>),
}

/// Answers a request of the public listener.
///
/// # Errors
/// The problem to answer with.
pub(super) async fn public(session: &Rc<Session>, request: Asked) -> Result<Reply, Problem> {
    if claimed_campaign(request.uri().path()).is_some() {
        return claim_path::claim(session.door(), session.peer(), request).await;
    }
    // On the heap, so that a claim's own state, of which there is one a connection, is not as large as the largest other's.
    Box::pin(other(session, request)).await
}

async fn other(session: &Rc<Session>, request: Asked) -> Result<Reply, Problem> {
    if batched_campaign(request.uri().path()).is_some() {
        return batch::claims(session.door(), session.peer(), request).await;
    }
    read(session, request).await
}

async fn read(session: &Rc<Session>, request: Asked) -> Result<Reply, Problem> {
    let route = route(request.uri().path())?;
    if let Route::End(id, to) = &route {
        let (id, to) = (ClaimId::parse(id), *to);
        return ends::end(session.door(), request, id, to).await;
    }
    if let Route::CartItems(user) = &route {
        let user = user.clone().into_owned();
        return carts::change(session.door(), session.peer(), &user, request).await;
    }
    if request.method() != Method::GET {
        return Err(Problem::MethodNotAllowed { allow: "GET" });
    }
    let (app, headers) = (&*session.door().app, request.headers());
    app.auth.authorize(headers, Scope::Read)?;
    let query = Query::new(request.uri().query());
    match route {
        Route::Campaigns => reads::campaigns(app, headers).await,
        Route::Campaign(id) => reads::campaign(app, &id, headers),
        Route::Claim(id) => reads::claim(session.door(), session.waits(), &id, &query, headers).await,
        Route::End(..) | Route::CartItems(_) => Err(Problem::NotFound),
        Route::Cart(user) => carts::show(session.door(), &user, headers).await,
        Route::ClaimsOf(user) => reads::claims_of(session.door(), &user, &query).await,
    }
}

/// `/v1/campaigns/{campaign}/claims`
pub(super) fn claimed_campaign(path: &str) -> Option<&str> {
    campaign_before("/claims", path)
}

/// `/v1/campaigns/{campaign}/claims:batch`
pub(super) fn batched_campaign(path: &str) -> Option<&str> {
    campaign_before("/claims:batch", path)
}

#[inline]
fn campaign_before<'a>(end: &str, path: &'a str) -> Option<&'a str> {
    let campaign = path.strip_prefix("/v1/campaigns/")?.strip_suffix(end)?;
    (!campaign.contains('/')).then_some(campaign)
}

pub(super) fn route(path: &str) -> Result<Route<'_>, Problem> {
    let text = |segment| decode(segment).ok_or(Problem::NotFound);
    let Some(rest) = path.strip_prefix("/v1/") else { return Err(Problem::NotFound) };
    let (kind, rest) = rest.split_once('/').map_or((rest, None), |(kind, rest)| (kind, Some(rest)));
    match (kind, rest) {
        ("campaigns", None) => Ok(Route::Campaigns),
        ("campaigns", Some(id)) if is_segment(id) => text(id).map(Route::Campaign),
        ("claims", Some(id)) if is_segment(id) => text(id).map(Route::Claim),
        ("claims", Some(rest)) => {
            let end = |word, to| rest.strip_suffix(word).filter(|id| is_segment(id)).map(|id| (id, to));
            let (id, to) =
                end("/cancel", Fate::Cancelled).or_else(|| end("/settle", Fate::Settled)).ok_or(Problem::NotFound)?;
            Ok(Route::End(text(id)?, to))
        }
        ("carts", Some(user)) if is_segment(user) => text(user).map(Route::Cart),
        ("carts", Some(rest)) => match rest.strip_suffix("/items") {
            Some(user) if is_segment(user) => text(user).map(Route::CartItems),
            _ => Err(Problem::NotFound),
        },
        ("users", Some(rest)) => match rest.strip_suffix("/claims") {
            Some(user) if is_segment(user) => text(user).map(Route::ClaimsOf),
            _ => Err(Problem::NotFound),
        },
        _ => Err(Problem::NotFound),
    }
}

fn is_segment(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

/// A path segment, decoded once; none where it is not UTF-8 then.
pub fn decode(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    percent_encoding::percent_decode_str(segment).decode_utf8().ok()
}

/// A request's query.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// From behind the question mark, if there is one.
    pub fn new(text: Option<&'a str>) -> Self {
        Self(text.unwrap_or_default())
    }

    /// The values of the parameters `names`.
    ///
    /// # Errors
    /// [`Problem::Invalid`] naming the one that is given twice.
    pub fn read<const N: usize>(&self, names: [&'static str; N]) -> Result<[Option<Cow<'a, str>>; N], Problem> {
        let mut values = [const { None }; N];
        for (name, value) in form_urlencoded::parse(self.0.as_bytes()) {
            let Some(at) = names.iter().position(|n| *n == name) else { continue };
            if values[at].replace(value).is_some() {
                return Err(Problem::invalid(names[at], "given twice; expected once"));
            }
        }
        Ok(values)
    }
}

/// Whether the caller has what `etag` names already: `If-None-Match` lists it, or `*`. Weak tags count
/// (RFC 9110, section 13.1.2).
pub fn has_etag(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    // Our own tags hold no comma, so a tag that a comma tears apart is none of ours.
    values
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claims_path_is_told_by_its_ends() {
        for (path, campaign) in [
            ("/v1/campaigns/sale/claims", Some("sale")),
            ("/v1/campaigns/a%2Fb/claims", Some("a%2Fb")),
            ("/v1/campaigns/claims/claims", Some("claims")),
            ("/v1/campaigns//claims", Some("")),
            ("/v1/campaigns/claims", None),
            ("/v1/campaigns/a/b/claims", None),
            ("/v1/campaigns/sale/claims/", None),
            ("/v1/campaigns/sale/claims:batch", None),
            ("/V1/campaigns/sale/claims", None),
        ] {
            assert_eq!(claimed_campaign(path), campaign, "{path}");
            assert_eq!(batched_campaign(path), (path == "/v1/campaigns/sale/claims:batch").then_some("sale"), "{path}");
        }
    }

    #[test]
    fn paths_lead_where_the_contract_says_and_nowhere_else() {
        for (path, expected) in [
            ("/v1/campaigns", Route::Campaigns),
            ("/v1/campaigns/sale", Route::Campaign("sale".into())),
            ("/v1/campaigns/s%61le", Route::Campaign("sale".into())),
            ("/v1/campaigns/a%2Fb", Route::Campaign("a/b".into())),
            ("/v1/campaigns/a%252Fb", Route::Campaign("a%2Fb".into())),
            ("/v1/claims/x", Route::Claim("x".into())),
            ("/v1/claims/x/cancel", Route::End("x".into(), Fate::Cancelled)),
            ("/v1/claims/x/settle", Route::End("x".into(), Fate::Settled)),
            ("/v1/carts/u1", Route::Cart("u1".into())),
            ("/v1/carts/u1/items", Route::CartItems("u1".into())),
            ("/v1/users/u%40x/claims", Route::ClaimsOf("u@x".into())),
        ] {
            assert_eq!(route(path).unwrap(), expected, "{path}");
        }
        for path in [
            "",
            "/",
            "*",
            "/v1",
            "/v1/",
            "/v2/campaigns",
            "/v1/campaigns/",
            "/v1/campaigns/a/b",
            "/v1/claims",
            "/v1/claims/",
            "/v1/claims//cancel",
            "/v1/claims/x/y/cancel",
            "/v1/claims/x/expire",
            "/v1/claims/cancel/",
            "/v1/users",
            "/v1/users/u",
            "/v1/users//claims",
            "/v1/users/u/v/claims",
            "/v1/carts",
            "/v1/carts/",
            "/v1/carts//items",
            "/v1/carts/u/v/items",
            "/v1/carts/u/lines",
            "/v1/campaigns/sale/claims:batch",
            "/admin/v1/campaigns",
            "/metrics",
            "/v1/claims/%ff",
        ] {
            assert!(matches!(route(path), Err(Problem::NotFound)), "{path}");
        }
    }

    #[test]
    fn a_parameter_is_given_once_and_strangers_are_ignored() {
        let query = Query::new(Some("wait=3&utm_source=x&cursor=a%3Db&&=&wait2=9"));
        let [wait, cursor, limit] = query.read(["wait", "cursor", "limit"]).unwrap();
        assert_eq!((wait.as_deref(), cursor.as_deref(), limit), (Some("3"), Some("a=b"), None));
        let twice = Query::new(Some("wait=3&wait=3")).read(["wait"]);
        assert!(matches!(twice, Err(Problem::Invalid { field, .. }) if field == "wait"));
        assert_eq!(Query::new(None).read(["wait"]).unwrap(), [None]);
    }

    #[test]
    fn a_caller_has_what_its_tags_name() {
        for (tags, has) in [
            (&[][..], false),
            (&["\"2\""], true),
            (&["W/\"2\""], true),
            (&["\"1\", \"2\""], true),
            (&["\"1\"", "\"2\""], true),
            (&["*"], true),
            (&["\"1\""], false),
            (&["2"], false),
            (&["\"22\""], false),
        ] {
            let headers: HeaderMap = tags.iter().map(|t| (header::IF_NONE_MATCH, t.parse().unwrap())).collect();
            assert_eq!(has_etag(&headers, "\"2\""), has, "{tags:?}");
        }
    }
}
