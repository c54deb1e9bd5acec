//! One bidirectional stream.
//!
//! Closing finishes our direction; the other one stays readable. Dropping finishes ours as well,
//! and tells the peer to stop sending if not all of its direction was read: its writes then fail.
//! An end is therefore no proof that a message is whole; messages carry their length.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};

/// A stream of a [`super::Connection`].
#[derive(Debug)]
pub struct Stream {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    /// Finishing twice is an error for quinn; closing twice must be none for us.
    closed: bool,
}

impl Stream {
    pub(super) fn new((send, recv): (quinn::SendStream, quinn::RecvStream)) -> Self {
        Self { send, recv, closed: false }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        let result = AsyncWrite::poll_close(Pin::new(&mut self.send), cx);
        self.closed = matches!(result, Poll::Ready(Ok(())));
        result
    }
}
