//! Reading the state, from the thread that commits and from others.
//!
//! Invariant: a reader holds the lock that a commit takes, so it sees a whole block or nothing of
//! it. Reads are infallible: see `unreadable`.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use jmt::storage::{Node, NodeKey};
use protocol::amount::Height;
use protocol::ids::{BlockHash, StateRoot};
use protocol::proof::StateProof;
use protocol::store::StateReader;

use crate::block_log::Tip;
use crate::tree::{self, NodeSource, TreeError};

pub(super) const VALUE: u8 = b'v';
pub(super) const NODE: u8 = b'n';
pub(super) const META: &[u8] = b"m";

/// Reads the current values from any thread.
#[derive(Clone, Debug)]
pub struct StateView {
    pub(super) shared: Arc<Shared>,
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

    /// What the state says about `key`, with the path that proves it against [`Self::root`].
    ///
    /// [`protocol::proof::build`] makes a whole proof of it once the next block, whose header
    /// commits this root, is decided.
    pub fn prove(&self, key: &[u8]) -> Result<(Option<Vec<u8>>, StateProof), TreeError> {
        let Some(tip) = self.committed.tip else {
            return Err(TreeError::before_genesis());
        };
        let path = tree::prove(&Nodes(self.db), tip.height.get(), key)?;
        Ok((get(self.db, key), path))
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

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) db: sled::Db,
    /// Held for writing while a batch is applied, so that a reader sees no half of it.
    pub(super) committed: RwLock<Committed>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Committed {
    pub(super) tip: Option<Tip>,
    pub(super) root: StateRoot,
}

impl Shared {
    pub(super) fn committed(&self) -> RwLockReadGuard<'_, Committed> {
        self.committed.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        get(&self.db, key)
    }

    pub(super) fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        scan(&self.db, prefix, limit)
    }
}

impl NodeSource for Shared {
    fn node(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        Nodes(&self.db).node(key)
    }
}

struct Nodes<'a>(&'a sled::Db);

impl NodeSource for Nodes<'_> {
    fn node(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        match self.0.get(node_key(key))? {
            Some(bytes) => Ok(Some(borsh::from_slice(&bytes)?)),
            None => Ok(None),
        }
    }
}

impl Committed {
    pub(super) fn encode(&self) -> Vec<u8> {
        let tip = self.tip.unwrap_or(Tip { height: Height::ZERO, block: BlockHash::default() });
        [tip.height.get().to_le_bytes().as_slice(), tip.block.as_bytes(), self.root.as_bytes()]
            .concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (height, rest) = bytes.split_first_chunk::<8>()?;
        let (block, root) = rest.split_first_chunk::<32>()?;
        let height = Height::new(u64::from_le_bytes(*height));
        let tip = Tip { height, block: BlockHash::from_bytes(*block) };
        Some(Self { tip: Some(tip), root: StateRoot::from_bytes(root.try_into().ok()?) })
    }
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

pub(super) fn prefixed(kind: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 1);
    bytes.push(kind);
    bytes.extend_from_slice(key);
    bytes
}

pub(super) fn node_key(key: &NodeKey) -> Vec<u8> {
    prefixed(NODE, &encode(key))
}

pub(super) fn encode<T: borsh::BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("writing to memory does not fail")
}
