//! An account's transactions: the index says where they are, the blocks what they are.

use protocol::amount::{Credits, Height};
use protocol::api::{
    ApiError, HistoryCursor, HistoryDirection, HistoryEntry, HistoryPage, HistoryQuery,
};
use protocol::codec;
use protocol::ids::{AccountId, NodeId};
use protocol::transaction::{GovernanceAction, Payload, SignedTransaction, StakingAction};
use storage::history::Position;

use super::NodeBackend;
use super::chain::{Found, fee};
use crate::node::Node;
use crate::node::history::accounts;

/// What a transaction means for one account.
struct Meaning {
    direction: HistoryDirection,
    account: Option<AccountId>,
    node: Option<NodeId>,
    amount: Option<Credits>,
}

impl Meaning {
    const NOTHING: Self =
        Self { direction: HistoryDirection::None, account: None, node: None, amount: None };

    fn out(node: NodeId, amount: Credits) -> Self {
        let direction = HistoryDirection::Out;
        Self { direction, node: Some(node), amount: Some(amount), ..Self::NOTHING }
    }
}

impl NodeBackend {
    pub(super) async fn list_history(&self, query: HistoryQuery) -> Result<HistoryPage, ApiError> {
        let account = query.account.unwrap_or_else(|| self.node.account());
        self.search(move |node| {
            if !node.history.is_kept() {
                let error = ApiError::unavailable("this node keeps no history of transactions");
                return Err(error.with_hint("`ayni node logs` says why"));
            }
            page(node, account, query)
        })
        .await
    }
}

fn page(node: &Node, account: AccountId, query: HistoryQuery) -> Result<HistoryPage, ApiError> {
    let limit = usize::try_from(query.limit()).unwrap_or(usize::MAX);
    let before = query.before.map(|at| Position { height: at.height, index: at.index });
    let searched = node.history.searched();
    let positions = node.history.of_account(&account, before, limit);
    let mut entries = Vec::with_capacity(positions.len());
    let mut block: Option<(Height, Option<Found>)> = None;
    for at in &positions {
        // Transactions of one block come one after the other: it is read once.
        if block.as_ref().is_none_or(|(height, _)| *height != at.height) {
            block = Some((at.height, node.read_block(at.height)?));
        }
        // A node that prunes has the newest blocks only, and so nothing older either.
        let Some((_, Some(found))) = &block else { break };
        let index = usize::try_from(at.index).unwrap_or(usize::MAX);
        match found.block.transactions.get(index).filter(|t| accounts(t).contains(&account)) {
            Some(signed) => entries.push(entry(&account, signed, found, at.index)),
            None => {
                node.history.contradicted("an account has no part in a transaction");
                break;
            }
        }
    }
    let more = entries.len() == limit;
    let older = positions.last().filter(|_| more).map(|at| cursor(at.height, at.index));
    Ok(HistoryPage { account, entries, older, searched })
}

const fn cursor(height: Height, index: u32) -> HistoryCursor {
    HistoryCursor { height, index }
}

fn entry(
    account: &AccountId,
    signed: &SignedTransaction,
    found: &Found,
    index: u32,
) -> HistoryEntry {
    let transaction = &signed.transaction;
    let payer = transaction.fee_payer.as_ref().map_or(transaction.account, |p| p.account);
    let fee = fee(transaction, codec::size(signed), found.base_fee);
    // Duties are paid from the node's allowance, and still by the account.
    let fee = if payer == *account { fee } else { Some(Credits::ZERO) };
    let meaning = meaning(account, signed);
    HistoryEntry {
        transaction: signed.hash(),
        at: cursor(found.block.header.height, index),
        time_ms: found.block.header.time,
        kind: transaction.payload.name().to_owned(),
        direction: meaning.direction,
        account: meaning.account,
        node: meaning.node,
        amount_micro: meaning.amount,
        fee_micro: fee,
    }
}

fn meaning(account: &AccountId, signed: &SignedTransaction) -> Meaning {
    let transaction = &signed.transaction;
    let about = |node: NodeId| Meaning { node: Some(node), ..Meaning::NOTHING };
    if transaction.account != *account && !matches!(transaction.payload, Payload::Transfer { .. }) {
        // It paid the fee of somebody else's.
        return Meaning { account: Some(transaction.account), ..Meaning::NOTHING };
    }
    match &transaction.payload {
        Payload::Transfer { to, amount } => transfer(account, &transaction.account, to, *amount),
        Payload::RegisterNode(registration) => {
            Meaning::out(registration.keys.node.node_id(), registration.allowance)
        }
        Payload::FundNode { node, amount } => Meaning::out(*node, *amount),
        Payload::OpenRounds { escrow, .. } => {
            Meaning { direction: HistoryDirection::Out, amount: Some(*escrow), ..Meaning::NOTHING }
        }
        Payload::Staking(action) => match action {
            StakingAction::Bond { node, amount } => Meaning::out(*node, *amount),
            StakingAction::Unbond { node, amount } => {
                Meaning { amount: Some(*amount), ..about(*node) }
            }
            StakingAction::Redelegate { to, amount, .. } => {
                Meaning { amount: Some(*amount), ..about(*to) }
            }
            StakingAction::SetCommission { node, .. } | StakingAction::Unjail { node } => {
                about(*node)
            }
            StakingAction::ClaimRewards { node } => {
                Meaning { direction: HistoryDirection::In, ..about(*node) }
            }
        },
        Payload::Governance(GovernanceAction::Propose { .. } | GovernanceAction::Ballot { .. })
        | Payload::RotateKey { .. }
        | Payload::PublishDataset { .. }
        | Payload::RegisterModel { .. }
        | Payload::JoinRound { .. }
        | Payload::SubmitCommit { .. }
        | Payload::Submit { .. }
        | Payload::ReviewCommit { .. }
        | Payload::ReviewReveal { .. }
        | Payload::AttestHead { .. }
        | Payload::AttestUnavailable { .. } => Meaning::NOTHING,
    }
}

fn transfer(account: &AccountId, from: &AccountId, to: &AccountId, amount: Credits) -> Meaning {
    let (direction, other) = match (from == account, to == account) {
        (true, false) => (HistoryDirection::Out, Some(*to)),
        (false, true) => (HistoryDirection::In, Some(*from)),
        // To itself, or somebody else's transfer of which it paid the fee.
        (true, true) | (false, false) => (HistoryDirection::None, Some(*from)),
    };
    Meaning { direction, account: other, node: None, amount: Some(amount) }
}
