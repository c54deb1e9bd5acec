//! A connection whose handshake is done, as libp2p's stream multiplexer.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::PeerId;
use libp2p::core::StreamMuxer;
use libp2p::core::muxing::StreamMuxerEvent;
use quinn::{ConnectionError, RecvStream, SendStream, VarInt};

use super::{QuicError, Stream, tls};

/// How a connection says goodbye; libp2p has no other codes.
const CLOSED: VarInt = VarInt::from_u32(0);

type Opening = BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// A QUIC connection with a proven peer. Dropping it closes it once its last stream is gone.
pub struct Connection {
    inner: quinn::Connection,
    accepting: Option<Opening>,
    opening: Option<Opening>,
    closing: Option<BoxFuture<'static, ConnectionError>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("remote", &self.inner.remote_address()).finish()
    }
}

impl Connection {
    /// The largest packet that the path to the peer is known to carry, in bytes of UDP payload.
    pub fn packet_bytes(&self) -> u16 {
        self.inner.stats().path.current_mtu
    }
}

/// Waits for the end of a handshake, at most `timeout`, and for the right peer.
pub(super) async fn establish(
    connecting: quinn::Connecting,
    address: SocketAddr,
    expected: Option<PeerId>,
    timeout: Duration,
) -> Result<(PeerId, Connection), QuicError> {
    let inner = tokio::time::timeout(timeout, connecting)
        .await
        .map_err(|_| QuicError::HandshakeTimeout(address))??;
    let found = tls::peer_of(&inner)?;
    match expected {
        Some(expected) if expected != found => {
            inner.close(CLOSED, b"wrong peer");
            Err(QuicError::wrong_peer(expected, found))
        }
        _ => Ok((found, Connection { inner, accepting: None, opening: None, closing: None })),
    }
}

/// Polls the future in `slot`, begun when there is none, and empties the slot when it is done.
fn poll_slot<F: Future + Send + 'static>(
    slot: &mut Option<BoxFuture<'static, F::Output>>,
    begin: impl FnOnce() -> F,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    let future = slot.get_or_insert_with(|| begin().boxed());
    let output = futures::ready!(future.poll_unpin(cx));
    *slot = None;
    Poll::Ready(output)
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = QuicError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, QuicError>> {
        let this = &mut *self;
        let inner = &this.inner;
        let accept = || {
            let inner = inner.clone();
            async move { inner.accept_bi().await }
        };
        poll_slot(&mut this.accepting, accept, cx).map_ok(Stream::new).map_err(QuicError::from)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, QuicError>> {
        let this = &mut *self;
        let inner = &this.inner;
        let open = || {
            let inner = inner.clone();
            async move { inner.open_bi().await }
        };
        poll_slot(&mut this.opening, open, cx).map_ok(Stream::new).map_err(QuicError::from)
    }

    /// Nothing to report: the address of a connection never changes.
    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, QuicError>> {
        Poll::Pending
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), QuicError>> {
        let this = &mut *self;
        let inner = &this.inner;
        let close = || {
            inner.close(CLOSED, b"");
            let inner = inner.clone();
            async move { inner.closed().await }
        };
        // Whoever closed it first, closed it is.
        poll_slot(&mut this.closing, close, cx).map(|_| Ok(()))
    }
}
