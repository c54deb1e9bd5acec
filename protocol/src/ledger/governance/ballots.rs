//! Ballots: one per account and proposal; a later one replaces the earlier.

use crate::amount::Credits;
use crate::ids::AccountId;
use crate::ledger::Rejection;
use crate::ledger::entries::{Ballot, ProposalStatus, Tally};
use crate::ledger::governance::{proposals, weight};
use crate::ledger::state::State;
use crate::transaction::{Choice, ProposalId};

/// Counts the ballot of `account` with the stake it has now.
pub(super) fn cast(
    state: &mut State<'_>,
    account: &AccountId,
    id: ProposalId,
    choice: Choice,
    conviction: u8,
) -> Result<(), Rejection> {
    let mut proposal = state.proposal(id).ok_or(Rejection::Unknown("proposal"))?;
    if proposal.status != ProposalStatus::Voting || proposals::is_over(&state.clock(), &proposal) {
        return Err(Rejection::WrongPhase("the vote is over"));
    }
    let parameters = state.parameters();
    if u64::from(conviction) > parameters.conviction_max {
        return Err(Rejection::Mismatch("the conviction (the rules allow less)"));
    }
    if conviction > 0 && proposal.change.is_emergency() {
        return Err(Rejection::Mismatch("the conviction (in an emergency stake alone counts)"));
    }
    let stake = weight::voting_stake(state, account);
    if stake == Credits::ZERO {
        return Err(Rejection::Mismatch("the stake of the account (it has none to vote with)"));
    }
    let times = u64::from(conviction).saturating_add(1);
    let weight = stake.micro().checked_mul(times).ok_or(Rejection::Overflow)?;
    if let Some(earlier) = state.ballot(id, account) {
        uncount(&mut proposal.tally, &earlier).ok_or(Rejection::Overflow)?;
    }
    let ballot = Ballot { proposal: id, account: *account, choice, conviction, stake, weight };
    count(&mut proposal.tally, &ballot).ok_or(Rejection::Overflow)?;
    if conviction > 0 {
        let longer = parameters.unbonding_ms.saturating_mul(u64::from(conviction));
        weight::lock(state, account, proposal.ends.plus(longer));
    }
    proposal.stake_total = proposal.stake_total.max(weight::total_stake(state));
    state.put_ballot(&ballot);
    state.put_proposal(&proposal);
    Ok(())
}

const fn slot(tally: &mut Tally, choice: Choice) -> &mut u64 {
    match choice {
        Choice::Yes => &mut tally.yes,
        Choice::No => &mut tally.no,
        Choice::Abstain => &mut tally.abstain,
        Choice::Veto => &mut tally.veto,
    }
}

fn count(tally: &mut Tally, ballot: &Ballot) -> Option<()> {
    let slot = slot(tally, ballot.choice);
    *slot = slot.checked_add(ballot.weight)?;
    tally.turnout = tally.turnout.checked_add(ballot.stake)?;
    Some(())
}

fn uncount(tally: &mut Tally, ballot: &Ballot) -> Option<()> {
    let slot = slot(tally, ballot.choice);
    *slot = slot.checked_sub(ballot.weight)?;
    tally.turnout = tally.turnout.checked_sub(ballot.stake)?;
    Some(())
}
