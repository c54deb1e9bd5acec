//! Reading the state, from the thread that commits and from others.
//!
//! Invariant: a reader holds the lock that a commit takes, so it sees a whole block or nothing of
//! it. Reads are infallible: see `unreadable`.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jmt::storage::{Node, NodeKey};
use protocol::amount::Height;
use protocol::ids::{BlockHash, StateRoot};
use protocol::proof::StateProof;
use protocol::store::StateReader;

use super::recent::Recent;
use crate::block_log::Tip;
use crate::tree::{self, NodeSource, TreeError};

pub(super) const VALUE: u8 = b'v';
pub(super) const NODE: u8 = b'n';
pub(super) const META: &[u8] = b"m";
pub(super) const SCHEMA_KEY: &[u8] = b"s";

/// Reads the current values from any thread.
#[derive(Clone, Debug)]
pub struct StateView {
    pub(super) shared: Arc<Shared>,
}

impl StateView {
    /// Runs `f` on a state that stays at one height. Commits wait for it: keep it short.
    pub fn read<T>(&self, f: impl FnOnce(&Snapshot<'_>) -> T) -> T {
        f(&Snapshot { db: &self.shared.db, current: self.shared.current() })
    }

    /// The last committed block; `None` before genesis.
    pub fn tip(&self) -> Option<Tip> {
        self.shared.current().committed.tip
    }

    /// Root after the last commit.
    pub fn root(&self) -> StateRoot {
        self.shared.current().committed.root
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
    current: RwLockReadGuard<'a, Current>,
}

impl Snapshot<'_> {
    /// The last committed block; `None` before genesis.
    pub fn tip(&self) -> Option<Tip> {
        self.current.committed.tip
    }

    /// The state's root.
    pub fn root(&self) -> StateRoot {
        self.current.committed.root
    }

    /// Every key and value, in key order.
    pub(crate) fn entries(
        &self,
    ) -> impl Iterator<Item = Result<(Vec<u8>, sled::IVec), sled::Error>> + '_ {
        let touched = &self.current.recent;
        let stored = self.db.scan_prefix([VALUE]).map(|entry| {
            entry.map(|(key, value)| (key.get(1..).unwrap_or_default().to_vec(), value))
        });
        // What was written since hides what sled has.
        let visible = |entry: &Result<(Vec<u8>, sled::IVec), sled::Error>| {
            entry.as_ref().map_or(true, |(key, _)| touched.value(key).is_none())
        };
        let mut stored = stored.filter(visible).peekable();
        let mut recent = touched.values().peekable();
        std::iter::from_fn(move || match (stored.peek(), recent.peek()) {
            (Some(Ok((old, _))), Some((new, _))) if old.as_slice() < *new => stored.next(),
            (Some(Err(_)), _) | (_, None) => stored.next(),
            (_, Some(_)) => recent.next().map(|(key, value)| Ok((key.to_vec(), value.into()))),
        })
    }

    /// What the state says about `key`, with the path that proves it against [`Self::root`].
    ///
    /// [`protocol::proof::build`] makes a whole proof of it once the next block, whose header
    /// commits this root, is decided.
    pub fn prove(&self, key: &[u8]) -> Result<(Option<Vec<u8>>, StateProof), TreeError> {
        let Some(tip) = self.current.committed.tip else {
            return Err(TreeError::before_genesis());
        };
        let nodes = Nodes { db: self.db, recent: &self.current.recent };
        let path = tree::prove(&nodes, tip.height.get(), key)?;
        Ok((self.get(key), path))
    }
}

impl StateReader for Snapshot<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        get(self.db, &self.current.recent, key)
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        scan(self.db, &self.current.recent, prefix, limit)
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) db: sled::Db,
    /// Held for writing while a commit is taken in, so that a reader sees no half of it.
    pub(super) current: RwLock<Current>,
}

/// The last commit, and what sled lacks of it.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) committed: Committed,
    pub(super) recent: Recent,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Committed {
    pub(super) tip: Option<Tip>,
    pub(super) root: StateRoot,
}

impl Shared {
    pub(super) fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn current_mut(&self) -> RwLockWriteGuard<'_, Current> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        get(&self.db, &self.current().recent, key)
    }

    pub(super) fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        scan(&self.db, &self.current().recent, prefix, limit)
    }
}

/// The tree's nodes after the last commit.
pub(super) struct Nodes<'a> {
    pub(super) db: &'a sled::Db,
    pub(super) recent: &'a Recent,
}

impl NodeSource for Nodes<'_> {
    fn node(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        if let Some(node) = self.recent.node(key) {
            return Ok(node.clone());
        }
        match self.db.get(node_key(key))? {
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

fn get(db: &sled::Db, recent: &Recent, key: &[u8]) -> Option<Vec<u8>> {
    if let Some(value) = recent.value(key) {
        return value.clone();
    }
    match db.get(prefixed(VALUE, key)) {
        Ok(value) => value.map(|bytes| bytes.to_vec()),
        Err(error) => unreadable(&error),
    }
}

fn scan(db: &sled::Db, recent: &Recent, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let entries = db.scan_prefix(prefixed(VALUE, prefix)).map(|entry| match entry {
        Ok((key, value)) => (key.get(1..).unwrap_or_default().to_vec(), value.to_vec()),
        Err(error) => unreadable(&error),
    });
    recent.merge(prefix, limit, entries)
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
