//! Governance: proposals, ballots, and their automatic execution.
//!
//! A proposal names a [`Change`](crate::transaction::Change) of the rules. It is checked when it
//! is made and again when its time has come; what it does then is done by the rules themselves,
//! by nobody's hand. A ballot weighs what its account has at stake when it votes. That is safe
//! because stake leaves only through the unbonding delay, and no vote lasts longer than that: no
//! credit votes twice on one proposal.
//!
//! **Invariant.** Every vote ends, with an outcome: when chain time has reached its end *and* the
//! blocks that it needs have passed. A deposit is burned or returned at that moment.
//!
//! Kept are the newest [`PROPOSALS_KEPT_MAX`](crate::limits::PROPOSALS_KEPT_MAX) proposals with
//! their tallies, and ballots while their proposal is not over. There is deliberately no way to
//! withdraw a proposal or a ballot, only to vote otherwise.

mod ballots;
mod changes;
mod outcome;
mod proposals;
mod rules;
mod store;
mod weight;

pub(super) use rules::check_header;
pub use rules::version_for;
pub(super) use store::PROPOSAL;
pub use weight::{locked_until, total_stake, voting_stake};

use crate::ids::AccountId;
use crate::ledger::Rejection;
use crate::ledger::state::State;
use crate::transaction::GovernanceAction;

/// Applies an action of `account`.
pub(super) fn act(
    state: &mut State<'_>,
    account: &AccountId,
    action: &GovernanceAction,
) -> Result<(), Rejection> {
    match action {
        GovernanceAction::Propose { title, change } => {
            proposals::propose(state, account, title, change)
        }
        GovernanceAction::Ballot { proposal, choice, conviction } => {
            ballots::cast(state, account, *proposal, *choice, *conviction)
        }
    }
}

/// Closes the votes that are over and executes what is due.
pub(super) fn end_block(state: &mut State<'_>) -> Result<(), Rejection> {
    proposals::close_due(state)?;
    proposals::execute_due(state);
    store::sweep(state);
    Ok(())
}
