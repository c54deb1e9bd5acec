//! Commits that sled has not been given yet.
//!
//! A busy chain writes the same entries and tree nodes again in every block. Giving sled each of
//! them costs more than everything else a block does to the state, and buys nothing: what sled
//! has not flushed is replayed from the block log anyway. So commits gather here and sled gets
//! their sum.
//!
//! Invariant: what is here hides what sled has under the same key, so the two together are the
//! state after the last commit.

use std::collections::BTreeMap;

use jmt::storage::{Node, NodeKey};
use protocol::store::StateChanges;

use super::view::{VALUE, encode, node_key, prefixed};
use crate::tree::TreeUpdate;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recent {
    values: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    nodes: BTreeMap<NodeKey, Option<Node>>,
    /// Version of the newest nodes that sled has; none before it has any.
    base: Option<u64>,
    commits: u32,
}

impl Recent {
    /// Nothing yet, on top of a state whose newest version is `base`.
    pub(super) fn new(base: Option<u64>) -> Self {
        Self { base, ..Self::default() }
    }

    /// Commits in here.
    pub(super) const fn commits(&self) -> u32 {
        self.commits
    }

    /// Entries and nodes in here.
    pub(super) fn len(&self) -> usize {
        self.values.len() + self.nodes.len()
    }

    /// What was written to a value; nothing if it was not touched.
    pub(super) fn value(&self, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.values.get(key)
    }

    /// The values that were written and not deleted.
    pub(super) fn values(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.values.iter().filter_map(|(key, value)| Some((key.as_slice(), value.as_deref()?)))
    }

    /// What became of a node; nothing if it was not touched.
    pub(super) fn node(&self, key: &NodeKey) -> Option<&Option<Node>> {
        self.nodes.get(key)
    }

    /// Takes a commit in.
    pub(super) fn absorb(&mut self, changes: &StateChanges, update: TreeUpdate) {
        self.commits = self.commits.saturating_add(1);
        for (key, value) in changes {
            self.values.insert(key.clone(), value.clone());
        }
        for key in update.removed {
            // A node made since the last time never reaches sled.
            if self.base.is_none_or(|base| key.version() > base) {
                self.nodes.remove(&key);
            } else {
                self.nodes.insert(key, None);
            }
        }
        self.nodes.extend(update.added.into_iter().map(|(key, node)| (key, Some(node))));
    }

    /// Everything in here for sled.
    pub(super) fn batch(&self) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for (key, value) in &self.values {
            match value {
                Some(value) => batch.insert(prefixed(VALUE, key), value.as_slice()),
                None => batch.remove(prefixed(VALUE, key)),
            }
        }
        for (key, node) in &self.nodes {
            match node {
                Some(node) => batch.insert(node_key(key), encode(node)),
                None => batch.remove(node_key(key)),
            }
        }
        batch
    }

    /// Lays the touched values under `prefix` over `entries`, which sled has; `limit` of them.
    pub(super) fn merge(
        &self,
        prefix: &[u8],
        limit: usize,
        entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let touched =
            self.values.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        let hidden = touched.clone().filter(|(_, value)| value.is_none()).count();
        let mut merged: BTreeMap<_, _> = entries.take(limit.saturating_add(hidden)).collect();
        for (key, value) in touched {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        merged.into_iter().take(limit).collect()
    }

    /// How many more nodes there are than sled has; negative if there are fewer.
    pub(super) fn nodes_beyond(&self) -> isize {
        self.nodes.values().map(|node| if node.is_some() { 1 } else { -1 }).sum()
    }
}
