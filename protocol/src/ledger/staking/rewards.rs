//! Rewards of stake: earned by signing, split at the end of the epoch, claimed lazily.
//!
//! A pool keeps what one share has earned since the beginning, a delegation what that was when it
//! was last paid; the difference times its shares is its claim. ("Scalable Reward Distribution on
//! the Ethereum Blockchain", Batog, Boca, Johnson 2018; the same as Cosmos' F1, Ojha 2019, with
//! slashing moved into the value of a share.) Divisions carry their remainder on, so a pool never
//! loses a micro-credit; what a claim rounds off is kept for the next, so all claims together are
//! never above what the pool holds, and each account has all it is owed but for one micro-credit.
//!
//! The shares at the end of an epoch have its rewards. Whoever bonds just before shares in them
//! once, and then waits the unbonding delay without any.

use crate::amount::Credits;
use crate::ids::AccountId;
use crate::ledger::Rejection;
use crate::ledger::entries::Supply;
use crate::ledger::entries::staking::{Attendance, Delegation, Row};
use crate::ledger::parameters::LedgerParameters;
use crate::ledger::staking::math::mul_div;
use crate::ledger::staking::pool::Stake;
use crate::ledger::state::State;

/// Pays a delegation what it has earned; due before its shares change.
pub(super) fn settle(
    state: &mut State<'_>,
    stake: &mut Stake,
    delegation: &mut Delegation,
) -> Result<(), Rejection> {
    let since = stake.pool.reward_per_share.saturating_sub(delegation.reward_per_share);
    delegation.reward_per_share = stake.pool.reward_per_share;
    // Below owed times 2^64.
    let scaled =
        since.saturating_mul(delegation.shares).saturating_add(u128::from(delegation.fraction));
    delegation.fraction = u64::try_from(scaled & u128::from(u64::MAX)).unwrap_or(0);
    let earned = Credits::from_micro(u64::try_from(scaled >> 64).unwrap_or(u64::MAX));
    let earned = earned.min(stake.pool.owed);
    stake.pool.owed = stake.pool.owed.checked_sub(earned).ok_or(Rejection::Overflow)?;
    pay(state, &delegation.account, earned)
}

/// Pays out the owner's commission.
pub(super) fn settle_commission(state: &mut State<'_>, stake: &mut Stake) -> Result<(), Rejection> {
    let earned = std::mem::take(&mut stake.pool.owed_commission);
    pay(state, &stake.node.account, earned)
}

fn pay(state: &mut State<'_>, account: &AccountId, amount: Credits) -> Result<(), Rejection> {
    if amount == Credits::ZERO {
        return Ok(());
    }
    let mut entry = state.account(account);
    entry.balance = entry.balance.checked_add(amount).ok_or(Rejection::Overflow)?;
    entry.earned.validator =
        entry.earned.validator.checked_add(amount).ok_or(Rejection::Overflow)?;
    state.put_account(account, &entry);
    Ok(())
}

/// Gives a reward to a pool: the commission to its owner, the rest to the shares.
fn give(stake: &mut Stake, reward: Credits, commission_ppm: u32) -> Result<(), Rejection> {
    let pool = &mut stake.pool;
    let commission = reward.ppm(u64::from(commission_ppm));
    let rest = reward.checked_sub(commission).ok_or(Rejection::Overflow)?;
    pool.owed_commission =
        pool.owed_commission.checked_add(commission).ok_or(Rejection::Overflow)?;
    pool.owed = pool.owed.checked_add(rest).ok_or(Rejection::Overflow)?;
    let scaled = u128::from(rest.micro()) << 64;
    // A pool of more shares than 2^64 could carry a residue too large to add: it stays as dust.
    let dividend = scaled.checked_add(pool.residue).unwrap_or(scaled);
    let each = dividend.checked_div(pool.shares).unwrap_or(0);
    pool.residue = dividend.checked_rem(pool.shares).unwrap_or(0);
    pool.reward_per_share = pool.reward_per_share.saturating_add(each);
    Ok(())
}

/// What the validators may earn in an epoch: minted, and from escrows.
struct Pot {
    mintable: Credits,
    escrow: Credits,
}

/// What the treasury's and the validators' shares still leave of the epoch's emission. The shares
/// may have changed by a vote since the rounds were paid; the whole is never exceeded.
fn shares_of_emission(parameters: &LedgerParameters, supply: &Supply) -> (Credits, Pot) {
    let whole = parameters.emission_per_epoch();
    let minted = supply.minted_this_epoch;
    let left = whole.checked_sub(minted).unwrap_or(Credits::ZERO);
    let earnable = parameters.contributors_ppm.saturating_add(parameters.reviewers_ppm);
    let treasury = minted
        .scaled(parameters.treasury_ppm, earnable)
        .min(whole.ppm(parameters.treasury_ppm))
        .min(left);
    let left = left.checked_sub(treasury).unwrap_or(Credits::ZERO);
    let mintable = whole.ppm(parameters.validators_ppm).min(left);
    (treasury, Pot { mintable, escrow: supply.validators })
}

/// Pays validators and treasury for the epoch that ended. The treasury has its share of what the
/// rounds minted; a validator has its part of the power times blocks that it signed, and what the
/// absent would have had is not minted. Epochs without a block are not paid.
pub(in crate::ledger) fn end_epoch(state: &mut State<'_>) -> Result<(), Rejection> {
    let parameters = state.parameters();
    let (treasury, pot) = shares_of_emission(&parameters, &state.supply());
    if treasury > Credits::ZERO {
        state.mint(treasury)?;
        let mut supply = state.supply();
        supply.treasury = supply.treasury.checked_add(treasury).ok_or(Rejection::Overflow)?;
        state.put_supply(&supply);
    }
    let Attendance { mut rows, work } = state.attendance();
    for row in &rows {
        pay_row(state, &parameters, &pot, row, work)?;
    }
    let in_charge = state.validators_of_tip();
    rows.retain(|row| in_charge.get(&row.validator).is_some());
    for row in &mut rows {
        row.work = 0;
    }
    state.put_attendance(&Attendance { rows, work: 0 });
    state.turn_stake_epoch();
    Ok(())
}

fn pay_row(
    state: &mut State<'_>,
    parameters: &LedgerParameters,
    pot: &Pot,
    row: &Row,
    work: u128,
) -> Result<(), Rejection> {
    let Some(node) = state.node_of_validator(&row.validator) else { return Ok(()) };
    let mut stake = Stake::load(state, &node.keys.node.node_id())?;
    if stake.pool.shares == 0 || stake.pool.tombstone.is_some() {
        return Ok(());
    }
    let part = |of: Credits| {
        let (micro, _) = mul_div(row.work, of.micro(), work).unwrap_or((0, 0));
        Credits::from_micro(u64::try_from(micro).unwrap_or(0)).min(of)
    };
    let (minted, escrow) = (part(pot.mintable), part(pot.escrow));
    let reward = minted.checked_add(escrow).ok_or(Rejection::Overflow)?;
    if reward == Credits::ZERO {
        return Ok(());
    }
    state.mint(minted)?;
    let mut supply = state.supply();
    supply.validators = supply.validators.checked_sub(escrow).ok_or(Rejection::Overflow)?;
    state.put_supply(&supply);
    let ended = state.stake_epoch();
    let most = u32::try_from(parameters.commission_max_ppm).unwrap_or(u32::MAX);
    let commission = stake.pool.commission.of_epoch(ended).min(most);
    give(&mut stake, reward, commission)?;
    stake.save(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_treasury_follows_the_rounds_and_the_whole_is_never_exceeded() {
        let parameters =
            LedgerParameters { emission_per_epoch_micro: 1_000_000, ..LedgerParameters::default() };
        let check = |parameters: &LedgerParameters, minted, treasury, mintable| {
            let supply =
                Supply { minted_this_epoch: Credits::from_micro(minted), ..Supply::default() };
            let (got, pot) = shares_of_emission(parameters, &supply);
            assert_eq!((got.micro(), pot.mintable.micro()), (treasury, mintable), "{minted}");
        };
        check(&parameters, 0, 0, 100_000);
        check(&parameters, 75_000, 5_000, 100_000);
        check(&parameters, 750_000, 50_000, 100_000);
        // A vote moved everything to the validators after the rounds were paid.
        let moved = LedgerParameters {
            contributors_ppm: 0,
            reviewers_ppm: 0,
            validators_ppm: 850_000,
            ..parameters
        };
        check(&moved, 750_000, 0, 250_000);
    }
}
