//! The engine's types: thin wrappers over `protocol::consensus`.
//!
//! What is signed and what proves a decision is fixed in `protocol`; this file only gives those
//! types the shapes that Malachite asks for. A value is a block hash, so votes, proposals and
//! values all speak of the same 32 bytes, and a block travels as one proposal part.

use std::fmt;
use std::sync::Arc;

use malachite_core_types as core;
use malachite_core_types::{LinearTimeouts, NilOrVal, Round};
use protocol::amount::Height as BlockHeight;
use protocol::block::BoundBlock;
use protocol::consensus::{self, ProposalBody, VoteKind};
use protocol::ids::{BlockHash, ValidatorId};
use protocol::keys::{KeyError, PublicKey, SecretKey};

/// Rounds above this are refused when decoded: the engine adds one to a round without checking.
pub const ROUND_MAX: u32 = 1_000_000;

/// The engine's context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AyniContext;

/// Height of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Height(pub BlockHeight);

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
pub struct Address(pub ValidatorId);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::Address for Address {}

/// A signature, ordered by its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature(pub protocol::keys::Signature);

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

/// Strict ed25519, as `protocol::keys` does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ed25519;

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
pub struct Validator {
    address: Address,
    inner: consensus::Validator,
}

impl core::Validator<AyniContext> for Validator {
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
pub struct ValidatorSet {
    members: Vec<Validator>,
    inner: consensus::ValidatorSet,
}

impl ValidatorSet {
    /// Wraps a set.
    pub fn new(inner: consensus::ValidatorSet) -> Self {
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

    /// The wrapped set.
    pub fn inner(&self) -> &consensus::ValidatorSet {
        &self.inner
    }
}

impl core::ValidatorSet<AyniContext> for ValidatorSet {
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
pub struct Value(pub BlockHash);

impl core::Value for Value {
    type Id = BlockHash;

    fn id(&self) -> BlockHash {
        self.0
    }
}

/// A block body: the only part of its proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The body as it was offered.
    pub body: ProposalBody,
    /// Its block, once somebody has parsed it: parsing costs more than the rest.
    pub block: Option<Arc<BoundBlock>>,
}

impl Part {
    /// A body whose block has not been parsed.
    pub const fn new(body: ProposalBody) -> Self {
        Self { body, block: None }
    }
}

impl core::ProposalPart<AyniContext> for Part {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

/// A proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    inner: consensus::Proposal,
    value: Value,
    proposer: Address,
}

impl Proposal {
    /// Wraps a proposal.
    pub fn new(inner: consensus::Proposal) -> Self {
        Self { value: Value(inner.block), proposer: Address(inner.proposer), inner }
    }

    /// The wrapped proposal, whose canonical bytes are signed.
    pub fn inner(&self) -> &consensus::Proposal {
        &self.inner
    }
}

impl core::Proposal<AyniContext> for Proposal {
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
pub struct Vote {
    inner: consensus::Vote,
    value: NilOrVal<BlockHash>,
    validator: Address,
}

impl Vote {
    /// Wraps a vote.
    pub fn new(inner: consensus::Vote) -> Self {
        Self {
            value: inner.block.map_or(NilOrVal::Nil, NilOrVal::Val),
            validator: Address(inner.validator),
            inner,
        }
    }

    /// The wrapped vote, whose canonical bytes are signed.
    pub fn inner(&self) -> &consensus::Vote {
        &self.inner
    }
}

impl core::Vote<AyniContext> for Vote {
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
        vote_type(self.inner.kind)
    }

    fn validator_address(&self) -> &Address {
        &self.validator
    }

    fn extension(&self) -> Option<&core::SignedExtension<AyniContext>> {
        None
    }

    fn take_extension(&mut self) -> Option<core::SignedExtension<AyniContext>> {
        None
    }

    /// Extensions are disabled, so the engine never makes one.
    fn extend(self, _: core::SignedExtension<AyniContext>) -> Self {
        self
    }
}

/// The engine's name of a vote kind.
pub(crate) fn vote_type(kind: VoteKind) -> core::VoteType {
    match kind {
        VoteKind::Prevote => core::VoteType::Prevote,
        VoteKind::Precommit => core::VoteType::Precommit,
    }
}

/// A round of the engine as it is signed. The engine never votes or proposes in the nil round.
pub(crate) fn defined(round: Round) -> u32 {
    round.as_u32().expect("votes and proposals are made in defined rounds only")
}

impl core::Context for AyniContext {
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
        let chosen = validators.inner.proposer(height.0, defined(round)).key.validator_id();
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
