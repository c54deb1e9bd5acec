//! Training: inner steps on the assigned shards and private data, the delta, its covering letter.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use libp2p::PeerId;
use protocol::codec::{self, Canonical};
use protocol::duties::was_merged;
use protocol::ids::{ContentHash, ModelId, derive};
use protocol::ledger::entries::Round;
use protocol::limits;
use protocol::model::{DataClass, DatasetManifest, DeltaManifest, Shard};
use protocol::review::Verdict;
use protocol::training::Draw;
use protocol::worker::{
    CompressJob, DeltaOutputs, FileName, InnerRun, TrainJob, WorkerOutcome, WorkerRequest,
};

use super::inputs::{Inputs, JOB_MAX, checkpoint_bytes_max, name};
use super::{Done, Outcome};
use crate::node::notes::Notes;
use crate::node::{Node, private};
use crate::worker::{Job, Lane};

/// Opens the commitment to a delta; the same after a restart.
pub(super) fn salt(node: &Node, manifest: &DeltaManifest) -> [u8; 32] {
    let content = codec::hash(manifest);
    node.secrets.duty.derive_salt("ayni 2026 submission salt v1", &[content.as_bytes()])
}

pub(super) async fn train(node: &Arc<Node>, notes: &Notes, model: ModelId, index: u32) -> Outcome {
    let inputs = Inputs::read(node, &model, index)?;
    let round = &inputs.round;
    let me = node.id();
    let member = round.member_index(&me).context("this node is not a member of the round")?;
    node.have_head(inputs.spec(), &round.parent, &inputs.peers).await?;
    let numbers = round.shards_of(member);
    let shards = fetch_shards(node, round, &numbers).await?;
    let feedback = feedback(node, notes, &model, index);
    let seed = derive(
        "ayni 2026 inner steps seed v1",
        &[round.assignment_beacon.as_bytes(), me.as_bytes(), &index.to_le_bytes()],
    );
    let seed = seed.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));

    let mut job = node.worker.job(Lane::Duty).await?;
    node.put_head(&job, &round.parent).await?;
    let mut texts = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let file = name(&format!("shard-{number}.txt"))?;
        job.put_blob(&file, &node.store, shard.blob).await?;
        texts.push(file);
    }
    let private = put_private(node, &job, round).await?;
    let data_class = if private.is_empty() { DataClass::Public } else { DataClass::Private };
    texts.extend(private);
    if texts.is_empty() {
        bail!("there is nothing to train on: no dataset is published and there is no private data");
    }
    let feedback_in = match &feedback {
        None => ContentHash::default(),
        Some(bytes) => {
            job.put_bytes(&name("feedback")?, bytes.clone()).await?;
            ContentHash::of(bytes)
        }
    };
    let outputs = DeltaOutputs {
        payload: name("delta")?,
        feedback_accepted: name("feedback-merged")?,
        feedback_rejected: name("feedback-kept")?,
    };
    let request = WorkerRequest::Train(TrainJob {
        run: InnerRun {
            spec: inputs.spec().clone(),
            files: node.put_files(&job, inputs.spec(), &inputs.peers).await?,
            parameters: round.parameters.clone(),
            steps: round.parameters.inner_steps,
            steps_before: 0,
            seed,
            shards: texts,
        },
        checkpoint: name("head.safetensors")?,
        checkpoint_out: name("trained.safetensors")?,
        resume: None,
        states: None,
    });
    let outcome = job.run(request, JOB_MAX, Some(node.duty_progress())).await?;
    let WorkerOutcome::Trained(trained) = outcome else { bail!("an answer to another question") };
    let request = WorkerRequest::Compress(CompressJob {
        spec: inputs.spec().clone(),
        parameters: round.parameters.clone(),
        round: index,
        seed,
        checkpoint: name("head.safetensors")?,
        trained: name("trained.safetensors")?,
        feedback: feedback.is_some().then(|| name("feedback")).transpose()?,
        privacy: None,
        outputs: outputs.clone(),
    });
    let outcome = job.run(request, JOB_MAX, None).await?;
    let WorkerOutcome::Compressed(_) = outcome else { bail!("an answer to another question") };

    let payload = job.keep(&outputs.payload, &node.store, limits::DELTA_BYTES_MAX).await?;
    node.withheld.insert(payload, model, index);
    let bytes_max = checkpoint_bytes_max(inputs.spec());
    let merged = job.read(&outputs.feedback_accepted, bytes_max).await?;
    let kept = job.read(&outputs.feedback_rejected, bytes_max).await?;
    let fingerprint = node.worker.status().borrow().description.as_ref().map(|d| d.fingerprint);
    let manifest = DeltaManifest {
        author: me,
        model,
        round: index,
        parent: round.parent.id(),
        steps: round.parameters.inner_steps,
        seed,
        shards: Round::shards_hash(&numbers),
        feedback_in,
        feedback_out: ContentHash::of(&merged),
        step_states: trained.step_states,
        data_class,
        determinism: trained.determinism,
        fingerprint: fingerprint.unwrap_or_default(),
        payload,
        payload_bytes: node.store.size(&payload).context("the delta is gone")?,
    };
    let notes = notes.clone();
    tokio::task::spawn_blocking(move || {
        notes.put_delta(&manifest, &merged, &kept)?;
        notes.prune(&model, index)
    })
    .await?
    .context("cannot write down the delta")?;
    node.training.trained(trained.loss_first_nanonats, trained.loss_last_nanonats);
    Ok(Done::Noted)
}

/// The assigned shards, all here.
async fn fetch_shards(
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

/// Private texts, as many bytes as the assigned shards aim at, so that neither drowns the other.
async fn put_private(node: &Arc<Node>, job: &Job, round: &Round) -> anyhow::Result<Vec<FileName>> {
    let Some(dir) = node.private_folder() else { return Ok(Vec::new()) };
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

/// Error feedback of the round before; none after a missed round (design 7), and none after a
/// fault: what was found harmful must not come back piece by piece.
fn feedback(node: &Node, notes: &Notes, model: &ModelId, index: u32) -> Option<Vec<u8>> {
    let previous = index.checked_sub(1)?;
    notes.delta(model, previous)?;
    let me = node.id();
    let (merged, verdict) = node.ledger.read(|view| {
        let round = view.round(model, previous)?;
        let own = view.contribution(&round.contribution_id(&me));
        Some((was_merged(view, &round, &me), own.and_then(|c| c.verdict)))
    })?;
    if verdict == Some(Verdict::Fault) {
        return None;
    }
    match std::fs::read(notes.feedback(model, previous, merged)) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::warn!(%error, "the error feedback is gone; starting from zero");
            None
        }
    }
}
