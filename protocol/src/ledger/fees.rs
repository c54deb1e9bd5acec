//! Fees: a base fee that follows demand and is burned, a tip for the proposer, and a lane for work
//! stamps (the base fee after EIP-1559, with the step and the target as parameters).

use crate::amount::Credits;
use crate::amount::PPM;
use crate::ids::{AccountId, Beacon, NodeId};
use crate::keys::PublicKey;
use crate::ledger::Rejection;
use crate::ledger::entries::Clock;
use crate::ledger::parameters::LedgerParameters;
use crate::ledger::state::State;
use crate::limits;
use crate::transaction::{Transaction, VerifiedTransaction, Work};

/// Who answers for a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signer {
    /// The account key.
    Account,
    /// A duty key of this node.
    Duty(NodeId),
}

/// Whether `key` controls `account`.
pub fn controls(state: &State<'_>, account: &AccountId, key: &PublicKey) -> bool {
    match state.account(account).key {
        Some(current) => current == *key,
        None => key.account_id() == *account,
    }
}

/// Base fee of a transaction of `size` bytes.
pub fn base_fee(per_byte: Credits, size: usize) -> Credits {
    per_byte.scaled(u64::try_from(size).unwrap_or(u64::MAX), 1)
}

/// The base fee after a block with `bytes` of transactions that paid. It moves by at most the
/// step, in proportion to how far the block was from the target, and at least by one upwards when
/// the block was above it.
pub fn next_base_fee(parameters: &LedgerParameters, now: Credits, bytes: usize) -> Credits {
    let target = parameters.block_bytes_target.max(1);
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).min(target.saturating_mul(2));
    let step = parameters.base_fee_step_ppm;
    let moved = |distance: u64| {
        let whole = now.ppm(step).micro();
        Credits::from_micro(whole).scaled(distance, target).micro()
    };
    let next = if bytes > target {
        let up = moved(bytes.saturating_sub(target)).max(u64::from(step > 0));
        now.micro().saturating_add(up)
    } else {
        now.micro().saturating_sub(moved(target.saturating_sub(bytes)))
    };
    Credits::from_micro(next.max(parameters.base_fee_min_micro_per_byte))
}

/// Takes the fee of a transaction or checks its stamp.
pub(super) fn charge(
    state: &mut State<'_>,
    verified: &VerifiedTransaction,
    signer: Signer,
    proposer: Option<AccountId>,
) -> Result<(), Rejection> {
    let transaction = verified.transaction();
    if transaction.stamp.is_some() {
        return check_stamp(state, transaction);
    }
    let base = base_fee(state.clock().base_fee, verified.size());
    let total = base.checked_add(transaction.tip).ok_or(Rejection::Overflow)?;
    if total > transaction.fee_max {
        return Err(Rejection::FeeTooLow { max: transaction.fee_max, need: total });
    }
    match (&transaction.fee_payer, signer) {
        (Some(payer), _) => {
            if !controls(state, &payer.account, &payer.key) {
                return Err(Rejection::NotAuthorized);
            }
            state.debit(&payer.account, total)?;
        }
        (None, Signer::Account) => state.debit(&transaction.account, total)?,
        (None, Signer::Duty(node)) => state.debit_allowance(&node, total)?,
    }
    match proposer {
        Some(account) if transaction.tip > Credits::ZERO => {
            let mut entry = state.account(&account);
            entry.balance =
                entry.balance.checked_add(transaction.tip).ok_or(Rejection::Overflow)?;
            entry.earned.tips =
                entry.earned.tips.checked_add(transaction.tip).ok_or(Rejection::Overflow)?;
            state.put_account(&account, &entry);
            state.burn(base)
        }
        _ => state.burn(total),
    }
}

/// The beacon that a stamp for `epoch` builds on.
pub fn stamp_beacon(clock: &Clock, epoch: u64) -> Option<Beacon> {
    if epoch == clock.epoch {
        Some(clock.epoch_beacon)
    } else if epoch == clock.previous_epoch.0 {
        Some(clock.previous_epoch.1)
    } else {
        None
    }
}

/// Whether the work on a transaction may stand in for its fee, and is enough.
pub fn check_stamp(state: &State<'_>, transaction: &Transaction) -> Result<(), Rejection> {
    let Some(stamp) = &transaction.stamp else { return Ok(()) };
    let is_free = transaction.tip == Credits::ZERO
        && transaction.fee_max == Credits::ZERO
        && transaction.fee_payer.is_none();
    if !is_free || !transaction.payload.may_be_stamped() {
        return Err(Rejection::Mismatch("the work stamp (only duties and registrations, unpaid)"));
    }
    let beacon = stamp_beacon(&state.clock(), stamp.epoch)
        .ok_or(Rejection::Mismatch("the epoch of the work stamp"))?;
    let bits = Work::new(transaction, &beacon).zero_bits(stamp.nonce);
    if u64::from(bits) < state.parameters().stamp_bits {
        return Err(Rejection::Mismatch("the work of the stamp"));
    }
    Ok(())
}

/// What the transactions of one block may weigh, stamped and in all.
#[derive(Clone, Debug)]
pub struct BlockBudget {
    paying: usize,
    stamped: usize,
    stamped_max: usize,
}

impl BlockBudget {
    /// For a block under these parameters.
    pub fn new(parameters: &LedgerParameters) -> Self {
        let whole = u64::try_from(limits::BLOCK_TRANSACTION_BYTES_MAX).unwrap_or(u64::MAX);
        let lane = Credits::from_micro(whole).scaled(parameters.stamp_lane_ppm, PPM).micro();
        Self { paying: 0, stamped: 0, stamped_max: usize::try_from(lane).unwrap_or(0) }
    }

    /// Counts a transaction in if it fits.
    pub fn admit(&mut self, transaction: &VerifiedTransaction) -> bool {
        let size = transaction.size();
        let all = self.paying.saturating_add(self.stamped).saturating_add(size);
        if all > limits::BLOCK_TRANSACTION_BYTES_MAX {
            return false;
        }
        let is_stamped = transaction.transaction().stamp.is_some();
        let lane = if is_stamped { &mut self.stamped } else { &mut self.paying };
        let sum = lane.saturating_add(size);
        if is_stamped && sum > self.stamped_max {
            return false;
        }
        *lane = sum;
        true
    }

    /// Bytes of the transactions that pay.
    pub const fn paying(&self) -> usize {
        self.paying
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_fee_follows_demand() {
        let parameters = LedgerParameters { block_bytes_target: 10_000, ..Default::default() };
        let check = |now: u64, bytes: usize, expect: u64| {
            let next = next_base_fee(&parameters, Credits::from_micro(now), bytes);
            assert_eq!(next.micro(), expect, "from {now} with {bytes} bytes");
        };
        check(800, 10_000, 800);
        check(800, 20_000, 900);
        check(800, 1_000_000, 900);
        check(800, 15_000, 850);
        check(800, 0, 700);
        check(10, 0, 10);
        check(10, 10_001, 11);
        check(u64::MAX, 20_000, u64::MAX);
    }
}
