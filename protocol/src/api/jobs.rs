//! Long work: a job has an id, progress, and a result or an error.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::api::blobs::{AddMode, Damage, PinName, SourceBytes, SourceProgress};
use crate::api::{ApiError, ExportedFile, IngestReport, TensorChange, TransactionReceipt};
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
    /// Writes a head in Hugging Face's format.
    ExportModel,
    /// Measures how two heads differ.
    CompareHeads,
    /// Takes a file or folder into the store.
    AddData,
    /// Fetches a blob or a collection.
    GetData,
    /// Removes what nothing keeps.
    GcData,
    /// Reads what is stored again.
    VerifyData,
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
    /// From whom it comes, when something is fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceProgress>,
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
        /// What reading a known format gave.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        report: Option<Box<IngestReport>>,
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
        /// What an import left out or assumed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
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
    /// A head is in Hugging Face's format.
    ExportModel {
        /// The model.
        model: ModelId,
        /// The head.
        head: HeadId,
        /// Its files.
        files: Vec<ExportedFile>,
    },
    /// Two heads were compared.
    CompareHeads {
        /// The model.
        model: ModelId,
        /// The earlier head.
        from: HeadId,
        /// The later head.
        to: HeadId,
        /// How each tensor changed, in name order.
        tensors: Vec<TensorChange>,
    },
    /// A file or folder is in the store and pinned.
    AddData {
        /// Its hash; of a folder, the collection's.
        hash: ContentHash,
        /// Its size; of a folder, that of its files.
        bytes: u64,
        /// Files in it.
        files: u64,
        /// Whether it became a collection.
        collection: bool,
        /// Bytes that were not in the store before.
        bytes_new: u64,
        /// How it came in: a reflink that the file system refused is a copy.
        mode: AddMode,
        /// The pin that keeps it.
        pin: PinName,
        /// Whether others were told.
        announced: bool,
        /// Links, devices and the like, which were left out: the first of them.
        skipped: Vec<String>,
        /// How many were left out.
        files_skipped: u64,
        /// How long it took.
        elapsed_ms: u64,
    },
    /// A blob, and everything in it if it is a collection, has arrived.
    GetData {
        /// Its hash.
        hash: ContentHash,
        /// Its size; of a collection, that of its files.
        bytes: u64,
        /// Files in it.
        files: u64,
        /// Whether it is a collection.
        collection: bool,
        /// Verified bytes that were received, the collection's list included.
        bytes_fetched: u64,
        /// Bytes that were here already.
        bytes_had: u64,
        /// From whom.
        sources: Vec<SourceBytes>,
        /// Where it was written, if it was.
        target: Option<String>,
        /// The pin that keeps it, if one does.
        pin: Option<PinName>,
        /// How long it took.
        elapsed_ms: u64,
    },
    /// What nothing keeps is gone, or was found.
    GcData {
        /// Whether it was only looked for.
        dry_run: bool,
        /// Blobs kept.
        blobs_kept: u64,
        /// Their bytes.
        bytes_kept: u64,
        /// Blobs removed, or that would be.
        blobs_removed: u64,
        /// Their bytes.
        bytes_removed: u64,
        /// Pins whose lease had run out.
        pins_expired: u64,
        /// How long it took.
        elapsed_ms: u64,
    },
    /// What is stored was read again.
    VerifyData {
        /// Blobs read.
        blobs: u64,
        /// Their bytes.
        bytes: u64,
        /// What is wrong: the first of it.
        damage: Vec<Damage>,
        /// How much is wrong.
        damages: u64,
        /// How much of it was mended or removed.
        repaired: u64,
        /// How long it took.
        elapsed_ms: u64,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn progress_without_sources_is_as_it_was() {
        let mut progress =
            JobProgress { done: 1, total: 2, message: "half".to_owned(), sources: Vec::new() };
        let json = r#"{"done":1,"total":2,"message":"half"}"#;
        assert_eq!(serde_json::to_string(&progress).expect("plain types"), json);
        assert_eq!(serde_json::from_str::<JobProgress>(json).expect("as written"), progress);
        let node = NodeId::default();
        progress.sources.push(SourceProgress { node, bytes: 3, bytes_per_s: 4 });
        let json = format!(
            r#"{{"done":1,"total":2,"message":"half","sources":[{{"node":"{node}","bytes":3,"bytes_per_s":4}}]}}"#
        );
        assert_eq!(serde_json::to_string(&progress).expect("plain types"), json);
    }

    #[test]
    fn results_name_their_kind() {
        let hash = ContentHash::of(b"x");
        let result = JobResult::GetData {
            hash,
            bytes: 9,
            files: 1,
            collection: false,
            bytes_fetched: 4,
            bytes_had: 5,
            sources: vec![SourceBytes { node: NodeId::default(), bytes: 4 }],
            target: None,
            pin: None,
            elapsed_ms: 7,
        };
        let json = serde_json::to_value(&result).expect("plain types");
        assert_eq!((&json["kind"], &json["bytes_had"]), (&"get_data".into(), &5.into()));
        assert_eq!(json["sources"][0]["bytes"], 4);
        assert_eq!(serde_json::from_value::<JobResult>(json).expect("as written"), result);
        for (kind, name) in [
            (JobKind::AddData, "\"add_data\""),
            (JobKind::GcData, "\"gc_data\""),
            (JobKind::VerifyData, "\"verify_data\""),
        ] {
            assert_eq!(serde_json::to_string(&kind).expect("plain types"), name);
        }
    }
}
