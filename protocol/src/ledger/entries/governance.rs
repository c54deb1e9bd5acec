//! What the state holds of governance: proposals, ballots, locks, and the rules in force.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::amount::{Credits, Height, TimestampMs};
use crate::codec::Canonical;
use crate::ids::{AccountId, ContentHash};
use crate::limits;
use crate::transaction::{Change, Choice, ProposalId};

/// What was voted so far. Weights are micro-credits of stake, each times one plus the conviction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Weight for it.
    pub yes: u64,
    /// Weight against it.
    pub no: u64,
    /// Weight of those who only take part.
    pub abstain: u64,
    /// Weight of those who want the deposit burned.
    pub veto: u64,
    /// Stake that took part, without conviction: what the quorum asks for.
    pub turnout: Credits,
}

/// Why a change cannot be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Parameters out of their range, or not consistent with those of today.
    #[error("the parameters do not fit those in force")]
    Parameters,
    /// The model is not on the ledger.
    #[error("the ledger has no such model")]
    Model,
    /// A dataset is not on the ledger.
    #[error("the ledger has no such dataset")]
    Dataset,
    /// Nothing, too much, or something twice in the list.
    #[error("the list is empty, too long, or names something twice")]
    List,
    /// Weights above the whole.
    #[error("the weights of all models are at most 1,000,000 ppm together; lower another first")]
    Weight,
    /// The treasury has less than is asked, or nothing is asked.
    #[error("the treasury does not hold the amount, or it is zero")]
    Treasury,
    /// Not the version after the one in force, nor a withdrawal of one that waits.
    #[error("rules follow one version at a time")]
    RulesVersion,
    /// Too near for people to install the program.
    #[error("rules need at least {} blocks of notice", limits::RULES_NOTICE_BLOCKS_MIN)]
    RulesNotice,
    /// Nothing would change.
    #[error("it is so already")]
    Already,
    /// Another rule refused it when it was executed.
    #[error("another rule refused it")]
    Refused,
}

/// Where a proposal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProposalStatus {
    /// Ballots are taken.
    Voting,
    /// Adopted; waits for its time.
    Passed {
        /// Chain time from which it is executed.
        execute_at: TimestampMs,
    },
    /// Over: not enough yes.
    Rejected,
    /// Over: vetoed, the deposit is burned.
    Vetoed,
    /// Over: too few took part, the deposit is burned.
    NoQuorum,
    /// Over: took effect.
    Executed {
        /// In this block.
        height: Height,
    },
    /// Over: adopted, but could not take effect when its time had come.
    Failed {
        /// Why.
        reason: Failure,
    },
}

impl ProposalStatus {
    /// Whether something can still happen.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Voting | Self::Passed { .. })
    }
}

/// A proposal and its vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Its number.
    pub id: ProposalId,
    /// Who proposed and paid the deposit.
    pub author: AccountId,
    /// One line for people.
    pub title: String,
    /// What it changes.
    pub change: Change,
    /// Deposit still locked; zero once it was returned or burned.
    pub deposit: Credits,
    /// Chain time of the proposal.
    pub submitted: TimestampMs,
    /// Height of the proposal.
    pub submitted_height: Height,
    /// The vote is over when chain time has reached this...
    pub ends: TimestampMs,
    /// ...and the height this.
    pub ends_height: Height,
    /// What was voted.
    pub tally: Tally,
    /// The most stake that was bonded at the proposal, at a ballot, or at the close: who votes
    /// and leaves must not make the quorum smaller.
    pub stake_total: Credits,
    /// Where it stands.
    pub status: ProposalStatus,
}

impl Canonical for Proposal {
    const BYTES_MAX: usize = 8 * 1024;
}

/// The ballot of an account on a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// The proposal.
    pub proposal: ProposalId,
    /// Whose ballot it is.
    pub account: AccountId,
    /// The choice.
    pub choice: Choice,
    /// Its conviction.
    pub conviction: u8,
    /// Stake of the account when it voted.
    pub stake: Credits,
    /// What the ballot adds to the tally.
    pub weight: u64,
}

impl Canonical for Ballot {
    const BYTES_MAX: usize = 128;
}

/// Until when the stake of an account stays where it is. A lock only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StakeLock {
    /// Chain time at which it ends.
    pub until: TimestampMs,
}

impl Canonical for StakeLock {
    const BYTES_MAX: usize = 16;
}

/// A text that was adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedText {
    /// By this proposal.
    pub proposal: ProposalId,
    /// The text.
    pub content: ContentHash,
}

/// Which proposals there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agenda {
    /// Proposals made so far; the last has this number.
    pub proposals: u64,
    /// The smallest number that may still be stored, less one.
    pub forgotten: u64,
    /// Proposals that are not over, in ascending order.
    pub active: Vec<ProposalId>,
    /// Proposals that are over and may still have ballots stored.
    pub emptying: Vec<ProposalId>,
    /// The texts adopted last, oldest first.
    pub texts: Vec<AdoptedText>,
}

impl Canonical for Agenda {
    const BYTES_MAX: usize = 16 * 1024;
}

/// A version of the rules that will be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesChange {
    /// The version.
    pub version: u32,
    /// The first height it applies to.
    pub height: Height,
}

/// The versions of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// In force before `next`.
    pub version: u32,
    /// Decided to follow, or in force already when its height has come.
    pub next: Option<RulesChange>,
}

impl Canonical for Rules {
    const BYTES_MAX: usize = 32;
}

impl Rules {
    /// The version in force at a height.
    pub fn version_at(&self, height: Height) -> u32 {
        match self.next {
            Some(next) if height >= next.height => next.version,
            _ => self.version,
        }
    }
}
