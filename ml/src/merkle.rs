//! Merkle tree over the hashes of the states after each inner step: a member commits to its whole
//! training run with 32 bytes, and a state can later be shown against it.

use protocol::ids::{ContentHash, derive};

/// Longest path: no list in memory has more leaves.
const DEPTH_MAX: usize = 32;

/// Root of a list of leaves; zero for an empty list. Leaves and inner nodes are hashed under
/// different contexts, so a node cannot pass for a leaf; an odd node moves up unchanged.
pub fn merkle_root(leaves: &[ContentHash]) -> ContentHash {
    let mut level: Vec<[u8; 32]> = leaves.iter().map(leaf_node).collect();
    while level.len() > 1 {
        level = above(&level);
    }
    ContentHash::from_bytes(level.first().copied().unwrap_or_default())
}

/// Shows that a leaf stands at a place of a list with a known root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MerkleProof {
    /// Place of the leaf.
    pub index: u64,
    /// Leaves in the list: it decides where odd nodes moved up.
    pub count: u64,
    /// The other child on every level that has one, from the leaves up.
    pub siblings: Vec<ContentHash>,
}

/// The proof for the leaf at `index`; none if there is no such leaf.
pub fn merkle_proof(leaves: &[ContentHash], index: usize) -> Option<MerkleProof> {
    leaves.get(index)?;
    let mut level: Vec<[u8; 32]> = leaves.iter().map(leaf_node).collect();
    let (mut at, mut siblings) = (index, Vec::new());
    while level.len() > 1 {
        siblings.extend(level.get(at ^ 1).map(|node| ContentHash::from_bytes(*node)));
        level = above(&level);
        at /= 2;
    }
    let (index, count) = (u64::try_from(index).ok()?, u64::try_from(leaves.len()).ok()?);
    Some(MerkleProof { index, count, siblings })
}

impl MerkleProof {
    /// Whether `leaf` stands at the proof's place under `root`.
    pub fn verify(&self, root: &ContentHash, leaf: &ContentHash) -> bool {
        if self.index >= self.count || self.siblings.len() > DEPTH_MAX {
            return false;
        }
        let (mut at, mut count) = (self.index, self.count);
        let mut node = leaf_node(leaf);
        let mut siblings = self.siblings.iter();
        while count > 1 {
            if at ^ 1 < count {
                let Some(sibling) = siblings.next() else { return false };
                let sibling = *sibling.as_bytes();
                let (left, right) = if at & 1 == 0 { (node, sibling) } else { (sibling, node) };
                node = inner_node(&left, &right);
            }
            (at, count) = (at / 2, count.div_ceil(2));
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
    level
        .chunks(2)
        .map(|pair| match pair {
            [left, right] => inner_node(left, right),
            other => other[0],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_count_matter() {
        let leaves: Vec<ContentHash> = (0u8..5).map(|i| ContentHash::of(&[i])).collect();
        let root = merkle_root(&leaves);
        assert_eq!(
            root.to_string(),
            "759fdaba188bc75e115fe345da068d556715e52ae14e7751bf15c09bd27ee137"
        );
        let mut swapped = leaves.clone();
        swapped.swap(0, 1);
        assert_ne!(merkle_root(&swapped), root);
        assert_ne!(merkle_root(&leaves[..4]), root);
        assert_eq!(merkle_root(&[]), ContentHash::default());
    }

    #[test]
    fn proofs_hold_for_their_leaf_and_place_only() {
        let leaves: Vec<ContentHash> = (0u8..13).map(|i| ContentHash::of(&[i])).collect();
        for count in 1..=leaves.len() {
            let leaves = &leaves[..count];
            let root = merkle_root(leaves);
            for (index, leaf) in leaves.iter().enumerate() {
                let proof = merkle_proof(leaves, index).expect("a leaf");
                assert!(proof.verify(&root, leaf), "{index} of {count}");
                for (other, wrong) in leaves.iter().enumerate() {
                    assert_eq!(proof.verify(&root, wrong), other == index);
                    let place = u64::try_from(other).expect("small");
                    let moved = MerkleProof { index: place, ..proof.clone() };
                    assert_eq!(moved.verify(&root, leaf), other == index);
                }
                let mut longer = proof.clone();
                longer.siblings.push(root);
                assert!(!longer.verify(&root, leaf));
                let huge = MerkleProof { count: u64::MAX, ..proof };
                assert!(!huge.verify(&root, leaf), "ends, and refuses");
            }
            assert_eq!(merkle_proof(leaves, count), None);
        }
    }
}
