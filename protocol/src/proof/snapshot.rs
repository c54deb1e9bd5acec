//! Proofs that a snapshot is the chain's, to somebody who knows the genesis or one trusted block.
//!
//! Bridges lead to the header [`limits::SNAPSHOT_LAG`] blocks above the snapshot's state, which
//! commits the hash of the snapshot's bytes; those name the block and the root of the state. The
//! block at the snapshot's height, which rules need as a parent, is checked against the validator
//! sets in the snapshot itself ([`check_base`]).
//!
//! **Invariant.** A header is believed here in one thing more than in other proofs: its snapshot
//! hash. An honest validator signs only a header with the hash of the snapshot that it took itself,
//! so what holds for state and next set holds for it as well.

use thiserror::Error;

use super::{Anchor, BRIDGES_MAX, Bridge, ProofError};
use crate::amount::Height;
use crate::block::{Block, DecidedBlock, Header};
use crate::codec::{self, CodecError};
use crate::consensus::{CertificateError, CommitCertificate, ValidatorSet};
use crate::ids::{BlockHash, ChainId, ContentHash};
use crate::limits;

/// The first thing wrong with what a peer says about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotProofError {
    /// A bridge does not hold.
    #[error(transparent)]
    Bridge(#[from] ProofError),
    /// A bridge beyond the one that was asked for.
    #[error("the proof leads to height {found}, beyond {target}, where it should end")]
    Beyond {
        /// Height of the bridge.
        found: Height,
        /// Where the proof should end.
        target: Height,
    },
    /// The proof does not arrive.
    #[error("the proof ends at height {found}, the header that commits is at {target}")]
    Short {
        /// Where it ends.
        found: Height,
        /// Where it should end.
        target: Height,
    },
    /// The header commits nothing, or something else.
    #[error("the header of height {height} commits the snapshot {committed:?}, not {promised}")]
    OtherSnapshot {
        /// Height of the header.
        height: Height,
        /// What it commits.
        committed: Option<ContentHash>,
        /// What the peer promised.
        promised: ContentHash,
    },
    /// The block does not decode.
    #[error("the block at the snapshot's height is malformed: {0}")]
    Encoding(#[from] CodecError),
    /// Another block than the snapshot names.
    #[error("the snapshot is of block {expected} at height {height}, the block given is {found}")]
    OtherBlock {
        /// Height of the snapshot.
        height: Height,
        /// Block that the snapshot names.
        expected: BlockHash,
        /// Block given.
        found: BlockHash,
    },
    /// The header is of another chain or height, or its body does not belong to it.
    #[error("the block at the snapshot's height is wrong in {0}")]
    Block(&'static str),
    /// A validator set in the snapshot is missing, malformed or not the committed one.
    #[error("the snapshot's validators {0} are not the chain's")]
    Validators(&'static str),
    /// The certificate does not verify by the snapshot's own validators.
    #[error("the certificate of the block at the snapshot's height is not valid: {0}")]
    Certificate(#[from] CertificateError),
}

/// The height of the header that commits the snapshot of `height`.
pub const fn committed_at(height: Height) -> Height {
    height.plus(limits::SNAPSHOT_LAG)
}

/// Follows bridges as they arrive, page by page.
#[derive(Clone, Debug)]
pub struct Follower {
    chain: ChainId,
    target: Height,
    at: Anchor,
    last: Option<Header>,
    crossed: usize,
}

impl Follower {
    /// From what is believed to the header at `target`.
    pub const fn new(chain: ChainId, from: Anchor, target: Height) -> Self {
        Self { chain, target, at: from, last: None, crossed: 0 }
    }

    /// From a header that is trusted.
    pub const fn trusting(chain: ChainId, header: Header, target: Height) -> Self {
        let at = Anchor::of(&header);
        Self { chain, target, at, last: Some(header), crossed: 0 }
    }

    /// The height that is believed.
    pub const fn height(&self) -> Height {
        self.at.height
    }

    /// Whether the target is reached.
    pub fn has_arrived(&self) -> bool {
        self.at.height == self.target
    }

    /// Crosses a bridge; refused ones change nothing.
    pub fn cross(&mut self, bridge: &Bridge) -> Result<(), SnapshotProofError> {
        if self.crossed >= BRIDGES_MAX {
            return Err(ProofError::TooManyBridges(self.crossed.saturating_add(1)).into());
        }
        if bridge.header.height > self.target {
            let (found, target) = (bridge.header.height, self.target);
            return Err(SnapshotProofError::Beyond { found, target });
        }
        self.at = self.at.cross(&self.chain, bridge)?;
        self.last = Some(bridge.header.clone());
        self.crossed = self.crossed.saturating_add(1);
        Ok(())
    }

    /// Checks that the last header is the target and commits the snapshot that was promised.
    pub fn check_snapshot(&self, promised: &ContentHash) -> Result<(), SnapshotProofError> {
        let height = self.target;
        let Some(header) = self.last.as_ref().filter(|_| self.has_arrived()) else {
            return Err(SnapshotProofError::Short { found: self.at.height, target: height });
        };
        if header.snapshot == Some(*promised) {
            return Ok(());
        }
        let (committed, promised) = (header.snapshot, *promised);
        Err(SnapshotProofError::OtherSnapshot { height, committed, promised })
    }
}

/// The validator sets that a snapshot's state holds, as stored.
#[derive(Clone, Debug, Default)]
pub struct StoredSets {
    /// Of the snapshot's own height.
    pub tip: Option<Vec<u8>>,
    /// Of the height after it.
    pub next: Option<Vec<u8>>,
}

/// Checks the decided block at the height of a snapshot of `block`: that it is that block, whole,
/// and signed by the validators that the snapshot has for it.
pub fn check_base(
    chain: &ChainId,
    height: Height,
    block: &BlockHash,
    sets: &StoredSets,
    decided: &DecidedBlock,
) -> Result<(), SnapshotProofError> {
    let certificate = &decided.certificate;
    let body: Block = codec::decode(&decided.block)?;
    let header = &body.header;
    for found in [header.hash(), certificate.block] {
        if found != *block {
            return Err(SnapshotProofError::OtherBlock { height, expected: *block, found });
        }
    }
    let require = |ok: bool, what: &'static str| {
        if ok { Ok(()) } else { Err(SnapshotProofError::Block(what)) }
    };
    require(header.chain == *chain, "its network")?;
    require(header.height == height && certificate.height == height, "its height")?;
    let contents = Block::contents_root(&body.transactions, &body.evidence);
    require(header.transactions == contents, "its transactions")?;
    let parent = body.parent_certificate.as_ref();
    let parent = parent.map_or(ContentHash::default(), CommitCertificate::hash);
    require(header.parent_certificate == parent, "its parent's certificate")?;
    let next = parse_set(sets.next.as_deref(), "of the next height")?;
    if next.hash() != header.next_validators {
        return Err(SnapshotProofError::Validators("of the next height"));
    }
    let own = parse_set(sets.tip.as_deref(), "of its own height")?;
    Ok(certificate.verify(chain, &own)?)
}

fn parse_set(
    stored: Option<&[u8]>,
    which: &'static str,
) -> Result<ValidatorSet, SnapshotProofError> {
    let wrong = SnapshotProofError::Validators(which);
    let set: ValidatorSet =
        stored.and_then(|bytes| codec::decode(bytes).ok()).ok_or_else(|| wrong.clone())?;
    // A decoded set may be unordered or name a key twice.
    match ValidatorSet::new(set.as_slice().to_vec()) {
        Ok(ordered) if ordered == set => Ok(set),
        _ => Err(wrong),
    }
}
