//! Importing a folder as a collection.
//!
//! **Invariant.** Nothing outside the folder is read: every entry is opened relative to its open
//! folder and without following links, so that a folder that changes meanwhile leads nowhere
//! else. A file that changes while it is read is an error. Memory is that of the list of files,
//! which is bounded, and of one batch of chunks.
//!
//! Files over 1 MiB are cut where their contents say so (FastCDC, "The Design of Fast
//! Content-Defined Chunking", 2020), so that a changed file shares most chunks with its earlier
//! version. Deliberately absent: permissions, times and links.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fastcdc::v2020::StreamCDC;
use protocol::blobs::collection::{
    Chunk, Collection, CollectionError, CollectionFile, RelativePath,
};
use protocol::limits::{BLOB_BYTES_MAX, COLLECTION_FILES_MAX};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::media::media_type;
use crate::blobs::{BlobError, BlobStore, Hold, ImportMode, Imported, Stored, VerifiedBlob};
use crate::durable::at;

/// Files up to this length are one chunk.
const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// The lengths of chunks decide where files are cut: another value is another hash for the same
/// folder, and nothing shared with what was added before.
const CHUNK_BYTES_MIN: usize = 256 << 10;
const CHUNK_BYTES_AVERAGE: usize = 1 << 20;
const CHUNK_BYTES_MAX: usize = 4 << 20;
/// Chunks are stored together up to so many bytes: what one sync is paid for.
const BATCH_BYTES: u64 = 16 << 20;
/// And up to so many: the names in one batch are bounded.
const BATCH_CHUNKS: usize = 1_024;
/// Skipped entries that a report names.
const SKIPPED_NAMED_MAX: usize = 1_000;

/// How a folder is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderOptions {
    /// How its files get in.
    pub mode: ImportMode,
    /// Whether large files are cut; only when they are copied.
    pub chunked: bool,
    /// Whether links, devices, pipes, sockets, and names that a collection cannot have are left
    /// out; else they are refused.
    pub skip_special: bool,
}

impl Default for FolderOptions {
    fn default() -> Self {
        Self { mode: ImportMode::Copy, chunked: true, skip_special: false }
    }
}

/// What was imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderReport {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks, those that are alike counted every time.
    pub chunks: u64,
    /// Bytes of chunks that were not here before.
    pub new_bytes: u64,
    /// Links, devices, pipes, sockets and impossible names that were left out.
    pub skipped: u64,
    /// The first of them.
    pub skipped_paths: Vec<PathBuf>,
}

impl BlobStore {
    /// Imports a folder, or one file, as a collection. `progress` is told the bytes done and says
    /// whether to go on. The path itself may be a link, what is below it not.
    pub fn import_folder(
        &self,
        path: &Path,
        options: &FolderOptions,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(Imported, FolderReport), BlobError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let opened = opened.map_err(|error| at("open", path)(error.into()))?;
        let mut import = Import {
            store: self,
            options: *options,
            progress,
            files: Vec::new(),
            holds: Vec::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            report: FolderReport::default(),
        };
        let file = File::from(opened);
        let found = file.metadata().map_err(at("read", path))?;
        if found.is_dir() {
            import.folder(file.into(), path, "")?;
        } else if found.is_file() {
            // The name without what leads to it.
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let name = RelativePath::new(name)
                .map_err(|_| BlobError::BadName { path: path.to_path_buf() })?;
            import.file(file, path, name)?;
        } else {
            return Err(BlobError::NotRegular { path: path.to_path_buf() });
        }
        import.finish()
    }
}

struct Import<'a> {
    store: &'a BlobStore,
    options: FolderOptions,
    progress: &'a mut dyn FnMut(u64) -> bool,
    files: Vec<CollectionFile>,
    /// Chunks are not collected before their collection is there.
    holds: Vec<Hold>,
    waiting: Vec<VerifiedBlob>,
    waiting_bytes: u64,
    report: FolderReport,
}

impl Import<'_> {
    /// Imports an open folder. `inside` is its path in the collection.
    fn folder(&mut self, folder: OwnedFd, path: &Path, inside: &str) -> Result<(), BlobError> {
        let failed = |error: Errno| BlobError::from(at("list", path)(error.into()));
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
            if names.len() > COLLECTION_FILES_MAX {
                return Err(CollectionError::Files.into());
            }
        }
        names.sort_unstable();
        for name in names {
            let path = path.join(&name);
            let inside = name.to_str().map(|name| match inside {
                "" => name.to_owned(),
                inside => format!("{inside}/{name}"),
            });
            let Some(inside) = inside.and_then(|inside| RelativePath::new(&inside).ok()) else {
                self.special(&path, BlobError::BadName { path: path.clone() })?;
                continue;
            };
            self.entry(&folder, &name, &path, inside)?;
        }
        Ok(())
    }

    /// Imports what an open folder has under a name.
    fn entry(
        &mut self,
        folder: &OwnedFd,
        name: &OsString,
        path: &Path,
        inside: RelativePath,
    ) -> Result<(), BlobError> {
        let failed = |error: Errno| match error {
            // It was there a moment ago.
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO => {
                BlobError::ChangedWhileRead { path: path.to_path_buf() }
            }
            error => BlobError::from(at("open", path)(error.into())),
        };
        let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let expected = FileType::from_raw_mode(found.st_mode);
        if !matches!(expected, FileType::RegularFile | FileType::Directory) {
            let refused = BlobError::NotRegular { path: path.to_path_buf() };
            return self.special(path, refused);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(failed)?;
        let found = rustix::fs::fstat(&opened).map_err(failed)?;
        match (expected, FileType::from_raw_mode(found.st_mode)) {
            (FileType::RegularFile, FileType::RegularFile) => {
                self.file(opened.into(), path, inside)
            }
            (FileType::Directory, FileType::Directory) => {
                self.folder(opened, path, inside.as_str())
            }
            _ => Err(BlobError::ChangedWhileRead { path: path.to_path_buf() }),
        }
    }

    /// Leaves something out, or refuses it.
    fn special(&mut self, path: &Path, refused: BlobError) -> Result<(), BlobError> {
        if !self.options.skip_special {
            return Err(refused);
        }
        self.report.skipped += 1;
        if self.report.skipped_paths.len() < SKIPPED_NAMED_MAX {
            self.report.skipped_paths.push(path.to_path_buf());
        }
        Ok(())
    }

    fn file(&mut self, file: File, path: &Path, inside: RelativePath) -> Result<(), BlobError> {
        if self.files.len() >= COLLECTION_FILES_MAX {
            return Err(CollectionError::Files.into());
        }
        let before = file.metadata().map_err(at("read", path))?;
        let is_copied = self.options.mode == ImportMode::Copy;
        let chunks = match before.len() {
            0 => Vec::new(),
            length if is_copied && length <= WHOLE_BYTES_MAX => self.whole(&file, path)?,
            _ if is_copied && self.options.chunked => self.cut(&file, path)?,
            _ => self.one(&file, path)?,
        };
        let after = file.metadata().map_err(at("read", path))?;
        let stamp = |found: &std::fs::Metadata| {
            (found.len(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec())
        };
        let bytes = chunks.iter().map(|chunk: &Chunk| chunk.bytes).sum();
        if stamp(&before) != stamp(&after) || bytes != after.len() {
            return Err(BlobError::ChangedWhileRead { path: path.to_path_buf() });
        }
        self.report.files += 1;
        self.report.chunks += chunks.len() as u64;
        let media_type = media_type(&inside);
        self.files.push(CollectionFile { path: inside, bytes, media_type, chunks });
        Ok(())
    }

    /// A small file: one chunk, stored with others.
    fn whole(&mut self, file: &File, path: &Path) -> Result<Vec<Chunk>, BlobError> {
        let mut bytes = Vec::new();
        let mut bounded = file.take(WHOLE_BYTES_MAX + 1);
        bounded.read_to_end(&mut bytes).map_err(at("read", path))?;
        // Empty by now: it changed.
        Ok(if bytes.is_empty() { Vec::new() } else { vec![self.chunk(bytes)?] })
    }

    /// A large file, cut.
    fn cut(&mut self, file: &File, path: &Path) -> Result<Vec<Chunk>, BlobError> {
        let cutter = StreamCDC::new(file, CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX);
        let mut chunks = Vec::new();
        for piece in cutter {
            let piece = piece.map_err(|error| at("read", path)(io::Error::from(error)))?;
            chunks.push(self.chunk(piece.data)?);
        }
        Ok(chunks)
    }

    /// A file that is one blob, however large.
    fn one(&mut self, file: &File, path: &Path) -> Result<Vec<Chunk>, BlobError> {
        let (done, progress) = (self.report.bytes, &mut *self.progress);
        let told = &mut |bytes: u64| progress(done + bytes);
        let (mode, max) = (self.options.mode, BLOB_BYTES_MAX);
        let imported = self.store.import_open(path, file, mode, max, told)?;
        self.report.bytes += imported.size;
        if imported.stored != Stored::AlreadyHere {
            self.report.new_bytes += imported.size;
        }
        self.holds.push(imported.hold);
        // Empty by now: it changed.
        let chunk = Chunk { hash: imported.hash, bytes: imported.size };
        Ok(if chunk.bytes == 0 { Vec::new() } else { vec![chunk] })
    }

    fn chunk(&mut self, bytes: Vec<u8>) -> Result<Chunk, BlobError> {
        let blob = VerifiedBlob::of(bytes);
        let chunk = Chunk { hash: blob.hash(), bytes: blob.size() };
        self.report.bytes += chunk.bytes;
        self.holds.push(self.store.hold(chunk.hash));
        if !self.store.contains(&chunk.hash) {
            self.waiting_bytes += chunk.bytes;
            self.waiting.push(blob);
        }
        if self.waiting_bytes >= BATCH_BYTES || self.waiting.len() >= BATCH_CHUNKS {
            self.flush()?;
        }
        if !(self.progress)(self.report.bytes) {
            return Err(BlobError::Cancelled);
        }
        Ok(chunk)
    }

    fn flush(&mut self) -> Result<(), BlobError> {
        self.waiting.sort_by_key(VerifiedBlob::hash);
        self.waiting.dedup_by_key(|blob| blob.hash());
        self.store.put_batch(&self.waiting)?;
        self.report.new_bytes += self.waiting.iter().map(VerifiedBlob::size).sum::<u64>();
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<(Imported, FolderReport), BlobError> {
        self.flush()?;
        let bytes = Collection::new(self.files)?.to_bytes()?;
        let manifest = VerifiedBlob::of(bytes);
        let (hash, size) = (manifest.hash(), manifest.size());
        let hold = self.store.hold(hash);
        let is_here = self.store.contains(&hash);
        self.store.put_batch(&[manifest])?;
        let stored = if is_here { Stored::AlreadyHere } else { Stored::Copied };
        // From here on the collection keeps its chunks.
        drop(self.holds);
        Ok((Imported { hash, size, stored, hold }, self.report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where files are cut decides hashes: it must not move.
    #[test]
    fn cuts_are_where_they_always_were() {
        let mut bytes = vec![0; 20 << 20];
        blake3::Hasher::new().update(b"cuts").finalize_xof().fill(&mut bytes);
        let cutter =
            StreamCDC::new(&bytes[..], CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX);
        let lengths: Vec<usize> = cutter.map(|piece| piece.expect("memory").length).collect();
        let expected = [
            1_353_216, 1_588_866, 399_139, 1_332_757, 1_192_744, 542_195, 677_952, 2_751_402,
            2_294_104, 1_519_677, 1_572_937, 2_691_302, 1_786_912, 1_076_804, 191_513,
        ];
        assert_eq!(lengths, expected);
    }
}
