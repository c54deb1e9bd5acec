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
pub const WORKER_PROTOCOL_VERSION: u32 = 2;

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
    /// Inner steps.
    Train(TrainJob),
    /// A delta from what training changed.
    Compress(CompressJob),
    /// Some inner steps again, from a state in their midst.
    Replay(ReplayJob),
    /// Losses of variants of a head.
    Evaluate(EvaluateJob),
    /// The next head.
    Merge(MergeJob),
    /// Text.
    Generate(GenerateJob),
    /// A Hugging Face model becomes an initial checkpoint.
    Import(ImportJob),
    /// A head becomes a Hugging Face model.
    Export(ExportJob),
    /// Files of a known format become shards.
    Ingest(IngestJob),
    /// How two checkpoints of a model differ.
    Compare(CompareJob),
}

impl Canonical for WorkerRequest {
    const BYTES_MAX: usize = limits::WORKER_FRAME_BYTES_MAX;
}

/// Files that belong to a model beside its checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFiles {
    /// The tokenizer, where the specification names one.
    pub tokenizer: Option<FileName>,
    /// The frozen weights under an adapter, where the specification names them.
    pub base: Option<FileName>,
}

/// What the inner steps of one member in one round are made from: equal values and files give
/// equal steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerRun {
    /// The model.
    pub spec: ModelSpec,
    /// Its files.
    pub files: ModelFiles,
    /// The round's parameters.
    pub parameters: RoundParameters,
    /// Steps to run; at most the round's `inner_steps`, or another number for a stand-alone run.
    pub steps: u32,
    /// Inner steps of the run before this round: where the learning rate's schedule stands.
    pub steps_before: u64,
    /// Seed of the window order.
    pub seed: u64,
    /// Shards to train on (public and private alike): UTF-8 texts, or records.
    pub shards: Vec<FileName>,
}

/// Inner training of one member in one round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainJob {
    /// The steps.
    pub run: InnerRun,
    /// Checkpoint to start from.
    pub checkpoint: FileName,
    /// Trained checkpoint to write.
    pub checkpoint_out: FileName,
    /// Where the state of the run is kept from time to time; a run that finds its own state
    /// there goes on from it. None for a run that starts over after a kill.
    pub resume: Option<FileName>,
    /// States to write as files, so that a slice can be replayed: the state before every step
    /// that is a multiple of this, as `PREFIX.STEP`. None for none.
    pub states: Option<StateOutputs>,
}

/// Which states of a run are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateOutputs {
    /// Prefix of the files' names.
    pub prefix: FileName,
    /// Steps between two of them, at least 1.
    pub every: u32,
}

/// Inner steps again, to compare them with what a member committed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayJob {
    /// The steps as the member ran them.
    pub run: InnerRun,
    /// State before step `from`, as [`TrainJob::states`] writes it.
    pub state: FileName,
    /// First step to run again, counted from 0.
    pub from: u32,
    /// How many.
    pub steps: u32,
    /// State after them to write, if wanted.
    pub state_out: Option<FileName>,
}

/// Makes a delta: a = βe + Δ, compressed. Exact: plain Rust, no libtorch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressJob {
    /// The model.
    pub spec: ModelSpec,
    /// The round's parameters.
    pub parameters: RoundParameters,
    /// The round's index: it names the fragment that is sent.
    pub round: u32,
    /// Seed of the delta: positions of [`crate::model::Compression::RandomK`].
    pub seed: u64,
    /// Checkpoint from which was trained.
    pub checkpoint: FileName,
    /// Trained checkpoint.
    pub trained: FileName,
    /// Error feedback that goes in (safetensors, as written before); none means zero.
    pub feedback: Option<FileName>,
    /// Differential privacy, if wanted.
    pub privacy: Option<PrivacyParameters>,
    /// Files to write.
    pub outputs: DeltaOutputs,
}

/// The Gaussian mechanism on what one round's training changed: clip, noise, *then* error
/// feedback, so that nothing of the data passes unnoised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyParameters {
    /// Largest norm of the whole change, in ppm.
    pub clip_norm_ppm: u32,
    /// Standard deviation of the noise over the clipping norm, in ppm.
    pub noise_multiplier_ppm: u32,
    /// δ of the guarantee in parts per billion.
    pub delta_ppb: u32,
    /// Rounds in which this data was used before this one.
    pub rounds_before: u32,
    /// Secret seed of the noise; never leaves the node.
    pub noise_seed: [u8; 32],
}

/// Files that compressing writes.
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
    /// Seed in its manifest.
    pub seed: u64,
    /// Round in whose course it was trained: that before the merging one for a late delta. It
    /// names the fragment that was sent.
    pub round: u32,
}

/// The state of the outer optimizer as files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OuterFiles {
    /// The outer state.
    pub state: FileName,
    /// Its momentum, where it names one.
    pub momentum: Option<FileName>,
    /// Its last aggregate, where it names one.
    pub aggregate: Option<FileName>,
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
    /// The model's files.
    pub files: ModelFiles,
    /// The head's checkpoint.
    pub checkpoint: FileName,
    /// The head's outer state.
    pub outer: OuterFiles,
    /// The evaluation suite.
    pub suite: FileName,
    /// Windows to read.
    pub windows: Vec<u64>,
    /// All submitted deltas that could be fetched, in the round's order; their weights are those
    /// of the variants.
    pub submitted: Vec<SubmittedDelta>,
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
    pub outer: OuterFiles,
    /// Deltas in the round's order. An undecodable one counts for nothing at weight 0, as in
    /// evaluation, and makes the job fail otherwise: reviewers must not have let it through.
    pub submitted: Vec<SubmittedDelta>,
    /// The divisor n.
    pub divisor: u32,
    /// Checkpoint to write.
    pub checkpoint_out: FileName,
    /// Outer state to write; the momentum and aggregate that it names go where `outer_out` says,
    /// if the rules have any.
    pub outer_out: OuterOutputs,
}

/// Files of an outer state to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OuterOutputs {
    /// The outer state.
    pub state: FileName,
    /// Its momentum.
    pub momentum: FileName,
    /// Its last aggregate.
    pub aggregate: FileName,
}

/// Text generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerateJob {
    /// The model.
    pub spec: ModelSpec,
    /// Its files.
    pub files: ModelFiles,
    /// The head's checkpoint.
    pub checkpoint: FileName,
    /// Bytes to continue, each prompt on its own; at most [`limits::PROMPTS_MAX`].
    pub prompts: Vec<Vec<u8>>,
    /// Bytes to add to each, at most [`limits::GENERATE_BYTES_MAX`].
    pub bytes: u32,
    /// Temperature in ppm; 0 takes the likeliest token.
    pub temperature_ppm: u32,
    /// Only the likeliest tokens that together reach this probability are drawn from, in ppm;
    /// 1,000,000 for all.
    pub top_p_ppm: u32,
    /// Texts at which a continuation ends; they are not part of it. At most
    /// [`limits::STOP_TEXTS_MAX`].
    pub stop: Vec<Vec<u8>>,
    /// Seed of the sampling.
    pub seed: u64,
}

/// Import of a model in Hugging Face's format. Only safetensors: never pickles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportJob {
    /// `config.json`.
    pub config: FileName,
    /// `tokenizer.json`, if there is one.
    pub tokenizer: Option<FileName>,
    /// The safetensors files, in any order.
    pub weights: Vec<FileName>,
    /// Longest context to keep; none keeps what the configuration says.
    pub context: Option<u32>,
    /// Checkpoint to write.
    pub checkpoint_out: FileName,
}

/// Export of a head in Hugging Face's format; an adapter is folded into its base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportJob {
    /// The model.
    pub spec: ModelSpec,
    /// Its files.
    pub files: ModelFiles,
    /// The head's checkpoint.
    pub checkpoint: FileName,
    /// `config.json` to write.
    pub config_out: FileName,
    /// `model.safetensors` to write.
    pub weights_out: FileName,
}

/// Comparison of two checkpoints. Exact: plain Rust, no libtorch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareJob {
    /// The model.
    pub spec: ModelSpec,
    /// The earlier checkpoint.
    pub from: FileName,
    /// The later checkpoint.
    pub to: FileName,
}

/// How a tensor changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorChange {
    /// The tensor.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u32>,
    /// Euclidean norm before, in millionths.
    pub norm_before_micro: u64,
    /// Euclidean norm of the change, in millionths.
    pub norm_change_micro: u64,
    /// Values that are not the same.
    pub values_changed: u64,
}

/// Format of files that become shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataFormat {
    /// UTF-8 text, one document per file.
    Text,
    /// One JSON object per line.
    Jsonl,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// PNG or JPEG images, named `CLASS.NUMBER.EXTENSION` in the job directory.
    Images,
    /// A pair of MNIST's IDX files: images, then labels.
    Idx,
}

/// Making shards of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestJob {
    /// Format of all of them.
    pub format: DataFormat,
    /// The files.
    pub inputs: Vec<FileName>,
    /// Column or key of the text; for numbers, none takes all but the label's.
    pub text_column: Option<String>,
    /// Column or key of the label, for records.
    pub label_column: Option<String>,
    /// What records are for; none makes shards of text.
    pub architecture: Option<crate::model::Architecture>,
    /// Part of the documents that goes into the held-out split, in ppm, by content hash: equal
    /// documents go to the same side.
    pub held_out_ppm: u32,
    /// Length at which a shard is closed.
    pub shard_bytes: u64,
    /// Prefix of the shards' names: `PREFIX.train.NUMBER` and `PREFIX.held-out.0`.
    pub prefix: FileName,
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

impl SandboxStatus {
    /// What the kernel lacks, as a sentence for the owner; nothing if the sandbox is whole.
    pub const fn missing(&self) -> Option<&'static str> {
        match (self.landlock_abi > 0, self.no_network, self.filtered) {
            (true, true, true) => None,
            (false, true, true) => Some(
                "this kernel has no Landlock (5.13 or newer), so it could read your files; run the \
                 node as a user of its own",
            ),
            (true, _, false) | (true, false, true) => Some(
                "this kernel filters no system calls (seccomp), so it could start programs; run \
                 the node as a user of its own",
            ),
            (false, _, _) => Some(
                "this kernel has neither Landlock nor seccomp, so it could read your files and \
                 use the network; run the node as a user of its own",
            ),
        }
    }
}

/// Where a job stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// Loss of the latest step in nano-nats per byte (per record of a classifier), while
    /// training.
    pub loss_nanonats: Option<u64>,
    /// Bytes, or records, trained per second since the last report, while training.
    pub per_second: Option<u64>,
    /// Prompt to whose continuation `text` belongs.
    pub prompt: u32,
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
    /// The delta was written.
    Compressed(CompressOutcome),
    /// Hash of the state after each step that was run again.
    Replayed {
        /// In order; the first is that after the step `from`.
        states: Vec<ContentHash>,
    },
    /// Losses in nano-nats per byte, or per record: one row per variant, one number per window. `None` for a
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
        /// Hashes of the momentum and the aggregate, if they were written.
        momentum: Option<ContentHash>,
        /// See above.
        aggregate: Option<ContentHash>,
    },
    /// Generated text (all of it).
    Generated {
        /// Bytes added to each prompt.
        texts: Vec<Vec<u8>>,
        /// Tokens in them.
        tokens: u64,
    },
    /// The initial checkpoint was written.
    Imported {
        /// The shape.
        architecture: crate::model::Architecture,
        /// Hash of the checkpoint.
        checkpoint: ContentHash,
        /// What was left out or assumed, for people.
        notes: Vec<String>,
    },
    /// The files were written.
    Exported,
    /// The shards were written.
    Ingested(IngestOutcome),
    /// How the tensors changed, in name order.
    Compared {
        /// One per tensor.
        tensors: Vec<TensorChange>,
    },
}

/// What compressing gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressOutcome {
    /// Hash of the payload.
    pub payload: ContentHash,
    /// Its length.
    pub payload_bytes: u64,
    /// Values sent.
    pub values_sent: u64,
    /// What the privacy asked for amounts to.
    pub privacy: Option<PrivacyOutcome>,
}

/// A local differential privacy guarantee, by an RDP accountant (Mironov, arXiv 1702.07476).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivacyOutcome {
    /// ε of all rounds up to this one, in ppm, rounded up.
    pub epsilon_ppm: u64,
    /// Whether this is a useful guarantee; a large ε is none.
    pub useful: bool,
}

/// What ingesting gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestOutcome {
    /// Shards for training: length and documents of each, in the order of their names.
    pub shards: Vec<(u64, u32)>,
    /// Length of the held-out split.
    pub held_out_bytes: u64,
    /// Documents in it.
    pub held_out_documents: u64,
    /// Documents read.
    pub documents: u64,
    /// Equal documents left out.
    pub duplicates: u64,
    /// Records refused: reason and how many.
    pub rejected: Vec<(String, u64)>,
    /// The first of them: where, and why.
    pub examples: Vec<String>,
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
    /// How it is confined.
    pub sandbox: SandboxStatus,
}

/// How a worker is confined: what of its sandbox the kernel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxStatus {
    /// Landlock version in force; 0 for none: it could read the user's files.
    pub landlock_abi: u32,
    /// Whether it cannot open a network socket.
    pub no_network: bool,
    /// Whether system calls are filtered (seccomp).
    pub filtered: bool,
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
    /// Merkle root of the hashes of the states before the first and after each inner step:
    /// weights and optimizer alike.
    pub step_states: ContentHash,
    /// How far the result can be reproduced.
    pub determinism: Determinism,
    /// Most memory that the run needed at once, in bytes, as estimated before it.
    pub memory_bytes: u64,
    /// Step at which a run that was cut off went on; 0 for one that was not.
    pub resumed_at: u32,
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
