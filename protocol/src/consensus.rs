//! Validators, votes, proposals and commit certificates: what consensus signs.
//!
//! The engine (Malachite, in `daemon`) decides *when* to vote; the bytes that are signed and the
//! proof that a block was decided are fixed here, so that rules and replay can check them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::amount::{Height, VotingPower};
use crate::codec::{self, Canonical};
use crate::ids::{BlockHash, ChainId, ContentHash, ValidatorId, derive};
use crate::keys::{KeyError, Namespace, PublicKey, Signature};
use crate::limits;

/// A member of the validator set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validator {
    /// Consensus key.
    pub key: PublicKey,
    /// Voting power, never zero.
    pub power: VotingPower,
}

/// Validators ordered by power (largest first), then key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorSet(Vec<Validator>);

impl Canonical for ValidatorSet {
    const BYTES_MAX: usize = 64 * limits::VALIDATORS_MAX;
}

/// Why a validator set was refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum ValidatorSetError {
    /// Nobody in it.
    #[error("a validator set needs at least one validator")]
    Empty,
    /// Too many.
    #[error("{0} validators where at most {max} are allowed", max = limits::VALIDATORS_MAX)]
    TooMany(usize),
    /// A key twice, or power zero.
    #[error("validator {0} is listed twice or has no power")]
    Malformed(ValidatorId),
    /// More power than the engine can add up (a third of u64).
    #[error("total voting power is above u64::MAX / 3")]
    TooMuchPower,
}

impl ValidatorSet {
    /// Sorts and checks.
    pub fn new(mut validators: Vec<Validator>) -> Result<Self, ValidatorSetError> {
        if validators.is_empty() {
            return Err(ValidatorSetError::Empty);
        }
        if validators.len() > limits::VALIDATORS_MAX {
            return Err(ValidatorSetError::TooMany(validators.len()));
        }
        validators.sort_by(|a, b| b.power.cmp(&a.power).then_with(|| a.key.cmp(&b.key)));
        let mut seen = BTreeSet::new();
        let mut total: u64 = 0;
        for validator in &validators {
            let id = validator.key.validator_id();
            if validator.power.get() == 0 || !seen.insert(id) {
                return Err(ValidatorSetError::Malformed(id));
            }
            total = total
                .checked_add(validator.power.get())
                .filter(|total| *total <= u64::MAX / 3)
                .ok_or(ValidatorSetError::TooMuchPower)?;
        }
        Ok(Self(validators))
    }

    /// The validators in order.
    pub fn as_slice(&self) -> &[Validator] {
        &self.0
    }

    /// The validator with this id.
    pub fn get(&self, id: &ValidatorId) -> Option<&Validator> {
        self.0.iter().find(|v| v.key.as_bytes() == id.as_bytes())
    }

    /// Sum of all power.
    pub fn total_power(&self) -> u64 {
        self.0.iter().fold(0, |sum, v| sum.saturating_add(v.power.get()))
    }

    /// Whether `power` is more than two thirds of the total.
    pub fn is_quorum(&self, power: u64) -> bool {
        is_quorum(power, self.total_power())
    }

    /// Hash that headers commit to.
    pub fn hash(&self) -> ContentHash {
        codec::hash(self)
    }

    /// The proposer of (height, round): a point that walks through the total power in steps of
    /// the golden ratio (a Kronecker sequence). Everybody's share of the turns is its share of the
    /// power, spread evenly; nobody with less than 38 % has two turns in a row, and a later round
    /// is the turn of the next height.
    pub fn proposer(&self, height: Height, round: u32) -> &Validator {
        // 2^64 divided by the golden ratio.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let turn = height.get().wrapping_add(u64::from(round)).wrapping_mul(STEP);
        let point = u128::from(turn).saturating_mul(u128::from(self.total_power())) >> 64;
        let mut passed = 0_u128;
        let found = self.0.iter().find(|v| {
            passed = passed.saturating_add(u128::from(v.power.get()));
            point < passed
        });
        found.or_else(|| self.0.first()).expect("a validator set is never empty")
    }
}

/// More than two thirds: `3 * weight > 2 * total`, exact.
pub fn is_quorum(weight: u64, total: u64) -> bool {
    u128::from(weight).saturating_mul(3) > u128::from(total).saturating_mul(2)
}

/// Kind of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum VoteKind {
    /// First vote of a round.
    Prevote,
    /// Second vote of a round.
    Precommit,
}

/// A vote; its canonical bytes are what is signed in [`Namespace::Vote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Height voted on.
    pub height: Height,
    /// Consensus round.
    pub round: u32,
    /// Kind.
    pub kind: VoteKind,
    /// The block, or nil.
    pub block: Option<BlockHash>,
    /// Who votes.
    pub validator: ValidatorId,
}

impl Canonical for Vote {
    const BYTES_MAX: usize = 128;
}

/// A proposal; its canonical bytes are what is signed in [`Namespace::Proposal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Height proposed for.
    pub height: Height,
    /// Consensus round.
    pub round: u32,
    /// Round of the lock that the proposal rests on, if any.
    pub pol_round: Option<u32>,
    /// The block.
    pub block: BlockHash,
    /// Who proposes.
    pub proposer: ValidatorId,
}

impl Canonical for Proposal {
    const BYTES_MAX: usize = 128;
}

/// What a proposer signs in [`Namespace::ProposalPart`] when it offers a block's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyOffer {
    /// Height offered for.
    pub height: Height,
    /// Consensus round.
    pub round: u32,
    /// Hash of the block's header.
    pub block: BlockHash,
}

impl Canonical for BodyOffer {
    const BYTES_MAX: usize = 64;
}

/// A signed block body as it travels: one proposal part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalBody {
    /// What is offered.
    pub offer: BodyOffer,
    /// Who offers it: the proposer of (height, round).
    pub proposer: ValidatorId,
    /// Canonical bytes of the [`crate::block::Block`].
    #[serde(with = "crate::codec::raw")]
    pub block: Vec<u8>,
    /// The proposer's signature over `offer`.
    pub signature: Signature,
}

impl Canonical for ProposalBody {
    const BYTES_MAX: usize = limits::BLOCK_BYTES_MAX + 512;
}

impl ProposalBody {
    /// Verifies the signature against the set's proposer for the offered (height, round).
    pub fn verify(&self, chain: &ChainId, validators: &ValidatorSet) -> Result<(), KeyError> {
        let expected = validators.proposer(self.offer.height, self.offer.round);
        if expected.key.validator_id() != self.proposer {
            return Err(KeyError::BadSignature);
        }
        let payload = codec::encode(&self.offer);
        expected.key.verify(Namespace::ProposalPart, chain, &payload, &self.signature)
    }
}

/// One validator's precommit in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitSignature {
    /// Who signed.
    pub validator: ValidatorId,
    /// Signature over the precommit [`Vote`].
    pub signature: Signature,
}

/// Proof that a block was decided: precommits of more than two thirds of the power.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitCertificate {
    /// Height decided.
    pub height: Height,
    /// Consensus round of the decision.
    pub round: u32,
    /// The block.
    pub block: BlockHash,
    /// Signatures in ascending order of validator id, no validator twice.
    pub signatures: Vec<CommitSignature>,
}

impl Canonical for CommitCertificate {
    const BYTES_MAX: usize = 128 * limits::VALIDATORS_MAX + 128;
}

/// Why a certificate was refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum CertificateError {
    /// Signatures out of order, or a validator twice.
    #[error("signatures are not in strictly ascending order")]
    Unordered,
    /// Somebody who is not a validator signed.
    #[error("{0} is not a validator at this height")]
    UnknownValidator(ValidatorId),
    /// A signature does not verify.
    #[error("the signature of {0} does not verify")]
    BadSignature(ValidatorId),
    /// Two thirds or less.
    #[error("signed by {signed} of {total} voting power")]
    NoQuorum {
        /// Power that signed.
        signed: u64,
        /// Total power.
        total: u64,
    },
}

impl CommitCertificate {
    /// Verifies order, signatures and quorum.
    pub fn verify(
        &self,
        chain: &ChainId,
        validators: &ValidatorSet,
    ) -> Result<(), CertificateError> {
        let mut previous = None;
        let mut signed: u64 = 0;
        for entry in &self.signatures {
            if previous.is_some_and(|p| p >= entry.validator) {
                return Err(CertificateError::Unordered);
            }
            previous = Some(entry.validator);
            let validator = validators
                .get(&entry.validator)
                .ok_or(CertificateError::UnknownValidator(entry.validator))?;
            let vote = Vote {
                height: self.height,
                round: self.round,
                kind: VoteKind::Precommit,
                block: Some(self.block),
                validator: entry.validator,
            };
            validator
                .key
                .verify(Namespace::Vote, chain, &codec::encode(&vote), &entry.signature)
                .map_err(|_| CertificateError::BadSignature(entry.validator))?;
            signed = signed.saturating_add(validator.power.get());
        }
        let total = validators.total_power();
        if is_quorum(signed, total) {
            Ok(())
        } else {
            Err(CertificateError::NoQuorum { signed, total })
        }
    }

    /// Hash that the next header commits to.
    pub fn hash(&self) -> ContentHash {
        codec::hash(self)
    }
}

/// Hash of an ordered list of hashes, for transaction roots.
pub fn list_root(context: &'static str, hashes: &[[u8; 32]]) -> ContentHash {
    let parts: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    ContentHash::from_bytes(derive(context, &parts))
}
