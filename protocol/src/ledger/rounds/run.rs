//! Runs and the rounds in them: opened, joined, closed. What a run may spend is in escrow.

use crate::amount::Credits;
use crate::ids::{AccountId, ModelId, NodeId};
use crate::ledger::Rejection;
use crate::ledger::entries::{Account, Base, Earned, Member, Model, Phase, Round, Run};
use crate::ledger::rounds::{enter, open_round, open_rounds_of};
use crate::ledger::state::State;
use crate::limits;
use crate::model::RoundParameters;
use crate::review::Gain;

const PAUSED: Rejection = Rejection::WrongPhase("the model is paused by a vote");

pub(in crate::ledger) fn open(
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
        return Err(Rejection::Mismatch(
            "review_windows (half of the suite's windows are for reviews)",
        ));
    }
    if model.weight_ppm == 0 && escrow == Credits::ZERO {
        return Err(Rejection::Mismatch(
            "an escrow of nothing for a model to which the emission gives nothing",
        ));
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
        first_round: model.next_round,
        round: model.next_round,
        rounds_left: rounds,
        escrow,
    });
    state.put_model(id, &model);
    open_next(state, id)
}

/// Starts the next round of a run that waited for its model to be resumed.
pub(in crate::ledger) fn resume(state: &mut State<'_>, id: &ModelId) -> Result<(), Rejection> {
    open_next(state, id)
}

/// Starts the run's next round if it is time for it, or ends a run that has no more. The run of a
/// paused model waits. With overlap it is time for it when the newest round has left training.
pub(super) fn open_next(state: &mut State<'_>, id: &ModelId) -> Result<(), Rejection> {
    let model = state.model(id).ok_or(Rejection::Unknown("model"))?;
    let rounds_left = model.run.as_ref().map_or(0, |run| run.rounds_left);
    let is_time = match open_rounds_of(state, id).as_slice() {
        [] => rounds_left == 0 || !model.paused,
        [one] => {
            let may_overlap = one.parameters.overlap && one.phase > Phase::Training;
            may_overlap && rounds_left > 0 && !model.paused
        }
        _ => false,
    };
    if is_time { start_next(state, id, model) } else { Ok(()) }
}

fn start_next(state: &mut State<'_>, id: &ModelId, mut model: Model) -> Result<(), Rejection> {
    let Some(mut run) = model.run.take() else { return Ok(()) };
    if run.rounds_left == 0 {
        let mut registry = state.registry();
        registry.active.retain(|active| active != id);
        state.put_registry(&registry);
        state.put_model(id, &model);
        return state.credit(&run.sponsor, run.escrow);
    }
    let clock = state.clock();
    // While the round before is open, nobody knows the head that it will make.
    let base = open_rounds_of(state, id).is_empty().then_some(Base {
        head: model.head,
        since: clock.time,
        height: clock.height,
    });
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
        run_first: run.first_round,
        parent: model.head,
        base,
        escrow: share,
        sponsor: run.sponsor,
        members: Vec::new(),
        late: Vec::new(),
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
    state.put_model(id, &model);
    Ok(())
}

pub(in crate::ledger) fn join(
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
    let member = lock_bond(state, node, round.parameters.bond, is_stamped)?;
    round.members.push(member);
    state.put_round(&round);
    Ok(())
}

/// Locks the bond on a delta. A newcomer without one leaves it from its reward.
pub(in crate::ledger) fn lock_bond(
    state: &mut State<'_>,
    node: &NodeId,
    bond: Credits,
    is_stamped: bool,
) -> Result<Member, Rejection> {
    let account = state.node(node).ok_or(Rejection::Unknown("node"))?.account;
    if is_stamped && is_newcomer(state, &account) {
        return Ok(Member { node: *node, account, bond: Credits::ZERO, withheld: bond });
    }
    state.debit_allowance(node, bond)?;
    Ok(Member { node: *node, account, bond, withheld: Credits::ZERO })
}

/// Whether an account has nothing and never earned anything: its work is its bond.
fn is_newcomer(state: &State<'_>, account: &AccountId) -> bool {
    let Account { balance, earned, .. } = state.account(account);
    balance == Credits::ZERO && earned == Earned::default()
}

/// The default outcome: the head stays, the escrow goes back.
pub(super) fn close_unchanged(state: &mut State<'_>, mut round: Round) -> Result<(), Rejection> {
    state.credit(&round.sponsor, round.escrow)?;
    round.escrow = Credits::ZERO;
    close(state, round, Phase::Unchanged)
}

/// Ends a round: bonds go back, the next one knows the head onto which it is merged.
pub(super) fn close(
    state: &mut State<'_>,
    mut round: Round,
    phase: Phase,
) -> Result<(), Rejection> {
    for member in round.members.iter_mut().chain(&mut round.late) {
        state.credit_allowance(&member.node, member.bond)?;
        member.bond = Credits::ZERO;
    }
    let id = round.model;
    enter(state, round, phase);
    let model = state.model(&id).ok_or(Rejection::Unknown("model"))?;
    let clock = state.clock();
    for mut next in open_rounds_of(state, &id) {
        next.base = Some(Base { head: model.head, since: clock.time, height: clock.height });
        state.put_round(&next);
    }
    open_next(state, &id)
}
