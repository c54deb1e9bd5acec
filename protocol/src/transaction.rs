//! Transactions: what accounts and nodes ask of the ledger.

pub mod governance;
pub mod staking;
pub mod stamp;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use governance::{Change, Choice, GovernanceAction, ProposalId};
pub use staking::StakingAction;
pub use stamp::{Work, WorkStamp};

use crate::amount::Credits;
use crate::codec::{self, Canonical, CodecError};
use crate::ids::{
    AccountId, ChainId, Commitment, ContentHash, ContributionId, ModelId, NodeId, TransactionHash,
};
use crate::keys::{KeyError, Namespace, PublicKey, SecretKey, Signature};
use crate::limits;
use crate::model::{DataKind, DeltaManifest, Head, ModelSpec, RoundParameters};
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
        /// What they hold.
        kind: DataKind,
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
        Ok(VerifiedTransaction(Arc::new(Verified { signed: self, hash, size })))
    }
}

/// Why bytes are not a verified transaction.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum Unverified {
    /// Not a transaction.
    #[error("not a transaction: {0}")]
    Codec(#[from] CodecError),
    /// Made for another chain.
    #[error("the transaction is for another chain")]
    ForeignChain,
    /// Not signed by whom it names.
    #[error("{0}")]
    Key(#[from] KeyError),
}

impl Unverified {
    /// The code that programs decide on. Codes are never changed, only added.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Codec(CodecError::TooLarge { .. }) => "too_large",
            Self::Codec(_) => "malformed",
            Self::ForeignChain => "foreign_chain",
            Self::Key(_) => "bad_signature",
        }
    }
}

/// Bytes of a signature in canonical encoding.
const SIGNATURE_BYTES: usize = 64;

/// The part of a signed transaction's canonical bytes that is signed: everything before the
/// signature and the optional one of the fee payer, each absence or presence a byte.
fn signed_part(bytes: &[u8], has_payer: bool) -> &[u8] {
    let after = if has_payer { SIGNATURE_BYTES.saturating_mul(2) } else { SIGNATURE_BYTES };
    let end = bytes.len().saturating_sub(after).saturating_sub(1);
    bytes.get(..end).unwrap_or_default()
}

/// A transaction whose signatures have been verified; the only kind that rules accept. A clone is
/// another reference to the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedTransaction(Arc<Verified>);

#[derive(Debug, PartialEq, Eq)]
struct Verified {
    signed: SignedTransaction,
    hash: TransactionHash,
    size: usize,
}

impl VerifiedTransaction {
    /// Parses canonical bytes and verifies every signature over them as they are.
    pub fn parse(bytes: &[u8], chain: &ChainId) -> Result<Self, Unverified> {
        let signed: SignedTransaction = codec::decode(bytes)?;
        let transaction = &signed.transaction;
        if transaction.chain != *chain {
            return Err(Unverified::ForeignChain);
        }
        let part = signed_part(bytes, signed.fee_payer_signature.is_some());
        transaction.key.verify(Namespace::Transaction, chain, part, &signed.signature)?;
        match (&transaction.fee_payer, &signed.fee_payer_signature) {
            (None, None) => {}
            (Some(payer), Some(signature)) => {
                payer.key.verify(Namespace::FeePayer, chain, part, signature)?;
            }
            _ => return Err(KeyError::BadSignature.into()),
        }
        let hash = TransactionHash::from_bytes(*ContentHash::of(bytes).as_bytes());
        Ok(Self(Arc::new(Verified { signed, hash, size: bytes.len() })))
    }

    /// The signed transaction.
    pub fn signed(&self) -> &SignedTransaction {
        &self.0.signed
    }

    /// What it does and for whom.
    pub fn transaction(&self) -> &Transaction {
        &self.0.signed.transaction
    }

    /// Its hash.
    pub fn hash(&self) -> TransactionHash {
        self.0.hash
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.0.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(payer: Option<&SecretKey>) -> SignedTransaction {
        let key = SecretKey::from_seed(&[1; 32]);
        let transaction = Transaction {
            chain: ChainId::from_bytes([7; 32]),
            account: key.public().account_id(),
            key: key.public(),
            nonce: 300,
            tip: Credits::from_micro(5),
            fee_max: Credits::from_micro(500),
            stamp: None,
            fee_payer: payer
                .map(|p| FeePayer { account: p.public().account_id(), key: p.public() }),
            payload: Payload::Transfer {
                to: key.public().account_id(),
                amount: Credits::from_micro(1),
            },
        };
        let signed = SignedTransaction::sign(transaction, &key);
        match payer {
            Some(payer) => signed.sign_as_fee_payer(payer),
            None => signed,
        }
    }

    #[test]
    fn parsing_and_verifying_agree() {
        let chain = ChainId::from_bytes([7; 32]);
        let payer = SecretKey::from_seed(&[2; 32]);
        for signed in [sample(None), sample(Some(&payer))] {
            let bytes = codec::encode(&signed);
            let has_payer = signed.fee_payer_signature.is_some();
            assert_eq!(signed_part(&bytes, has_payer), codec::encode(&signed.transaction));
            let parsed = VerifiedTransaction::parse(&bytes, &chain).expect("just signed");
            assert_eq!(parsed, signed.verify(&chain).expect("just signed"));
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert!(VerifiedTransaction::parse(&changed, &chain).is_err(), "byte {at}");
            }
            let other = ChainId::from_bytes([8; 32]);
            let refused = VerifiedTransaction::parse(&bytes, &other).expect_err("another chain");
            assert_eq!(refused.code(), "foreign_chain");
        }
        let mut unsigned = sample(Some(&payer));
        unsigned.fee_payer_signature = None;
        let refused = VerifiedTransaction::parse(&codec::encode(&unsigned), &chain);
        assert_eq!(refused.expect_err("nobody has signed for the payer").code(), "bad_signature");
    }
}
