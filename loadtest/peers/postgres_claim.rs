//! What a shop does that asks its database for every claim: the front end of `bare_hyper`, and behind it one PostgreSQL
//! transaction a claim, in one round trip, before the answer.
//!
//! What the transaction is, a function in the database says (`postgres/*.sql`): a hot stock row, or a row a unit taken with SKIP
//! LOCKED. It is the same for both here: `claim(campaign, buyer, quantity)` tells `accepted`, `already-claimed` or `sold-out`.
//!
//! Usage: `postgres_claim URL CONNECTIONS [PORT]` (0, the default, picks a free one); prints the port it bound, alone on its line.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The longest body that is read, in bytes.
const MAX_BODY: u64 = 16 * 1024;

/// What is asked of the database, once a claim: prepared by each connection when it is first used.
const CLAIM: &str = "SELECT claim($1, $2, $3)";

#[derive(Deserialize)]
struct Body {
    user: String,
    #[serde(default = "one")]
    quantity: i32,
}

fn one() -> i32 {
    1
}

/// A claim on its way to a connection; what the database said comes back.
struct Asked {
    campaign: String,
    body: Body,
    answer: oneshot::Sender<Result<String, sqlx::Error>>,
}

/// The claims that wait for a connection. Connections take from it, so that a caller who hangs up never breaks one off in the
/// middle of a transaction.
struct Waiting {
    claims: Mutex<VecDeque<Asked>>,
    count: Semaphore,
}

impl Waiting {
    fn put(&self, asked: Asked) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).push_back(asked);
        self.count.add_permits(1);
    }

    async fn take(&self) -> Option<Asked> {
        self.count.acquire().await.ok()?.forget();
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

async fn work(mut connection: PgConnection, waiting: Arc<Waiting>) {
    while let Some(Asked { campaign, body, answer }) = waiting.take().await {
        let claim = sqlx::query_scalar(CLAIM).bind(campaign).bind(body.user).bind(body.quantity);
        // Whoever asked may be gone; the transaction is made all the same.
        let _ = answer.send(claim.fetch_one(&mut connection).await);
    }
}

fn reply(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn problem(status: StatusCode, name: &str) -> Response<Full<Bytes>> {
    reply(status, format!(r#"{{"type":"{name}","status":{}}}"#, status.as_u16()))
}

/// `/v1/campaigns/{campaign}/claims`
fn campaign(path: &str) -> Option<&str> {
    path.strip_prefix("/v1/campaigns/")?.strip_suffix("/claims").filter(|name| !name.contains('/'))
}

async fn answer(request: Request<Incoming>, waiting: Arc<Waiting>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let Some(campaign) = campaign(request.uri().path()).map(str::to_owned) else {
        return Ok(problem(StatusCode::NOT_FOUND, "not-found"));
    };
    if request.headers().get("content-length").and_then(|n| n.to_str().ok()?.parse().ok()).unwrap_or(0) > MAX_BODY {
        return Ok(problem(StatusCode::PAYLOAD_TOO_LARGE, "too-large"));
    }
    let bytes = request.into_body().collect().await?.to_bytes();
    let Ok(body) = serde_json::from_slice::<Body>(&bytes) else {
        return Ok(problem(StatusCode::BAD_REQUEST, "bad-request"));
    };
    let (sender, told) = oneshot::channel();
    waiting.put(Asked { campaign, body, answer: sender });
    Ok(match told.await {
        Ok(Ok(outcome)) if outcome == "accepted" => reply(StatusCode::ACCEPTED, r#"{"status":"accepted"}"#),
        Ok(Ok(outcome)) => problem(StatusCode::CONFLICT, &outcome),
        Ok(Err(error)) => {
            eprintln!("postgres_claim: {error}");
            problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable")
        }
        Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    })
}

async fn serve(url: &str, connections: usize, port: u16) -> anyhow::Result<Infallible> {
    let waiting = Arc::new(Waiting { claims: Mutex::default(), count: Semaphore::new(0) });
    for _ in 0..connections {
        let connection = PgConnection::connect(url).await.with_context(|| format!("connecting to {url}"))?;
        tokio::spawn(work(connection, waiting.clone()));
    }
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", listener.local_addr()?.port())?;
    stdout.flush()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let waiting = waiting.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, waiting.clone()));
            // A load generator that hangs up in the middle of a request is the normal end of a run, not an error.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (url, connections, port) = match arguments.as_slice() {
        [url, connections] => (url, connections, "0"),
        [url, connections, port] => (url, connections, port.as_str()),
        _ => anyhow::bail!("usage: postgres_claim URL CONNECTIONS [PORT]"),
    };
    let connections: usize = connections
        .parse()
        .ok()
        .filter(|n| (1..=1_000).contains(n))
        .with_context(|| format!("connections {connections:?}: expected a number from 1 to 1000"))?;
    let port = port.parse().map_err(|e| anyhow::anyhow!("port {port:?}: {e}; expected 0 to 65535"))?;
    // Timers too: sqlx needs them to connect.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(serve(url, connections, port))? {}
}
