//! The snapshots that a data directory keeps: `snapshots/<height, 20 digits>-<hash>.snapshot`.
//!
//! Invariant: a file with such a name was written whole, synced, read back and found to have its
//! root. It may have been damaged since; whoever relies on one verifies it again.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use protocol::amount::Height;
use protocol::ids::{ChainId, ContentHash};

use super::{Head, Info, SnapshotError, Writer, folder, verify_hash};
use crate::durable::{self, FileError, at};
use crate::state::StateView;

/// A kept snapshot, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Retained {
    /// Height of the state.
    pub height: Height,
    /// BLAKE3 of the file.
    pub hash: ContentHash,
    /// The file.
    pub path: PathBuf,
}

impl Retained {
    /// Where its hash tree lies while it is served to others.
    pub fn tree(&self) -> PathBuf {
        self.path.with_extension("obao4")
    }
}

/// The kept snapshots of a data directory; a handle that any thread may use.
#[derive(Clone, Debug)]
pub struct Snapshots {
    dir: PathBuf,
    chain: ChainId,
}

impl Snapshots {
    /// Of a data directory.
    pub fn new(dir: &Path, chain: &ChainId) -> Self {
        Self { dir: folder(dir), chain: *chain }
    }

    /// Writes a snapshot of the state as it stands, and keeps it.
    ///
    /// Commits wait while the state is read (about a second for a million entries), not while the
    /// file is synced and read back.
    pub fn take(&self, view: &StateView) -> Result<(Info, Retained), SnapshotError> {
        durable::create_dir(&self.dir)?;
        let next = self.dir.join("next.tmp");
        let info = write(view, &self.chain, &next)?;
        verify_hash(&next, &self.chain, &info.hash)?;
        Ok((info, self.keep(&next, &info)?))
    }

    /// Moves a verified file of the same file system among the kept ones.
    pub(crate) fn keep(&self, file: &Path, info: &Info) -> Result<Retained, FileError> {
        durable::create_dir(&self.dir)?;
        let (height, hash) = (info.head.height, info.hash);
        let path = self.dir.join(format!("{:020}-{hash}.snapshot", height.get()));
        fs::rename(file, &path).map_err(at("rename into place", &path))?;
        durable::sync_dir(&self.dir)?;
        Ok(Retained { height, hash, path })
    }

    /// The kept snapshots, ascending by height.
    pub fn list(&self) -> Result<Vec<Retained>, FileError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(at("list", &self.dir)(e)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(at("list", &self.dir))?.path();
            found.extend(parse(&path));
        }
        found.sort();
        Ok(found)
    }

    /// Reads a kept snapshot again, all of it.
    pub fn verify(&self, retained: &Retained) -> Result<Info, SnapshotError> {
        verify_hash(&retained.path, &self.chain, &retained.hash)
    }

    /// Deletes one.
    pub fn remove(&self, retained: &Retained) -> Result<(), FileError> {
        durable::remove_if_present(&retained.path)?;
        durable::remove_if_present(&retained.tree())?;
        durable::sync_dir(&self.dir)
    }
}

fn parse(path: &Path) -> Option<Retained> {
    let name = path.file_name()?.to_str()?.strip_suffix(".snapshot")?;
    let (height, hash) = name.split_once('-')?;
    let height = Height::new(height.parse().ok().filter(|_| height.len() == 20)?);
    Some(Retained { height, hash: hash.parse().ok()?, path: path.to_path_buf() })
}

/// Writes the state to a file, durably.
pub(crate) fn write(view: &StateView, chain: &ChainId, path: &Path) -> Result<Info, SnapshotError> {
    let file = File::create(path).map_err(at("create", path))?;
    let (info, out) = view.read(|state| {
        let tip = state.tip().ok_or(SnapshotError::NoState)?;
        let head = Head { chain: *chain, height: tip.height, block: tip.block, root: state.root() };
        let mut writer = Writer::new(BufWriter::with_capacity(1 << 18, file), head)?;
        for entry in state.entries() {
            let (key, value) = entry?;
            writer.entry(&key, &value)?;
        }
        writer.finish()
    })?;
    let file = out.into_inner().map_err(|error| SnapshotError::Io(error.into_error()))?;
    file.sync_all().map_err(at("sync", path))?;
    durable::sync_parent(path)?;
    Ok(info)
}
