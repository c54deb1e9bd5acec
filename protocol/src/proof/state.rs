//! Paths in the state tree: that a key has a value, or that it has none.
//!
//! The tree (a Jellyfish Merkle tree, Gao, Hu, Wu 2021) by bits of BLAKE3(key), most significant
//! first. No entries: [`PLACEHOLDER`]; one entry: [`leaf_hash`]; more: [`internal_hash`] of both
//! halves. `storage` builds the same tree; its tests hold the two definitions together.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::Canonical;
use crate::ids::StateRoot;

/// Hash of a part of the tree without entries.
pub const PLACEHOLDER: [u8; 32] = *b"SPARSE_MERKLE_PLACEHOLDER_HASH__";
/// Most siblings of a path: one for each bit of a key's hash.
pub const SIBLINGS_MAX: usize = 256;

/// An entry as the tree sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// BLAKE3 of the key.
    pub key_hash: [u8; 32],
    /// BLAKE3 of the value.
    pub value_hash: [u8; 32],
}

/// A path from an entry, or from the place where it would be, to the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateProof {
    /// The entry that stands where the absent key would; `None` if nothing stands there, and for
    /// a key that has a value.
    pub other: Option<Leaf>,
    /// Hashes beside the path, from the bottom to the root.
    pub siblings: Vec<[u8; 32]>,
}

impl Canonical for StateProof {
    const BYTES_MAX: usize = 32 * SIBLINGS_MAX + 80;
}

/// The first thing wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StateProofError {
    /// More siblings than bits.
    #[error("the path has {0} siblings where at most {SIBLINGS_MAX} are possible")]
    TooLong(usize),
    /// A value is claimed, but the path is that of another entry.
    #[error("the path is one of absence, but a value is claimed")]
    NotInclusion,
    /// The key is said to be absent by an entry that is the key's own or stands elsewhere.
    #[error("the entry given does not stand where the key would")]
    NotExclusion,
    /// It leads elsewhere.
    #[error("the path leads to root {found}, the state has root {expected}")]
    OtherRoot {
        /// Where it leads.
        found: StateRoot,
        /// The state's root.
        expected: StateRoot,
    },
}

impl StateProof {
    /// Verifies that the state with this root maps `key` to `value` (`None`: has no such key).
    pub fn verify(
        &self,
        root: &StateRoot,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), StateProofError> {
        let depth = self.siblings.len();
        if depth > SIBLINGS_MAX {
            return Err(StateProofError::TooLong(depth));
        }
        let key = key_hash(key);
        let bottom = match (value, &self.other) {
            (Some(value), None) => {
                leaf_hash(&Leaf { key_hash: key, value_hash: *blake3::hash(value).as_bytes() })
            }
            (Some(_), Some(_)) => return Err(StateProofError::NotInclusion),
            (None, None) => PLACEHOLDER,
            (None, Some(leaf)) => {
                let mut shared = bits(&key).zip(bits(&leaf.key_hash)).take(depth);
                if leaf.key_hash == key || shared.any(|(a, b)| a != b) {
                    return Err(StateProofError::NotExclusion);
                }
                leaf_hash(leaf)
            }
        };
        let turns: Vec<bool> = bits(&key).take(depth).collect();
        let found =
            self.siblings.iter().zip(turns.iter().rev()).fold(bottom, |hash, (sibling, right)| {
                if *right { internal_hash(sibling, &hash) } else { internal_hash(&hash, sibling) }
            });
        let found = StateRoot::from_bytes(found);
        if found != *root {
            return Err(StateProofError::OtherRoot { found, expected: *root });
        }
        Ok(())
    }
}

/// Where a key stands in the tree.
pub fn key_hash(key: &[u8]) -> [u8; 32] {
    *blake3::hash(key).as_bytes()
}

/// Hash of a part of the tree with one entry.
pub fn leaf_hash(leaf: &Leaf) -> [u8; 32] {
    hash_parts(b"JMT::LeafNode", &leaf.key_hash, &leaf.value_hash)
}

/// Hash of a part of the tree with more than one entry.
pub fn internal_hash(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    hash_parts(b"JMT::IntrnalNode", left, right)
}

fn hash_parts(domain: &[u8], first: &[u8; 32], second: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain);
    hasher.update(first);
    hasher.update(second);
    *hasher.finalize().as_bytes()
}

/// Bits, most significant first.
fn bits(hash: &[u8; 32]) -> impl Iterator<Item = bool> + '_ {
    hash.iter().flat_map(|byte| {
        [0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01_u8].map(|mask| byte & mask != 0)
    })
}
