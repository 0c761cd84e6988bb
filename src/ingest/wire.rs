//! The bytes of a connection, on their way to hyper and back.
//!
//! - **Length and chunks in one request are refused.** hyper drops `Content-Length` silently where `Transfer-Encoding` is
//!   present, so nobody behind it could tell. The lines that begin with `content-l` are counted as the bytes come in,
//!   and requests with a length as they go out: a chunked request that finds one line too many has two lengths. (It also
//!   finds one too many behind a body that has such a line in it, or before a pipelined request that is in already: then
//!   it is refused without need, which is the safe side.)
//! - **hyper's own refusals get a body.** It answers an unreadable head by itself, with nothing in it; those bytes are
//!   replaced on their way out by the problem of the contract.
//! - **HTTP/2 is told by its preface**, read within the deadline of the first byte; what was read goes to hyper first.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyper::body::Body;
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::Door;
use super::connection::Meter;
use super::reply::{Problem, X_REQUEST_ID};
use crate::limits;

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first bytes of a connection, and whether they are HTTP/2's preface.
///
/// # Errors
/// The connection's; it may just have been opened and closed.
pub async fn sniff<S: AsyncRead + Unpin>(stream: &mut S, meter: &Meter) -> io::Result<(Bytes, bool)> {
    let mut first = [0; PREFACE.len()];
    let mut len = 0;
    loop {
        let read = stream.read(&mut first[len..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        meter.received();
        len += read;
        if first[..len] != PREFACE[..len] || len == PREFACE.len() {
            return Ok((Bytes::copy_from_slice(&first[..len]), len == PREFACE.len() && first == *PREFACE));
        }
    }
}

/// A stream as hyper sees it.
pub struct Wire<S> {
    stream: S,
    first: Bytes,
    door: Rc<Door>,
    meter: Rc<Meter>,
    /// The thread's buffer for reads: hyper lends memory that is not initialised, which only unsafe code could pass on.
    scratch: Rc<RefCell<Vec<u8>>>,
    lengths: LengthLines,
    /// What goes out in place of hyper's own refusal.
    instead: Bytes,
    /// Of which listener it is.
    is_public: bool,
}

/// A thread's buffer for [`Wire`].
pub fn scratch() -> Rc<RefCell<Vec<u8>>> {
    Rc::new(RefCell::new(vec![0; limits::HEAD_MAX]))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// `first` has been read from `stream` already.
    pub fn new(
        stream: S,
        first: Bytes,
        door: Rc<Door>,
        meter: Rc<Meter>,
        scratch: Rc<RefCell<Vec<u8>>>,
        is_public: bool,
    ) -> Self {
        let (lengths, instead) = (LengthLines::default(), Bytes::new());
        Self { stream, first, door, meter, scratch, lengths, instead, is_public }
    }

    fn received(&mut self, bytes: &[u8]) {
        self.meter.received();
        self.meter.saw_lengths(self.lengths.count(bytes));
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, bytes);
        match &sent {
            Poll::Ready(Ok(bytes)) => self.meter.wrote(Some(*bytes)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.meter.wrote(None),
        }
        sent
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Read for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.first.is_empty() {
            let first = this.first.split_to(this.first.len().min(buf.remaining()));
            this.received(&first);
            buf.put_slice(&first);
            return Poll::Ready(Ok(()));
        }
        let scratch = this.scratch.clone();
        let mut scratch = scratch.borrow_mut();
        let room = scratch.len().min(buf.remaining());
        let mut read = ReadBuf::new(&mut scratch[..room]);
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
        if !read.filled().is_empty() {
            this.received(read.filled());
            buf.put_slice(read.filled());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Write for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.instead.is_empty() {
            let Some(problem) = bare_refusal(bytes) else { return this.poll_send(cx, bytes) };
            this.door.refused(this.is_public, &problem);
            this.instead = last_words(problem, &this.door);
        }
        // hyper learns that its own bytes went out once ours have.
        while !this.instead.is_empty() {
            let ours = this.instead.clone();
            let sent = ready!(this.poll_send(cx, &ours))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.instead.advance(sent);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            // hyper flushes what is below it only once it has nothing left itself.
            self.meter.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A whole answer as bytes, for a connection that hyper does not serve (any more).
pub fn last_words(problem: Problem, door: &Door) -> Bytes {
    let reply = problem.into_reply();
    let (head, mut body) = reply.into_parts();
    // A body that is whole is ready at once.
    let frame = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
    let data = match frame {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default().into_bytes(),
        _ => Bytes::new(),
    };
    let mut out = BytesMut::with_capacity(512);
    let reason = head.status.canonical_reason().unwrap_or_default();
    out.put_slice(format!("HTTP/1.1 {} {reason}\r\n", head.status.as_str()).as_bytes());
    let id = door.request_id();
    for (name, value) in head.headers.iter().chain([(&X_REQUEST_ID, &id)]) {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(format!("content-length: {}\r\nconnection: close\r\n\r\n", data.len()).as_bytes());
    out.put_slice(&data);
    out.freeze()
}

/// The problem that stands for a head that hyper refused by itself: one of its three statuses, with nothing behind the
/// headers. Ours of the same status always have a body.
fn bare_refusal(bytes: &[u8]) -> Option<Problem> {
    if !bytes.starts_with(b"HTTP/1.1 4") || !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    match bytes.get(9..12)? {
        b"400" => Some(Problem::invalid("", "the request line or a header can't be read as HTTP/1.1")),
        b"414" | b"431" => Some(Problem::HeadersTooLarge),
        _ => None,
    }
}

/// Counts the lines that begin with `content-l`, in any case and across reads.
#[derive(Debug, Default)]
pub(super) struct LengthLines {
    /// The end of the last read, where such a line may have begun.
    tail: [u8; LengthLines::SPAN - 1],
}

impl LengthLines {
    /// A line's end and the letters behind it.
    const SPAN: usize = 1 + b"content-l".len();

    pub(super) fn count(&mut self, bytes: &[u8]) -> u64 {
        const KEPT: usize = LengthLines::SPAN - 1;
        let mut found = Self::within(bytes);
        let head = bytes.len().min(KEPT);
        if head < KEPT || self.tail.contains(&b'\n') {
            let mut seam = [0; 2 * KEPT];
            seam[..KEPT].copy_from_slice(&self.tail);
            seam[KEPT..KEPT + head].copy_from_slice(&bytes[..head]);
            found += Self::within(&seam[..KEPT + head]);
            self.tail.copy_from_slice(&seam[head..head + KEPT]);
        }
        if let Some(last) = bytes.last_chunk() {
            self.tail = *last;
        }
        found
    }

    fn within(bytes: &[u8]) -> u64 {
        let begins = |end: usize| bytes.get(end + 1..end + Self::SPAN).is_some_and(Self::is_length);
        memchr::memchr_iter(b'\n', bytes).filter(|&end| begins(end)).count() as u64
    }

    fn is_length(line: &[u8]) -> bool {
        line.eq_ignore_ascii_case(b"content-l")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_line_is_counted_once_however_the_bytes_are_cut() {
        let text =
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\ncontent-type: a/b\r\n\r\nabc\r\nPOST / \
                     HTTP/1.1\nCONTENT-LENGTH: 1\nX: content-length\r\n\r\n";
        for cut in 1..=text.len() {
            let mut lines = LengthLines::default();
            let found: u64 = text.chunks(cut).map(|piece| lines.count(piece)).sum();
            assert_eq!(found, 2, "in pieces of {cut}");
        }
    }

    #[test]
    fn only_bare_refusals_are_replaced() {
        let bare = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(bare_refusal(bare), Some(Problem::Invalid { .. })));
        let large = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(bare_refusal(large), Some(Problem::HeadersTooLarge)));
        for kept in [
            &b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}"[..],
            b"HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
        ] {
            assert!(bare_refusal(kept).is_none());
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_preface_is_told_from_a_request_even_in_pieces() {
        let table = Rc::new(super::super::connection::Connections::default());
        for (pieces, h2) in [
            (vec![&PREFACE[..]], true),
            (vec![&PREFACE[..3], &PREFACE[3..20], &PREFACE[20..]], true),
            (vec![&b"P"[..], b"OST / HTTP/1.1\r\n"], false),
            (vec![&b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..]], false),
            (vec![&b"G"[..]], false),
        ] {
            let entered = table.enter(None);
            let (mut ours, mut theirs) = tokio::io::duplex(64);
            let whole = pieces.concat();
            let send = async {
                for piece in pieces {
                    tokio::io::AsyncWriteExt::write_all(&mut theirs, piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let (sniffed, ()) = tokio::join!(sniff(&mut ours, &entered.meter), send);
            let (first, verdict) = sniffed.unwrap();
            assert_eq!(verdict, h2);
            assert!(whole.starts_with(&first) && !first.is_empty());
        }
    }
}
