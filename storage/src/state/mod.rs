//! The ledger state on disk: current values by key, the tree that authenticates them, and which
//! block they stand for, in one sled tree.
//!
//! ```text
//! 'v' key            -> value
//! 'n' node key       -> tree node (borsh)
//! 'm'                -> height u64 LE | block hash | state root
//! 's'                -> schema, one byte; absent: 1
//! ```
//!
//! Commits gather in memory and reach sled as their sum, every [`COMMITS_PER_FLUSH`] commits or
//! when the owner flushes: what a crash takes with it is replayed from the block log.
//!
//! Invariant: one flush is one atomic batch, so values, nodes and tip always belong together.
//! sled is an index here and not a guarantor: it does not fsync on its own and may silently roll
//! back to an older commit on a damaged file. [`crate::ledger`] compares the tip with the block
//! log and replays what is missing.
//!
//! Deliberately absent: history. Only the latest version can be read.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use fs4::fs_std::FileExt;
use protocol::amount::Height;
use protocol::ids::{BlockHash, StateRoot};
use protocol::store::{StateChanges, StateReader};

use crate::block_log::Tip;
use crate::durable::{self, FileError, at};
use crate::integrity;
use crate::tree;

mod error;
mod import;
mod recent;
mod view;

pub use error::{CommitError, FlushError, IntegrityError, StateOpenError};
pub(crate) use import::import;
use recent::Recent;
use view::{Committed, Current, META, NODE, Nodes, SCHEMA_KEY, Shared, VALUE};
pub use view::{Snapshot, StateView};

/// Largest key in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest value in bytes. sled never syncs the files into which it puts values over ~128 KiB.
pub const VALUE_BYTES_MAX: usize = 96 * 1024;
/// Commits between two flushes: what a crash makes the next start replay at most.
pub const COMMITS_PER_FLUSH: u32 = 256;
/// Entries and tree nodes that gather in memory at most, about 32 MiB.
const ENTRIES_PER_FLUSH: usize = 131_072;
/// Memory that sled may use for pages. Smaller only costs reads.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Memory for hashes while the integrity is checked; a larger state is read several times.
const CHECK_MEMORY_BYTES: usize = 256 * 1024 * 1024;
/// Version of the format. Kept under its own key; a state without it has 1.
pub const SCHEMA: u8 = 1;

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
        let schema = match db.get(SCHEMA_KEY)? {
            Some(bytes) => *bytes.first().ok_or(StateOpenError::Meta)?,
            None => 1,
        };
        if schema > SCHEMA {
            let dir = dir.to_path_buf();
            return Err(StateOpenError::Newer { dir, found: schema });
        }
        let committed = match db.get(META)? {
            Some(bytes) => Committed::decode(&bytes).ok_or(StateOpenError::Meta)?,
            None if db.is_empty() => Committed { tip: None, root: tree::empty_root() },
            None => return Err(StateOpenError::Meta),
        };
        let recent = Recent::new(committed.tip.map(|tip| tip.height.get()));
        let shared = Arc::new(Shared { db, current: RwLock::new(Current { committed, recent }) });
        Ok(Self { shared, data_file, data_path })
    }

    /// A handle for other threads; cheap to clone.
    pub fn view(&self) -> StateView {
        StateView { shared: Arc::clone(&self.shared) }
    }

    /// Flushes if enough commits are waiting; [`LedgerState::commit`] calls it.
    pub fn flush_if_due(&mut self) -> Result<bool, FlushError> {
        let is_due = {
            let current = self.shared.current();
            current.recent.commits() >= COMMITS_PER_FLUSH
                || current.recent.len() >= ENTRIES_PER_FLUSH
        };
        if is_due {
            self.flush()?;
        }
        Ok(is_due)
    }

    /// Makes every commit so far durable. Does nothing if there is none.
    pub fn flush(&mut self) -> Result<(), FlushError> {
        let committed = {
            // Readers go on: what they find here hides what the batch changes under it.
            let current = self.shared.current();
            if current.recent.commits() == 0 {
                return Ok(());
            }
            let mut batch = current.recent.batch();
            batch.insert(META, current.committed.encode());
            self.shared.db.apply_batch(batch)?;
            current.committed
        };
        self.sync()?;
        let mut current = self.shared.current_mut();
        current.recent = Recent::new(committed.tip.map(|tip| tip.height.get()));
        Ok(())
    }

    /// Reads every value and compares their root with the recorded one. Linear in the state.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        let recorded = self.root();
        let guess = self.shared.db.scan_prefix([VALUE]).count() as u64;
        let current = self.shared.current();
        let actual = integrity::root_in_passes(guess, CHECK_MEMORY_BYTES, |visit| {
            for entry in self.shared.db.scan_prefix([VALUE]) {
                let (key, value) = entry?;
                let key = key.get(1..).unwrap_or_default();
                if current.recent.value(key).is_none() {
                    visit(key, &value);
                }
            }
            current.recent.values().for_each(|(key, value)| visit(key, value));
            Ok::<_, sled::Error>(())
        })?;
        if actual != recorded {
            return Err(IntegrityError::WrongRoot { actual, recorded });
        }
        // The values can be whole while a node that the next commit needs is not.
        for node in self.shared.db.scan_prefix([NODE]) {
            node?;
        }
        Ok(())
    }

    /// States what sled holds after it was written directly.
    pub(crate) fn set_committed(&self, committed: Committed) {
        let recent = Recent::new(committed.tip.map(|tip| tip.height.get()));
        *self.shared.current_mut() = Current { committed, recent };
    }

    /// Makes durable what sled has.
    fn sync(&self) -> Result<(), FlushError> {
        self.shared.db.flush()?;
        Ok(self.data_file.sync_data().map_err(at("sync", &self.data_path))?)
    }

    /// Number of tree nodes held.
    pub fn node_count(&self) -> usize {
        let beyond = self.shared.current().recent.nodes_beyond();
        self.shared.db.scan_prefix([NODE]).count().saturating_add_signed(beyond)
    }
}

/// An orderly end leaves nothing to replay.
impl Drop for StateStore {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "the state was not flushed; the next start replays more");
        }
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
        let update = {
            let current = self.shared.current();
            let nodes = Nodes { db: &self.shared.db, recent: &current.recent };
            tree::update(&nodes, height.get(), changes)?
        };
        let next = Committed { tip: Some(Tip { height, block }), root: update.root };
        let root = update.root;
        {
            let mut current = self.shared.current_mut();
            current.recent.absorb(changes, update);
            current.committed = next;
        }
        self.flush_if_due()?;
        Ok(root)
    }

    fn tip(&self) -> Option<Tip> {
        self.shared.current().committed.tip
    }

    fn root(&self) -> StateRoot {
        self.shared.current().committed.root
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

/// Waits until the state in `dir`, which was closed, can be opened again in this process: sled's
/// threads let go of its file a little later than it is dropped. Waits for ever while a
/// [`StateView`] of it is kept.
pub fn wait_released(dir: &Path) -> Result<(), FileError> {
    let path = dir.join("db");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(at("open", &path)(e)),
    };
    FileExt::lock_exclusive(&file)
        .and_then(|()| FileExt::unlock(&file))
        .map_err(at("wait for", &path))
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
