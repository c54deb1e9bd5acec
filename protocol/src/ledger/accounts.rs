//! Transfers, keys and nodes.

use crate::amount::Credits;
use crate::ids::{AccountId, ChainId, NodeId};
use crate::keys::{Namespace, PublicKey, Signature};
use crate::ledger::Rejection;
use crate::ledger::entries::Node;
use crate::ledger::staking;
use crate::ledger::state::State;
use crate::limits;
use crate::transaction::RegisterNode;

pub(super) fn transfer(
    state: &mut State<'_>,
    from: &AccountId,
    to: &AccountId,
    amount: Credits,
) -> Result<(), Rejection> {
    if amount == Credits::ZERO {
        return Err(Rejection::ZeroAmount);
    }
    state.debit(from, amount)?;
    state.credit(to, amount)
}

pub(super) fn register_node(
    state: &mut State<'_>,
    chain: &ChainId,
    account: &AccountId,
    registration: &RegisterNode,
) -> Result<(), Rejection> {
    let keys = &registration.keys;
    let proofs = [
        (&keys.node, &registration.node_proof),
        (&keys.consensus, &registration.consensus_proof),
        (&keys.vrf, &registration.vrf_proof),
        (&keys.duty, &registration.duty_proof),
    ];
    for (index, (key, proof)) in proofs.iter().enumerate() {
        key.verify(Namespace::Possession, chain, account.as_bytes(), proof)
            .map_err(|_| Rejection::Mismatch("a proof of possession"))?;
        let twice = proofs.iter().skip(index.saturating_add(1)).any(|(other, _)| other == key);
        if twice || state.node_by_key(key.as_bytes()).is_some() {
            return Err(Rejection::Exists("a node with one of the keys"));
        }
    }
    let mut registry = state.registry();
    if usize::try_from(registry.nodes).unwrap_or(usize::MAX) >= limits::NODES_MAX {
        return Err(Rejection::Full("nodes"));
    }
    registry.nodes = registry.nodes.saturating_add(1);
    let since = state.clock().height;
    state.put_registry(&registry);
    state.debit(account, registration.allowance)?;
    state.put_new_node(&Node {
        account: *account,
        keys: keys.clone(),
        capabilities: registration.capabilities,
        allowance: registration.allowance,
        stake: Credits::ZERO,
        since,
    });
    staking::open_pool(state, &keys.node.node_id());
    Ok(())
}

pub(super) fn rotate_key(
    state: &mut State<'_>,
    chain: &ChainId,
    account: &AccountId,
    new_key: &PublicKey,
    possession: &Signature,
) -> Result<(), Rejection> {
    new_key
        .verify(Namespace::Possession, chain, account.as_bytes(), possession)
        .map_err(|_| Rejection::Mismatch("the proof of possession"))?;
    let mut entry = state.account(account);
    entry.key = Some(*new_key);
    state.put_account(account, &entry);
    Ok(())
}

pub(super) fn fund_node(
    state: &mut State<'_>,
    account: &AccountId,
    node: &NodeId,
    amount: Credits,
) -> Result<(), Rejection> {
    if amount == Credits::ZERO {
        return Err(Rejection::ZeroAmount);
    }
    let owner = state.node(node).ok_or(Rejection::Unknown("node"))?.account;
    if owner != *account {
        return Err(Rejection::NotAuthorized);
    }
    state.debit(account, amount)?;
    state.credit_allowance(node, amount)
}
