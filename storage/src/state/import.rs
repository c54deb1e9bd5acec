//! A state made of a snapshot.
//!
//! The tree is built in batches, each one version of it, the last at the snapshot's height; so
//! memory is that of one batch. Versions are not part of any hash.

use std::path::Path;

use jmt::storage::{Node, NodeKey};
use protocol::store::StateChanges;

use super::recent::Recent;
use super::view::{Committed, Nodes, encode, node_key, prefixed};
use super::{LedgerState as _, META, StateOpenError, StateStore, VALUE};
use crate::block_log::Tip;
use crate::durable;
use crate::snapshot::{self, Info, SnapshotError};
use crate::state::CommitError;
use crate::tree;

/// Entries of one batch, unless the chain has fewer heights than batches.
const BATCH_ENTRIES: u64 = 4_096;
/// Bytes of one batch.
const BATCH_BYTES: u64 = 8 * 1024 * 1024;

/// Makes the state in `dir`, which must not exist, of a verified snapshot, and makes it durable.
pub(crate) fn import(dir: &Path, file: &Path, info: &Info) -> Result<(), SnapshotError> {
    let mut state = StateStore::open(dir).map_err(open_error)?;
    fill(&mut state, file, info)?;
    state.sync().map_err(CommitError::from)?;
    state
        .check_integrity()
        .map_err(|_| SnapshotError::OtherRoot { found: state.root(), stated: info.head.root })?;
    drop(state);
    super::wait_released(dir)?;
    Ok(durable::sync_tree(dir)?)
}

fn fill(state: &mut StateStore, file: &Path, info: &Info) -> Result<(), SnapshotError> {
    let (batches, merged) = plan(file, info.head.height.get())?;
    let height = info.head.height.get();
    let first_version = (height + 1).saturating_sub(batches);
    if let Some(before) = first_version.checked_sub(1) {
        let root = NodeKey::new(before, std::iter::empty().collect());
        state.shared.db.insert(node_key(&root), encode(&Node::Null))?;
    }
    // Batches go to sled directly.
    let none = Recent::default();
    let mut reader = snapshot::open(file)?;
    let mut root = tree::empty_root();
    for version in first_version..=height {
        let mut changes = StateChanges::new();
        for _ in 0..merged {
            let mut batch = Batch::default();
            while let Some((key, value)) = reader.next_entry()? {
                changes.insert(key.to_vec(), Some(value.to_vec()));
                if batch.is_full_with(key, value) {
                    break;
                }
            }
        }
        let nodes = Nodes { db: &state.shared.db, recent: &none };
        let update = tree::update(&nodes, version, &changes).map_err(CommitError::from)?;
        root = update.root;
        let mut batch = sled::Batch::default();
        for (key, value) in &changes {
            batch.insert(prefixed(VALUE, key), value.as_deref().unwrap_or_default());
        }
        for key in &update.removed {
            batch.remove(node_key(key));
        }
        for (key, node) in &update.added {
            batch.insert(node_key(key), encode(node));
        }
        state.shared.db.apply_batch(batch)?;
    }
    let stated = info.head.root;
    let whole = reader.finish()?;
    if root != stated || whole.hash != info.hash {
        return Err(SnapshotError::OtherRoot { found: root, stated });
    }
    // Only now the state has a tip: without one it is never used.
    let tip = Tip { height: info.head.height, block: info.head.block };
    let committed = Committed { tip: Some(tip), root };
    state.shared.db.insert(META, committed.encode())?;
    state.set_committed(committed);
    Ok(())
}

/// How many batches the tree is built in, and how many of the usual size make one of them: there
/// are no more versions than heights.
fn plan(file: &Path, height: u64) -> Result<(u64, u64), SnapshotError> {
    let mut reader = snapshot::open(file)?;
    let (mut batches, mut batch) = (1_u64, Batch::default());
    while let Some((key, value)) = reader.next_entry()? {
        if batch.is_full_with(key, value) {
            batches += 1;
            batch = Batch::default();
        }
    }
    let versions = height.saturating_add(1);
    let merged = batches.div_ceil(versions);
    Ok((batches.div_ceil(merged), merged))
}

/// What is in a batch.
#[derive(Default)]
struct Batch {
    entries: u64,
    bytes: u64,
}

impl Batch {
    fn is_full_with(&mut self, key: &[u8], value: &[u8]) -> bool {
        self.entries += 1;
        self.bytes += (key.len() + value.len()) as u64;
        self.entries >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES
    }
}

fn open_error(error: StateOpenError) -> SnapshotError {
    match error {
        StateOpenError::Index(error) => SnapshotError::State(error),
        StateOpenError::File(error) => SnapshotError::File(error),
        other => SnapshotError::Io(std::io::Error::other(other)),
    }
}
