//! The libp2p network: one task owns the swarm, everybody else holds a [`NetworkHandle`].
//!
//! QUIC first, TCP with noise and yamux as fallback. Gossip is validated by its consumer before
//! it is forwarded; requests are answered through the handle; raw streams for blobs are opened
//! and accepted through it. Peers are scored ([`score`]), rationed ([`limiter`]) and remembered
//! ([`peers`]).
//!
//! **Architecture invariant.** The swarm task never waits for a consumer: events go into bounded
//! channels with `try_send`, and what does not fit is dropped and counted. Consumers may therefore
//! wait for the swarm without a cycle. Nothing here knows what a block or a transaction is.

mod behaviour;
mod codec;
mod commands;
mod discovery;
mod events;
mod exchange;
mod handle;
pub mod limiter;
pub mod peers;
pub mod quic;
pub mod score;
mod swarm;
pub mod wire;

use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use protocol::ids::{ChainId, NodeId};
use protocol::keys::SecretKey;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use events::{
    Acceptance, EngineEvent, GossipId, GossipMessage, MetaRequestId, NetworkEvent, PeerInfo,
    RequestFailure, SyncRequestId,
};
pub use handle::{NetworkHandle, NetworkStats, RequestError};
pub use score::Severity;
pub use wire::{
    BridgeAnswer, MetaRequest, MetaResponse, NoProof, PeerStatus, SnapshotAnswer, SnapshotOffer,
    Topic,
};

/// How the network is set up.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Chain whose topics are joined; peers of other chains are disconnected.
    pub chain: ChainId,
    /// Addresses to listen on, for example `/ip4/0.0.0.0/udp/9000/quic-v1`. Port 0 picks one.
    pub listen: Vec<Multiaddr>,
    /// Peers to stay connected with, redialled with backoff. With or without `/p2p/<peer>`.
    pub bootstrap: Vec<Multiaddr>,
    /// Dial known peers while fewer than this many are connected.
    pub peers_target: usize,
    /// Refuse connections beyond this many.
    pub connections_max: u32,
    /// Refuse connections while the process uses more memory than this many bytes.
    pub memory_bytes_max: usize,
    /// What this node calls itself to its peers, for example `aynid/0.1.0`.
    pub agent: String,
    /// Time between gossipsub heartbeats.
    pub heartbeat: Duration,
}

impl NetworkConfig {
    /// A node of `chain` that listens on a random loopback QUIC port and dials nobody.
    pub fn loopback(chain: ChainId) -> Self {
        Self {
            chain,
            listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("a valid address")],
            bootstrap: Vec::new(),
            peers_target: 24,
            connections_max: 256,
            memory_bytes_max: 8 * 1024 * 1024 * 1024,
            agent: concat!("aynid/", env!("CARGO_PKG_VERSION")).to_owned(),
            heartbeat: Duration::from_millis(700),
        }
    }
}

/// Why the network did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The transport could not be built.
    #[error("cannot build the transport: {0}")]
    Transport(String),
    /// A behaviour refused its configuration.
    #[error("invalid network configuration: {0}")]
    Config(String),
    /// An address could not be bound.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the operating system said.
        reason: String,
    },
}

/// Starts the swarm task on `tracker`; it ends when `token` is cancelled.
///
/// # Errors
/// When the transport cannot be built or an address cannot be bound.
pub fn start(
    config: NetworkConfig,
    key: &SecretKey,
    tracker: &TaskTracker,
    token: CancellationToken,
) -> Result<NetworkHandle, StartError> {
    swarm::start(config, keypair(key), tracker, token)
}

/// The libp2p identity of a node key.
pub fn keypair(key: &SecretKey) -> Keypair {
    Keypair::ed25519_from_bytes(key.to_seed()).expect("a seed is 32 bytes")
}

/// The peer id that belongs to a node id; nothing when the bytes are not a public key.
pub fn peer_id(node: &NodeId) -> Option<PeerId> {
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(libp2p::identity::PublicKey::from(key).to_peer_id())
}

/// The node id inside a peer id; nothing when the peer does not use an ed25519 key.
pub fn node_id(peer: &PeerId) -> Option<NodeId> {
    let multihash: &libp2p::multihash::Multihash<64> = peer.as_ref();
    // Code 0 is the identity hash: the digest is the encoded public key itself.
    if multihash.code() != 0 {
        return None;
    }
    let key = libp2p::identity::PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
    let key = key.try_into_ed25519().ok()?;
    Some(NodeId::from_bytes(key.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_and_peer_ids_convert_both_ways() {
        let key = SecretKey::from_seed(&[9; 32]);
        let node = key.public().node_id();
        let peer = peer_id(&node).expect("a public key");
        assert_eq!(peer, keypair(&key).public().to_peer_id());
        assert_eq!(node_id(&peer), Some(node));
        assert_eq!(node_id(&PeerId::random()), None);
    }
}
