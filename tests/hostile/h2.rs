//! HTTP/2 as no client should speak it: frames and header blocks byte by byte, and what the server makes of them.
//!
//! Header blocks are written as literals without compression, so that every byte of a field is the caller's to choose. What
//! comes back is told by its frames and by the JSON in its body, so that nothing has to be decompressed.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_of(payload.len(), kind, flags, stream, payload)
}

/// A frame that says that it is as long as `len`.
pub fn frame_of(len: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (len as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A header block of literals.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: impl IntoIterator<Item = (N, V)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        text(&mut out, name.as_ref());
        text(&mut out, value.as_ref());
    }
    out
}

/// A text of a header block (RFC 7541, section 5.2).
fn text(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text.len();
    if rest < 127 {
        out.push(rest as u8);
    } else {
        out.push(127);
        rest -= 127;
        while rest >= 128 {
            out.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text);
}

/// The frames of a header block, in as many as it takes.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    const ROOM: usize = 16_384;
    let pieces: Vec<_> = if block.is_empty() { vec![&[][..]] } else { block.chunks(ROOM).collect() };
    let last = pieces.len() - 1;
    let mut out = Vec::new();
    for (no, piece) in pieces.into_iter().enumerate() {
        let kind = if no == 0 { HEADERS } else { CONTINUATION };
        let own = if no == 0 { flags } else { 0 };
        out.extend(frame(kind, own | if no == last { END_HEADERS } else { 0 }, stream, piece));
    }
    out
}

/// The fields of a request without a body.
pub fn get(path: &str) -> Vec<(String, String)> {
    fields("GET", path, &[])
}

/// The fields of a request: the four that come first, and others.
pub fn fields(method: &str, path: &str, others: &[(&str, &str)]) -> Vec<(String, String)> {
    let first = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "forebay.test")];
    first.iter().chain(others).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

/// What the server made of a request or of a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// An answer's body.
    Answer(Value),
    /// The stream was reset, with this code.
    Reset(u32),
    /// The connection was ended, with this code.
    End(u32),
    /// It was closed without a word.
    Closed,
    /// Nothing came.
    Silence,
}

impl Outcome {
    /// An answer's status and slug, where it is a problem.
    pub fn problem(&self) -> Option<(u64, String)> {
        let Self::Answer(body) = self else { return None };
        let slug = body["type"].as_str()?.rsplit(':').next()?.to_owned();
        Some((body["status"].as_u64()?, slug))
    }
}

/// A frame that came.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection.
pub struct Peer {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Peer {
    /// Connects and sends nothing.
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        // Who floods and reads nothing is blocked before long.
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        Ok(Self { stream, seen: Vec::new() })
    }

    /// Connects and greets, with these settings.
    pub fn greet(addr: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Self> {
        let mut peer = Self::connect(addr)?;
        peer.send(&[PREFACE, &settings_frame(settings)].concat())?;
        Ok(peer)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame that comes before `until`; none where the connection ends or the time does.
    ///
    /// # Errors
    /// `TimedOut` where the time ended.
    pub fn frame(&mut self, until: Instant) -> io::Result<Option<Frame>> {
        loop {
            if let Some(head) = self.seen.first_chunk::<9>() {
                let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                if self.seen.len() >= 9 + len {
                    let payload = self.seen[9..9 + len].to_vec();
                    self.seen.drain(..9 + len);
                    return Ok(Some(Frame { kind, flags, stream, payload }));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(n) => self.seen.extend_from_slice(&bytes[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(_) => return Ok(None),
            }
        }
    }

    /// What becomes of `stream` within `time`; its windows are widened as its answer comes.
    pub fn outcome(&mut self, stream: u32, time: Duration) -> Outcome {
        let until = Instant::now() + time;
        let mut body = Vec::new();
        loop {
            let frame = match self.frame(until) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Outcome::Closed,
                Err(_) => return Outcome::Silence,
            };
            let code = |at: usize| frame.payload.get(at..at + 4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]]));
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => drop(self.send(&self::frame(SETTINGS, ACK, 0, &[]))),
                PING if frame.flags & ACK == 0 => drop(self.send(&self::frame(PING, ACK, 0, &frame.payload))),
                GOAWAY => return Outcome::End(code(4).unwrap_or(u32::MAX)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(code(0).unwrap_or(u32::MAX)),
                DATA | HEADERS if frame.stream == stream => {
                    if frame.kind == DATA {
                        body.extend_from_slice(&frame.payload);
                    }
                    if frame.flags & END_STREAM != 0 {
                        return Outcome::Answer(serde_json::from_slice(&body).unwrap_or_default());
                    }
                }
                _ => {}
            }
        }
    }
}

/// A SETTINGS frame.
pub fn settings_frame(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        settings.iter().flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect();
    frame(SETTINGS, 0, 0, &payload)
}
