//! Stake: bonds and delegations, the validators that follow from them, rewards, slashing.

use crate::amount::{PPM, VotingPower};
use crate::consensus::{CommitCertificate, Validator, ValidatorSet};
use crate::ids::AccountId;
use crate::ledger::Rejection;
use crate::ledger::state::State;
use crate::transaction::StakingAction;

/// Applies an action of `account`.
pub(super) fn act(
    _state: &mut State<'_>,
    _account: &AccountId,
    _action: &StakingAction,
) -> Result<(), Rejection> {
    Err(Rejection::NotAuthorized)
}

/// Counts who signed the parent and who was away.
pub(super) fn begin_block(
    _state: &mut State<'_>,
    _certificate: Option<&CommitCertificate>,
) -> Result<(), Rejection> {
    Ok(())
}

/// Pays validators and treasury for the epoch that ended.
pub(super) fn end_epoch(_state: &mut State<'_>) -> Result<(), Rejection> {
    Ok(())
}

/// Pays out what has finished unbonding, frees nobody else.
pub(super) fn end_block(_state: &mut State<'_>) -> Result<(), Rejection> {
    Ok(())
}

/// The validators that follow from the stakes as they are; none if that would be nobody.
pub fn elect(state: &State<'_>) -> Option<ValidatorSet> {
    let validators = state
        .nodes()
        .iter()
        .filter(|n| n.capabilities.validates)
        .map(|n| Validator {
            key: n.keys.consensus,
            power: VotingPower::new(n.stake.micro().checked_div(PPM).unwrap_or(0)),
        })
        .filter(|v| v.power.get() > 0)
        .collect();
    ValidatorSet::new(validators).ok()
}
