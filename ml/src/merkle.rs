//! Merkle root over the hashes of the states after each inner step: a member commits to its whole
//! training run with 32 bytes, and one step can later be shown against it.

use protocol::ids::{ContentHash, derive};

/// Root of a list of leaves; zero for an empty list. Leaves and inner nodes are hashed under
/// different contexts, so a node cannot pass for a leaf; an odd node moves up unchanged.
pub fn merkle_root(leaves: &[ContentHash]) -> ContentHash {
    let mut level: Vec<[u8; 32]> = leaves
        .iter()
        .map(|leaf| derive("ayni 2026 step state leaf v1", &[leaf.as_bytes()]))
        .collect();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => derive("ayni 2026 step state node v1", &[left, right]),
                other => other[0],
            })
            .collect();
    }
    ContentHash::from_bytes(level.first().copied().unwrap_or_default())
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
}
