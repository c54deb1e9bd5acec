//! The store itself: names, sizes, and how a file gets in and out.
//!
//! Invariant: the in-memory index lists exactly the `.data` files. One process per directory: the
//! caller holds the [`crate::lock::DirectoryLock`] ([`crate::ledger::LedgerStore`] does).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::ids::ContentHash;
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use super::attached::AttachedFiles;
use super::partial::{self, PartialBlob, TempFile};
use super::serve::ServedBlob;
use super::{BlobFile, outboard};
use crate::durable::{self, FileError, at};

/// Why a blob operation failed.
#[derive(Debug, Error)]
pub enum BlobError {
    /// Not stored here.
    #[error("blob {0} is not stored here")]
    NotFound(ContentHash),
    /// Over the caller's limit.
    #[error("{size} bytes where at most {max} are allowed")]
    TooLarge {
        /// Size found or announced.
        size: u64,
        /// Size allowed.
        max: u64,
    },
    /// A link, directory, device or pipe where a file was expected.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// The bytes do not have the hash that they should have.
    #[error("the bytes have hash {actual}, not {expected}")]
    WrongHash {
        /// Hash wanted.
        expected: ContentHash,
        /// Hash found.
        actual: ContentHash,
    },
    /// A write outside the announced size.
    #[error("bytes at offset {offset} lie outside a blob of {size} bytes")]
    OutOfBounds {
        /// Offset of the bytes.
        offset: u64,
        /// Announced size.
        size: u64,
    },
    /// Finished too early.
    #[error("{have} of {size} bytes have arrived")]
    Incomplete {
        /// Length so far.
        have: u64,
        /// Announced size.
        size: u64,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What [`BlobStore::verify`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Data and hash tree are what they were.
    Intact,
    /// They are not: delete the blob and fetch it again.
    Damaged,
}

/// The blob store. Clones share it.
#[derive(Clone, Debug)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    next_temporary: AtomicU64,
    sizes: Mutex<BTreeMap<ContentHash, u64>>,
    attached: AttachedFiles,
}

impl BlobStore {
    /// Opens or creates `dir/blobs`, removing what was unfinished.
    pub fn open(dir: &Path) -> Result<Self, BlobError> {
        let dir = dir.join("blobs");
        let tmp = dir.join("tmp");
        durable::create_dir(&tmp)?;
        for path in entries(&tmp)? {
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        let mut sizes = BTreeMap::new();
        for folder in entries(&dir)? {
            if folder == tmp || !folder.is_dir() {
                continue;
            }
            for path in entries(&folder)? {
                if let Some(hash) = named(&path, "data") {
                    sizes.insert(hash, fs::metadata(&path).map_err(at("read", &path))?.len());
                } else if named(&path, "obao4").is_some() && !path.with_extension("data").exists() {
                    // A crash between the two renames, or in the middle of a deletion.
                    durable::remove_if_present(&path)?;
                }
            }
        }
        let inner = Inner {
            dir,
            next_temporary: AtomicU64::new(0),
            sizes: Mutex::new(sizes),
            attached: AttachedFiles::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Stores bytes. Durable when this returns.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<ContentHash, BlobError> {
        let hash = ContentHash::of(bytes);
        if self.contains(&hash) {
            return Ok(hash);
        }
        let mut temp = self.temporary()?;
        temp.file.write_all(bytes).map_err(at("write", temp.path()))?;
        self.install(temp, bytes.len() as u64, Some(hash))
    }

    /// Copies a file in, at most `max_bytes`. The file may belong to somebody hostile who changes
    /// it meanwhile: only a regular file is read, links are not followed, opening does not wait
    /// for a pipe, and what is hashed is the copy. The directory of `path` must be trusted.
    pub fn put_file(&self, path: &Path, max_bytes: u64) -> Result<ContentHash, BlobError> {
        let source = open_untrusted(path)?;
        let metadata = source.metadata().map_err(at("read", path))?;
        if !metadata.is_file() {
            return Err(BlobError::NotRegular { path: path.to_path_buf() });
        }
        if metadata.len() > max_bytes {
            return Err(BlobError::TooLarge { size: metadata.len(), max: max_bytes });
        }
        let mut temp = self.temporary()?;
        let mut bounded = source.take(max_bytes.saturating_add(1));
        let size = io::copy(&mut bounded, &mut temp.file).map_err(at("copy", path))?;
        if size > max_bytes {
            return Err(BlobError::TooLarge { size, max: max_bytes });
        }
        self.install(temp, size, None)
    }

    /// Begins to receive a blob whose sender announces `size`.
    pub fn create_partial(
        &self,
        hash: ContentHash,
        size: u64,
        max_bytes: u64,
    ) -> Result<PartialBlob, BlobError> {
        if size > max_bytes {
            return Err(BlobError::TooLarge { size, max: max_bytes });
        }
        PartialBlob::new(self.clone(), hash, size)
    }

    /// Lets a file outside the store be served under its hash, from where it lies. Hashes all of
    /// it and writes its hash tree to `tree`; both belong to the caller, who must not change the
    /// file, and may delete it at any time. Returns its length.
    pub fn attach(&self, hash: &ContentHash, data: &Path, tree: &Path) -> Result<u64, BlobError> {
        self.inner.attached.attach(hash, data, tree)
    }

    /// Serves an attached file no more; whether it was. Transfers under way go on.
    pub fn detach(&self, hash: &ContentHash) -> bool {
        self.inner.attached.detach(hash)
    }

    /// Whether the blob is stored or attached.
    pub fn contains(&self, hash: &ContentHash) -> bool {
        self.size(hash).is_some()
    }

    /// Its length in bytes.
    pub fn size(&self, hash: &ContentHash) -> Option<u64> {
        let stored = self.sizes().get(hash).copied();
        stored.or_else(|| self.inner.attached.get(hash).map(|attached| attached.size))
    }

    /// Every blob and its length, by hash.
    pub fn list(&self) -> Vec<(ContentHash, u64)> {
        self.sizes().iter().map(|(hash, size)| (*hash, *size)).collect()
    }

    /// Length of all blobs together, without hash trees.
    pub fn total_bytes(&self) -> u64 {
        self.sizes().values().fold(0, |sum, size| sum.saturating_add(*size))
    }

    /// Reads a blob of at most `max_bytes` and checks its hash.
    pub fn read_all(&self, hash: &ContentHash, max_bytes: u64) -> Result<Vec<u8>, BlobError> {
        let size = self.size(hash).ok_or(BlobError::NotFound(*hash))?;
        if size > max_bytes {
            return Err(BlobError::TooLarge { size, max: max_bytes });
        }
        let mut bytes = Vec::new();
        self.open_data(hash)?
            .take(size)
            .read_to_end(&mut bytes)
            .map_err(at("read", &self.path(hash, "data")))?;
        check_hash(*hash, ContentHash::of(&bytes))?;
        Ok(bytes)
    }

    /// Opens the bytes for reading. They were right when they were stored and are not checked now.
    pub fn open_data(&self, hash: &ContentHash) -> Result<File, BlobError> {
        self.open_part(hash, "data")
    }

    /// The file of a stored blob, for reading. It was right when it was stored.
    pub fn data_path(&self, hash: &ContentHash) -> Result<PathBuf, BlobError> {
        match self.sizes().contains_key(hash) {
            true => Ok(self.path(hash, "data")),
            false => Err(BlobError::NotFound(*hash)),
        }
    }

    /// Copies a blob to a new file at `to`, checking its hash; a wrong copy is removed.
    pub fn copy_to(&self, hash: &ContentHash, to: &Path) -> Result<u64, BlobError> {
        let mut source = self.open_data(hash)?;
        let mut target = File::create_new(to).map_err(at("create", to))?;
        let mut hasher = blake3::Hasher::new();
        let copied = copy_hashing(&mut source, &mut target, &mut hasher)
            .and_then(|size| target.sync_all().map(|()| size));
        let actual = ContentHash::from_bytes(*hasher.finalize().as_bytes());
        let result = copied
            .map_err(|source| BlobError::from(at("copy to", to)(source)))
            .and_then(|size| check_hash(*hash, actual).map(|()| size));
        if result.is_err() {
            durable::remove_if_present(to)?;
        }
        result
    }

    /// Opens a blob for sending.
    pub fn open_for_serving(&self, hash: &ContentHash) -> Result<ServedBlob, BlobError> {
        let size = self.size(hash).ok_or(BlobError::NotFound(*hash))?;
        let data = BlobFile::new(self.open_data(hash)?);
        let outboard = match outboard::outboard_size(size) {
            0 => BlobFile::empty(),
            _ => BlobFile::new(self.open_part(hash, "obao4")?),
        };
        Ok(ServedBlob::new(*hash, size, data, outboard))
    }

    /// Reads data and hash tree again and compares them with the name.
    pub fn verify(&self, hash: &ContentHash) -> Result<Verification, BlobError> {
        let size = self.size(hash).ok_or(BlobError::NotFound(*hash))?;
        let path = self.path(hash, "data");
        let data = File::open(&path).map_err(at("open", &path))?;
        if data.metadata().map_err(at("read", &path))?.len() != size {
            return Ok(Verification::Damaged);
        }
        let path = self.path(hash, "obao4");
        let stored = match outboard::outboard_size(size) {
            0 => Box::new(io::empty()) as Box<dyn Read>,
            _ => match File::open(&path) {
                Ok(file) => Box::new(io::BufReader::new(file)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Ok(Verification::Damaged);
                }
                Err(e) => return Err(at("open", &path)(e).into()),
            },
        };
        let mut compare = Compare { stored, equal: true };
        let actual = outboard::hash_tree(data, size, &mut compare).map_err(at("read", &path))?;
        let intact = actual == *hash && compare.equal && compare.at_end();
        Ok(if intact { Verification::Intact } else { Verification::Damaged })
    }

    /// Removes a blob; whether it was there. Readers that have it open keep it.
    pub fn delete(&self, hash: &ContentHash) -> Result<bool, BlobError> {
        let mut sizes = self.sizes();
        if sizes.remove(hash).is_none() {
            return Ok(false);
        }
        durable::remove_if_present(&self.path(hash, "data"))?;
        durable::remove_if_present(&self.path(hash, "obao4"))?;
        Ok(true)
    }

    /// A new file in `tmp`.
    pub(super) fn temporary(&self) -> Result<TempFile, FileError> {
        let number = self.inner.next_temporary.fetch_add(1, Ordering::Relaxed);
        TempFile::create(self.inner.dir.join("tmp").join(format!("{number}.data")))
    }

    /// Hashes, syncs and names a complete temporary file.
    pub(super) fn install(
        &self,
        temp: TempFile,
        size: u64,
        expected: Option<ContentHash>,
    ) -> Result<ContentHash, BlobError> {
        let hash = partial::seal(&temp, size)?;
        check_hash(expected.unwrap_or(hash), hash)?;
        let mut sizes = self.sizes();
        if sizes.contains_key(&hash) {
            return Ok(hash);
        }
        let data = self.path(&hash, "data");
        let folder = durable::parent_of(&data).unwrap_or(&self.inner.dir);
        durable::create_dir(folder)?;
        if outboard::outboard_size(size) > 0 {
            let tree = self.path(&hash, "obao4");
            fs::rename(temp.outboard_path(), &tree).map_err(at("rename into place", &tree))?;
        }
        fs::rename(temp.path(), &data).map_err(at("rename into place", &data))?;
        durable::sync_dir(folder)?;
        sizes.insert(hash, size);
        Ok(hash)
    }

    fn sizes(&self) -> MutexGuard<'_, BTreeMap<ContentHash, u64>> {
        self.inner.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, hash: &ContentHash, extension: &str) -> PathBuf {
        let name = hash.to_string();
        let folder = name.get(..2).unwrap_or_default();
        self.inner.dir.join(folder).join(format!("{name}.{extension}"))
    }

    fn open_part(&self, hash: &ContentHash, extension: &str) -> Result<File, BlobError> {
        let mut path = self.path(hash, extension);
        if !self.sizes().contains_key(hash)
            && let Some(attached) = self.inner.attached.get(hash)
        {
            path = if extension == "data" { attached.data } else { attached.tree };
        }
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(BlobError::NotFound(*hash)),
            Err(e) => Err(at("open", &path)(e).into()),
        }
    }
}

/// Compares what is written to it with what is stored.
struct Compare {
    stored: Box<dyn Read>,
    equal: bool,
}

impl Compare {
    fn at_end(&mut self) -> bool {
        matches!(self.stored.read(&mut [0]), Ok(0))
    }
}

impl Write for Compare {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut found = vec![0; bytes.len()];
        match self.stored.read_exact(&mut found) {
            Ok(()) => self.equal &= found == bytes,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => self.equal = false,
            Err(e) => return Err(e),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check_hash(expected: ContentHash, actual: ContentHash) -> Result<(), BlobError> {
    if expected != actual {
        return Err(BlobError::WrongHash { expected, actual });
    }
    Ok(())
}

fn copy_hashing(
    from: &mut impl Read,
    to: &mut impl Write,
    hasher: &mut blake3::Hasher,
) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 17];
    let mut size = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(size),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        hasher.update(bytes);
        to.write_all(bytes)?;
        size += read as u64;
    }
}

fn open_untrusted(path: &Path) -> Result<File, BlobError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => Ok(File::from(file)),
        // A link; a socket or a device without a driver.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
            Err(BlobError::NotRegular { path: path.to_path_buf() })
        }
        Err(e) => Err(at("open", path)(e.into()).into()),
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    fs::read_dir(dir)
        .and_then(|list| list.map(|entry| entry.map(|e| e.path())).collect())
        .map_err(at("list", dir))
}

/// The hash in a file name `<hash>.<extension>`.
fn named(path: &Path, extension: &str) -> Option<ContentHash> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(extension)?.strip_suffix('.')?.parse().ok()
}
