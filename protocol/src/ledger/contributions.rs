//! Deltas: commit before anyone reveals, then reveal.
//!
//! A member that committed to nothing while its round trained may do so once more, in the next
//! round of the run: the delta is then revealed, reviewed and merged there, at a discount.

use crate::amount::Credits;
use crate::codec;
use crate::commitment;
use crate::ids::{ChainId, Commitment, ModelId, NodeId};
use crate::ledger::Rejection;
use crate::ledger::entries::{Contribution, Phase, Round};
use crate::ledger::rounds::{late_home, lock_bond, open_round};
use crate::ledger::state::State;
use crate::model::{DeltaManifest, ModelSpec};
use crate::training::steps_seed;

pub(super) fn commit(
    state: &mut State<'_>,
    node: &NodeId,
    model: &ModelId,
    index: u32,
    commitment: Commitment,
    is_stamped: bool,
) -> Result<(), Rejection> {
    let trained = state.round(model, index).ok_or(Rejection::Unknown("round"))?;
    trained.member_index(node).ok_or(Rejection::NotAuthorized)?;
    let id = trained.contribution_id(node);
    if state.contribution(&id).is_some() {
        return Err(Rejection::Exists("a commitment of this member"));
    }
    let mut merged_in = index;
    if trained.phase != Phase::Training {
        let late = late_home(state, &trained);
        let mut home = late.ok_or(Rejection::WrongPhase("committing to a delta"))?;
        merged_in = home.index;
        let member = lock_bond(state, node, home.parameters.bond, is_stamped)?;
        home.late.push(member);
        state.put_round(&home);
    }
    state.put_contribution(
        &id,
        &Contribution {
            model: *model,
            round: index,
            merged_in,
            author: *node,
            commitment,
            manifest: None,
            panel: Vec::new(),
            verdict: None,
            score_ppm: 0,
            unavailable: Vec::new(),
            paid: Credits::ZERO,
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
    let trained =
        state.round(&manifest.model, manifest.round).ok_or(Rejection::Unknown("round"))?;
    let spec = state.model(&manifest.model).ok_or(Rejection::Unknown("model"))?.spec;
    check_manifest(&trained, &spec, node, manifest)?;
    let id = trained.contribution_id(node);
    let mut contribution = state.contribution(&id).ok_or(Rejection::Unknown("commitment"))?;
    if open_round(state, &manifest.model, contribution.merged_in)?.phase != Phase::Submitting {
        return Err(Rejection::WrongPhase("revealing a delta"));
    }
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

fn check_manifest(
    round: &Round,
    spec: &ModelSpec,
    node: &NodeId,
    manifest: &DeltaManifest,
) -> Result<(), Rejection> {
    if manifest.author != *node {
        return Err(Rejection::Mismatch("the author"));
    }
    let index = round.member_index(node).ok_or(Rejection::NotAuthorized)?;
    if manifest.parent != round.parent.id() {
        return Err(Rejection::Mismatch("the parent head"));
    }
    if !(1..=round.parameters.inner_steps).contains(&manifest.steps) {
        return Err(Rejection::Mismatch("the number of inner steps"));
    }
    if manifest.seed != steps_seed(&round.assignment_beacon, node, round.index) {
        return Err(Rejection::Mismatch("the seed"));
    }
    if manifest.shards != Round::shards_hash(&round.shards_of(index)) {
        return Err(Rejection::Mismatch("the list of assigned shards"));
    }
    let bytes_max = round.parameters.delta_bytes_max(spec.parameters());
    if !(1..=bytes_max).contains(&manifest.payload_bytes) {
        return Err(Rejection::Mismatch("the payload's size"));
    }
    Ok(())
}
