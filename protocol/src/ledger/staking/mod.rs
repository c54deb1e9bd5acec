//! Stake: bonds and delegations, the validators that follow from them, rewards, slashing.
//!
//! An account puts credits on a node, its own or another's, and has shares of the node's `pool`.
//! `election` gives the largest nodes power, `absence` counts what they sign, `rewards` pays
//! them for it, `evidence` and absence cost them stake, and `slashing` follows the stake that
//! left in time. Deliberately absent: who may vote on what (governance reads [`State::bonded`]).

mod absence;
mod actions;
mod election;
mod evidence;
mod math;
mod pool;
mod rewards;
mod slashing;
pub mod store;

pub use election::elect;
pub use evidence::check_evidence;

pub(super) use actions::bond_at_genesis;
pub(super) use election::choose;
pub(super) use evidence::apply as apply_evidence;
pub(super) use rewards::end_epoch;

use crate::consensus::CommitCertificate;
use crate::ids::{AccountId, NodeId};
use crate::ledger::Rejection;
use crate::ledger::entries::staking::{Lows, Pool};
use crate::ledger::state::State;
use crate::transaction::StakingAction;

/// Applies an action of `account`.
pub(super) fn act(
    state: &mut State<'_>,
    account: &AccountId,
    action: &StakingAction,
) -> Result<(), Rejection> {
    match action {
        StakingAction::Bond { node, amount } => actions::bond(state, account, node, *amount),
        StakingAction::Unbond { node, amount } => actions::unbond(state, account, node, *amount),
        StakingAction::Redelegate { from, to, amount } => {
            actions::redelegate(state, account, from, to, *amount)
        }
        StakingAction::SetCommission { node, commission_ppm } => {
            actions::set_commission(state, account, node, *commission_ppm)
        }
        StakingAction::Unjail { node } => actions::unjail(state, account, node),
        StakingAction::ClaimRewards { node } => actions::claim(state, account, node),
    }
}

/// Opens the pool of a node that was just registered.
pub(super) fn open_pool(state: &mut State<'_>, node: &NodeId) {
    let lows = Lows { epoch: state.stake_epoch(), ..Lows::default() };
    state.put_pool(node, &Pool { lows, ..Pool::default() });
}

/// Counts who signed the parent and who was away. The first block has no parent to count.
pub(super) fn begin_block(
    state: &mut State<'_>,
    certificate: Option<&CommitCertificate>,
) -> Result<(), Rejection> {
    certificate.map_or(Ok(()), |certificate| absence::count(state, certificate))
}

/// Pays out what has finished unbonding, and follows a change of the parameters.
pub(super) fn end_block(state: &mut State<'_>) -> Result<(), Rejection> {
    slashing::end_liabilities(state)?;
    election::follow_parameters(state)
}
