//! Training: inner steps on the assigned shards and private data. What they give is written down;
//! the delta is made of it later, see [`super::compress`].
//!
//! A run that is stopped, for a review or because something died, goes on where it was.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use libp2p::PeerId;
use protocol::codec::{self, Canonical};
use protocol::ids::ModelId;
use protocol::ledger::entries::Round;
use protocol::limits;
use protocol::model::{Compression, DataClass, DatasetManifest, Shard};
use protocol::training::{Draw, steps_for, steps_seed};
use protocol::worker::{
    FileName, InnerRun, ModelFiles, StateOutputs, TrainJob, TrainOutcome, WorkerOutcome,
    WorkerRequest,
};
use tokio_util::sync::CancellationToken;

use super::inputs::{Inputs, JOB_MAX, name};
use super::{Done, Outcome};
use crate::node::notes::Notes;
use crate::node::notes::run::{self, RunPlan, TrainedNote};
use crate::node::{Node, private};
use crate::worker::{Job, Lane, WorkerError};

/// Part of the time for training that a node plans for its inner steps, in ppm; the rest is for
/// data to arrive, for reviews in between and for the delta.
const STEPS_MARGIN_PPM: u32 = 750_000;

/// States that a run keeps at most, and their length together: a disk holds those of two rounds.
const STATES_MAX: u64 = 8;
const STATES_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// How a run ended.
enum End {
    Trained(TrainOutcome),
    Stopped,
    Failed(WorkerError),
}

pub(super) async fn train(
    node: &Arc<Node>,
    notes: &Notes,
    (model, index): (ModelId, u32),
    stop: CancellationToken,
) -> Outcome {
    let inputs = Inputs::read(node, &model, index)?;
    let round = &inputs.round;
    node.have_head(inputs.spec(), &round.parent, &inputs.peers).await?;
    let member = round.member_index(&node.id()).context("this node is not a member")?;
    let shards = fetch_shards(node, round, &round.shards_of(member)).await?;
    let plan = plan(notes, round).await?;

    let mut job = node.worker.job(Lane::Duty).await?;
    node.put_head(&job, &round.parent).await?;
    let mut texts = put_shards(node, &job, &shards).await?;
    let private = put_private(node, &job, round).await?;
    let data_class = if private.is_empty() { DataClass::Public } else { DataClass::Private };
    texts.extend(private);
    if texts.is_empty() {
        bail!("there is nothing to train on: no dataset is published and there is no private data");
    }
    job.put_bytes(&name(run::MARK)?, run::mark(model, index)).await?;
    let (folder, directory) = (notes.run(&model, index), job.directory().to_owned());
    let from = folder.clone();
    blocking(move || run::put_back(&from, &directory)).await?;

    let files = node.put_files(&job, inputs.spec(), &inputs.peers).await?;
    let request = WorkerRequest::Train(TrainJob {
        run: inner_run(&inputs, files, plan.steps, &node.id(), texts),
        checkpoint: name("head.safetensors")?,
        checkpoint_out: name(run::TRAINED)?,
        resume: Some(name(run::RESUME)?),
        states: Some(StateOutputs {
            prefix: name(run::STATES)?,
            every: states_every(plan.steps, inputs.spec().parameters()),
        }),
    });
    let end = tokio::select! {
        biased;
        () = stop.cancelled() => End::Stopped,
        outcome = job.run(request, JOB_MAX, Some(node.duty_progress())) => match outcome {
            Ok(WorkerOutcome::Trained(trained)) => End::Trained(trained),
            Ok(_) => bail!("an answer to another question"),
            Err(error) => End::Failed(error),
        },
    };
    if matches!(end, End::Failed(WorkerError::Failed(_))) {
        // The worker itself gives up: what it had saved may be why.
        blocking(move || run::forget(&folder)).await?;
    } else {
        let directory = job.directory().to_owned();
        blocking(move || run::rescue(&directory, &folder)).await?;
    }
    let trained = match end {
        End::Trained(trained) => trained,
        End::Stopped => return Ok(Done::Interrupted),
        End::Failed(error) => return Err(error.into()),
    };
    let fingerprint = node.worker.status().borrow().description.as_ref().map(|d| d.fingerprint);
    let note = TrainedNote {
        steps: plan.steps,
        step_states: trained.step_states,
        data_class,
        determinism: trained.determinism,
        fingerprint: fingerprint.unwrap_or_default(),
    };
    let (notes, speed) = (notes.clone(), speed(&trained, plan.steps));
    blocking(move || {
        if let Some(speed) = speed {
            notes.put_speed(&model, speed)?;
        }
        notes.put_trained(&model, index, &note)
    })
    .await
    .context("cannot write down what was trained")?;
    node.training.trained(trained.loss_first_nanonats, trained.loss_last_nanonats);
    Ok(Done::Noted)
}

/// Steps between two states that are kept: a slice that is asked for is run again from the one
/// before it.
fn states_every(steps: u32, parameters: u64) -> u32 {
    let one = state_bytes(parameters).max(1);
    let fit = STATES_BYTES_MAX.checked_div(one).unwrap_or(0).clamp(1, STATES_MAX);
    steps.div_ceil(u32::try_from(fit).unwrap_or(1)).max(1)
}

/// Length of a state: weights and two moments in f32, and a header.
pub(super) const fn state_bytes(parameters: u64) -> u64 {
    parameters.saturating_mul(12).saturating_add(1_024)
}

/// How many steps the run takes: as it began, or as many as this node is fast enough for.
async fn plan(notes: &Notes, round: &Round) -> anyhow::Result<RunPlan> {
    let (notes, model, index, p) =
        (notes.clone(), round.model, round.index, round.parameters.clone());
    blocking(move || {
        if let Some(plan) = notes.plan(&model, index) {
            return Ok(plan);
        }
        let speed = notes.speed(&model);
        let steps = steps_for(p.inner_steps, speed, p.train_ms, STEPS_MARGIN_PPM);
        let plan = RunPlan { steps };
        notes.put_plan(&model, index, &plan).map(|()| plan)
    })
    .await
    .context("cannot write down the plan of the run")
}

/// Steps per second in thousandths, of what the worker did in this run.
fn speed(trained: &TrainOutcome, steps: u32) -> Option<u64> {
    let taken = steps.checked_sub(trained.resumed_at).filter(|steps| *steps > 0)?;
    u64::from(taken).saturating_mul(1_000_000).checked_div(trained.elapsed_ms)
}

/// The inner steps of a member, as it and who replays them run them.
pub(super) fn inner_run(
    inputs: &Inputs,
    files: ModelFiles,
    steps: u32,
    author: &protocol::ids::NodeId,
    shards: Vec<FileName>,
) -> InnerRun {
    let round = &inputs.round;
    InnerRun {
        spec: inputs.spec().clone(),
        files,
        parameters: round.parameters.clone(),
        steps,
        steps_before: round.steps_before(),
        seed: steps_seed(&round.assignment_beacon, author, round.index),
        shards,
    }
}

/// The assigned shards, all here.
pub(super) async fn fetch_shards(
    node: &Arc<Node>,
    round: &Round,
    numbers: &[u64],
) -> anyhow::Result<Vec<Shard>> {
    let mut found = Vec::new();
    for number in numbers {
        let (hash, index) =
            round.locate_shard(*number).context("an assigned shard is in no dataset")?;
        let peers: Vec<PeerId> = node
            .ledger
            .read(|view| view.dataset(&hash).and_then(|d| crate::network::peer_id(&d.node)))
            .into_iter()
            .collect();
        let bytes_max = u64::try_from(DatasetManifest::BYTES_MAX)?;
        let bytes = node
            .blob_bytes(hash, bytes_max, peers.clone())
            .await
            .context("cannot get a dataset's manifest")?;
        let manifest: DatasetManifest = codec::decode(&bytes).context("a dataset's manifest")?;
        manifest.validate().context("a dataset's manifest")?;
        let shard = manifest
            .shards
            .get(usize::try_from(index)?)
            .context("a dataset has fewer shards than it says")?;
        node.blobs
            .fetch(shard.blob, shard.bytes, peers)
            .await
            .context("cannot get an assigned shard")?;
        found.push(*shard);
    }
    Ok(found)
}

/// Puts shards that are here into a job.
pub(super) async fn put_shards(
    node: &Node,
    job: &Job,
    shards: &[Shard],
) -> anyhow::Result<Vec<FileName>> {
    let mut files = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let file = name(&format!("shard-{number}.txt"))?;
        job.put_blob(&file, &node.store, shard.blob).await?;
        files.push(file);
    }
    Ok(files)
}

/// Private texts, as many bytes as the assigned shards aim at, so that neither drowns the other.
async fn put_private(node: &Arc<Node>, job: &Job, round: &Round) -> anyhow::Result<Vec<FileName>> {
    let Some(dir) = node.private_folder() else { return Ok(Vec::new()) };
    let noisy = node.config.training().privacy_noise_ppm > 0;
    if noisy && round.parameters.compression == Compression::Sparse {
        tracing::warn!(
            round = round.index,
            "deltas of this round are sparse, which noise cannot protect: the private data is not \
             used"
        );
        return Ok(Vec::new());
    }
    let bytes_max = u64::from(round.parameters.shards_per_member)
        .saturating_mul(u64::try_from(limits::SHARD_BYTES_TARGET)?);
    let mut draw = Draw::new(
        "ayni 2026 private files v1",
        &round.assignment_beacon,
        &[round.model.as_bytes(), &round.index.to_le_bytes()],
    );
    let target = job.directory().to_owned();
    tokio::task::spawn_blocking(move || private::copy_some(&dir, &target, bytes_max, &mut draw))
        .await?
        .context("cannot read the private data")
}

/// Runs file work on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_few_and_bounded() {
        assert_eq!(states_every(30, 1_000_000), 4);
        assert_eq!(states_every(1, 1_000_000), 1);
        // Two states of 125M parameters fit, one of 1B.
        assert_eq!(states_every(100, 125_000_000), 50);
        assert_eq!(states_every(100, 1_000_000_000), 100);
    }
}
