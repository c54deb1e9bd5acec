//! What travels on the transactions topic, and how it is gathered.
//!
//! Transactions travel as their canonical bytes, so that a receiver can tell by their hash which
//! of them it has before it decodes or verifies anything.
//!
//! Deliberately absent: timers. Time is an argument, in milliseconds from any fixed start.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::Canonical;
use crate::limits;

/// Transactions sent together. The sequence makes a batch that is sent again a new message, so
/// that gossip does not take it for a duplicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionBatch {
    /// Any number that the sender has not used yet.
    pub sequence: u64,
    /// Canonical bytes of the transactions, at least one.
    pub transactions: Vec<Bytes>,
}

impl Canonical for TransactionBatch {
    const BYTES_MAX: usize = limits::TRANSACTION_BATCH_BYTES_MAX;
}

/// Bytes of a batch beside its transactions: two numbers.
const BATCH_BYTES: usize = 18;
/// Bytes of a transaction in a batch beside its own: a length up to 16 KiB.
const ITEM_BYTES: usize = 3;

/// Gathers transactions until a batch is full or has waited long enough.
#[derive(Debug, Default)]
pub struct Batcher {
    sequence: u64,
    waiting: Vec<Bytes>,
    bytes: usize,
    since_ms: u64,
}

impl Batcher {
    /// Without transactions; the first batch has the number `sequence`.
    pub fn new(sequence: u64) -> Self {
        Self { sequence, ..Self::default() }
    }

    /// Takes a transaction in; gives the batch that had no room for it, if there is one.
    pub fn push(&mut self, now_ms: u64, transaction: Bytes) -> Option<TransactionBatch> {
        let size = transaction.len().saturating_add(ITEM_BYTES);
        let is_full = self.bytes.saturating_add(size).saturating_add(BATCH_BYTES)
            > limits::TRANSACTION_BATCH_BYTES_MAX;
        let full = if is_full { self.take() } else { None };
        if self.waiting.is_empty() {
            self.since_ms = now_ms;
        }
        self.bytes = self.bytes.saturating_add(size);
        self.waiting.push(transaction);
        full
    }

    /// When the batch has waited long enough; nothing while it is empty.
    pub fn due_ms(&self) -> Option<u64> {
        let due = self.since_ms.saturating_add(limits::TRANSACTION_BATCH_WAIT_MS);
        (!self.waiting.is_empty()).then_some(due)
    }

    /// What has gathered.
    pub fn take(&mut self) -> Option<TransactionBatch> {
        if self.waiting.is_empty() {
            return None;
        }
        self.bytes = 0;
        self.sequence = self.sequence.wrapping_add(1);
        let transactions = std::mem::take(&mut self.waiting);
        Some(TransactionBatch { sequence: self.sequence, transactions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn batches_fill_up_to_the_limit_or_wait_ten_milliseconds() {
        let mut batcher = Batcher::new(7);
        assert_eq!(batcher.due_ms(), None);
        assert_eq!(batcher.take(), None);
        let mut sent = Vec::new();
        for index in 0..20_000_usize {
            let item = Bytes::from(vec![1; 1 + index * 7 % 900]);
            sent.extend(batcher.push(100, item));
        }
        assert_eq!(batcher.due_ms(), Some(100 + limits::TRANSACTION_BATCH_WAIT_MS));
        sent.extend(batcher.take());
        assert_eq!(batcher.due_ms(), None);
        assert_eq!(sent.iter().map(|b| b.transactions.len()).sum::<usize>(), 20_000);
        let sizes: Vec<_> = sent.iter().map(|b| codec::encode(b).len()).collect();
        assert!(sizes.iter().all(|size| *size <= TransactionBatch::BYTES_MAX), "{sizes:?}");
        let filled = sizes.split_last().expect("some").1;
        assert!(filled.iter().all(|size| *size > TransactionBatch::BYTES_MAX - 2_000));
        let numbers: Vec<_> = sent.iter().map(|b| b.sequence).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    }

    #[test]
    fn the_largest_transaction_fits_a_batch() {
        let mut batcher = Batcher::new(0);
        batcher.push(0, Bytes::from(vec![1; limits::TRANSACTION_BYTES_MAX]));
        let batch = batcher.take().expect("one");
        let bytes = codec::encode_checked(&batch).expect("within the limit");
        assert_eq!(codec::decode::<TransactionBatch>(&bytes), Ok(batch));
    }
}
