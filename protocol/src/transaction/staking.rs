//! What accounts do with stake.

use serde::{Deserialize, Serialize};

use crate::amount::Credits;
use crate::ids::NodeId;

/// An action on stake, always of the account that signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StakingAction {
    /// Puts credits at stake on a node: a bond on one's own, a delegation on another's.
    Bond {
        /// The node.
        node: NodeId,
        /// Amount, not zero.
        amount: Credits,
    },
    /// Takes credits off a node; they stay at stake for the unbonding delay.
    Unbond {
        /// The node.
        node: NodeId,
        /// Amount, not zero.
        amount: Credits,
    },
    /// Moves stake to another node at once; it stays answerable for what the first did.
    Redelegate {
        /// From this node.
        from: NodeId,
        /// To this one.
        to: NodeId,
        /// Amount, not zero.
        amount: Credits,
    },
    /// Sets the commission on delegators' rewards of one's own node.
    SetCommission {
        /// The node.
        node: NodeId,
        /// The commission.
        commission_ppm: u32,
    },
    /// Ends the jail of one's own node once its time is over.
    Unjail {
        /// The node.
        node: NodeId,
    },
    /// Pays out the rewards of one's stake on a node.
    ClaimRewards {
        /// The node.
        node: NodeId,
    },
}

impl StakingAction {
    /// Name for receipts and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Bond { .. } => "bond",
            Self::Unbond { .. } => "unbond",
            Self::Redelegate { .. } => "redelegate",
            Self::SetCommission { .. } => "set_commission",
            Self::Unjail { .. } => "unjail",
            Self::ClaimRewards { .. } => "claim_rewards",
        }
    }
}
