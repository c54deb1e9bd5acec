//! Attesting: merging the accepted deltas into the next head and measuring its gain.

use std::io::Read as _;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use protocol::commitment::PossessionHasher;
use protocol::ids::{Commitment, ContentHash, ContributionId, ModelId, derive};
use protocol::ledger::entries::{Contribution, Member};
use protocol::ledger::state::State;
use protocol::ledger::weights::merge_weights;
use protocol::model::{DeltaManifest, Head, OuterState};
use protocol::review::{Verdict, gain};
use protocol::worker::{
    MergeJob, ModelFiles, OuterFiles, OuterOutputs, SubmittedDelta, Variant, WorkerOutcome,
    WorkerRequest,
};
use storage::blobs::Hold;

use super::inputs::{Inputs, JOB_MAX, checkpoint_bytes_max, delta_name, name};
use super::{Done, Outcome};
use crate::blobs::Priority;
use crate::node::Node;
use crate::node::notes::{HeadNote, Notes};
use crate::worker::{Job, Lane};

fn accepted(all: &[(Member, Contribution)]) -> Vec<&(Member, Contribution)> {
    all.iter().filter(|(_, c)| c.verdict == Some(Verdict::Accept)).collect()
}

/// Names the set of accepted deltas, so that a note for another set is not used.
pub(super) fn merged_hash(state: &State<'_>, model: &ModelId, index: u32) -> Option<[u8; 32]> {
    let round = state.round(model, index)?;
    Some(hash_of(&merge_weights(state, &round)))
}

fn hash_of(weights: &[(ContributionId, u32)]) -> [u8; 32] {
    let ids: Vec<&[u8]> = weights.iter().map(|(id, _)| id.as_bytes().as_slice()).collect();
    derive("ayni 2026 merged set v2", &ids)
}

pub(super) async fn attest(node: &Arc<Node>, notes: &Notes, model: ModelId, index: u32) -> Outcome {
    let inputs = Inputs::read(node, &model, index)?;
    let round = &inputs.round;
    let accepted = accepted(&inputs.submitted);
    let weights = &inputs.weights;
    node.have_head(inputs.spec(), round.base(), &inputs.peers).await?;
    node.have_suite(inputs.spec(), &inputs.peers).await?;
    let payloads = match fetch(node, &inputs, &accepted).await {
        Ok(payloads) => payloads,
        Err(missing) => return Ok(Done::Unavailable(missing)),
    };
    let mut job = node.worker.job(Lane::Duty).await?;
    let outer = node.put_head(&job, round.base()).await?;
    let files = node.put_files(&job, inputs.spec(), &inputs.peers).await?;
    job.put_blob(&name("suite")?, &node.store, inputs.spec().evaluation_suite).await?;
    let mut submitted = Vec::with_capacity(payloads.len());
    for (number, (manifest, (_, weight))) in payloads.iter().zip(weights).enumerate() {
        let payload = delta_name(number)?;
        job.put_blob(&payload, &node.store, manifest.payload).await?;
        let DeltaManifest { seed, round, .. } = *manifest;
        submitted.push(SubmittedDelta { payload, weight_ppm: *weight, seed, round });
    }
    let (head, _held) = merge(node, &inputs, &mut job, outer.clone(), submitted.clone()).await?;
    let gain = measure(node, &inputs, &mut job, (files, outer), submitted).await?;
    drop(job);
    let possession = possession(node, head.checkpoint).await?;
    let note = HeadNote { head, possession, gain, merged: hash_of(weights) };
    let notes = notes.clone();
    tokio::task::spawn_blocking(move || notes.put_head(&model, index, &note))
        .await?
        .context("cannot write down the head")?;
    tracing::info!(head = %head.id().short(), ?gain, "merged");
    Ok(Done::Noted)
}

async fn fetch(
    node: &Arc<Node>,
    inputs: &Inputs,
    accepted: &[&(Member, Contribution)],
) -> Result<Vec<DeltaManifest>, Vec<ContributionId>> {
    let mut payloads = Vec::new();
    let mut missing = Vec::new();
    for (member, contribution) in accepted {
        let Some(manifest) = &contribution.manifest else { continue };
        let mut hints: Vec<_> = crate::network::peer_id(&member.node).into_iter().collect();
        hints.extend(inputs.peers.iter().copied());
        let (payload, max) = (manifest.payload, inputs.delta_bytes_max());
        match node.blobs.fetch_as(Priority::Urgent, payload, max, hints).await {
            Ok(_) => payloads.push(manifest.clone()),
            Err(error) => {
                tracing::warn!(author = %member.node, %error, "cannot get an accepted delta");
                missing.push(contribution.id());
            }
        }
    }
    if missing.is_empty() { Ok(payloads) } else { Err(missing) }
}

async fn merge(
    node: &Arc<Node>,
    inputs: &Inputs,
    job: &mut Job,
    outer: OuterFiles,
    submitted: Vec<SubmittedDelta>,
) -> anyhow::Result<(Head, Vec<Hold>)> {
    let count = submitted.len();
    let checkpoint_out = name("next.safetensors")?;
    let outer_out = OuterOutputs {
        state: name("next-state")?,
        momentum: name("next-momentum.safetensors")?,
        aggregate: name("next-aggregate.safetensors")?,
    };
    let request = WorkerRequest::Merge(MergeJob {
        spec: inputs.spec().clone(),
        parameters: inputs.round.parameters.clone(),
        checkpoint: name("head.safetensors")?,
        outer,
        submitted,
        divisor: u32::try_from(count)?.max(1),
        checkpoint_out: checkpoint_out.clone(),
        outer_out: outer_out.clone(),
    });
    let outcome = job.run(request, JOB_MAX, None).await?;
    let WorkerOutcome::Merged { checkpoint, outer_state, momentum, aggregate } = outcome else {
        bail!("an answer to another question");
    };
    let bytes_max = checkpoint_bytes_max(inputs.spec());
    let state_max = u64::try_from(<OuterState as protocol::codec::Canonical>::BYTES_MAX)?;
    let mut held = Vec::new();
    for (file, hash, bytes_max) in [
        (&checkpoint_out, Some(checkpoint), bytes_max),
        (&outer_out.state, Some(outer_state), state_max),
        (&outer_out.momentum, momentum, bytes_max),
        (&outer_out.aggregate, aggregate, bytes_max),
    ] {
        let Some(hash) = hash else { continue };
        // Until it is written down that it is needed.
        held.push(node.store.hold(hash));
        if job.keep(file, &node.store, bytes_max).await? != hash {
            bail!("the worker wrote another file than it says");
        }
    }
    Ok((Head { checkpoint, outer_state, parameters: inputs.round.parameters.hash() }, held))
}

/// The gain of the merged head over its parent on the round's review windows.
async fn measure(
    node: &Arc<Node>,
    inputs: &Inputs,
    job: &mut Job,
    (files, outer): (ModelFiles, OuterFiles),
    submitted: Vec<SubmittedDelta>,
) -> anyhow::Result<protocol::review::Gain> {
    let weights_ppm = submitted.iter().map(|delta| delta.weight_ppm).collect();
    let variants = vec![Variant { weights_ppm: Vec::new() }, Variant { weights_ppm }];
    let divisor = submitted.len();
    let request = inputs.evaluate(files, outer, submitted, divisor, variants)?;
    let outcome = job.run(request, JOB_MAX, Some(node.duty_progress())).await?;
    let WorkerOutcome::Evaluated { losses, .. } = outcome else {
        bail!("an answer to another question");
    };
    let [Some(base), Some(merged)] = losses.as_slice() else { bail!("losses are missing") };
    gain(base, merged).context("the losses do not fit together")
}

async fn possession(node: &Arc<Node>, checkpoint: ContentHash) -> anyhow::Result<Commitment> {
    let mut hasher = PossessionHasher::new(&node.chain, &node.id(), &node.account());
    let store = node.store.clone();
    tokio::task::spawn_blocking(move || {
        let mut file = store.open_data(&checkpoint)?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = file.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
        }
        Ok(hasher.finish())
    })
    .await?
}
