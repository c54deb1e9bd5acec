//! Reviewing: all deltas of a round on whose panels this node sits, measured in one job.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use protocol::ids::{ContentHash, ContributionId, ModelId};
use protocol::ledger::weights::own_weight;
use protocol::review::{Gain, Review, Verdict, gain, judge};
use protocol::worker::{SubmittedDelta, Variant, WorkerOutcome};

use super::inputs::{Inputs, JOB_MAX, delta_name, name};
use super::replay::{Wanted, replay};
use super::{Done, Outcome};
use crate::blobs::Priority;
use crate::node::Node;
use crate::node::notes::Notes;
use crate::worker::Lane;

/// Opens the commitment to a review; the same after a restart.
pub(super) fn salt(node: &Node, contribution: &ContributionId) -> [u8; 32] {
    node.secrets.duty.derive_salt("ayni 2026 review salt v1", &[contribution.as_bytes()])
}

const fn without_gain(verdict: Verdict) -> Review {
    Review { verdict, gain: Gain { mean_ppm: 0, error_ppm: 0 } }
}

pub(super) async fn review(node: &Arc<Node>, notes: &Notes, model: ModelId, index: u32) -> Outcome {
    let inputs = Inputs::read(node, &model, index)?;
    let round = &inputs.round;
    let me = node.id();
    node.have_head(inputs.spec(), round.base(), &inputs.peers).await?;
    node.have_suite(inputs.spec(), &inputs.peers).await?;
    let mut reviews: BTreeMap<ContributionId, Review> = BTreeMap::new();
    let mut fetched = Vec::new();
    for (member, contribution) in &inputs.submitted {
        let Some(manifest) = &contribution.manifest else { continue };
        let id = contribution.id();
        let mine = contribution.panel.iter().any(|seat| seat.node == me);
        let hints = crate::network::peer_id(&member.node).into_iter().collect();
        let (payload, max) = (manifest.payload, inputs.delta_bytes_max());
        match node.blobs.fetch_as(Priority::Urgent, payload, max, hints).await {
            Ok(size) if size == manifest.payload_bytes => {
                fetched.push(Fetched {
                    id,
                    payload: manifest.payload,
                    seed: manifest.seed,
                    round: manifest.round,
                    weight_ppm: own_weight(round, contribution),
                    mine,
                });
            }
            Ok(_) if mine => {
                reviews.insert(id, without_gain(Verdict::Fault));
            }
            Err(error) if mine => {
                tracing::warn!(author = %member.node, %error, "cannot get a delta");
                reviews.insert(id, without_gain(Verdict::Unavailable));
            }
            Ok(_) | Err(_) => {}
        }
    }
    let wanted: Vec<Wanted<'_>> = inputs
        .submitted
        .iter()
        .filter(|(_, c)| fetched.iter().any(|delta| delta.mine && delta.id == c.id()))
        .filter_map(|(_, c)| Some(Wanted { id: c.id(), manifest: c.manifest.as_ref()? }))
        .collect();
    let replayed = replay(node, &inputs, &wanted).await?;
    for delta in &mut fetched {
        let compelled = replayed.get(&delta.id).and_then(|replayed| replayed.verdict());
        if let Some(verdict) = compelled {
            delta.mine = false;
            reviews.insert(delta.id, without_gain(verdict));
        }
    }
    measure(node, &inputs, &fetched, &mut reviews).await?;
    let notes = notes.clone();
    tokio::task::spawn_blocking(move || {
        for (id, replayed) in replayed {
            notes.put_replayed(&model, index, &id, replayed)?;
        }
        reviews.iter().try_for_each(|(id, review)| notes.put_review(&model, index, id, review))
    })
    .await?
    .context("cannot write down the reviews")?;
    Ok(Done::Noted)
}

/// A delta that is here.
struct Fetched {
    id: ContributionId,
    payload: ContentHash,
    seed: u64,
    round: u32,
    weight_ppm: u32,
    /// Whether this node sits on its panel and has to measure it.
    mine: bool,
}

/// Weights of a variant with one of the deltas.
fn alone(fetched: &[Fetched], index: usize) -> Vec<u32> {
    let weight = |(i, delta): (usize, &Fetched)| if i == index { delta.weight_ppm } else { 0 };
    fetched.iter().enumerate().map(weight).collect()
}

/// Admission (design 8): the paired gain of the head with one delta at its own weight over n.
async fn measure(
    node: &Arc<Node>,
    inputs: &Inputs,
    fetched: &[Fetched],
    reviews: &mut BTreeMap<ContributionId, Review>,
) -> anyhow::Result<()> {
    let round = &inputs.round;
    let mine: Vec<usize> =
        fetched.iter().enumerate().filter(|(_, delta)| delta.mine).map(|(i, _)| i).collect();
    if mine.is_empty() {
        return Ok(());
    }
    let mut job = node.worker.job(Lane::Duty).await?;
    let outer = node.put_head(&job, round.base()).await?;
    let files = node.put_files(&job, inputs.spec(), &inputs.peers).await?;
    job.put_blob(&name("suite")?, &node.store, inputs.spec().evaluation_suite).await?;
    let mut submitted = Vec::with_capacity(fetched.len());
    for (number, delta) in fetched.iter().enumerate() {
        let payload = delta_name(number)?;
        job.put_blob(&payload, &node.store, delta.payload).await?;
        let Fetched { seed, round, .. } = *delta;
        submitted.push(SubmittedDelta { payload, weight_ppm: 0, seed, round });
    }
    let mut variants = vec![Variant { weights_ppm: Vec::new() }];
    variants.extend(mine.iter().map(|index| Variant { weights_ppm: alone(fetched, *index) }));
    let request = inputs.evaluate(files, outer, submitted, inputs.submitted.len(), variants)?;
    let outcome = job.run(request, JOB_MAX, Some(node.duty_progress())).await?;
    let WorkerOutcome::Evaluated { losses, faults } = outcome else {
        bail!("an answer to another question");
    };
    let base = losses.first().and_then(Option::as_ref).context("the head was not measured")?;
    for (row, index) in losses.iter().skip(1).zip(&mine) {
        let Some(Fetched { id, .. }) = fetched.get(*index) else { continue };
        let review = match (row, faults.get(*index).and_then(Option::as_ref)) {
            (Some(row), None) => {
                let measured = gain(base, row).context("the losses do not fit together")?;
                judge(measured, &round.parameters)
            }
            (_, fault) => {
                tracing::warn!(contribution = %id, ?fault, "a delta is at fault");
                without_gain(Verdict::Fault)
            }
        };
        tracing::info!(contribution = %id.short(), ?review, "reviewed");
        reviews.insert(*id, review);
    }
    Ok(())
}
