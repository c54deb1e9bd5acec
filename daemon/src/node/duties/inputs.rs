//! What jobs of the worker need: the model, the head, the round, as files in a job directory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use libp2p::PeerId;
use protocol::codec;
use protocol::ids::ModelId;
use protocol::ledger::entries::{Contribution, Member, Model, Round};
use protocol::ledger::rounds::submitted;
use protocol::limits;
use protocol::model::{Head, ModelSpec, OuterState};
use protocol::training::review_windows;
use protocol::worker::{EvaluateJob, FileName, Progress, Variant, WorkerRequest};
use tokio::sync::mpsc;

use crate::node::Node;
use crate::worker::Job;

/// Progress reports that may wait.
const PROGRESS_QUEUE: usize = 64;

/// A round with its model and the deltas that were revealed.
pub(super) struct Inputs {
    pub(super) model: Model,
    pub(super) round: Round,
    pub(super) submitted: Vec<(Member, Contribution)>,
    pub(super) peers: Vec<PeerId>,
}

impl Inputs {
    pub(super) fn read(node: &Node, id: &ModelId, index: u32) -> anyhow::Result<Self> {
        node.ledger.read(|view| {
            let model = view.model(id).context("the model is not on the ledger")?;
            let round = view.round(id, index).context("the round is not on the ledger")?;
            let submitted = submitted(view, &round);
            let peers = Node::round_peers(&round);
            Ok(Self { model, round, submitted, peers })
        })
    }

    pub(super) const fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }
}

impl Inputs {
    /// The question that reviewers and attestors ask of the worker: losses of variants of the
    /// head on the round's review windows. The job must hold the head, the suite and `count`
    /// deltas.
    pub(super) fn evaluate(
        &self,
        count: usize,
        divisor: usize,
        variants: Vec<Variant>,
    ) -> anyhow::Result<WorkerRequest> {
        let round = &self.round;
        Ok(WorkerRequest::Evaluate(EvaluateJob {
            spec: self.spec().clone(),
            parameters: round.parameters.clone(),
            checkpoint: name("head.safetensors")?,
            outer_state: name("outer-state")?,
            suite: name("suite")?,
            windows: review_windows(
                &round.review_beacon,
                self.spec(),
                round.index,
                round.parameters.review_windows,
            ),
            submitted: (0..count).map(delta_name).collect::<anyhow::Result<_>>()?,
            divisor: u32::try_from(divisor)?.max(1),
            variants,
        }))
    }
}

/// A file name that is a constant of this program.
pub(crate) fn name(text: &str) -> anyhow::Result<FileName> {
    Ok(FileName::new(text)?)
}

/// Largest checkpoint of a model in bytes: f32 weights and a header.
pub(crate) fn checkpoint_bytes_max(spec: &ModelSpec) -> u64 {
    spec.parameters().saturating_mul(4).saturating_add(1024 * 1024)
}

/// The longest a job may take; a round's own deadline cancels it earlier.
pub(crate) const JOB_MAX: Duration = Duration::from_secs(3_600);

impl Node {
    /// Has a head's blobs here.
    pub(crate) async fn have_head(
        &self,
        spec: &ModelSpec,
        head: &Head,
        peers: &[PeerId],
    ) -> anyhow::Result<()> {
        let empty = codec::encode(&OuterState::default());
        if protocol::ids::ContentHash::of(&empty) == head.outer_state {
            self.put_blob(empty).await?;
        }
        let bytes_max = u64::try_from(<OuterState as codec::Canonical>::BYTES_MAX)?;
        self.blobs
            .fetch(head.outer_state, bytes_max, peers.to_vec())
            .await
            .context("cannot get the head's outer state")?;
        self.blobs
            .fetch(head.checkpoint, checkpoint_bytes_max(spec), peers.to_vec())
            .await
            .context("cannot get the head's checkpoint")?;
        Ok(())
    }

    /// Has the evaluation suite here.
    pub(crate) async fn have_suite(
        &self,
        spec: &ModelSpec,
        peers: &[PeerId],
    ) -> anyhow::Result<()> {
        self.blobs
            .fetch(spec.evaluation_suite, spec.evaluation_suite_bytes, peers.to_vec())
            .await
            .context("cannot get the evaluation suite")?;
        Ok(())
    }

    /// Puts a head into a job.
    pub(crate) async fn put_head(&self, job: &Job, head: &Head) -> anyhow::Result<()> {
        job.put_blob(&name("head.safetensors")?, &self.store, head.checkpoint).await?;
        job.put_blob(&name("outer-state")?, &self.store, head.outer_state).await?;
        Ok(())
    }

    /// Reports of a job that become the duty's progress.
    pub(super) fn duty_progress(self: &Arc<Self>) -> mpsc::Sender<Progress> {
        let (sender, mut receiver) = mpsc::channel::<Progress>(PROGRESS_QUEUE);
        let node = Arc::clone(self);
        self.tracker.spawn(async move {
            while let Some(p) = receiver.recv().await {
                node.training.progress(&node, p.done, p.total, p.loss_nanonats);
            }
        });
        sender
    }
}

/// Name of a delta's file.
pub(super) fn delta_name(index: usize) -> anyhow::Result<FileName> {
    name(&format!("delta-{index}"))
}

const _: () = assert!(limits::DELTA_BYTES_MAX < limits::BLOB_BYTES_MAX);
