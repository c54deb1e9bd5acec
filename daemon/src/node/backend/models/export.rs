//! Heads for other programs: export in Hugging Face's format, comparison.

use std::sync::Arc;

use protocol::api::{
    ApiError, CompareRequest, ExportRequest, ExportedFile, JobId, JobKind, JobResult, ModelRef,
};
use protocol::ids::ContentHash;
use protocol::model::{Head, ModelSpec};
use protocol::worker::{CompareJob, ExportJob, TensorChange, WorkerOutcome, WorkerRequest};
use storage::blobs::Retention;

use super::super::NodeBackend;
use super::super::data::failed;
use super::worker_failed;
use crate::node::Node;
use crate::node::announce::unix_seconds;
use crate::node::duties::inputs::{JOB_MAX, name, weights_bytes_max};
use crate::worker::Lane;

/// For how long exported files are kept: a day, for whoever asked to fetch them.
const EXPORT_KEPT_S: u64 = 86_400;
/// A `config.json` that the worker writes.
const CONFIG_BYTES_MAX: u64 = 64 * 1024;
/// What the header of an exported safetensors file may have beside the weights.
const HEADER_BYTES_MAX: u64 = 16 * 1024 * 1024;

impl NodeBackend {
    pub(in super::super) fn export_model(
        &self,
        wanted: &ModelRef,
        request: ExportRequest,
    ) -> Result<JobId, ApiError> {
        let model = self.find_model(wanted)?;
        let head = self.choose(&model, request.head)?;
        let node = Arc::clone(&self.node);
        self.node.jobs.start(JobKind::ExportModel, move |handle| async move {
            // Nothing is collected between a file's arrival in the store and its pin.
            let _in_use = Arc::clone(&node.data_in_use).read_owned().await;
            handle.progress(0, 0, "writing the files");
            let files = export(&node, &model.spec, &head).await?;
            Ok(JobResult::ExportModel { model: model.spec.id(), head: head.id(), files })
        })
    }

    pub(in super::super) fn compare_heads(
        &self,
        wanted: &ModelRef,
        request: CompareRequest,
    ) -> Result<JobId, ApiError> {
        let model = self.find_model(wanted)?;
        let from = self.choose(&model, request.from)?;
        let to = self.choose(&model, request.to)?;
        let node = Arc::clone(&self.node);
        self.node.jobs.start(JobKind::CompareHeads, move |handle| async move {
            handle.progress(0, 0, "comparing");
            let tensors = compare(&node, &model.spec, &from, &to).await?;
            let (from, to) = (from.id(), to.id());
            Ok(JobResult::CompareHeads { model: model.spec.id(), from, to, tensors })
        })
    }
}

async fn export(
    node: &Arc<Node>,
    spec: &ModelSpec,
    head: &Head,
) -> Result<Vec<ExportedFile>, ApiError> {
    let prepare = async {
        node.have_head(spec, head, &[]).await?;
        let job = node.worker.job(Lane::Interactive).await?;
        node.put_head(&job, head).await?;
        let request = ExportJob {
            spec: spec.clone(),
            files: node.put_files(&job, spec, &[]).await?,
            checkpoint: name("head.safetensors")?,
            config_out: name("config.json")?,
            weights_out: name("model.safetensors")?,
        };
        Ok::<_, anyhow::Error>((job, request))
    };
    let (mut job, request) = prepare.await.map_err(|e| failed(&e))?;
    let outputs = [
        (request.config_out.clone(), CONFIG_BYTES_MAX),
        (
            request.weights_out.clone(),
            weights_bytes_max(spec.architecture.parameters()).saturating_add(HEADER_BYTES_MAX),
        ),
    ];
    let request = WorkerRequest::Export(request);
    let outcome = job.run(request, JOB_MAX, None).await.map_err(|e| worker_failed(&e))?;
    let WorkerOutcome::Exported = outcome else {
        return Err(ApiError::internal("the worker answered another question"));
    };
    let mut files = Vec::new();
    for (file, bytes_max) in outputs {
        let kept = job.keep(&file, &node.store, bytes_max).await;
        let blob = kept.map_err(|error| ApiError::internal(error.to_string()))?;
        files.push(exported(node, file.as_str(), blob).await?);
    }
    if let Some(tokenizer) = spec.tokenizer {
        files.push(exported(node, "tokenizer.json", tokenizer).await?);
    }
    Ok(files)
}

/// Keeps a file for whoever asked.
async fn exported(
    node: &Arc<Node>,
    name: &str,
    blob: ContentHash,
) -> Result<ExportedFile, ApiError> {
    let until = Retention::Until(unix_seconds().saturating_add(EXPORT_KEPT_S));
    let store = node.store.clone();
    let pinned = tokio::task::spawn_blocking(move || {
        store.pin(&[(blob, until)])?;
        Ok::<_, anyhow::Error>(store.size(&blob))
    });
    let pinned = pinned.await.map_err(|error| ApiError::internal(error.to_string()))?;
    let bytes = pinned.map_err(|error| failed(&error))?;
    let bytes = bytes.ok_or_else(|| ApiError::internal("an exported file is gone"))?;
    Ok(ExportedFile { name: name.to_owned(), blob, bytes })
}

async fn compare(
    node: &Arc<Node>,
    spec: &ModelSpec,
    from: &Head,
    to: &Head,
) -> Result<Vec<TensorChange>, ApiError> {
    let prepare = async {
        node.have_head(spec, from, &[]).await?;
        node.have_head(spec, to, &[]).await?;
        let job = node.worker.job(Lane::Interactive).await?;
        let request = CompareJob {
            spec: spec.clone(),
            from: name("from.safetensors")?,
            to: name("to.safetensors")?,
        };
        job.put_blob(&request.from, &node.store, from.checkpoint).await?;
        job.put_blob(&request.to, &node.store, to.checkpoint).await?;
        Ok::<_, anyhow::Error>((job, request))
    };
    let (mut job, request) = prepare.await.map_err(|e| failed(&e))?;
    let request = WorkerRequest::Compare(request);
    match job.run(request, JOB_MAX, None).await.map_err(|e| worker_failed(&e))? {
        WorkerOutcome::Compared { tensors } => Ok(tensors),
        _ => Err(ApiError::internal("the worker answered another question")),
    }
}
