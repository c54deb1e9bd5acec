//! The end of a round: attestors state the next head, more than two thirds of their stake
//! certify it.

use std::collections::BTreeMap;

use crate::amount::PPM;
use crate::consensus::is_quorum;
use crate::ids::{Commitment, ContributionId, HeadId, ModelId, NodeId};
use crate::ledger::Rejection;
use crate::ledger::entries::{Attestation, Phase, Round};
use crate::ledger::rewards;
use crate::ledger::rounds::run::{close, close_unchanged};
use crate::ledger::rounds::{due, forfeit, open_round, stake_of, submitted};
use crate::ledger::state::State;
use crate::model::Head;
use crate::review::{Gain, Verdict};

pub(in crate::ledger) fn attest(
    state: &mut State<'_>,
    node: &NodeId,
    model: &ModelId,
    index: u32,
    head: &Head,
    possession: Commitment,
    gain: Gain,
) -> Result<(), Rejection> {
    let mut round = open_round(state, model, index)?;
    if round.phase != Phase::Attesting {
        return Err(Rejection::WrongPhase("attesting"));
    }
    if head.parameters != round.parameters.hash() {
        return Err(Rejection::Mismatch("the head's parameters"));
    }
    let attestor =
        round.attestors.iter_mut().find(|a| a.node == *node).ok_or(Rejection::NotAuthorized)?;
    if attestor.attested.is_some() {
        return Err(Rejection::Exists("an attestation of this node"));
    }
    attestor.attested = Some(Attestation { head: *head, possession, gain });
    state.put_round(&round);
    Ok(())
}

pub(in crate::ledger) fn attest_unavailable(
    state: &mut State<'_>,
    node: &NodeId,
    id: &ContributionId,
) -> Result<(), Rejection> {
    let mut contribution = state.contribution(id).ok_or(Rejection::Unknown("contribution"))?;
    let mut round = open_round(state, &contribution.model, contribution.merged_in)?;
    if round.phase != Phase::Attesting || contribution.verdict != Some(Verdict::Accept) {
        return Err(Rejection::WrongPhase("attesting that a delta is unavailable"));
    }
    if !round.attestors.iter().any(|a| a.node == *node) {
        return Err(Rejection::NotAuthorized);
    }
    if contribution.unavailable.contains(node) {
        return Err(Rejection::Exists("the statement"));
    }
    contribution.unavailable.push(*node);
    let missing = stake_of(&round, |a| contribution.unavailable.contains(&a.node));
    let total = stake_of(&round, |_| true);
    if u128::from(missing).saturating_mul(3) > u128::from(total) {
        // Dropped for everybody; heads attested with it are void.
        contribution.verdict = Some(Verdict::Unavailable);
        for attestor in &mut round.attestors {
            attestor.attested = None;
        }
        state.put_round(&round);
    }
    state.put_contribution(id, &contribution);
    Ok(())
}

pub(super) fn advance_attesting(
    state: &mut State<'_>,
    mut round: Round,
) -> Result<bool, Rejection> {
    let total = stake_of(&round, |_| true);
    let mut behind: BTreeMap<HeadId, u64> = BTreeMap::new();
    for attestor in &round.attestors {
        if let Some(a) = attestor.attested {
            let sum = behind.entry(a.head.id()).or_default();
            *sum = sum.saturating_add(attestor.stake.micro());
        }
    }
    let winner = behind.iter().find(|(_, stake)| is_quorum(**stake, total));
    if let Some((head, stake)) = winner {
        let (head, stake) = (*head, *stake);
        return close_certified(state, round, head, stake, total).map(|()| true);
    }
    let any_accepted =
        submitted(state, &round).iter().any(|(_, c)| c.verdict == Some(Verdict::Accept));
    if any_accepted && !due(state, &round, round.parameters.attest_ms) {
        return Ok(false);
    }
    let absent: Vec<NodeId> =
        round.attestors.iter().filter(|a| a.attested.is_none()).map(|a| a.node).collect();
    let penalty = state.parameters().attest_absence_ppm;
    for node in absent {
        let id = round.contribution_id(&node);
        forfeit(state, &mut round, &id, penalty)?;
    }
    close_unchanged(state, round)?;
    Ok(true)
}

fn close_certified(
    state: &mut State<'_>,
    mut round: Round,
    head: HeadId,
    stake: u64,
    total: u64,
) -> Result<(), Rejection> {
    let mut agreed = Vec::new();
    let mut wrong = Vec::new();
    for attestor in &round.attestors {
        match attestor.attested {
            Some(a) if a.head.id() == head => agreed.push((a, attestor.stake.micro())),
            Some(_) => wrong.push(attestor.node),
            None => {}
        }
    }
    for node in wrong {
        let id = round.contribution_id(&node);
        forfeit(state, &mut round, &id, PPM)?;
    }
    let id = round.model;
    let mut model = state.model(&id).ok_or(Rejection::Unknown("model"))?;
    if let Some((attestation, _)) = agreed.first() {
        model.head = attestation.head;
    }
    state.put_model(&id, &model);
    round.head = Some(head);
    round.certified_ppm = u32::try_from(
        u128::from(stake)
            .saturating_mul(u128::from(PPM))
            .checked_div(u128::from(total))
            .unwrap_or(0),
    )
    .unwrap_or(0);
    round.gain = weighted_median(agreed.iter().map(|(a, s)| (a.gain, *s)).collect());
    rewards::distribute(state, &model, &mut round)?;
    close(state, round, Phase::Certified)
}

/// Lower median of gains by stake, ordered by their lower bounds.
fn weighted_median(mut gains: Vec<(Gain, u64)>) -> Gain {
    gains.sort_by_key(|(gain, _)| (gain.lower_ppm(), gain.mean_ppm));
    let total = gains.iter().fold(0_u64, |sum, (_, s)| sum.saturating_add(*s));
    let mut seen = 0_u64;
    for (gain, stake) in gains {
        seen = seen.saturating_add(stake);
        if u128::from(seen).saturating_mul(2) >= u128::from(total) {
            return gain;
        }
    }
    Gain::default()
}
