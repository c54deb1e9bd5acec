//! Models and their heads, training rounds' parameters, delta and dataset manifests.
//!
//! These are the documents that the ledger names by hash and that `ml` reads and writes. Ratios
//! are integers in ppm, so that no float enters a rule or a hash.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::amount::{Credits, PPM};
use crate::codec::{self, Canonical};
use crate::ids::{ContentHash, HeadId, ModelId, NodeId};
use crate::limits;

/// A model's shape. Adding an architecture adds a variant at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Decoder-only transformer, pre-norm, learned positions, GELU, tied to a byte vocabulary
    /// of 256 symbols.
    BytesGpt {
        /// Transformer blocks.
        layers: u32,
        /// Residual width; divisible by `heads`.
        width: u32,
        /// Attention heads.
        heads: u32,
        /// Context length in bytes.
        context: u32,
    },
}

/// What identifies a model for ever. Its hash is the [`ModelId`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Name for people, 1 to 64 characters of `a-z 0-9 - _ .`.
    pub name: String,
    /// The shape.
    pub architecture: Architecture,
    /// Seed of the initial weights (ChaCha20, uniform; no libm).
    pub seed: u64,
    /// Hash of the initial checkpoint made from `architecture` and `seed`.
    pub initial_checkpoint: ContentHash,
    /// Blob of UTF-8 text on which deltas are judged and heads reported.
    pub evaluation_suite: ContentHash,
    /// Length of the suite in bytes.
    pub evaluation_suite_bytes: u64,
    /// SPDX expression of the weights' licence.
    pub licence: String,
}

impl Canonical for ModelSpec {
    const BYTES_MAX: usize = 1024;
}

/// Why a document was refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum DocumentError {
    /// A field is out of its range.
    #[error("{field}: {reason}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What is allowed.
        reason: &'static str,
    },
}

fn require(ok: bool, field: &'static str, reason: &'static str) -> Result<(), DocumentError> {
    if ok { Ok(()) } else { Err(DocumentError::OutOfRange { field, reason }) }
}

/// Checks a name that people will read: 1 to 64 characters of `a-z 0-9 - _ .`.
pub fn check_name(field: &'static str, name: &str) -> Result<(), DocumentError> {
    let fits = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
    require(fits, field, "1 to 64 characters of a-z 0-9 - _ .")
}

impl ModelSpec {
    /// The model's id.
    pub fn id(&self) -> ModelId {
        ModelId::from_bytes(*codec::hash(self).as_bytes())
    }

    /// Context length in tokens (bytes for the byte vocabulary).
    pub fn context(&self) -> u64 {
        let Architecture::BytesGpt { context, .. } = self.architecture;
        u64::from(context)
    }

    /// Whole windows of `context` predicted bytes in the evaluation suite.
    pub fn suite_windows(&self) -> u64 {
        self.evaluation_suite_bytes.saturating_sub(1).checked_div(self.context()).unwrap_or(0)
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        let Architecture::BytesGpt { layers, width, context, .. } = self.architecture;
        let (l, w, c) = (u64::from(layers), u64::from(width), u64::from(context));
        // Per block: qkv 3w²+3w, projection w²+w, mlp 8w²+5w, two norms 4w.
        let block = w.saturating_mul(w).saturating_mul(12).saturating_add(w.saturating_mul(13));
        let embeddings = w.saturating_mul(c.saturating_add(256));
        let head = w.saturating_mul(256);
        l.saturating_mul(block)
            .saturating_add(embeddings)
            .saturating_add(w.saturating_mul(2))
            .saturating_add(head)
    }

    /// Checks every field against its limits.
    pub fn validate(&self) -> Result<(), DocumentError> {
        check_name("name", &self.name)?;
        let Architecture::BytesGpt { layers, width, heads, context } = self.architecture;
        require((1..=48).contains(&layers), "layers", "1 to 48")?;
        require((16..=4096).contains(&width), "width", "16 to 4096")?;
        require((1..=64).contains(&heads), "heads", "1 to 64")?;
        require(width.checked_rem(heads) == Some(0), "width", "a multiple of heads")?;
        require((16..=4096).contains(&context), "context", "16 to 4096")?;
        require(
            self.parameters() <= limits::MODEL_PARAMETERS_MAX,
            "architecture",
            "fewer parameters",
        )?;
        require(self.suite_windows() >= 16, "evaluation_suite_bytes", "at least 16 windows")?;
        require(
            self.evaluation_suite_bytes <= limits::EVALUATION_SUITE_BYTES_MAX,
            "evaluation_suite_bytes",
            "at most the blob limit",
        )?;
        require(
            (1..=64).contains(&self.licence.len()) && self.licence.is_ascii(),
            "licence",
            "an SPDX expression of 1 to 64 characters",
        )
    }
}

/// A certified state of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The safetensors checkpoint.
    pub checkpoint: ContentHash,
    /// The outer optimizer's state ([`OuterState`], canonical).
    pub outer_state: ContentHash,
    /// Hash of the [`RoundParameters`] under which it was made; zero for initial weights.
    pub parameters: ContentHash,
}

impl Canonical for Head {
    const BYTES_MAX: usize = 96;
}

impl Head {
    /// The head's id.
    pub fn id(&self) -> HeadId {
        HeadId::from_bytes(*codec::hash(self).as_bytes())
    }

    /// The head of a model before any training.
    pub fn initial(spec: &ModelSpec) -> Self {
        Self {
            checkpoint: spec.initial_checkpoint,
            outer_state: codec::hash(&OuterState::default()),
            parameters: ContentHash::default(),
        }
    }
}

/// What merging carries from one training round to the next: per tensor, in the checkpoint's
/// name order, the bits of the f32 clipping norm used last. Empty before the first merge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OuterState {
    /// `f32::to_bits` of each tensor's clipping norm.
    pub clip_norm_bits: Vec<u32>,
}

impl Canonical for OuterState {
    const BYTES_MAX: usize = 64 * 1024;
}

/// How a training round is run. Agreed when rounds are opened, hashed into every head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundParameters {
    /// Inner AdamW steps per member (H).
    pub inner_steps: u32,
    /// Windows per inner step.
    pub batch: u32,
    /// Inner learning rate in ppm (2e-3 = 2,000).
    pub learning_rate_ppm: u32,
    /// Inner decoupled weight decay in ppm.
    pub weight_decay_ppm: u32,
    /// Shards of published data given to each member.
    pub shards_per_member: u32,
    /// Values kept of every chunk of 4,096 (k).
    pub keep_per_chunk: u32,
    /// Error-feedback decay β in ppm.
    pub feedback_decay_ppm: u32,
    /// Outer learning rate α in ppm.
    pub outer_learning_rate_ppm: u32,
    /// Fewest members that make a round.
    pub members_min: u32,
    /// With this many members joining closes at once; more are not admitted.
    pub members_max: u32,
    /// Bond on each delta, from the node's allowance; burned for a fault.
    pub bond: Credits,
    /// Evaluation windows per review.
    pub review_windows: u32,
    /// A delta may worsen the loss by this much (ppm of the base loss) and still be admitted.
    pub dead_zone_ppm: u32,
    /// A delta that surely worsens the loss by more than this (ppm) is a fault.
    pub fault_ppm: u32,
    /// Longest time for joining.
    pub join_ms: u32,
    /// Longest time for training and committing.
    pub train_ms: u32,
    /// Longest time for revealing deltas.
    pub submit_ms: u32,
    /// Longest time for reviews to be committed.
    pub review_ms: u32,
    /// Longest time for reviews to be revealed.
    pub reveal_ms: u32,
    /// Longest time for attesting the new head.
    pub attest_ms: u32,
    /// A deadline is due only when this many blocks have passed too.
    pub deadline_blocks_min: u32,
}

impl Canonical for RoundParameters {
    const BYTES_MAX: usize = 256;
}

impl Default for RoundParameters {
    /// The probe of `training.md`: H=30, batch 16, AdamW 2e-3, k=256 of 4,096.
    fn default() -> Self {
        Self {
            inner_steps: 30,
            batch: 16,
            learning_rate_ppm: 2_000,
            weight_decay_ppm: 10_000,
            shards_per_member: 8,
            keep_per_chunk: 256,
            feedback_decay_ppm: 950_000,
            outer_learning_rate_ppm: 1_000_000,
            members_min: 3,
            members_max: 4,
            bond: Credits::from_micro(5_000_000),
            review_windows: 128,
            dead_zone_ppm: 1_000,
            fault_ppm: 2_000,
            join_ms: 20_000,
            train_ms: 120_000,
            submit_ms: 20_000,
            review_ms: 90_000,
            reveal_ms: 20_000,
            attest_ms: 60_000,
            deadline_blocks_min: 3,
        }
    }
}

impl RoundParameters {
    /// Hash that heads carry.
    pub fn hash(&self) -> ContentHash {
        codec::hash(self)
    }

    /// Checks every field against its range.
    pub fn validate(&self) -> Result<(), DocumentError> {
        let ppm = u32::try_from(PPM).unwrap_or(u32::MAX);
        require((1..=10_000).contains(&self.inner_steps), "inner_steps", "1 to 10,000")?;
        require((1..=1_024).contains(&self.batch), "batch", "1 to 1,024")?;
        require(
            (1..=ppm).contains(&self.learning_rate_ppm),
            "learning_rate_ppm",
            "1 to 1,000,000",
        )?;
        require(self.weight_decay_ppm <= ppm, "weight_decay_ppm", "at most 1,000,000")?;
        require((1..=256).contains(&self.shards_per_member), "shards_per_member", "1 to 256")?;
        require((1..=4_096).contains(&self.keep_per_chunk), "keep_per_chunk", "1 to 4,096")?;
        require(self.feedback_decay_ppm < ppm, "feedback_decay_ppm", "below 1,000,000")?;
        require(
            (1..=ppm.saturating_mul(2)).contains(&self.outer_learning_rate_ppm),
            "outer_learning_rate_ppm",
            "1 to 2,000,000",
        )?;
        require((1..=100).contains(&self.members_max), "members_max", "1 to 100")?;
        require(
            (1..=self.members_max).contains(&self.members_min),
            "members_min",
            "1 to members_max",
        )?;
        require((16..=4_096).contains(&self.review_windows), "review_windows", "16 to 4,096")?;
        require(self.dead_zone_ppm <= 100_000, "dead_zone_ppm", "at most 100,000")?;
        require(
            self.fault_ppm > self.dead_zone_ppm && self.fault_ppm <= ppm,
            "fault_ppm",
            "above dead_zone_ppm, at most 1,000,000",
        )?;
        for (field, value) in [
            ("join_ms", self.join_ms),
            ("train_ms", self.train_ms),
            ("submit_ms", self.submit_ms),
            ("review_ms", self.review_ms),
            ("reveal_ms", self.reveal_ms),
            ("attest_ms", self.attest_ms),
        ] {
            require((1_000..=86_400_000).contains(&value), field, "1 second to 1 day")?;
        }
        require(
            (1..=1_000).contains(&self.deadline_blocks_min),
            "deadline_blocks_min",
            "1 to 1,000",
        )
    }
}

/// A piece of a published dataset that is assigned as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard {
    /// The blob: UTF-8 text.
    pub blob: ContentHash,
    /// Its length.
    pub bytes: u64,
    /// Documents in it.
    pub documents: u32,
}

/// A published dataset: a collection of text shards. Its hash names it on the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetManifest {
    /// Name for people, see [`check_name`].
    pub name: String,
    /// SPDX expression of the licence, as the publisher states it.
    pub licence: String,
    /// The shards in order.
    pub shards: Vec<Shard>,
}

impl Canonical for DatasetManifest {
    const BYTES_MAX: usize = limits::MANIFEST_BYTES_MAX;
}

impl DatasetManifest {
    /// Total length of the shards in bytes.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.saturating_add(shard.bytes))
    }

    /// Checks every field against its range.
    pub fn validate(&self) -> Result<(), DocumentError> {
        check_name("name", &self.name)?;
        require(
            (1..=64).contains(&self.licence.len()) && self.licence.is_ascii(),
            "licence",
            "an SPDX expression of 1 to 64 characters",
        )?;
        require(
            (1..=limits::DATASET_SHARDS_MAX).contains(&self.shards.len()),
            "shards",
            "1 to the shard limit",
        )?;
        require(
            self.shards.iter().all(|s| (1..=limits::SHARD_BYTES_MAX).contains(&s.bytes)),
            "shards",
            "each 1 byte to the shard size limit",
        )
    }
}

/// What kind of data went into a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataClass {
    /// Only shards that everybody can fetch.
    Public,
    /// Also data that never leaves its node.
    Private,
}

/// How far a result can be reproduced elsewhere (design 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Determinism {
    /// Bit-equal between equal fingerprints.
    Exact,
    /// Within a tolerance.
    Close,
    /// By loss only.
    Statistical,
}

/// The covering letter of a delta. Its hash is the content that the author committed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaManifest {
    /// The node that made it; nobody else can submit it.
    pub author: NodeId,
    /// The model.
    pub model: ModelId,
    /// The training round.
    pub round: u32,
    /// The head it starts from.
    pub parent: HeadId,
    /// Seed of the inner steps.
    pub seed: u64,
    /// Hash of the list of assigned shards.
    pub shards: ContentHash,
    /// Hash of the error feedback that went in.
    pub feedback_in: ContentHash,
    /// Hash of the error feedback that comes out on acceptance.
    pub feedback_out: ContentHash,
    /// Merkle root of the hashes of the states after each inner step.
    pub step_states: ContentHash,
    /// Public or with private data.
    pub data_class: DataClass,
    /// How far it can be reproduced.
    pub determinism: Determinism,
    /// Fingerprint of the worker's arithmetic.
    pub fingerprint: ContentHash,
    /// The encoded delta.
    pub payload: ContentHash,
    /// Its length in bytes.
    pub payload_bytes: u64,
}

impl Canonical for DeltaManifest {
    const BYTES_MAX: usize = 512;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_parameters_are_valid() {
        assert_eq!(RoundParameters::default().validate(), Ok(()));
    }

    #[test]
    fn names_are_narrow() {
        assert!(check_name("name", "ayni-1.0_x").is_ok());
        for bad in ["", "A", "a b", "../x", &"a".repeat(65)] {
            assert!(check_name("name", bad).is_err(), "{bad}");
        }
    }
}
