//! Training rounds: Join -> Train -> Commit -> Submit -> Review -> Merge (design 7).
//!
//! A phase ends when everybody who can act in it has acted, or when its deadline is due: chain
//! time has passed *and* at least `deadline_blocks_min` blocks have, so that spam cannot expire
//! an honest reveal and an idle chain cannot stall. Every phase has a default outcome.
//!
//! With `overlap` a round opens as soon as the one before has left training, and waits at the end
//! of its own training until that one is over (ADR 12): rounds end in the order in which they
//! opened, at most two of a model are open, and heads are a chain.

mod attest;
mod run;

use crate::amount::{Credits, Height, PPM, TimestampMs};
use crate::ids::{ContributionId, ModelId};
use crate::ledger::Rejection;
use crate::ledger::entries::{Attestor, Contribution, Member, Phase, Round};
use crate::ledger::reviews;
use crate::ledger::state::State;
use crate::limits;
use crate::review::Verdict;

pub use crate::ledger::reviews::quorum as panel_quorum;
pub(super) use attest::{attest, attest_unavailable};
pub(super) use run::{join, lock_bond, open, resume};

use attest::advance_attesting;
use run::{close_unchanged, open_next};

const NOT_OPEN: Rejection = Rejection::WrongPhase("the round is not open");

/// The open rounds of a model's run, oldest first: at most two, and one without overlap.
pub fn open_rounds_of(state: &State<'_>, id: &ModelId) -> Vec<Round> {
    let Some(run) = state.model(id).and_then(|model| model.run) else { return Vec::new() };
    (run.round.saturating_sub(1).max(run.first_round)..=run.round)
        .filter_map(|index| state.round(id, index))
        .filter(|round| !round.phase.is_over())
        .collect()
}

/// The round if it is open.
pub(super) fn open_round(
    state: &State<'_>,
    model: &ModelId,
    index: u32,
) -> Result<Round, Rejection> {
    if state.model(model).is_none() {
        return Err(Rejection::Unknown("model"));
    }
    open_rounds_of(state, model).into_iter().find(|r| r.index == index).ok_or(NOT_OPEN)
}

/// The round that would take a late delta which was trained for `trained`: the next one of the
/// run, until its training is over.
pub fn late_home(state: &State<'_>, trained: &Round) -> Option<Round> {
    let was_assigned = trained.assignment_beacon != crate::ids::Beacon::default();
    if trained.parameters.late_ppm == 0 || !was_assigned || trained.phase <= Phase::Training {
        return None;
    }
    let next = trained.index.checked_add(1)?;
    open_rounds_of(state, &trained.model)
        .into_iter()
        .find(|round| round.index == next && round.run_first == trained.run_first)
        .filter(|round| round.phase <= Phase::Training)
}

/// Moves every open round on as far as it goes; called at the end of every block.
pub(super) fn advance_all(state: &mut State<'_>) -> Result<(), Rejection> {
    for id in state.registry().active {
        // Each pass ends a phase of one of two rounds; a round has ten, and a round that opens
        // waits for members and blocks, so this ends.
        while advance_one_of(state, &id)? {}
    }
    Ok(())
}

fn advance_one_of(state: &mut State<'_>, id: &ModelId) -> Result<bool, Rejection> {
    for round in open_rounds_of(state, id) {
        if advance(state, round)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn due_from(
    state: &State<'_>,
    round: &Round,
    (since, height): (TimestampMs, Height),
    limit_ms: u32,
) -> bool {
    let clock = state.clock();
    clock.time >= since.plus(u64::from(limit_ms))
        && clock.height >= height.plus(u64::from(round.parameters.deadline_blocks_min))
}

fn due(state: &State<'_>, round: &Round, limit_ms: u32) -> bool {
    due_from(state, round, (round.phase_since, round.phase_height), limit_ms)
}

/// Like [`due`], in a phase that a round does not leave before the one before it is over.
fn due_after_base(state: &State<'_>, round: &Round, limit_ms: u32, after_base_ms: u32) -> bool {
    let Some(base) = round.base else { return false };
    let waited = base.height > round.phase_height;
    due(state, round, limit_ms)
        && (!waited || due_from(state, round, (base.since, base.height), after_base_ms))
}

fn stake_of(round: &Round, filter: impl Fn(&Attestor) -> bool) -> u64 {
    round
        .attestors
        .iter()
        .filter(|a| filter(a))
        .fold(0, |sum, a| sum.saturating_add(a.stake.micro()))
}

fn enter(state: &mut State<'_>, mut round: Round, phase: Phase) {
    let clock = state.clock();
    round.phase = phase;
    round.phase_since = clock.time;
    round.phase_height = clock.height;
    state.put_round(&round);
}

/// Contributions of the round's entries in order; none where a member did not commit, or commits
/// to the next round.
pub fn contributions(state: &State<'_>, round: &Round) -> Vec<(Member, Option<Contribution>)> {
    let taken = |c: &Contribution| c.merged_in == round.index;
    round.entries().map(|(id, m)| (*m, state.contribution(&id).filter(taken))).collect()
}

/// Ends the round's phase if it is complete or due; says whether it did.
fn advance(state: &mut State<'_>, mut round: Round) -> Result<bool, Rejection> {
    let p = round.parameters.clone();
    let count = u32::try_from(round.members.len()).unwrap_or(u32::MAX);
    match round.phase {
        Phase::Joining => {
            if count >= p.members_max || (count >= p.members_min && due(state, &round, p.join_ms)) {
                freeze(state, &mut round);
                enter(state, round, Phase::Assigning);
            } else if due_after_base(state, &round, p.join_ms.saturating_mul(10), p.join_ms) {
                return close_unchanged(state, round).map(|()| true);
            } else {
                return Ok(false);
            }
        }
        Phase::Assigning | Phase::Drawing => {
            let clock = state.clock();
            if clock.height < round.phase_height.plus(limits::BEACON_DELAY) {
                return Ok(false);
            }
            if round.phase == Phase::Assigning {
                round.assignment_beacon = clock.beacon;
                enter(state, round, Phase::Training);
            } else {
                round.review_beacon = clock.beacon;
                seat_panels(state, &round);
                enter(state, round, Phase::Reviewing);
            }
        }
        Phase::Training => {
            let committed = contributions(state, &round).iter().all(|(_, c)| c.is_some());
            if round.base.is_none()
                || (!committed && !due_after_base(state, &round, p.train_ms, p.submit_ms))
            {
                return Ok(false);
            }
            if contributions(state, &round).iter().all(|(_, c)| c.is_none()) {
                return close_unchanged(state, round).map(|()| true);
            }
            let id = round.model;
            enter(state, round, Phase::Submitting);
            open_next(state, &id)?;
        }
        Phase::Submitting => {
            let all = contributions(state, &round);
            let revealed = all.iter().filter_map(|(_, c)| c.as_ref()).all(|c| c.manifest.is_some());
            if !revealed && !due(state, &round, p.submit_ms) {
                return Ok(false);
            }
            forfeit_silent(state, &mut round)?;
            if !all.iter().any(|(_, c)| c.as_ref().is_some_and(|c| c.manifest.is_some())) {
                return close_unchanged(state, round).map(|()| true);
            }
            enter(state, round, Phase::Drawing);
        }
        Phase::Reviewing | Phase::Revealing => return advance_review(state, round),
        Phase::Attesting => return advance_attesting(state, round),
        Phase::Certified | Phase::Unchanged => return Ok(false),
    }
    Ok(true)
}

fn advance_review(state: &mut State<'_>, mut round: Round) -> Result<bool, Rejection> {
    let seats: Vec<_> = submitted(state, &round).into_iter().flat_map(|(_, c)| c.panel).collect();
    if round.phase == Phase::Reviewing {
        let all = seats.iter().all(|s| s.commitment.is_some());
        if !all && !due(state, &round, round.parameters.review_ms) {
            return Ok(false);
        }
        enter(state, round, Phase::Revealing);
        return Ok(true);
    }
    let all = seats.iter().all(|s| s.commitment.is_none() || s.review.is_some());
    if !all && !due(state, &round, round.parameters.reveal_ms) {
        return Ok(false);
    }
    let mut accepted = 0_usize;
    for (_, mut contribution) in submitted(state, &round) {
        let id = contribution.id();
        reviews::settle(&mut contribution);
        match contribution.verdict {
            Some(Verdict::Accept) => accepted = accepted.saturating_add(1),
            Some(Verdict::Fault | Verdict::Unavailable) => {
                forfeit(state, &mut round, &id, PPM)?;
            }
            _ => {}
        }
        state.put_contribution(&id, &contribution);
    }
    if accepted == 0 {
        close_unchanged(state, round)?;
    } else {
        enter(state, round, Phase::Attesting);
    }
    Ok(true)
}

/// Freezes attestors and datasets when joining closes: what governance says of data counts then.
fn freeze(state: &State<'_>, round: &mut Round) {
    round.attestors = state
        .nodes()
        .iter()
        .filter(|n| n.capabilities.merges)
        .map(|n| (n, state.eligible_stake(n)))
        .filter(|(_, stake)| *stake > Credits::ZERO)
        .take(limits::VALIDATORS_MAX)
        .map(|(n, stake)| Attestor { node: n.keys.node.node_id(), stake, attested: None })
        .collect();
    let needs_admission = state.parameters().datasets_need_admission != 0;
    let model = state.model(&round.model);
    let kind = model.as_ref().map(|m| m.spec.architecture.data_kind()).unwrap_or_default();
    let direction = model.map(|m| m.direction).unwrap_or_default();
    round.datasets = state
        .registry()
        .datasets
        .iter()
        .filter(|hash| direction.is_empty() || direction.contains(hash))
        .filter_map(|hash| state.dataset(hash))
        .filter(|dataset| dataset.kind == kind && dataset.status.is_usable(needs_admission))
        .map(|dataset| (dataset.manifest, dataset.shards))
        .collect();
}

/// Members whose delta was revealed, in order.
pub fn submitted(state: &State<'_>, round: &Round) -> Vec<(Member, Contribution)> {
    contributions(state, round)
        .into_iter()
        .filter_map(|(m, c)| c.filter(|c| c.manifest.is_some()).map(|c| (m, c)))
        .collect()
}

fn seat_panels(state: &mut State<'_>, round: &Round) {
    for (_, mut contribution) in submitted(state, round) {
        contribution.panel = reviews::draw_panel(state, round, &contribution);
        state.put_contribution(&contribution.id(), &contribution);
    }
}

/// Those who committed but did not reveal lose their bond.
fn forfeit_silent(state: &mut State<'_>, round: &mut Round) -> Result<(), Rejection> {
    for contribution in contributions(state, round).into_iter().filter_map(|(_, c)| c) {
        if contribution.manifest.is_none() {
            forfeit(state, round, &contribution.id(), PPM)?;
        }
    }
    Ok(())
}

/// Burns `ppm` of the bond on a delta of the round. Attestors who are not members have none.
fn forfeit(
    state: &mut State<'_>,
    round: &mut Round,
    id: &ContributionId,
    ppm: u64,
) -> Result<(), Rejection> {
    let Some(at) = round.entries().position(|(entry, _)| entry == *id) else { return Ok(()) };
    let Some(member) = round.members.iter_mut().chain(&mut round.late).nth(at) else {
        return Ok(());
    };
    let lost = member.bond.ppm(ppm);
    member.bond = member.bond.checked_sub(lost).ok_or(Rejection::Overflow)?;
    let mut account = state.account(&member.account);
    account.forfeited = account.forfeited.checked_add(lost).ok_or(Rejection::Overflow)?;
    state.put_account(&member.account, &account);
    state.burn(lost)
}

/// Whether an open round waits for a beacon, so that blocks should not wait for transactions.
pub fn wants_block(state: &State<'_>) -> bool {
    state
        .registry()
        .active
        .iter()
        .flat_map(|id| open_rounds_of(state, id))
        .any(|r| r.phase.waits_for_beacon())
}
