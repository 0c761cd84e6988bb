//! Which browsers' pages may read the answers of the public listener (Fetch standard, "HTTP-CORS protocol").
//!
//! An origin is taken or not, byte for byte as browsers send it: there are no patterns, and never `*`. Origins that are not
//! listed get answers without permission, so that their browser keeps them from the page; the claim itself is guarded by
//! credentials, never by this. No cookies are in use, so none are allowed for.

use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response};

use super::reply::{self, Reply};

/// What a page's script may read of an answer besides its body.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Location, ETag, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id, Idempotency-Replayed",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
const HEADERS: HeaderValue =
    HeaderValue::from_static("Content-Type, Authorization, Idempotency-Key, If-None-Match, X-Request-Id");
/// Seconds for which a browser need not ask again: most keep it for 600 to 7,200 at best.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
/// Caches must not give one origin's answer to another, nor one without permission to an origin that has it.
const VARY: HeaderValue = HeaderValue::from_static("Origin");

/// The origins that may read answers; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors(Vec<HeaderValue>);

impl Cors {
    /// Takes `origins` as the configuration has them; none where there are none, so that nothing is looked for then.
    pub fn new(origins: &[String]) -> Option<Self> {
        let origins: Vec<_> = origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()).collect();
        (!origins.is_empty()).then_some(Self(origins))
    }

    /// The request's origin, if it is listed.
    pub fn allowed(&self, headers: &HeaderMap) -> Option<&HeaderValue> {
        let mut given = headers.get_all(header::ORIGIN).iter();
        let origin = given.next().filter(|_| given.next().is_none())?;
        self.0.iter().find(|listed| *listed == origin)
    }

    /// The answer to a browser that asks a listed origin's leave beforehand; none for every other request.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Reply> {
        if method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        self.allowed(headers)?;
        let mut reply = reply::no_content();
        let headers = reply.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Some(reply)
    }
}

/// Says in `reply` that the pages of `origin`, if that is one that [`Cors::allowed`] gave, may read it.
pub fn permit<B: Body>(origin: Option<&HeaderValue>, reply: &mut Response<B>) {
    let headers = reply.headers_mut();
    headers.append(header::VARY, VARY);
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use hyper::http::request::Parts;

    use super::*;

    fn cors() -> Cors {
        Cors::new(&["https://shop.example".to_owned(), "http://localhost:3000".to_owned()]).unwrap()
    }

    fn head(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/v1/campaigns");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn preflight(method: &str, headers: &[(&str, &str)]) -> Option<Reply> {
        let head = head(method, headers);
        cors().preflight(&head.method, &head.headers)
    }

    #[test]
    fn without_origins_nothing_is_served() {
        assert_eq!(Cors::new(&[]), None);
    }

    #[test]
    fn only_an_exact_origin_given_once_may_read() {
        for (origins, allowed) in [
            (&["https://shop.example"][..], Some("https://shop.example")),
            (&["http://localhost:3000"], Some("http://localhost:3000")),
            (&[], None),
            (&["null"], None),
            (&["*"], None),
            (&["http://shop.example"], None),
            (&["https://shop.example:443"], None),
            (&["https://shop.example/"], None),
            (&["https://shop.example.evil.test"], None),
            (&["https://a.shop.example"], None),
            (&["https://shop.example", "https://shop.example"], None),
        ] {
            let asked = head("GET", &origins.iter().map(|o| ("origin", *o)).collect::<Vec<_>>()).headers;
            let mut reply = reply::json(Vec::new());
            permit(cors().allowed(&asked), &mut reply);
            let said = reply.headers().get("access-control-allow-origin").map(|v| v.to_str().unwrap());
            assert_eq!(said, allowed, "{origins:?}");
            assert_eq!(reply.headers().contains_key("access-control-expose-headers"), allowed.is_some());
            assert_eq!(reply.headers()["vary"], "Origin", "an answer without permission is kept by caches, too");
        }
    }

    #[test]
    fn a_preflight_is_answered_for_listed_origins_and_nothing_else_is_one() {
        let origin = ("origin", "https://shop.example");
        let method = ("access-control-request-method", "POST");
        let reply = preflight("OPTIONS", &[origin, method]).unwrap();
        assert_eq!((reply.status().as_u16(), &reply.headers()["access-control-max-age"]), (204, &MAX_AGE));
        for (method, headers) in [
            ("POST", &[origin, method][..]),
            ("OPTIONS", &[origin]),
            ("OPTIONS", &[method]),
            ("OPTIONS", &[("origin", "https://evil.test"), method]),
        ] {
            assert!(preflight(method, headers).is_none(), "{method} {headers:?}");
        }
    }
}
