//! QUIC for libp2p: the same wire as libp2p's own transport, with our own ciphers and packet size.
//!
//! Addresses are `/ip4|ip6/../udp/PORT/quic-v1`, the handshake is TLS 1.3 with the libp2p
//! certificate extension on both sides and the protocol name `libp2p`, so that any libp2p program
//! can be spoken to. What differs from the crate `libp2p-quic` is what it fixes without a setter:
//!
//! - *Cipher* (`tls`): AES-128-GCM before ChaCha20 where the processor has AES instructions.
//!   Encryption is the largest cost of a transfer, and this halves it.
//! - *Packets*: datagrams of up to [`UDP_PAYLOAD_BYTES_MAX`] where the path carries them. The
//!   crate refuses more than 1,472 bytes, so that jumbo frames and loopback are of no use to it.
//! - *Restarts* (`reset`): connection ids and reset tokens follow from the node's key, so
//!   that a node that was killed and came back ends its peers' dead connections with its first
//!   answer, instead of leaving them to time out.
//! - *Floods*: handshakes are counted; beyond a few, callers must prove their address first.
//!
//! **Architecture invariant.** No [`Connection`] exists whose peer has not proved the key of the
//! peer id that came with it, and, when dialled with `/p2p`, that it is the expected one.
//!
//! Deliberately absent: unidirectional streams, datagrams, migration to other addresses, session
//! resumption and 0-RTT (replays), QUIC drafts.

mod connection;
mod listener;
mod reset;
mod stream;
mod tls;
mod transport;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use libp2p::PeerId;
use thiserror::Error;

pub use connection::Connection;
pub use stream::Stream;
pub use transport::QuicTransport;

/// The largest UDP payload we accept and look for, in bytes.
///
/// quinn hands the kernel up to ten packets at once (GSO), which together must fit into one UDP
/// datagram of 65,507 bytes: with packets above 6,550 the kernel refuses the whole batch, quinn
/// counts it as lost and falls back to 1,200 bytes for good. Nor should it be larger than needed:
/// it scales the receive buffer of each endpoint (2,048 times this, touched only where filled).
/// A path with less is found by probing; a peer with less says so in its handshake.
pub const UDP_PAYLOAD_BYTES_MAX: u16 = 6_500;
const _: () = assert!(UDP_PAYLOAD_BYTES_MAX as u32 * 10 <= 65_507);

/// What connections may use, and when they are given up.
#[derive(Clone, Copy, Debug)]
pub struct QuicConfig {
    /// A connection on which nothing was heard for this long is dead.
    pub idle_timeout: Duration,
    /// How often a quiet connection is probed; several times within `idle_timeout`.
    pub keep_alive: Duration,
    /// How long a handshake, or a hole punch, may take.
    pub handshake_timeout: Duration,
    /// Unread bytes that a peer may have sent on one stream.
    pub stream_window_bytes: u32,
    /// Unread bytes that a peer may have sent on a connection, all streams together.
    pub connection_window_bytes: u32,
    /// Bytes of ours that a connection keeps until the peer acknowledges them.
    pub send_window_bytes: u32,
    /// Streams that a peer may have open at once.
    pub streams_max: u32,
    /// Handshakes of callers that may be under way at once; more are refused.
    pub handshakes_max: usize,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(5),
            // 100 ms of a line of 1 Gbit/s, so that one stream can fill it.
            stream_window_bytes: 12 * 1024 * 1024,
            // A stream that nobody reads leaves room for others.
            connection_window_bytes: 16 * 1024 * 1024,
            send_window_bytes: 12 * 1024 * 1024,
            streams_max: 256,
            handshakes_max: 128,
        }
    }
}

/// Why a listener, a dial or a connection failed.
#[derive(Debug, Error)]
pub enum QuicError {
    /// The node's certificate could not be made.
    #[error("cannot make a TLS certificate from the node key: {0}")]
    Certificate(String),
    /// A configured value does not fit into QUIC's.
    #[error("invalid QUIC configuration: {0}")]
    Config(&'static str),
    /// A UDP socket could not be opened.
    #[error("cannot open a UDP socket on {address}")]
    Socket {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The addresses of this machine cannot be watched.
    #[error("cannot watch the addresses of this machine")]
    Watch(#[source] io::Error),
    /// The dial could not be begun.
    #[error("cannot dial")]
    Dial(#[from] quinn::ConnectError),
    /// The connection, or its handshake, failed.
    #[error("QUIC connection failed")]
    Connection(#[from] quinn::ConnectionError),
    /// The handshake, or hole punch, took too long.
    #[error("no handshake with {0} in time; is it up, and is its UDP port reachable?")]
    HandshakeTimeout(SocketAddr),
    /// Somebody else answered at the dialled address. Boxed, for errors are moved about a lot.
    #[error("expected peer {expected}, but {found} answered; is its address outdated?")]
    WrongPeer {
        /// Who was dialled.
        expected: Box<PeerId>,
        /// Who answered.
        found: Box<PeerId>,
    },
    /// The peer's identity could not be read after the handshake.
    #[error("the peer showed no libp2p certificate")]
    NoIdentity,
    /// A hole can only be punched from a port on which we listen.
    #[error("cannot punch a hole to {0} without listening on QUIC; add a listen address")]
    NotListening(SocketAddr),
    /// A hole to this address is being punched already.
    #[error("a hole to {0} is being punched already")]
    PunchUnderWay(SocketAddr),
    /// Sending failed while a hole was punched.
    #[error("cannot send to {address}")]
    Punch {
        /// Where to.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

impl QuicError {
    fn wrong_peer(expected: PeerId, found: PeerId) -> Self {
        Self::WrongPeer { expected: Box::new(expected), found: Box::new(found) }
    }
}
