//! What the swarm task tells its consumers.

use std::time::Duration;

use libp2p::gossipsub::{MessageAcceptance, MessageId};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::OwnedSemaphorePermit;

use super::wire::{MetaRequest, PeerStatus, Topic};

/// Identifies a gossip message until its consumer has said whether to forward it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipId(pub(crate) MessageId);

/// What a consumer decides about a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Valid: forward it.
    Accept,
    /// Invalid: drop it and hold it against the peer that delivered it.
    Reject,
    /// Neither: drop it quietly.
    Ignore,
}

impl From<Acceptance> for MessageAcceptance {
    fn from(acceptance: Acceptance) -> Self {
        match acceptance {
            Acceptance::Accept => Self::Accept,
            Acceptance::Reject => Self::Reject,
            Acceptance::Ignore => Self::Ignore,
        }
    }
}

/// An undecoded gossip message on an engine topic. The consumer must call
/// [`super::NetworkHandle::validate`] for it.
#[derive(Debug)]
pub struct GossipMessage {
    /// Topic.
    pub topic: Topic,
    /// The neighbour that delivered it.
    pub from: PeerId,
    /// The peer that published and signed it.
    pub source: PeerId,
    /// For the validation reply.
    pub id: GossipId,
    /// The bytes, within the topic's limit.
    pub bytes: Vec<u8>,
    /// Holds the message's share of the bytes that may wait in queues.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// Identifies an engine sync request of ours or of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncRequestId(pub(crate) u64);

impl std::fmt::Display for SyncRequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies a metadata request of a peer until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetaRequestId(pub(crate) u64);

/// Why a request of ours failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFailure {
    /// The peer could not be reached.
    Dial,
    /// No answer in time.
    Timeout,
    /// The connection closed first.
    Closed,
    /// The peer does not speak the protocol.
    Unsupported,
    /// The stream broke or carried something malformed.
    Io,
}

/// Events for the consensus engine. A new subscriber first hears what already holds.
#[derive(Debug)]
pub enum EngineEvent {
    /// The node listens on this address.
    Listening(Multiaddr),
    /// First connection with a peer.
    Connected(PeerId),
    /// Last connection with a peer closed.
    Disconnected(PeerId),
    /// A peer joined a topic.
    Subscribed(PeerId, Topic),
    /// A message on an engine topic.
    Gossip(GossipMessage),
    /// A peer asks for decided values.
    SyncRequest {
        /// For the answer.
        id: SyncRequestId,
        /// Who asks.
        peer: PeerId,
        /// Undecoded request.
        bytes: Vec<u8>,
    },
    /// A peer's request can no longer be answered.
    SyncInboundFailed {
        /// The request.
        id: SyncRequestId,
        /// Who asked.
        peer: PeerId,
    },
    /// A peer answered.
    SyncResponse {
        /// Our request.
        id: SyncRequestId,
        /// Who answers.
        peer: PeerId,
        /// Undecoded response.
        bytes: Vec<u8>,
    },
    /// A request of ours failed.
    SyncFailed {
        /// Our request.
        id: SyncRequestId,
        /// Who was asked.
        peer: PeerId,
        /// Why.
        reason: RequestFailure,
    },
}

/// Events for the node. A new subscriber first hears what already holds.
#[derive(Debug)]
pub enum NetworkEvent {
    /// The node listens on this address.
    Listening(Multiaddr),
    /// First connection with a peer.
    Connected(PeerId),
    /// Last connection with a peer closed.
    Disconnected(PeerId),
    /// A peer told where it stands: unverified.
    Status {
        /// The peer.
        peer: PeerId,
        /// What it says.
        status: PeerStatus,
    },
    /// A batch of transactions. The consumer must call [`super::NetworkHandle::validate`].
    Transactions(GossipMessage),
    /// A node announces blobs. The consumer must call [`super::NetworkHandle::validate`].
    Announced(GossipMessage),
    /// A peer asks for a snapshot, a proof or a block. Answer as above.
    AsksLedger {
        /// For the answer.
        id: MetaRequestId,
        /// Who asks.
        peer: PeerId,
        /// What it asks.
        request: MetaRequest,
    },
}

/// What is known about a connected peer.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The peer.
    pub peer: PeerId,
    /// Remote address of its oldest connection.
    pub address: Multiaddr,
    /// Addresses it listens on, as it says.
    pub listening: Vec<Multiaddr>,
    /// What it calls itself; empty until identified.
    pub agent: String,
    /// Score in -100..=0.
    pub score: f64,
    /// Age of its oldest connection.
    pub connected_for: Duration,
    /// Last measured round-trip time.
    pub rtt: Option<Duration>,
    /// Whether we dialled it.
    pub outbound: bool,
    /// Its last status, if it told one.
    pub status: Option<PeerStatus>,
}
