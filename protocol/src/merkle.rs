//! Merkle tree over the hashes of a run's states, before its first inner step and after each: a
//! member commits to its whole training with 32 bytes, and a state can later be shown against it.
//!
//! Leaves and inner nodes are hashed under different contexts, so a node cannot pass for a leaf;
//! an odd node moves up unchanged.

use serde::{Deserialize, Serialize};

use crate::ids::{ContentHash, derive};

/// Longest path: twice the steps of any run.
pub const DEPTH_MAX: usize = 32;

/// Shows that a leaf stands at a place of a list with a known root and length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MerkleProof {
    /// The other child on every level that has one, from the leaves up; at most [`DEPTH_MAX`].
    pub siblings: Vec<ContentHash>,
}

/// Root of a list of leaves; zero for an empty list.
pub fn root(leaves: &[ContentHash]) -> ContentHash {
    let mut level: Vec<[u8; 32]> = leaves.iter().map(leaf_node).collect();
    while level.len() > 1 {
        level = above(&level);
    }
    ContentHash::from_bytes(level.first().copied().unwrap_or_default())
}

/// The proof for the leaf at `index`; none if there is no such leaf.
pub fn prove(leaves: &[ContentHash], index: usize) -> Option<MerkleProof> {
    leaves.get(index)?;
    let mut level: Vec<[u8; 32]> = leaves.iter().map(leaf_node).collect();
    let (mut at, mut siblings) = (index, Vec::new());
    while level.len() > 1 {
        siblings.extend(level.get(at ^ 1).copied().map(ContentHash::from_bytes));
        level = above(&level);
        at >>= 1;
    }
    Some(MerkleProof { siblings })
}

impl MerkleProof {
    /// Whether `leaf` stands at `index` of the list of `count` leaves with this root.
    pub fn verify(&self, root: &ContentHash, leaf: &ContentHash, index: u64, count: u64) -> bool {
        if index >= count || self.siblings.len() > DEPTH_MAX {
            return false;
        }
        let (mut at, mut count, mut node) = (index, count, leaf_node(leaf));
        let mut siblings = self.siblings.iter();
        while count > 1 {
            if at ^ 1 < count {
                let Some(sibling) = siblings.next().map(ContentHash::as_bytes) else {
                    return false;
                };
                node = if at & 1 == 0 {
                    inner_node(&node, sibling)
                } else {
                    inner_node(sibling, &node)
                };
            }
            (at, count) = (at >> 1, count.div_ceil(2));
        }
        siblings.next().is_none() && node == *root.as_bytes()
    }
}

fn leaf_node(leaf: &ContentHash) -> [u8; 32] {
    derive("ayni 2026 step state leaf v1", &[leaf.as_bytes()])
}

fn inner_node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    derive("ayni 2026 step state node v1", &[left, right])
}

fn above(level: &[[u8; 32]]) -> Vec<[u8; 32]> {
    let pairs = level.chunks(2).filter_map(|pair| match pair {
        [left, right] => Some(inner_node(left, right)),
        [odd] => Some(*odd),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_hold_for_their_leaf_and_place_only() {
        let all: Vec<ContentHash> = (0_u8..13).map(|i| ContentHash::of(&[i])).collect();
        // The same root as the worker's.
        let five = "759fdaba188bc75e115fe345da068d556715e52ae14e7751bf15c09bd27ee137";
        assert_eq!(root(&all[..5]).to_string(), five);
        assert_eq!(root(&[]), ContentHash::default());
        for count in 1..=all.len() {
            let (leaves, total) = (&all[..count], count as u64);
            let root = root(leaves);
            for (index, leaf) in leaves.iter().enumerate() {
                let proof = prove(leaves, index).expect("a leaf");
                for (other, wrong) in leaves.iter().enumerate() {
                    let same = other == index;
                    assert_eq!(proof.verify(&root, wrong, index as u64, total), same);
                    assert_eq!(proof.verify(&root, leaf, other as u64, total), same);
                }
                let mut longer = proof.clone();
                longer.siblings.push(root);
                assert!(!longer.verify(&root, leaf, index as u64, total));
                assert!(!proof.verify(&root, leaf, index as u64, u64::MAX), "ends, and refuses");
                let elsewhere = ContentHash::of(b"another root");
                assert!(!proof.verify(&elsewhere, leaf, index as u64, total));
            }
            assert_eq!(prove(leaves, count), None);
        }
    }
}
