//! Credits: balances, earnings, sending.

use serde::{Deserialize, Serialize};

use crate::amount::{Credits, Height};
use crate::ids::{AccountId, NodeId, TransactionHash};

/// Query of `GET /v1/credits/balance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalanceQuery {
    /// Whose; without it, the node's own account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
}

/// `GET /v1/credits/balance`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Whose.
    pub account: AccountId,
    /// Free to spend.
    pub balance_micro: Credits,
    /// The account's nodes.
    pub nodes: Vec<NodeBalance>,
    /// Locked in bonds of all nodes.
    pub bonded_micro: Credits,
}

/// What a node may spend on fees and bonds of its duties.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeBalance {
    /// The node.
    pub node: NodeId,
    /// Left in its allowance.
    pub allowance_micro: Credits,
    /// Locked in bonds.
    pub bonded_micro: Credits,
}

/// What an account has been paid since genesis, by role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earned {
    /// For deltas that improved a model.
    pub contributor_micro: Credits,
    /// For reviews.
    pub reviewer_micro: Credits,
    /// For blocks: rewards and tips.
    pub validator_micro: Credits,
    /// The treasury's share.
    pub treasury_micro: Credits,
}

/// An account on the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountSummary {
    /// The account.
    pub account: AccountId,
    /// Its nodes.
    pub nodes: Vec<NodeId>,
    /// Free to spend.
    pub balance_micro: Credits,
    /// In the allowances of its nodes.
    pub allowance_micro: Credits,
    /// Locked in bonds.
    pub bonded_micro: Credits,
    /// Paid since genesis.
    pub earned: Earned,
    /// Bonds lost since genesis.
    pub bonds_burned_micro: Credits,
}

/// `GET /v1/credits/accounts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// In order of id.
    pub accounts: Vec<AccountSummary>,
}

/// Body of `POST /v1/credits/send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    /// Receiver.
    pub to: AccountId,
    /// Amount, not zero.
    pub amount_micro: Credits,
}

/// A transaction that is in a final block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionReceipt {
    /// The transaction.
    pub transaction: TransactionHash,
    /// The block.
    pub height: Height,
}
