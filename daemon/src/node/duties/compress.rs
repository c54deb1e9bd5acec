//! The delta of a run that is done: compressed with the error feedback of the round before, and
//! its covering letter.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use protocol::codec;
use protocol::duties::was_merged;
use protocol::ids::{ContentHash, ModelId};
use protocol::ledger::entries::Round;
use protocol::model::{DataClass, DeltaManifest, Determinism};
use protocol::review::Verdict;
use protocol::training::steps_seed;
use protocol::worker::{
    CompressJob, DeltaOutputs, PrivacyParameters, WorkerOutcome, WorkerRequest,
};

use super::inputs::{Inputs, JOB_MAX, checkpoint_bytes_max, name};
use super::train::blocking;
use super::{Done, Outcome};
use crate::node::Node;
use crate::node::notes::run::TrainedNote;
use crate::node::notes::{Notes, run};
use crate::worker::Lane;

/// Opens the commitment to a delta; the same after a restart.
pub(super) fn salt(node: &Node, manifest: &DeltaManifest) -> [u8; 32] {
    let content = codec::hash(manifest);
    node.secrets.duty.derive_salt("ayni 2026 submission salt v1", &[content.as_bytes()])
}

pub(super) async fn compress(
    node: &Arc<Node>,
    notes: &Notes,
    (model, index): (ModelId, u32),
) -> Outcome {
    let inputs = Inputs::read(node, &model, index)?;
    let round = &inputs.round;
    let me = node.id();
    let member = round.member_index(&me).context("this node is not a member of the round")?;
    let trained = notes.trained(&model, index).context("the note of what was trained is gone")?;
    let seed = steps_seed(&round.assignment_beacon, &me, index);
    node.have_head(inputs.spec(), &round.parent, &inputs.peers).await?;
    let feedback = feedback(node, notes, &model, index);

    let mut job = node.worker.job(Lane::Duty).await?;
    node.put_head(&job, &round.parent).await?;
    let bytes_max = checkpoint_bytes_max(inputs.spec());
    let checkpoint = notes.run(&model, index).join(run::TRAINED);
    job.put_file(&name(run::TRAINED)?, &checkpoint, bytes_max).await?;
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
    let privacy = privacy(node, notes, (model, index), &trained)?;
    let request = WorkerRequest::Compress(CompressJob {
        spec: inputs.spec().clone(),
        parameters: round.parameters.clone(),
        round: index,
        seed,
        checkpoint: name("head.safetensors")?,
        trained: name(run::TRAINED)?,
        feedback: feedback.is_some().then(|| name("feedback")).transpose()?,
        privacy,
        outputs: outputs.clone(),
    });
    let outcome = job.run(request, JOB_MAX, None).await?;
    let WorkerOutcome::Compressed(compressed) = outcome else {
        bail!("an answer to another question")
    };
    if let Some(privacy) = compressed.privacy {
        node.training.protected(privacy);
        if !privacy.useful {
            let epsilon = privacy.epsilon_ppm;
            tracing::warn!(epsilon_ppm = epsilon, "so much is no useful privacy any more");
        }
    }

    let payload = job.keep(&outputs.payload, &node.store, inputs.delta_bytes_max()).await?;
    node.withheld.insert(payload, model, index, round.contribution_id(&me));
    let merged = job.read(&outputs.feedback_accepted, bytes_max).await?;
    let kept = job.read(&outputs.feedback_rejected, bytes_max).await?;
    let manifest = DeltaManifest {
        author: me,
        model,
        round: index,
        parent: round.parent.id(),
        steps: trained.steps,
        seed,
        shards: Round::shards_hash(&round.shards_of(member)),
        feedback_in,
        feedback_out: ContentHash::of(&merged),
        step_states: trained.step_states,
        data_class: trained.data_class,
        determinism: match trained.data_class {
            DataClass::Public => trained.determinism,
            // Nobody else has the data: only losses can judge it.
            DataClass::Private => Determinism::Statistical,
        },
        fingerprint: trained.fingerprint,
        payload,
        payload_bytes: node.store.size(&payload).context("the delta is gone")?,
    };
    let notes = notes.clone();
    blocking(move || {
        notes.put_delta(&manifest, &merged, &kept)?;
        notes.prune(&model, index)
    })
    .await
    .context("cannot write down the delta")?;
    Ok(Done::Noted)
}

/// The noise that the owner wants on a delta with private data. A use of the data counts before
/// its delta exists, so that a crash cannot make the guarantee look better than it is.
fn privacy(
    node: &Node,
    notes: &Notes,
    (model, index): (ModelId, u32),
    trained: &TrainedNote,
) -> anyhow::Result<Option<PrivacyParameters>> {
    let config = node.config.training();
    if trained.data_class != DataClass::Private || config.privacy_noise_ppm == 0 {
        return Ok(None);
    }
    let rounds_before =
        notes.count_private(&model, index).context("cannot count the use of private data")?;
    let purpose = "ayni 2026 privacy noise seed v1";
    let noise_seed =
        node.secrets.duty.derive_salt(purpose, &[model.as_bytes(), &index.to_le_bytes()]);
    Ok(Some(PrivacyParameters {
        clip_norm_ppm: config.privacy_clip_norm_ppm,
        noise_multiplier_ppm: config.privacy_noise_ppm,
        delta_ppb: config.privacy_delta_ppb,
        rounds_before,
        noise_seed,
    }))
}

/// Error feedback of the round before; none after a missed round (design 7), which one is whose
/// delta came late, and none after a fault: what was found harmful must not come back piece by
/// piece.
fn feedback(node: &Node, notes: &Notes, model: &ModelId, index: u32) -> Option<Vec<u8>> {
    let previous = index.checked_sub(1)?;
    notes.delta(model, previous)?;
    let me = node.id();
    let (merged, own) = node.ledger.read(|view| {
        let round = view.round(model, previous)?;
        let own = view.contribution(&round.contribution_id(&me))?;
        Some((was_merged(view, &round, &me), own))
    })?;
    if own.is_late() || own.verdict == Some(Verdict::Fault) {
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
