//! The chain: blocks and the audit.

use serde::{Deserialize, Serialize};

use crate::amount::{Credits, Height, TimestampMs};
use crate::ids::{AccountId, Beacon, BlockHash, StateRoot, TransactionHash, ValidatorId};

/// Query of `GET /v1/chain/blocks`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlocksQuery {
    /// First height; without it, the latest blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Height>,
    /// How many, at most [`BlocksQuery::LIMIT_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl BlocksQuery {
    /// Blocks in one reply at most; more would make one request read much of the log.
    pub const LIMIT_MAX: u32 = 256;
    /// Blocks in one reply when the query does not say.
    pub const LIMIT_DEFAULT: u32 = 20;

    /// The limit, within its bounds.
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(Self::LIMIT_DEFAULT).min(Self::LIMIT_MAX)
    }
}

/// `GET /v1/chain/blocks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// In ascending height.
    pub blocks: Vec<BlockSummary>,
}

/// A block at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSummary {
    /// Height.
    pub height: Height,
    /// Hash of the header.
    pub hash: BlockHash,
    /// The proposer's clock.
    pub time_ms: TimestampMs,
    /// Who built it.
    pub proposer: ValidatorId,
    /// Consensus round in which it was decided.
    pub round: u32,
    /// Signatures in its certificate.
    pub signatures: u32,
    /// Root of the state before it.
    pub parent_state_root: StateRoot,
    /// Transactions in it.
    pub transactions: u32,
    /// Evidence in it.
    pub evidence: u32,
    /// Size of its canonical bytes.
    pub bytes: u64,
}

/// `GET /v1/chain/block/{height}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDetail {
    /// The block.
    pub summary: BlockSummary,
    /// Hash of the parent's header.
    pub parent: BlockHash,
    /// Its random beacon.
    pub beacon: Beacon,
    /// Its transactions in order.
    pub transactions: Vec<TransactionSummary>,
}

/// A transaction in a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionSummary {
    /// Its hash.
    pub hash: TransactionHash,
    /// What it does: `transfer`, `join_round`.
    pub kind: String,
    /// Whose it is.
    pub account: AccountId,
    /// Number of earlier ones of the same key.
    pub nonce: u64,
    /// Paid to the proposer on top of the base fee.
    pub tip_micro: Credits,
}

/// `GET /v1/chain/audit`: the invariant that supply = genesis + minted - burned, recounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Block after which it holds.
    pub height: Height,
    /// Root of the state that was counted.
    pub state_root: StateRoot,
    /// Credits in the genesis.
    pub genesis_micro: Credits,
    /// Credits minted since.
    pub minted_micro: Credits,
    /// Credits burned since.
    pub burned_micro: Credits,
    /// Sum of every balance, allowance, bond, escrow and pot in the state.
    pub total_micro: Credits,
    /// Whether `total = genesis + minted - burned`, exactly.
    pub credits_conserved: bool,
    /// Evidence of double signing on the chain.
    pub double_signs: u64,
}
