//! Transactions that a client has signed itself.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::amount::Height;
use crate::codec::Canonical;
use crate::ids::TransactionHash;
use crate::limits;

/// Body of `POST /v1/transactions`, in canonical encoding: signed transactions, each in its
/// canonical bytes, judged in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitTransactions {
    /// At least one.
    pub transactions: Vec<Bytes>,
}

impl Canonical for SubmitTransactions {
    const BYTES_MAX: usize = limits::SUBMIT_BYTES_MAX;
}

/// `POST /v1/transactions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// What became of each, in the order of the request.
    pub results: Vec<SubmitResult>,
}

/// What became of a transaction.
///
/// `accepted` means: it is pending here, it is on this node's disk, and it goes to the other
/// nodes. It survives `kill -9`. It is not final: it can still be displaced by transactions that
/// pay more, replaced, expire, or be refused by a rule at its turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitResult {
    /// For programs; codes are never changed, only added. `accepted`, or why not.
    pub code: String,
    /// Its hash, unless its bytes are no transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<TransactionHash>,
    /// For people: why it was not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl SubmitResult {
    /// The code of success.
    pub const ACCEPTED: &str = "accepted";

    /// Whether it was accepted.
    pub fn is_accepted(&self) -> bool {
        self.code == Self::ACCEPTED
    }
}

/// Where a transaction stands, as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TransactionState {
    /// In the pool.
    Pending,
    /// In a final block.
    Final {
        /// The block.
        height: Height,
    },
    /// Neither pending nor in one of the last blocks.
    Unknown,
}
