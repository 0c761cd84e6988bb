//! An answer's body that is there as a whole, and leaves in pieces where it is long: whatever a connection copies of it is
//! bounded, and the rest stays where it is.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::limits;

/// Bytes, in pieces of at most [`limits::REPLY_PIECE`].
#[derive(Debug, Clone, Default)]
pub struct Whole(Bytes);

impl Whole {
    /// All of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let rest = &mut self.0;
        Poll::Ready(match rest.len() {
            0 => None,
            1..=limits::REPLY_PIECE => Some(Ok(Frame::data(std::mem::take(rest)))),
            _ => Some(Ok(Frame::data(rest.split_to(limits::REPLY_PIECE)))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
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
            let data = frame.into_data().unwrap();
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
