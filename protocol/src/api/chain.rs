//! The chain: blocks, transactions, validators, the numbers of the rules, and the audit.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::amount::{Credits, Height, TimestampMs, VotingPower};
use crate::ids::{
    AccountId, Beacon, BlockHash, ContentHash, NodeId, StateRoot, TransactionHash, ValidatorId,
};
use crate::ledger::parameters::Parameter;
use crate::transaction::Transaction;

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
    /// What a byte of its transactions cost; none when the node does not know it any more.
    pub base_fee_per_byte_micro: Option<Credits>,
}

/// A block by height or by hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRef {
    /// The block of this height.
    Height(Height),
    /// The block with this hash.
    Hash(BlockHash),
}

/// Why a text names no block.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is neither a height nor a block hash of 64 hexadecimal digits")]
pub struct BlockRefError(String);

impl FromStr for BlockRef {
    type Err = BlockRefError;

    fn from_str(text: &str) -> Result<Self, BlockRefError> {
        if let Ok(hash) = text.parse() {
            return Ok(Self::Hash(hash));
        }
        // `u64::from_str` takes a leading plus, which would be a second spelling.
        let height = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let refused = || BlockRefError(text.chars().take(80).collect());
        height.map(|h| Self::Height(Height::new(h))).ok_or_else(refused)
    }
}

impl From<Height> for BlockRef {
    fn from(height: Height) -> Self {
        Self::Height(height)
    }
}

impl fmt::Display for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Height(height) => height.fmt(f),
            Self::Hash(hash) => hash.fmt(f),
        }
    }
}

/// `GET /v1/chain/block/{height or hash}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDetail {
    /// The block.
    pub summary: BlockSummary,
    /// Version of the rules that applied it.
    pub rules_version: u32,
    /// Hash of the parent's header.
    pub parent: BlockHash,
    /// Hash of the parent's certificate; zero for the first block.
    pub parent_certificate: ContentHash,
    /// Root of transactions and evidence.
    pub contents: ContentHash,
    /// Hash of the validator set of the next height.
    pub next_validators: ContentHash,
    /// Its random beacon.
    pub beacon: Beacon,
    /// Hash of a state snapshot, if it commits to one.
    pub snapshot: Option<ContentHash>,
    /// Who signed its certificate.
    pub signers: Vec<BlockSigner>,
    /// Its evidence in order.
    pub evidence: Vec<EvidenceSummary>,
    /// Its transactions in order.
    pub transactions: Vec<TransactionSummary>,
}

/// A validator that signed a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSigner {
    /// The validator.
    pub validator: ValidatorId,
    /// Its node.
    pub node: Option<NodeId>,
    /// The account of its node.
    pub account: Option<AccountId>,
}

/// Proof of misbehaviour, at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceSummary {
    /// What was done: `double_vote`, `double_proposal`.
    pub kind: String,
    /// Who did it.
    pub validator: ValidatorId,
    /// At which height.
    pub height: Height,
    /// In which round.
    pub round: u32,
    /// With which kind of vote: `prevote`, `precommit`, `proposal`.
    pub vote: String,
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
    /// Size of its canonical bytes.
    pub bytes: u64,
    /// What it cost, the tip included; none when the node does not know it any more.
    pub fee_micro: Option<Credits>,
}

/// `GET /v1/chain/tx/{hash}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionDetail {
    /// Its hash.
    pub hash: TransactionHash,
    /// Where it is; none while it waits for a block.
    pub inclusion: Option<Inclusion>,
    /// What it does: `transfer`, `join_round`.
    pub kind: String,
    /// Size of its canonical bytes.
    pub bytes: u64,
    /// What it cost, the tip included; none while it waits, and when the node does not know it
    /// any more.
    pub fee_micro: Option<Credits>,
    /// The transaction.
    pub transaction: Transaction,
}

/// Where a final transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inclusion {
    /// Height of its block.
    pub height: Height,
    /// Hash of its block.
    pub block: BlockHash,
    /// Its place in the block, from 0.
    pub index: u32,
    /// The clock of the block's proposer.
    pub time_ms: TimestampMs,
}

/// Query of `GET /v1/chain/validators`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidatorsQuery {
    /// The height they decide: that of the last block or one of the two after it. Without it, the
    /// height in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<Height>,
}

/// `GET /v1/chain/validators`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validators {
    /// The height they decide.
    pub height: Height,
    /// Hash of the set, as the header before commits to it.
    pub hash: ContentHash,
    /// Sum of their power.
    pub total_power: VotingPower,
    /// Blocks over which absences are counted.
    pub window_blocks: u64,
    /// Those with power, the most powerful first; then those without.
    pub validators: Vec<ValidatorSummary>,
}

/// Why a validator has power or has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidatorState {
    /// It decides this height.
    Active,
    /// It has too little stake, or just joined.
    Waiting,
    /// It was away for too long; its owner can end that with `unjail`.
    Jailed,
    /// It signed twice and never comes back.
    Tombstoned,
}

/// A node that validates, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorSummary {
    /// Its consensus key.
    pub validator: ValidatorId,
    /// Its node.
    pub node: Option<NodeId>,
    /// The account of its node.
    pub account: Option<AccountId>,
    /// Its power at the height.
    pub power: VotingPower,
    /// Its share of the power.
    pub share_ppm: u32,
    /// Credits at stake on it, its own and others'.
    pub stake_micro: Credits,
    /// Its commission on delegators' rewards.
    pub commission_ppm: u32,
    /// Blocks of the window that it signed.
    pub signed_blocks: u64,
    /// Blocks of the window that it missed.
    pub missed_blocks: u64,
    /// Why it has power or has none.
    pub state: ValidatorState,
    /// When a jail may end, for one that is jailed.
    pub jailed_until_ms: Option<TimestampMs>,
}

/// `GET /v1/chain/params`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainParameters {
    /// Block after which they hold.
    pub height: Height,
    /// Version of the rules of the next block.
    pub rules_version: u32,
    /// A version that was voted for and waits for its height.
    pub rules_ahead: Option<RulesAhead>,
    /// What a byte of a transaction costs in the next block.
    pub base_fee_per_byte_micro: Credits,
    /// The governed numbers.
    pub parameters: Vec<ParameterSummary>,
}

/// A version of the rules that was voted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesAhead {
    /// The version.
    pub version: u32,
    /// The first height that it applies to.
    pub height: Height,
}

/// A governed number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterSummary {
    /// Name, ending in its unit.
    pub name: String,
    /// Value.
    pub value: u64,
    /// Smallest allowed.
    pub min: u64,
    /// Largest allowed.
    pub max: u64,
    /// What it does.
    pub about: String,
}

impl From<Parameter> for ParameterSummary {
    fn from(of: Parameter) -> Self {
        let Parameter { name, value, min, max, about } = of;
        Self { name: name.to_owned(), value, min, max, about: about.to_owned() }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_named_by_height_or_hash() {
        let hash = BlockHash::from_bytes([0x11; 32]);
        // Digits alone, and yet a hash: heights are not that long.
        assert_eq!(hash.to_string().parse(), Ok(BlockRef::Hash(hash)));
        assert_eq!("7".parse(), Ok(BlockRef::Height(Height::new(7))));
        for bad in ["", "+7", "-1", "abc", "18446744073709551616", " 7"] {
            assert!(bad.parse::<BlockRef>().is_err(), "{bad}");
        }
    }
}
