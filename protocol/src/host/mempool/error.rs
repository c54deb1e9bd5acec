//! Why a transaction is not kept, with a code that never changes.

use thiserror::Error;

use crate::amount::Credits;
use crate::ledger::Rejection;

/// Why a transaction is not kept.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum MempoolError {
    /// It is here already.
    #[error("the transaction is pending already")]
    Known,
    /// The pool is full of transactions that pay as much or more.
    #[error(
        "the pool of pending transactions is full and none in it pays less per byte; raise the \
         tip or try again after the next blocks"
    )]
    Full,
    /// The lane of transactions that pay with work is full.
    #[error("the lane of stamped transactions is full; pay a fee or try again later")]
    LaneFull,
    /// The account has its share of the pool.
    #[error("the account has too many bytes pending; try again after the next blocks")]
    AccountFull,
    /// Another transaction with this nonce is pending, and this one does not pay enough to
    /// replace it.
    #[error(
        "another transaction with nonce {nonce} is pending; to replace it this one needs a tip of \
         at least {tip} credits, and more per byte"
    )]
    Underpriced {
        /// Nonce of both.
        nonce: u64,
        /// The least tip.
        tip: Credits,
    },
    /// The nonce is too far ahead of the account's.
    #[error("nonce {got} is too far ahead of {expected}")]
    TooFarAhead {
        /// In the transaction.
        got: u64,
        /// Next.
        expected: u64,
    },
    /// Together with what is pending, it costs more than there is.
    #[error("costs {need} credits together with what is pending, and there are {have}")]
    Unfunded {
        /// In the account or allowance that pays.
        have: Credits,
        /// What all its pending transactions cost.
        need: Credits,
    },
    /// It can never apply.
    #[error("{0}")]
    Rejected(#[from] Rejection),
}

impl MempoolError {
    /// The code that programs decide on. Codes are never changed, only added.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Full => "pool_full",
            Self::LaneFull => "lane_full",
            Self::AccountFull => "account_full",
            Self::Underpriced { .. } => "underpriced",
            Self::TooFarAhead { .. } => "nonce_too_far",
            Self::Unfunded { .. } => "insufficient_funds",
            Self::Rejected(rejection) => rejection.code(),
        }
    }
}
