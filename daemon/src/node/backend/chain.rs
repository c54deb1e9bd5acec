//! The chain: blocks, transactions, validators, the numbers of the rules.

use std::sync::Arc;

use protocol::amount::{Credits, Height};
use protocol::api::{
    ApiError, BlockDetail, BlockRef, BlockSigner, BlockSummary, Blocks, BlocksQuery,
    ChainParameters, EvidenceSummary, Inclusion, RulesAhead, TransactionDetail, TransactionSummary,
    Validators, ValidatorsQuery,
};
use protocol::block::{Block, DecidedBlock, Evidence};
use protocol::codec;
use protocol::consensus::{Proposal, VoteKind};
use protocol::ids::{BlockHash, TransactionHash};
use protocol::ledger::fees;
use protocol::ledger::state::View;
use protocol::transaction::{SignedTransaction, Transaction};
use storage::history::Position;

use super::{NodeBackend, validators};
use crate::node::Node;
use crate::node::ledger::decode_block;

/// Blocks above the index that are searched for a hash; it is behind by one or two, if at all.
const UNINDEXED_MAX: usize = 64;

/// A block of the log with what people want to know beside it.
pub(super) struct Found {
    pub(super) decided: DecidedBlock,
    pub(super) block: Block,
    /// What a byte of its transactions cost.
    pub(super) base_fee: Option<Credits>,
}

impl Node {
    /// Reads a block. Blocking.
    pub(super) fn read_block(&self, height: Height) -> Result<Option<Found>, ApiError> {
        let Some(decided) = self.ledger.decided(height) else { return Ok(None) };
        let block =
            decode_block(&decided).map_err(|error| ApiError::internal(format!("{error:#}")))?;
        let base_fee = self.ledger.base_fee_at(height).or_else(|| self.history.base_fee(height));
        Ok(Some(Found { decided, block, base_fee }))
    }

    /// Height of a block, also of one that the index does not have yet.
    fn height_of(&self, hash: &BlockHash) -> Option<Height> {
        // Before the index is asked: what it takes in meanwhile is then looked for twice.
        let searched = self.history.searched().get();
        self.history.block(hash).or_else(|| {
            let tip = self.ledger.applied().height.get();
            let mut rest = (searched.saturating_add(1)..=tip).rev().take(UNINDEXED_MAX);
            let is_it = |height: &u64| self.ledger.block_hash(Height::new(*height)) == Some(*hash);
            rest.find(is_it).map(Height::new)
        })
    }

    fn find_block(&self, block: BlockRef) -> Result<Found, ApiError> {
        let height = match block {
            BlockRef::Height(height) => Some(height),
            BlockRef::Hash(hash) => self.height_of(&hash),
        };
        let found = height.map(|height| self.read_block(height)).transpose()?.flatten();
        let wanted = |found: &Found| match block {
            BlockRef::Height(_) => true,
            BlockRef::Hash(hash) => found.decided.certificate.block == hash,
        };
        found.filter(wanted).ok_or_else(|| {
            ApiError::not_found(format!("there is no block {block} on this node")).with_hint(
                "`ayni status` says how high the chain is; the first block is 1, and a node that \
                 prunes has only the last ones",
            )
        })
    }

    /// A transaction in the block where the index says it is.
    fn read_transaction(
        &self,
        hash: &TransactionHash,
        at: Position,
    ) -> Result<Option<TransactionDetail>, ApiError> {
        let Some(found) = self.read_block(at.height)? else { return Ok(None) };
        let index = usize::try_from(at.index).unwrap_or(usize::MAX);
        let Some(signed) = found.block.transactions.get(index).filter(|t| t.hash() == *hash) else {
            self.history.contradicted("a transaction is not where it should be");
            return Ok(None);
        };
        Ok(Some(final_transaction(signed, &found, at.index)))
    }

    /// A transaction that the index does not have yet: its height is still in memory.
    fn search_recent(&self, hash: &TransactionHash) -> Result<Option<TransactionDetail>, ApiError> {
        let Some(height) = self.ledger.included(hash) else { return Ok(None) };
        let Some(found) = self.read_block(height)? else { return Ok(None) };
        let mut numbered = (0_u32..).zip(&found.block.transactions);
        let at = numbered.find(|(_, signed)| signed.hash() == *hash);
        Ok(at.map(|(index, signed)| final_transaction(signed, &found, index)))
    }

    fn find_transaction(&self, hash: &TransactionHash) -> Result<TransactionDetail, ApiError> {
        // First: what is included while the blocks are searched is found there.
        let waiting = self.ledger.waiting(hash);
        if let Some(at) = self.history.transaction(hash) {
            if let Some(found) = self.read_transaction(hash, at)? {
                return Ok(found);
            }
            if self.ledger.first_block().is_some_and(|first| at.height < first) {
                let message = format!("transaction {hash} is in block {}, pruned here", at.height);
                return Err(ApiError::not_found(message).with_hint("ask a node with `archive`"));
            }
        }
        if let Some(found) = self.search_recent(hash)? {
            return Ok(found);
        }
        if let Some(waiting) = waiting {
            return Ok(describe(waiting.signed(), None, None));
        }
        let (searched, tip) = (self.history.searched(), self.ledger.applied().height);
        let error = ApiError::not_found(format!("there is no transaction {hash} on this node"));
        Err(if searched < tip {
            error.with_hint(format!(
                "it has searched {searched} of its {tip} blocks; try again when it is through"
            ))
        } else {
            error.with_hint("it was never sent to this network, or was refused or given up")
        })
    }
}

/// What a transaction cost, the tip included; nothing when work stood in for the fee.
pub(super) fn fee(
    transaction: &Transaction,
    size: usize,
    base_fee: Option<Credits>,
) -> Option<Credits> {
    if transaction.stamp.is_some() {
        return Some(Credits::ZERO);
    }
    fees::base_fee(base_fee?, size).checked_add(transaction.tip)
}

fn describe(
    signed: &SignedTransaction,
    inclusion: Option<Inclusion>,
    base_fee: Option<Credits>,
) -> TransactionDetail {
    let size = codec::size(signed);
    TransactionDetail {
        hash: signed.hash(),
        inclusion,
        kind: signed.transaction.payload.name().to_owned(),
        bytes: u64::try_from(size).unwrap_or(u64::MAX),
        fee_micro: fee(&signed.transaction, size, base_fee),
        transaction: signed.transaction.clone(),
    }
}

fn final_transaction(signed: &SignedTransaction, found: &Found, index: u32) -> TransactionDetail {
    let inclusion = Inclusion {
        height: found.block.header.height,
        block: found.decided.certificate.block,
        index,
        time_ms: found.block.header.time,
    };
    describe(signed, Some(inclusion), found.base_fee)
}

impl NodeBackend {
    /// Does what reads blocks on a thread that may block.
    pub(super) async fn search<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> T {
        let node = Arc::clone(&self.node);
        self.node.ledger.run(move |_| work(&node)).await
    }

    pub(super) async fn list_blocks(&self, query: BlocksQuery) -> Result<Blocks, ApiError> {
        let limit = u64::from(query.limit());
        self.search(move |node| {
            let tip = node.ledger.applied().height;
            let first = node.ledger.first_block().unwrap_or(Height::new(1));
            let from = query.from.unwrap_or_else(|| tip.plus(1).minus(limit)).max(first);
            let end = from.plus(limit).min(tip.plus(1));
            let heights = (from.get()..end.get()).map(Height::new);
            let found = heights.map_while(|height| node.read_block(height).transpose());
            let blocks: Result<Vec<_>, ApiError> =
                found.map(|block| block.map(|block| summary(&block))).collect();
            blocks.map(|blocks| Blocks { blocks })
        })
        .await
    }

    pub(super) async fn show_block(&self, block: BlockRef) -> Result<BlockDetail, ApiError> {
        self.search(move |node| {
            let found = node.find_block(block)?;
            Ok(node.ledger.read(|view| detail(view, &found)))
        })
        .await
    }

    pub(super) async fn show_transaction(
        &self,
        hash: TransactionHash,
    ) -> Result<TransactionDetail, ApiError> {
        self.search(move |node| node.find_transaction(&hash)).await
    }

    pub(super) fn list_validators(&self, query: ValidatorsQuery) -> Result<Validators, ApiError> {
        self.node.ledger.read(|view| {
            let tip = view.clock().height;
            let height = query.height.unwrap_or_else(|| tip.plus(1));
            let set = match height.get().checked_sub(tip.get()) {
                Some(0) => view.validators_of_tip(),
                Some(1) => view.validators(),
                Some(2) => view.validators_after(),
                _ => {
                    let message = format!("the validators of height {height} are not known here");
                    return Err(ApiError::not_found(message).with_hint(format!(
                        "those of heights {tip} to {} are, as the chain stands",
                        tip.plus(2)
                    )));
                }
            };
            Ok(validators::show(view, height, &set))
        })
    }

    pub(super) fn list_parameters(&self) -> ChainParameters {
        self.node.ledger.read(|view| {
            let (clock, rules) = (view.clock(), view.rules());
            let next = clock.height.plus(1);
            ChainParameters {
                height: clock.height,
                rules_version: rules.version_at(next),
                rules_ahead: rules
                    .next
                    .filter(|change| change.height > next)
                    .map(|change| RulesAhead { version: change.version, height: change.height }),
                base_fee_per_byte_micro: clock.base_fee,
                parameters: view.parameters().list().into_iter().map(Into::into).collect(),
            }
        })
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn summary(found: &Found) -> BlockSummary {
    let Found { decided, block, base_fee } = found;
    BlockSummary {
        height: block.header.height,
        hash: decided.certificate.block,
        time_ms: block.header.time,
        proposer: block.header.proposer,
        round: decided.certificate.round,
        signatures: count(decided.certificate.signatures.len()),
        parent_state_root: block.header.state,
        transactions: count(block.transactions.len()),
        evidence: count(block.evidence.len()),
        bytes: u64::try_from(decided.block.len()).unwrap_or(u64::MAX),
        base_fee_per_byte_micro: *base_fee,
    }
}

fn detail(view: &View<'_>, found: &Found) -> BlockDetail {
    let header = &found.block.header;
    let signer = |validator| {
        let node = view.node_of_validator(&validator);
        BlockSigner {
            validator,
            node: node.as_ref().map(|n| n.keys.node.node_id()),
            account: node.map(|n| n.account),
        }
    };
    BlockDetail {
        summary: summary(found),
        rules_version: header.rules_version,
        parent: header.parent,
        parent_certificate: header.parent_certificate,
        contents: header.transactions,
        next_validators: header.next_validators,
        beacon: header.beacon,
        snapshot: header.snapshot,
        signers: found
            .decided
            .certificate
            .signatures
            .iter()
            .map(|signature| signer(signature.validator))
            .collect(),
        evidence: found.block.evidence.iter().map(evidence).collect(),
        transactions: found
            .block
            .transactions
            .iter()
            .map(|signed| transaction(signed, found.base_fee))
            .collect(),
    }
}

fn transaction(signed: &SignedTransaction, base_fee: Option<Credits>) -> TransactionSummary {
    let size = codec::size(signed);
    let transaction = &signed.transaction;
    TransactionSummary {
        hash: signed.hash(),
        kind: transaction.payload.name().to_owned(),
        account: transaction.account,
        nonce: transaction.nonce,
        tip_micro: transaction.tip,
        bytes: u64::try_from(size).unwrap_or(u64::MAX),
        fee_micro: fee(transaction, size, base_fee),
    }
}

fn evidence(evidence: &Evidence) -> EvidenceSummary {
    let (kind, validator, height, round, vote) = match evidence {
        Evidence::DoubleVote { first: (vote, _), .. } => {
            let kind = match vote.kind {
                VoteKind::Prevote => "prevote",
                VoteKind::Precommit => "precommit",
            };
            ("double_vote", vote.validator, vote.height, vote.round, kind)
        }
        Evidence::DoubleProposal { first: (proposal, _), .. } => {
            let Proposal { proposer, height, round, .. } = *proposal;
            ("double_proposal", proposer, height, round, "proposal")
        }
    };
    EvidenceSummary { kind: kind.to_owned(), validator, height, round, vote: vote.to_owned() }
}
