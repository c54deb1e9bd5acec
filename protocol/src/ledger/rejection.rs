//! Why a transaction is refused: a sentence for people and a stable code for programs.

use thiserror::Error;

use crate::amount::{Credits, TimestampMs};
use crate::ledger::entries::Failure;
use crate::ledger::parameters::ParameterError;

/// Why a transaction was refused. Nothing of it takes effect, no fee is taken.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum Rejection {
    /// Signed for another chain.
    #[error("the transaction is for another chain")]
    ForeignChain,
    /// The nonce is not the next one.
    #[error("nonce {got} where {expected} is next{}", replay_hint(*got, *expected))]
    Nonce {
        /// In the transaction.
        got: u64,
        /// Next of (account, key).
        expected: u64,
    },
    /// The key may not sign this for the account.
    #[error("the key may not sign this for the account")]
    NotAuthorized,
    /// Too few credits.
    #[error("needs {need} credits, has {have}")]
    InsufficientFunds {
        /// Available.
        have: Credits,
        /// Needed.
        need: Credits,
    },
    /// An amount of zero where that makes no sense.
    #[error("the amount is zero")]
    ZeroAmount,
    /// Something named does not exist.
    #[error("unknown {0}")]
    Unknown(&'static str),
    /// Something exists already.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// A table of the ledger is full.
    #[error("the ledger holds no more {0}")]
    Full(&'static str),
    /// Not the time for it.
    #[error("not possible in this phase: {0}")]
    WrongPhase(&'static str),
    /// A document breaks its limits.
    #[error("{0}")]
    Document(#[from] crate::model::DocumentError),
    /// A proof or commitment does not fit.
    #[error("{0} does not fit")]
    Mismatch(&'static str),
    /// A ballot with conviction locks the stake.
    #[error("a ballot with conviction locks this stake until chain time {until} ms")]
    StakeLocked {
        /// When it is free.
        until: TimestampMs,
    },
    /// The base fee is above what the transaction may cost.
    #[error("costs {need} credits now, may cost at most {max}")]
    FeeTooLow {
        /// In the transaction.
        max: Credits,
        /// Base fee and tip now.
        need: Credits,
    },
    /// Possible later.
    #[error("too early: {0}")]
    TooEarly(&'static str),
    /// The node signed two blocks for one place.
    #[error("the node is out for ever: it signed two blocks for one place")]
    Tombstoned,
    /// Amounts too large to add.
    #[error("amounts overflow")]
    Overflow,
    /// Parameters that the rules do not allow.
    #[error("parameters: {0}")]
    Parameters(#[from] ParameterError),
    /// A proposal that could not take effect.
    #[error("the proposal cannot take effect: {0}")]
    Change(#[from] Failure),
}

const fn replay_hint(got: u64, expected: u64) -> &'static str {
    if got < expected { " (already used: a replay?)" } else { "" }
}

impl Rejection {
    /// Stable name for programs; the sentence is for people and may change.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ForeignChain => "foreign_chain",
            Self::Nonce { got, expected } if *got < *expected => "nonce_used",
            Self::Nonce { .. } => "nonce_gap",
            Self::NotAuthorized => "not_authorized",
            Self::InsufficientFunds { .. } => "insufficient_funds",
            Self::ZeroAmount => "zero_amount",
            Self::Unknown(_) => "unknown",
            Self::Exists(_) => "exists",
            Self::Full(_) => "ledger_full",
            Self::WrongPhase(_) => "wrong_phase",
            Self::Document(_) => "bad_document",
            Self::Mismatch(_) => "mismatch",
            Self::FeeTooLow { .. } => "fee_too_low",
            Self::Overflow => "overflow",
            Self::Parameters(_) => "bad_parameters",
            Self::Change(_) => "bad_proposal",
            Self::StakeLocked { .. } => "stake_locked",
            Self::TooEarly(_) => "too_early",
            Self::Tombstoned => "tombstoned",
        }
    }
}
