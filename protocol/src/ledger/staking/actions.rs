//! What an account does with its stake. Every action first pays out what the stake has earned.

use crate::amount::Credits;
use crate::ids::{AccountId, NodeId};
use crate::ledger::Rejection;
use crate::ledger::entries::Clock;
use crate::ledger::entries::staking::{Commission, Delegation, Liability, Whereabouts};
use crate::ledger::governance;
use crate::ledger::staking::pool::Stake;
use crate::ledger::staking::{rewards, slashing};
use crate::ledger::state::State;
use crate::limits;

fn not_zero(amount: Credits) -> Result<(), Rejection> {
    if amount == Credits::ZERO { Err(Rejection::ZeroAmount) } else { Ok(()) }
}

/// A node that may take stake in, and the account's delegation to it.
fn open(
    state: &State<'_>,
    account: &AccountId,
    node: &NodeId,
) -> Result<(Stake, Delegation), Rejection> {
    let stake = Stake::load(state, node)?;
    if stake.pool.tombstone.is_some() {
        return Err(Rejection::Tombstoned);
    }
    let delegation = state.delegation(account, node);
    let count = state.delegations(account).len();
    if delegation.is_empty() && count >= limits::DELEGATIONS_PER_ACCOUNT_MAX {
        return Err(Rejection::Full("nodes with stake of this account"));
    }
    Ok((stake, delegation))
}

fn put_in(
    state: &mut State<'_>,
    stake: &mut Stake,
    delegation: &mut Delegation,
    amount: Credits,
) -> Result<u128, Rejection> {
    rewards::settle(state, stake, delegation)?;
    let shares = stake.deposit(state.stake_epoch(), amount)?;
    delegation.shares = delegation.shares.checked_add(shares).ok_or(Rejection::Overflow)?;
    Ok(shares)
}

/// Takes stake off a node; what came by a redelegation that is still open has to stay, and so has
/// everything while a ballot locks it.
fn take_out(
    state: &mut State<'_>,
    stake: &mut Stake,
    delegation: &mut Delegation,
    amount: Credits,
) -> Result<(), Rejection> {
    if let Some(until) = governance::locked_until(state, &delegation.account) {
        return Err(Rejection::StakeLocked { until });
    }
    rewards::settle(state, stake, delegation)?;
    let bound = delegation.moved_in.iter().fold(0_u128, |sum, number| {
        let moved = match state.liability(*number).map(|l| l.now) {
            Some(Whereabouts::Moved { shares, .. }) => shares,
            _ => 0,
        };
        sum.saturating_add(moved)
    });
    let free = delegation.shares.saturating_sub(bound);
    let shares = stake.withdraw(state.stake_epoch(), amount, free)?;
    delegation.shares = delegation.shares.checked_sub(shares).ok_or(Rejection::Overflow)?;
    Ok(())
}

pub(super) fn bond(
    state: &mut State<'_>,
    account: &AccountId,
    node: &NodeId,
    amount: Credits,
) -> Result<(), Rejection> {
    not_zero(amount)?;
    let (mut stake, mut delegation) = open(state, account, node)?;
    state.debit(account, amount)?;
    put_in(state, &mut stake, &mut delegation, amount)?;
    state.put_delegation(&delegation);
    stake.save(state)
}

/// Stake of the genesis: the owner's, eligible at once.
pub(in crate::ledger) fn bond_at_genesis(
    state: &mut State<'_>,
    account: &AccountId,
    node: &NodeId,
    amount: Credits,
) -> Result<(), Rejection> {
    let (mut stake, mut delegation) = open(state, account, node)?;
    if amount > Credits::ZERO {
        put_in(state, &mut stake, &mut delegation, amount)?;
    }
    stake.pool.lows.now = amount;
    stake.pool.lows.before = amount;
    state.put_delegation(&delegation);
    stake.save(state)
}

fn liability(state: &State<'_>, account: &AccountId, node: &NodeId, now: Whereabouts) -> Liability {
    let Clock { height, time, .. } = state.clock();
    let (due, due_height) = slashing::due(&state.parameters(), time, height);
    Liability { account: *account, node: *node, height, time, due, due_height, now }
}

pub(super) fn unbond(
    state: &mut State<'_>,
    account: &AccountId,
    node: &NodeId,
    amount: Credits,
) -> Result<(), Rejection> {
    not_zero(amount)?;
    let mut stake = Stake::load(state, node)?;
    let mut delegation = state.delegation(account, node);
    if delegation.unbonding.len() >= limits::LIABILITIES_PER_DELEGATION_MAX {
        return Err(Rejection::Full("unbondings of this stake; wait for one to end"));
    }
    take_out(state, &mut stake, &mut delegation, amount)?;
    let entry = liability(state, account, node, Whereabouts::Unbonding { amount });
    delegation.unbonding.push(state.push_liability(&entry));
    state.put_delegation(&delegation);
    stake.save(state)
}

pub(super) fn redelegate(
    state: &mut State<'_>,
    account: &AccountId,
    from: &NodeId,
    to: &NodeId,
    amount: Credits,
) -> Result<(), Rejection> {
    not_zero(amount)?;
    if from == to {
        return Err(Rejection::Mismatch("the other node (it is the same)"));
    }
    let (mut target, mut arriving) = open(state, account, to)?;
    if arriving.moved_in.len() >= limits::LIABILITIES_PER_DELEGATION_MAX {
        return Err(Rejection::Full("redelegations to this node; wait for one to end"));
    }
    let mut source = Stake::load(state, from)?;
    let mut leaving = state.delegation(account, from);
    take_out(state, &mut source, &mut leaving, amount)?;
    state.put_delegation(&leaving);
    source.save(state)?;
    let shares = put_in(state, &mut target, &mut arriving, amount)?;
    let entry = liability(state, account, from, Whereabouts::Moved { to: *to, shares });
    arriving.moved_in.push(state.push_liability(&entry));
    state.put_delegation(&arriving);
    target.save(state)
}

fn own(state: &State<'_>, account: &AccountId, node: &NodeId) -> Result<Stake, Rejection> {
    let stake = Stake::load(state, node)?;
    if stake.node.account == *account { Ok(stake) } else { Err(Rejection::NotAuthorized) }
}

pub(super) fn set_commission(
    state: &mut State<'_>,
    account: &AccountId,
    node: &NodeId,
    commission_ppm: u32,
) -> Result<(), Rejection> {
    let mut stake = own(state, account, node)?;
    if u64::from(commission_ppm) > state.parameters().commission_max_ppm {
        return Err(Rejection::Mismatch("the commission (it is above the most)"));
    }
    let (epoch, old) = (state.stake_epoch(), stake.pool.commission);
    if old.changed_in >= epoch {
        return Err(Rejection::TooEarly("the commission was set in this epoch"));
    }
    stake.pool.commission =
        Commission { now_ppm: old.of_epoch(epoch), next_ppm: commission_ppm, changed_in: epoch };
    stake.save(state)
}

pub(super) fn unjail(
    state: &mut State<'_>,
    account: &AccountId,
    node: &NodeId,
) -> Result<(), Rejection> {
    let mut stake = own(state, account, node)?;
    if stake.pool.tombstone.is_some() {
        return Err(Rejection::Tombstoned);
    }
    let until = stake.pool.jailed_until.ok_or(Rejection::WrongPhase("the node is not jailed"))?;
    if state.clock().time < until {
        return Err(Rejection::TooEarly("the node's time in jail is not over"));
    }
    slashing::forget(state, &mut stake.pool);
    if stake.pool.absences.len() >= limits::ABSENCES_OPEN_MAX {
        return Err(Rejection::TooEarly("the node was absent too often within the delay"));
    }
    stake.pool.jailed_until = None;
    stake.save(state)
}

pub(super) fn claim(
    state: &mut State<'_>,
    account: &AccountId,
    node: &NodeId,
) -> Result<(), Rejection> {
    let mut stake = Stake::load(state, node)?;
    let mut delegation = state.delegation(account, node);
    let is_owner = stake.node.account == *account;
    if delegation.is_empty() && !is_owner {
        return Err(Rejection::Unknown("stake of this account on the node"));
    }
    rewards::settle(state, &mut stake, &mut delegation)?;
    if is_owner {
        rewards::settle_commission(state, &mut stake)?;
    }
    // Shares that were slashed to nothing cannot be unbonded; this is how their entry goes.
    if stake.value(delegation.shares) == Credits::ZERO && delegation.moved_in.is_empty() {
        let left = stake.pool.shares.checked_sub(delegation.shares);
        stake.pool.shares = left.ok_or(Rejection::Overflow)?;
        delegation.shares = 0;
    }
    state.put_delegation(&delegation);
    stake.save(state)
}
