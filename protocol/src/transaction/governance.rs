//! What accounts do in governance.

use serde::{Deserialize, Serialize};

use crate::amount::{Credits, Height};
use crate::ids::{AccountId, ContentHash, ModelId};

/// Number of a proposal, counted from 1.
pub type ProposalId = u64;

/// What a proposal changes when it passes. Execution is automatic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Sets parameters of the rules, by name.
    Parameters(Vec<(String, u64)>),
    /// Adopts a text, named by its content; changes no rule.
    Text {
        /// The text.
        content: ContentHash,
    },
    /// Admits a dataset to training, or removes it.
    Dataset {
        /// Its manifest.
        manifest: ContentHash,
        /// Whether it may train models from now on.
        admitted: bool,
    },
    /// Sets a model's share of the emission.
    ModelWeight {
        /// The model.
        model: ModelId,
        /// The share.
        weight_ppm: u32,
    },
    /// Directs the training of a model to some datasets; none lifts the direction.
    Direction {
        /// The model.
        model: ModelId,
        /// The only datasets that rounds opened from now on train on.
        datasets: Vec<ContentHash>,
    },
    /// Pays from the treasury.
    TreasurySpend {
        /// Who receives.
        to: AccountId,
        /// How much.
        amount: Credits,
    },
    /// Activates a version of the rules at a height.
    Rules {
        /// The version.
        version: u32,
        /// The first height it applies to.
        height: Height,
    },
    /// Pauses or resumes a model at once: no round opens, no member joins while it is paused.
    Pause {
        /// The model.
        model: ModelId,
        /// Whether it is paused.
        paused: bool,
    },
}

/// A choice in a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// For it.
    Yes,
    /// Against it.
    No,
    /// Counts for the quorum only.
    Abstain,
    /// Against it, and the deposit should burn.
    Veto,
}

/// An action in governance, always of the account that signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GovernanceAction {
    /// Opens a vote and locks the deposit.
    Propose {
        /// One line for people.
        title: String,
        /// What it changes.
        change: Change,
    },
    /// Votes with one's stake; a later ballot replaces an earlier one.
    Ballot {
        /// The proposal.
        proposal: ProposalId,
        /// The choice.
        choice: Choice,
        /// Conviction: each step adds the stake once more, and locks it an unbonding longer.
        conviction: u8,
    },
}

impl GovernanceAction {
    /// Name for receipts and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Propose { .. } => "propose",
            Self::Ballot { .. } => "ballot",
        }
    }
}
