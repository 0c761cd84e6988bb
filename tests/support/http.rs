//! A small blocking HTTP/1.1 client that can also send what no client should.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("no JSON ({e}) in {}: {:?}", self.status, self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The problem's slug; empty where the body is no problem.
    pub fn slug(&self) -> String {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let kind = json["type"].as_str().unwrap_or_default();
        kind.rsplit([':', '/']).next().unwrap_or_default().to_owned()
    }

    /// A text of the body's JSON; empty where it is none.
    pub fn field(&self, name: &str) -> String {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        json[name].as_str().unwrap_or_default().to_owned()
    }

    /// Checks status and slug.
    pub fn expect(&self, status: u16, slug: &str) -> &Self {
        assert_eq!((self.status, self.slug().as_str()), (status, slug), "{:?} {}", self.headers, self.text());
        if !slug.is_empty() {
            assert_eq!(self.header("content-type"), Some("application/problem+json"));
            assert_eq!(self.json()["status"], status);
            assert!(self.json()["title"].is_string(), "{}", self.text());
        }
        self
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// Any method, no body.
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: None }
    }

    /// GET.
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// POST of JSON.
    pub fn post(path: &str, body: &Value) -> Self {
        Self::new("POST", path).body("application/json", body.to_string())
    }

    /// PATCH of JSON.
    pub fn patch(path: &str, body: &Value) -> Self {
        Self::new("PATCH", path).body("application/json", body.to_string())
    }

    /// Adds a body.
    pub fn body(mut self, media: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self.header("Content-Type", media)
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an idempotency key.
    pub fn key(self, key: &str) -> Self {
        self.header("Idempotency-Key", key)
    }

    /// As it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\nHost: forebay.test\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if let Some(body) = &self.body {
            out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(self.body.as_deref().unwrap_or_default());
        out
    }
}

/// One request over a connection of its own.
///
/// # Errors
/// The connection's, `TimedOut` or `WouldBlock` where nothing came for `time`.
pub fn once(addr: SocketAddr, request: &Request, time: Duration) -> io::Result<Answer> {
    let mut connection = Connection::open(addr)?;
    connection.patience(time)?;
    connection.call(request)
}

/// A connection.
pub struct Connection {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Connection {
    /// Connects; reads wait for half a minute.
    ///
    /// # Errors
    /// The system's.
    pub fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        let connection = Self { stream, seen: Vec::new() };
        connection.patience(Duration::from_secs(30))?;
        Ok(connection)
    }

    /// How long a read or a write may wait.
    ///
    /// # Errors
    /// The system's.
    pub fn patience(&self, time: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(time))?;
        self.stream.set_write_timeout(Some(time))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The system's.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Ends the sending side; answers can still be read.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` where the server closed instead.
    pub fn call(&mut self, request: &Request) -> io::Result<Answer> {
        self.send(&request.bytes())?;
        self.answer()?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Reads one answer; none where the server closed before its first byte.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` within an answer, `InvalidData` where it is none.
    pub fn answer(&mut self) -> io::Result<Option<Answer>> {
        let end = loop {
            if let Some(end) = find(&self.seen, b"\r\n\r\n") {
                break end;
            }
            if !self.more()? {
                return if self.seen.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        let head = String::from_utf8_lossy(&self.seen[..end]).into_owned();
        self.seen.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|l| l.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
        let status: u16 = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, head.clone()))?;
        let headers = lines.filter_map(|l| l.split_once(':'));
        let headers: Vec<_> = headers.map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
        if (100..200).contains(&status) {
            return self.answer();
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        answer.body = self.body(&answer)?;
        Ok(Some(answer))
    }

    fn body(&mut self, answer: &Answer) -> io::Result<Vec<u8>> {
        if matches!(answer.status, 204 | 304) {
            return Ok(Vec::new());
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            return self.chunks();
        }
        match answer.header("content-length").map(str::parse::<usize>) {
            Some(Ok(len)) => self.take(len),
            Some(Err(_)) => Err(io::ErrorKind::InvalidData.into()),
            None => {
                while self.more()? {}
                Ok(std::mem::take(&mut self.seen))
            }
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match find(&self.seen, b"\r\n") {
                    Some(end) => break end,
                    None if !self.more()? => return Err(io::ErrorKind::UnexpectedEof.into()),
                    None => {}
                }
            };
            let line = self.take(end + 2)?;
            let size = std::str::from_utf8(&line[..end]).ok().and_then(|l| usize::from_str_radix(l.trim(), 16).ok());
            let size = size.ok_or(io::ErrorKind::InvalidData)?;
            body.extend(self.take(size)?);
            self.take(2)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.seen.len() < len {
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.seen.drain(..len).collect())
    }

    /// Reads what is there; whether anything was.
    fn more(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 16 * 1024];
        let n = self.stream.read(&mut bytes)?;
        self.seen.extend_from_slice(&bytes[..n]);
        Ok(n > 0)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}
