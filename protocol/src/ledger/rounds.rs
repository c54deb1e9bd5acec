//! Training rounds: Join -> Train -> Commit -> Submit -> Review -> Merge (design 7).
//!
//! A phase ends when everybody who can act in it has acted, or when its deadline is due: chain
//! time has passed *and* at least `deadline_blocks_min` blocks have, so that spam cannot expire
//! an honest reveal and an idle chain cannot stall. Every phase has a default outcome.

use std::collections::BTreeMap;

use crate::amount::{Credits, PPM};
use crate::consensus::is_quorum;
use crate::ids::{AccountId, Commitment, ContributionId, HeadId, ModelId, NodeId};
use crate::ledger::Rejection;
use crate::ledger::entries::{
    Account, Attestation, Attestor, Contribution, Earned, Member, Model, Phase, Round, Run,
};
use crate::ledger::state::State;
use crate::ledger::{reviews, rewards};
use crate::limits;
use crate::model::{Head, RoundParameters};
use crate::review::{Gain, Verdict};

pub use crate::ledger::reviews::quorum as panel_quorum;

const PAUSED: Rejection = Rejection::WrongPhase("the model is paused by a vote");

/// The round if it is the open one of its model.
pub(super) fn open_round(
    state: &State<'_>,
    model: &ModelId,
    index: u32,
) -> Result<Round, Rejection> {
    let run = state.model(model).ok_or(Rejection::Unknown("model"))?.run;
    if run.is_none_or(|run| run.round != index) {
        return Err(Rejection::WrongPhase("the round is not open"));
    }
    state
        .round(model, index)
        .filter(|r| !r.phase.is_over())
        .ok_or(Rejection::WrongPhase("the round is not open"))
}

pub(super) fn open(
    state: &mut State<'_>,
    sponsor: &AccountId,
    id: &ModelId,
    rounds: u32,
    parameters: &RoundParameters,
    escrow: Credits,
) -> Result<(), Rejection> {
    parameters.validate()?;
    let mut model = state.model(id).ok_or(Rejection::Unknown("model"))?;
    if model.paused {
        return Err(PAUSED);
    }
    if model.run.is_some() {
        return Err(Rejection::Exists("a run of this model"));
    }
    if !(1..=limits::ROUNDS_PER_RUN_MAX).contains(&rounds) {
        return Err(Rejection::Mismatch("the number of rounds"));
    }
    if u64::from(parameters.review_windows) > model.spec.suite_windows().div_ceil(2) {
        return Err(Rejection::Mismatch("review_windows (the suite has fewer)"));
    }
    if model.weight_ppm == 0 && escrow == Credits::ZERO {
        return Err(Rejection::Mismatch("the escrow (a model without weight needs one)"));
    }
    let mut registry = state.registry();
    if registry.active.len() >= limits::ACTIVE_RUNS_MAX {
        return Err(Rejection::Full("runs"));
    }
    state.debit(sponsor, escrow)?;
    registry.active.push(*id);
    state.put_registry(&registry);
    model.run = Some(Run {
        sponsor: *sponsor,
        parameters: parameters.clone(),
        round: model.next_round,
        rounds_left: rounds,
        escrow,
    });
    state.put_model(id, &model);
    start_next(state, id, &mut model)
}

/// Starts the next round of a run that waited for its model to be resumed.
pub(super) fn resume(state: &mut State<'_>, id: &ModelId) -> Result<(), Rejection> {
    if open_round_of(state, id).is_some() {
        return Ok(());
    }
    let mut model = state.model(id).ok_or(Rejection::Unknown("model"))?;
    start_next(state, id, &mut model)
}

/// Starts the run's next round, or ends the run. The run of a paused model waits.
fn start_next(state: &mut State<'_>, id: &ModelId, model: &mut Model) -> Result<(), Rejection> {
    if model.paused && model.run.as_ref().is_some_and(|run| run.rounds_left > 0) {
        return Ok(());
    }
    let Some(mut run) = model.run.take() else { return Ok(()) };
    if run.rounds_left == 0 {
        let mut registry = state.registry();
        registry.active.retain(|active| active != id);
        state.put_registry(&registry);
        state.put_model(id, model);
        return state.credit(&run.sponsor, run.escrow);
    }
    let clock = state.clock();
    let share = run.escrow.scaled(1, u64::from(run.rounds_left));
    run.escrow = run.escrow.checked_sub(share).ok_or(Rejection::Overflow)?;
    run.rounds_left = run.rounds_left.saturating_sub(1);
    run.round = model.next_round;
    model.next_round = model.next_round.checked_add(1).ok_or(Rejection::Overflow)?;
    state.put_round(&Round {
        model: *id,
        index: run.round,
        phase: Phase::Joining,
        phase_since: clock.time,
        phase_height: clock.height,
        parameters: run.parameters.clone(),
        parent: model.head,
        escrow: share,
        sponsor: run.sponsor,
        members: Vec::new(),
        attestors: Vec::new(),
        datasets: Vec::new(),
        assignment_beacon: crate::ids::Beacon::default(),
        review_beacon: crate::ids::Beacon::default(),
        head: None,
        certified_ppm: 0,
        gain: Gain::default(),
        paid: Credits::ZERO,
    });
    model.run = Some(run);
    state.put_model(id, model);
    Ok(())
}

pub(super) fn join(
    state: &mut State<'_>,
    node: &NodeId,
    model: &ModelId,
    index: u32,
    is_stamped: bool,
) -> Result<(), Rejection> {
    let mut round = open_round(state, model, index)?;
    if round.phase != Phase::Joining {
        return Err(Rejection::WrongPhase("joining"));
    }
    if state.model(model).is_some_and(|m| m.paused) {
        return Err(PAUSED);
    }
    if round.member_index(node).is_some() {
        return Err(Rejection::Exists("the member"));
    }
    let max = usize::try_from(round.parameters.members_max).unwrap_or(usize::MAX);
    if round.members.len() >= max {
        return Err(Rejection::Full("members of this round"));
    }
    let account = state.node(node).ok_or(Rejection::Unknown("node"))?.account;
    let bond = round.parameters.bond;
    let member = if is_stamped && is_newcomer(state, &account) {
        Member { node: *node, account, bond: Credits::ZERO, withheld: bond }
    } else {
        state.debit_allowance(node, bond)?;
        Member { node: *node, account, bond, withheld: Credits::ZERO }
    };
    round.members.push(member);
    state.put_round(&round);
    Ok(())
}

/// Whether an account has nothing and never earned anything: its work is its bond.
fn is_newcomer(state: &State<'_>, account: &AccountId) -> bool {
    let Account { balance, earned, .. } = state.account(account);
    balance == Credits::ZERO && earned == Earned::default()
}

pub(super) fn attest(
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

pub(super) fn attest_unavailable(
    state: &mut State<'_>,
    node: &NodeId,
    id: &ContributionId,
) -> Result<(), Rejection> {
    let mut contribution = state.contribution(id).ok_or(Rejection::Unknown("contribution"))?;
    let mut round = open_round(state, &contribution.model, contribution.round)?;
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

fn stake_of(round: &Round, filter: impl Fn(&Attestor) -> bool) -> u64 {
    round
        .attestors
        .iter()
        .filter(|a| filter(a))
        .fold(0, |sum, a| sum.saturating_add(a.stake.micro()))
}

/// Moves every open round on as far as it goes; called at the end of every block.
pub(super) fn advance_all(state: &mut State<'_>) -> Result<(), Rejection> {
    for id in state.registry().active {
        // Each pass ends a phase; a round has ten, so this ends.
        while let Some(round) = open_round_of(state, &id) {
            if !advance(state, round)? {
                break;
            }
        }
    }
    Ok(())
}

fn open_round_of(state: &State<'_>, id: &ModelId) -> Option<Round> {
    let run = state.model(id)?.run?;
    state.round(id, run.round).filter(|r| !r.phase.is_over())
}

fn due(state: &State<'_>, round: &Round, limit_ms: u32) -> bool {
    let clock = state.clock();
    let parameters = &round.parameters;
    clock.time >= round.phase_since.plus(u64::from(limit_ms))
        && clock.height >= round.phase_height.plus(u64::from(parameters.deadline_blocks_min))
}

fn enter(state: &mut State<'_>, mut round: Round, phase: Phase) {
    let clock = state.clock();
    round.phase = phase;
    round.phase_since = clock.time;
    round.phase_height = clock.height;
    state.put_round(&round);
}

/// Contributions of the members in order; none where a member did not commit.
pub fn contributions(state: &State<'_>, round: &Round) -> Vec<(Member, Option<Contribution>)> {
    round
        .members
        .iter()
        .map(|m| (*m, state.contribution(&round.contribution_id(&m.node))))
        .collect()
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
            } else if due(state, &round, p.join_ms.saturating_mul(10)) {
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
            if !committed && !due(state, &round, p.train_ms) {
                return Ok(false);
            }
            if contributions(state, &round).iter().all(|(_, c)| c.is_none()) {
                return close_unchanged(state, round).map(|()| true);
            }
            enter(state, round, Phase::Submitting);
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
    for (member, mut contribution) in submitted(state, &round) {
        reviews::settle(&mut contribution);
        match contribution.verdict {
            Some(Verdict::Accept) => accepted = accepted.saturating_add(1),
            Some(Verdict::Fault | Verdict::Unavailable) => {
                forfeit(state, &mut round, &member.node, PPM)?;
            }
            _ => {}
        }
        state.put_contribution(&round.contribution_id(&member.node), &contribution);
    }
    if accepted == 0 {
        close_unchanged(state, round)?;
    } else {
        enter(state, round, Phase::Attesting);
    }
    Ok(true)
}

fn advance_attesting(state: &mut State<'_>, mut round: Round) -> Result<bool, Rejection> {
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
        forfeit(state, &mut round, &node, penalty)?;
    }
    close_unchanged(state, round)?;
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
    let direction = state.model(&round.model).map(|m| m.direction).unwrap_or_default();
    round.datasets = state
        .registry()
        .datasets
        .iter()
        .filter(|hash| direction.is_empty() || direction.contains(hash))
        .filter_map(|hash| state.dataset(hash))
        .filter(|dataset| dataset.status.is_usable(needs_admission))
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
    for (member, mut contribution) in submitted(state, round) {
        contribution.panel = reviews::draw_panel(state, round, &member.node);
        state.put_contribution(&round.contribution_id(&member.node), &contribution);
    }
}

/// Those who committed but did not reveal lose their bond.
fn forfeit_silent(state: &mut State<'_>, round: &mut Round) -> Result<(), Rejection> {
    for (member, contribution) in contributions(state, round) {
        if contribution.is_some_and(|c| c.manifest.is_none()) {
            forfeit(state, round, &member.node, PPM)?;
        }
    }
    Ok(())
}

/// Burns `ppm` of a member's bond. Attestors who are not members have none.
fn forfeit(
    state: &mut State<'_>,
    round: &mut Round,
    node: &NodeId,
    ppm: u64,
) -> Result<(), Rejection> {
    let Some(member) = round.members.iter_mut().find(|m| m.node == *node) else {
        return Ok(());
    };
    let lost = member.bond.ppm(ppm);
    member.bond = member.bond.checked_sub(lost).ok_or(Rejection::Overflow)?;
    let mut account = state.account(&member.account);
    account.forfeited = account.forfeited.checked_add(lost).ok_or(Rejection::Overflow)?;
    state.put_account(&member.account, &account);
    state.burn(lost)
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
        forfeit(state, &mut round, &node, PPM)?;
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

/// The default outcome: the head stays, the escrow goes back.
fn close_unchanged(state: &mut State<'_>, mut round: Round) -> Result<(), Rejection> {
    state.credit(&round.sponsor, round.escrow)?;
    round.escrow = Credits::ZERO;
    close(state, round, Phase::Unchanged)
}

fn close(state: &mut State<'_>, mut round: Round, phase: Phase) -> Result<(), Rejection> {
    for member in &mut round.members {
        state.credit_allowance(&member.node, member.bond)?;
        member.bond = Credits::ZERO;
    }
    let id = round.model;
    enter(state, round, phase);
    let mut model = state.model(&id).ok_or(Rejection::Unknown("model"))?;
    start_next(state, &id, &mut model)
}

/// Whether an open round waits for a beacon, so that blocks should not wait for transactions.
pub fn wants_block(state: &State<'_>) -> bool {
    state
        .registry()
        .active
        .iter()
        .filter_map(|id| open_round_of(state, id))
        .any(|r| r.phase.waits_for_beacon())
}
