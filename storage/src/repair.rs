//! What an operator can do about a damaged data directory, with the node stopped.
//!
//! Invariant: what is cut off or replaced is moved aside, never deleted; the signer guard is only
//! read. Deliberately absent: any of this without being asked.

use std::path::{Path, PathBuf};

use protocol::ids::ChainId;
use thiserror::Error;

use crate::block_log::repair::{cut, survey};
use crate::block_log::{BlockLogError, FOLDER, Survey};
use crate::durable::FileError;
use crate::identity::{self, IdentityError};
use crate::ledger::free_name;
use crate::lock::{DirectoryLock, LockError};

/// Why a directory was not examined or repaired.
#[derive(Debug, Error)]
pub enum RepairError {
    /// The node is running.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Not a data directory of this network.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The block log cannot be read or written.
    #[error(transparent)]
    BlockLog(#[from] BlockLogError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// An older directory.
    #[error("the directory has schema {0}: open it with the node once, which migrates it")]
    OldSchema(u32),
}

/// Reads the whole block log and says where it is damaged. Changes nothing.
pub fn examine(dir: &Path, chain: &ChainId) -> Result<Survey, RepairError> {
    let _lock = prepare(dir, chain)?;
    Ok(survey(dir, chain)?)
}

/// Cuts the block log after its last good block. Returns what was found, and where the damaged
/// files are now; `None` if there was no damage. The state is built again by the next opening.
pub fn cut_damage(dir: &Path, chain: &ChainId) -> Result<(Survey, Option<PathBuf>), RepairError> {
    let _lock = prepare(dir, chain)?;
    let aside = free_name(dir, FOLDER);
    let found = cut(dir, chain, &aside)?;
    let moved = found.damage.is_some().then_some(aside);
    Ok((found, moved))
}

/// Locks the directory of a stopped node.
pub(crate) fn prepare(dir: &Path, chain: &ChainId) -> Result<DirectoryLock, RepairError> {
    let lock = DirectoryLock::acquire(dir)?;
    let schema = identity::claim(dir, chain)?;
    if schema != identity::SCHEMA_VERSION {
        return Err(RepairError::OldSchema(schema));
    }
    Ok(lock)
}
