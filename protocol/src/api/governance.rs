//! Governance: proposals and ballots.

use serde::{Deserialize, Serialize};

use crate::amount::{Credits, Height, TimestampMs};
use crate::api::TransactionReceipt;
use crate::ids::AccountId;
use crate::ledger::entries::ProposalStatus;
use crate::limits;
use crate::transaction::{Change, Choice, ProposalId};

/// Body of `POST /v1/governance/proposals`. A [`Change`] is written as the ledger has it:
/// `{"parameters":[["quorum_ppm",400000]]}`, amounts in micro-credits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposeRequest {
    /// One line for people.
    pub title: String,
    /// What it changes.
    pub change: Change,
}

/// A proposal that is in a final block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposed {
    /// Its number.
    pub proposal: ProposalId,
    /// Where it is.
    pub receipt: TransactionReceipt,
}

/// Body of `POST /v1/governance/ballots`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BallotRequest {
    /// The proposal.
    pub proposal: ProposalId,
    /// The choice.
    pub choice: Choice,
    /// Each step adds the stake once more, and locks it an unbonding longer.
    #[serde(default)]
    pub conviction: u8,
}

/// Query of `GET /v1/governance/proposals`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposalsQuery {
    /// Those that are over, too.
    #[serde(default)]
    pub all: bool,
    /// Only numbers below this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<ProposalId>,
    /// How many, at most [`ProposalsQuery::LIMIT_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl ProposalsQuery {
    /// Proposals in one reply at most.
    pub const LIMIT_MAX: u32 = 100;
    /// Proposals in one reply when the query does not say.
    pub const LIMIT_DEFAULT: u32 = 20;

    /// The limit, within its bounds.
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(Self::LIMIT_DEFAULT).min(Self::LIMIT_MAX)
    }
}

/// `GET /v1/governance/proposals`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposals {
    /// Block after which they stand so.
    pub height: Height,
    /// Chain time after it.
    pub chain_time_ms: TimestampMs,
    /// Newest first.
    pub proposals: Vec<Proposal>,
}

/// A proposal and how its vote stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Its number.
    pub id: ProposalId,
    /// Who proposed it and paid the deposit.
    pub author: AccountId,
    /// One line for people.
    pub title: String,
    /// What it changes.
    pub change: Change,
    /// Where it stands.
    pub status: ProposalStatus,
    /// Deposit still locked.
    pub deposit_micro: Credits,
    /// When it was made.
    pub submitted_height: Height,
    /// The vote is over when chain time has reached this...
    pub ends_ms: TimestampMs,
    /// ...and the height this.
    pub ends_height: Height,
    /// Whether it is decided fast, by more than two thirds of all votes.
    pub is_emergency: bool,
    /// What was voted.
    pub tally: Tally,
    /// What it needs.
    pub needs: Needs,
}

/// What was voted. Weights are stake, each times one plus the conviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Weight for it.
    pub yes_micro: Credits,
    /// Weight against it.
    pub no_micro: Credits,
    /// Weight of those who only take part.
    pub abstain_micro: Credits,
    /// Weight of those who want the deposit burned.
    pub veto_micro: Credits,
    /// Stake that took part, without conviction.
    pub turnout_micro: Credits,
    /// Stake that could take part.
    pub stake_micro: Credits,
    /// Turnout among the stake: what the quorum asks for.
    pub turnout_ppm: u32,
    /// Yes among yes, no and veto (in an emergency, among all votes).
    pub yes_ppm: u32,
    /// Veto among all votes.
    pub veto_ppm: u32,
}

/// Shares at which a vote is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Turnout that must be reached.
    pub quorum_ppm: u64,
    /// Share of yes that must be exceeded.
    pub threshold_ppm: u64,
    /// Share of veto that must not be reached.
    pub veto_ppm: u64,
}

/// Query of `GET /v1/governance/proposals/{id}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposalQuery {
    /// Ballots to leave out first, at most [`limits::BALLOTS_OFFSET_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<u32>,
    /// Ballots to list, at most [`limits::BALLOTS_PAGE_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl ProposalQuery {
    /// Ballots in one reply when the query does not say.
    pub const LIMIT_DEFAULT: u32 = 50;

    /// The limit, within its bounds.
    pub fn limit(&self) -> usize {
        let limit = self.limit.unwrap_or(Self::LIMIT_DEFAULT);
        usize::try_from(limit).unwrap_or(usize::MAX).min(limits::BALLOTS_PAGE_MAX)
    }
}

/// `GET /v1/governance/proposals/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalDetail {
    /// Chain time of the node.
    pub chain_time_ms: TimestampMs,
    /// The proposal.
    pub proposal: Proposal,
    /// A page of its ballots, in the order of accounts. They are kept while the vote is open.
    pub ballots: Vec<Ballot>,
    /// Whether there are ballots after these.
    pub more: bool,
}

/// A ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// Whose it is.
    pub account: AccountId,
    /// The choice.
    pub choice: Choice,
    /// Its conviction.
    pub conviction: u8,
    /// Stake of the account when it voted.
    pub stake_micro: Credits,
    /// What it adds to the tally.
    pub weight_micro: Credits,
}
