//! The authenticated tree over a state: what one block adds to it and removes from it.
//!
//! A Jellyfish Merkle tree (crate `jmt`) over BLAKE3. A key sits at BLAKE3(key); a leaf commits to
//! BLAKE3(value); the version is the height. Only the latest version is kept: every node that a
//! block replaces is deleted with that block.
//!
//! Invariant: the root depends only on the entries, never on the order or grouping in which they
//! were written ([`crate::integrity::root_of`] computes it without any tree).
//! Deliberately absent: values (the stores keep them flat, by key) and the verification of proofs
//! (`protocol::proof`).

use jmt::proof::SparseMerkleProof;
use jmt::storage::{LeafNode, Node, NodeKey, TreeReader};
use jmt::{JellyfishMerkleTree, KeyHash, OwnedValue, SimpleHasher, Version};
use protocol::ids::StateRoot;
use protocol::proof::{Leaf, PLACEHOLDER, StateProof, internal_hash, leaf_hash};
use protocol::store::StateChanges;
use thiserror::Error;

/// BLAKE3 as the tree's hash function. Replacing it changes every state root.
pub(crate) struct Blake3(blake3::Hasher);

impl SimpleHasher for Blake3 {
    fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finalize(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// The tree could not be computed: a node is missing or does not decode.
#[derive(Debug, Error)]
#[error("the state tree is damaged: {0}")]
pub struct TreeError(String);

impl TreeError {
    pub(crate) fn new(error: &anyhow::Error) -> Self {
        Self(format!("{error:#}"))
    }

    pub(crate) fn before_genesis() -> Self {
        Self("it has no root before genesis".to_string())
    }
}

/// Where nodes are found.
pub(crate) trait NodeSource {
    fn node(&self, key: &NodeKey) -> anyhow::Result<Option<Node>>;
}

/// What a block does to the tree.
pub(crate) struct TreeUpdate {
    pub(crate) root: StateRoot,
    pub(crate) added: Vec<(NodeKey, Node)>,
    pub(crate) removed: Vec<NodeKey>,
}

/// Root of a state without entries.
pub fn empty_root() -> StateRoot {
    StateRoot::from_bytes(JellyfishMerkleTree::<'_, Reader<'_, NoNodes>, Blake3>::EMPTY_ROOT.0)
}

/// Computes the tree at `version` from the one at `version - 1`.
pub(crate) fn update<S: NodeSource>(
    source: &S,
    version: Version,
    changes: &StateChanges,
) -> Result<TreeUpdate, TreeError> {
    let reader = Reader(source);
    let tree = JellyfishMerkleTree::<_, Blake3>::new(&reader);
    let hashed = changes.iter().map(|(key, value)| (KeyHash(hash(key)), value.clone()));
    let (root, batch) =
        tree.put_value_set(hashed, version).map_err(|error| TreeError::new(&error))?;
    let added: Vec<(NodeKey, Node)> =
        batch.node_batch.nodes().iter().map(|(key, node)| (key.clone(), node.clone())).collect();
    let mut removed: Vec<NodeKey> =
        batch.stale_node_index_batch.into_iter().map(|stale| stale.node_key).collect();
    // A block without effect copies the old root to the new version; the tree does not call the
    // old one stale.
    if let Some(before) = version.checked_sub(1) {
        let old_root = root_key(before);
        if !removed.contains(&old_root) {
            removed.push(old_root);
        }
    }
    if !added.iter().any(|(key, _)| *key == root_key(version)) {
        return Err(TreeError(format!("version {version} has no root node")));
    }
    Ok(TreeUpdate { root: StateRoot::from_bytes(root.0), added, removed })
}

/// The path of `key` in the tree at `version`.
pub(crate) fn prove<S: NodeSource>(
    source: &S,
    version: Version,
    key: &[u8],
) -> Result<StateProof, TreeError> {
    let reader = ProofReader(Reader(source));
    let tree = JellyfishMerkleTree::<_, Blake3>::new(&reader);
    let key_hash = hash(key);
    let (_, proof) =
        tree.get_with_proof(KeyHash(key_hash), version).map_err(|error| TreeError::new(&error))?;
    convert(&proof, &key_hash).ok_or_else(|| TreeError("a path of unknown form".to_string()))
}

/// The tree keeps the parts of its proofs to itself, but gives their bytes:
/// leaf (option), siblings (vector of: 0 none | 1 internal, two hashes | 2 leaf, two hashes).
fn convert(proof: &SparseMerkleProof<Blake3>, key_hash: &[u8; 32]) -> Option<StateProof> {
    let bytes = borsh::to_vec(proof).ok()?;
    let mut rest = bytes.as_slice();
    let pair = |rest: &mut &[u8]| {
        let (first, after) = rest.split_first_chunk::<32>()?;
        let (second, after) = after.split_first_chunk::<32>()?;
        *rest = after;
        Some((*first, *second))
    };
    let tag = |rest: &mut &[u8]| {
        let (tag, after) = rest.split_first()?;
        *rest = after;
        Some(*tag)
    };
    let leaf = match tag(&mut rest)? {
        0 => None,
        _ => Some(pair(&mut rest)?),
    };
    let other = leaf
        .filter(|(key, _)| key != key_hash)
        .map(|(key_hash, value_hash)| Leaf { key_hash, value_hash });
    let (count, after) = rest.split_first_chunk::<4>()?;
    rest = after;
    let mut siblings = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        siblings.push(match tag(&mut rest)? {
            0 => PLACEHOLDER,
            1 => pair(&mut rest).map(|(left, right)| internal_hash(&left, &right))?,
            2 => pair(&mut rest)
                .map(|(key_hash, value_hash)| leaf_hash(&Leaf { key_hash, value_hash }))?,
            _ => return None,
        });
    }
    rest.is_empty().then_some(StateProof { other, siblings })
}

/// BLAKE3, as keys and values are hashed.
pub(crate) fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

fn root_key(version: Version) -> NodeKey {
    NodeKey::new(version, std::iter::empty().collect())
}

struct Reader<'a, S>(&'a S);

impl<S: NodeSource> TreeReader for Reader<'_, S> {
    fn get_node_option(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        self.0.node(key)
    }

    fn get_value_option(&self, _: Version, _: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        anyhow::bail!("values are kept by key, outside the tree")
    }

    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        anyhow::bail!("trees are not restored node by node")
    }
}

/// For proofs the tree asks for the value too; it stands outside the tree, so it gets an empty one.
struct ProofReader<'a, S>(Reader<'a, S>);

impl<S: NodeSource> TreeReader for ProofReader<'_, S> {
    fn get_node_option(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        self.0.get_node_option(key)
    }

    fn get_value_option(&self, _: Version, _: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        Ok(Some(Vec::new()))
    }

    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        self.0.get_rightmost_leaf()
    }
}

struct NoNodes;

impl NodeSource for NoNodes {
    fn node(&self, _: &NodeKey) -> anyhow::Result<Option<Node>> {
        Ok(None)
    }
}
