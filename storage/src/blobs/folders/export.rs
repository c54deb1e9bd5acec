//! Writing collections and blobs to files of the user.
//!
//! **Invariant.** The target appears whole or not at all: everything is written to a new place
//! beside it, checked against the hashes, synced, and renamed. Nothing outside the target is
//! touched: paths in a collection cannot lead out, and no link exists where they lead. What exists
//! is replaced only when told.
//! Deliberately absent: permissions and times, which a collection does not have.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::blobs::collection::{Chunk, Collection, CollectionFile};
use protocol::ids::ContentHash;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::blobs::import::is_zero;
use crate::blobs::read::{Source, check_hash};
use crate::blobs::{BlobError, BlobStore};
use crate::durable::{self, at};

/// Bytes that are copied at once, and that are left out of a file when all are zero.
const BUFFER_BYTES: usize = 128 << 10;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportReport {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that take no space on the disk: zeros.
    pub sparse_bytes: u64,
}

impl BlobStore {
    /// Writes all files of a collection to a new folder. `progress` is told the bytes done and
    /// says whether to go on.
    pub fn export(
        &self,
        collection: &Collection,
        target: &Path,
        replace: bool,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<ExportReport, BlobError> {
        let place = Place::beside(target, replace, true)?;
        fs::create_dir(&place.temp).map_err(at("create directory", &place.temp))?;
        let mut export = Export { store: self, progress, report: ExportReport::default() };
        let written = collection.files().iter().try_for_each(|file| {
            let mut path = place.temp.clone();
            path.extend(file.path.names());
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(at("create directory", parent))?;
            }
            export.file(&path, &file.chunks)
        });
        let report = export.report;
        place.settle(written, replace)?;
        Ok(report)
    }

    /// Writes one file of a collection.
    pub fn export_file(
        &self,
        file: &CollectionFile,
        target: &Path,
        replace: bool,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<ExportReport, BlobError> {
        let place = Place::beside(target, replace, false)?;
        let mut export = Export { store: self, progress, report: ExportReport::default() };
        let written = export.file(&place.temp, &file.chunks);
        let report = export.report;
        place.settle(written, replace)?;
        Ok(report)
    }

    /// Writes a blob to a file.
    pub fn export_blob(
        &self,
        hash: &ContentHash,
        target: &Path,
        replace: bool,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<ExportReport, BlobError> {
        let bytes = self.size(hash).ok_or(BlobError::NotFound(*hash))?;
        let place = Place::beside(target, replace, false)?;
        let mut export = Export { store: self, progress, report: ExportReport::default() };
        let written = export.file(&place.temp, &[Chunk { hash: *hash, bytes }]);
        let report = export.report;
        place.settle(written, replace)?;
        Ok(report)
    }
}

/// Where something is written, and where it goes.
struct Place {
    target: PathBuf,
    temp: PathBuf,
}

impl Place {
    /// A folder never takes the place of a file, nor a file that of a folder.
    fn beside(target: &Path, replace: bool, is_folder: bool) -> Result<Self, BlobError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let target = std::path::absolute(target).map_err(at("find", target))?;
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(BlobError::BadName { path: target });
        };
        match target.symlink_metadata() {
            Ok(_) if !replace => return Err(BlobError::Exists { path: target }),
            // A link is replaced, whatever it leads to.
            Ok(there) if !there.is_symlink() && there.is_dir() != is_folder => {
                return Err(BlobError::OtherKind { path: target });
            }
            Ok(_) | Err(_) => {}
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Names are at most 255 bytes long: what is added must fit.
        let short: String = name.to_string_lossy().chars().take(40).collect();
        let temp = parent.join(format!(".{short}.ayni-{}-{number}", std::process::id()));
        Ok(Self { target, temp })
    }

    /// Gives what was written its name, or removes it.
    fn settle(self, written: Result<(), BlobError>, replace: bool) -> Result<(), BlobError> {
        let result = written.and_then(|()| self.sync()).and_then(|()| self.rename(replace));
        if result.is_err()
            && self.temp.symlink_metadata().is_ok()
            && let Err(error) = remove(&self.temp)
        {
            tracing::warn!(path = %self.temp.display(), %error, "cannot remove what was begun");
        }
        result
    }

    /// One sync for all files, and not one for each.
    fn sync(&self) -> Result<(), BlobError> {
        let file = File::open(&self.temp).map_err(at("open", &self.temp))?;
        rustix::fs::syncfs(&file).map_err(|error| at("sync", &self.temp)(error.into()))?;
        Ok(())
    }

    fn rename(&self, replace: bool) -> Result<(), BlobError> {
        let failed =
            |error: Errno| BlobError::from(at("rename into place", &self.target)(error.into()));
        let rename = |flags| rustix::fs::renameat_with(CWD, &self.temp, CWD, &self.target, flags);
        match rename(RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) if replace => {
                rename(RenameFlags::EXCHANGE).map_err(failed)?;
                remove(&self.temp).map_err(at("remove", &self.temp))?;
            }
            Err(Errno::EXIST) => return Err(BlobError::Exists { path: self.target.clone() }),
            Err(error) => return Err(failed(error)),
        }
        Ok(durable::sync_parent(&self.target)?)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata()?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

struct Export<'a> {
    store: &'a BlobStore,
    progress: &'a mut dyn FnMut(u64) -> bool,
    report: ExportReport,
}

impl Export<'_> {
    /// Writes a new file.
    fn file(&mut self, path: &Path, chunks: &[Chunk]) -> Result<(), BlobError> {
        let mut file = File::create_new(path).map_err(at("create", path))?;
        let mut length = 0;
        for chunk in chunks {
            match self.store.source(&chunk.hash)? {
                Source::Memory(bytes) => self.chunk(&mut &bytes[..], &mut file, path, chunk)?,
                Source::File { mut data, .. } => self.chunk(&mut data, &mut file, path, chunk)?,
            }
            length += chunk.bytes;
        }
        // Zeros at the end were only passed over.
        file.set_len(length).map_err(at("write", path))?;
        self.report.files += 1;
        Ok(())
    }

    /// Copies a chunk and checks it.
    fn chunk(
        &mut self,
        from: &mut impl Read,
        to: &mut File,
        path: &Path,
        chunk: &Chunk,
    ) -> Result<(), BlobError> {
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; BUFFER_BYTES]);
        let mut left = chunk.bytes;
        // One byte more would be a blob of another length.
        let mut from = from.take(chunk.bytes.saturating_add(1));
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(at("read a chunk of", path)(error).into()),
            };
            let bytes = buffer.get(..read).unwrap_or_default();
            hasher.update(bytes);
            left = left.checked_sub(read as u64).ok_or(BlobError::Damaged(chunk.hash))?;
            if is_zero(bytes) {
                to.seek(SeekFrom::Current(read as i64)).map_err(at("write", path))?;
                self.report.sparse_bytes += read as u64;
            } else {
                to.write_all(bytes).map_err(at("write", path))?;
            }
            self.report.bytes += read as u64;
            if !(self.progress)(self.report.bytes) {
                return Err(BlobError::Cancelled);
            }
        }
        if left > 0 {
            return Err(BlobError::Damaged(chunk.hash));
        }
        check_hash(chunk.hash, ContentHash::from_bytes(*hasher.finalize().as_bytes()))
    }
}
