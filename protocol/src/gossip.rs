//! What travels on the transactions topic.

use serde::{Deserialize, Serialize};

use crate::codec::Canonical;
use crate::limits;
use crate::transaction::SignedTransaction;

/// Transactions sent together. The sequence makes a batch that is sent again a new message, so
/// that gossip does not take it for a duplicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionBatch {
    /// Any number that the sender has not used yet.
    pub sequence: u64,
    /// The transactions, at least one.
    pub transactions: Vec<SignedTransaction>,
}

impl Canonical for TransactionBatch {
    const BYTES_MAX: usize = limits::TRANSACTION_BATCH_BYTES_MAX;
}
