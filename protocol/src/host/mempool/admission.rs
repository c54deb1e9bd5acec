//! Who may ask for a transaction and what it takes from whom: what can be known before its turn.
//!
//! The rules decide again at its turn. Here is refused what would let one account fill the pool
//! with transactions that it may not ask for or cannot pay.

use crate::amount::Credits;
use crate::ids::{AccountId, NodeId};
use crate::ledger::state::State;
use crate::ledger::{Rejection, fees};
use crate::transaction::{Payload, StakingAction, Transaction, VerifiedTransaction};

/// Where credits are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purse {
    Account(AccountId),
    Allowance(NodeId),
}

/// What a transaction takes: its fee, and what it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charges {
    pub(super) fee: (Purse, Credits),
    pub(super) moved: (Purse, Credits),
}

impl Charges {
    /// Taken from one purse.
    pub(super) fn from(&self, purse: Purse) -> u128 {
        [self.fee, self.moved]
            .iter()
            .filter(|(taken_from, _)| *taken_from == purse)
            .fold(0, |sum: u128, (_, amount)| sum.saturating_add(u128::from(amount.micro())))
    }

    /// The purses, each once.
    pub(super) fn purses(&self) -> impl Iterator<Item = Purse> + use<> {
        let second = (self.moved.0 != self.fee.0).then_some(self.moved.0);
        [Some(self.fee.0), second].into_iter().flatten()
    }
}

impl Purse {
    /// What is in it.
    pub(super) fn holds(self, state: &State<'_>) -> Credits {
        match self {
            Self::Account(account) => state.account(&account).balance,
            Self::Allowance(node) => state.node(&node).map_or(Credits::ZERO, |n| n.allowance),
        }
    }
}

/// What the transaction takes, if its key may ask for it.
pub(super) fn charges(
    state: &State<'_>,
    base_fee: Credits,
    verified: &VerifiedTransaction,
) -> Result<Charges, Rejection> {
    let transaction = verified.transaction();
    let signer = if transaction.payload.is_duty() {
        let node = state
            .node_by_key(transaction.key.as_bytes())
            .filter(|n| n.keys.duty == transaction.key && n.account == transaction.account)
            .ok_or(Rejection::NotAuthorized)?;
        Purse::Allowance(node.keys.node.node_id())
    } else if fees::controls(state, &transaction.account, &transaction.key) {
        Purse::Account(transaction.account)
    } else {
        return Err(Rejection::NotAuthorized);
    };
    let payer = match &transaction.fee_payer {
        Some(payer) if fees::controls(state, &payer.account, &payer.key) => {
            Purse::Account(payer.account)
        }
        Some(_) => return Err(Rejection::NotAuthorized),
        None => signer,
    };
    let fee = if transaction.stamp.is_some() {
        fees::check_stamp(state, transaction)?;
        Credits::ZERO
    } else {
        let base = fees::base_fee(base_fee, verified.size());
        base.checked_add(transaction.tip).ok_or(Rejection::Overflow)?
    };
    if fee > transaction.fee_max {
        return Err(Rejection::FeeTooLow { max: transaction.fee_max, need: fee });
    }
    Ok(Charges { fee: (payer, fee), moved: (signer, moved(transaction)) })
}

/// The highest base fee per byte that a transaction may be charged.
pub(super) fn base_fee_max(verified: &VerifiedTransaction) -> Credits {
    let transaction = verified.transaction();
    let left = transaction.fee_max.micro().saturating_sub(transaction.tip.micro());
    let size = u64::try_from(verified.size()).unwrap_or(u64::MAX);
    Credits::from_micro(left.checked_div(size).unwrap_or(0))
}

/// What the payload takes from the signer's balance, as far as it states it.
const fn moved(transaction: &Transaction) -> Credits {
    match &transaction.payload {
        Payload::Transfer { amount, .. } | Payload::FundNode { amount, .. } => *amount,
        Payload::RegisterNode(registration) => registration.allowance,
        Payload::OpenRounds { escrow, .. } => *escrow,
        Payload::Staking(StakingAction::Bond { amount, .. }) => *amount,
        // Bonds of duties and deposits follow from the state; the rules ask at their turn.
        _ => Credits::ZERO,
    }
}
