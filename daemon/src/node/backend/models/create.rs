//! Making a model: initial weights from a seed, from another's files, or as an adapter.

use std::sync::Arc;

use protocol::api::{ApiError, CreateModelRequest, JobId, JobKind, JobResult, ModelOrigin};
use protocol::ids::ContentHash;
use protocol::limits;
use protocol::model::{Adapter, Architecture, InputKind, ModelSpec};
use protocol::transaction::Payload;
use protocol::worker::{ImportJob, WorkerOutcome, WorkerRequest};
use storage::blobs::Retention;

use super::super::data::failed;
use super::super::{NodeBackend, PATIENCE};
use super::worker_failed;
use crate::node::Node;
use crate::node::announce::unix_seconds;
use crate::node::duties::inputs::{JOB_MAX, checkpoint_bytes_max, name};
use crate::worker::{Job, Lane};

/// For how long initial weights are kept that no model on the ledger has: a day.
const UNREGISTERED_KEPT_S: u64 = 86_400;
/// A `config.json`.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Files of one imported model.
const IMPORT_FILES_MAX: usize = 64;
/// Any shape: the worker says which one an imported model has.
const UNKNOWN: Architecture =
    Architecture::BytesGpt { layers: 1, width: 16, heads: 1, context: 16 };

impl NodeBackend {
    pub(in super::super) fn make_model(
        &self,
        request: CreateModelRequest,
    ) -> Result<JobId, ApiError> {
        let suite = request.evaluation_suite;
        let mut spec = ModelSpec {
            name: request.name,
            architecture: UNKNOWN,
            tokenizer: None,
            adapter: None,
            seed: 0,
            imported: false,
            initial_checkpoint: ContentHash::default(),
            evaluation_suite: suite,
            evaluation_suite_bytes: self.held("evaluation suite", suite)?,
            licence: request.licence,
        };
        match &request.origin {
            ModelOrigin::Seed { architecture, tokenizer, seed } => {
                (spec.architecture, spec.tokenizer, spec.seed) = (*architecture, *tokenizer, *seed);
            }
            ModelOrigin::Import { config, tokenizer, weights, .. } => {
                (spec.imported, spec.tokenizer) = (true, *tokenizer);
                self.check_import(*config, weights)?;
            }
            ModelOrigin::Adapter { base, rank, alpha, seed } => {
                let base = self.find_model(base)?;
                if base.spec.adapter.is_some() {
                    return Err(ApiError::bad_request("the model is an adapter itself")
                        .with_hint("name the model under it"));
                }
                (spec.architecture, spec.tokenizer) = (base.spec.architecture, base.spec.tokenizer);
                spec.seed = *seed;
                let base = base.head.checkpoint;
                spec.adapter = Some(Adapter { base, rank: *rank, alpha: *alpha });
            }
        }
        if let Some(tokenizer) = spec.tokenizer {
            let bytes = self.held("tokenizer", tokenizer)?;
            if bytes > limits::TOKENIZER_BYTES_MAX {
                return Err(ApiError::bad_request(format!("a tokenizer of {bytes} bytes")));
            }
        }
        if let InputKind::Records { bytes, .. } = spec.architecture.input()
            && !spec.evaluation_suite_bytes.is_multiple_of(bytes)
        {
            let suite = spec.evaluation_suite_bytes;
            let message = format!(
                "the evaluation suite has {suite} bytes, which are not whole records of {bytes}, \
                 what this architecture reads"
            );
            let hint = "`ayni data publish --for MODEL --held-out PART` makes a suite of records";
            return Err(ApiError::bad_request(message).with_hint(hint));
        }
        if !spec.imported {
            spec.validate().map_err(|error| ApiError::bad_request(error.to_string()))?;
        }
        let node = Arc::clone(&self.node);
        self.node.jobs.start(JobKind::CreateModel, move |handle| async move {
            handle.progress(0, 2, "making the initial weights");
            let notes = match &request.origin {
                ModelOrigin::Import { .. } => import(&node, &mut spec, &request.origin).await?,
                _ => initialize(&node, &mut spec).await?,
            };
            handle.progress(1, 2, "registering the model");
            let (model, parameters) = (spec.id(), spec.parameters());
            let initial_checkpoint = spec.initial_checkpoint;
            let receipt = node
                .transactions
                .send_and_wait(&node.secrets.account, Payload::RegisterModel { spec }, PATIENCE)
                .await?;
            Ok(JobResult::CreateModel { model, parameters, initial_checkpoint, notes, receipt })
        })
    }

    /// Length of a blob that must be here.
    fn held(&self, what: &str, blob: ContentHash) -> Result<u64, ApiError> {
        self.node.store.size(&blob).ok_or_else(|| {
            ApiError::not_found(format!("the {what} is not held here"))
                .with_hint("add it first: `ayni data add FILE`")
        })
    }

    fn check_import(&self, config: ContentHash, weights: &[ContentHash]) -> Result<(), ApiError> {
        let bytes = self.held("configuration", config)?;
        if bytes > CONFIG_BYTES_MAX {
            return Err(ApiError::bad_request(format!("a configuration of {bytes} bytes")));
        }
        if !(1..=IMPORT_FILES_MAX).contains(&weights.len()) {
            let message = format!("name 1 to {IMPORT_FILES_MAX} safetensors files");
            return Err(ApiError::bad_request(message));
        }
        weights.iter().try_for_each(|file| self.held("safetensors file", *file).map(|_| ()))
    }
}

async fn initialize(node: &Arc<Node>, spec: &mut ModelSpec) -> Result<Vec<String>, ApiError> {
    let out = name("initial.safetensors").map_err(|e| failed(&e))?;
    let mut job = node.worker.job(Lane::Interactive).await.map_err(|e| worker_failed(&e))?;
    let request = WorkerRequest::Initialize { spec: spec.clone(), checkpoint_out: out };
    let outcome = job.run(request, JOB_MAX, None).await.map_err(|e| worker_failed(&e))?;
    let WorkerOutcome::Initialized { checkpoint, .. } = outcome else {
        return Err(ApiError::internal("the worker answered another question"));
    };
    keep(node, &job, spec, checkpoint).await?;
    Ok(Vec::new())
}

async fn import(
    node: &Arc<Node>,
    spec: &mut ModelSpec,
    origin: &ModelOrigin,
) -> Result<Vec<String>, ApiError> {
    let ModelOrigin::Import { config, tokenizer, weights, context } = origin else {
        return Err(ApiError::internal("another origin"));
    };
    let prepare = async {
        let job = node.worker.job(Lane::Interactive).await?;
        let request = ImportJob {
            config: name("config.json")?,
            tokenizer: tokenizer.map(|_| name("tokenizer.json")).transpose()?,
            weights: (0..weights.len())
                .map(|i| name(&format!("weights-{i}.safetensors")))
                .collect::<anyhow::Result<_>>()?,
            context: *context,
            checkpoint_out: name("initial.safetensors")?,
        };
        job.put_blob(&request.config, &node.store, *config).await?;
        if let (Some(file), Some(hash)) = (&request.tokenizer, tokenizer) {
            job.put_blob(file, &node.store, *hash).await?;
        }
        for (file, hash) in request.weights.iter().zip(weights) {
            job.put_blob(file, &node.store, *hash).await?;
        }
        Ok::<_, anyhow::Error>((job, request))
    };
    let (mut job, request) = prepare.await.map_err(|e| failed(&e))?;
    let request = WorkerRequest::Import(request);
    let outcome = job.run(request, JOB_MAX, None).await.map_err(|e| worker_failed(&e))?;
    let WorkerOutcome::Imported { architecture, checkpoint, notes } = outcome else {
        return Err(ApiError::internal("the worker answered another question"));
    };
    spec.architecture = architecture;
    spec.validate().map_err(|error| ApiError::bad_request(error.to_string()))?;
    keep(node, &job, spec, checkpoint).await?;
    Ok(notes)
}

/// Keeps the initial checkpoint that the worker wrote, and names it in the specification.
async fn keep(
    node: &Arc<Node>,
    job: &Job,
    spec: &mut ModelSpec,
    checkpoint: ContentHash,
) -> Result<(), ApiError> {
    let out = name("initial.safetensors").map_err(|e| failed(&e))?;
    // The transaction that names it may become final after everybody has stopped waiting for it.
    let _hold = node.store.hold(checkpoint);
    let kept = job
        .keep(&out, &node.store, checkpoint_bytes_max(spec))
        .await
        .map_err(|error| ApiError::internal(error.to_string()))?;
    if kept != checkpoint {
        return Err(ApiError::internal("the worker wrote another checkpoint than it says"));
    }
    let until = Retention::Until(unix_seconds().saturating_add(UNREGISTERED_KEPT_S));
    let store = node.store.clone();
    let pinned = tokio::task::spawn_blocking(move || store.pin(&[(checkpoint, until)]));
    let pinned = pinned.await.map_err(|error| ApiError::internal(error.to_string()))?;
    pinned.map_err(|error| failed(&error.into()))?;
    spec.initial_checkpoint = checkpoint;
    Ok(())
}
