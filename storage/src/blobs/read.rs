//! Getting a stored blob's bytes out, and checking what lies on the disk.
//!
//! Invariant: bytes that are copied out or read as a whole have the hash that was asked for.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use protocol::ids::ContentHash;

use super::index::{Entry, Place};
use super::small::SmallPlace;
use super::store::BlobStore;
use super::tree::outboard_bytes;
use super::{BlobError, BlobFile, ServedBlob, outboard};
use crate::durable::{self, at};

/// How often a small blob is looked for while its segment is rewritten again and again.
const LOOKS_MAX: usize = 8;

/// What [`BlobStore::verify`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Data and hash tree are what they were.
    Intact,
    /// They are not: delete the blob and fetch it again.
    Damaged,
}

/// A blob's bytes and where its hash tree is.
pub(super) enum Source {
    /// A small blob, checked.
    Memory(Bytes),
    File {
        data: File,
        path: PathBuf,
        tree: PathBuf,
    },
}

impl BlobStore {
    /// Opens whatever has the bytes.
    pub(super) fn source(&self, hash: &ContentHash) -> Result<Source, BlobError> {
        for _ in 0..LOOKS_MAX {
            let (path, tree) = match self.entry(hash) {
                Some(Entry { place: Place::File, .. }) => {
                    (self.path(hash, "data"), self.path(hash, "obao4"))
                }
                Some(Entry { place: Place::Small(place), .. }) => {
                    match self.read_small(hash, place)? {
                        Some(bytes) => return Ok(Source::Memory(bytes.into())),
                        // Its segment was rewritten: it is somewhere else now.
                        None => continue,
                    }
                }
                Some(Entry { place: Place::Referenced, .. }) => return self.referenced(hash),
                None => match self.inner.attached.get(hash) {
                    Some(attached) => (attached.data, attached.tree),
                    None => break,
                },
            };
            return match File::open(&path) {
                Ok(data) => Ok(Source::File { data, path, tree }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Err(BlobError::NotFound(*hash)),
                Err(e) => Err(at("open", &path)(e).into()),
            };
        }
        Err(BlobError::NotFound(*hash))
    }

    fn read_small(
        &self,
        hash: &ContentHash,
        place: SmallPlace,
    ) -> Result<Option<Vec<u8>>, BlobError> {
        match self.small().get(hash, place) {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            Ok(None) => Err(BlobError::Damaged(*hash)),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the file that a blob refers to; a changed one is forgotten.
    fn referenced(&self, hash: &ContentHash) -> Result<Source, BlobError> {
        let (reference, tree) = {
            let references = self.references();
            let reference = references.get(hash).cloned().ok_or(BlobError::NotFound(*hash))?;
            (reference, references.tree(hash))
        };
        if let Some(data) = reference.open()? {
            return Ok(Source::File { data, path: reference.path, tree });
        }
        self.delete(hash)?;
        Err(BlobError::Changed { hash: *hash, path: reference.path })
    }

    /// Reads a blob of at most `max_bytes` and checks its hash.
    pub fn read_all(&self, hash: &ContentHash, max_bytes: u64) -> Result<Vec<u8>, BlobError> {
        let size = self.size(hash).ok_or(BlobError::NotFound(*hash))?;
        if size > max_bytes {
            return Err(BlobError::TooLarge { size, max: max_bytes });
        }
        let bytes = match self.source(hash)? {
            Source::Memory(bytes) => bytes.into(),
            Source::File { data, path, .. } => {
                let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
                data.take(size).read_to_end(&mut bytes).map_err(at("read", &path))?;
                bytes
            }
        };
        check_hash(*hash, ContentHash::of(&bytes))?;
        Ok(bytes)
    }

    /// Opens the bytes for reading. They were right when they were stored and are not checked now.
    pub fn open_data(&self, hash: &ContentHash) -> Result<File, BlobError> {
        match self.source(hash)? {
            Source::File { data, .. } => Ok(data),
            Source::Memory(bytes) => {
                let path = self.spill(hash, &bytes)?;
                Ok(File::open(&path).map_err(at("open", &path))?)
            }
        }
    }

    /// The file of a stored blob, for reading. It was right when it was stored. A small blob gets
    /// a file of its own by this.
    pub fn data_path(&self, hash: &ContentHash) -> Result<PathBuf, BlobError> {
        if self.entry(hash).is_none() {
            return Err(BlobError::NotFound(*hash));
        }
        match self.source(hash)? {
            Source::File { path, .. } => Ok(path),
            Source::Memory(bytes) => self.spill(hash, &bytes),
        }
    }

    /// Writes a small blob to a file besides.
    fn spill(&self, hash: &ContentHash, bytes: &[u8]) -> Result<PathBuf, BlobError> {
        let path = self.path(hash, "data");
        if fs::metadata(&path).is_ok_and(|found| found.len() == bytes.len() as u64) {
            return Ok(path);
        }
        durable::create_dir(durable::parent_of(&path).unwrap_or(&self.inner.dir))?;
        let mut temp = self.temporary()?;
        let written = temp.file.write_all(bytes).and_then(|()| temp.file.sync_data());
        written.map_err(at("write", temp.path()))?;
        fs::rename(temp.path(), &path).map_err(at("rename into place", &path))?;
        Ok(path)
    }

    /// Copies a blob to a new file at `to`, checking its hash; a wrong copy is removed.
    pub fn copy_to(&self, hash: &ContentHash, to: &Path) -> Result<u64, BlobError> {
        let source = self.source(hash)?;
        let mut target = File::create_new(to).map_err(at("create", to))?;
        let mut hasher = blake3::Hasher::new();
        let copied = match source {
            Source::File { mut data, .. } => copy_hashing(&mut data, &mut target, &mut hasher),
            Source::Memory(bytes) => copy_hashing(&mut &bytes[..], &mut target, &mut hasher),
        };
        let copied = copied.and_then(|size| target.sync_all().map(|()| size));
        let actual = ContentHash::from_bytes(*hasher.finalize().as_bytes());
        let result = copied
            .map_err(|source| BlobError::from(at("copy to", to)(source)))
            .and_then(|size| check_hash(*hash, actual).map(|()| size));
        if result.is_err() {
            durable::remove_if_present(to)?;
        }
        result
    }

    /// Opens a blob for sending; a partial one, too: see [`ServedBlob::has`].
    pub fn open_for_serving(&self, hash: &ContentHash) -> Result<ServedBlob, BlobError> {
        let Some(size) = self.size(hash) else { return self.partial_files().serve(hash) };
        let (data, tree) = match self.source(hash)? {
            Source::Memory(bytes) => (BlobFile::memory(bytes), BlobFile::empty()),
            Source::File { data, .. } if outboard_bytes(size) == 0 => {
                (BlobFile::new(data), BlobFile::empty())
            }
            Source::File { data, tree, .. } => match File::open(&tree) {
                Ok(file) => (BlobFile::new(data), BlobFile::new(file)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(BlobError::NotFound(*hash));
                }
                Err(e) => return Err(at("open", &tree)(e).into()),
            },
        };
        Ok(ServedBlob::new(*hash, size, data, tree))
    }

    /// Reads data and hash tree again and compares them with the name.
    pub fn verify(&self, hash: &ContentHash) -> Result<Verification, BlobError> {
        let size = self.size(hash).ok_or(BlobError::NotFound(*hash))?;
        let found = match self.source(hash) {
            Ok(Source::Memory(_)) => Found { is_data_right: true, is_tree_right: true },
            Ok(Source::File { data, path, tree }) => check_files(hash, size, &data, &path, &tree)?,
            Err(BlobError::Damaged(_)) => return Ok(Verification::Damaged),
            Err(error) => return Err(error),
        };
        let is_intact = found.is_data_right && found.is_tree_right;
        Ok(if is_intact { Verification::Intact } else { Verification::Damaged })
    }
}

/// What a blob's files were found to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) is_data_right: bool,
    pub(super) is_tree_right: bool,
}

/// Hashes a blob's file and compares its hash tree.
pub(super) fn check_files(
    hash: &ContentHash,
    size: u64,
    data: &File,
    path: &Path,
    tree: &Path,
) -> Result<Found, BlobError> {
    if data.metadata().map_err(at("read", path))?.len() != size {
        return Ok(Found { is_data_right: false, is_tree_right: false });
    }
    let stored: Option<Box<dyn Read>> = match outboard_bytes(size) {
        0 => Some(Box::new(io::empty())),
        _ => match File::open(tree) {
            Ok(file) => Some(Box::new(io::BufReader::new(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(at("open", tree)(e).into()),
        },
    };
    let equal = stored.is_some();
    let mut compare = Compare { stored: stored.unwrap_or_else(|| Box::new(io::empty())), equal };
    let is_data_right = match outboard::hash_tree(data, size, &mut compare) {
        Ok(actual) => actual == *hash,
        // It was cut meanwhile.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(at("read", path)(error).into()),
    };
    let is_tree_right = compare.equal && compare.at_end();
    Ok(Found { is_data_right, is_tree_right })
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

pub(super) fn check_hash(expected: ContentHash, actual: ContentHash) -> Result<(), BlobError> {
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
