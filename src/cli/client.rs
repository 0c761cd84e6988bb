//! The smallest HTTP/1.1 client that serves the admin listener: one request a connection, TCP or a Unix socket.
//!
//! - A request that changes something carries an idempotency key; when its connection breaks it is sent once more with
//!   the same key, so that a lost answer can't make it count twice.
//! - Every attempt has [`DEADLINE`]. One that passed is not repeated: the engine may be at it still, and the operator
//!   is told the key with which to ask again.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rand::TryRngCore as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::{AdminAddr, Config, Secret};

/// Of one attempt, from connecting to the last byte. A person waits; the slowest admin call is a restock behind a sync.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of an answer: 100,000 campaigns of 600 bytes.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// Where the admin listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `host:port`; a name is resolved.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Target {
    /// Reads `host:port`, `http://host:port` or `unix:/path`.
    ///
    /// # Errors
    /// Anything else, `https://` among it: the admin listener speaks plain HTTP.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let expected = "expected host:port, http://host:port or unix:/path";
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                bail!("--admin {text:?}: {expected}");
            }
            return Ok(Self::Unix(path.into()));
        }
        let authority = text.strip_prefix("http://").unwrap_or(text);
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let sound = authority.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|p| p != 0)
        });
        if !sound {
            bail!("--admin {text:?}: {expected}");
        }
        Ok(Self::Tcp(authority.to_owned()))
    }

    /// The configured one; a listener on all addresses is reached by loopback.
    ///
    /// # Errors
    /// Port 0, which the system replaces by one that the configuration doesn't know.
    pub fn configured(config: &Config) -> anyhow::Result<Self> {
        let mut addr = match &config.ingest.admin_listen {
            AdminAddr::Unix(path) => return Ok(Self::Unix(path.clone())),
            AdminAddr::Tcp(addr) => *addr,
        };
        if addr.port() == 0 {
            bail!("ingest.admin_listen = \"{addr}\" has no fixed port; name the listener with --admin");
        }
        if addr.ip().is_unspecified() {
            let loopback: std::net::IpAddr =
                if addr.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
            addr.set_ip(loopback);
        }
        Ok(Self::Tcp(addr.to_string()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How a command reaches the admin listener, and in whose name.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// The admin listener: host:port, http://host:port or unix:/path. Default: ingest.admin_listen.
    #[arg(long, global = true, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Who does it, for the journal. Default: $USER.
    #[arg(long, global = true, value_name = "NAME")]
    pub actor: Option<String>,
}

impl AdminArgs {
    /// The client that they and the configuration say.
    ///
    /// # Errors
    /// An address or a name that can't be used.
    pub fn client(&self, config: Config) -> anyhow::Result<Client> {
        let target = match &self.admin {
            Some(text) => Target::parse(text)?,
            None => Target::configured(&config)?,
        };
        let name = self.actor.clone().or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "unknown".to_owned());
        let most = crate::limits::ACTOR_MAX;
        if name.is_empty() || name.len() > most || !name.bytes().all(|b| b.is_ascii_graphic()) {
            bail!("--actor {name:?}: expected 1 to {most} visible ASCII characters");
        }
        Ok(Client { target, token: config.ingest.admin_token, actor: name })
    }
}

/// Talks to one admin listener in one operator's name.
#[derive(Debug, Clone)]
pub struct Client {
    /// Where to.
    pub target: Target,
    /// Sent as a bearer token unless empty.
    pub token: Secret,
    /// Who does it, for the journal.
    pub actor: String,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    body: Bytes,
    key: Option<String>,
}

impl Call {
    /// Reads.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: Bytes::new(), key: None }
    }

    /// Makes something, once a `key`.
    pub fn post(path: impl Into<String>, body: &Value, key: String) -> Self {
        Self { method: Method::POST, path: path.into(), body: Bytes::from(body.to_string()), key: Some(key) }
    }

    /// Changes something, once a `key`.
    pub fn patch(path: impl Into<String>, body: &Value, key: String) -> Self {
        Self { method: Method::PATCH, ..Self::post(path, body, key) }
    }
}

/// A key that nobody else draws: 128 random bits.
///
/// # Errors
/// No randomness from the system.
pub fn new_idempotency_key() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).context("the system gave no random bytes")?;
    Ok(format!("cli-{:032x}", u128::from_be_bytes(bytes)))
}

/// Why an attempt gave no answer.
#[derive(Debug, thiserror::Error)]
enum Attempt {
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("the connection broke before the answer was complete")]
    Broken(#[source] hyper::Error),
    #[error("the answer is longer than {ANSWER_MAX} bytes")]
    TooLong,
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
    #[error("cannot make the request")]
    Request(#[source] hyper::http::Error),
}

impl Client {
    /// Sends `call` and returns the JSON of its success.
    ///
    /// # Errors
    /// No connection, no answer in time, an answer that is not Forebay's, or the engine's refusal as a sentence.
    pub fn call(&self, call: &Call) -> anyhow::Result<Value> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.ask(call))
    }

    /// The same within a runtime.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn ask(&self, call: &Call) -> anyhow::Result<Value> {
        let answer = match self.attempt(call).await {
            Err(Attempt::Broken(_)) => self.attempt(call).await,
            first => first,
        };
        let (status, body) = answer.map_err(|e| self.explain(e, call))?;
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        match json {
            Some(json) if (200..300).contains(&status) => Ok(json),
            Some(problem) if problem.get("type").is_some() => bail!("{}", sentence(status, &problem)),
            _ => {
                bail!("{} answered {status}, but not as Forebay's admin listener does; is --admin right?", self.target)
            }
        }
    }

    async fn attempt(&self, call: &Call) -> Result<(u16, Bytes), Attempt> {
        let exchange = async {
            match &self.target {
                Target::Tcp(authority) => {
                    let stream = TcpStream::connect(authority.as_str()).await.map_err(Attempt::Connect)?;
                    self.exchange(stream, call).await
                }
                Target::Unix(path) => {
                    let stream = UnixStream::connect(path).await.map_err(Attempt::Connect)?;
                    self.exchange(stream, call).await
                }
            }
        };
        tokio::time::timeout(DEADLINE, exchange).await.map_err(|_| Attempt::Deadline)?
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        call: &Call,
    ) -> Result<(u16, Bytes), Attempt> {
        let request = self.request(call).map_err(Attempt::Request)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Attempt::Broken)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(Attempt::Broken)?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|e| match e
                .downcast::<hyper::Error>()
            {
                Ok(broken) => Attempt::Broken(*broken),
                Err(other) => {
                    debug_assert!(other.is::<LengthLimitError>());
                    Attempt::TooLong
                }
            })?;
            Ok((status, body.to_bytes()))
        };
        // The connection only moves bytes while it is polled; how it ends shows in the answer.
        let drive = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = answer => answer,
            () = drive => Err(Attempt::Deadline),
        }
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let host = match &self.target {
            Target::Tcp(authority) => authority.as_str(),
            Target::Unix(_) => "localhost",
        };
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(call.path.as_str())
            .header(HOST, host)
            .header("X-Forebay-Actor", self.actor.as_str());
        if !self.token.is_empty() {
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", self.token.expose()))?;
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
        if let Some(key) = &call.key {
            request = request.header("Idempotency-Key", key.as_str()).header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(call.body.clone()))
    }

    fn explain(&self, attempt: Attempt, call: &Call) -> anyhow::Error {
        let advice = match (&attempt, &call.key) {
            (Attempt::Connect(_), _) => " (is the engine running?)".to_owned(),
            (Attempt::Broken(_) | Attempt::Deadline | Attempt::TooLong, Some(key)) => {
                format!(
                    " (it may have been done; the same command with --idempotency-key {key} tells and never repeats it)"
                )
            }
            _ => String::new(),
        };
        let context = format!("{}: {attempt}{advice}", self.target);
        match attempt {
            Attempt::Connect(cause) => anyhow::Error::new(cause).context(context),
            Attempt::Broken(cause) => anyhow::Error::new(cause).context(context),
            Attempt::Request(cause) => anyhow::Error::new(cause).context(context),
            Attempt::TooLong | Attempt::Deadline => anyhow::Error::msg(context),
        }
    }
}

/// A refusal (RFC 9457) in words: what is wrong, which field, and the slug to look up.
fn sentence(status: u16, problem: &Value) -> String {
    let text = |name: &str| problem.get(name).and_then(Value::as_str).map(clean);
    let slug = text("type").unwrap_or_default();
    let slug = slug.rsplit('/').next().unwrap_or_default();
    let mut out = text("detail").or_else(|| text("title")).unwrap_or_else(|| "refused".to_owned());
    if let Some(field) = text("field") {
        out = format!("{field}: {out}");
    }
    if let Some(state) = text("state") {
        out = format!("{out} (its state is {state})");
    }
    format!("{out} [{status} {slug}]")
}

/// Without control characters, which could move a terminal's cursor.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    /// Answers connection after connection with one of `answers` (none: hangs up), and returns what it was sent.
    fn serve(answers: Vec<Option<String>>) -> (Client, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::Tcp(listener.local_addr().unwrap().to_string());
        let thread = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 4096];
                let mut got = Vec::new();
                let complete =
                    |got: &[u8]| got.ends_with(if got.starts_with(b"GET") { b"\r\n\r\n".as_slice() } else { b"}" });
                while !complete(&got) {
                    let n = stream.read(&mut buffer).unwrap();
                    assert!(n > 0, "the client hung up early");
                    got.extend_from_slice(&buffer[..n]);
                }
                requests.push(String::from_utf8(got).unwrap());
                if let Some(answer) = answer {
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
            requests
        });
        (Client { target, token: Secret::new("a-token-of-some-length"), actor: "ada".into() }, thread)
    }

    fn answer(status: &str, body: &str) -> Option<String> {
        Some(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }

    #[test]
    fn a_broken_connection_is_tried_once_more_with_the_same_key() {
        let (client, server) = serve(vec![None, answer("200 OK", "{\"id\":\"a\"}")]);
        let call = Call::patch("/admin/v1/campaigns/a", &serde_json::json!({"add_stock": 5}), "k1".into());
        assert_eq!(client.call(&call).unwrap()["id"], "a");
        let requests = server.join().unwrap();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0], requests[1]);
        let lower = requests[0].to_ascii_lowercase();
        assert!(lower.starts_with("patch /admin/v1/campaigns/a http/1.1\r\n"), "{lower}");
        for header in ["idempotency-key: k1", "x-forebay-actor: ada", "authorization: bearer a-token-of-some-length"] {
            assert!(lower.contains(header), "{lower}");
        }
        assert!(lower.ends_with("{\"add_stock\":5}"), "{lower}");
    }

    #[test]
    fn two_broken_connections_are_told_with_the_key_to_ask_again() {
        let (client, server) = serve(vec![None, None]);
        let call = Call::patch("/admin/v1/campaigns/a", &serde_json::json!({"add_stock": 5}), "k2".into());
        let error = client.call(&call).unwrap_err().to_string();
        assert!(error.contains("broke") && error.contains("--idempotency-key k2"), "{error}");
        assert_eq!(server.join().unwrap().len(), 2);
    }

    #[test]
    fn a_problem_becomes_a_sentence() {
        let body = r#"{"type":"https://x/problems/invalid-request","title":"Invalid","status":400,"detail":"expected 1 or more","field":"stock"}"#;
        let (client, server) = serve(vec![answer("400 Bad Request", body)]);
        let error = client.call(&Call::get("/admin/v1/campaigns")).unwrap_err().to_string();
        assert_eq!(error, "stock: expected 1 or more [400 invalid-request]");
        server.join().unwrap();
    }

    #[test]
    fn a_stranger_behind_the_address_is_recognised() {
        let (client, server) = serve(vec![answer("200 OK", "<html>")]);
        let error = client.call(&Call::get("/admin/v1/campaigns")).unwrap_err().to_string();
        assert!(error.contains("is --admin right?"), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn nobody_behind_the_address_is_a_clear_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::Tcp(listener.local_addr().unwrap().to_string());
        drop(listener);
        let client = Client { target, token: Secret::default(), actor: "ada".into() };
        let error = client.call(&Call::get("/admin/v1/campaigns")).unwrap_err().to_string();
        assert!(error.contains("cannot connect (is the engine running?)"), "{error}");
    }

    #[test]
    fn admin_addresses_are_read_or_refused() {
        assert_eq!(Target::parse("unix:/run/f.sock").unwrap(), Target::Unix("/run/f.sock".into()));
        for text in ["localhost:8081", "http://localhost:8081", "http://localhost:8081/"] {
            assert_eq!(Target::parse(text).unwrap(), Target::Tcp("localhost:8081".into()), "{text}");
        }
        assert_eq!(Target::parse("[::1]:9").unwrap(), Target::Tcp("[::1]:9".into()));
        for text in ["", "localhost", "https://localhost:1", "unix:rel", "a:0", "a:b", "http://a:1/x", ":1", "u@h:1"] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }
}
