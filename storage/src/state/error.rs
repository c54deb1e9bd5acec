//! What can go wrong with a state.

use protocol::amount::Height;
use protocol::ids::StateRoot;
use thiserror::Error;

use super::{KEY_BYTES_MAX, SCHEMA, VALUE_BYTES_MAX};
use crate::durable::FileError;
use crate::tree::TreeError;

/// Why a block's changes were not committed.
#[derive(Debug, Error)]
pub enum CommitError {
    /// Not the next height.
    #[error("height {found} does not follow: the state expects {expected}")]
    OutOfOrder {
        /// Height given.
        found: Height,
        /// Height that comes next.
        expected: Height,
    },
    /// A key or value over its limit.
    #[error(
        "a key of {key} bytes with a value of {value} bytes: at most {KEY_BYTES_MAX} and \
         {VALUE_BYTES_MAX} are allowed"
    )]
    TooLarge {
        /// Length of the key.
        key: usize,
        /// Length of the value.
        value: usize,
    },
    /// The stored tree is damaged.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The index failed.
    #[error("the state index failed")]
    Index(#[from] sled::Error),
    /// The periodic flush failed.
    #[error(transparent)]
    Flush(#[from] FlushError),
}

/// Why committed state was not made durable.
#[derive(Debug, Error)]
pub enum FlushError {
    /// The index failed.
    #[error("the state index cannot be flushed")]
    Index(#[from] sled::Error),
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a state was not opened.
#[derive(Debug, Error)]
pub enum StateOpenError {
    /// The index failed.
    #[error("the state index cannot be opened")]
    Index(#[from] sled::Error),
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Written by a newer program.
    #[error(
        "the state in {} has schema {found}, this program knows up to {SCHEMA}: upgrade the \
         program, or move the state away so that it is built again from the block log",
        dir.display()
    )]
    Newer {
        /// Where it is.
        dir: std::path::PathBuf,
        /// Its schema.
        found: u8,
    },
    /// The record of height and root has a wrong length.
    #[error("the state index has no valid record of its height")]
    Meta,
}

/// What is wrong with a state.
#[derive(Debug, Error)]
pub enum IntegrityError {
    /// The index failed.
    #[error("the state index cannot be read")]
    Index(#[from] sled::Error),
    /// The values are not the ones that were committed.
    #[error("the stored values have root {actual}, the recorded root is {recorded}")]
    WrongRoot {
        /// Root of the values.
        actual: StateRoot,
        /// Root that was recorded with them.
        recorded: StateRoot,
    },
}
