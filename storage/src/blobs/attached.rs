//! Blobs whose bytes belong to somebody else: a retained snapshot is served from its own file.
//!
//! Invariant: an attached file is not written to while it is attached; its owner detaches it before
//! or after deleting it, and a file that is gone is not found. What is sent is checked against the
//! hash as for any blob. Deliberately absent: deleting, listing and counting such files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::ids::ContentHash;

use super::BlobError;
use super::{outboard, tree::outboard_bytes};
use crate::durable::{self, at};

/// A file that is served under its hash.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    pub(super) data: PathBuf,
    pub(super) tree: PathBuf,
    pub(super) size: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AttachedFiles(Mutex<BTreeMap<ContentHash, Attached>>);

impl AttachedFiles {
    /// Hashes the file, writes its hash tree to `tree`, and serves it from now on.
    pub(super) fn attach(
        &self,
        hash: &ContentHash,
        data: &Path,
        tree: &Path,
    ) -> Result<u64, BlobError> {
        let file = File::open(data).map_err(at("open", data))?;
        let size = file.metadata().map_err(at("read", data))?.len();
        let next = durable::temporary(tree);
        let actual = outboard::write_outboard(file, size, &next).map_err(at("hash", data))?;
        if actual != *hash {
            durable::remove_if_present(&next)?;
            return Err(BlobError::WrongHash { expected: *hash, actual });
        }
        if outboard_bytes(size) > 0 {
            fs::rename(&next, tree).map_err(at("rename into place", tree))?;
        }
        let attached = Attached { data: data.to_path_buf(), tree: tree.to_path_buf(), size };
        self.lock().insert(*hash, attached);
        Ok(size)
    }

    /// Serves it no more; whether it was.
    pub(super) fn detach(&self, hash: &ContentHash) -> bool {
        self.lock().remove(hash).is_some()
    }

    pub(super) fn get(&self, hash: &ContentHash) -> Option<Attached> {
        self.lock().get(hash).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContentHash, Attached>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
