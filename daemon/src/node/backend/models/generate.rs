//! Generating text.

use std::sync::Arc;
use std::time::Instant;

use protocol::api::{ApiError, GenerateDone, GenerateRequest, ModelRef};
use protocol::limits;
use protocol::model::{Head, ModelSpec};
use protocol::worker::{GenerateJob, Progress, WorkerOutcome, WorkerRequest};
use tokio::sync::mpsc;

use super::super::NodeBackend;
use super::super::data::failed;
use super::worker_failed;
use crate::api::GenerateOutput;
use crate::node::Node;
use crate::node::duties::inputs::{JOB_MAX, name};
use crate::worker::Lane;

/// Pieces of a generation that may wait for the client.
const PIECES: usize = 256;

impl NodeBackend {
    pub(in super::super) fn generate_text(
        &self,
        wanted: &ModelRef,
        request: GenerateRequest,
    ) -> Result<mpsc::Receiver<Result<GenerateOutput, ApiError>>, ApiError> {
        let model = self.find_model(wanted)?;
        let head = self.choose(&model, request.head)?;
        if request.bytes == 0 || request.bytes > limits::GENERATE_BYTES_MAX {
            return Err(ApiError::bad_request(format!(
                "bytes must be 1 to {}",
                limits::GENERATE_BYTES_MAX
            )));
        }
        let longest = request.stop.iter().map(String::len).max().unwrap_or(1);
        if request.stop.len() > limits::STOP_TEXTS_MAX
            || !(1..=limits::STOP_BYTES_MAX).contains(&longest)
            || request.stop.iter().any(String::is_empty)
        {
            return Err(ApiError::bad_request(format!(
                "stop texts: at most {}, of 1 to {} bytes each",
                limits::STOP_TEXTS_MAX,
                limits::STOP_BYTES_MAX
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
