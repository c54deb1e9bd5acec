//! What jobs of the worker need: the model, the head, the round, as files in a job directory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use libp2p::PeerId;
use protocol::codec;
use protocol::ids::{ContributionId, ModelId};
use protocol::ledger::entries::{Contribution, Member, Model, Round};
use protocol::ledger::rounds::submitted;
use protocol::ledger::weights::merge_weights;
use protocol::limits;
use protocol::model::{Head, ModelSpec, OuterState};
use protocol::training::review_windows;
use protocol::worker::{
    EvaluateJob, FileName, ModelFiles, OuterFiles, Progress, SubmittedDelta, Variant, WorkerRequest,
};
use tokio::sync::mpsc;

use crate::node::Node;
use crate::worker::Job;

/// Progress reports that may wait.
const PROGRESS_QUEUE: usize = 64;

/// A round with its model and the deltas that were revealed.
pub(super) struct Inputs {
    pub(super) model: Model,
    pub(super) round: Round,
    /// In the round's order.
    pub(super) submitted: Vec<(Member, Contribution)>,
    /// What the accepted ones of them weigh, in the same order.
    pub(super) weights: Vec<(ContributionId, u32)>,
    pub(super) peers: Vec<PeerId>,
}

impl Inputs {
    pub(super) fn read(node: &Node, id: &ModelId, index: u32) -> anyhow::Result<Self> {
        node.ledger.read(|view| {
            let model = view.model(id).context("the model is not on the ledger")?;
            let round = view.round(id, index).context("the round is not on the ledger")?;
            let submitted = submitted(view, &round);
            let weights = merge_weights(view, &round);
            let peers = Node::round_peers(&round);
            Ok(Self { model, round, submitted, weights, peers })
        })
    }

    pub(super) const fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }
}

impl Inputs {
    /// Most bytes of a delta of this round.
    pub(super) fn delta_bytes_max(&self) -> u64 {
        self.round.parameters.delta_bytes_max(self.spec().parameters())
    }

    /// The question that reviewers and attestors ask of the worker: losses of variants of the
    /// head on the round's review windows. The job must hold the head, the suite, the model's
    /// files and the deltas of `submitted`, whose weights do not matter here.
    pub(super) fn evaluate(
        &self,
        files: ModelFiles,
        outer: OuterFiles,
        submitted: Vec<SubmittedDelta>,
        divisor: usize,
        variants: Vec<Variant>,
    ) -> anyhow::Result<WorkerRequest> {
        let round = &self.round;
        Ok(WorkerRequest::Evaluate(EvaluateJob {
            spec: self.spec().clone(),
            parameters: round.parameters.clone(),
            files,
            checkpoint: name("head.safetensors")?,
            outer,
            suite: name("suite")?,
            windows: review_windows(
                &round.review_beacon,
                self.spec(),
                round.index,
                round.parameters.review_windows,
            ),
            submitted,
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
    weights_bytes_max(spec.parameters())
}

/// Largest file of so many f32 weights, in bytes.
pub(crate) const fn weights_bytes_max(parameters: u64) -> u64 {
    parameters.saturating_mul(4).saturating_add(1024 * 1024)
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
        let state = self.outer_state(head, peers).await?;
        for hash in [state.momentum, state.aggregate].into_iter().flatten() {
            self.blobs
                .fetch(hash, checkpoint_bytes_max(spec), peers.to_vec())
                .await
                .context("cannot get what the head's outer state names")?;
        }
        self.blobs
            .fetch(head.checkpoint, checkpoint_bytes_max(spec), peers.to_vec())
            .await
            .context("cannot get the head's checkpoint")?;
        Ok(())
    }

    /// The outer state of a head.
    async fn outer_state(&self, head: &Head, peers: &[PeerId]) -> anyhow::Result<OuterState> {
        let bytes_max = u64::try_from(<OuterState as codec::Canonical>::BYTES_MAX)?;
        let bytes = self
            .blob_bytes(head.outer_state, bytes_max, peers.to_vec())
            .await
            .context("cannot get the head's outer state")?;
        codec::decode(&bytes).context("the head's outer state")
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

    /// Puts a head, which is here, into a job.
    pub(crate) async fn put_head(&self, job: &Job, head: &Head) -> anyhow::Result<OuterFiles> {
        job.put_blob(&name("head.safetensors")?, &self.store, head.checkpoint).await?;
        let state = self.outer_state(head, &[]).await?;
        let files = OuterFiles {
            state: name("outer-state")?,
            momentum: state.momentum.map(|_| name("momentum.safetensors")).transpose()?,
            aggregate: state.aggregate.map(|_| name("aggregate.safetensors")).transpose()?,
        };
        job.put_blob(&files.state, &self.store, head.outer_state).await?;
        let named = [(&files.momentum, state.momentum), (&files.aggregate, state.aggregate)];
        for (file, hash) in named {
            if let (Some(file), Some(hash)) = (file, hash) {
                job.put_blob(file, &self.store, hash).await?;
            }
        }
        Ok(files)
    }

    /// Has what belongs to a model beside its heads here and puts it into a job.
    pub(crate) async fn put_files(
        &self,
        job: &Job,
        spec: &ModelSpec,
        peers: &[PeerId],
    ) -> anyhow::Result<ModelFiles> {
        let mut files = ModelFiles::default();
        if let Some(hash) = spec.tokenizer {
            self.blobs
                .fetch(hash, limits::TOKENIZER_BYTES_MAX, peers.to_vec())
                .await
                .context("cannot get the model's tokenizer")?;
            let file = name("tokenizer.json")?;
            job.put_blob(&file, &self.store, hash).await?;
            files.tokenizer = Some(file);
        }
        if let Some(adapter) = spec.adapter {
            let bytes_max = weights_bytes_max(spec.architecture.parameters());
            self.blobs
                .fetch(adapter.base, bytes_max, peers.to_vec())
                .await
                .context("cannot get the frozen weights under the adapter")?;
            let file = name("base.safetensors")?;
            job.put_blob(&file, &self.store, adapter.base).await?;
            files.base = Some(file);
        }
        Ok(files)
    }

    /// Reports of a job that become the duty's progress.
    pub(super) fn duty_progress(self: &Arc<Self>) -> mpsc::Sender<Progress> {
        let (sender, mut receiver) = mpsc::channel::<Progress>(PROGRESS_QUEUE);
        let node = Arc::clone(self);
        self.tracker.spawn(async move {
            while let Some(p) = receiver.recv().await {
                node.training.progress(&node, &p);
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
