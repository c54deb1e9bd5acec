//! What can go wrong with a job, as its owner sees it.

use std::sync::Arc;
use std::time::Duration;

use protocol::worker::WorkerFailure;
use storage::BlobError;
use thiserror::Error;

/// Why a job gave no outcome. Unless it is `Failed` or `Unavailable`, the worker was killed and is
/// being started again; the files of the job are still there.
#[derive(Clone, Debug, Error)]
pub enum WorkerError {
    /// The worker says that the job failed; it goes on with the next.
    #[error("the worker could not do the job: {}", .0.message)]
    Failed(WorkerFailure),
    /// The worker ended in the middle of the job: killed, out of memory, crashed.
    #[error("the worker died: {status}")]
    Died {
        /// Exit status or signal, and the last line that it printed.
        status: String,
    },
    /// No answer before the job's deadline.
    #[error("the worker was stopped after {} s without a result", .after.as_secs_f64())]
    TimedOut {
        /// The deadline.
        after: Duration,
    },
    /// An oversized or malformed frame, or an answer to another question.
    #[error("the worker sent nonsense: {0}")]
    Nonsense(String),
    /// There is no worker that could be asked.
    #[error("no worker is available: {0}")]
    Unavailable(String),
    /// The node is shutting down.
    #[error("the job was cancelled because the node is shutting down")]
    Cancelled,
    /// A file of the job could not be prepared or taken.
    #[error(transparent)]
    File(#[from] JobFileError),
}

/// What is wrong with a file of a job.
#[derive(Clone, Debug, Error)]
pub enum JobFileError {
    /// Reading or writing failed.
    #[error("file {name:?} of a job: {source}")]
    Io {
        /// The file.
        name: String,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// The worker made a link, a directory or a device where a file was expected.
    #[error("the worker's output {name:?} is not a regular file")]
    NotRegular {
        /// The file.
        name: String,
    },
    /// The worker wrote more than was asked for.
    #[error("the worker's output {name:?} has {size} bytes where at most {max} are allowed")]
    TooLarge {
        /// The file.
        name: String,
        /// Its length.
        size: u64,
        /// Length allowed.
        max: u64,
    },
    /// The blob store refused.
    #[error("file {name:?} of a job: {source}")]
    Blob {
        /// The file.
        name: String,
        /// Why.
        source: Arc<BlobError>,
    },
}

impl JobFileError {
    pub(super) fn io(name: &str, source: std::io::Error) -> Self {
        Self::Io { name: name.to_owned(), source: Arc::new(source) }
    }

    pub(super) fn blob(name: &str, source: BlobError) -> Self {
        Self::Blob { name: name.to_owned(), source: Arc::new(source) }
    }
}
