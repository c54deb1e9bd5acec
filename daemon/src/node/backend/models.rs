//! Models: registering, evaluating, generating.

use std::sync::Arc;
use std::time::Instant;

use protocol::api::{
    ApiError, CreateModelRequest, EvaluateRequest, GenerateDone, GenerateRequest, HeadChoice,
    JobId, JobKind, JobResult, ModelRef,
};
use protocol::ledger::entries::Model;
use protocol::limits;
use protocol::model::{Head, ModelSpec, RoundParameters};
use protocol::training::report_windows;
use protocol::transaction::Payload;
use protocol::worker::{EvaluateJob, GenerateJob, Progress, Variant, WorkerOutcome, WorkerRequest};
use storage::blobs::Retention;
use tokio::sync::mpsc;

use super::data::failed;
use super::{NodeBackend, PATIENCE};
use crate::api::GenerateOutput;
use crate::node::Node;
use crate::node::announce::unix_seconds;
use crate::node::duties::inputs::{JOB_MAX, checkpoint_bytes_max, name};
use crate::worker::{Lane, WorkerError};

/// For how long initial weights are kept that no model on the ledger has: a day.
const UNREGISTERED_KEPT_S: u64 = 86_400;
/// Pieces of a generation that may wait for the client.
const PIECES: usize = 256;

fn worker_failed(error: &WorkerError) -> ApiError {
    match error {
        WorkerError::Unavailable(_) => ApiError::unavailable(error.to_string())
            .with_hint("`ayni status` says what the worker does"),
        _ => ApiError::internal(error.to_string()),
    }
}

const fn choose(model: &Model, choice: HeadChoice) -> HeadKind {
    match choice {
        HeadChoice::Latest => HeadKind::Given(model.head),
        HeadChoice::Initial => HeadKind::Initial,
    }
}

enum HeadKind {
    Given(Head),
    Initial,
}

impl HeadKind {
    fn head(self, spec: &ModelSpec) -> Head {
        match self {
            Self::Given(head) => head,
            Self::Initial => Head::initial(spec),
        }
    }
}

impl NodeBackend {
    pub(super) fn find_model(&self, wanted: &ModelRef) -> Result<Model, ApiError> {
        let none = || {
            ApiError::not_found(format!("there is no model {wanted}"))
                .with_hint("`ayni model ls` lists the models")
        };
        match wanted {
            ModelRef::Id(id) => self.node.ledger.read(|view| view.model(id)).ok_or_else(none),
            ModelRef::Name(text) => {
                let all = self.node.ledger.read(|view| view.models());
                let mut named = all.into_iter().filter(|m| m.spec.name == *text);
                let first = named.next().ok_or_else(none)?;
                if named.next().is_some() {
                    return Err(ApiError::conflict(format!("several models are named {text}"))
                        .with_hint("name it by its id; `ayni model ls` lists the ids"));
                }
                Ok(first)
            }
        }
    }

    pub(super) fn make_model(&self, request: CreateModelRequest) -> Result<JobId, ApiError> {
        let suite = request.evaluation_suite;
        let bytes = self.node.store.size(&suite).ok_or_else(|| {
            ApiError::not_found("the evaluation suite is not held here")
                .with_hint("add it first: `ayni data add FILE`")
        })?;
        let mut spec = ModelSpec {
            architecture: request.architecture(),
            name: request.name,
            tokenizer: None,
            adapter: None,
            seed: request.seed,
            imported: false,
            initial_checkpoint: protocol::ids::ContentHash::default(),
            evaluation_suite: suite,
            evaluation_suite_bytes: bytes,
            licence: request.licence,
        };
        spec.validate().map_err(|error| ApiError::bad_request(error.to_string()))?;
        let node = Arc::clone(&self.node);
        self.node.jobs.start(JobKind::CreateModel, move |handle| async move {
            handle.progress(0, 2, "making the initial weights");
            let parameters = initialize(&node, &mut spec).await?;
            handle.progress(1, 2, "registering the model");
            let (model, initial_checkpoint) = (spec.id(), spec.initial_checkpoint);
            let receipt = node
                .transactions
                .send_and_wait(&node.secrets.account, Payload::RegisterModel { spec }, PATIENCE)
                .await?;
            Ok(JobResult::CreateModel { model, parameters, initial_checkpoint, receipt })
        })
    }

    pub(super) fn evaluate_model(
        &self,
        wanted: &ModelRef,
        request: EvaluateRequest,
    ) -> Result<JobId, ApiError> {
        let model = self.find_model(wanted)?;
        let head = choose(&model, request.head).head(&model.spec);
        let windows = report_windows(&model.spec, request.windows);
        if windows.is_empty() {
            return Err(ApiError::bad_request("windows must be at least 1"));
        }
        let node = Arc::clone(&self.node);
        self.node.jobs.start(JobKind::Evaluate, move |handle| async move {
            handle.progress(0, 0, "measuring");
            let losses = evaluate(&node, &model.spec, &head, windows.clone()).await?;
            let count = u64::try_from(losses.len()).unwrap_or(u64::MAX).max(1);
            let total: u128 = losses.iter().map(|loss| u128::from(*loss)).sum();
            Ok(JobResult::Evaluate {
                model: model.spec.id(),
                head: head.id(),
                loss_nanonats: u64::try_from(total / u128::from(count)).unwrap_or(u64::MAX),
                windows: u32::try_from(windows.len()).unwrap_or(u32::MAX),
                bytes: count.saturating_mul(model.spec.window_bytes()),
            })
        })
    }

    pub(super) fn generate_text(
        &self,
        wanted: &ModelRef,
        request: GenerateRequest,
    ) -> Result<mpsc::Receiver<Result<GenerateOutput, ApiError>>, ApiError> {
        let model = self.find_model(wanted)?;
        let head = choose(&model, request.head).head(&model.spec);
        if request.bytes == 0 || request.bytes > limits::GENERATE_BYTES_MAX {
            return Err(ApiError::bad_request(format!(
                "bytes must be 1 to {}",
                limits::GENERATE_BYTES_MAX
            )));
        }
        if request.prompt.len() > limits::PROMPT_BYTES_MAX {
            return Err(ApiError::bad_request(format!(
                "the prompt may have at most {} bytes",
                limits::PROMPT_BYTES_MAX
            )));
        }
        let (sender, receiver) = mpsc::channel(PIECES);
        let node = Arc::clone(&self.node);
        self.node.tracker.spawn(async move {
            let done = tokio::select! {
                () = sender.closed() => return,
                done = generate(&node, &model.spec, &head, request, &sender) => done,
            };
            let last = done.map(GenerateOutput::Done);
            // The client may have gone meanwhile.
            let _ = sender.send(last).await;
        });
        Ok(receiver)
    }
}

async fn initialize(node: &Arc<Node>, spec: &mut ModelSpec) -> Result<u64, ApiError> {
    let out = name("initial.safetensors").map_err(|e| failed(&e))?;
    let mut job = node.worker.job(Lane::Interactive).await.map_err(|e| worker_failed(&e))?;
    let request = WorkerRequest::Initialize { spec: spec.clone(), checkpoint_out: out.clone() };
    let outcome = job.run(request, JOB_MAX, None).await.map_err(|e| worker_failed(&e))?;
    let WorkerOutcome::Initialized { checkpoint, parameters } = outcome else {
        return Err(ApiError::internal("the worker answered another question"));
    };
    let bytes_max = checkpoint_bytes_max(spec);
    // The transaction that names it may become final after everybody has stopped waiting for it.
    let _hold = node.store.hold(checkpoint);
    let kept = job
        .keep(&out, &node.store, bytes_max)
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
    Ok(parameters)
}

async fn evaluate(
    node: &Arc<Node>,
    spec: &ModelSpec,
    head: &Head,
    windows: Vec<u64>,
) -> Result<Vec<u64>, ApiError> {
    let prepare = async {
        node.have_head(spec, head, &[]).await?;
        node.have_suite(spec, &[]).await?;
        let job = node.worker.job(Lane::Interactive).await?;
        let outer = node.put_head(&job, head).await?;
        let files = node.put_files(&job, spec, &[]).await?;
        job.put_blob(&name("suite")?, &node.store, spec.evaluation_suite).await?;
        let request = WorkerRequest::Evaluate(EvaluateJob {
            spec: spec.clone(),
            parameters: RoundParameters::default(),
            files,
            checkpoint: name("head.safetensors")?,
            outer,
            suite: name("suite")?,
            windows,
            submitted: Vec::new(),
            divisor: 1,
            variants: vec![Variant { weights_ppm: Vec::new() }],
        });
        Ok::<_, anyhow::Error>((job, request))
    };
    let (mut job, request) = prepare.await.map_err(|e| failed(&e))?;
    let outcome = job.run(request, JOB_MAX, None).await.map_err(|e| worker_failed(&e))?;
    match outcome {
        WorkerOutcome::Evaluated { losses, .. } => losses
            .into_iter()
            .next()
            .flatten()
            .ok_or_else(|| ApiError::internal("the head was not measured")),
        _ => Err(ApiError::internal("the worker answered another question")),
    }
}

async fn generate(
    node: &Arc<Node>,
    spec: &ModelSpec,
    head: &Head,
    request: GenerateRequest,
    sender: &mpsc::Sender<Result<GenerateOutput, ApiError>>,
) -> Result<GenerateDone, ApiError> {
    let started = Instant::now();
    let prepare = async {
        node.have_head(spec, head, &[]).await?;
        let job = node.worker.job(Lane::Interactive).await?;
        node.put_head(&job, head).await?;
        let request = WorkerRequest::Generate(GenerateJob {
            spec: spec.clone(),
            files: node.put_files(&job, spec, &[]).await?,
            checkpoint: name("head.safetensors")?,
            prompts: vec![request.prompt.into_bytes()],
            bytes: request.bytes,
            temperature_ppm: request.temperature_ppm,
            top_p_ppm: request.top_p_ppm,
            stop: request.stop.into_iter().map(String::into_bytes).collect(),
            seed: request.seed,
        });
        Ok::<_, anyhow::Error>((job, request))
    };
    let (mut job, request) = prepare.await.map_err(|e| failed(&e))?;
    let (pieces, mut progress) = mpsc::channel::<Progress>(PIECES);
    let forward = async {
        let mut sent = 0_usize;
        while let Some(piece) = progress.recv().await {
            sent += piece.text.len();
            if !piece.text.is_empty()
                && sender.send(Ok(GenerateOutput::Text(piece.text))).await.is_err()
            {
                break;
            }
        }
        sent
    };
    let (outcome, sent) = tokio::join!(job.run(request, JOB_MAX, Some(pieces)), forward);
    let WorkerOutcome::Generated { texts, .. } = outcome.map_err(|e| worker_failed(&e))? else {
        return Err(ApiError::internal("the worker answered another question"));
    };
    let text = texts.into_iter().next().unwrap_or_default();
    if let Some(rest) = text.get(sent..).filter(|rest| !rest.is_empty()) {
        // The client may have gone meanwhile.
        let _ = sender.send(Ok(GenerateOutput::Text(rest.to_vec()))).await;
    }
    Ok(GenerateDone {
        head: head.id(),
        bytes: u32::try_from(text.len()).unwrap_or(u32::MAX),
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}
