//! What is stored, in memory: one entry a blob.
//!
//! Invariant: lists exactly the blobs whose bytes are durable, and knows their sum.
//! Deliberately absent: files.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::ContentHash;

/// Where a blob's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A file of its own.
    File,
}

/// One blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) size: u64,
    pub(super) place: Place,
}

/// All blobs.
#[derive(Debug, Default)]
pub(super) struct Index {
    blobs: BTreeMap<ContentHash, Entry>,
    bytes: u64,
    /// What was stored, or asked to be stored, since a collection of garbage began: it is kept.
    fresh: Option<BTreeSet<ContentHash>>,
}

impl Index {
    pub(super) fn get(&self, hash: &ContentHash) -> Option<Entry> {
        self.blobs.get(hash).copied()
    }

    /// Whether it is stored; somebody wants it to be.
    pub(super) fn wanted(&mut self, hash: &ContentHash) -> bool {
        if let Some(fresh) = &mut self.fresh {
            fresh.insert(*hash);
        }
        self.blobs.contains_key(hash)
    }

    pub(super) fn insert(&mut self, hash: ContentHash, entry: Entry) {
        if let Some(fresh) = &mut self.fresh {
            fresh.insert(hash);
        }
        let before = self.blobs.insert(hash, entry).map_or(0, |before| before.size);
        self.bytes = self.bytes.saturating_sub(before).saturating_add(entry.size);
    }

    pub(super) fn remove(&mut self, hash: &ContentHash) -> Option<Entry> {
        let entry = self.blobs.remove(hash)?;
        self.bytes = self.bytes.saturating_sub(entry.size);
        Some(entry)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ContentHash, Entry)> + '_ {
        self.blobs.iter().map(|(hash, entry)| (*hash, *entry))
    }

    /// Sum of all sizes.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
}
