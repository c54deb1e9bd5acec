//! Blobs whose bytes stay in a file of the user: only a reference is kept.
//!
//! ```text
//! DIR/blobs/refs/HASH.ref = magic "AYNIREF1" (8) | size, device, inode u64 LE
//!                         | modified, changed: seconds, nanoseconds i64 LE
//!                         | length of the path u32 LE | path | BLAKE3 of all before (32)
//! DIR/blobs/refs/HASH.obao4
//! ```
//!
//! **Invariant.** Before every use the file is compared with what it was when it was hashed:
//! device, inode, size, time of modification and of change. When any differs, the blob is no
//! longer here. What is served and copied is checked against the hash besides.
//! Deliberately absent: watching files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use protocol::ids::ContentHash;

use super::store::open_untrusted;
use super::{BlobError, tree::outboard_bytes};
use crate::durable::{self, FileError, at};

const MAGIC: [u8; 8] = *b"AYNIREF1";
/// The longest path that Linux takes.
const PATH_BYTES_MAX: usize = 4_096;

/// A file as it was when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub size: u64,
    /// Device, inode, and the seconds and nanoseconds of its modification and change.
    stamp: [u64; 6],
}

impl Reference {
    /// Of an open file.
    pub(super) fn of(path: &Path, file: &File) -> Result<Self, FileError> {
        let found = file.metadata().map_err(at("read", path))?;
        Ok(Self { path: path.to_path_buf(), size: found.len(), stamp: stamp(&found) })
    }

    /// Whether the file at the path is still the same.
    pub(super) fn is_unchanged(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| self.fits(&found))
    }

    fn fits(&self, found: &fs::Metadata) -> bool {
        found.is_file() && found.len() == self.size && stamp(found) == self.stamp
    }

    /// Opens the file; `None` when it is not the same any more.
    pub(super) fn open(&self) -> Result<Option<File>, BlobError> {
        let file = match open_untrusted(&self.path) {
            Ok(file) => file,
            Err(BlobError::NotRegular { .. }) => return Ok(None),
            Err(BlobError::File(error)) if error.source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let found = file.metadata().map_err(at("read", &self.path))?;
        Ok(self.fits(&found).then_some(file))
    }

    /// Bytes of the file that keeps it.
    pub fn encode(&self) -> Vec<u8> {
        let path = self.path.as_os_str().as_bytes();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.size.to_le_bytes());
        self.stamp.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend((path.len() as u32).to_le_bytes());
        bytes.extend(path);
        let checksum = blake3::hash(&bytes);
        bytes.extend(checksum.as_bytes());
        bytes
    }

    /// `None` when these are not the bytes of such a file, all of them.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
        if blake3::hash(body).as_bytes() != checksum {
            return None;
        }
        let (size, mut rest) = number(body.strip_prefix(&MAGIC)?)?;
        let mut stamp = [0; 6];
        for place in &mut stamp {
            (*place, rest) = number(rest)?;
        }
        let (length, path) = rest.split_first_chunk::<4>()?;
        let fits = path.len() == u32::from_le_bytes(*length) as usize
            && path.len() <= PATH_BYTES_MAX
            && !path.contains(&0);
        let path = PathBuf::from(OsStr::from_bytes(path));
        (fits && path.is_absolute()).then_some(Self { path, size, stamp })
    }
}

fn stamp(found: &fs::Metadata) -> [u64; 6] {
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    let [a, b, c, d] = times.map(i64::cast_unsigned);
    [found.dev(), found.ino(), a, b, c, d]
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

/// All references.
#[derive(Debug)]
pub(super) struct References {
    folder: PathBuf,
    known: BTreeMap<ContentHash, Reference>,
}

impl References {
    /// Reads them. A damaged one is removed: its blob is no longer here.
    pub(super) fn open(folder: PathBuf) -> Result<Self, FileError> {
        durable::create_dir(&folder)?;
        let mut references = Self { folder, known: BTreeMap::new() };
        let folder = references.folder.clone();
        let mut trees = Vec::new();
        for entry in fs::read_dir(&folder).map_err(at("list", &folder))? {
            let path = entry.map_err(at("list", &folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let hash = |ending: &str| name.strip_suffix(ending).and_then(|name| name.parse().ok());
            if let Some(hash) = hash(".obao4") {
                trees.push(hash);
            }
            let Some(hash) = hash(".ref") else { continue };
            match Reference::decode(&fs::read(&path).map_err(at("read", &path))?) {
                Some(reference) => drop(references.known.insert(hash, reference)),
                None => {
                    tracing::warn!(%hash, "the reference to a file is damaged and forgotten");
                    durable::remove_if_present(&path)?;
                }
            }
        }
        for hash in trees {
            if !references.known.contains_key(&hash) {
                durable::remove_if_present(&references.tree(&hash))?;
            }
        }
        Ok(references)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ContentHash, u64)> + '_ {
        self.known.iter().map(|(hash, reference)| (*hash, reference.size))
    }

    pub(super) fn get(&self, hash: &ContentHash) -> Option<&Reference> {
        self.known.get(hash)
    }

    /// Where the hash tree of a referenced file is.
    pub(super) fn tree(&self, hash: &ContentHash) -> PathBuf {
        self.folder.join(format!("{hash}.obao4"))
    }

    /// Keeps a reference durably. `tree` is the synced hash tree of the file, if it has one.
    pub(super) fn insert(
        &mut self,
        hash: ContentHash,
        reference: Reference,
        tree: &Path,
    ) -> Result<(), FileError> {
        if outboard_bytes(reference.size) > 0 {
            let target = self.tree(&hash);
            fs::rename(tree, &target).map_err(at("rename into place", &target))?;
        }
        durable::replace(&self.folder.join(format!("{hash}.ref")), &reference.encode())?;
        self.known.insert(hash, reference);
        Ok(())
    }

    /// Forgets one.
    pub(super) fn remove(&mut self, hash: &ContentHash) -> Result<(), FileError> {
        self.known.remove(hash);
        durable::remove_if_present(&self.folder.join(format!("{hash}.ref")))?;
        durable::remove_if_present(&self.tree(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_or_nothing() {
        let path = PathBuf::from("/a/file");
        let reference = Reference { path, size: 77, stamp: [1, 2, 3, 4, 5, 6] };
        let bytes = reference.encode();
        assert_eq!(Reference::decode(&bytes), Some(reference.clone()));
        for at in 0..bytes.len() {
            assert_eq!(Reference::decode(&bytes[..at]), None, "cut at {at}");
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(Reference::decode(&damaged), None, "byte {at}");
        }
        for path in ["relative", "/with\0zero", ""] {
            let hostile = Reference { path: path.into(), ..reference.clone() };
            assert_eq!(Reference::decode(&hostile.encode()), None, "{path:?}");
        }
    }
}
