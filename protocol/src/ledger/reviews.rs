//! Panels: drawn by the beacon, committed, revealed, settled by quorum.

use crate::amount::Credits;
use crate::commitment;
use crate::ids::{ChainId, Commitment, ContributionId, NodeId};
use crate::ledger::Rejection;
use crate::ledger::entries::{Contribution, Phase, Round, Seat};
use crate::ledger::rounds::open_round;
use crate::ledger::state::State;
use crate::limits;
use crate::review::{Review, Verdict};
use crate::training::Draw;

/// Votes that make a verdict: two thirds of the seats, rounded up.
pub fn quorum(seats: usize) -> usize {
    seats.saturating_mul(2).div_ceil(3)
}

/// Draws the panel of a contribution: up to seven seats, by eligible stake, without replacement,
/// among the nodes that review, without those of the author's account.
pub(super) fn draw_panel(
    state: &State<'_>,
    round: &Round,
    contribution: &Contribution,
) -> Vec<Seat> {
    let own = state.node(&contribution.author).map(|n| n.account);
    let mut pool: Vec<(NodeId, u64)> = state
        .nodes()
        .iter()
        .filter(|n| n.capabilities.reviews && Some(n.account) != own)
        .map(|n| (n.keys.node.node_id(), state.eligible_stake(n).micro()))
        .filter(|(_, stake)| *stake > 0)
        .collect();
    let mut draw = Draw::new(
        "ayni 2026 review panel v1",
        &round.review_beacon,
        &[contribution.id().as_bytes()],
    );
    let mut seats = Vec::new();
    while seats.len() < limits::PANEL_SEATS_MAX && !pool.is_empty() {
        let total = pool.iter().fold(0_u64, |sum, (_, stake)| sum.saturating_add(*stake));
        let mut ticket = draw.below(total);
        let winner = pool
            .iter()
            .position(|(_, stake)| match ticket.checked_sub(*stake) {
                Some(rest) => {
                    ticket = rest;
                    false
                }
                None => true,
            })
            .unwrap_or(0);
        let (node, _) = pool.remove(winner);
        seats.push(Seat { node, commitment: None, review: None, paid: Credits::ZERO });
    }
    seats
}

fn seat_of(
    state: &State<'_>,
    node: &NodeId,
    id: &ContributionId,
    phase: Phase,
) -> Result<(Contribution, usize), Rejection> {
    let contribution = state.contribution(id).ok_or(Rejection::Unknown("contribution"))?;
    let round = open_round(state, &contribution.model, contribution.merged_in)?;
    if round.phase != phase {
        return Err(Rejection::WrongPhase("reviewing"));
    }
    let seat =
        contribution.panel.iter().position(|s| s.node == *node).ok_or(Rejection::NotAuthorized)?;
    Ok((contribution, seat))
}

pub(super) fn commit(
    state: &mut State<'_>,
    node: &NodeId,
    id: &ContributionId,
    commitment: Commitment,
) -> Result<(), Rejection> {
    let (mut contribution, index) = seat_of(state, node, id, Phase::Reviewing)?;
    let seat = contribution.panel.get_mut(index).ok_or(Rejection::NotAuthorized)?;
    if seat.commitment.is_some() {
        return Err(Rejection::Exists("a review commitment of this seat"));
    }
    seat.commitment = Some(commitment);
    state.put_contribution(id, &contribution);
    Ok(())
}

pub(super) fn reveal(
    state: &mut State<'_>,
    chain: &ChainId,
    node: &NodeId,
    id: &ContributionId,
    review: &Review,
    salt: &[u8; 32],
) -> Result<(), Rejection> {
    let (mut contribution, index) = seat_of(state, node, id, Phase::Revealing)?;
    let seat = contribution.panel.get_mut(index).ok_or(Rejection::NotAuthorized)?;
    let committed = seat.commitment.ok_or(Rejection::Unknown("review commitment"))?;
    if seat.review.is_some() {
        return Err(Rejection::Exists("the review"));
    }
    if commitment::review(chain, node, id, review, salt) != committed {
        return Err(Rejection::Mismatch("the review commitment"));
    }
    seat.review = Some(*review);
    state.put_contribution(id, &contribution);
    Ok(())
}

/// The quorum's verdict and score. Without a quorum the default holds: declined, bond back.
pub(super) fn settle(contribution: &mut Contribution) {
    let reviews: Vec<Review> = contribution.panel.iter().filter_map(|s| s.review).collect();
    let needed = quorum(contribution.panel.len()).max(1);
    let reached = [Verdict::Accept, Verdict::Fault, Verdict::Unavailable, Verdict::Decline]
        .into_iter()
        .find(|v| reviews.iter().filter(|r| r.verdict == *v).count() >= needed);
    let verdict = reached.unwrap_or(Verdict::Decline);
    contribution.verdict = Some(verdict);
    let mut gains: Vec<i64> =
        reviews.iter().filter(|r| r.verdict == verdict).map(|r| r.gain.mean_ppm).collect();
    gains.sort_unstable();
    let middle = gains.len().saturating_sub(1).checked_div(2).unwrap_or(0);
    contribution.score_ppm = gains.get(middle).copied().unwrap_or(0);
}
