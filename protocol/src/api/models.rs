//! Models: registering, listing, evaluating, generating.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::api::ApiError;
use crate::ids::{ContentHash, HeadId, ModelId};
use crate::model::{Architecture, Head, ModelSpec, check_name};

/// A model as a person names it: its id, or its name while that is unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// 64 hexadecimal digits.
    Id(ModelId),
    /// Any other valid name.
    Name(String),
}

/// Neither an id nor a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is neither a model id (64 hexadecimal digits) nor a name (a-z 0-9 - _ .)")]
pub struct ModelRefError(pub String);

impl FromStr for ModelRef {
    type Err = ModelRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        check_name("model", text).map_err(|_| ModelRefError(text.chars().take(80).collect()))?;
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl From<ModelId> for ModelRef {
    fn from(id: ModelId) -> Self {
        Self::Id(id)
    }
}

impl Serialize for ModelRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Body of `POST /v1/models`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateModelRequest {
    /// Name, see [`check_name`].
    pub name: String,
    /// Where its initial weights come from.
    pub origin: ModelOrigin,
    /// Blob of UTF-8 text, or of records for a classifier, stored before with `POST /v1/blobs`
    /// or `POST /v1/data/add`.
    pub evaluation_suite: ContentHash,
    /// SPDX expression of the weights' licence.
    pub licence: String,
}

/// Where a model's initial weights come from. Blobs that are named must be held by the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelOrigin {
    /// Drawn from a seed.
    Seed {
        /// The shape.
        architecture: Architecture,
        /// Blob with the tokenizer, where the shape needs one.
        #[serde(default)]
        tokenizer: Option<ContentHash>,
        /// The seed.
        seed: u64,
    },
    /// A model in Hugging Face's format.
    Import {
        /// Blob of `config.json`.
        config: ContentHash,
        /// Blob of `tokenizer.json`.
        #[serde(default)]
        tokenizer: Option<ContentHash>,
        /// Blobs of the safetensors files.
        weights: Vec<ContentHash>,
        /// Longest context to keep; without it, what the configuration says.
        #[serde(default)]
        context: Option<u32>,
    },
    /// A low-rank adapter on the newest head of another model, whose weights stay frozen.
    Adapter {
        /// The other model.
        base: ModelRef,
        /// Rank of the matrices.
        rank: u32,
        /// Scale: the adapter counts alpha / rank.
        alpha: u32,
        /// Seed of the initial matrices.
        seed: u64,
    },
}

/// A model on the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The model.
    pub id: ModelId,
    /// What it is.
    pub spec: ModelSpec,
    /// Number of parameters.
    pub parameters: u64,
    /// Its newest certified head.
    pub head_id: HeadId,
    /// The documents of that head.
    pub head: Head,
    /// Whether the head's checkpoint is held here.
    pub head_held: bool,
    /// Training rounds finished.
    pub rounds_done: u32,
    /// Training rounds opened and not finished.
    pub rounds_open: u32,
    /// Governed share of the emission.
    pub weight_ppm: u32,
}

/// `GET /v1/models`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Models {
    /// In order of name.
    pub models: Vec<Model>,
}

/// Which head of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadChoice {
    /// The newest certified one.
    #[default]
    Latest,
    /// The weights before any training.
    Initial,
    /// The one that a training round certified.
    Round(u32),
}

/// Body of `POST /v1/models/{id}/export`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// Which head.
    #[serde(default)]
    pub head: HeadChoice,
}

/// A file of an exported model, as a blob that is kept for a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedFile {
    /// Its name in Hugging Face's format.
    pub name: String,
    /// The blob.
    pub blob: ContentHash,
    /// Its length.
    pub bytes: u64,
}

/// Body of `POST /v1/models/{id}/compare`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareRequest {
    /// The earlier head.
    pub from: HeadChoice,
    /// The later head.
    #[serde(default)]
    pub to: HeadChoice,
}

pub use crate::worker::TensorChange;

/// Body of `POST /v1/models/{id}/evaluate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateRequest {
    /// Which head.
    #[serde(default)]
    pub head: HeadChoice,
    /// Report windows to read, see [`crate::training::report_windows`].
    pub windows: u32,
}

/// Body of `POST /v1/models/{id}/generate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateRequest {
    /// Text to continue, at most [`crate::limits::PROMPT_BYTES_MAX`].
    pub prompt: String,
    /// Bytes to add, at most [`crate::limits::GENERATE_BYTES_MAX`].
    pub bytes: u32,
    /// Temperature in ppm; 0 takes the likeliest token.
    pub temperature_ppm: u32,
    /// Only the likeliest tokens that together reach this probability are drawn from, in ppm.
    #[serde(default = "whole")]
    pub top_p_ppm: u32,
    /// Texts at which the continuation ends; they are not part of it.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Seed of the sampling.
    pub seed: u64,
    /// Which head.
    #[serde(default)]
    pub head: HeadChoice,
}

const fn whole() -> u32 {
    1_000_000
}

/// What was generated with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerateDone {
    /// The head.
    pub head: HeadId,
    /// Bytes added.
    pub bytes: u32,
    /// Time of the worker.
    pub elapsed_ms: u64,
}

/// Events of a generation: any number of `text`, then one `done` or `error`.
/// The SSE event name is the `event` field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GenerateEvent {
    /// More text. Bytes that are not UTF-8 have become U+FFFD.
    Text {
        /// The text.
        text: String,
    },
    /// All of it.
    Done(GenerateDone),
    /// It failed half-way.
    Error(ApiError),
}

impl GenerateEvent {
    /// The SSE event name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Text { .. } => "text",
            Self::Done(_) => "done",
            Self::Error(_) => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_by_id_or_name() {
        let id = ModelId::from_bytes([7; 32]);
        assert_eq!(id.to_string().parse(), Ok(ModelRef::Id(id)));
        assert_eq!("tiny-1".parse(), Ok(ModelRef::Name("tiny-1".into())));
        for bad in ["", "../x", "A", "a b"] {
            assert!(bad.parse::<ModelRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn events_carry_their_name() {
        let done = GenerateEvent::Error(ApiError::internal("x"));
        let json = serde_json::to_string(&done).expect("plain types");
        assert_eq!(json, r#"{"event":"error","code":"internal","message":"x"}"#);
        assert_eq!(serde_json::from_str::<GenerateEvent>(&json).expect("own json"), done);
    }
}
