//! What is stored, in memory: one entry a blob.
//!
//! Invariant: lists exactly the blobs whose bytes are durable, and knows their sum.
//! Deliberately absent: files.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::ContentHash;

use super::small::SmallPlace;

/// Where a blob's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A file of its own.
    File,
    /// With others in a segment.
    Small(SmallPlace),
    /// A file of the user.
    Referenced,
}

/// One blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) size: u64,
    pub(super) place: Place,
}

impl Entry {
    /// Bytes that it takes in the store.
    const fn bytes(&self) -> u64 {
        match self.place {
            Place::File | Place::Small(_) => self.size,
            Place::Referenced => 0,
        }
    }
}

/// All blobs.
#[derive(Debug, Default)]
pub(super) struct Index {
    blobs: BTreeMap<ContentHash, Entry>,
    bytes: u64,
    /// What was stored, asked to be stored, held or pinned since a collection of garbage began
    /// and was not yet marked by it.
    fresh: Option<BTreeSet<ContentHash>>,
}

impl Index {
    pub(super) fn get(&self, hash: &ContentHash) -> Option<Entry> {
        self.blobs.get(hash).copied()
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.blobs.len()
    }

    /// From now on what is wanted is noted.
    pub(super) fn begin_fresh(&mut self) {
        self.fresh = Some(BTreeSet::new());
    }

    /// What was wanted since the last time.
    pub(super) fn take_fresh(&mut self) -> BTreeSet<ContentHash> {
        self.fresh.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Nothing is noted any more.
    pub(super) fn end_fresh(&mut self) {
        self.fresh = None;
    }

    /// The blob lies somewhere else now.
    pub(super) fn relocate(&mut self, hash: &ContentHash, place: Place) {
        if let Some(entry) = self.blobs.get_mut(hash) {
            entry.place = place;
        }
    }

    /// Whether it is stored; somebody wants it to be.
    pub(super) fn wanted(&mut self, hash: &ContentHash) -> bool {
        if let Some(fresh) = &mut self.fresh {
            fresh.insert(*hash);
        }
        self.blobs.contains_key(hash)
    }

    /// Lists a blob; returns what was listed before.
    pub(super) fn insert(&mut self, hash: ContentHash, entry: Entry) -> Option<Entry> {
        if let Some(fresh) = &mut self.fresh {
            fresh.insert(hash);
        }
        let before = self.blobs.insert(hash, entry);
        let had = before.map_or(0, |before| before.bytes());
        self.bytes = self.bytes.saturating_sub(had).saturating_add(entry.bytes());
        before
    }

    pub(super) fn remove(&mut self, hash: &ContentHash) -> Option<Entry> {
        let entry = self.blobs.remove(hash)?;
        self.bytes = self.bytes.saturating_sub(entry.bytes());
        Some(entry)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ContentHash, Entry)> + '_ {
        self.blobs.iter().map(|(hash, entry)| (*hash, *entry))
    }

    /// Sum of the sizes of what is in the store itself.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
}
