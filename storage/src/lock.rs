//! One writer per directory (and per signer guard).
//!
//! An advisory `flock` on a file whose content names the holder. The kernel releases it when the
//! holder ends in any way, so there is no stale lock. Deliberately absent: waiting.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;
use thiserror::Error;

use crate::durable::{self, FileError, at};

/// Why a lock was not acquired.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody else holds it.
    #[error(
        "{} is in use by another process ({holder}): stop that process or choose another \
         directory",
        path.display()
    )]
    InUse {
        /// What is locked.
        path: PathBuf,
        /// The holder as it named itself: `pid 1234`.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
}

/// An exclusive lock on a file, held until dropped.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

/// Closing the file releases the lock only when no child process that is just being started holds
/// a copy of the descriptor; unlocking releases it at once.
impl Drop for FileLock {
    fn drop(&mut self) {
        if let Err(error) = FileExt::unlock(&self.file) {
            tracing::warn!(%error, "a lock is released only by closing its file");
        }
    }
}

impl FileLock {
    /// Locks `lock_path`, creating it; `subject` is what the error message names.
    pub fn acquire(lock_path: &Path, subject: &Path) -> Result<Self, LockError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(lock_path)
            .map_err(at("open lock file", lock_path))?;
        let locked = FileExt::try_lock_exclusive(&file).map_err(at("lock", lock_path))?;
        if !locked {
            let mut holder = String::new();
            // The name is a courtesy: the lock is refused whether or not it can be read.
            let read = Read::by_ref(&mut file).take(64).read_to_string(&mut holder);
            let holder = match read {
                Ok(_) if !holder.trim().is_empty() => holder.trim().to_string(),
                Ok(_) | Err(_) => "pid unknown".to_string(),
            };
            return Err(LockError::InUse { path: subject.to_path_buf(), holder });
        }
        let name = format!("pid {}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(name.as_bytes()))
            .map_err(at("write lock file", lock_path))?;
        Ok(Self { file })
    }
}

/// The lock on a data directory: file `LOCK` in it.
#[derive(Debug)]
pub struct DirectoryLock {
    _lock: FileLock,
    dir: PathBuf,
}

impl DirectoryLock {
    /// Locks `dir`, creating it.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        durable::create_dir(dir)?;
        let lock = FileLock::acquire(&dir.join("LOCK"), dir)?;
        Ok(Self { _lock: lock, dir: dir.to_path_buf() })
    }

    /// The locked directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_lock_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirectoryLock::acquire(dir.path()).unwrap();
        let refused = DirectoryLock::acquire(dir.path()).unwrap_err().to_string();
        let expected = format!("in use by another process (pid {})", std::process::id());
        assert!(refused.contains(&expected), "{refused}");
        drop(first);
        DirectoryLock::acquire(dir.path()).unwrap();
    }
}
