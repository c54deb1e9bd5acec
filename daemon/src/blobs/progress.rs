//! How far a fetch is, for whoever watches.

use std::collections::BTreeMap;

use libp2p::PeerId;

/// One provider's part in a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Who.
    pub peer: PeerId,
    /// Verified bytes from it.
    pub bytes: u64,
    /// Its speed lately, in bytes per second.
    pub bytes_per_s: u64,
}

/// A fetch under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Length of the blob in bytes; 0 until it is proven.
    pub size: u64,
    /// Bytes that were here before it began.
    pub had: u64,
    /// Bytes that are here now, verified.
    pub verified: u64,
    /// Verified bytes that this fetch received, duplicates included.
    pub received: u64,
    /// From whom.
    pub sources: BTreeMap<PeerId, Source>,
}

impl Progress {
    /// Notes verified bytes from a peer.
    pub(super) fn add(&mut self, peer: PeerId, bytes: u64) {
        self.received += bytes;
        self.sources.entry(peer).or_insert(Source { peer, bytes: 0, bytes_per_s: 0 }).bytes +=
            bytes;
    }
}
