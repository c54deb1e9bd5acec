//! Blocks and their headers.

mod bound;

use serde::{Deserialize, Serialize};

use crate::amount::{Height, TimestampMs};
use crate::codec::{self, Canonical};
use crate::consensus::{CommitCertificate, Proposal, Vote, list_root};
use crate::ids::{
    Beacon, BlockHash, ChainId, ContentHash, StateRoot, TransactionHash, ValidatorId,
};
use crate::keys::Signature;
use crate::limits;
use crate::transaction::SignedTransaction;

pub use bound::{BoundBlock, Unbound};

/// What validators agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The chain.
    pub chain: ChainId,
    /// Version of the rules that apply the block.
    pub rules_version: u32,
    /// Height; the first block has 1.
    pub height: Height,
    /// Who built it.
    pub proposer: ValidatorId,
    /// The proposer's clock. Chain time is a median of these.
    pub time: TimestampMs,
    /// Hash of the parent's header; zero for the first block.
    pub parent: BlockHash,
    /// Hash of the parent's certificate; zero for the first block.
    pub parent_certificate: ContentHash,
    /// Root of the transactions, in order.
    pub transactions: ContentHash,
    /// Root of the state after the parent was applied.
    pub state: StateRoot,
    /// Hash of the validator set of the next height.
    pub next_validators: ContentHash,
    /// Random beacon of this height.
    pub beacon: Beacon,
    /// Proof of the beacon's contribution. Empty while the beacon is a hash chain.
    pub beacon_proof: Vec<u8>,
    /// Hash of a state snapshot, at heights that have one.
    pub snapshot: Option<ContentHash>,
}

impl Canonical for Header {
    const BYTES_MAX: usize = 1024;
}

impl Header {
    /// The block's hash.
    pub fn hash(&self) -> BlockHash {
        BlockHash::from_bytes(*codec::hash(self).as_bytes())
    }
}

/// Proof of misbehaviour. Fee-less, re-verified by everybody who applies the block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// Two different votes of one validator for one (height, round, kind).
    DoubleVote {
        /// First vote and its signature.
        first: (Vote, Signature),
        /// Second vote and its signature.
        second: (Vote, Signature),
    },
    /// Proposals of two blocks by one validator for one (height, round).
    DoubleProposal {
        /// First proposal and its signature.
        first: (Proposal, Signature),
        /// Second proposal and its signature.
        second: (Proposal, Signature),
    },
}

impl Evidence {
    /// Of two votes, in the order in which evidence has to name them.
    pub fn double_vote(a: (Vote, Signature), b: (Vote, Signature)) -> Self {
        let (first, second) = if a.0.block <= b.0.block { (a, b) } else { (b, a) };
        Self::DoubleVote { first, second }
    }

    /// Of two proposals, in the order in which evidence has to name them.
    pub fn double_proposal(a: (Proposal, Signature), b: (Proposal, Signature)) -> Self {
        let (first, second) = if a.0.block <= b.0.block { (a, b) } else { (b, a) };
        Self::DoubleProposal { first, second }
    }
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// Transactions in order.
    pub transactions: Vec<SignedTransaction>,
    /// Certificate of the parent; none for the first block.
    pub parent_certificate: Option<CommitCertificate>,
    /// Evidence in order.
    pub evidence: Vec<Evidence>,
}

impl Canonical for Block {
    const BYTES_MAX: usize = limits::BLOCK_BYTES_MAX;
}

impl Block {
    /// Root over transactions and evidence, in order.
    pub fn contents_root(transactions: &[SignedTransaction], evidence: &[Evidence]) -> ContentHash {
        let hashes: Vec<_> = transactions.iter().map(SignedTransaction::hash).collect();
        Self::root_of(&hashes, evidence)
    }

    /// The same over the transactions' hashes.
    fn root_of(transactions: &[TransactionHash], evidence: &[Evidence]) -> ContentHash {
        let mut hashes: Vec<[u8; 32]> = transactions.iter().map(|t| *t.as_bytes()).collect();
        hashes.extend(evidence.iter().map(|e| *codec::hash(e).as_bytes()));
        list_root("ayni 2026 block contents v1", &hashes)
    }
}

impl Canonical for Evidence {
    const BYTES_MAX: usize = 512;
}

/// A block with the certificate that decided it: what the log stores and sync sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedBlock {
    /// Canonical bytes of the [`Block`].
    #[serde(with = "crate::codec::raw")]
    pub block: Vec<u8>,
    /// Its certificate.
    pub certificate: CommitCertificate,
}

impl Canonical for DecidedBlock {
    const BYTES_MAX: usize = limits::BLOCK_BYTES_MAX + CommitCertificate::BYTES_MAX + 16;
}
