//! Proofs that anybody can check offline: what the ledger state says about one key, from nothing
//! but the chain id and one trusted (height, block hash).
//!
//! A [`Proof`] is the trusted header, *bridges* from validator set to validator set, and a path
//! in the state tree ([`StateProof`]). Each header commits the set of the next height and the
//! state after its parent, so the last header of the chain, at height T + 1, commits the state
//! after T.
//!
//! **Invariant.** A bridge is accepted only when more than two thirds of the set that the header
//! before it commits signed it. Among them is somebody honest, and an honest validator signs only
//! a header whose state and next set are those of the chain; so both may be believed, even where
//! the set has changed in between and the header itself was not the one decided. This holds while
//! the trusted header is younger than the unbonding delay, as for any proof of stake.
//!
//! Deliberately absent: clocks (the caller knows how old its trust is), transport, and proofs
//! that a transaction is in a block.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::amount::Height;
use crate::block::Header;
use crate::codec::{self, Canonical, CodecError};
use crate::consensus::{CertificateError, CommitCertificate, ValidatorSet};
use crate::ids::{BlockHash, ChainId, ContentHash, StateRoot};
use crate::limits;

mod build;
pub mod snapshot;
mod state;
pub mod trail;

pub use build::{BuildError, ChainReader, build, extend};
pub use state::{Leaf, PLACEHOLDER};
pub use state::{SIBLINGS_MAX, StateProof, StateProofError, internal_hash, key_hash, leaf_hash};

/// Most bridges of a proof. Each stands for more than a third of the power replaced; more would
/// make a verifier check signatures for seconds.
pub const BRIDGES_MAX: usize = 512;
/// Longest key of the ledger state in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// A header that the validators before it vouch for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// The set that signed it: the one that the header before commits.
    pub validators: ValidatorSet,
    /// The header.
    pub header: Header,
    /// Precommits for it of more than two thirds of `validators`.
    pub certificate: CommitCertificate,
}

/// What a verifier believes: a height, and the validator set that is in charge of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The height.
    pub height: Height,
    /// Hash of the validator set of the height after it.
    pub next_validators: ContentHash,
}

impl Anchor {
    /// The beginning of a chain, whose first validators its genesis names.
    pub fn genesis(validators: &ValidatorSet) -> Self {
        Self { height: Height::ZERO, next_validators: validators.hash() }
    }

    /// A header that is believed.
    pub const fn of(header: &Header) -> Self {
        Self { height: header.height, next_validators: header.next_validators }
    }

    /// Checks that the set in charge signed the bridge's header, and believes that one.
    pub fn cross(&self, chain: &ChainId, bridge: &Bridge) -> Result<Self, ProofError> {
        let header = &bridge.header;
        check_chain(chain, header)?;
        if header.height <= self.height {
            return Err(ProofError::Backwards { before: self.height, found: header.height });
        }
        // The set is used only after its hash is known to be the committed one: a decoded set may
        // be unordered or name a key twice, a committed one cannot.
        if bridge.validators.hash() != self.next_validators {
            return Err(ProofError::OtherSet { before: self.height, height: header.height });
        }
        let certificate = &bridge.certificate;
        if certificate.height != header.height || certificate.block != header.hash() {
            return Err(ProofError::OtherBlock(header.height));
        }
        certificate
            .verify(chain, &bridge.validators)
            .map_err(|source| ProofError::Certificate { height: header.height, source })?;
        Ok(Self::of(header))
    }
}

/// What the state says about one key, and why that is to be believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The header that the verifier trusts.
    pub trusted: Header,
    /// Headers in ascending height. With none the trusted header's own state is meant.
    pub bridges: Vec<Bridge>,
    /// The key.
    pub key: Vec<u8>,
    /// Its value; `None`: the state has no such key.
    pub value: Option<Vec<u8>>,
    /// Path from the key to the root that the last header commits.
    pub path: StateProof,
}

impl Bridge {
    /// Largest encoding of one in bytes.
    pub const BYTES_MAX: usize =
        Header::BYTES_MAX + CommitCertificate::BYTES_MAX + ValidatorSet::BYTES_MAX;
}

impl Canonical for Proof {
    const BYTES_MAX: usize = (1 + BRIDGES_MAX) * Header::BYTES_MAX
        + BRIDGES_MAX * (CommitCertificate::BYTES_MAX + ValidatorSet::BYTES_MAX)
        + KEY_BYTES_MAX
        + limits::STATE_VALUE_BYTES_MAX
        + StateProof::BYTES_MAX;
}

/// What a verified [`Proof`] establishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The state is the one after the block of this height.
    pub height: Height,
    /// Root of that state.
    pub root: StateRoot,
    /// The key.
    pub key: Vec<u8>,
    /// Its value; `None`: the state has no such key.
    pub value: Option<Vec<u8>>,
}

/// The first thing wrong with a [`Proof`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The bytes are not a proof.
    #[error("this is not a proof: {0}")]
    Encoding(#[from] CodecError),
    /// Too many bridges.
    #[error("the proof has {0} bridges where at most {BRIDGES_MAX} are allowed")]
    TooManyBridges(usize),
    /// The first header is not the trusted one.
    #[error("the proof begins at block {found} of height {height}, which is not the trusted one")]
    OtherTrust {
        /// Height of its first header.
        height: Height,
        /// Hash of its first header.
        found: BlockHash,
    },
    /// A header of another network.
    #[error("the header of height {height} belongs to network {found}")]
    OtherChain {
        /// The header's height.
        height: Height,
        /// Its network.
        found: ChainId,
    },
    /// Heights do not ascend.
    #[error("the header of height {found} comes after the one of height {before}")]
    Backwards {
        /// Height of the earlier header.
        before: Height,
        /// Height of the header.
        found: Height,
    },
    /// A set that nobody committed: a bridge is missing or the set is forged.
    #[error(
        "the validator set given for height {height} is not the one that the header of height \
         {before} commits: a bridge is missing, or the set is forged"
    )]
    OtherSet {
        /// Height of the header that commits a set.
        before: Height,
        /// Height of the bridge.
        height: Height,
    },
    /// The certificate is for another header.
    #[error("the certificate of height {0} is for another block")]
    OtherBlock(Height),
    /// The certificate does not verify.
    #[error("the certificate of height {height} is not valid: {source}")]
    Certificate {
        /// Height of the bridge.
        height: Height,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// There is no state before the first block.
    #[error("the last header of the proof has height 0, which commits no state")]
    NoState,
    /// Key or value over its limit.
    #[error("a key of {key} bytes with a value of {value} bytes is over the limits of the state")]
    TooLarge {
        /// Length of the key.
        key: usize,
        /// Length of the value.
        value: usize,
    },
    /// The path does not lead to the root.
    #[error("the state of height {height} does not say this: {source}")]
    State {
        /// Height of the state.
        height: Height,
        /// What is wrong with the path.
        source: StateProofError,
    },
}

/// Verifies canonical bytes, see [`verify`].
pub fn verify_bytes(
    trusted_height: Height,
    trusted_block: &BlockHash,
    chain: &ChainId,
    bytes: &[u8],
) -> Result<Proven, ProofError> {
    verify(trusted_height, trusted_block, chain, &codec::decode(bytes)?)
}

/// Verifies a proof from a trusted block. Every byte of the proof is bound: changing one makes it
/// fail, but for the key of an absence, whose path may also be that of another absent key: compare
/// [`Proven::key`] with the key in question. Errors name the first thing wrong.
pub fn verify(
    trusted_height: Height,
    trusted_block: &BlockHash,
    chain: &ChainId,
    proof: &Proof,
) -> Result<Proven, ProofError> {
    if proof.bridges.len() > BRIDGES_MAX {
        return Err(ProofError::TooManyBridges(proof.bridges.len()));
    }
    let found = proof.trusted.hash();
    if proof.trusted.height != trusted_height || found != *trusted_block {
        return Err(ProofError::OtherTrust { height: proof.trusted.height, found });
    }
    check_chain(chain, &proof.trusted)?;
    let mut last = &proof.trusted;
    for bridge in &proof.bridges {
        Anchor::of(last).cross(chain, bridge)?;
        last = &bridge.header;
    }
    let height = last.height.get().checked_sub(1).map(Height::new).ok_or(ProofError::NoState)?;
    let value = proof.value.as_deref();
    let length = value.map_or(0, <[u8]>::len);
    if proof.key.len() > KEY_BYTES_MAX || length > limits::STATE_VALUE_BYTES_MAX {
        return Err(ProofError::TooLarge { key: proof.key.len(), value: length });
    }
    proof
        .path
        .verify(&last.state, &proof.key, value)
        .map_err(|source| ProofError::State { height, source })?;
    Ok(Proven { height, root: last.state, key: proof.key.clone(), value: proof.value.clone() })
}

fn check_chain(chain: &ChainId, header: &Header) -> Result<(), ProofError> {
    if header.chain != *chain {
        return Err(ProofError::OtherChain { height: header.height, found: header.chain });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
