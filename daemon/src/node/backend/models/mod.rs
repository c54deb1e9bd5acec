//! Models: finding, evaluating; registering in [`create`], export in [`export`], text in
//! [`generate`].

mod create;
mod export;
mod generate;

use std::sync::Arc;

use protocol::api::{ApiError, EvaluateRequest, HeadChoice, JobId, JobKind, JobResult, ModelRef};
use protocol::ledger::entries::Model;
use protocol::model::{Head, ModelSpec, RoundParameters};
use protocol::training::report_windows;
use protocol::worker::{EvaluateJob, FailureKind, Variant, WorkerOutcome, WorkerRequest};

use super::NodeBackend;
use super::data::failed;
use crate::node::Node;
use crate::node::duties::inputs::{JOB_MAX, name};
use crate::worker::{Lane, WorkerError};

fn worker_failed(error: &WorkerError) -> ApiError {
    match error {
        WorkerError::Unavailable(_) => ApiError::unavailable(error.to_string())
            .with_hint("`ayni status` says what the worker does"),
        WorkerError::Failed(failure) if failure.kind == FailureKind::BadInput => {
            ApiError::bad_request(failure.message.clone())
        }
        _ => ApiError::internal(error.to_string()),
    }
}

impl NodeBackend {
    /// A head of a model.
    fn choose(&self, model: &Model, choice: HeadChoice) -> Result<Head, ApiError> {
        let HeadChoice::Round(index) = choice else {
            return Ok(match choice {
                HeadChoice::Initial => Head::initial(&model.spec),
                _ => model.head,
            });
        };
        let round = self.node.ledger.read(|view| view.round(&model.spec.id(), index));
        let certified = round.as_ref().and_then(|round| {
            let attested = round.attestors.iter().filter_map(|attestor| attestor.attested);
            attested.map(|a| a.head).find(|head| Some(head.id()) == round.head)
        });
        certified.ok_or_else(|| {
            let name = &model.spec.name;
            ApiError::not_found(format!("round {index} of {name} certified no head"))
                .with_hint(format!("`ayni model history {name}` lists those that did"))
        })
    }

    pub(super) fn find_model(&self, wanted: &ModelRef) -> Result<Model, ApiError> {
        let none = || {
            ApiError::not_found(format!("there is no model {wanted}"))
                .with_hint("`ayni model ls` lists the models")
        };
        match wanted {
            ModelRef::Id(id) => self.node.ledger.read(|view| view.model(id)).ok_or_else(none),
            ModelRef::Name(text) => {
                let all = self.node.ledger.read(|view| view.models());
                named(all, text).ok_or_else(none)
            }
        }
    }

    pub(super) fn evaluate_model(
        &self,
        wanted: &ModelRef,
        request: EvaluateRequest,
    ) -> Result<JobId, ApiError> {
        let model = self.find_model(wanted)?;
        let head = self.choose(&model, request.head)?;
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

/// Fewest hexadecimal digits that stand for an id: as many as the lists show.
const ID_DIGITS_MIN: usize = 8;

/// The model of a name: of several the one registered first, so that nobody can take a name away.
/// Else the only one whose id begins so.
fn named(models: Vec<Model>, text: &str) -> Option<Model> {
    let (same, others): (Vec<_>, Vec<_>) = models.into_iter().partition(|m| m.spec.name == text);
    if let Some(first) = same.into_iter().min_by_key(|model| model.number) {
        return Some(first);
    }
    if text.len() < ID_DIGITS_MIN {
        return None;
    }
    let mut begins = others.into_iter().filter(|m| m.spec.id().to_string().starts_with(text));
    begins.next().filter(|_| begins.next().is_none())
}

#[cfg(test)]
mod tests {
    use protocol::ids::{AccountId, ContentHash};
    use protocol::model::{Architecture, Head};

    use super::*;

    fn model(name: &str, number: u32) -> Model {
        let spec = ModelSpec {
            name: name.to_owned(),
            architecture: Architecture::BytesGpt { layers: 1, width: 16, heads: 1, context: 16 },
            tokenizer: None,
            adapter: None,
            seed: u64::from(number),
            imported: false,
            initial_checkpoint: ContentHash::default(),
            evaluation_suite: ContentHash::default(),
            evaluation_suite_bytes: 1_000,
            licence: "MIT".to_owned(),
        };
        Model {
            head: Head::initial(&spec),
            spec,
            owner: AccountId::default(),
            number,
            weight_ppm: 0,
            run: None,
            next_round: 1,
            paused: false,
            direction: Vec::new(),
        }
    }

    #[test]
    fn a_name_stays_with_the_model_that_had_it_first() {
        let all = || vec![model("tiny", 7), model("tiny", 2), model("other", 1)];
        assert_eq!(named(all(), "tiny").map(|found| found.number), Some(2));
        assert_eq!(named(all(), "none"), None);
        let id = all()[0].spec.id().to_string();
        assert_eq!(named(all(), &id[..8]).map(|found| found.number), Some(7));
        assert_eq!(named(all(), &id[..7]), None, "too short to be meant");
    }
}
