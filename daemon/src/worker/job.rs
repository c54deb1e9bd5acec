//! Exclusive use of the worker for steps that share files.
//!
//! Invariant: files go in and come out as copies. Nothing in the directory is a link into the
//! blob store, nothing is opened through a link that the worker made, and names are
//! [`FileName`]s. Results are not trusted until they lie in the blob store under their hash.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::ids::ContentHash;
use protocol::worker::{FileName, Progress, WorkerOutcome, WorkerRequest};
use rustix::fs::{Mode, OFlags};
use storage::BlobStore;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::lanes::{Lane, Permit};
use super::supervisor::Order;
use super::{Access, JobFileError, WorkerError};

/// The worker and an empty directory, until dropped; then the directory is emptied.
pub struct Job {
    access: Access,
    permit: Arc<Permit>,
    runtime: Handle,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("directory", &self.access.directory).finish_non_exhaustive()
    }
}

impl Job {
    pub(super) async fn begin(access: Access, lane: Lane) -> Result<Self, WorkerError> {
        let Some(permit) = access.lanes.acquire(lane).await else {
            return Err(WorkerError::Unavailable("too many jobs are waiting".to_owned()));
        };
        let job = Self { access, permit: Arc::new(permit), runtime: Handle::current() };
        // Whatever a killed worker left behind after the last job was dropped.
        job.blocking(".", empty).await?;
        Ok(job)
    }

    /// Where the files lie.
    pub fn directory(&self) -> &Path {
        &self.access.directory
    }

    /// Writes a new file.
    ///
    /// # Errors
    /// When there is one of that name, or the disk is full.
    pub async fn put_bytes(&self, name: &FileName, bytes: Vec<u8>) -> Result<(), JobFileError> {
        let file = name.clone();
        self.blocking(name.as_str(), move |directory| {
            File::create_new(directory.join(file.as_str()))?.write_all(&bytes)
        })
        .await
    }

    /// Copies a trusted file of at most `max_bytes` in; for private data, which is no blob.
    ///
    /// # Errors
    /// When it is not a regular file, is larger, or cannot be copied.
    pub async fn put_file(
        &self,
        name: &FileName,
        from: &Path,
        max_bytes: u64,
    ) -> Result<u64, JobFileError> {
        let (file, from) = (name.clone(), from.to_path_buf());
        self.blocking(name.as_str(), move |directory| {
            let source = File::open(&from)?;
            if !source.metadata()?.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            let mut target = File::create_new(directory.join(file.as_str()))?;
            let copied = io::copy(&mut source.take(max_bytes.saturating_add(1)), &mut target)?;
            if copied > max_bytes {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large"));
            }
            Ok(copied)
        })
        .await
    }

    /// Copies a blob in and checks its hash. Returns its length in bytes.
    ///
    /// # Errors
    /// When the blob is not stored here or is damaged.
    pub async fn put_blob(
        &self,
        name: &FileName,
        store: &BlobStore,
        hash: ContentHash,
    ) -> Result<u64, JobFileError> {
        let (path, store) = (self.path(name), store.clone());
        let copied = self.access.tracker.spawn_blocking(move || store.copy_to(&hash, &path)).await;
        copied
            .map_err(|error| JobFileError::io(name.as_str(), error.into()))?
            .map_err(|error| JobFileError::blob(name.as_str(), error))
    }

    /// Runs one step. `deadline` counts from when the worker gets the request; a worker that is
    /// just being started again is waited for first. Progress is passed on in order and without
    /// loss: a receiver that is not read holds the worker up. Failures leave the files in place.
    ///
    /// Dropping the future cancels the step: the worker is killed and started again.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub async fn run(
        &mut self,
        request: WorkerRequest,
        deadline: Duration,
        progress: Option<mpsc::Sender<Progress>>,
    ) -> Result<WorkerOutcome, WorkerError> {
        let (reply, answer) = oneshot::channel();
        let permit = Arc::clone(&self.permit);
        let order = Order { request, deadline, progress, reply, _permit: permit };
        self.access.orders.send(order).await.map_err(|_| WorkerError::Cancelled)?;
        answer.await.map_err(|_| WorkerError::Cancelled)?
    }

    /// The path of an output that is a regular file of at most `max_bytes`. The worker may change
    /// it at any time: give it only to [`BlobStore::put_file`], which checks again and copies.
    ///
    /// # Errors
    /// When it is missing, something else, or larger.
    pub async fn take(&self, name: &FileName, max_bytes: u64) -> Result<PathBuf, JobFileError> {
        let path = self.path(name);
        self.opened(name, max_bytes, |_| Ok(())).await.map(|()| path)
    }

    /// Reads an output of at most `max_bytes`.
    ///
    /// # Errors
    /// As [`Job::take`].
    pub async fn read(&self, name: &FileName, max_bytes: u64) -> Result<Vec<u8>, JobFileError> {
        let too_large =
            |size| JobFileError::TooLarge { name: name.as_str().to_owned(), size, max: max_bytes };
        let bytes = self
            .opened(name, max_bytes, move |file| {
                let mut bytes = Vec::new();
                file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map(|_| bytes)
            })
            .await?;
        let size = bytes.len() as u64;
        if size > max_bytes { Err(too_large(size)) } else { Ok(bytes) }
    }

    /// Copies an output of at most `max_bytes` into the blob store.
    ///
    /// # Errors
    /// As [`Job::take`], and when the store cannot keep it.
    pub async fn keep(
        &self,
        name: &FileName,
        store: &BlobStore,
        max_bytes: u64,
    ) -> Result<ContentHash, JobFileError> {
        let (path, store) = (self.path(name), store.clone());
        let kept =
            self.access.tracker.spawn_blocking(move || store.put_file(&path, max_bytes)).await;
        kept.map_err(|error| JobFileError::io(name.as_str(), error.into()))?
            .map_err(|error| JobFileError::blob(name.as_str(), error))
    }

    fn path(&self, name: &FileName) -> PathBuf {
        self.access.directory.join(name.as_str())
    }

    /// Opens an output without following links and does something with it.
    async fn opened<T: Send + 'static>(
        &self,
        name: &FileName,
        max_bytes: u64,
        with: impl FnOnce(File) -> io::Result<T> + Send + 'static,
    ) -> Result<T, JobFileError> {
        let path = self.path(name);
        let text = name.as_str().to_owned();
        let task = self.access.tracker.spawn_blocking(move || {
            // NONBLOCK: opening a pipe must not wait for its other end.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = match rustix::fs::open(&path, flags, Mode::empty()) {
                Ok(file) => File::from(file),
                Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
                    return Err(JobFileError::NotRegular { name: text });
                }
                Err(errno) => return Err(JobFileError::io(&text, errno.into())),
            };
            let metadata = file.metadata().map_err(|error| JobFileError::io(&text, error))?;
            if !metadata.is_file() {
                return Err(JobFileError::NotRegular { name: text });
            }
            let size = metadata.len();
            if size > max_bytes {
                return Err(JobFileError::TooLarge { name: text, size, max: max_bytes });
            }
            with(file).map_err(|error| JobFileError::io(&text, error))
        });
        task.await.map_err(|error| JobFileError::io(name.as_str(), error.into()))?
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, JobFileError> {
        let directory = self.access.directory.clone();
        let task = self.access.tracker.spawn_blocking(move || work(&directory));
        task.await
            .unwrap_or_else(|error| Err(error.into()))
            .map_err(|error| JobFileError::io(name, error))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let directory = self.access.directory.clone();
        let permit = Arc::clone(&self.permit);
        // The next job begins after this, because the permit goes with it.
        let wipe = move || {
            if let Err(error) = empty(&directory) {
                tracing::warn!(%error, "cannot empty the job directory");
            }
            drop(permit);
        };
        drop(self.access.tracker.spawn_blocking_on(wipe, &self.runtime));
    }
}

/// Removes what is in the directory, which itself stays: the worker holds it open. Makes it if it
/// is not there yet.
pub(super) fn empty(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let removed = if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
