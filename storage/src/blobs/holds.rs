//! Blobs that somebody in this process is working with: garbage collection leaves them.
//!
//! Invariant: a hold counts from the moment at which it was asked for, before the blob exists if
//! need be, so that nothing is collected between being stored and being pinned.
//! Deliberately absent: anything that outlives the process (see [`pins`](super::pins)).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::ids::ContentHash;

/// How often each blob is held.
#[derive(Clone, Debug, Default)]
pub(super) struct Holds(Arc<Mutex<BTreeMap<ContentHash, usize>>>);

impl Holds {
    pub(super) fn hold(&self, hash: ContentHash) -> Hold {
        *self.lock().entry(hash).or_default() += 1;
        Hold { holds: self.clone(), hash }
    }

    pub(super) fn has(&self, hash: &ContentHash) -> bool {
        self.lock().contains_key(hash)
    }

    pub(super) fn all(&self) -> Vec<ContentHash> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContentHash, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a blob (of a collection: its parts, too) from being collected while it lives.
#[derive(Debug)]
pub struct Hold {
    holds: Holds,
    hash: ContentHash,
}

impl Hold {
    /// The blob.
    pub const fn hash(&self) -> ContentHash {
        self.hash
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        self.holds.hold(self.hash)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut all = self.holds.lock();
        if let Some(count) = all.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.hash);
            }
        }
    }
}
