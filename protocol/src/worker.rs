//! What daemon and worker say to each other.
//!
//! Over standard input and output go frames: a little-endian `u32` length, then the canonical
//! bytes of a [`WorkerRequest`] or [`WorkerReply`]. One job runs at a time; a job is cancelled by
//! killing the worker. Tensors and texts travel as files in a job directory that both see; a
//! [`FileName`] is a plain name inside it. The worker is hostile too: the daemon opens what it
//! wrote without following links, checks the size, copies, hashes.

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::codec::Canonical;
use crate::ids::ContentHash;
use crate::limits;
use crate::model::{Determinism, ModelSpec, RoundParameters};

/// Version of this conversation; a worker of another version is refused.
pub const WORKER_PROTOCOL_VERSION: u32 = 1;

/// A file inside the job directory: 1 to 80 characters of `a-z A-Z 0-9 - _ .`, not starting
/// with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct FileName(String);

/// A file name that could leave the job directory.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
#[error("not a plain file name: {0:?}")]
pub struct FileNameError(pub String);

impl FileName {
    /// Checks and wraps a name.
    pub fn new(name: impl Into<String>) -> Result<Self, FileNameError> {
        let name = name.into();
        let fits = (1..=80).contains(&name.len())
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if fits { Ok(Self(name)) } else { Err(FileNameError(name.chars().take(80).collect())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for FileName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// From the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerRequest {
    /// Who are you? Answered with [`WorkerOutcome::Described`].
    Describe,
    /// Make the initial checkpoint of an architecture and seed (other fields of the
    /// specification are ignored).
    Initialize {
        /// The model.
        spec: ModelSpec,
        /// Checkpoint to write.
        checkpoint_out: FileName,
    },
    /// Inner steps and a delta.
    Train(TrainJob),
    /// Losses of variants of a head.
    Evaluate(EvaluateJob),
    /// The next head.
    Merge(MergeJob),
    /// Text.
    Generate(GenerateJob),
}

impl Canonical for WorkerRequest {
    const BYTES_MAX: usize = limits::WORKER_FRAME_BYTES_MAX;
}

/// Inner training of one member in one round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainJob {
    /// The model.
    pub spec: ModelSpec,
    /// The round's parameters.
    pub parameters: RoundParameters,
    /// Steps to run; the round's `inner_steps`, or another number for a stand-alone run.
    pub steps: u32,
    /// Seed of the window order.
    pub seed: u64,
    /// Checkpoint to start from.
    pub checkpoint: FileName,
    /// Texts to train on (public shards and private files alike).
    pub texts: Vec<FileName>,
    /// Error feedback that goes in (safetensors, as written before); none means zero.
    pub feedback: Option<FileName>,
    /// Delta and error feedback to write; none for a stand-alone run.
    pub delta: Option<DeltaOutputs>,
    /// Trained checkpoint to write; none when only the delta is wanted.
    pub checkpoint_out: Option<FileName>,
}

/// Files that a training job writes for a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaOutputs {
    /// The encoded delta.
    pub payload: FileName,
    /// Error feedback for the case that the delta is accepted (a - Δ̂).
    pub feedback_accepted: FileName,
    /// Error feedback for the case that it is not (a).
    pub feedback_rejected: FileName,
}

/// A delta of a round as it takes part in merging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmittedDelta {
    /// The encoded delta.
    pub payload: FileName,
    /// Its merge weight in ppm; 0 for a delta that only counts for the clipping norms.
    pub weight_ppm: u32,
}

/// A head with some deltas merged into it, to be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Merge weight in ppm of each submitted delta, in the job's order; empty is the head itself.
    pub weights_ppm: Vec<u32>,
}

/// Evaluation of variants of a head on the same windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluateJob {
    /// The model.
    pub spec: ModelSpec,
    /// The round's parameters (outer learning rate).
    pub parameters: RoundParameters,
    /// The head's checkpoint.
    pub checkpoint: FileName,
    /// The head's outer state.
    pub outer_state: FileName,
    /// The evaluation suite.
    pub suite: FileName,
    /// Windows to read.
    pub windows: Vec<u64>,
    /// All submitted deltas that could be fetched, in the round's order.
    pub submitted: Vec<FileName>,
    /// The divisor n of the merge (deltas submitted).
    pub divisor: u32,
    /// What to measure.
    pub variants: Vec<Variant>,
}

/// Making the next head from accepted deltas. Exact: plain Rust, no libtorch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeJob {
    /// The model.
    pub spec: ModelSpec,
    /// The round's parameters.
    pub parameters: RoundParameters,
    /// The parent's checkpoint.
    pub checkpoint: FileName,
    /// The parent's outer state.
    pub outer_state: FileName,
    /// Deltas in the round's order. An undecodable one counts for nothing at weight 0, as in
    /// evaluation, and makes the job fail otherwise: reviewers must not have let it through.
    pub submitted: Vec<SubmittedDelta>,
    /// The divisor n.
    pub divisor: u32,
    /// Checkpoint to write.
    pub checkpoint_out: FileName,
    /// Outer state to write.
    pub outer_state_out: FileName,
}

/// Text generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerateJob {
    /// The model.
    pub spec: ModelSpec,
    /// The head's checkpoint.
    pub checkpoint: FileName,
    /// Bytes to continue.
    pub prompt: Vec<u8>,
    /// Bytes to add, at most [`limits::GENERATE_BYTES_MAX`].
    pub bytes: u32,
    /// Temperature in ppm; 0 takes the likeliest byte.
    pub temperature_ppm: u32,
    /// Seed of the sampling.
    pub seed: u64,
}

/// From the worker: any number of `Progress`, then one `Done` or `Failed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerReply {
    /// The job goes on.
    Progress(Progress),
    /// The job is done.
    Done(WorkerOutcome),
    /// The job failed; the worker is ready for the next.
    Failed(WorkerFailure),
}

impl Canonical for WorkerReply {
    const BYTES_MAX: usize = limits::WORKER_FRAME_BYTES_MAX;
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// Loss of the latest step in nano-nats per byte, while training.
    pub loss_nanonats: Option<u64>,
    /// Text generated since the last report.
    pub text: Vec<u8>,
}

/// What a finished job gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerOutcome {
    /// Answer to [`WorkerRequest::Describe`].
    Described(WorkerDescription),
    /// The initial checkpoint was written.
    Initialized {
        /// Its hash.
        checkpoint: ContentHash,
        /// Parameters in it.
        parameters: u64,
    },
    /// Training is done.
    Trained(TrainOutcome),
    /// Losses in nano-nats per byte: one row per variant, one number per window. `None` for a
    /// variant that uses a delta which could not be decoded.
    Evaluated {
        /// The rows.
        losses: Vec<Option<Vec<u64>>>,
        /// Per submitted delta: what is wrong with it, if anything.
        faults: Vec<Option<String>>,
    },
    /// The next head was written.
    Merged {
        /// Hash of the checkpoint.
        checkpoint: ContentHash,
        /// Hash of the outer state.
        outer_state: ContentHash,
    },
    /// Generated text (all of it).
    Generated {
        /// Bytes added to the prompt.
        text: Vec<u8>,
    },
}

/// What a worker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerDescription {
    /// Must equal [`WORKER_PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// Program and library versions, for people.
    pub version: String,
    /// Device, for people: `cpu`, `cuda:0`.
    pub device: String,
    /// Hash of the states of a fixed 5-step run: equal fingerprints compute equally.
    pub fingerprint: ContentHash,
    /// Whether training and evaluation are available (feature `torch`).
    pub torch: bool,
}

/// What training gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainOutcome {
    /// Mean loss of the first and last tenth of the steps, nano-nats per byte.
    pub loss_first_nanonats: u64,
    /// See above.
    pub loss_last_nanonats: u64,
    /// Bytes predicted in all steps.
    pub bytes_trained: u64,
    /// Duration of the steps in milliseconds, by the worker's clock.
    pub elapsed_ms: u64,
    /// Merkle root of the hashes of the states after each inner step.
    pub step_states: ContentHash,
    /// How far the result can be reproduced.
    pub determinism: Determinism,
    /// Values sent in the delta, 0 without one.
    pub values_sent: u64,
}

/// Why a job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request or a file it names is bad.
    BadInput,
    /// Out of memory.
    OutOfMemory,
    /// Not built with the feature that the job needs.
    Unsupported,
    /// Anything else: a bug, a full disk.
    Internal,
}

/// A failed job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFailure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What happened, for people; at most 4 KiB.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_stay_inside() {
        assert!(FileName::new("delta-0.bin").is_ok());
        for bad in ["", ".", "..", "a/b", "/a", ".hidden", "a\0b"] {
            assert!(FileName::new(bad).is_err(), "{bad:?}");
        }
    }
}
