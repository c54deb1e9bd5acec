//! The job directory: the only place a worker reads and writes.
//!
//! Names are [`FileName`]s, opened relative to the directory's descriptor and without following
//! links, so a job reaches nothing outside. Files are written under a temporary name and renamed:
//! a file under its own name is whole. They are not synced; the daemon copies what it keeps.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use protocol::worker::FileName;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// Missing, a link, a directory, unreadable.
    #[error("{name}: cannot be opened: {source}")]
    Open {
        /// The file.
        name: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not a regular file.
    #[error("{name}: not a regular file")]
    NotRegular {
        /// The file.
        name: String,
    },
    /// Larger than what the job can need.
    #[error("{name}: {actual} bytes where at most {max} are allowed")]
    TooLarge {
        /// The file.
        name: String,
        /// Its length.
        actual: u64,
        /// Largest length accepted.
        max: u64,
    },
    /// Reading or writing failed half way.
    #[error("{name}: {source}")]
    Io {
        /// The file.
        name: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl FileError {
    /// Whether whoever sent the job is to blame, rather than this machine.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

/// The directory that daemon and worker share.
#[derive(Debug)]
pub struct JobDirectory {
    directory: OwnedFd,
}

impl JobDirectory {
    /// Opens the directory.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
            FileError::Open { name: path.display().to_string(), source: errno.into() }
        })?;
        Ok(Self { directory })
    }

    /// Opens a regular file for reading and tells its length.
    pub fn file(&self, name: &FileName) -> Result<(File, u64), FileError> {
        let open_error =
            |errno: Errno| FileError::Open { name: name.as_str().to_owned(), source: errno.into() };
        // NONBLOCK: opening a FIFO must not hang; it is refused just below.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.directory, name.as_str(), flags, Mode::empty())
            .map_err(open_error)?;
        let file = File::from(file);
        let metadata = file.metadata().map_err(|source| io_error(name, source))?;
        if !metadata.is_file() {
            return Err(FileError::NotRegular { name: name.as_str().to_owned() });
        }
        Ok((file, metadata.len()))
    }

    /// Reads a whole file of at most `max` bytes.
    pub fn read(&self, name: &FileName, max: u64) -> Result<Vec<u8>, FileError> {
        let too_large =
            |actual| FileError::TooLarge { name: name.as_str().to_owned(), actual, max };
        let (file, length) = self.file(name)?;
        if length > max {
            return Err(too_large(length));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        // One byte more than allowed, to notice a file that grows while it is read.
        file.take(max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|source| io_error(name, source))?;
        let actual = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if actual > max { Err(too_large(actual)) } else { Ok(bytes) }
    }

    /// Writes a whole file, replacing one of the same name.
    pub fn write(&self, name: &FileName, bytes: &[u8]) -> Result<(), FileError> {
        self.write_in(name, bytes).map_err(|source| io_error(name, source))
    }

    fn write_in(&self, name: &FileName, bytes: &[u8]) -> Result<(), std::io::Error> {
        let mut pending = self.create_in(name)?;
        pending.write_all(bytes)?;
        pending.commit_in(false)
    }

    /// Begins a file that is written piece by piece and appears under its name when committed.
    pub fn create(&self, name: &FileName) -> Result<Pending<'_>, FileError> {
        self.create_in(name).map_err(|source| io_error(name, source))
    }

    fn create_in(&self, name: &FileName) -> Result<Pending<'_>, std::io::Error> {
        // A leading dot: no `FileName` collides with it. A killed worker may have left one.
        let temporary = format!(".{}.tmp", name.as_str());
        match rustix::fs::unlinkat(&self.directory, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.directory, &temporary, flags, mode)?;
        let file = BufWriter::new(File::from(file));
        Ok(Pending { directory: &self.directory, name: name.clone(), temporary, file })
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &FileName) -> Result<(), FileError> {
        match rustix::fs::unlinkat(&self.directory, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(io_error(name, errno.into())),
        }
    }
}

/// A file that is being written. Dropped without a commit, it leaves only its temporary name.
pub struct Pending<'a> {
    directory: &'a OwnedFd,
    name: FileName,
    temporary: String,
    file: BufWriter<File>,
}

impl Pending<'_> {
    /// Gives the file its name. With `durable` it survives a power cut from here on.
    pub fn commit(self, durable: bool) -> Result<(), FileError> {
        let name = self.name.clone();
        self.commit_in(durable).map_err(|source| io_error(&name, source))
    }

    fn commit_in(mut self, durable: bool) -> Result<(), std::io::Error> {
        self.file.flush()?;
        if durable {
            self.file.get_ref().sync_data()?;
        }
        let name = self.name.as_str();
        rustix::fs::renameat(self.directory, &self.temporary, self.directory, name)?;
        if durable {
            rustix::fs::fsync(self.directory)?;
        }
        Ok(())
    }
}

impl Write for Pending<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

fn io_error(name: &FileName, source: std::io::Error) -> FileError {
    FileError::Io { name: name.as_str().to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> FileName {
        FileName::new(text).expect("a plain name")
    }

    #[test]
    fn write_read_replace_and_refuse() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = JobDirectory::open(folder.path()).expect("opens");
        files.write(&name("a"), b"first").expect("written");
        files.write(&name("a"), b"second").expect("replaced");
        assert_eq!(files.read(&name("a"), 6).expect("read"), b"second");
        assert!(matches!(files.read(&name("a"), 5), Err(FileError::TooLarge { .. })));
        assert!(matches!(files.read(&name("b"), 5), Err(FileError::Open { .. })));

        std::os::unix::fs::symlink("a", folder.path().join("link")).expect("linked");
        assert!(matches!(files.read(&name("link"), 9), Err(FileError::Open { .. })));
        std::fs::create_dir(folder.path().join("dir")).expect("made");
        assert!(matches!(files.read(&name("dir"), 9), Err(FileError::NotRegular { .. })));
        let mut pending = files.create(&name("c")).expect("begun");
        pending.write_all(b"pieces").expect("written");
        assert!(files.file(&name("c")).is_err(), "not there before it is whole");
        pending.commit(true).expect("committed");
        assert_eq!(files.read(&name("c"), 6).expect("read"), b"pieces");
        files.remove(&name("c")).expect("removed");
        files.remove(&name("c")).expect("nothing to remove");

        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("listed").collect();
        assert_eq!(left.len(), 3, "no temporary files stay");
    }
}
