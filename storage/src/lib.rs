//! Ayni's memory: decided blocks, undecided proposals, ledger state, what was signed, and blobs.
//!
//! Everything is synchronous: the daemon gives each store a thread. A failed write to durable
//! storage is returned as an error and is fatal to the caller: it stops signing and ends the
//! process with the error's message.
//!
//! | Module | What it keeps | What a crash or damage does |
//! |---|---|---|
//! | [`ledger`] | all of the ledger, opened together | says what must be replayed |
//! | [`block_log`] | decided blocks: the truth | torn tail cut off; damage refused |
//! | [`proposal_log`] | bodies of undecided blocks | torn tail cut off; damaged: moved aside |
//! | [`mempool_log`] | acknowledged pending transactions | torn tail cut off; damaged: moved aside |
//! | [`signer_guard`] | what was signed | torn tail cut off; damaged: nothing is signed |
//! | [`state`] | current values and their tree (sled) | moved aside and rebuilt from the log |
//! | [`snapshot`] | whole states, as files | found when read; another one is used |
//! | [`history`] | where transactions are (sled) | removed and made anew from the log |
//! | [`validator_sets`] | validators of the past (sled) | what is damaged is forgotten |
//! | [`trail`] | what proves the chain where blocks were deleted | damaged: gone, begun anew |
//! | [`blobs`] | content-addressed files | found when read, served or verified |
//!
//! **Architecture invariant.** No rule of the ledger is applied here and no signature is made or
//! checked; nothing here knows of a network, a clock or an async runtime.

pub mod blobs;
pub mod block_log;
pub mod check;
mod durable;
pub mod history;
pub mod identity;
pub mod integrity;
pub mod ledger;
pub mod lock;
pub mod memory;
pub mod mempool_log;
pub mod migrate;
pub mod probe;
pub mod proposal_log;
pub mod record;
pub mod repair;
pub mod retention;
pub mod signer_guard;
pub mod snapshot;
pub mod state;
pub mod trail;
pub mod transfer;
mod tree;
pub mod validator_sets;

pub use blobs::{BlobError, BlobStore, PartialBlob, ServedBlob};
pub use block_log::{BlockLog, Tip};
pub use durable::FileError;
pub use history::{History, HistoryError};
pub use ledger::{LedgerStore, Opened, RecoveryReport, Replay, StateRecovery};
pub use memory::MemoryStateStore;
pub use mempool_log::{MempoolLog, MempoolLogError};
pub use proposal_log::{Insertion, ProposalLog};
pub use retention::Retention;
pub use signer_guard::{Decision, GuardEntry, Refusal, SignerGuard, Step};
pub use state::{LedgerState, StateStore, StateView};
pub use tree::{TreeError, empty_root};
pub use validator_sets::ValidatorSets;
