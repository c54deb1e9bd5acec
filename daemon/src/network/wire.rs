//! What travels in the metadata protocol, and the names of topics and protocols.
//!
//! Topic names carry the chain id: nodes of two chains that meet do not hear one another.

use protocol::amount::Height;
use protocol::block::{DecidedBlock, Header};
use protocol::codec::Canonical;
use protocol::ids::{ChainId, ContentHash, ContributionId};
use protocol::limits;
use protocol::proof::Bridge;
use protocol::replay::ShownStates;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Addresses in one status answer.
pub const PEERS_PER_STATUS_MAX: usize = 32;
/// Hashes in one announcement.
pub const ANNOUNCED_MAX: usize = 64;
/// Bytes of one textual address.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Bytes of a genesis document.
pub const GENESIS_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one engine sync request.
pub const SYNC_REQUEST_BYTES_MAX: usize = 64;
/// Bytes of one engine sync response: a batch of five full blocks fits.
pub const SYNC_RESPONSE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bridges in one page of a proof.
pub const BRIDGES_PER_PAGE_MAX: usize = 64;
/// Bytes of the bridges in one page, but for the last of them.
pub const PAGE_BYTES_MAX: usize = 512 * 1024;

// The largest answer is a block.
const _: () = assert!(PAGE_BYTES_MAX + Bridge::BYTES_MAX + Header::BYTES_MAX + 64 < BLOCK_BYTES);
const _: () = assert!(GENESIS_BYTES_MAX + 16 < BLOCK_BYTES);
const BLOCK_BYTES: usize = DecidedBlock::BYTES_MAX;

/// Name of the engine's sync protocol.
pub const SYNC_PROTOCOL: &str = "/ayni/sync/1";
/// Name of the metadata protocol.
pub const META_PROTOCOL: &str = "/ayni/meta/1";
/// Name of the blob protocol, spoken over raw streams.
pub const BLOB_PROTOCOL: &str = "/ayni/blob/1";

/// A gossip topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Votes and proposals.
    Consensus,
    /// Rebroadcast votes and certificates of rounds.
    Liveness,
    /// Block bodies offered for a round.
    Parts,
    /// Heights that a neighbour has; never forwarded.
    Status,
    /// Batches of transactions.
    Transactions,
    /// Blobs that their publisher has and wants to be found: see [`Announcement`].
    Blobs,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 6] = [
        Self::Consensus,
        Self::Liveness,
        Self::Parts,
        Self::Status,
        Self::Transactions,
        Self::Blobs,
    ];

    /// The topic's name on `chain`.
    pub fn name(self, chain: &ChainId) -> String {
        let kind = match self {
            Self::Consensus => "consensus",
            Self::Liveness => "liveness",
            Self::Parts => "parts",
            Self::Status => "status",
            Self::Transactions => "transactions",
            Self::Blobs => "blobs",
        };
        format!("/ayni/{chain}/{kind}/1")
    }

    /// Largest message in bytes.
    pub const fn bytes_max(self) -> usize {
        match self {
            Self::Consensus | Self::Liveness | Self::Parts => limits::CONSENSUS_MESSAGE_BYTES_MAX,
            Self::Status | Self::Transactions => limits::TRANSACTION_BATCH_BYTES_MAX,
            Self::Blobs => Announcement::BYTES_MAX,
        }
    }

    /// Whether the consensus engine consumes the topic.
    pub const fn is_engine(self) -> bool {
        !matches!(self, Self::Transactions | Self::Blobs)
    }
}

/// What a node has and wants to be found, oldest first. Who fetches asks it and verifies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Hashes of blobs, at most [`ANNOUNCED_MAX`].
    pub blobs: Vec<ContentHash>,
}

impl Canonical for Announcement {
    const BYTES_MAX: usize = 32 * ANNOUNCED_MAX + 16;
}

/// A question about metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaRequest {
    /// The genesis document; the chain id is its hash, so the answer can be checked.
    Genesis,
    /// Where the peer stands and whom it knows.
    Status,
    /// The newest snapshot that the peer can give and prove.
    Snapshot,
    /// The next page of the proof that leads from a height that the asker believes (zero: the
    /// genesis) to the header at `target`.
    Bridges {
        /// The height that is believed.
        after: Height,
        /// Where the proof leads.
        target: Height,
    },
    /// The decided block of a height.
    Block(Height),
    /// The states around the slice of the peer's own training that the beacon has drawn.
    States(ContributionId),
}

impl Canonical for MetaRequest {
    const BYTES_MAX: usize = 48;
}

/// An answer about metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaResponse {
    /// Bytes of the genesis document; nothing when the peer has none yet.
    Genesis(Option<Vec<u8>>),
    /// The peer's status.
    Status(PeerStatus),
    /// The peer will not answer now.
    Refused,
    /// What the peer can give instead of blocks.
    Snapshot(SnapshotAnswer),
    /// A page of a proof.
    Bridges(BridgeAnswer),
    /// The block, if the peer has it.
    Block(Option<Box<DecidedBlock>>),
    /// The states that were asked for.
    States(Box<ShownStates>),
}

impl Canonical for MetaResponse {
    const BYTES_MAX: usize = BLOCK_BYTES + 64;
}

/// What a peer has of the chain. Unverified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotAnswer {
    /// The first height whose block it has.
    pub first: Height,
    /// Its newest snapshot that a final header commits to.
    pub offer: Option<SnapshotOffer>,
}

/// A snapshot that a peer says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOffer {
    /// Height of its state.
    pub height: Height,
    /// BLAKE3 of its bytes: the name of the blob.
    pub hash: ContentHash,
    /// Its length in bytes: a hint.
    pub bytes: u64,
}

/// A page of a proof, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BridgeAnswer {
    /// The next bridges, at least one of them unless the target is where the asker stands.
    Page {
        /// The header at the height that is believed, unless that is the genesis.
        start: Option<Box<Header>>,
        /// At most [`BRIDGES_PER_PAGE_MAX`] with at most [`PAGE_BYTES_MAX`] bytes and one more.
        bridges: Vec<Bridge>,
    },
    /// There is no proof to be had from this peer.
    None(NoProof),
}

/// Why a peer has no proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum NoProof {
    /// It has neither the block nor a bridge there.
    #[error("it has no block of height {0} and no proof that passes there")]
    NoBlock(Height),
    /// It does not know the validators of a height.
    #[error("it no longer knows the validators of height {0}")]
    NoValidators(Height),
    /// The way is too long.
    #[error(
        "the validators were replaced too often since then for one proof: trust a later block, \
         with `trusted` under [chain]"
    )]
    TooLong,
    /// It cannot answer now.
    #[error("it has too much to do")]
    Busy,
}

/// Where a peer stands. Unverified: a hint for where to look, never a fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Chain of the peer.
    pub chain: ChainId,
    /// Last height that the peer has decided.
    pub tip: Height,
    /// Addresses of other nodes, each ending in `/p2p/<peer>`; at most
    /// [`PEERS_PER_STATUS_MAX`] of at most [`ADDRESS_BYTES_MAX`] bytes.
    pub peers: Vec<String>,
}

impl MetaResponse {
    /// Whether the counts inside are within their limits and answer `request`.
    pub fn answers(&self, request: &MetaRequest) -> bool {
        match (request, self) {
            (_, Self::Refused) => true,
            (MetaRequest::Genesis, Self::Genesis(bytes)) => {
                bytes.as_ref().is_none_or(|bytes| bytes.len() <= GENESIS_BYTES_MAX)
            }
            (MetaRequest::Status, Self::Status(status)) => {
                status.peers.len() <= PEERS_PER_STATUS_MAX
                    && status.peers.iter().all(|peer| peer.len() <= ADDRESS_BYTES_MAX)
            }
            (MetaRequest::Snapshot, Self::Snapshot(_)) => true,
            (MetaRequest::Bridges { .. }, Self::Bridges(answer)) => match answer {
                BridgeAnswer::Page { bridges, .. } => bridges.len() <= BRIDGES_PER_PAGE_MAX,
                BridgeAnswer::None(_) => true,
            },
            (MetaRequest::Block(height), Self::Block(block)) => {
                block.as_ref().is_none_or(|block| block.certificate.height == *height)
            }
            (MetaRequest::States(_), Self::States(shown)) => shown.is_bounded(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::codec;

    use super::*;

    #[test]
    fn answers_are_checked_against_questions() {
        assert!(!MetaResponse::Genesis(None).answers(&MetaRequest::Snapshot));
        let page = MetaRequest::Bridges { after: Height::ZERO, target: Height::new(28) };
        let none = MetaResponse::Bridges(BridgeAnswer::None(NoProof::Busy));
        assert!(none.answers(&page) && !none.answers(&MetaRequest::Snapshot));
        assert!(!MetaResponse::Block(None).answers(&page));
        assert!(MetaResponse::Block(None).answers(&MetaRequest::Block(Height::new(3))));
        let last = Height::new(u64::MAX);
        let largest = MetaRequest::Bridges { after: last, target: last };
        assert!(codec::encode_checked(&largest).is_ok());
        let blobs = vec![ContentHash::of(b"x"); ANNOUNCED_MAX];
        assert!(codec::encode_checked(&Announcement { blobs }).is_ok());
    }

    #[test]
    fn topics_of_two_chains_differ() {
        let one = ChainId::from_bytes([1; 32]);
        let two = ChainId::from_bytes([2; 32]);
        for topic in Topic::ALL {
            assert_ne!(topic.name(&one), topic.name(&two));
        }
    }
}
