//! Why a job fails. Each operation's own error becomes one of the kinds that the daemon tells
//! apart; the detail goes into the message for people.

use protocol::worker::{FailureKind, WorkerFailure};
use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::data::DataError;
use crate::delta::DeltaError;
use crate::files::FileError;
use crate::merge::MergeError;

/// Longest failure message in bytes, as promised by [`WorkerFailure`].
const MESSAGE_BYTES_MAX: usize = 4096;

/// A failed job.
#[derive(Debug, Error)]
pub enum JobError {
    /// The request contradicts itself or its limits.
    #[error("bad request: {0}")]
    Request(String),
    /// A file is missing, too large or cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A checkpoint or error feedback is not what the model needs.
    #[error("{name}: {source}")]
    Checkpoint {
        /// The file.
        name: String,
        /// What is wrong.
        source: CheckpointError,
    },
    /// A delta cannot be decoded or encoded.
    #[error("{name}: {source}")]
    Delta {
        /// The file.
        name: String,
        /// What is wrong.
        source: DeltaError,
    },
    /// The outer state or the merged weights are unusable.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The shards cannot be read as examples.
    #[error(transparent)]
    Data(#[from] DataError),
    /// More memory than there is.
    #[error("{0}")]
    Memory(String),
    /// The loss or the weights left the finite numbers.
    #[error("training diverged: {0}")]
    Diverged(&'static str),
    /// libtorch refused.
    #[cfg(feature = "torch")]
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// The program was built without the feature `torch`.
    #[error("this worker was built without training and evaluation (feature `torch`)")]
    Unsupported,
    /// A bug; the state of the job was discarded.
    #[error("the job panicked: {0}")]
    Panicked(String),
    /// The daemon no longer reads our replies; there is nobody left to work for.
    #[error("the daemon is gone")]
    Disconnected(#[source] std::io::Error),
}

impl JobError {
    /// The daemon's view of this failure.
    pub fn kind(&self) -> FailureKind {
        if recognises_out_of_memory(&self.to_string()) {
            return FailureKind::OutOfMemory;
        }
        match self {
            Self::Memory(_) => FailureKind::OutOfMemory,
            Self::Merge(MergeError::Float(_)) => FailureKind::Internal,
            Self::Request(_)
            | Self::Checkpoint { .. }
            | Self::Delta { .. }
            | Self::Merge(_)
            | Self::Data(_)
            | Self::Diverged(_) => FailureKind::BadInput,
            Self::File(error) if error.is_bad_input() => FailureKind::BadInput,
            Self::Unsupported => FailureKind::Unsupported,
            Self::File(_) | Self::Panicked(_) | Self::Disconnected(_) => FailureKind::Internal,
            #[cfg(feature = "torch")]
            Self::Torch(_) => FailureKind::Internal,
        }
    }

    /// The failure as it goes to the daemon.
    pub fn to_failure(&self) -> WorkerFailure {
        let mut message = self.to_string();
        let mut end = message.len().min(MESSAGE_BYTES_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        WorkerFailure { kind: self.kind(), message }
    }
}

/// libtorch reports a failed allocation only in words: those of its CPU and CUDA allocators.
fn recognises_out_of_memory(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["not enough memory", "out of memory", "can't allocate memory"]
        .iter()
        .any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_length() {
        assert_eq!(JobError::Unsupported.kind(), FailureKind::Unsupported);
        let words = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes";
        assert_eq!(JobError::Panicked(words.into()).kind(), FailureKind::OutOfMemory);
        let long = JobError::Request("é".repeat(4000)).to_failure();
        assert_eq!(long.kind, FailureKind::BadInput);
        assert!(long.message.len() <= MESSAGE_BYTES_MAX);
    }
}
