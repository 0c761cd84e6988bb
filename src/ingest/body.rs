//! An answer's body that is there as a whole, and leaves in pieces where it is long: whatever a connection copies of it is
//! bounded, and the rest stays where it is.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use super::connection::Unsent;
use crate::limits;

/// Bytes, in pieces of at most [`limits::REPLY_PIECE`].
#[derive(Debug, Clone, Default)]
pub struct Whole {
    rest: Bytes,
    unsent: Option<Rc<Unsent>>,
}

impl Whole {
    /// All of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self { rest: bytes, unsent: None }
    }

    /// The same, watched until the last of its pieces is dropped.
    pub fn watched(self, unsent: Unsent) -> Self {
        Self { unsent: (!self.rest.is_empty()).then(|| Rc::new(unsent)), ..self }
    }
}

/// A piece of an answer.
#[derive(Debug, Clone, Default)]
pub struct Piece {
    bytes: Bytes,
    /// Held for its `Drop`: the connection keeps a piece until it has sent it or given it up.
    _unsent: Option<Rc<Unsent>>,
}

impl Piece {
    /// Its bytes.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, _unsent: None }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Body for Whole {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        let bytes = match self.rest.len() {
            0 => return Poll::Ready(None),
            1..=limits::REPLY_PIECE => std::mem::take(&mut self.rest),
            _ => self.rest.split_to(limits::REPLY_PIECE),
        };
        Poll::Ready(Some(Ok(Frame::data(Piece { bytes, _unsent: self.unsent.clone() }))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn pieces(len: usize) -> Vec<usize> {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let mut body = Whole::new(bytes.clone().into());
        let (mut sizes, mut seen) = (Vec::new(), Vec::new());
        assert_eq!(body.size_hint().exact(), Some(len as u64));
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()))
        {
            let data = frame.into_data().unwrap().into_bytes();
            sizes.push(data.len());
            seen.extend_from_slice(&data);
        }
        assert!(seen == bytes && body.is_end_stream());
        sizes
    }

    #[test]
    fn a_short_answer_leaves_at_once_and_a_long_one_in_pieces() {
        const PIECE: usize = limits::REPLY_PIECE;
        for (len, expected) in [
            (0, vec![]),
            (1, vec![1]),
            (PIECE, vec![PIECE]),
            (PIECE + 1, vec![PIECE, 1]),
            (3 * PIECE - 1, vec![PIECE, PIECE, PIECE - 1]),
        ] {
            assert_eq!(pieces(len), expected, "{len}");
        }
    }
}
