//! The ledger state on disk: current values by key, the tree that authenticates them, and which
//! block they stand for, in one sled tree.
//!
//! ```text
//! 'v' key            -> value
//! 'n' node key       -> tree node (borsh)
//! 'm'                -> height u64 LE | block hash | state root
//! ```
//!
//! Invariant: one commit is one atomic batch, so values, nodes and tip always belong together.
//! sled is an index here and not a guarantor: it does not fsync on its own and may silently roll
//! back to an older commit on a damaged file. [`crate::ledger`] compares the tip with the block
//! log and replays what is missing.
//!
//! Deliberately absent: history. Only the latest version can be read.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use jmt::storage::{Node, NodeKey};
use protocol::amount::Height;
use protocol::ids::{BlockHash, StateRoot};
use protocol::store::{StateChanges, StateReader};
use thiserror::Error;

use crate::block_log::Tip;
use crate::durable::{self, FileError, at};
use crate::integrity;
use crate::tree::{self, NodeSource, TreeError};

/// Largest key in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest value in bytes. sled never syncs the files into which it puts values over ~128 KiB.
pub const VALUE_BYTES_MAX: usize = 96 * 1024;
/// Commits between two flushes: what a power cut makes the next start replay at most.
pub const COMMITS_PER_FLUSH: u32 = 256;
/// Memory that sled may use for pages. Smaller only costs reads.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

const VALUE: u8 = b'v';
const NODE: u8 = b'n';
const META: &[u8] = b"m";

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

/// A state that blocks are committed to, on disk or in memory.
pub trait LedgerState: StateReader {
    /// Applies a block's changes and returns the new root. Genesis is height 0; then every height
    /// in turn. After an error other than `OutOfOrder` and `TooLarge` the state is unusable.
    fn commit(
        &mut self,
        height: Height,
        changes: &StateChanges,
        block: BlockHash,
    ) -> Result<StateRoot, CommitError>;

    /// The last committed block; `None` before genesis.
    fn tip(&self) -> Option<Tip>;

    /// Root after the last commit.
    fn root(&self) -> StateRoot;

    /// Height of the last commit; `None` before genesis.
    fn height(&self) -> Option<Height> {
        self.tip().map(|tip| tip.height)
    }
}

/// The state on disk.
#[derive(Debug)]
pub struct StateStore {
    shared: Arc<Shared>,
    /// A second handle on sled's file: sled's own flush does not fsync.
    data_file: File,
    data_path: PathBuf,
    unflushed: u32,
}

#[derive(Debug)]
struct Shared {
    db: sled::Db,
    /// Held for writing while a batch is applied, so that a reader sees no half of it.
    committed: RwLock<Committed>,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    tip: Option<Tip>,
    root: StateRoot,
}

impl StateStore {
    /// Opens or creates the state in `dir`. sled can panic on damaged files: [`crate::ledger`]
    /// contains that.
    pub fn open(dir: &Path) -> Result<Self, StateOpenError> {
        durable::create_dir(dir)?;
        let db = sled::Config::default()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()?;
        let data_path = dir.join("db");
        let data_file = File::open(&data_path).map_err(at("open", &data_path))?;
        durable::sync_dir(dir)?;
        let committed = match db.get(META)? {
            Some(bytes) => Committed::decode(&bytes).ok_or(StateOpenError::Meta)?,
            None if db.is_empty() => Committed { tip: None, root: tree::empty_root() },
            None => return Err(StateOpenError::Meta),
        };
        let shared = Arc::new(Shared { db, committed: RwLock::new(committed) });
        Ok(Self { shared, data_file, data_path, unflushed: 0 })
    }

    /// A handle for other threads; cheap to clone.
    pub fn view(&self) -> StateView {
        StateView { shared: Arc::clone(&self.shared) }
    }

    /// Flushes if [`COMMITS_PER_FLUSH`] commits are waiting; [`LedgerState::commit`] calls it.
    pub fn flush_if_due(&mut self) -> Result<bool, FlushError> {
        if self.unflushed < COMMITS_PER_FLUSH {
            return Ok(false);
        }
        self.flush()?;
        Ok(true)
    }

    /// Makes every commit so far durable. Does nothing if there is none.
    pub fn flush(&mut self) -> Result<(), FlushError> {
        if self.unflushed == 0 {
            return Ok(());
        }
        self.shared.db.flush()?;
        self.data_file.sync_data().map_err(at("sync", &self.data_path))?;
        self.unflushed = 0;
        Ok(())
    }

    /// Reads every value and compares their root with the recorded one. Linear in the state.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        let recorded = self.root();
        let entries = self.shared.db.scan_prefix([VALUE]).collect::<Result<Vec<_>, _>>()?;
        let actual = integrity::root_of(
            entries.iter().map(|(key, value)| (key.get(1..).unwrap_or_default(), value)),
        );
        if actual != recorded {
            return Err(IntegrityError::WrongRoot { actual, recorded });
        }
        // The values can be whole while a node that the next commit needs is not.
        for node in self.shared.db.scan_prefix([NODE]) {
            node?;
        }
        Ok(())
    }

    /// Number of tree nodes held.
    pub fn node_count(&self) -> usize {
        self.shared.db.scan_prefix([NODE]).count()
    }
}

impl LedgerState for StateStore {
    fn commit(
        &mut self,
        height: Height,
        changes: &StateChanges,
        block: BlockHash,
    ) -> Result<StateRoot, CommitError> {
        check_next(self.height(), height)?;
        check_sizes(changes)?;
        let update = tree::update(&*self.shared, height.get(), changes)?;
        let next = Committed { tip: Some(Tip { height, block }), root: update.root };
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(prefixed(VALUE, key), value.as_slice()),
                None => batch.remove(prefixed(VALUE, key)),
            }
        }
        for key in &update.removed {
            batch.remove(node_key(key));
        }
        for (key, node) in &update.added {
            batch.insert(node_key(key), encode(node));
        }
        batch.insert(META, next.encode());
        {
            let mut committed =
                self.shared.committed.write().unwrap_or_else(PoisonError::into_inner);
            self.shared.db.apply_batch(batch)?;
            *committed = next;
        }
        self.unflushed = self.unflushed.saturating_add(1);
        self.flush_if_due()?;
        Ok(update.root)
    }

    fn tip(&self) -> Option<Tip> {
        self.shared.committed().tip
    }

    fn root(&self) -> StateRoot {
        self.shared.committed().root
    }
}

impl StateReader for StateStore {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.shared.get(key)
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.shared.scan(prefix, limit)
    }
}

/// Reads the current values from any thread.
#[derive(Clone, Debug)]
pub struct StateView {
    shared: Arc<Shared>,
}

impl StateView {
    /// Runs `f` on a state that stays at one height. Commits wait for it: keep it short.
    pub fn read<T>(&self, f: impl FnOnce(&Snapshot<'_>) -> T) -> T {
        f(&Snapshot { db: &self.shared.db, committed: self.shared.committed() })
    }

    /// The last committed block; `None` before genesis.
    pub fn tip(&self) -> Option<Tip> {
        self.shared.committed().tip
    }

    /// Root after the last commit.
    pub fn root(&self) -> StateRoot {
        self.shared.committed().root
    }
}

/// Each call sees one height; two calls may see two. For more use [`StateView::read`].
impl StateReader for StateView {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.read(|state| state.get(key))
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.read(|state| state.scan(prefix, limit))
    }
}

/// The state at one height, see [`StateView::read`].
#[derive(Debug)]
pub struct Snapshot<'a> {
    db: &'a sled::Db,
    committed: RwLockReadGuard<'a, Committed>,
}

impl Snapshot<'_> {
    /// The last committed block; `None` before genesis.
    pub fn tip(&self) -> Option<Tip> {
        self.committed.tip
    }

    /// The state's root.
    pub fn root(&self) -> StateRoot {
        self.committed.root
    }
}

impl StateReader for Snapshot<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        get(self.db, key)
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        scan(self.db, prefix, limit)
    }
}

impl Shared {
    fn committed(&self) -> RwLockReadGuard<'_, Committed> {
        self.committed.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        get(&self.db, key)
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        scan(&self.db, prefix, limit)
    }
}

impl NodeSource for Shared {
    fn node(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        match self.db.get(node_key(key))? {
            Some(bytes) => Ok(Some(borsh::from_slice(&bytes)?)),
            None => Ok(None),
        }
    }
}

impl Committed {
    fn encode(&self) -> Vec<u8> {
        let tip = self.tip.unwrap_or(Tip { height: Height::ZERO, block: BlockHash::default() });
        [tip.height.get().to_le_bytes().as_slice(), tip.block.as_bytes(), self.root.as_bytes()]
            .concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (height, rest) = bytes.split_first_chunk::<8>()?;
        let (block, root) = rest.split_first_chunk::<32>()?;
        let height = Height::new(u64::from_le_bytes(*height));
        let tip = Tip { height, block: BlockHash::from_bytes(*block) };
        Some(Self { tip: Some(tip), root: StateRoot::from_bytes(root.try_into().ok()?) })
    }
}

/// Refuses a height that is not the next one.
pub(crate) fn check_next(last: Option<Height>, found: Height) -> Result<(), CommitError> {
    let expected = last.map_or(Height::ZERO, |height| height.plus(1));
    if found != expected {
        return Err(CommitError::OutOfOrder { found, expected });
    }
    Ok(())
}

/// Refuses keys and values over their limits.
pub(crate) fn check_sizes(changes: &StateChanges) -> Result<(), CommitError> {
    for (key, value) in changes {
        let value = value.as_ref().map_or(0, Vec::len);
        if key.len() > KEY_BYTES_MAX || value > VALUE_BYTES_MAX {
            return Err(CommitError::TooLarge { key: key.len(), value });
        }
    }
    Ok(())
}

fn get(db: &sled::Db, key: &[u8]) -> Option<Vec<u8>> {
    match db.get(prefixed(VALUE, key)) {
        Ok(value) => value.map(|bytes| bytes.to_vec()),
        Err(error) => unreadable(&error),
    }
}

fn scan(db: &sled::Db, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    db.scan_prefix(prefixed(VALUE, prefix))
        .take(limit)
        .map(|entry| match entry {
            Ok((key, value)) => (key.get(1..).unwrap_or_default().to_vec(), value.to_vec()),
            Err(error) => unreadable(&error),
        })
        .collect()
}

/// Ends the process: rules cannot go on without the state, and a node that guessed it would
/// contradict the others. Nothing acknowledged is lost; the next start finds the damage and
/// rebuilds the state from the block log.
fn unreadable(error: &sled::Error) -> ! {
    tracing::error!(
        %error,
        "the ledger state cannot be read, so this node stops; check the disk, then start it \
         again: it rebuilds the state from its block log"
    );
    std::process::abort()
}

fn prefixed(kind: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 1);
    bytes.push(kind);
    bytes.extend_from_slice(key);
    bytes
}

fn node_key(key: &NodeKey) -> Vec<u8> {
    prefixed(NODE, &encode(key))
}

fn encode<T: borsh::BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("writing to memory does not fail")
}
