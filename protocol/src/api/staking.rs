//! Stake: what an account does with it, and what it has.

use serde::{Deserialize, Serialize};

use crate::amount::{Credits, Height, TimestampMs};
use crate::api::ValidatorState;
use crate::ids::{AccountId, NodeId};

/// Body of `POST /v1/credits/stake`. A node that is left out is the one that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum StakeRequest {
    /// Puts credits at stake on a node: a bond on an own one, a delegation on another's.
    Stake {
        /// The node.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
        /// Amount, not zero.
        amount_micro: Credits,
    },
    /// Takes credits off a node; they come back after the unbonding delay.
    Unstake {
        /// The node.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
        /// Amount, not zero.
        amount_micro: Credits,
    },
    /// Moves stake to another node at once.
    Redelegate {
        /// From this node.
        from: NodeId,
        /// To this one.
        to: NodeId,
        /// Amount, not zero.
        amount_micro: Credits,
    },
    /// Sets the commission of an own node.
    Commission {
        /// The node.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
        /// The commission.
        commission_ppm: u32,
    },
    /// Ends the jail of an own node.
    Unjail {
        /// The node.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
    },
    /// Pays out what stake on a node has earned.
    Claim {
        /// The node.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
    },
}

/// Query of `GET /v1/credits/stakes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StakesQuery {
    /// Whose; without it, the node's own account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
}

/// `GET /v1/credits/stakes`: what an account has at stake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stakes {
    /// Whose.
    pub account: AccountId,
    /// Block after which it holds.
    pub height: Height,
    /// At stake now, on all nodes: what its ballots weigh.
    pub staked_micro: Credits,
    /// On its way back.
    pub unbonding_micro: Credits,
    /// Earned and not claimed.
    pub rewards_micro: Credits,
    /// Until when a ballot with conviction keeps the stake where it is.
    pub locked_until_ms: Option<TimestampMs>,
    /// By node.
    pub delegations: Vec<Delegation>,
    /// By node, oldest first.
    pub unbonding: Vec<Unbonding>,
}

/// Stake of an account on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// The node.
    pub node: NodeId,
    /// The account that runs it.
    pub owner: Option<AccountId>,
    /// What the stake is worth.
    pub amount_micro: Credits,
    /// What it has earned and not claimed.
    pub rewards_micro: Credits,
    /// The owner's commission that is not claimed; zero for everybody else.
    pub commission_micro: Credits,
    /// The node's commission on rewards.
    pub commission_ppm: u32,
    /// The commission from the next epoch on.
    pub commission_next_ppm: u32,
    /// Whether the node has power, and why not.
    pub state: ValidatorState,
}

/// Stake on its way back to the balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unbonding {
    /// The node that it left.
    pub node: NodeId,
    /// What it would pay now, after the slashes that reach it.
    pub amount_micro: Credits,
    /// Paid when chain time has reached this...
    pub due_ms: TimestampMs,
    /// ...and the height this; later if a vote lengthens the delay.
    pub due_height: Height,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_as_documented() {
        let stake = StakeRequest::Stake { node: None, amount_micro: Credits::from_micro(5) };
        let json = serde_json::to_string(&stake).expect("plain types");
        assert_eq!(json, r#"{"action":"stake","amount_micro":5}"#);
        assert_eq!(serde_json::from_str::<StakeRequest>(&json).expect("own JSON"), stake);
        let bare: StakeRequest = serde_json::from_str(r#"{"action":"unjail"}"#).expect("no node");
        assert_eq!(bare, StakeRequest::Unjail { node: None });
        for bad in [r#"{"action":"stake","amount_micro":5,"nod":1}"#, r#"{"action":"steal"}"#] {
            assert!(serde_json::from_str::<StakeRequest>(bad).is_err(), "{bad}");
        }
    }
}
