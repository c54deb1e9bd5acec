//! A blob that arrives from one provider and in order, as nodes of the first protocol send it.
//!
//! Invariant: only groups that the caller has verified are written, and [`WholeBlob::finish`]
//! hashes the whole file again before it gets its name. Dropping it removes the file.
//! Deliberately absent: resuming ([`PartialBlob`](super::PartialBlob) does).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use protocol::ids::ContentHash;

use super::BlobError;
use super::outboard;
use super::store::BlobStore;
use crate::durable::{FileError, at};

/// A file in the store's `tmp`, removed when dropped unless it was renamed.
#[derive(Debug)]
pub(super) struct TempFile {
    pub(super) file: File,
    path: PathBuf,
}

impl TempFile {
    pub(super) fn create(path: PathBuf) -> Result<Self, FileError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(at("create", &path))?;
        Ok(Self { file, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the hash tree of this file is written.
    pub(super) fn outboard_path(&self) -> PathBuf {
        self.path.with_extension("obao4")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; whatever stays is removed at the next open.
        for path in [self.path.clone(), self.outboard_path()] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove a temporary file");
            }
        }
    }
}

/// A blob of which some groups have arrived. See the module's example.
#[derive(Debug)]
pub struct WholeBlob {
    store: BlobStore,
    temp: TempFile,
    hash: ContentHash,
    size: u64,
}

impl WholeBlob {
    pub(super) fn new(store: BlobStore, hash: ContentHash, size: u64) -> Result<Self, BlobError> {
        let temp = store.temporary()?;
        Ok(Self { store, temp, hash, size })
    }

    /// The hash it must have.
    pub const fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The size that was announced, in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Writes a leaf that a bao decoder returned, and nothing else.
    pub fn write_verified(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BlobError> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(BlobError::OutOfBounds { offset, size: self.size });
        }
        self.temp.file.write_all_at(bytes, offset).map_err(at("write", self.temp.path()))?;
        Ok(())
    }

    /// Hashes the whole file, syncs it and gives it its name. Returns the size.
    pub fn finish(self) -> Result<u64, BlobError> {
        let length = self.temp.file.metadata().map_err(at("read", self.temp.path()))?.len();
        if length != self.size {
            return Err(BlobError::Incomplete { have: length, size: self.size });
        }
        self.store.install(self.temp, self.size, Some(self.hash))?;
        Ok(self.size)
    }
}

/// Hashes a complete temporary file and writes its hash tree beside it, both synced.
pub(super) fn seal(temp: &TempFile, size: u64) -> Result<ContentHash, FileError> {
    let reader = File::open(temp.path()).map_err(at("open", temp.path()))?;
    let hash = outboard::write_outboard(reader, size, &temp.outboard_path())
        .map_err(at("hash", temp.path()))?;
    temp.file.sync_all().map_err(at("sync", temp.path()))?;
    Ok(hash)
}
