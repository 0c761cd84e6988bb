//! One connection: its version is sniffed, and each of its requests is checked and answered; every answer carries an
//! `X-Request-Id`.
//!
//! What a request asks for is `Routes`' business, so that both listeners share everything below it.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, Version};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite};

use super::admin::{self, AdminBody};
use super::body::{Piece, Whole};
use super::connection::{Entered, Meter, Unsent};
use super::reply::{Problem, Reply, X_REQUEST_ID};
use super::server::Thread;
use super::waits::Waits;
use super::wire::{self, Wire};
use super::{Door, cors, routes};
use crate::limits;

/// One connection, as its requests see it.
pub struct Session {
    thread: Rc<Thread>,
    meter: Rc<Meter>,
    peer: IpAddr,
}

impl Session {
    /// The way into the engine.
    pub fn door(&self) -> &Rc<Door> {
        self.thread.door()
    }

    /// Reads that wait for the drain.
    pub fn waits(&self) -> &Rc<Waits> {
        self.thread.waits()
    }

    /// The other end.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }
}

/// A request, on the heap.
pub(super) type Asked = Box<Request<Incoming>>;

/// What a listener answers.
pub(super) trait Routes: 'static {
    type Body: Body<Data = Piece, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static;
    const IS_PUBLIC: bool;
    async fn answer(session: &Rc<Session>, request: Asked) -> Result<Response<Self::Body>, Problem>;
    fn whole(reply: Reply) -> Response<Self::Body>;
    /// The body, watched until it is sent.
    fn watched(body: Self::Body, unsent: Unsent) -> Self::Body;
}

/// The buyers' and services' listener.
pub(super) struct Public;

impl Routes for Public {
    type Body = Whole;
    const IS_PUBLIC: bool = true;

    async fn answer(session: &Rc<Session>, request: Asked) -> Result<Reply, Problem> {
        routes::public(session, request).await
    }

    fn whole(reply: Reply) -> Reply {
        reply
    }

    fn watched(body: Whole, unsent: Unsent) -> Whole {
        body.watched(unsent)
    }
}

/// The operator's listener.
pub(super) struct Admin;

impl Routes for Admin {
    type Body = AdminBody;
    const IS_PUBLIC: bool = false;

    async fn answer(session: &Rc<Session>, request: Asked) -> Result<Response<AdminBody>, Problem> {
        admin::answer(session.door(), *request).await
    }

    fn whole(reply: Reply) -> Response<AdminBody> {
        reply.map(AdminBody::Left)
    }

    fn watched(body: AdminBody, unsent: Unsent) -> AdminBody {
        match body {
            AdminBody::Left(whole) => AdminBody::Left(whole.watched(unsent)),
            // Made page by page as it is read, for operators: however long it takes, one page of it is in memory.
            export => export,
        }
    }
}

/// One connection from its first byte to its last. Errors are the connection's own and end it.
pub(super) async fn converse<R: Routes, S>(thread: Rc<Thread>, mut stream: S, peer: IpAddr, entered: Entered)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let meter = entered.meter.clone();
    let Ok((first, is_http2)) = wire::sniff(&mut stream, &meter).await else { return };
    let wire = Wire::new(stream, first, thread.door().clone(), meter.clone(), thread.scratch(), R::IS_PUBLIC);
    let session = Rc::new(Session { thread: thread.clone(), meter: meter.clone(), peer });
    let service = service_fn(move |request| respond::<R>(session.clone(), Box::new(request)));
    if !is_http2 {
        // A stopping thread closes it: at rest by the sweep, under way by `Connection: close`.
        let _ = http1().serve_connection(wire, service).await;
        return;
    }
    meter.speaks_frames();
    let mut connection = pin!(http2().serve_connection(wire, service));
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        _ = thread.stopped() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // One write a reply: head and body are copied together, which for a few hundred bytes is cheaper than writev.
    // `pipeline_flush` stays off: it holds an answer back while the next request is incomplete, for ever if its client waits
    // for the answer first, and it loses hyper's own refusals.
    builder.max_buf_size(limits::HEAD_MAX).half_close(false).writev(false);
    builder
}

fn http2() -> http2::Builder<LocalExec> {
    let mut builder = http2::Builder::new(LocalExec);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::H2_STREAMS_MAX)
        .max_pending_accept_reset_streams(limits::H2_RESETS_MAX)
        .max_local_error_reset_streams(limits::H2_ERRORS_MAX)
        .max_send_buf_size(limits::REPLY_PIECE)
        .max_header_list_size(limits::HEAD_MAX as u32)
        .initial_stream_window_size(limits::BATCH_BODY_MAX as u32)
        .initial_connection_window_size(limits::H2_WINDOW)
        .keep_alive_interval(Duration::from_millis(limits::H2_PING_MILLIS))
        .keep_alive_timeout(Duration::from_millis(limits::H2_PING_MILLIS));
    builder
}

/// Runs HTTP/2's streams on the connection's own thread.
#[derive(Debug, Clone, Copy)]
struct LocalExec;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExec {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// One request. It never fails: what goes wrong is an answer.
///
/// The request is on the heap and goes into `answer`: futures are moved when they are made, nested ones once more each, so
/// this one must be small; and a claim gives its request's memory back before it waits for its outcome.
async fn respond<R: Routes>(session: Rc<Session>, request: Asked) -> Result<Response<R::Body>, Infallible> {
    let _busy = session.meter.begin();
    let given_id = given_request_id(request.headers());
    let is_http1 = request.version() < Version::HTTP_2;
    let cors = session.door().app.cors.as_ref().filter(|_| R::IS_PUBLIC);
    let origin = cors.and_then(|cors| cors.allowed(request.headers()));
    let sound = check_message(&session.meter, &request);
    let is_unsound = sound.is_err();
    let result = match sound {
        Ok(()) if session.meter.is_crowded(session.thread.requests_max()) => Err(Problem::Overloaded),
        Ok(()) => match cors.and_then(|cors| cors.preflight(request.method(), request.headers())) {
            None => R::answer(&session, request).await,
            Some(leave) => Ok(R::whole(leave)),
        },
        Err(problem) => Err(problem),
    };
    let mut reply = result.unwrap_or_else(|problem| {
        session.door().app.buffer.metrics().refusals[problem.index()].add(1);
        R::whole(problem.into_reply())
    });
    let id = given_id.unwrap_or_else(|| session.door().request_id());
    reply.headers_mut().insert(X_REQUEST_ID, id);
    if cors.is_some() {
        cors::permit(origin, &mut reply);
    }
    session.door().answered(R::IS_PUBLIC, &reply);
    // Where the bounds of a message are in doubt, nothing behind it can be trusted to be one.
    if is_http1 && (is_unsound || session.thread.is_stopping()) {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if !is_http1 {
        reply = reply.map(|body| R::watched(body, session.meter.sends()));
    }
    Ok(reply)
}

/// The caller's id for the request, if it is one.
fn given_request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let given = headers.get(X_REQUEST_ID).filter(|id| {
        (1..=limits::REQUEST_ID_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    // A copy: a clone would hold on to the buffer that the request came in.
    given.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok())
}

/// What HTTP itself demands of a message and hyper leaves to us (RFC 9112, sections 3.2 and 6.1).
fn check_message(meter: &Meter, request: &Request<Incoming>) -> Result<(), Problem> {
    if request.version() >= Version::HTTP_2 {
        return Ok(());
    }
    let length = request.body().size_hint().exact();
    let has_length = match length {
        Some(0) => request.headers().contains_key(header::CONTENT_LENGTH),
        other => other.is_some(),
    };
    if meter.hides_length(has_length, length.is_none()) {
        return Err(Problem::invalid("Content-Length", "given together with Transfer-Encoding; expected one of them"));
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(Problem::invalid("Host", "given twice; expected once")),
        (None, None) if request.version() == Version::HTTP_11 => {
            Err(Problem::invalid("Host", "missing; expected once"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What comes back within a moment of `sent`, from a server that says "hi" to every request.
    async fn answers(sent: &[u8]) -> String {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let hi = service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hi")))));
        let serving = http1().serve_connection(TokioIo::new(theirs), hi);
        let (mut read, mut write) = tokio::io::split(ours);
        let mut text = Vec::new();
        let talk = async {
            write.write_all(sent).await.unwrap();
            // The writing half stays open: the client waits for its answer.
            let mut piece = [0; 4096];
            while let Ok(Ok(n @ 1..)) = tokio::time::timeout(Duration::from_millis(100), read.read(&mut piece)).await {
                text.extend_from_slice(&piece[..n]);
            }
        };
        tokio::select! {
            () = talk => {}
            _ = serving => {}
        }
        let mut piece = [0; 4096];
        while let Ok(Ok(n @ 1..)) = tokio::time::timeout(Duration::from_millis(100), read.read(&mut piece)).await {
            text.extend_from_slice(&piece[..n]);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
        let text = answers(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTT").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("hi"), "{text}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn hyper_answers_heads_that_it_cannot_read() {
        let long = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "x".repeat(limits::HEAD_MAX));
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: x\r\n".repeat(101));
        for (sent, status) in
            [("nonsense\r\n\r\n", "400"), ("GET / HTTP/1.1\r\nHo st: x\r\n\r\n", "400"), (&long, "431"), (&many, "431")]
        {
            let text = answers(sent.as_bytes()).await;
            assert_eq!(text.get(..12), Some(format!("HTTP/1.1 {status}").as_str()), "{sent:.40}");
            // Just what is recognised and replaced on the way out.
            assert!(text.ends_with("\r\n\r\n"), "{text}");
        }
    }
}
