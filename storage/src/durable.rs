//! The few file operations that everything durable is made of.
//!
//! Invariant: when [`replace`] or [`sync_dir`] returned, a power cut cannot undo what it did.
//! Deliberately absent: retries. A failed write is reported once and is fatal to the daemon.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A file operation that failed: what was tried, where, and (as source) why.
#[derive(Debug, Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    /// What was tried, as it follows "cannot".
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Whether the disk is full, over quota or the file at its size limit: nothing is damaged,
    /// and the same operation can succeed once there is space.
    pub fn is_out_of_space(&self) -> bool {
        is_out_of_space(&self.source)
    }
}

/// See [`FileError::is_out_of_space`].
pub(crate) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Adds operation and path to an `io::Error`; for `map_err`.
pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError { operation, path, source }
}

/// Makes creations, renames and removals in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(at("sync directory", dir))
}

/// Makes everything in `dir` durable: files, then the directories that name them.
pub(crate) fn sync_tree(dir: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(dir).map_err(at("list", dir))? {
        let entry = entry.map_err(at("list", dir))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(at("read", dir))?);
        if kind.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path).and_then(|file| file.sync_all()).map_err(at("sync", &path))?;
        }
    }
    sync_dir(dir)
}

/// Creates `dir` and its missing parents, durably.
pub(crate) fn create_dir(dir: &Path) -> Result<(), FileError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = parent_of(dir) {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(e) => return Err(at("create directory", dir)(e)),
    }
    match parent_of(dir) {
        Some(parent) => sync_dir(parent),
        None => sync_dir(Path::new(".")),
    }
}

/// The directory that holds `path`; `None` for a bare name or a root.
pub(crate) fn parent_of(path: &Path) -> Option<&Path> {
    path.parent().filter(|p| !p.as_os_str().is_empty())
}

/// Makes the directory entry of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), FileError> {
    sync_dir(parent_of(path).unwrap_or(Path::new(".")))
}

/// `path` with `.tmp` appended: where its next version is written.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Replaces `path` by `bytes`: readers see the old file or the new one, never a part.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let next = temporary(path);
    let mut file = File::create(&next).map_err(at("create", &next))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at("write", &next))?;
    fs::rename(&next, path).map_err(at("rename into place", path))?;
    sync_parent(path)
}

/// Removes `path` if it exists.
pub(crate) fn remove_if_present(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(at("remove", path)(e)),
    }
}
