//! What the rules need of a store. `storage` implements it on sled; tests in memory.
//!
//! Reads are infallible here: a store that cannot read its own disk ends the process with a
//! clear message, because a node that guesses its state would contradict the others.

use std::collections::BTreeMap;

/// Writes of one block in key order; `None` deletes.
pub type StateChanges = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A readable key-value state.
pub trait StateReader {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Up to `limit` entries whose key starts with `prefix`, in key order.
    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)>;
}

impl<R: StateReader + ?Sized> StateReader for &R {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        (**self).get(key)
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        (**self).scan(prefix, limit)
    }
}

/// A state in memory, for genesis and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState(BTreeMap<Vec<u8>, Vec<u8>>);

impl MemoryState {
    /// Applies changes.
    pub fn apply(&mut self, changes: &StateChanges) {
        for (key, value) in changes {
            match value {
                Some(value) => self.0.insert(key.clone(), value.clone()),
                None => self.0.remove(key),
            };
        }
    }

    /// All entries.
    pub fn entries(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.0
    }
}

impl StateReader for MemoryState {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).cloned()
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.0
            .range(prefix.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// A state with unsaved changes on top.
pub struct Overlay<R> {
    base: R,
    changes: StateChanges,
}

impl<R: StateReader> Overlay<R> {
    /// No changes yet.
    pub const fn new(base: R) -> Self {
        Self { base, changes: BTreeMap::new() }
    }

    /// Sets a value.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    /// Removes a value.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// The changes so far.
    pub const fn changes(&self) -> &StateChanges {
        &self.changes
    }

    /// Takes the changes.
    pub fn into_changes(self) -> StateChanges {
        self.changes
    }

    /// Takes over the changes of an overlay that was opened on this one.
    pub fn absorb(&mut self, changes: StateChanges) {
        self.changes.extend(changes);
    }
}

impl<R: StateReader> StateReader for Overlay<R> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self.changes.get(key) {
            Some(value) => value.clone(),
            None => self.base.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mine =
            self.changes.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        // Every deleted key can hide one entry of the base.
        let deleted = mine.clone().filter(|(_, value)| value.is_none()).count();
        let mut merged: BTreeMap<Vec<u8>, Vec<u8>> =
            self.base.scan(prefix, limit.saturating_add(deleted)).into_iter().collect();
        for (key, value) in mine {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        merged.into_iter().take(limit).collect()
    }
}
