//! The state root computed from the entries alone.
//!
//! A second, independent implementation of the tree's hash: it sorts the entries and folds them,
//! without nodes, versions or the crate that the stores use. It finds a damaged index, and tests
//! hold the stores to it.
//!
//! Definition (bits of the key hash, most significant first): no entries: the placeholder; one
//! entry: `H("JMT::LeafNode" || key hash || value hash)`; more:
//! `H("JMT::IntrnalNode" || left || right)`, split by the next bit.

use protocol::ids::StateRoot;

use crate::tree;

/// The root of a state with exactly these entries.
pub fn root_of<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    entries: impl IntoIterator<Item = (K, V)>,
) -> StateRoot {
    let mut leaves: Vec<Leaf> = entries
        .into_iter()
        .map(|(key, value)| (tree::hash(key.as_ref()), tree::hash(value.as_ref())))
        .collect();
    leaves.sort_unstable();
    StateRoot::from_bytes(fold(&leaves, 0))
}

type Leaf = ([u8; 32], [u8; 32]);

fn fold(leaves: &[Leaf], depth: usize) -> [u8; 32] {
    match leaves {
        [] => *b"SPARSE_MERKLE_PLACEHOLDER_HASH__",
        [(key, value)] => hash_parts(b"JMT::LeafNode", key, value),
        _ => {
            let middle = leaves.partition_point(|(key, _)| !bit(key, depth));
            let (left, right) = leaves.split_at(middle);
            hash_parts(b"JMT::IntrnalNode", &fold(left, depth + 1), &fold(right, depth + 1))
        }
    }
}

/// Bit `depth` of a key hash. Two equal hashes have no bit that tells them apart.
fn bit(key: &[u8; 32], depth: usize) -> bool {
    assert!(depth < 256, "two state keys with one BLAKE3 hash, or one key twice");
    key[depth / 8] >> (7 - depth % 8) & 1 == 1
}

fn hash_parts(domain: &[u8], left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain);
    hasher.update(left);
    hasher.update(right);
    *hasher.finalize().as_bytes()
}
