//! What a node keeps of its past.
//!
//! Invariant: blocks are deleted only behind a retained snapshot that was read again, is of a
//! block of this log, and has the root which the header after that block commits. Deliberately
//! absent: deciding when; the owner prunes when it likes.

use protocol::amount::Height;
use protocol::ids::StateRoot;
use thiserror::Error;

use crate::block_log::{BlockLog, BlockLogError};
use crate::durable::FileError;
use crate::snapshot::{Retained, SnapshotError, Snapshots};

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Everything: an archive, which can prove and serve the whole chain.
    Archive,
    /// This many snapshots (at least one), and the blocks from the oldest of them on.
    Snapshots(usize),
}

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Snapshots.
    pub snapshots: usize,
    /// Segments of the block log.
    pub segments: usize,
}

/// Why nothing, or no more, was deleted.
#[derive(Debug, Error)]
pub enum PruneError {
    /// The snapshot to prune behind is damaged.
    #[error("the snapshot at height {height} is not good, so no block is deleted")]
    Snapshot {
        /// Its height.
        height: Height,
        /// What is wrong with it.
        #[source]
        source: SnapshotError,
    },
    /// The snapshot is not of this chain's state.
    #[error(
        "the snapshot at height {height} has root {found}, but the next header commits {committed:?}: \
         no block is deleted"
    )]
    OtherRoot {
        /// Its height.
        height: Height,
        /// Its root.
        found: StateRoot,
        /// What the log's header commits; `None` if it has no such block.
        committed: Option<StateRoot>,
    },
    /// The log cannot be read or written.
    #[error(transparent)]
    BlockLog(#[from] BlockLogError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The snapshots that are of use, since the header that commits their root is decided, and how many
/// of them are too old.
fn usable(
    log: &BlockLog,
    snapshots: &Snapshots,
    keep: usize,
) -> Result<(Vec<Retained>, usize), FileError> {
    let mut kept = snapshots.list()?;
    kept.retain(|s| log.tip().is_some_and(|tip| s.height < tip.height));
    let oldest = kept.len().saturating_sub(keep.max(1));
    Ok((kept, oldest))
}

/// The height behind which [`prune`] would delete blocks, with `keep` snapshots kept.
pub(crate) fn base(
    log: &BlockLog,
    snapshots: &Snapshots,
    keep: usize,
) -> Result<Option<Height>, FileError> {
    let (usable, oldest) = usable(log, snapshots, keep)?;
    Ok(usable.get(oldest).map(|base| base.height))
}

pub(crate) fn prune(
    log: &mut BlockLog,
    snapshots: &Snapshots,
    retention: Retention,
) -> Result<Pruned, PruneError> {
    let Retention::Snapshots(keep) = retention else { return Ok(Pruned::default()) };
    // Segments end where snapshots are, so that this one's blocks can go with it one day.
    log.roll();
    let (usable, oldest) = usable(log, snapshots, keep)?;
    let Some(base) = usable.get(oldest) else { return Ok(Pruned::default()) };
    let height = base.height;
    let info = snapshots.verify(base).map_err(|source| PruneError::Snapshot { height, source })?;
    let committed = log.header(height.plus(1))?.map(|(header, _)| header.state);
    let same_block = log.hash_at(height)? == Some(info.head.block);
    if committed != Some(info.head.root) || !same_block {
        return Err(PruneError::OtherRoot { height, found: info.head.root, committed });
    }
    let segments = log.prune(height)?;
    for old in &usable[..oldest] {
        snapshots.remove(old)?;
    }
    Ok(Pruned { snapshots: oldest, segments })
}
