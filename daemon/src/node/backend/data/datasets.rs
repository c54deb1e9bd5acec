//! Datasets on the ledger and the private folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::api::{
    ApiError, DataList, DatasetSummary, JobId, JobKind, JobResult, PinName, PrivateRequest,
    PrivateSummary, PublishRequest,
};
use protocol::codec::{self, Canonical};
use protocol::ledger::entries::Dataset;
use protocol::model::{DatasetManifest, check_name};
use protocol::transaction::Payload;

use super::ingest::ingest;
use super::keep::keep;
use crate::api::JobHandle;
use crate::node::backend::{NodeBackend, PATIENCE};
use crate::node::{Node, notes, private, publish};

impl Node {
    fn private_note(&self) -> PathBuf {
        self.home.root().join("private-folder")
    }

    /// The folder of private texts: as set over the interface, or as configured.
    pub fn private_folder(&self) -> Option<PathBuf> {
        match std::fs::read_to_string(self.private_note()) {
            Ok(path) => Some(PathBuf::from(path)),
            Err(_) => self.config.training().private_data.clone(),
        }
    }

    fn summarize_dataset(&self, dataset: Dataset) -> DatasetSummary {
        let bytes_max = u64::try_from(DatasetManifest::BYTES_MAX).unwrap_or(u64::MAX);
        let manifest: Option<DatasetManifest> = self
            .store
            .contains(&dataset.manifest)
            .then(|| self.store.read_all(&dataset.manifest, bytes_max).ok())
            .flatten()
            .and_then(|bytes| codec::decode(&bytes).ok());
        let held = manifest.as_ref().map_or(0, |manifest| {
            manifest.shards.iter().filter(|shard| self.store.contains(&shard.blob)).count()
        });
        DatasetSummary {
            manifest: dataset.manifest,
            name: dataset.name,
            licence: manifest.map(|manifest| manifest.licence),
            shards: dataset.shards,
            bytes: dataset.bytes,
            kind: dataset.kind,
            publisher: dataset.node,
            shards_held: u32::try_from(held).unwrap_or(u32::MAX),
        }
    }
}

impl NodeBackend {
    pub(in crate::node::backend) async fn list_data(&self) -> Result<DataList, ApiError> {
        let node = Arc::clone(&self.node);
        let list = tokio::task::spawn_blocking(move || {
            let mut datasets: Vec<_> = node
                .ledger
                .read(|view| view.datasets())
                .into_iter()
                .map(|dataset| node.summarize_dataset(dataset))
                .collect();
            datasets.sort_by(|a, b| a.name.cmp(&b.name).then(a.manifest.cmp(&b.manifest)));
            let private = node.private_folder().map(|path| private::summarize(&path));
            (datasets, private)
        });
        let (datasets, private) =
            list.await.map_err(|error| ApiError::internal(error.to_string()))?;
        let private = private.transpose().map_err(|error| {
            ApiError::internal(format!("cannot read the private folder: {error}"))
                .with_hint("choose another one with `ayni data private DIR`")
        })?;
        Ok(DataList { datasets, private })
    }

    pub(in crate::node::backend) fn publish_dataset(
        &self,
        request: PublishRequest,
    ) -> Result<JobId, ApiError> {
        check_name("name", &request.name)
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let path = PathBuf::from(&request.path);
        check_readable(&path)?;
        let wanted = request.ingest.as_ref().and_then(|ingest| ingest.model.as_ref());
        let model = wanted.map(|wanted| self.find_model(wanted)).transpose()?;
        let shape = request.ingest.as_ref().and_then(|ingest| ingest.architecture);
        if let Some(shape) = &shape {
            shape.validate().map_err(|error| ApiError::bad_request(error.to_string()))?;
        }
        let architecture = model.map(|model| model.spec.architecture).or(shape);
        let node = Arc::clone(&self.node);
        self.node.jobs.start(JobKind::PublishDataset, move |handle| async move {
            let _in_use = Arc::clone(&node.data_in_use).read_owned().await;
            let names = (request.name.as_str(), request.licence.as_str());
            let (made, report) = match request.ingest.clone() {
                None => (read_texts(&node, path, names, &handle).await?, None),
                Some(options) => {
                    let read = ingest(&node, path, names, options, architecture, &handle);
                    read.await.map(|(made, report)| (made, Some(report)))?
                }
            };
            let shards = u32::try_from(made.document.shards.len()).unwrap_or(u32::MAX);
            let bytes = made.document.bytes();
            // Whatever becomes of the transaction, it may still become final. The pin of a manifest
            // keeps its shards, see [`crate::node::roots`].
            let pin = PinName::try_from(format!("dataset:{}", request.name))
                .map_err(|error| ApiError::bad_request(error.to_string()))?;
            keep(&node, pin, made.manifest, None, true).await?;
            if let Some(held_out) = report.as_ref().and_then(|report| report.held_out) {
                let pin = PinName::try_from(format!("held-out:{}", request.name))
                    .map_err(|error| ApiError::bad_request(error.to_string()))?;
                keep(&node, pin, held_out, None, true).await?;
            }
            let payload = Payload::PublishDataset {
                manifest: made.manifest,
                name: request.name,
                shards,
                bytes,
                kind: architecture.map(|a| a.data_kind()).unwrap_or_default(),
                node: node.id(),
            };
            let receipt =
                node.transactions.send_and_wait(&node.secrets.account, payload, PATIENCE).await?;
            Ok(JobResult::PublishDataset {
                manifest: made.manifest,
                shards,
                documents: made.documents,
                bytes,
                files_skipped: made.skipped,
                report: report.map(Box::new),
                receipt,
            })
        })
    }

    pub(in crate::node::backend) async fn use_private(
        &self,
        request: PrivateRequest,
    ) -> Result<PrivateSummary, ApiError> {
        let path = PathBuf::from(&request.path);
        check_readable(&path)?;
        if !path.is_dir() {
            return Err(ApiError::bad_request(format!("{} is not a folder", path.display())));
        }
        let (note, shown) = (self.node.private_note(), request.path.clone());
        let summary = tokio::task::spawn_blocking(move || {
            let summary = private::summarize(&path)?;
            if summary.files > 0 {
                notes::write(&note, request.path.as_bytes())?;
            }
            Ok::<_, std::io::Error>(summary)
        });
        let summary = summary
            .await
            .map_err(|error| ApiError::internal(error.to_string()))?
            .map_err(|error| ApiError::internal(format!("cannot use the folder: {error}")))?;
        if summary.files == 0 {
            return Err(ApiError::bad_request(format!(
                "there is no UTF-8 text in {}: {} files were looked at",
                shown, summary.files_skipped
            ))
            .with_hint("give a folder with text files of at most 1 MiB each"));
        }
        Ok(summary)
    }
}

/// Every UTF-8 file is a document.
async fn read_texts(
    node: &Arc<Node>,
    path: PathBuf,
    (name, licence): (&str, &str),
    handle: &JobHandle,
) -> Result<publish::Published, ApiError> {
    let (store, progress) = (node.store.clone(), handle.clone());
    let (name, licence) = (name.to_owned(), licence.to_owned());
    let made = tokio::task::spawn_blocking(move || {
        publish::publish(&store, &path, &name, &licence, |done, total| {
            progress.progress(done, total, "reading texts");
            !progress.token().is_cancelled()
        })
    });
    made.await
        .map_err(|error| ApiError::internal(error.to_string()))?
        .map_err(|error| ApiError::bad_request(format!("{error:#}")))
}

/// Refuses a path that the node cannot read.
pub(super) fn check_readable(path: &Path) -> Result<(), ApiError> {
    if !path.is_absolute() {
        return Err(ApiError::bad_request("the path must be absolute"));
    }
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(ApiError::bad_request(format!("cannot read {}: {error}", path.display()))
                .with_hint("give an existing folder or file that the daemon's user may read"))
        }
    }
}
