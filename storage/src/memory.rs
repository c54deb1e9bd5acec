//! A ledger state in memory, with the same roots as the one on disk: for simulators and tests.
//!
//! Invariant: after the same commits its root equals [`crate::state::StateStore`]'s.
//! Deliberately absent: anything durable.

use std::collections::BTreeMap;

use jmt::storage::{Node, NodeKey};
use protocol::amount::Height;
use protocol::ids::{BlockHash, StateRoot};
use protocol::proof::StateProof;
use protocol::store::{MemoryState, StateChanges, StateReader};

use crate::block_log::Tip;
use crate::state::{CommitError, LedgerState, check_next, check_sizes};
use crate::tree::{self, NodeSource, TreeError};

/// The state. Cloning copies it whole.
#[derive(Clone, Debug, Default)]
pub struct MemoryStateStore {
    values: MemoryState,
    nodes: Nodes,
    tip: Option<(Tip, StateRoot)>,
}

#[derive(Clone, Debug, Default)]
struct Nodes(BTreeMap<NodeKey, Node>);

impl MemoryStateStore {
    /// A state before genesis.
    pub fn new() -> Self {
        Self::default()
    }

    /// All entries.
    pub const fn values(&self) -> &MemoryState {
        &self.values
    }

    /// What the state says about `key`, with the path that proves it against its root.
    pub fn prove(&self, key: &[u8]) -> Result<(Option<Vec<u8>>, StateProof), TreeError> {
        let height = self.height().ok_or_else(TreeError::before_genesis)?;
        Ok((self.values.get(key), tree::prove(&self.nodes, height.get(), key)?))
    }

    /// Number of tree nodes held.
    pub fn node_count(&self) -> usize {
        self.nodes.0.len()
    }
}

impl LedgerState for MemoryStateStore {
    fn commit(
        &mut self,
        height: Height,
        changes: &StateChanges,
        block: BlockHash,
    ) -> Result<StateRoot, CommitError> {
        check_next(self.height(), height)?;
        check_sizes(changes)?;
        let update = tree::update(&self.nodes, height.get(), changes)?;
        for key in &update.removed {
            self.nodes.0.remove(key);
        }
        self.nodes.0.extend(update.added);
        self.values.apply(changes);
        self.tip = Some((Tip { height, block }, update.root));
        Ok(update.root)
    }

    fn tip(&self) -> Option<Tip> {
        self.tip.map(|(tip, _)| tip)
    }

    fn root(&self) -> StateRoot {
        self.tip.map_or_else(tree::empty_root, |(_, root)| root)
    }
}

impl StateReader for MemoryStateStore {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.values.get(key)
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.values.scan(prefix, limit)
    }
}

impl NodeSource for Nodes {
    fn node(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        Ok(self.0.get(key).cloned())
    }
}
