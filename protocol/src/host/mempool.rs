//! Pending transactions: bounded in bytes and per key, nonce gaps held, ordered by tip.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::ids::{AccountId, TransactionHash};
use crate::keys::PublicKey;
use crate::ledger::Rejection;
use crate::ledger::state::State;
use crate::limits;
use crate::transaction::{SignedTransaction, VerifiedTransaction};

/// Why a transaction is not kept.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum MempoolError {
    /// It is here already.
    #[error("the transaction is pending already")]
    Known,
    /// The pool or the key's share of it is full.
    #[error("too many pending transactions; try again after the next blocks")]
    Full,
    /// Another transaction with this nonce is pending.
    #[error("another transaction with nonce {0} is pending")]
    NonceTaken(u64),
    /// The nonce is too far ahead of the account's.
    #[error("nonce {got} is too far ahead of {expected}")]
    TooFarAhead {
        /// In the transaction.
        got: u64,
        /// Next.
        expected: u64,
    },
    /// It can never apply.
    #[error("{0}")]
    Rejected(#[from] Rejection),
}

type Key = (AccountId, PublicKey);

/// See the module.
#[derive(Debug, Default)]
pub struct Mempool {
    by_key: BTreeMap<Key, BTreeMap<u64, VerifiedTransaction>>,
    by_hash: BTreeMap<TransactionHash, (Key, u64)>,
    bytes: usize,
}

impl Mempool {
    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Whether some transaction is at its turn, so that a block would not be empty.
    pub fn has_ready(&self, state: &State<'_>) -> bool {
        self.by_key
            .iter()
            .any(|((account, key), queue)| queue.contains_key(&state.nonce(account, key)))
    }

    /// Number of pending transactions.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Takes a transaction in.
    pub fn insert(
        &mut self,
        state: &State<'_>,
        transaction: VerifiedTransaction,
    ) -> Result<TransactionHash, MempoolError> {
        let hash = transaction.hash();
        if self.by_hash.contains_key(&hash) {
            return Err(MempoolError::Known);
        }
        let inner = transaction.transaction();
        let key = (inner.account, inner.key);
        let got = inner.nonce;
        let expected = state.nonce(&key.0, &key.1);
        if got < expected {
            return Err(Rejection::Nonce { got, expected }.into());
        }
        let ahead = u64::try_from(limits::MEMPOOL_PER_KEY_MAX).unwrap_or(u64::MAX);
        if got >= expected.saturating_add(ahead) {
            return Err(MempoolError::TooFarAhead { got, expected });
        }
        let size = transaction.size();
        if self.bytes.saturating_add(size) > limits::MEMPOOL_BYTES_MAX {
            return Err(MempoolError::Full);
        }
        let queue = self.by_key.entry(key).or_default();
        if queue.contains_key(&got) {
            return Err(MempoolError::NonceTaken(got));
        }
        queue.insert(got, transaction);
        self.by_hash.insert(hash, (key, got));
        self.bytes = self.bytes.saturating_add(size);
        Ok(hash)
    }

    /// The next free nonce of a key: after everything applied and pending without a gap.
    pub fn next_nonce(&self, state: &State<'_>, account: &AccountId, key: &PublicKey) -> u64 {
        let mut next = state.nonce(account, key);
        if let Some(queue) = self.by_key.get(&(*account, *key)) {
            while queue.contains_key(&next) {
                next = next.saturating_add(1);
            }
        }
        next
    }

    /// A pending transaction equal to `signed`, whose signatures need no second check.
    pub fn verified(&self, signed: &SignedTransaction) -> Option<&VerifiedTransaction> {
        let key = (signed.transaction.account, signed.transaction.key);
        let known = self.by_key.get(&key)?.get(&signed.transaction.nonce)?;
        (known.signed() == signed).then_some(known)
    }

    /// Whether a transaction is pending.
    pub fn contains(&self, hash: &TransactionHash) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// Pending transactions: each key's in nonce order, keys by the tip of their first.
    pub fn in_order(&self) -> impl Iterator<Item = &VerifiedTransaction> {
        let mut queues: Vec<_> = self.by_key.values().collect();
        queues.sort_by_key(|q| std::cmp::Reverse(q.values().next().map(|t| t.transaction().tip)));
        queues.into_iter().flat_map(BTreeMap::values)
    }

    /// Drops what has been applied or can no longer apply.
    pub fn retain_valid(&mut self, state: &State<'_>) {
        for (key, queue) in &mut self.by_key {
            let next = state.nonce(&key.0, &key.1);
            let rest = queue.split_off(&next);
            for gone in queue.values() {
                self.by_hash.remove(&gone.hash());
                self.bytes = self.bytes.saturating_sub(gone.size());
            }
            *queue = rest;
        }
        self.by_key.retain(|_, queue| !queue.is_empty());
    }

    /// Drops transactions that were tried at their turn and refused, so that they do not wait
    /// for ever.
    pub fn remove(&mut self, hash: &TransactionHash) {
        let Some((key, nonce)) = self.by_hash.remove(hash) else { return };
        if let Some(queue) = self.by_key.get_mut(&key) {
            if let Some(gone) = queue.remove(&nonce) {
                self.bytes = self.bytes.saturating_sub(gone.size());
            }
            if queue.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }
}
