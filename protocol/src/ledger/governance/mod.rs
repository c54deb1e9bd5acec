//! Governance: proposals, ballots, and their automatic execution.

use crate::ids::AccountId;
use crate::ledger::Rejection;
use crate::ledger::state::State;
use crate::transaction::GovernanceAction;

/// Applies an action of `account`.
pub(super) fn act(
    _state: &mut State<'_>,
    _account: &AccountId,
    _action: &GovernanceAction,
) -> Result<(), Rejection> {
    Err(Rejection::NotAuthorized)
}

/// Closes the votes that are over and executes what is due.
pub(super) fn end_block(_state: &mut State<'_>) -> Result<(), Rejection> {
    Ok(())
}
