//! The documents of training that the ledger names by hash: heads, outer state, datasets, deltas.

use serde::{Deserialize, Serialize};

use super::{DocumentError, ModelSpec, check_name, require};
use crate::codec::{self, Canonical};
use crate::ids::{ContentHash, HeadId, ModelId, NodeId};
use crate::limits;

/// A certified state of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The safetensors checkpoint.
    pub checkpoint: ContentHash,
    /// The outer optimizer's state ([`OuterState`], canonical).
    pub outer_state: ContentHash,
    /// Hash of the [`super::RoundParameters`] under which it was made; zero for initial weights.
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

/// What merging carries from one training round to the next. All empty before the first merge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OuterState {
    /// Per tensor, in the checkpoint's name order: `f32::to_bits` of the clipping norm used last.
    pub clip_norm_bits: Vec<u32>,
    /// The momentum of the outer optimizer, in the format of a checkpoint; none without one.
    pub momentum: Option<ContentHash>,
    /// The last aggregate, around which centred clipping clips; none for other rules.
    pub aggregate: Option<ContentHash>,
}

impl Canonical for OuterState {
    const BYTES_MAX: usize = 64 * 1024;
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
    /// Inner steps it took: fewer than the round's on a slow node.
    pub steps: u32,
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

impl DeltaManifest {
    /// Whether another node with the same fingerprint could repeat the training bit for bit.
    pub fn is_replayable(&self) -> bool {
        self.data_class == DataClass::Public && self.determinism == Determinism::Exact
    }
}

impl Canonical for DeltaManifest {
    const BYTES_MAX: usize = 512;
}
