//! Why a blob could not be fetched, in words that name what was tried.

use std::fmt;
use std::sync::Arc;

use libp2p::PeerId;
use protocol::ids::ContentHash;
use storage::BlobError;
use thiserror::Error;

/// Attempts that an error lists.
const LISTED_MAX: usize = 8;

/// Why a fetch failed. Shared by everybody who waited for it.
#[derive(Clone, Debug, Error)]
pub enum FetchError {
    /// Nobody who was asked has it.
    #[error("blob {hash} was not found: {tried}")]
    NotFound {
        /// The blob.
        hash: ContentHash,
        /// What was tried.
        tried: Tried,
    },
    /// Somebody has it, and no transfer succeeded.
    #[error("blob {hash} could not be fetched: {tried}")]
    Failed {
        /// The blob.
        hash: ContentHash,
        /// What was tried.
        tried: Tried,
    },
    /// It is proven to be larger than the caller wants.
    #[error("blob {hash} has {size} bytes where at most {max} are wanted")]
    TooLarge {
        /// The blob.
        hash: ContentHash,
        /// Its length.
        size: u64,
        /// The caller's limit.
        max: u64,
    },
    /// This node could not store it.
    #[error("blob {hash} could not be stored: {source}")]
    Store {
        /// The blob.
        hash: ContentHash,
        /// Why.
        source: Arc<BlobError>,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopped,
}

/// Who was asked and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Peers that were asked whether they have the blob.
    pub asked: usize,
    /// Attempts to get it, in order.
    pub attempts: Vec<(PeerId, Failure)>,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.asked, self.attempts.len()) {
            (0, 0) => return f.write_str("no peer is connected and none was suggested"),
            (asked, 0) => return write!(f, "none of {asked} connected peers has it"),
            (asked, attempts) => write!(f, "{asked} peers asked, {attempts} attempts")?,
        }
        for (peer, failure) in self.attempts.iter().take(LISTED_MAX) {
            write!(f, "; {peer}: {failure}")?;
        }
        Ok(())
    }
}

/// What became of one attempt with one provider.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Failure {
    /// It says that it has no such blob.
    #[error("does not have it")]
    Missing,
    /// It has only another part of the blob.
    #[error("does not have these ranges")]
    Absent,
    /// It serves too many others.
    #[error("is busy")]
    Busy,
    /// No stream, or no answer on it: unreachable.
    #[error("did not answer ({0})")]
    NoAnswer(String),
    /// The stream broke half way.
    #[error("the connection broke ({0})")]
    Broken(String),
    /// It was too slow.
    #[error("stalled")]
    Stalled,
    /// It broke the protocol.
    #[error("sent something malformed ({0})")]
    Malformed(String),
    /// Its bytes do not have the hashes that they should have.
    #[error("sent bytes that do not verify ({0})")]
    Lied(String),
}

impl Failure {
    /// Whether the answer was a whole one, so that the stream can be used again.
    pub(super) const fn keeps_stream(&self) -> bool {
        matches!(self, Self::Missing | Self::Busy | Self::Absent)
    }

    /// Whether the same peer may do better a little later.
    pub(super) const fn may_pass(&self) -> bool {
        matches!(self, Self::NoAnswer(_) | Self::Broken(_) | Self::Busy | Self::Absent)
    }
}
