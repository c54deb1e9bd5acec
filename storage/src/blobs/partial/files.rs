//! The files of a partial blob, and what makes them durable.
//!
//! Invariant: the file of verified groups is written only after data and pairs were synced, so it
//! never claims what a power cut can take away; and never an older one over a newer one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::blobs::GroupRanges;
use protocol::ids::ContentHash;

use super::bits::Bits;
use crate::blobs::BlobError;
use crate::blobs::tree::outboard_bytes;
use crate::durable::{self, FileError, at};

/// Where the three files of one partial blob are.
#[derive(Clone, Debug)]
pub(in crate::blobs) struct Paths {
    pub(in crate::blobs) data: PathBuf,
    pub(in crate::blobs) pairs: PathBuf,
    pub(in crate::blobs) bits: PathBuf,
}

impl Paths {
    pub(in crate::blobs) fn of(folder: &Path, hash: &ContentHash) -> Self {
        let path = |extension| folder.join(format!("{hash}.{extension}"));
        Self { data: path("data"), pairs: path("obao4"), bits: path("bits") }
    }

    /// What the file of verified groups says, if it can be believed and the others fit it.
    pub(super) fn read(&self, hash: &ContentHash) -> Option<Bits> {
        let bits = Bits::decode(&fs::read(&self.bits).ok()?)?;
        let length = |path| fs::metadata(path).ok().map(|found| found.len());
        let pairs = match outboard_bytes(bits.size) {
            0 => true,
            bytes => length(&self.pairs) == Some(bytes),
        };
        let fits = bits.hash == *hash && length(&self.data) == Some(bits.size) && pairs;
        fits.then_some(bits)
    }

    /// Removes all of them; the claims first.
    pub(in crate::blobs) fn remove(&self) -> Result<(), FileError> {
        [&self.bits, &durable::temporary(&self.bits), &self.data, &self.pairs]
            .into_iter()
            .try_for_each(|path| durable::remove_if_present(path))
    }
}

/// Files that are open for writing, shared by the writer and its checkpoints.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) hash: ContentHash,
    pub(super) size: u64,
    pub(super) paths: Paths,
    pub(super) data: Arc<File>,
    /// None for a blob of one group.
    pub(super) pairs: Option<Arc<File>>,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    /// The newest checkpoint that was written.
    checkpoint: u64,
    /// The blob was finished or discarded: its files are no longer ours.
    closed: bool,
    /// A sync failed. What it should have written may be lost although a later sync succeeds, so
    /// nothing newer than the last checkpoint is claimed any more.
    failed: bool,
}

impl Files {
    /// Opens the files, which are there when `fresh` is false.
    pub(super) fn open(
        paths: Paths,
        hash: ContentHash,
        size: u64,
        fresh: bool,
    ) -> Result<Self, FileError> {
        let open = |path: &Path, length| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(fresh);
            let file = options.open(path).map_err(at("open", path))?;
            if fresh {
                // Sparse: what has not arrived takes no space.
                file.set_len(length).map_err(at("make room in", path))?;
            }
            Ok(Arc::new(file))
        };
        let data = open(&paths.data, size)?;
        let pairs = match outboard_bytes(size) {
            0 => None,
            bytes => Some(open(&paths.pairs, bytes)?),
        };
        Ok(Self { hash, size, paths, data, pairs, written: Mutex::default() })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a sync failed.
    pub(super) fn has_failed(&self) -> bool {
        self.written().failed
    }

    fn sync(&self) -> Result<(), FileError> {
        self.data.sync_data().map_err(at("sync", &self.paths.data))?;
        let Some(pairs) = &self.pairs else { return Ok(()) };
        pairs.sync_data().map_err(at("sync", &self.paths.pairs))
    }

    fn checkpoint(&self, number: u64, verified: GroupRanges) -> Result<(), FileError> {
        let mut written = self.written();
        if written.closed || number <= written.checkpoint {
            return Ok(());
        }
        if written.failed {
            let source = io::Error::other("an earlier sync failed; open the partial blob again");
            return Err(at("sync", &self.paths.data)(source));
        }
        self.sync().inspect_err(|_| written.failed = true)?;
        let bits = Bits { hash: self.hash, size: self.size, verified };
        durable::replace(&self.paths.bits, &bits.encode())?;
        written.checkpoint = number;
        Ok(())
    }

    /// Runs `last` when no checkpoint runs, and lets no later one touch the files.
    pub(super) fn close<T>(
        &self,
        last: impl FnOnce() -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        let mut written = self.written();
        let result = last()?;
        written.closed = true;
        Ok(result)
    }
}

/// What has been verified of a partial blob at one moment, to be made durable on any thread while
/// more arrives.
#[derive(Debug)]
#[must_use = "nothing is durable until it is run"]
pub struct Checkpoint {
    pub(super) files: Arc<Files>,
    pub(super) number: u64,
    pub(super) verified: GroupRanges,
}

impl Checkpoint {
    /// How many groups it makes durable.
    pub const fn groups(&self) -> u64 {
        self.verified.groups()
    }

    /// Syncs data and hash tree, then writes and syncs the file that claims them. When it
    /// returns, a power cut takes nothing away. Does nothing when a newer checkpoint was run, or
    /// when the blob was finished or discarded meanwhile.
    pub fn run(self) -> Result<(), BlobError> {
        Ok(self.files.checkpoint(self.number, self.verified)?)
    }
}
