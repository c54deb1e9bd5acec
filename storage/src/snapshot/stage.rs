//! Starting from a snapshot: prepared beside the ledger, then put in its place in one step.
//!
//! ```text
//! import/blocks/  import/state/  import/snapshot    made first, durably
//! import/READY                                      then this, which decides
//! ```
//!
//! Invariant: before `READY` is durable, opening the directory discards `import/` and finds the
//! old ledger. After it, opening moves the parts into place, in an order that can be taken up
//! again wherever it was cut off, and finds the new ledger. There is nothing in between.
//!
//! Deliberately absent: judging the snapshot's root and block, which the caller has from a header
//! and its certificate.

use std::fs;
use std::path::Path;

use protocol::block::DecidedBlock;
use protocol::ids::ChainId;
use thiserror::Error;

use super::{Info, SnapshotError, Snapshots, verify};
use crate::block_log::{self, BlockLog, BlockLogError};
use crate::durable::{self, FileError, at};
use crate::state;

const FOLDER: &str = "import";
const READY: &str = "READY";

/// Why a snapshot was not prepared.
#[derive(Debug, Error)]
pub enum StageError {
    /// The snapshot is bad.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The block is not the one after which the snapshot was taken.
    #[error("the snapshot is of block {snapshot}, the block given is {block}")]
    OtherBlock {
        /// As the snapshot says: height and hash.
        snapshot: String,
        /// The block given.
        block: String,
    },
    /// The log of the new ledger cannot be written.
    #[error(transparent)]
    BlockLog(#[from] BlockLogError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Prepares a ledger that begins with `block` and the state after it. The next opening of `dir`
/// puts it in the place of what is there. `dir` may be in use meanwhile.
///
/// `block` is the decided block at the snapshot's height: rules need it as a parent. The caller
/// has verified its certificate, and the snapshot's root against the next header.
pub fn stage(
    dir: &Path,
    chain: &ChainId,
    snapshot: &Path,
    block: &DecidedBlock,
) -> Result<Info, StageError> {
    let import = dir.join(FOLDER);
    discard(dir)?;
    let info = verify(snapshot, chain)?;
    let head = &info.head;
    if block.certificate.height != head.height || block.certificate.block != head.block {
        return Err(StageError::OtherBlock {
            snapshot: format!("{} at height {}", head.block, head.height),
            block: format!("{} at height {}", block.certificate.block, block.certificate.height),
        });
    }
    durable::create_dir(&import)?;
    let kept = import.join("snapshot");
    fs::copy(snapshot, &kept).map_err(at("copy the snapshot to", &kept))?;
    let again = verify(&kept, chain)?;
    if again.hash != info.hash {
        let (found, expected) = (again.hash, info.hash);
        return Err(SnapshotError::OtherHash { found, expected }.into());
    }
    state::import(&import.join("state"), &kept, &info)?;
    BlockLog::create_at(&import.join(block_log::FOLDER), chain, block)?;
    durable::sync_tree(&import)?;
    durable::replace(&import.join(READY), format!("{}\n", info.hash).as_bytes())?;
    Ok(info)
}

/// Discards what was prepared and not finished. With `READY` there, [`complete`] comes first.
fn discard(dir: &Path) -> Result<(), FileError> {
    let import = dir.join(FOLDER);
    if !import.exists() {
        return Ok(());
    }
    durable::remove_if_present(&import.join(READY))?;
    durable::sync_dir(&import)?;
    fs::remove_dir_all(&import).map_err(at("remove", &import))?;
    durable::sync_dir(dir)
}

/// Puts a prepared ledger in place, or discards what is not ready. Returns whether there was one.
pub(crate) fn complete(dir: &Path, chain: &ChainId) -> Result<bool, SnapshotError> {
    let import = dir.join(FOLDER);
    let ready = import.join(READY).exists();
    if ready {
        // The snapshot first: from it the state can be made again whatever happens next.
        let snapshot = import.join("snapshot");
        if snapshot.exists() {
            match verify(&snapshot, chain) {
                Ok(info) => Snapshots::new(dir, chain).keep(&snapshot, &info)?,
                Err(error @ (SnapshotError::Io(_) | SnapshotError::File(_))) => return Err(error),
                // Damaged since it was prepared. Nothing of it is in place yet.
                Err(error) => {
                    tracing::error!(%error, "the prepared snapshot is damaged and is discarded");
                    discard(dir)?;
                    return Ok(false);
                }
            };
        }
        for part in [block_log::FOLDER, "state"] {
            let (new, place) = (import.join(part), dir.join(part));
            if !new.exists() {
                continue;
            }
            let old = import.join(format!("{part}.old"));
            if place.exists() {
                if old.exists() {
                    fs::remove_dir_all(&old).map_err(at("remove", &old))?;
                }
                fs::rename(&place, &old).map_err(at("move aside", &place))?;
            }
            fs::rename(&new, &place).map_err(at("rename into place", &place))?;
            durable::sync_dir(&import)?;
            durable::sync_dir(dir)?;
        }
    }
    discard(dir)?;
    Ok(ready)
}
