//! Replaying a slice of the training of every delta that this node reviews and can compare.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use protocol::ids::ContributionId;
use protocol::model::DeltaManifest;
use protocol::replay::{Replayed, ShownStates, Slice};
use protocol::worker::FailureKind;
use tokio::time::Instant;

use super::inputs::{Inputs, name};
use super::show::{FROM, again};
use super::train::state_bytes;
use crate::blobs::Priority;
use crate::network::{MetaRequest, MetaResponse};
use crate::node::Node;
use crate::worker::{Lane, WorkerError};

/// Part of the time for reviews that an author has to show its states.
const PATIENCE_PART: u32 = 3;
/// Pause between two questions to an author that is not ready.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A delta whose training may be replayed.
pub(super) struct Wanted<'a> {
    pub(super) id: ContributionId,
    pub(super) manifest: &'a DeltaManifest,
}

/// What came of each. An error is this node's own trouble and no verdict.
pub(super) async fn replay(
    node: &Arc<Node>,
    inputs: &Inputs,
    wanted: &[Wanted<'_>],
) -> anyhow::Result<BTreeMap<ContributionId, Replayed>> {
    let round = &inputs.round;
    let status = node.worker.status();
    let own = status.borrow().description.as_ref().map(|d| d.fingerprint).unwrap_or_default();
    let mut found = BTreeMap::new();
    let mut comparable = Vec::new();
    for delta in wanted {
        let (steps, replay_ppm) = (delta.manifest.steps, round.parameters.replay_ppm);
        let drawn = Slice::draw(&round.review_beacon, &delta.id, steps, replay_ppm);
        match (Replayed::hindrance(delta.manifest, &own), drawn) {
            (Some(hindrance), _) => {
                found.insert(delta.id, hindrance);
            }
            (None, None) => {
                found.insert(delta.id, Replayed::NotDrawn);
            }
            (None, Some(slice)) => comparable.push((delta, slice)),
        }
    }
    let patience = Duration::from_millis(u64::from(inputs.round.parameters.review_ms))
        .checked_div(PATIENCE_PART)
        .unwrap_or_default();
    let until = Instant::now() + patience;
    let answers = join_all(comparable.iter().map(|(delta, _)| ask(node, delta, until))).await;
    for ((delta, slice), answer) in comparable.into_iter().zip(answers) {
        let replayed = match answer {
            None => Replayed::Silent,
            Some(shown) => compare(node, delta, slice, &shown).await?,
        };
        found.insert(delta.id, replayed);
    }
    for (id, replayed) in &found {
        tracing::info!(contribution = %id.short(), ?replayed, "replay");
    }
    Ok(found)
}

/// Asks an author for its states until it shows them or the time is over.
async fn ask(node: &Arc<Node>, delta: &Wanted<'_>, until: Instant) -> Option<ShownStates> {
    let author = crate::network::peer_id(&delta.manifest.author)?;
    let question = async {
        loop {
            match node.network.request(author, MetaRequest::States(delta.id)).await {
                Ok(MetaResponse::States(shown)) => return *shown,
                Ok(_) | Err(_) => tokio::time::sleep(ASK_EVERY).await,
            }
        }
    };
    tokio::time::timeout_at(until, question).await.ok()
}

async fn compare(
    node: &Arc<Node>,
    delta: &Wanted<'_>,
    slice: Slice,
    shown: &ShownStates,
) -> anyhow::Result<Replayed> {
    let manifest = delta.manifest;
    if !shown.are_of(manifest, slice) {
        return Ok(Replayed::Unproven);
    }
    // As it was trained: a late delta in the round before.
    let trained = Inputs::read(node, &manifest.model, manifest.round)?;
    let bytes_max = state_bytes(trained.spec().parameters());
    let hints = crate::network::peer_id(&manifest.author).into_iter().collect();
    let fetched = node.blobs.fetch_as(Priority::Urgent, shown.before, bytes_max, hints).await;
    if let Err(error) = fetched {
        tracing::warn!(author = %manifest.author, %error, "cannot get a state");
        return Ok(Replayed::Silent);
    }
    let mut job = node.worker.job(Lane::Duty).await?;
    job.put_blob(&name(FROM)?, &node.store, shown.before).await?;
    match again(node, &trained, &mut job, &manifest.author, slice, manifest.steps).await {
        Ok(states) if states.last() == Some(&shown.after) => Ok(Replayed::Same),
        Ok(_) => Ok(Replayed::Differs),
        // What the author committed to is no state of this model.
        Err(error) if is_bad_input(&error) => {
            tracing::warn!(author = %manifest.author, error = format!("{error:#}"), "a bad state");
            Ok(Replayed::Differs)
        }
        Err(error) => Err(error),
    }
}

fn is_bad_input(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<WorkerError>(),
        Some(WorkerError::Failed(failure)) if failure.kind == FailureKind::BadInput
    )
}
