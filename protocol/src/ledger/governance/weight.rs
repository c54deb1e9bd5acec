//! What an account weighs in a vote, and how long its stake is locked for having voted so.

use crate::amount::{Credits, TimestampMs};
use crate::ids::AccountId;
use crate::ledger::entries::StakeLock;
use crate::ledger::state::State;

/// Stake with which an account votes: what it has on any node, its own or another's.
pub fn voting_stake(state: &State<'_>, account: &AccountId) -> Credits {
    state.bonded(account)
}

/// All stake that could vote.
pub fn total_stake(state: &State<'_>) -> Credits {
    state.staked()
}

/// Until when the stake of an account may not be unbonded or moved to another node; none if it
/// may. The lock is on all of its stake.
pub fn locked_until(state: &State<'_>, account: &AccountId) -> Option<TimestampMs> {
    let until = state.stake_lock(account)?.until;
    (until > state.clock().time).then_some(until)
}

/// Locks the stake of an account, unless it is locked for longer.
pub(super) fn lock(state: &mut State<'_>, account: &AccountId, until: TimestampMs) {
    let before = state.stake_lock(account).map_or(TimestampMs::ZERO, |lock| lock.until);
    state.put_stake_lock(account, &StakeLock { until: before.max(until) });
}
