//! Keeps the index of transactions up with the block log, and reads through it.
//!
//! **Invariant.** What the index says is never shown unchecked: the block is read and the
//! transaction found in it. A claim that does not hold means a damaged index, which is then made
//! anew. A node without an index, or whose index lags, works as well; only people see less.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::amount::{Credits, Height};
use protocol::block::BoundBlock;
use protocol::ids::{AccountId, BlockHash, TransactionHash};
use protocol::transaction::{Payload, SignedTransaction};
use storage::Tip;
use storage::history::{History, HistoryError, IndexedBlock, IndexedTransaction, Position};

use super::Node;
use super::ledger::Ledger;

/// Blocks that are added in one batch: bounds memory and the time to stop.
const BATCH: usize = 64;

/// Times that a damaged index is made anew before the node goes on without: a disk that fails
/// would only fail again.
const REBUILDS_MAX: u32 = 3;

/// See the module. Every method may block.
pub struct Histories(Mutex<Inner>);

struct Inner {
    /// None after failures that rebuilding does not cure.
    index: Option<History>,
    rebuilds: u32,
}

impl Histories {
    /// Opens the index below the data directory, whose lock the caller holds.
    pub fn open(data: &Path) -> Self {
        let index = match History::open(&data.join("history")) {
            Ok((history, anew)) => {
                if anew {
                    tracing::warn!("the history of transactions is made anew from the block log");
                }
                Some(history)
            }
            Err(error) => {
                tracing::error!(%error, "there is no history of transactions on this node");
                None
            }
        };
        Self(Mutex::new(Inner { index, rebuilds: 0 }))
    }

    /// Whether there is an index at all.
    pub fn is_kept(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).index.is_some()
    }

    /// Asks the index; one that is damaged is made anew, and then nothing is known yet.
    fn ask<T: Default>(&self, question: impl FnOnce(&mut History) -> Result<T, HistoryError>) -> T {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(history) = &mut inner.index else { return T::default() };
        let error = match question(history) {
            Ok(answer) => return answer,
            Err(error) => error,
        };
        tracing::error!(%error, "the history of transactions is made anew");
        inner.rebuilds += 1;
        let damaged = inner.index.take().filter(|_| inner.rebuilds <= REBUILDS_MAX);
        inner.index = damaged.and_then(|damaged| match damaged.rebuild() {
            Ok(history) => Some(history),
            Err(error) => {
                tracing::error!(%error, "the history of transactions cannot be made");
                None
            }
        });
        T::default()
    }

    /// The last block in the index.
    pub fn searched(&self) -> Height {
        self.ask(|index| index.tip()).map_or(Height::ZERO, |tip| tip.height)
    }

    /// What a byte of a transaction cost at a height.
    pub fn base_fee(&self, height: Height) -> Option<Credits> {
        self.ask(|index| index.base_fee(height))
    }

    /// Height of the block with this hash.
    pub fn block(&self, hash: &BlockHash) -> Option<Height> {
        self.ask(|index| index.block(hash))
    }

    /// Where a transaction is, as the index says.
    pub fn transaction(&self, hash: &TransactionHash) -> Option<Position> {
        self.ask(|index| index.transaction(hash))
    }

    /// Where an account's transactions are, newest first, as the index says.
    pub fn of_account(
        &self,
        account: &AccountId,
        before: Option<Position>,
        limit: usize,
    ) -> Vec<Position> {
        self.ask(|index| index.of_account(account, before, limit))
    }

    /// Reports that the index said what the blocks do not.
    pub fn contradicted(&self, what: &str) {
        self.ask::<()>(|_| Err(HistoryError::Damaged(what.to_owned())));
    }

    /// Writes what is only in memory, before the end.
    fn write(&self) {
        self.ask(History::write);
    }

    /// Adds up to [`BATCH`] blocks that the index lacks; whether there may be more.
    fn catch_up(&self, ledger: &Ledger) -> bool {
        if !self.is_kept() {
            return false;
        }
        let tip = self.ask(|index| index.tip());
        let first = ledger.first_block().unwrap_or(Height::new(1));
        let next = tip.map_or(first, |tip| tip.height.plus(1));
        if let Some(tip) = tip {
            // Its block may have been pruned since; then nothing contradicts it.
            let contradicted = ledger.block_hash(tip.height).is_some_and(|hash| hash != tip.block);
            if contradicted || tip.height > ledger.applied().height || next < first {
                self.contradicted("its last block is not one after which the blocks go on");
                return true;
            }
        }
        let mut blocks = Vec::new();
        while blocks.len() < BATCH {
            let height = next.plus(u64::try_from(blocks.len()).unwrap_or(u64::MAX));
            let block = match ledger.recent(height) {
                Some(block) => block,
                None => {
                    let Some(decided) = ledger.decided(height) else { break };
                    let Ok(block) = BoundBlock::parse(&decided.block) else { break };
                    Arc::new(block)
                }
            };
            blocks.push(indexed(&block, ledger.base_fee_at(height)));
        }
        if blocks.is_empty() {
            return false;
        }
        self.ask(|index| index.add(&blocks));
        blocks.len() == BATCH
    }
}

fn indexed(bound: &BoundBlock, base_fee: Option<Credits>) -> IndexedBlock {
    let at = Tip { height: bound.header().height, block: bound.hash() };
    let signed = &bound.block().transactions;
    let transactions = signed
        .iter()
        .zip(bound.transactions())
        .map(|(signed, hash)| IndexedTransaction { hash: *hash, accounts: accounts(signed) })
        .collect();
    IndexedBlock { at, base_fee, transactions }
}

/// In whose history a transaction belongs.
pub fn accounts(signed: &SignedTransaction) -> Vec<AccountId> {
    let transaction = &signed.transaction;
    let mut accounts = vec![transaction.account];
    accounts.extend(transaction.fee_payer.as_ref().map(|payer| payer.account));
    if let Payload::Transfer { to, .. } = &transaction.payload {
        accounts.push(*to);
    }
    accounts.sort_unstable();
    accounts.dedup();
    accounts
}

/// Keeps the index up until shutdown.
pub async fn run(node: Arc<Node>) {
    let mut applied = node.ledger.follow();
    loop {
        applied.borrow_and_update();
        let worker = Arc::clone(&node);
        let more = node.ledger.run(move |ledger| worker.history.catch_up(ledger)).await;
        if node.token.is_cancelled() {
            break;
        }
        if more {
            continue;
        }
        tokio::select! {
            () = node.token.cancelled() => break,
            changed = applied.changed() => if changed.is_err() { break },
        }
    }
    let worker = Arc::clone(&node);
    node.ledger.run(move |_| worker.history.write()).await;
}
