//! The validator sets that a chain has had, by hash: proofs that begin long ago need them.
//!
//! **Invariant.** What is read has the hash that was asked for, so damage is an absence, never a
//! false set. Headers say which hash belongs to which height; the sets themselves are in no block.
//! A set that this node never saw, because it joined later, is not here.
//!
//! Deliberately absent: forgetting. A set has 40 bytes for each validator, and one is kept each
//! time the stake of one changes.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use protocol::codec;
use protocol::consensus::ValidatorSet;
use protocol::ids::ContentHash;

use crate::durable::{self, at};
use crate::history::{HistoryError, contained};

/// Memory that sled may use for pages.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub struct ValidatorSets {
    db: sled::Db,
    last: Mutex<Option<ValidatorSet>>,
}

impl ValidatorSets {
    /// Opens or creates the sets in `dir`; what cannot be opened is removed.
    ///
    /// One process per directory: the caller holds the [`crate::lock::DirectoryLock`].
    pub fn open(dir: &Path) -> Result<Self, HistoryError> {
        match Self::try_open(dir) {
            Err(HistoryError::Damaged(what)) => {
                tracing::warn!(what, "the validators of the past cannot be read and are forgotten");
                fs::remove_dir_all(dir).map_err(at("remove", dir))?;
                Self::try_open(dir)
            }
            other => other,
        }
    }

    fn try_open(dir: &Path) -> Result<Self, HistoryError> {
        durable::create_dir(dir)?;
        let open = || sled::Config::default().path(dir).cache_capacity(CACHE_BYTES).open();
        Ok(Self { db: contained(open)?, last: Mutex::new(None) })
    }

    /// Keeps a set. Cheap when it is the one of the call before, which it nearly always is.
    pub fn remember(&self, set: &ValidatorSet) -> Result<(), HistoryError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() == Some(set) {
            return Ok(());
        }
        let hash = set.hash();
        contained(|| {
            if !self.db.contains_key(hash.as_bytes())? {
                self.db.insert(hash.as_bytes(), codec::encode(set))?;
                // Written before the state that no longer knows the set: see the ledger's flush.
                self.db.flush()?;
            }
            Ok(())
        })?;
        *last = Some(set.clone());
        Ok(())
    }

    /// The set with this hash.
    pub fn get(&self, hash: &ContentHash) -> Result<Option<ValidatorSet>, HistoryError> {
        let bytes = contained(|| self.db.get(hash.as_bytes()))?;
        let set = bytes.and_then(|bytes| codec::decode::<ValidatorSet>(&bytes).ok());
        Ok(set.filter(|set| set.hash() == *hash))
    }
}
