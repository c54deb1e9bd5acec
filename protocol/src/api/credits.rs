//! Credits: balances, earnings, sending, history.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::amount::{Credits, Height, TimestampMs};
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

/// A place between transactions, `height:index`: pages go on before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryCursor {
    /// Height of a block.
    pub height: Height,
    /// Place of a transaction in it.
    pub index: u32,
}

/// Why a text is no cursor.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no place in the history; write HEIGHT or HEIGHT:INDEX")]
pub struct HistoryCursorError(String);

impl FromStr for HistoryCursor {
    type Err = HistoryCursorError;

    fn from_str(text: &str) -> Result<Self, HistoryCursorError> {
        let refused = || HistoryCursorError(text.chars().take(80).collect());
        let (height, index) = text.split_once(':').unwrap_or((text, "0"));
        if !text.bytes().all(|b| b.is_ascii_digit() || b == b':') {
            return Err(refused());
        }
        Ok(Self {
            height: Height::new(height.parse().map_err(|_| refused())?),
            index: index.parse().map_err(|_| refused())?,
        })
    }
}

impl fmt::Display for HistoryCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.height, self.index)
    }
}

impl Serialize for HistoryCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HistoryCursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Query of `GET /v1/credits/history`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Whose; without it, the node's own account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// Only transactions before this place; without it, the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<HistoryCursor>,
    /// How many, at most [`HistoryQuery::LIMIT_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl HistoryQuery {
    /// Transactions in one reply at most: each may cost the node a block to read.
    pub const LIMIT_MAX: u32 = 100;
    /// Transactions in one reply when the query does not say.
    pub const LIMIT_DEFAULT: u32 = 20;

    /// The limit, within its bounds.
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(Self::LIMIT_DEFAULT).min(Self::LIMIT_MAX)
    }
}

/// `GET /v1/credits/history`: an account's transactions and those that pay it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryPage {
    /// Whose.
    pub account: AccountId,
    /// Newest first.
    pub entries: Vec<HistoryEntry>,
    /// Where older ones begin, if there may be any.
    pub older: Option<HistoryCursor>,
    /// Height up to which the node has searched its blocks; below the chain's while it catches up.
    pub searched: Height,
}

/// Which way credits went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryDirection {
    /// From the account to another, or to stake.
    Out,
    /// To the account.
    In,
    /// Nothing but a fee.
    None,
}

/// A transaction in an account's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The transaction.
    pub transaction: TransactionHash,
    /// Its place.
    pub at: HistoryCursor,
    /// The clock of the block's proposer.
    pub time_ms: TimestampMs,
    /// What it does: `transfer`, `bond`.
    pub kind: String,
    /// Which way credits went.
    pub direction: HistoryDirection,
    /// The other account, if there is one.
    pub account: Option<AccountId>,
    /// The node it concerns, if there is one.
    pub node: Option<NodeId>,
    /// What was moved, the fee aside.
    pub amount_micro: Option<Credits>,
    /// What this account paid for it; none when the node does not know it any more.
    pub fee_micro: Option<Credits>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back() {
        let at = HistoryCursor { height: Height::new(7), index: 3 };
        assert_eq!(at.to_string().parse(), Ok(at));
        assert_eq!("7".parse(), Ok(HistoryCursor { index: 0, ..at }));
        for bad in ["", ":", "7:", "+7", "7:-1", "7:4294967296", "a:1", "1:2:3"] {
            assert!(bad.parse::<HistoryCursor>().is_err(), "{bad}");
        }
    }
}
