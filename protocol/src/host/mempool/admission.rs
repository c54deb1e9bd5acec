//! Who may ask for a transaction and what it takes from whom: what can be known before its turn.
//!
//! The rules decide again at its turn. Here is refused what would let one account fill the pool
//! with transactions that it may not ask for or cannot pay.

use crate::amount::Credits;
use crate::ids::{AccountId, NodeId};
use crate::keys::PublicKey;
use crate::ledger::Rejection;
use crate::ledger::state::State;
use crate::transaction::{Payload, Transaction, VerifiedTransaction};

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

fn controls(state: &State<'_>, account: &AccountId, key: &PublicKey) -> bool {
    match state.account(account).key {
        Some(current) => current == *key,
        None => key.account_id() == *account,
    }
}

/// What the transaction takes, if its key may ask for it.
pub(super) fn charges(
    state: &State<'_>,
    verified: &VerifiedTransaction,
) -> Result<Charges, Rejection> {
    let transaction = verified.transaction();
    let signer = if transaction.payload.is_duty() {
        let node = state
            .node_by_key(transaction.key.as_bytes())
            .filter(|n| n.keys.duty == transaction.key && n.account == transaction.account)
            .ok_or(Rejection::NotAuthorized)?;
        Purse::Allowance(node.keys.node.node_id())
    } else if controls(state, &transaction.account, &transaction.key) {
        Purse::Account(transaction.account)
    } else {
        return Err(Rejection::NotAuthorized);
    };
    let payer = match &transaction.fee_payer {
        Some(payer) if controls(state, &payer.account, &payer.key) => Purse::Account(payer.account),
        Some(_) => return Err(Rejection::NotAuthorized),
        None => signer,
    };
    let size = u64::try_from(verified.size()).unwrap_or(u64::MAX);
    let base = state.parameters().base_fee_per_byte.scaled(size, 1);
    let fee = base.checked_add(transaction.tip).ok_or(Rejection::Overflow)?;
    Ok(Charges { fee: (payer, fee), moved: (signer, moved(transaction)) })
}

/// What the payload takes from the signer's balance, as far as it states it.
const fn moved(transaction: &Transaction) -> Credits {
    match &transaction.payload {
        Payload::Transfer { amount, .. } | Payload::FundNode { amount, .. } => *amount,
        Payload::RegisterNode(registration) => registration.allowance,
        Payload::OpenRounds { escrow, .. } => *escrow,
        // Bonds of duties follow from the round; the rules ask for them at their turn.
        _ => Credits::ZERO,
    }
}
