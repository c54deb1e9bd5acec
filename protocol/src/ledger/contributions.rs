//! Deltas: commit before anyone reveals, then reveal.

use crate::codec;
use crate::commitment;
use crate::ids::{ChainId, Commitment, ModelId, NodeId};
use crate::ledger::Rejection;
use crate::ledger::entries::{Contribution, Phase, Round};
use crate::ledger::rounds::open_round;
use crate::ledger::state::State;
use crate::limits;
use crate::model::DeltaManifest;

pub(super) fn commit(
    state: &mut State<'_>,
    node: &NodeId,
    model: &ModelId,
    index: u32,
    commitment: Commitment,
) -> Result<(), Rejection> {
    let round = open_round(state, model, index)?;
    if round.phase != Phase::Training {
        return Err(Rejection::WrongPhase("committing to a delta"));
    }
    round.member_index(node).ok_or(Rejection::NotAuthorized)?;
    let id = round.contribution_id(node);
    if state.contribution(&id).is_some() {
        return Err(Rejection::Exists("a commitment of this member"));
    }
    state.put_contribution(
        &id,
        &Contribution {
            model: *model,
            round: index,
            author: *node,
            commitment,
            manifest: None,
            panel: Vec::new(),
            verdict: None,
            score_ppm: 0,
            unavailable: Vec::new(),
            paid: crate::amount::Credits::ZERO,
        },
    );
    Ok(())
}

pub(super) fn submit(
    state: &mut State<'_>,
    chain: &ChainId,
    node: &NodeId,
    manifest: &DeltaManifest,
    salt: &[u8; 32],
) -> Result<(), Rejection> {
    let round = open_round(state, &manifest.model, manifest.round)?;
    if round.phase != Phase::Submitting {
        return Err(Rejection::WrongPhase("revealing a delta"));
    }
    check_manifest(&round, node, manifest)?;
    let id = round.contribution_id(node);
    let mut contribution = state.contribution(&id).ok_or(Rejection::Unknown("commitment"))?;
    if contribution.manifest.is_some() {
        return Err(Rejection::Exists("the delta"));
    }
    let opened = commitment::submission(chain, node, &codec::hash(manifest), salt);
    if opened != contribution.commitment {
        return Err(Rejection::Mismatch("the commitment"));
    }
    contribution.manifest = Some(manifest.clone());
    state.put_contribution(&id, &contribution);
    Ok(())
}

fn check_manifest(round: &Round, node: &NodeId, manifest: &DeltaManifest) -> Result<(), Rejection> {
    if manifest.author != *node {
        return Err(Rejection::Mismatch("the author"));
    }
    let index = round.member_index(node).ok_or(Rejection::NotAuthorized)?;
    if manifest.parent != round.parent.id() {
        return Err(Rejection::Mismatch("the parent head"));
    }
    if manifest.shards != Round::shards_hash(&round.shards_of(index)) {
        return Err(Rejection::Mismatch("the list of assigned shards"));
    }
    if !(1..=limits::DELTA_BYTES_MAX).contains(&manifest.payload_bytes) {
        return Err(Rejection::Mismatch("the payload's size"));
    }
    Ok(())
}
