//! Hiding commitments: bound to the submitter, so that nobody can copy another's.

use crate::codec;
use crate::ids::{AccountId, ChainId, Commitment, ContentHash, ContributionId, NodeId, derive};
use crate::review::Review;

/// Commitment of `author` to the manifest with hash `content`.
pub fn submission(
    chain: &ChainId,
    author: &NodeId,
    content: &ContentHash,
    salt: &[u8; 32],
) -> Commitment {
    Commitment::from_bytes(derive(
        "ayni 2026 submission commitment v1",
        &[chain.as_bytes(), author.as_bytes(), content.as_bytes(), salt],
    ))
}

/// Commitment of `reviewer` to a review of `contribution`.
pub fn review(
    chain: &ChainId,
    reviewer: &NodeId,
    contribution: &ContributionId,
    review: &Review,
    salt: &[u8; 32],
) -> Commitment {
    Commitment::from_bytes(derive(
        "ayni 2026 review commitment v1",
        &[
            chain.as_bytes(),
            reviewer.as_bytes(),
            contribution.as_bytes(),
            &codec::encode(review),
            salt,
        ],
    ))
}

/// Proof that `attestor` holds the checkpoint: BLAKE3 of its bytes, keyed by the attestor. Only
/// someone with the bytes can make it or check it.
pub struct PossessionHasher(blake3::Hasher);

impl PossessionHasher {
    /// A hasher for one attestor on one chain.
    pub fn new(chain: &ChainId, attestor: &NodeId, account: &AccountId) -> Self {
        let key = derive(
            "ayni 2026 possession key v1",
            &[chain.as_bytes(), attestor.as_bytes(), account.as_bytes()],
        );
        Self(blake3::Hasher::new_keyed(&key))
    }

    /// Adds bytes of the checkpoint.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The proof.
    pub fn finish(&self) -> Commitment {
        Commitment::from_bytes(*self.0.finalize().as_bytes())
    }
}
