//! A ledger in one folder that can be carried elsewhere.
//!
//! ```text
//! EXPORT/CHAIN blocks/ snapshot
//! ```
//!
//! Invariant: an import goes into a directory without a ledger, reads everything first, and takes
//! only blocks that follow one another and a snapshot whose root a header of the export commits.
//! Deliberately absent: keys, the signer guard (it stays with the node that signs), blobs; and
//! verifying certificates, which the node does when it replays: an export is trusted like the
//! directory that it came from, so compare the hash of its last block with somebody.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::amount::Height;
use protocol::ids::ChainId;
use thiserror::Error;

use crate::block_log::{self, BlockLog, BlockLogError, Tip};
use crate::check::{committed_root, follow_headers};
use crate::durable::{self, FileError, at};
use crate::identity::{self, IdentityError};
use crate::repair::{self, RepairError};
use crate::snapshot::{self, SnapshotError, Snapshots, StageError};

/// Why nothing was exported or imported.
#[derive(Debug, Error)]
pub enum TransferError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] RepairError),
    /// There is something already.
    #[error("{} is not empty: choose another place", .0.display())]
    NotEmpty(PathBuf),
    /// There is nothing to export, or an export without blocks.
    #[error("{} holds no blocks", .0.display())]
    Nothing(PathBuf),
    /// The blocks are not one chain.
    #[error("the blocks do not make a chain: {0}")]
    Chain(String),
    /// Neither all blocks nor a snapshot that can be trusted.
    #[error(
        "the blocks begin at height {first}, and there is no whole snapshot of that height or later \
         whose root a header commits: run the node until it has taken its next snapshot, or export \
         a node that has every block (an archive)"
    )]
    NoStart {
        /// Its first block.
        first: Height,
    },
    /// The blocks cannot be read or written.
    #[error(transparent)]
    BlockLog(#[from] BlockLogError),
    /// The snapshot cannot be read or written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The snapshot cannot be put in place.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// Another network's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What was exported or imported.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// First block.
    pub first: Height,
    /// Last block.
    pub last: Tip,
    /// Height of the snapshot, if there is one.
    pub snapshot: Option<Height>,
}

/// Copies the blocks of a stopped node, and the snapshot that they start from if the first are gone, to the new folder `to`.
pub fn export(dir: &Path, chain: &ChainId, to: &Path) -> Result<Moved, TransferError> {
    let _lock = repair::prepare(dir, chain)?;
    let (log, _) = BlockLog::open(dir, chain)?;
    log.check()?;
    check_absent(to)?;
    let first = log.first().unwrap_or_default();
    // A chain from its first block on needs no other start.
    let start = if first.get() > 1 { Some(start_of(dir, chain, &log, first)?) } else { None };
    durable::create_dir(to)?;
    let moved = copy_blocks(&log, first, to, chain)?;
    if let Some((_, snapshot)) = &start {
        let file = to.join("snapshot");
        fs::copy(snapshot, &file).map_err(at("copy a snapshot to", &file))?;
    }
    identity::write(to, chain)?;
    durable::sync_tree(to)?;
    Ok(Moved { snapshot: start.map(|(height, _)| height), ..moved })
}

/// The newest snapshot that is kept whole and whose root a header commits. (The state itself
/// stands at the last block, and the header that will commit it is not there yet.)
fn start_of(
    dir: &Path,
    chain: &ChainId,
    log: &BlockLog,
    first: Height,
) -> Result<(Height, PathBuf), TransferError> {
    let snapshots = Snapshots::new(dir, chain);
    let mut kept = snapshots.list()?;
    kept.sort_by_key(|kept| kept.height);
    for kept in kept.into_iter().rev().filter(|kept| kept.height >= first) {
        // A damaged one is no start; `aynid ledger check` names it.
        let Ok(info) = snapshots.verify(&kept) else { continue };
        if committed_root(log, kept.height)? == Some(info.head.root) {
            return Ok((kept.height, kept.path));
        }
    }
    Err(TransferError::NoStart { first })
}

/// Puts an export into `dir`, which must have no ledger. The node replays what its state lacks
/// when it starts: all blocks if the export has them, else those after the snapshot.
pub fn import(dir: &Path, chain: &ChainId, from: &Path) -> Result<Moved, TransferError> {
    identity::claim(from, chain)?;
    let _lock = repair::prepare(dir, chain)?;
    for part in [block_log::FOLDER, "state"] {
        if dir.join(part).exists() {
            return Err(TransferError::NotEmpty(dir.join(part)));
        }
    }
    let (log, _) = BlockLog::open(from, chain)?;
    let first = log.first().ok_or_else(|| TransferError::Nothing(from.to_path_buf()))?;
    log.check()?;
    follow_headers(&log, chain).map_err(TransferError::Chain)?;
    if first.get() == 1 {
        let next = dir.join("import");
        if next.exists() {
            fs::remove_dir_all(&next).map_err(at("remove", &next))?;
        }
        let moved = copy_blocks(&log, first, &next, chain)?;
        durable::sync_tree(&next)?;
        let (new, place) = (next.join(block_log::FOLDER), dir.join(block_log::FOLDER));
        fs::rename(&new, &place).map_err(at("rename into place", &place))?;
        durable::sync_dir(dir)?;
        fs::remove_dir_all(&next).map_err(at("remove", &next))?;
        return Ok(moved);
    }
    let no_start = || TransferError::NoStart { first };
    let file = from.join("snapshot");
    if !file.exists() {
        return Err(no_start());
    }
    let info = snapshot::verify(&file, chain)?;
    let height = info.head.height;
    if committed_root(&log, height)? != Some(info.head.root) {
        return Err(no_start());
    }
    let block = log.get(height)?.ok_or_else(no_start)?;
    snapshot::stage(dir, chain, &file, &block)?;
    snapshot::complete(dir, chain)?;
    let (mut new, _) = BlockLog::open(dir, chain)?;
    let last = append_all(&log, height.plus(1), &mut new)?;
    durable::sync_tree(&dir.join(block_log::FOLDER))?;
    let last = last.or(new.tip()).ok_or_else(no_start)?;
    Ok(Moved { first: height, last, snapshot: Some(height) })
}

fn copy_blocks(
    log: &BlockLog,
    first: Height,
    to: &Path,
    chain: &ChainId,
) -> Result<Moved, TransferError> {
    let nothing = || TransferError::Nothing(to.to_path_buf());
    let folder = to.join(block_log::FOLDER);
    let block = log.get(first)?.ok_or_else(nothing)?;
    let mut copy = BlockLog::create_at(&folder, chain, &block)?;
    append_all(log, first.plus(1), &mut copy)?;
    let last = copy.tip().ok_or_else(nothing)?;
    Ok(Moved { first, last, snapshot: None })
}

fn append_all(
    from: &BlockLog,
    first: Height,
    to: &mut BlockLog,
) -> Result<Option<Tip>, TransferError> {
    let mut last = None;
    let mut height = first;
    while let Some(record) = from.record(height)? {
        last = Some(to.append_record(&record)?);
        height = height.plus(1);
    }
    Ok(last)
}

fn check_absent(to: &Path) -> Result<(), TransferError> {
    let first = match fs::read_dir(to) {
        Ok(mut entries) => entries.next(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(at("list", to)(e).into()),
    };
    match first {
        Some(_) => Err(TransferError::NotEmpty(to.to_path_buf())),
        None => Ok(()),
    }
}
