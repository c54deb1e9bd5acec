//! What a misdeed costs: stake that is there, and stake that left and still answers for it.
//!
//! What is bonded is burned at once. What left is not looked for: a node's slashes are remembered,
//! and each [`Liability`] is cut by those that reach it when it ends. So a slash is the same work
//! however many have left. Liabilities end in the order in which they began, so that slashes can be
//! forgotten. A vote that lengthens the delay holds those who wait already, and one that shortens
//! it lets nobody go before those who left earlier: stake that voted must not vote twice.
//!
//! What is bonded when the proof comes is cut, whoever bonded it and when: who delegates answers
//! for the node.
//!
//! Stake that left in block `h` backed the validators of `h + 1` still (see
//! [`State::turn_validators`]), so it answers for misdeeds up to there.

use crate::amount::{Credits, Height, PPM, TimestampMs};
use crate::ledger::Rejection;
use crate::ledger::entries::staking::{Liability, Pool, Slash, Whereabouts};
use crate::ledger::parameters::LedgerParameters;
use crate::ledger::staking::math::mul_div;
use crate::ledger::staking::pool::Stake;
use crate::ledger::staking::rewards;
use crate::ledger::state::State;
use crate::limits;

/// Heights after its leaving for which stake still gave power.
const BACKED_AFTER: u64 = 1;

impl Slash {
    /// Whether it reaches the liability with this number, that left at `height`.
    const fn reaches(&self, number: u64, height: Height) -> bool {
        number < self.liabilities && self.infraction.get() <= height.plus(BACKED_AFTER).get()
    }

    /// What it leaves, in ppm.
    fn keeps(&self) -> u64 {
        PPM.saturating_sub(u64::from(self.ppm))
    }
}

fn reaching(pool: &Pool, number: u64, height: Height) -> impl Iterator<Item = &Slash> {
    let all = pool.tombstone.iter().chain(&pool.absences);
    all.filter(move |slash| slash.reaches(number, height))
}

/// What remains of `amount` that left at `height` as liability `number`.
pub(super) fn remains(pool: &Pool, number: u64, height: Height, amount: Credits) -> Credits {
    reaching(pool, number, height).fold(amount, |left, slash| left.ppm(slash.keeps()))
}

/// Burns a part of what is bonded on a node. The shares stay as they are.
pub(super) fn burn_bonded(
    state: &mut State<'_>,
    stake: &mut Stake,
    ppm: u64,
) -> Result<(), Rejection> {
    let before = stake.node.stake;
    let left = before.ppm(PPM.saturating_sub(ppm));
    stake.set_stake(state.stake_epoch(), left);
    state.burn(before.checked_sub(left).ok_or(Rejection::Overflow)?)
}

/// A slash for a misdeed at `infraction`, as of now.
pub(super) fn record(state: &State<'_>, infraction: Height, ppm: u64) -> Slash {
    let liabilities = state.queue().next;
    Slash { liabilities, infraction, ppm: u32::try_from(ppm).unwrap_or(u32::MAX) }
}

/// Forgets absences that reach no open liability any more.
pub(super) fn forget(state: &State<'_>, pool: &mut Pool) {
    let first = state.queue().first;
    pool.absences.retain(|slash| slash.liabilities > first);
}

/// When stake that leaves now may end at the earliest. One block more than the evidence for the
/// last height that it backed can come in.
pub(super) fn due(
    parameters: &LedgerParameters,
    time: TimestampMs,
    height: Height,
) -> (TimestampMs, Height) {
    let blocks = parameters.unbonding_blocks_min.saturating_add(BACKED_AFTER).saturating_add(1);
    (time.plus(parameters.unbonding_ms), height.plus(blocks))
}

/// Whether a liability has lasted its time and its blocks: those of when it began, and those of
/// now if a vote has lengthened them.
fn is_due(state: &State<'_>, liability: &Liability) -> bool {
    let clock = state.clock();
    let (time, height) = due(&state.parameters(), liability.time, liability.height);
    clock.time >= time.max(liability.due) && clock.height >= height.max(liability.due_height)
}

/// Ends the liabilities that are due, a bounded number; the others end with the next blocks.
pub(super) fn end_liabilities(state: &mut State<'_>) -> Result<(), Rejection> {
    for _ in 0..limits::LIABILITIES_PER_BLOCK_MAX {
        let number = state.queue().first;
        let Some(liability) = state.liability(number) else { break };
        if !is_due(state, &liability) {
            break;
        }
        state.pop_liability();
        match liability.now {
            Whereabouts::Unbonding { amount } => pay_out(state, number, &liability, amount)?,
            Whereabouts::Moved { to, shares } => {
                let mut stake = Stake::load(state, &to)?;
                end_move(state, number, &liability, shares, &mut stake)?;
                stake.save(state)?;
            }
        }
    }
    Ok(())
}

fn pay_out(
    state: &mut State<'_>,
    number: u64,
    liability: &Liability,
    amount: Credits,
) -> Result<(), Rejection> {
    let pool = state.pool(&liability.node).ok_or(Rejection::Unknown("node"))?;
    let left = remains(&pool, number, liability.height, amount);
    state.burn(amount.checked_sub(left).ok_or(Rejection::Overflow)?)?;
    state.credit(&liability.account, left)?;
    let mut delegation = state.delegation(&liability.account, &liability.node);
    delegation.unbonding.retain(|open| *open != number);
    state.put_delegation(&delegation);
    Ok(())
}

/// Takes from stake that moved to `stake`'s node what its first node's slashes ask of it.
fn end_move(
    state: &mut State<'_>,
    number: u64,
    liability: &Liability,
    shares: u128,
    stake: &mut Stake,
) -> Result<(), Rejection> {
    let source = state.pool(&liability.node).ok_or(Rejection::Unknown("node"))?;
    let mut left = shares;
    for slash in reaching(&source, number, liability.height) {
        left = mul_div(left, slash.keeps(), PPM.into()).ok_or(Rejection::Overflow)?.0;
    }
    let lost = shares.checked_sub(left).ok_or(Rejection::Overflow)?;
    let mut delegation = state.delegation(&liability.account, &stake.id);
    rewards::settle(state, stake, &mut delegation)?;
    let burned = stake.value(lost);
    let rest = stake.node.stake.checked_sub(burned).ok_or(Rejection::Overflow)?;
    stake.pool.shares = stake.pool.shares.checked_sub(lost).ok_or(Rejection::Overflow)?;
    stake.set_stake(state.stake_epoch(), rest);
    delegation.shares = delegation.shares.checked_sub(lost).ok_or(Rejection::Overflow)?;
    delegation.moved_in.retain(|open| *open != number);
    state.put_delegation(&delegation);
    state.burn(burned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_reaches_what_left_after_the_misdeed_and_before_the_slash() {
        let slash = |liabilities, infraction| Slash {
            liabilities,
            infraction: Height::new(infraction),
            ppm: 100_000,
        };
        let pool =
            Pool { tombstone: Some(slash(5, 10)), absences: vec![slash(3, 10)], ..Pool::default() };
        let check = |number, height, expect| {
            let left = remains(&pool, number, Height::new(height), Credits::from_micro(1_001));
            assert_eq!(left.micro(), expect, "liability {number} of height {height}");
        };
        // Rounded down at each slash.
        check(2, 10, 810);
        // Left one block before the misdeed, but its power was still there.
        check(2, 9, 810);
        check(2, 8, 1_001);
        check(3, 10, 900);
        check(5, 10, 1_001);
    }
}
