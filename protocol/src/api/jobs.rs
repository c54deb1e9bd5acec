//! Long work: a job has an id, progress, and a result or an error.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::api::{ApiError, TransactionReceipt};
use crate::ids::{ContentHash, HeadId, ModelId};

/// Number of a job, unique while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(u64);

impl JobId {
    /// Wraps a number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Reply to a request that starts a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStarted {
    /// The job.
    pub job: JobId,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Cuts, stores and announces a dataset.
    PublishDataset,
    /// Makes initial weights and registers a model.
    CreateModel,
    /// Measures the loss of a head.
    Evaluate,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Not finished.
    Running,
    /// Finished; there is a result.
    Done,
    /// Finished; there is an error.
    Failed,
    /// Stopped on request.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen.
    pub const fn is_finished(self) -> bool {
        !matches!(self, Self::Running)
    }
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Units done.
    pub done: u64,
    /// Units in all; 0 while unknown.
    pub total: u64,
    /// What is being done, for people.
    pub message: String,
}

/// What a finished job gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobResult {
    /// A dataset is on the ledger.
    PublishDataset {
        /// Hash of its manifest.
        manifest: ContentHash,
        /// Shards.
        shards: u32,
        /// Documents (files) in them.
        documents: u32,
        /// Their size.
        bytes: u64,
        /// Files left out because they are not UTF-8 text, or too large.
        files_skipped: u32,
        /// Where it was announced.
        receipt: TransactionReceipt,
    },
    /// A model is on the ledger.
    CreateModel {
        /// The model.
        model: ModelId,
        /// Its parameters.
        parameters: u64,
        /// Hash of the initial weights.
        initial_checkpoint: ContentHash,
        /// Where it was registered.
        receipt: TransactionReceipt,
    },
    /// A loss was measured.
    Evaluate {
        /// The model.
        model: ModelId,
        /// The head.
        head: HeadId,
        /// Mean loss in nano-nats per byte.
        loss_nanonats: u64,
        /// Windows read.
        windows: u32,
        /// Bytes predicted.
        bytes: u64,
    },
}

/// `GET /v1/jobs/{id}`, and each event of `GET /v1/jobs/{id}/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The job.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Where it stands.
    pub state: JobState,
    /// How far it is.
    pub progress: JobProgress,
    /// What it gave, when done.
    pub result: Option<JobResult>,
    /// Why it failed, when failed.
    pub error: Option<ApiError>,
}
