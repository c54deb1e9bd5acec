//! Getting a stored blob's bytes out, and checking what lies on the disk.
//!
//! Invariant: bytes that are copied out or read as a whole have the hash that was asked for.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use protocol::ids::ContentHash;

use super::store::BlobStore;
use super::tree::outboard_bytes;
use super::{BlobError, BlobFile, ServedBlob, outboard};
use crate::durable::{self, at};

/// What [`BlobStore::verify`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Data and hash tree are what they were.
    Intact,
    /// They are not: delete the blob and fetch it again.
    Damaged,
}

impl BlobStore {
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
        match self.entry(hash).is_some() {
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

    /// Opens a blob for sending; a partial one, too: see [`ServedBlob::has`].
    pub fn open_for_serving(&self, hash: &ContentHash) -> Result<ServedBlob, BlobError> {
        let Some(size) = self.size(hash) else { return self.partial_files().serve(hash) };
        let data = BlobFile::new(self.open_data(hash)?);
        let outboard = match outboard_bytes(size) {
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
        let stored = match outboard_bytes(size) {
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

    fn open_part(&self, hash: &ContentHash, extension: &str) -> Result<File, BlobError> {
        let mut path = self.path(hash, extension);
        if self.entry(hash).is_none()
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
