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
use protocol::proof::{Leaf, PLACEHOLDER, internal_hash, leaf_hash};

use crate::tree;

/// The root of a state with exactly these entries.
pub fn root_of<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    entries: impl IntoIterator<Item = (K, V)>,
) -> StateRoot {
    let mut leaves: Vec<Pair> = entries
        .into_iter()
        .map(|(key, value)| (tree::hash(key.as_ref()), tree::hash(value.as_ref())))
        .collect();
    leaves.sort_unstable();
    StateRoot::from_bytes(fold(&leaves, 0).hash())
}

/// As [`root_of`], with at most about `memory_bytes` of memory: `scan`, which shows every entry to
/// its argument, is called as often as that takes. `entries` is how many there are, or a guess.
pub fn root_in_passes<E>(
    entries: u64,
    memory_bytes: usize,
    mut scan: impl FnMut(&mut dyn FnMut(&[u8], &[u8])) -> Result<(), E>,
) -> Result<StateRoot, E> {
    let needed = entries.saturating_mul(size_of::<Pair>() as u64);
    let passes = needed.div_ceil(memory_bytes.max(1) as u64).max(1);
    // Each pass takes the keys whose hashes begin with the same bits.
    let bits = passes.next_power_of_two().trailing_zeros().min(PASS_BITS_MAX);
    let mut parts = Vec::with_capacity(1 << bits);
    for part in 0..1_u32 << bits {
        let mut leaves: Vec<Pair> = Vec::new();
        scan(&mut |key, value| {
            let key = tree::hash(key);
            let prefix = u32::from(u16::from_be_bytes([key[0], key[1]])) >> (16 - bits);
            if prefix == part {
                leaves.push((key, tree::hash(value)));
            }
        })?;
        leaves.sort_unstable();
        parts.push(fold(&leaves, bits as usize));
    }
    while parts.len() > 1 {
        parts = parts.chunks(2).map(|pair| pair[0].join(&pair[1])).collect();
    }
    Ok(StateRoot::from_bytes(parts[0].hash()))
}

/// More passes than 2^16 would need a longer prefix; at 64 MiB each that is 4 TiB of hashes.
const PASS_BITS_MAX: u32 = 16;

/// Hash of a key, hash of its value.
type Pair = ([u8; 32], [u8; 32]);

/// A part of the tree.
#[derive(Clone, Copy)]
enum Part {
    Empty,
    One([u8; 32]),
    More([u8; 32]),
}

impl Part {
    const fn hash(&self) -> [u8; 32] {
        match self {
            Self::Empty => PLACEHOLDER,
            Self::One(hash) | Self::More(hash) => *hash,
        }
    }

    /// The part above two halves: a single entry rises, more make a node.
    fn join(&self, right: &Self) -> Self {
        match (self, right) {
            (Self::Empty, Self::Empty) => Self::Empty,
            (one @ Self::One(_), Self::Empty) | (Self::Empty, one @ Self::One(_)) => *one,
            (left, right) => Self::More(internal_hash(&left.hash(), &right.hash())),
        }
    }
}

fn fold(leaves: &[Pair], depth: usize) -> Part {
    match leaves {
        [] => Part::Empty,
        [(key_hash, value_hash)] => {
            Part::One(leaf_hash(&Leaf { key_hash: *key_hash, value_hash: *value_hash }))
        }
        _ => {
            let middle = leaves.partition_point(|(key, _)| !bit(key, depth));
            let (left, right) = leaves.split_at(middle);
            fold(left, depth + 1).join(&fold(right, depth + 1))
        }
    }
}

/// Bit `depth` of a key hash. Two equal hashes have no bit that tells them apart.
fn bit(key: &[u8; 32], depth: usize) -> bool {
    assert!(depth < 256, "two state keys with one BLAKE3 hash, or one key twice");
    key[depth / 8] >> (7 - depth % 8) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_do_not_change_the_root() {
        for entries in [0, 1, 2, 3, 40, 500_u32] {
            let all: Vec<_> = (0..entries).map(|n| (n.to_be_bytes(), n.to_le_bytes())).collect();
            for memory in [1, 64, 1_000, 1 << 20] {
                let root = root_in_passes(u64::from(entries), memory, |visit| {
                    all.iter().for_each(|(key, value)| visit(key, value));
                    Ok::<_, std::convert::Infallible>(())
                });
                assert_eq!(root, Ok(root_of(all.clone())), "{entries} entries, {memory} bytes");
            }
        }
    }
}
