//! Training rounds, this node's part in them, and reviews.

use serde::{Deserialize, Serialize};

use crate::amount::{Credits, Height, TimestampMs};
use crate::api::{JobProgress, ModelRef, TransactionReceipt};
use crate::ids::{AccountId, ContentHash, ContributionId, HeadId, ModelId, NodeId};
use crate::model::RoundParameters;
use crate::review::{Gain, Verdict};
use crate::worker::PrivacyOutcome;

/// Body of `POST /v1/rounds`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRoundsRequest {
    /// The model.
    pub model: ModelRef,
    /// How many rounds.
    pub rounds: u32,
    /// How each is run; without them, the defaults.
    #[serde(default)]
    pub parameters: Option<RoundParameters>,
    /// Pot paid in by the sponsor and shared equally by the rounds.
    #[serde(default)]
    pub escrow_micro: Credits,
}

/// Reply to `POST /v1/rounds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundsOpened {
    /// The model.
    pub model: ModelId,
    /// Number of the first of the rounds.
    pub first_round: u32,
    /// How many.
    pub rounds: u32,
    /// Where they were opened.
    pub receipt: TransactionReceipt,
}

/// Query of `GET /v1/rounds`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundsQuery {
    /// The model.
    pub model: ModelRef,
    /// First round; without it, the latest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    /// How many, at most [`RoundsQuery::LIMIT_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl RoundsQuery {
    /// Rounds in one reply at most.
    pub const LIMIT_MAX: u32 = 256;
    /// Rounds in one reply when the query does not say.
    pub const LIMIT_DEFAULT: u32 = 64;

    /// The limit, within its bounds.
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(Self::LIMIT_DEFAULT).min(Self::LIMIT_MAX)
    }
}

/// `GET /v1/rounds`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rounds {
    /// The model.
    pub model: ModelId,
    /// In ascending order.
    pub rounds: Vec<Round>,
}

/// What a training round is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundPhase {
    /// Members.
    Join,
    /// Commitments to deltas.
    Train,
    /// Deltas.
    Submit,
    /// Commitments to reviews.
    Review,
    /// Reviews.
    Reveal,
    /// Attestations of the next head.
    Attest,
    /// Nothing: a head was certified.
    Certified,
    /// Nothing: too few members, deltas or attestations; head = parent.
    Failed,
}

impl RoundPhase {
    /// Whether nothing more will happen in the round.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Certified | Self::Failed)
    }
}

/// A training round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Its number; the model's first has 1.
    pub round: u32,
    /// What it waits for.
    pub phase: RoundPhase,
    /// Chain time at which the phase ends with its default outcome, while it is not finished.
    pub deadline_ms: Option<TimestampMs>,
    /// Height at which it began.
    pub opened_height: Height,
    /// Who joined, in order.
    pub members: Vec<NodeId>,
    /// The head it starts from.
    pub parent: HeadId,
    /// The head it made, once certified.
    pub head: Option<HeadId>,
    /// Attestors' stake behind the head.
    pub certified_by_stake_ppm: u32,
    /// Gain of the new head over its parent, once attested.
    pub gain: Option<Gain>,
    /// Deltas submitted, in the round's order.
    pub deltas: Vec<Contribution>,
    /// To be shared by the round.
    pub pot_micro: Credits,
    /// Paid out of the pot.
    pub paid_micro: Credits,
}

/// A delta under review, or reviewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contribution {
    /// Its id.
    pub id: ContributionId,
    /// The model.
    pub model: ModelId,
    /// The round.
    pub round: u32,
    /// Node that made it.
    pub author: NodeId,
    /// That node's account.
    pub account: AccountId,
    /// Hash of the manifest.
    pub manifest: ContentHash,
    /// Size of the encoded delta.
    pub payload_bytes: u64,
    /// Size in thousandths of a bit per parameter of the model.
    pub millibits_per_parameter: u64,
    /// What the panel decided; `None` until then.
    pub verdict: Option<Verdict>,
    /// Measured gain that is paid for, in ppm of the base loss; `None` until measured.
    pub score_ppm: Option<i64>,
    /// Equal verdicts that decide.
    pub quorum: u32,
    /// The panel in seat order; empty until drawn.
    pub reviews: Vec<PanelReview>,
    /// Bond locked for it.
    pub bond_micro: Credits,
    /// Whether the bond was burned.
    pub bond_burned: bool,
    /// Paid to the author.
    pub paid_micro: Credits,
}

/// A seat of a panel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PanelReview {
    /// Who reviews.
    pub reviewer: NodeId,
    /// Whether a review was committed.
    pub committed: bool,
    /// The verdict, once revealed.
    pub verdict: Option<Verdict>,
    /// The measured gain, once revealed.
    pub gain: Option<Gain>,
    /// Paid to the reviewer.
    pub paid_micro: Credits,
}

/// Query of `GET /v1/reviews`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewsQuery {
    /// Only of this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    /// How many of the latest, at most [`RoundsQuery::LIMIT_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl ReviewsQuery {
    /// The limit, within its bounds.
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(RoundsQuery::LIMIT_DEFAULT).min(RoundsQuery::LIMIT_MAX)
    }
}

/// `GET /v1/reviews`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contributions {
    /// The latest last.
    pub contributions: Vec<Contribution>,
}

/// Body of `POST /v1/train/join`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainJoinRequest {
    /// The model.
    pub model: ModelRef,
}

/// What a node owes a training round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DutyKind {
    /// Inner steps, a delta, its commitment.
    Train,
    /// Revealing the delta.
    Submit,
    /// Measuring somebody's delta.
    Review,
    /// Computing and attesting the next head.
    Merge,
}

/// A duty of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DutyStatus {
    /// What is owed.
    pub kind: DutyKind,
    /// The model.
    pub model: ModelId,
    /// The round.
    pub round: u32,
    /// How far it is.
    pub progress: JobProgress,
    /// Loss of the latest step in nano-nats per byte, while training.
    pub loss_nanonats: Option<u64>,
    /// Bytes, or records of a classifier, trained per second.
    #[serde(default)]
    pub per_second: Option<u64>,
    /// Milliseconds until it is done at the present speed.
    #[serde(default)]
    pub eta_ms: Option<u64>,
    /// Whether it has ended, well or not.
    pub finished: bool,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// `GET /v1/train/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainStatus {
    /// Models whose rounds this node joins.
    pub joined: Vec<ModelId>,
    /// Whether it joins the rounds of every model.
    pub auto_join: bool,
    /// What it is doing now.
    pub duties: Vec<DutyStatus>,
    /// Mean loss of the first tenth of the steps of the last training, nano-nats per byte.
    pub loss_first_nanonats: Option<u64>,
    /// Mean loss of the last tenth of the steps of the last training, nano-nats per byte.
    pub loss_last_nanonats: Option<u64>,
    /// Rounds trained in since the daemon started.
    pub rounds_trained: u64,
    /// Deltas revealed since the daemon started.
    pub deltas_submitted: u64,
    /// Deltas of this node in certified heads, by the ledger.
    pub deltas_accepted: u64,
    /// Reviews revealed since the daemon started.
    pub reviews_done: u64,
    /// Heads attested since the daemon started.
    pub heads_attested: u64,
    /// What the noise on this node's deltas with private data amounts to, since one was made.
    #[serde(default)]
    pub privacy: Option<PrivacyOutcome>,
}
