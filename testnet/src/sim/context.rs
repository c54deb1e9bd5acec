//! The engine's types under the simulator: thin wrappers over `protocol::consensus`.
//!
//! A mirror of the daemon's context (this crate must not depend on `daemon`): a value is a block
//! hash, what is signed is the canonical encoding of the protocol's own types, and a block
//! travels as one proposal part, which the core never looks into.

use std::fmt;

use malachite_core_types as core;
use malachite_core_types::{LinearTimeouts, NilOrVal, Round};
use protocol::amount::Height as BlockHeight;
use protocol::consensus::{self, VoteKind};
use protocol::ids::{BlockHash, ValidatorId};
use protocol::keys::{KeyError, PublicKey, SecretKey};

use super::chain;

/// The engine's context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SimContext;

/// Height of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Height(pub(super) BlockHeight);

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::Height for Height {
    const ZERO: Self = Self(BlockHeight::ZERO);
    const INITIAL: Self = Self(BlockHeight::new(1));

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.plus(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.get().checked_sub(n).map(|height| Self(BlockHeight::new(height)))
    }

    fn as_u64(&self) -> u64 {
        self.0.get()
    }
}

/// A validator's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address(pub(super) ValidatorId);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::Address for Address {}

/// A signature, ordered by its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signature(pub(super) protocol::keys::Signature);

impl PartialOrd for Signature {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Signature {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_bytes().cmp(other.0.as_bytes())
    }
}

/// ed25519, as `protocol::keys` does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ed25519;

impl core::SigningScheme for Ed25519 {
    type DecodingError = KeyError;
    type Signature = Signature;
    type PublicKey = PublicKey;
    type PrivateKey = SecretKey;

    fn decode_signature(bytes: &[u8]) -> Result<Signature, KeyError> {
        let bytes = bytes.try_into().map_err(|_| KeyError::BadSignature)?;
        Ok(Signature(protocol::keys::Signature::from_bytes(bytes)))
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.0.as_bytes().to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<PublicKey, KeyError> {
        PublicKey::from_bytes(bytes.try_into().map_err(|_| KeyError::WeakKey)?)
    }

    fn encode_public_key(key: &PublicKey) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}

/// A validator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validator {
    address: Address,
    inner: consensus::Validator,
}

impl core::Validator<SimContext> for Validator {
    fn address(&self) -> &Address {
        &self.address
    }

    fn public_key(&self) -> &PublicKey {
        &self.inner.key
    }

    fn voting_power(&self) -> u64 {
        self.inner.power.get()
    }
}

/// The validators of a height, in the order of `protocol`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ValidatorSet {
    members: Vec<Validator>,
    inner: consensus::ValidatorSet,
}

impl ValidatorSet {
    pub(super) fn new(inner: consensus::ValidatorSet) -> Self {
        let members = inner
            .as_slice()
            .iter()
            .map(|validator| Validator {
                address: Address(validator.key.validator_id()),
                inner: validator.clone(),
            })
            .collect();
        Self { members, inner }
    }

    pub(super) const fn inner(&self) -> &consensus::ValidatorSet {
        &self.inner
    }

    pub(super) fn contains(&self, address: &Address) -> bool {
        self.members.iter().any(|member| member.address == *address)
    }
}

impl core::ValidatorSet<SimContext> for ValidatorSet {
    fn count(&self) -> usize {
        self.members.len()
    }

    fn total_voting_power(&self) -> u64 {
        self.inner.total_power()
    }

    fn get_by_address(&self, address: &Address) -> Option<&Validator> {
        self.members.iter().find(|validator| validator.address == *address)
    }

    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.members.get(index)
    }
}

/// What is decided: a block, by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Value(pub(super) BlockHash);

impl core::Value for Value {
    type Id = BlockHash;

    fn id(&self) -> BlockHash {
        self.0
    }
}

/// Bodies travel outside the core, which never sees a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part;

impl core::ProposalPart<SimContext> for Part {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

/// A proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    inner: consensus::Proposal,
    value: Value,
    proposer: Address,
}

impl Proposal {
    pub(super) const fn new(inner: consensus::Proposal) -> Self {
        Self { value: Value(inner.block), proposer: Address(inner.proposer), inner }
    }

    pub(super) const fn inner(&self) -> &consensus::Proposal {
        &self.inner
    }
}

impl core::Proposal<SimContext> for Proposal {
    fn height(&self) -> Height {
        Height(self.inner.height)
    }

    fn round(&self) -> Round {
        Round::new(self.inner.round)
    }

    fn value(&self) -> &Value {
        &self.value
    }

    fn take_value(self) -> Value {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.inner.pol_round.map_or(Round::Nil, Round::new)
    }

    fn validator_address(&self) -> &Address {
        &self.proposer
    }
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    inner: consensus::Vote,
    value: NilOrVal<BlockHash>,
    validator: Address,
}

impl Vote {
    pub(super) fn new(inner: consensus::Vote) -> Self {
        Self {
            value: inner.block.map_or(NilOrVal::Nil, NilOrVal::Val),
            validator: Address(inner.validator),
            inner,
        }
    }

    pub(super) const fn inner(&self) -> &consensus::Vote {
        &self.inner
    }
}

impl core::Vote<SimContext> for Vote {
    fn height(&self) -> Height {
        Height(self.inner.height)
    }

    fn round(&self) -> Round {
        Round::new(self.inner.round)
    }

    fn value(&self) -> &NilOrVal<BlockHash> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<BlockHash> {
        self.value
    }

    fn vote_type(&self) -> core::VoteType {
        match self.inner.kind {
            VoteKind::Prevote => core::VoteType::Prevote,
            VoteKind::Precommit => core::VoteType::Precommit,
        }
    }

    fn validator_address(&self) -> &Address {
        &self.validator
    }

    fn extension(&self) -> Option<&core::SignedExtension<SimContext>> {
        None
    }

    fn take_extension(&mut self) -> Option<core::SignedExtension<SimContext>> {
        None
    }

    /// Extensions are disabled, so the core never makes one.
    fn extend(self, _: core::SignedExtension<SimContext>) -> Self {
        self
    }
}

/// A round of the engine as it is signed. The engine never votes or proposes in the nil round.
pub(super) fn defined(round: Round) -> u32 {
    round.as_u32().expect("votes and proposals are made in defined rounds only")
}

impl core::Context for SimContext {
    type Address = Address;
    type Height = Height;
    type ProposalPart = Part;
    type Proposal = Proposal;
    type Validator = Validator;
    type ValidatorSet = ValidatorSet;
    type Timeouts = LinearTimeouts;
    type Value = Value;
    type Vote = Vote;
    type Extension = ();
    type SigningScheme = Ed25519;

    fn select_proposer<'a>(
        &self,
        validators: &'a ValidatorSet,
        height: Height,
        round: Round,
    ) -> &'a Validator {
        let chosen = chain::proposer(&validators.inner, height.0, defined(round));
        validators
            .members
            .iter()
            .find(|validator| validator.address.0 == chosen)
            .expect("the proposer is a member of its set")
    }

    fn new_proposal(
        &self,
        height: Height,
        round: Round,
        value: Value,
        pol_round: Round,
        proposer: Address,
    ) -> Proposal {
        Proposal::new(consensus::Proposal {
            height: height.0,
            round: defined(round),
            pol_round: pol_round.as_u32(),
            block: value.0,
            proposer: proposer.0,
        })
    }

    fn new_prevote(
        &self,
        height: Height,
        round: Round,
        value: NilOrVal<BlockHash>,
        validator: Address,
    ) -> Vote {
        new_vote(VoteKind::Prevote, height, round, value, validator)
    }

    fn new_precommit(
        &self,
        height: Height,
        round: Round,
        value: NilOrVal<BlockHash>,
        validator: Address,
    ) -> Vote {
        new_vote(VoteKind::Precommit, height, round, value, validator)
    }
}

fn new_vote(
    kind: VoteKind,
    height: Height,
    round: Round,
    value: NilOrVal<BlockHash>,
    validator: Address,
) -> Vote {
    let block = match value {
        NilOrVal::Nil => None,
        NilOrVal::Val(block) => Some(block),
    };
    Vote::new(consensus::Vote {
        height: height.0,
        round: defined(round),
        kind,
        block,
        validator: validator.0,
    })
}
