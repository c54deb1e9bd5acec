//! The good ledger that trials copy, and what must be found in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use protocol::amount::Height;
use protocol::ids::StateRoot;
use storage::{GuardEntry, MempoolLog, Retention, Step};

use crate::crash_store::chain::{self, CHAIN, Draw, Reference};
use crate::crash_store::child;

/// Least height of the ledger.
const HEIGHT_MIN: u64 = 90;
/// Least number of blocks in the last segment, so that cutting it can leave some.
const LAST_BLOCKS_MIN: u64 = 6;
/// Heights at which a snapshot is taken.
const SNAPSHOTS: [u64; 2] = [30, 60];
/// Transactions in the mempool log.
const PENDING: usize = 60;
/// Length of a segment: about ten blocks.
const SEGMENT_BYTES: u64 = 16 * 1024;
/// The life whose values are signed and proposed.
pub(super) const RUN: u32 = 1;

/// A ledger on disk.
pub(super) struct Base {
    pub(super) dir: PathBuf,
    pub(super) seed: u64,
    pub(super) height: u64,
    pub(super) root: StateRoot,
    /// Every file of the stores, and its kind.
    pub(super) files: Vec<(String, PathBuf)>,
    /// First block held.
    pub(super) first: u64,
}

impl Base {
    /// Writes one: whole, or pruned behind its last snapshot but one.
    pub(super) fn make(dir: &Path, seed: u64, pruned: bool) -> Result<Self> {
        let mut store = child::open(dir)?.store.with_segment_bytes(SEGMENT_BYTES);
        chain::replay(&mut store, seed)?;
        let (mut height, mut segments, mut in_last) = (0, 0, 0);
        while height < HEIGHT_MIN || in_last < LAST_BLOCKS_MIN {
            height = chain::append_next(&mut store, seed)?;
            in_last = if store.blocks().segments() == segments { in_last + 1 } else { 1 };
            segments = store.blocks().segments();
            if SNAPSHOTS.contains(&height) {
                store.snapshots().take(&store.view())?;
            }
        }
        if pruned {
            store.prune(Retention::Snapshots(SNAPSHOTS.len()))?;
        }
        store.proposals_mut().insert(&chain::body(height + 1, RUN))?;
        let (mut pool, _) = MempoolLog::open(&dir.join("data"), &CHAIN)?;
        for transaction in pending(seed) {
            pool.append([transaction.as_slice()])?;
        }
        drop(pool);
        let guard = store.guard();
        for entry in entries(height) {
            guard.check(&entry)?;
        }
        store.flush()?;
        let first = store.blocks().first().map_or(1, Height::get);
        drop((guard, store));
        storage::state::wait_released(&dir.join("data").join("state"))?;
        let mut reference = Reference::new(seed)?;
        let root = reference.root(height)?;
        let mut files = Vec::new();
        collect(dir, dir, &mut files)?;
        files.sort();
        // The last segment is the only one that may be short, so it is a kind of its own.
        if let Some((kind, _)) = files.iter_mut().rfind(|(kind, _)| kind == "block segment") {
            "block segment, last".clone_into(kind);
        }
        Ok(Self { dir: dir.to_path_buf(), seed, height, root, files, first })
    }
}

/// Transactions that were acknowledged and wait. Bytes of any kind: the log does not read them.
pub(super) fn pending(seed: u64) -> Vec<Vec<u8>> {
    let mut draw = Draw(seed);
    (0..PENDING)
        .map(|_| {
            let words = 1 + usize::try_from(draw.below(40)).unwrap_or_default();
            draw.number().to_le_bytes().repeat(words)
        })
        .collect()
}

/// What was signed at the height after `tip`.
pub(super) fn entries(tip: u64) -> [GuardEntry; 3] {
    let height = Height::new(tip + 1);
    let entry = |step, round| GuardEntry { height, round, step, value: child::value(RUN) };
    [entry(Step::Prevote, 0), entry(Step::Precommit, 0), entry(Step::Prevote, 1)]
}

/// Lists the files below `at` by kind. Lock files hold nothing.
fn collect(root: &Path, at: &Path, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in fs::read_dir(at)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
            continue;
        }
        let relative = path.strip_prefix(root).context("a file below its folder")?;
        let name = relative.to_string_lossy().into_owned();
        if let Some(kind) = kind(&name) {
            files.push((kind.to_string(), relative.to_path_buf()));
        }
    }
    Ok(())
}

fn kind(name: &str) -> Option<&'static str> {
    let extension = name.rsplit('.').next().unwrap_or_default();
    match (name, extension) {
        (_, "lock") | ("data/LOCK", _) => None,
        (_, "blocks") => Some("block segment"),
        (_, "index") => Some("segment index"),
        (_, "snapshot") => Some("snapshot"),
        ("data/CHAIN", _) => Some("identity"),
        ("data/proposals.log", _) => Some("proposal log"),
        ("data/mempool.log", _) => Some("mempool log"),
        (name, _) if name.starts_with("data/state/") => Some("state (sled)"),
        (name, _) if name.starts_with("guard/") => Some("signer guard"),
        _ => Some("other"),
    }
}
