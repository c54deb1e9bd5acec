//! What accounts do in governance.

use serde::{Deserialize, Serialize};

use crate::amount::{Credits, Height};
use crate::ids::{AccountId, ContentHash, ModelId};
use crate::limits;
use crate::model::DocumentError;

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
    /// Sets a model's share of the emission. The shares of all models are the whole at most.
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
    /// Pauses or resumes a model: no round opens or starts, no member joins while it is paused.
    Pause {
        /// The model.
        model: ModelId,
        /// Whether it is paused.
        paused: bool,
    },
}

impl Change {
    /// Whether it is decided in haste: a short vote, two thirds of the stake that votes, no
    /// timelock. Only a pause is. It harms nothing but time; to resume is what an attacker of
    /// the model would hurry to, so that goes the way of every other change.
    pub const fn is_emergency(&self) -> bool {
        matches!(self, Self::Pause { paused: true, .. })
    }

    /// Name for tables and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Parameters(_) => "parameters",
            Self::Text { .. } => "text",
            Self::Dataset { admitted: true, .. } => "admit_dataset",
            Self::Dataset { .. } => "remove_dataset",
            Self::ModelWeight { .. } => "model_weight",
            Self::Direction { .. } => "direction",
            Self::TreasurySpend { .. } => "treasury_spend",
            Self::Rules { .. } => "rules",
            Self::Pause { paused: true, .. } => "pause",
            Self::Pause { .. } => "resume",
        }
    }
}

/// Checks the title of a proposal: one line that a terminal shows as it is.
pub fn check_title(title: &str) -> Result<(), DocumentError> {
    // Marks that reorder or hide what stands beside them.
    let is_hidden = |c: char| {
        matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}')
    };
    let fits = (1..=limits::TITLE_BYTES_MAX).contains(&title.len())
        && title.trim() == title
        && !title.chars().any(|c| c.is_control() || is_hidden(c));
    if fits {
        Ok(())
    } else {
        let reason = "1 to 120 bytes of visible text in one line";
        Err(DocumentError::OutOfRange { field: "title", reason })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_one_visible_line() {
        let check = |title: &str, expect: bool| {
            assert_eq!(check_title(title).is_ok(), expect, "{title:?}");
        };
        check("Halve the base fee", true);
        check("Más datos en quechua: ñuqanchik", true);
        check(&"a".repeat(120), true);
        check(&"a".repeat(121), false);
        check("", false);
        check("   ", false);
        check("two\nlines", false);
        check("\u{1b}[2Jcleared", false);
        check("\u{202e}desrever", false);
        check("hid\u{200b}den", false);
    }
}
