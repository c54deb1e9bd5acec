//! Blocks that are in the index and not yet in its database.
//!
//! A write of the database costs as much for one position as for many of one account, so they are
//! gathered: what a busy account did in thousands of transactions is written as one value.

use std::collections::BTreeMap;

use protocol::amount::{Credits, Height};
use protocol::ids::{AccountId, BlockHash, TransactionHash};

use super::page::{ENTRY_BYTES, part_of, position_bytes};
use super::{ACCOUNT, BASE_FEE, BLOCK, IndexedBlock, Position, TIP, TRANSACTION, keyed};
use crate::block_log::Tip;

/// Transactions that are gathered at most, about 8 MiB.
const TRANSACTIONS_MAX: usize = 32_768;
/// Blocks that are gathered at most: what is read again after a crash.
const BLOCKS_MAX: usize = 128;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pending {
    blocks: Vec<(Tip, Option<Credits>)>,
    transactions: BTreeMap<TransactionHash, Position>,
    accounts: BTreeMap<AccountId, Vec<Position>>,
}

impl Pending {
    pub(super) fn tip(&self) -> Option<Tip> {
        self.blocks.last().map(|(tip, _)| *tip)
    }

    pub(super) fn add(&mut self, block: &IndexedBlock) {
        let height = block.at.height;
        self.blocks.push((block.at, block.base_fee));
        for (index, transaction) in (0_u32..).zip(&block.transactions) {
            let at = Position { height, index };
            self.transactions.insert(transaction.hash, at);
            for account in &transaction.accounts {
                self.accounts.entry(*account).or_default().push(at);
            }
        }
    }

    /// Whether it is time to write.
    pub(super) fn is_full(&self) -> bool {
        self.blocks.len() >= BLOCKS_MAX || self.transactions.len() >= TRANSACTIONS_MAX
    }

    pub(super) fn transaction(&self, hash: &TransactionHash) -> Option<Position> {
        self.transactions.get(hash).copied()
    }

    pub(super) fn block(&self, hash: &BlockHash) -> Option<Height> {
        self.blocks.iter().find(|(tip, _)| tip.block == *hash).map(|(tip, _)| tip.height)
    }

    pub(super) fn base_fee(&self, height: Height) -> Option<Credits> {
        self.blocks.iter().find(|(tip, _)| tip.height == height).and_then(|(_, fee)| *fee)
    }

    /// An account's positions, oldest first.
    pub(super) fn of_account(&self, account: &AccountId) -> &[Position] {
        self.accounts.get(account).map_or(&[], Vec::as_slice)
    }

    /// Everything, as one write of the database; `None` when there is nothing.
    pub(super) fn batch(&self) -> Option<sled::Batch> {
        let tip = self.tip()?;
        let mut batch = sled::Batch::default();
        for (Tip { height, block }, fee) in &self.blocks {
            let be = height.get().to_be_bytes();
            batch.insert(keyed(BLOCK, &[block.as_bytes()]), &be);
            if let Some(fee) = fee {
                batch.insert(keyed(BASE_FEE, &[&be]), &fee.micro().to_le_bytes());
            }
        }
        let chunk = tip.height.get().to_be_bytes();
        let mut parts: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for (hash, at) in &self.transactions {
            let (part, rest) = part_of(hash);
            let page = parts.entry(part).or_insert_with(|| Vec::with_capacity(4 * ENTRY_BYTES));
            page.extend_from_slice(rest);
            page.extend_from_slice(&position_bytes(*at));
        }
        for (part, page) in parts {
            batch.insert(keyed(TRANSACTION, &[&[part], &chunk]), page);
        }
        for (account, positions) in &self.accounts {
            let Some(last) = positions.last() else { continue };
            let page: Vec<u8> = positions.iter().flat_map(|at| position_bytes(*at)).collect();
            batch.insert(keyed(ACCOUNT, &[account.as_bytes(), &position_bytes(*last)]), page);
        }
        let mut value = tip.height.get().to_le_bytes().to_vec();
        value.extend_from_slice(tip.block.as_bytes());
        batch.insert(TIP, value);
        Some(batch)
    }
}
