//! Transactions: what accounts and nodes ask of the ledger.

pub mod governance;
pub mod staking;
pub mod stamp;

use serde::{Deserialize, Serialize};

pub use governance::{Change, Choice, GovernanceAction, ProposalId};
pub use staking::StakingAction;
pub use stamp::{Work, WorkStamp};

use crate::amount::Credits;
use crate::codec::{self, Canonical};
use crate::ids::{
    AccountId, ChainId, Commitment, ContentHash, ContributionId, ModelId, NodeId, TransactionHash,
};
use crate::keys::{KeyError, Namespace, PublicKey, SecretKey, Signature};
use crate::limits;
use crate::model::{DeltaManifest, Head, ModelSpec, RoundParameters};
use crate::review::Review;

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// Moves credits to another account.
    Transfer {
        /// Receiver; created if unknown.
        to: AccountId,
        /// Amount, not zero.
        amount: Credits,
    },
    /// Binds a node's keys to the account and fills its allowance.
    RegisterNode(Box<RegisterNode>),
    /// Replaces the account key.
    RotateKey {
        /// The new key.
        new_key: PublicKey,
        /// Signature by the new key over the account id in [`Namespace::Possession`].
        possession: Signature,
    },
    /// Moves credits from the account to a node's allowance.
    FundNode {
        /// The node; must belong to the account.
        node: NodeId,
        /// Amount, not zero.
        amount: Credits,
    },
    /// Makes a dataset available for training.
    PublishDataset {
        /// Hash of the [`crate::model::DatasetManifest`].
        manifest: ContentHash,
        /// Name, see [`crate::model::check_name`].
        name: String,
        /// Number of shards.
        shards: u32,
        /// Total bytes of the shards.
        bytes: u64,
        /// Node that serves it first.
        node: NodeId,
    },
    /// Registers a model.
    RegisterModel {
        /// The specification.
        spec: ModelSpec,
    },
    /// Opens training rounds on a model.
    OpenRounds {
        /// The model.
        model: ModelId,
        /// How many rounds.
        rounds: u32,
        /// How each is run.
        parameters: RoundParameters,
        /// Pot paid in by the sponsor and shared equally by the rounds; may be zero for a model
        /// with governed weight.
        escrow: Credits,
    },
    /// Acts on stake.
    Staking(StakingAction),
    /// Acts in governance.
    Governance(GovernanceAction),
    /// Duty: takes part in the model's open round.
    JoinRound {
        /// The model.
        model: ModelId,
        /// The round.
        round: u32,
    },
    /// Duty: commits to a delta.
    SubmitCommit {
        /// The model.
        model: ModelId,
        /// The round.
        round: u32,
        /// See [`crate::commitment::submission`].
        commitment: Commitment,
    },
    /// Duty: reveals a delta.
    Submit {
        /// Covering letter.
        manifest: Box<DeltaManifest>,
        /// Opens the commitment.
        salt: [u8; 32],
    },
    /// Duty: commits to a review.
    ReviewCommit {
        /// What is reviewed.
        contribution: ContributionId,
        /// See [`crate::commitment::review`].
        commitment: Commitment,
    },
    /// Duty: reveals a review.
    ReviewReveal {
        /// What is reviewed.
        contribution: ContributionId,
        /// The review.
        review: Review,
        /// Opens the commitment.
        salt: [u8; 32],
    },
    /// Duty: states the next head.
    AttestHead {
        /// The model.
        model: ModelId,
        /// The round.
        round: u32,
        /// The head that the attestor computed.
        head: Head,
        /// Hash of the checkpoint bytes keyed by the attestor, see
        /// [`crate::commitment::PossessionHasher`]; cannot be copied from others.
        possession: Commitment,
        /// Measured gain of the new head over its parent.
        gain: crate::review::Gain,
    },
    /// Duty: an accepted delta cannot be fetched.
    AttestUnavailable {
        /// The delta.
        contribution: ContributionId,
    },
}

impl Payload {
    /// Whether a duty key may sign this, paid from its node's allowance.
    pub const fn is_duty(&self) -> bool {
        matches!(
            self,
            Self::JoinRound { .. }
                | Self::SubmitCommit { .. }
                | Self::Submit { .. }
                | Self::ReviewCommit { .. }
                | Self::ReviewReveal { .. }
                | Self::AttestHead { .. }
                | Self::AttestUnavailable { .. }
        )
    }

    /// Whether work may stand in for the fee: what a newcomer needs to earn its first reward.
    pub const fn may_be_stamped(&self) -> bool {
        self.is_duty() || matches!(self, Self::RegisterNode(_))
    }

    /// Name for receipts and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Transfer { .. } => "transfer",
            Self::RegisterNode(_) => "register_node",
            Self::RotateKey { .. } => "rotate_key",
            Self::FundNode { .. } => "fund_node",
            Self::PublishDataset { .. } => "publish_dataset",
            Self::RegisterModel { .. } => "register_model",
            Self::OpenRounds { .. } => "open_rounds",
            Self::Staking(action) => action.name(),
            Self::Governance(action) => action.name(),
            Self::JoinRound { .. } => "join_round",
            Self::SubmitCommit { .. } => "submit_commit",
            Self::Submit { .. } => "submit",
            Self::ReviewCommit { .. } => "review_commit",
            Self::ReviewReveal { .. } => "review_reveal",
            Self::AttestHead { .. } => "attest_head",
            Self::AttestUnavailable { .. } => "attest_unavailable",
        }
    }
}

/// What a node offers to do. Duties are drawn only from those who offer them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// Reviews contributions.
    pub reviews: bool,
    /// Merges deltas and attests heads.
    pub merges: bool,
    /// Serves blobs to others.
    pub hosts: bool,
    /// Takes part in consensus when it has stake.
    pub validates: bool,
}

/// The keys of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeKeys {
    /// libp2p identity.
    pub node: PublicKey,
    /// Consensus votes.
    pub consensus: PublicKey,
    /// Beacon contributions.
    pub vrf: PublicKey,
    /// Duty transactions.
    pub duty: PublicKey,
}

/// Binding of a node's keys to an account, each with a proof of possession: a signature over
/// the account id in [`Namespace::Possession`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterNode {
    /// The keys.
    pub keys: NodeKeys,
    /// Proof for `keys.node`.
    pub node_proof: Signature,
    /// Proof for `keys.consensus`.
    pub consensus_proof: Signature,
    /// Proof for `keys.vrf`.
    pub vrf_proof: Signature,
    /// Proof for `keys.duty`.
    pub duty_proof: Signature,
    /// What the node offers.
    pub capabilities: Capabilities,
    /// Moved from the account to the node's allowance, for fees and bonds of duties.
    pub allowance: Credits,
}

/// Somebody else who pays the fee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeePayer {
    /// The account that pays.
    pub account: AccountId,
    /// Its account key.
    pub key: PublicKey,
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// The chain it is meant for.
    pub chain: ChainId,
    /// Whose transaction it is.
    pub account: AccountId,
    /// The key that signs: the account key, or a duty key for duties.
    pub key: PublicKey,
    /// Number of earlier transactions of (account, key).
    pub nonce: u64,
    /// Paid to the proposer on top of the burned base fee.
    pub tip: Credits,
    /// Most that base fee and tip may cost together. The base fee moves from block to block.
    pub fee_max: Credits,
    /// Work instead of a fee; then tip and `fee_max` are zero and nobody pays.
    pub stamp: Option<WorkStamp>,
    /// Pays the fee instead of the account.
    pub fee_payer: Option<FeePayer>,
    /// What it does.
    pub payload: Payload,
}

impl Canonical for Transaction {
    const BYTES_MAX: usize = limits::TRANSACTION_BYTES_MAX;
}

/// A transaction with its signatures, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTransaction {
    /// What is signed.
    pub transaction: Transaction,
    /// By `transaction.key`.
    pub signature: Signature,
    /// By the fee payer's key, if there is one.
    pub fee_payer_signature: Option<Signature>,
}

impl Canonical for SignedTransaction {
    const BYTES_MAX: usize = limits::TRANSACTION_BYTES_MAX;
}

impl SignedTransaction {
    /// Signs with the transaction's own key.
    pub fn sign(transaction: Transaction, key: &SecretKey) -> Self {
        let bytes = codec::encode(&transaction);
        let signature = key.sign(Namespace::Transaction, &transaction.chain, &bytes);
        Self { transaction, signature, fee_payer_signature: None }
    }

    /// Adds the fee payer's signature.
    pub fn sign_as_fee_payer(mut self, key: &SecretKey) -> Self {
        let bytes = codec::encode(&self.transaction);
        self.fee_payer_signature =
            Some(key.sign(Namespace::FeePayer, &self.transaction.chain, &bytes));
        self
    }

    /// The transaction's hash, over signatures too.
    pub fn hash(&self) -> TransactionHash {
        TransactionHash::from_bytes(*codec::hash(self).as_bytes())
    }

    /// Verifies every signature and the chain.
    pub fn verify(self, chain: &ChainId) -> Result<VerifiedTransaction, KeyError> {
        let transaction = &self.transaction;
        if transaction.chain != *chain {
            return Err(KeyError::BadSignature);
        }
        let bytes = codec::encode(transaction);
        transaction.key.verify(Namespace::Transaction, chain, &bytes, &self.signature)?;
        match (&transaction.fee_payer, &self.fee_payer_signature) {
            (None, None) => {}
            (Some(payer), Some(signature)) => {
                payer.key.verify(Namespace::FeePayer, chain, &bytes, signature)?;
            }
            _ => return Err(KeyError::BadSignature),
        }
        let size = codec::encode(&self).len();
        if size > limits::TRANSACTION_BYTES_MAX {
            return Err(KeyError::BadSignature);
        }
        let hash = self.hash();
        Ok(VerifiedTransaction { signed: self, hash, size })
    }
}

/// A transaction whose signatures have been verified; the only kind that rules accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedTransaction {
    signed: SignedTransaction,
    hash: TransactionHash,
    size: usize,
}

impl VerifiedTransaction {
    /// The signed transaction.
    pub const fn signed(&self) -> &SignedTransaction {
        &self.signed
    }

    /// What it does and for whom.
    pub const fn transaction(&self) -> &Transaction {
        &self.signed.transaction
    }

    /// Its hash.
    pub const fn hash(&self) -> TransactionHash {
        self.hash
    }

    /// Its size in bytes.
    pub const fn size(&self) -> usize {
        self.size
    }
}
