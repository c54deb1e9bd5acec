//! Stake: what the node's account does with it, what any account has.

use std::sync::Arc;

use protocol::amount::{Credits, TimestampMs};
use protocol::api::{
    ApiError, Delegation, StakeRequest, Stakes, StakesQuery, TransactionReceipt, Unbonding,
};
use protocol::ids::{AccountId, NodeId};
use protocol::ledger::entries::staking;
use protocol::ledger::governance;
use protocol::ledger::state::View;
use protocol::transaction::{Payload, StakingAction};

use super::{NodeBackend, validators};

impl NodeBackend {
    pub(super) async fn change_stake(
        &self,
        request: StakeRequest,
    ) -> Result<TransactionReceipt, ApiError> {
        let own = self.node.id();
        let node = |named: Option<NodeId>| named.unwrap_or(own);
        let action = match request {
            StakeRequest::Stake { node: named, amount_micro: amount } => {
                let node = node(named);
                if node == own {
                    self.ensure_registered(amount).await?;
                }
                StakingAction::Bond { node, amount }
            }
            StakeRequest::Unstake { node: named, amount_micro: amount } => {
                StakingAction::Unbond { node: node(named), amount }
            }
            StakeRequest::Redelegate { from, to, amount_micro: amount } => {
                StakingAction::Redelegate { from, to, amount }
            }
            StakeRequest::Commission { node: named, commission_ppm } => {
                StakingAction::SetCommission { node: node(named), commission_ppm }
            }
            StakeRequest::Unjail { node: named } => StakingAction::Unjail { node: node(named) },
            StakeRequest::Claim { node: named } => {
                StakingAction::ClaimRewards { node: node(named) }
            }
        };
        self.transact(Payload::Staking(action)).await
    }

    pub(super) async fn list_stakes(&self, query: StakesQuery) -> Stakes {
        let account = query.account.unwrap_or_else(|| self.node.account());
        let ledger = Arc::clone(&self.node.ledger);
        ledger.run(move |ledger| ledger.read(|view| stakes(view, account))).await
    }
}

fn sum(amounts: impl Iterator<Item = Credits>) -> Credits {
    amounts.fold(Credits::ZERO, |sum, amount| sum.checked_add(amount).unwrap_or(sum))
}

fn stakes(view: &View<'_>, account: AccountId) -> Stakes {
    let mut entries = view.delegations(&account);
    // An owner without stake on its own node still has its commission to claim.
    for node in view.nodes().iter().filter(|node| node.account == account) {
        let id = node.keys.node.node_id();
        if entries.iter().all(|entry| entry.node != id) {
            entries.push(staking::Delegation::new(account, id));
        }
    }
    let delegations: Vec<_> = entries.iter().map(|entry| delegation(view, entry)).collect();
    let unbonding: Vec<_> = entries
        .iter()
        .flat_map(|entry| entry.unbonding.iter())
        .filter_map(|number| unbonding(view, *number))
        .collect();
    Stakes {
        account,
        height: view.clock().height,
        staked_micro: view.bonded(&account),
        unbonding_micro: sum(unbonding.iter().map(|u| u.amount_micro)),
        rewards_micro: sum(delegations.iter().flat_map(|d| [d.rewards_micro, d.commission_micro])),
        locked_until_ms: governance::locked_until(view, &account),
        delegations,
        unbonding,
    }
}

fn delegation(view: &View<'_>, entry: &staking::Delegation) -> Delegation {
    let pool = view.pool(&entry.node).unwrap_or_default();
    let owner = view.node(&entry.node).map(|node| node.account);
    let consensus = view.node(&entry.node).map(|node| node.keys.consensus.validator_id());
    let has_power = consensus.is_some_and(|id| view.validators().get(&id).is_some());
    let is_owner = owner == Some(entry.account);
    Delegation {
        node: entry.node,
        owner,
        amount_micro: view.delegated(entry),
        rewards_micro: claimable(&pool, entry),
        commission_micro: if is_owner { pool.owed_commission } else { Credits::ZERO },
        commission_ppm: pool.commission.of_epoch(view.stake_epoch()),
        commission_next_ppm: pool.commission.next_ppm,
        state: validators::state(&pool, has_power),
    }
}

/// What a claim would pay, as the ledger's rule for rewards has it: the pool's rewards of one share
/// since the last payment, in micro-credits times 2^64, times the shares.
fn claimable(pool: &staking::Pool, entry: &staking::Delegation) -> Credits {
    let since = pool.reward_per_share.saturating_sub(entry.reward_per_share);
    let earned = since.saturating_mul(entry.shares) >> 64;
    Credits::from_micro(u64::try_from(earned).unwrap_or(u64::MAX)).min(pool.owed)
}

fn unbonding(view: &View<'_>, number: u64) -> Option<Unbonding> {
    let liability = view.liability(number)?;
    let due: TimestampMs = liability.due;
    Some(Unbonding {
        node: liability.node,
        amount_micro: view.unbonding_value(number),
        due_ms: due,
        due_height: liability.due_height,
    })
}
