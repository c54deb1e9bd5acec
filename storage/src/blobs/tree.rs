//! The shape of a blob's hash tree above its 16 KiB groups, and the hashes in it.
//!
//! Every inner node over at least two groups has a *pair*: the chaining values of its two halves.
//! A blob of `n` groups has `n - 1` pairs. In a file they lie in post order (left half, right
//! half, the node itself), in an encoding in pre order. This is the tree of BLAKE3 (section 2.1
//! of its paper): the left half is the largest power of two that leaves something for the right.
//!
//! Invariant: equal to bao-tree's geometry with [`BLOCK_SIZE`](super::BLOCK_SIZE), in which the
//! store's files were written since its first version; tests compare the two.
//! Deliberately absent: reading and writing.

use blake3::hazmat::{self, HasherExt, Mode};
use protocol::blobs::{GroupRange, all_groups};
use protocol::ids::ContentHash;
use protocol::limits::GROUP_BYTES;

/// Bytes of a pair.
pub(super) const PAIR_BYTES: usize = 64;

/// A chaining value.
pub(super) type Cv = [u8; 32];

/// A node of the tree with everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subtree {
    /// Its first group.
    pub(super) start: u64,
    /// How many groups it has, at least one.
    pub(super) groups: u64,
    /// The place in post order of the first pair below it (its own when it has no other).
    pub(super) first_pair: u64,
}

impl Subtree {
    /// The tree of a blob.
    pub(super) const fn of(size: u64) -> Self {
        Self { start: 0, groups: all_groups(size).groups(), first_pair: 0 }
    }

    /// The group after its last.
    pub(super) const fn end(self) -> u64 {
        self.start + self.groups
    }

    /// The two halves; `None` for a single group.
    pub(super) const fn halves(self) -> Option<(Self, Self)> {
        if self.groups < 2 {
            return None;
        }
        let left = 1 << (self.groups - 1).ilog2();
        let (start, first_pair) = (self.start, self.first_pair);
        let right = Self {
            start: start + left,
            groups: self.groups - left,
            first_pair: first_pair + left - 1,
        };
        Some((Self { start, groups: left, first_pair }, right))
    }

    /// How many pairs it has.
    pub(super) const fn pairs(self) -> u64 {
        self.groups - 1
    }

    /// The place in post order of its own pair. Only for two groups and more.
    pub(super) const fn own_pair(self) -> u64 {
        self.first_pair + self.groups - 2
    }

    /// Whether it has any group of `range`.
    pub(super) const fn meets(self, range: GroupRange) -> bool {
        self.start < range.end() && range.start() < self.end()
    }
}

/// Bytes of all pairs of a blob.
pub(super) const fn outboard_bytes(size: u64) -> u64 {
    Subtree::of(size).pairs() * PAIR_BYTES as u64
}

/// The hash of one group: the blob's own hash when it is all of the blob.
pub(super) fn group_hash(group: u64, bytes: &[u8], is_root: bool) -> Cv {
    if is_root {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(group.saturating_mul(GROUP_BYTES));
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The hash of a node from its halves.
pub(super) fn merged(left: &Cv, right: &Cv, is_root: bool) -> Cv {
    if is_root {
        *hazmat::merge_subtrees_root(left, right, Mode::Hash).as_bytes()
    } else {
        hazmat::merge_subtrees_non_root(left, right, Mode::Hash)
    }
}

/// The halves' values in a pair.
pub(super) fn values(pair: &[u8; PAIR_BYTES]) -> (Cv, Cv) {
    let (mut left, mut right) = ([0; 32], [0; 32]);
    left.copy_from_slice(&pair[..32]);
    right.copy_from_slice(&pair[32..]);
    (left, right)
}

/// Hashes a stream of bytes and gives its pairs in post order, in constant memory.
///
/// As BLAKE3 does, a node is closed only when more bytes follow: until then it might be the root.
#[derive(Debug)]
pub(super) struct TreeBuilder {
    /// Bytes of the group that is not hashed yet.
    open: Vec<u8>,
    /// Groups hashed.
    groups: u64,
    /// Values of the closed nodes that wait for their right sibling.
    waiting: Vec<Cv>,
    size: u64,
}

impl TreeBuilder {
    pub(super) fn new() -> Self {
        Self { open: Vec::new(), groups: 0, waiting: Vec::new(), size: 0 }
    }

    /// Bytes so far.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Takes bytes; appends the pairs that are known now to `pairs`.
    pub(super) fn update(&mut self, mut bytes: &[u8], pairs: &mut Vec<u8>) {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.open.len() == GROUP_BYTES as usize {
                let group = std::mem::take(&mut self.open);
                self.close(&group, pairs);
                self.open = group;
                self.open.clear();
            }
            // Whole groups with something behind them are hashed where they lie.
            while self.open.is_empty() && bytes.len() > GROUP_BYTES as usize {
                let (group, rest) = bytes.split_at(GROUP_BYTES as usize);
                self.close(group, pairs);
                bytes = rest;
            }
            let wanted = GROUP_BYTES as usize - self.open.len();
            let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.open.extend_from_slice(taken);
            bytes = rest;
        }
    }

    /// Hashes a group that is not the last.
    fn close(&mut self, group: &[u8], pairs: &mut Vec<u8>) {
        // As many nodes wait as there are bits in the number of groups.
        while self.waiting.len() > self.groups.count_ones() as usize {
            self.merge_last(pairs, false);
        }
        self.waiting.push(group_hash(self.groups, group, false));
        self.groups += 1;
    }

    /// Merges the last two nodes.
    fn merge_last(&mut self, pairs: &mut Vec<u8>, is_root: bool) {
        if let (Some(right), Some(left)) = (self.waiting.pop(), self.waiting.pop()) {
            pairs.extend_from_slice(&left);
            pairs.extend_from_slice(&right);
            self.waiting.push(merged(&left, &right, is_root));
        }
    }

    /// The hash and the size; appends the last pairs.
    pub(super) fn finish(mut self, pairs: &mut Vec<u8>) -> (ContentHash, u64) {
        let last = std::mem::take(&mut self.open);
        if self.groups == 0 {
            return (ContentHash::of(&last), self.size);
        }
        self.close(&last, pairs);
        while self.waiting.len() > 1 {
            let is_root = self.waiting.len() == 2;
            self.merge_last(pairs, is_root);
        }
        (ContentHash::from_bytes(self.waiting.pop().unwrap_or_default()), self.size)
    }
}

#[cfg(test)]
mod tests {
    use bao_tree::BaoTree;
    use bao_tree::io::sync::outboard_post_order;

    use super::*;
    use crate::blobs::BLOCK_SIZE;

    /// The same hash and the same pairs as bao-tree, however the bytes are cut.
    #[test]
    fn the_tree_is_that_of_bao_tree() {
        let group = GROUP_BYTES as usize;
        let sizes = (0..70).flat_map(|groups| {
            [groups * group, groups * group + 1, (groups * group).saturating_sub(1)]
        });
        for size in sizes {
            let bytes: Vec<u8> = (0..size).map(|at| (at / 7 + at % 251) as u8).collect();
            let (tree, mut expected) = (BaoTree::new(size as u64, BLOCK_SIZE), Vec::new());
            let root = outboard_post_order(&bytes[..], tree, &mut expected).expect("memory");
            assert_eq!(outboard_bytes(size as u64), expected.len() as u64);
            for cut in [size.max(1), 1000, group, group + 1, 5 * group] {
                let (mut builder, mut pairs) = (TreeBuilder::new(), Vec::new());
                bytes.chunks(cut).for_each(|bytes| builder.update(bytes, &mut pairs));
                let (hash, found) = builder.finish(&mut pairs);
                assert_eq!((hash.as_bytes(), found), (root.as_bytes(), size as u64));
                assert!(pairs == expected, "{size} bytes in pieces of {cut}");
            }
        }
    }
}
