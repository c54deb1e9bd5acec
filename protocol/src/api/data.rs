//! Data: blobs, published datasets, the private folder.
//!
//! The private folder has a path and counts here and nothing else: no type of this interface can
//! carry its contents (design 2, invariant 8).

use serde::{Deserialize, Serialize};

use crate::api::ModelRef;
use crate::ids::{ContentHash, NodeId};
use crate::model::{Architecture, DataKind};
use crate::worker::DataFormat;

/// `POST /v1/blobs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobReceipt {
    /// BLAKE3 of the bytes.
    pub hash: ContentHash,
    /// How many.
    pub bytes: u64,
}

/// `GET /v1/data`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataList {
    /// Datasets on the ledger, in order of name.
    pub datasets: Vec<DatasetSummary>,
    /// The folder that trains here and never leaves, if there is one.
    pub private: Option<PrivateSummary>,
}

/// A dataset on the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetSummary {
    /// Hash of the manifest.
    pub manifest: ContentHash,
    /// Name.
    pub name: String,
    /// Licence as the publisher states it, when the manifest is held here.
    pub licence: Option<String>,
    /// Number of shards.
    pub shards: u32,
    /// Total size.
    pub bytes: u64,
    /// What it holds.
    pub kind: DataKind,
    /// Node that serves it first.
    pub publisher: NodeId,
    /// Shards held here.
    pub shards_held: u32,
}

/// The private folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateSummary {
    /// Where it is.
    pub path: String,
    /// Text files in it.
    pub files: u32,
    /// Their size.
    pub bytes: u64,
    /// Files left out because they are not UTF-8 text, or too large.
    pub files_skipped: u32,
}

/// Body of `POST /v1/data/publish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// Name, see [`crate::model::check_name`].
    pub name: String,
    /// SPDX expression.
    pub licence: String,
    /// Absolute path of a folder or file; honoured only for the daemon's own user.
    pub path: String,
    /// How to read it; without it every UTF-8 file is a document.
    #[serde(default)]
    pub ingest: Option<IngestOptions>,
}

/// How files become shards: the worker parses them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestOptions {
    /// Format of all of them. Images lie in one folder per class.
    pub format: DataFormat,
    /// Column or key of the text.
    #[serde(default)]
    pub text_column: Option<String>,
    /// Column or key of the label.
    #[serde(default)]
    pub label_column: Option<String>,
    /// The classifier that the records are for; none for text.
    #[serde(default)]
    pub model: Option<ModelRef>,
    /// The same before there is one: any shape that reads such records.
    #[serde(default)]
    pub architecture: Option<Architecture>,
    /// Part of the documents that is held out, in ppm, by content hash.
    #[serde(default)]
    pub held_out_ppm: u32,
}

/// What reading files of a known format gave, beside the dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestReport {
    /// Blob of the held-out split, pinned under `held-out:NAME`: an evaluation suite.
    pub held_out: Option<ContentHash>,
    /// Its length.
    pub held_out_bytes: u64,
    /// Documents in it.
    pub held_out_documents: u64,
    /// Equal documents left out.
    pub duplicates: u64,
    /// Records refused: reason and how many.
    pub rejected: Vec<(String, u64)>,
    /// The first of them: where, and why.
    pub examples: Vec<String>,
    /// Folders of images in the order of their labels.
    pub classes: Vec<String>,
}

/// Body of `POST /v1/data/private`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivateRequest {
    /// Absolute path of a folder of text; honoured only for the daemon's own user.
    pub path: String,
}
