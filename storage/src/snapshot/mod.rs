//! Snapshots: the whole state at one height as one canonical file, so that a chain may be pruned
//! behind it and a new node may start from it.
//!
//! ```text
//! file  = "AYNISNP" (7) | schema digit (1) | chain (32) | height u64 | block (32) | root (32)
//!         | entry ... | end
//! entry = key length u16 | value length u32 | key | value       keys strictly ascending
//! end   = 0xffff | number of entries u64                        all integers little-endian
//! ```
//!
//! Invariant: the same state at the same height gives the same bytes on every node, so their
//! BLAKE3 ([`Info::hash`]) can be committed in a header. Nothing of a snapshot is used before all
//! of it was read and its values were found to have the root.
//!
//! Deliberately absent: compression (blobs are sent as they are), and deciding whether a root is
//! the chain's: the caller knows it from a header.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use protocol::amount::Height;
use protocol::ids::{BlockHash, ChainId, ContentHash, StateRoot};
use thiserror::Error;

use crate::durable::{FileError, at};
use crate::integrity;
use crate::state::CommitError;

mod format;
mod retained;
mod stage;

pub use format::{Entry, Reader, Writer};
pub use retained::{Retained, Snapshots};
pub(crate) use stage::complete;
pub use stage::{StageError, stage};

/// Version of the format.
pub const SCHEMA: u8 = 1;
/// Memory for the entries' hashes while a root is computed; a larger state is read several times.
const ROOT_MEMORY_BYTES: usize = 64 * 1024 * 1024;

/// What a snapshot says of itself at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The network.
    pub chain: ChainId,
    /// The state is the one after the block of this height.
    pub height: Height,
    /// That block.
    pub block: BlockHash,
    /// The state's root.
    pub root: StateRoot,
}

/// A verified snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// What it is of.
    pub head: Head,
    /// BLAKE3 of the file.
    pub hash: ContentHash,
    /// Entries.
    pub entries: u64,
    /// Length of the file.
    pub bytes: u64,
}

/// The first thing wrong with a snapshot.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// It does not begin as one.
    #[error("the file is not a snapshot of a ledger")]
    NotASnapshot,
    /// Written by a newer program.
    #[error("the snapshot has schema {0}, this program knows up to {SCHEMA}: upgrade the program")]
    Newer(u8),
    /// Another network's.
    #[error("the snapshot is of network {found}, not of {expected}")]
    OtherChain {
        /// Its network.
        found: ChainId,
        /// The network expected.
        expected: ChainId,
    },
    /// It ends too early.
    #[error("the snapshot ends in the middle of entry {0}")]
    Truncated(u64),
    /// A key or value over its limit.
    #[error("entry {entry} has a key of {key} bytes and a value of {value} bytes, over the limits")]
    TooLarge {
        /// Which entry, from 0.
        entry: u64,
        /// Length of its key.
        key: usize,
        /// Length of its value.
        value: usize,
    },
    /// Keys do not ascend.
    #[error("entry {0} does not come after the one before it")]
    Unsorted(u64),
    /// The end states another number of entries.
    #[error("the snapshot states {stated} entries and has {found}")]
    Count {
        /// What it states.
        stated: u64,
        /// What it has.
        found: u64,
    },
    /// Bytes after the end.
    #[error("bytes follow the end of the snapshot")]
    Trailing,
    /// Not the bytes that were promised.
    #[error("the snapshot has hash {found}, {expected} was promised")]
    OtherHash {
        /// Its hash.
        found: ContentHash,
        /// The hash expected.
        expected: ContentHash,
    },
    /// Its values are not those of its root.
    #[error("the snapshot's values have root {found}, it states {stated}")]
    OtherRoot {
        /// Root of the values.
        found: StateRoot,
        /// Root stated.
        stated: StateRoot,
    },
    /// A state before genesis has none.
    #[error("there is no state yet to make a snapshot of")]
    NoState,
    /// The state cannot be read.
    #[error("the state cannot be read")]
    State(#[from] sled::Error),
    /// The state cannot be written.
    #[error("the snapshot's state cannot be stored")]
    Commit(#[from] CommitError),
    /// Reading or writing failed.
    #[error("the snapshot cannot be read or written")]
    Io(#[from] io::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A file opened as a snapshot.
pub(crate) fn open(path: &Path) -> Result<Reader<BufReader<File>>, SnapshotError> {
    let file = File::open(path).map_err(at("open", path))?;
    Reader::new(BufReader::with_capacity(1 << 18, file))
}

/// Reads all of a snapshot of `chain` and checks everything, its root too. Memory does not grow
/// with the file.
pub fn verify(path: &Path, chain: &ChainId) -> Result<Info, SnapshotError> {
    let mut reader = open(path)?;
    let head = *reader.head();
    if head.chain != *chain {
        return Err(SnapshotError::OtherChain { found: head.chain, expected: *chain });
    }
    while reader.next_entry()?.is_some() {}
    let info = reader.finish()?;
    let found = integrity::root_in_passes(info.entries, ROOT_MEMORY_BYTES, |visit| {
        let mut reader = open(path)?;
        while let Some((key, value)) = reader.next_entry()? {
            visit(key, value);
        }
        Ok::<_, SnapshotError>(())
    })?;
    if found != head.root {
        return Err(SnapshotError::OtherRoot { found, stated: head.root });
    }
    Ok(info)
}

/// As [`verify`], for bytes whose hash is known.
pub fn verify_hash(
    path: &Path,
    chain: &ChainId,
    expected: &ContentHash,
) -> Result<Info, SnapshotError> {
    let info = verify(path, chain)?;
    if info.hash != *expected {
        return Err(SnapshotError::OtherHash { found: info.hash, expected: *expected });
    }
    Ok(info)
}

/// Values of some keys of a verified snapshot, in the order of the keys.
pub fn values(path: &Path, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, SnapshotError> {
    let mut found = vec![None; keys.len()];
    let mut reader = open(path)?;
    while let Some((key, value)) = reader.next_entry()? {
        for (wanted, place) in keys.iter().zip(&mut found) {
            if *wanted == key {
                *place = Some(value.to_vec());
            }
        }
    }
    Ok(found)
}

/// Where a data directory keeps its snapshots.
pub(crate) fn folder(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}
