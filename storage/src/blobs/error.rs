//! Why an operation of the blob store failed.

use std::path::{Path, PathBuf};

use protocol::blobs::collection::CollectionError;
use protocol::ids::ContentHash;
use thiserror::Error;

use crate::durable::FileError;

/// Why a blob operation failed.
#[derive(Debug, Error)]
pub enum BlobError {
    /// Not stored here.
    #[error("blob {0} is not stored here")]
    NotFound(ContentHash),
    /// All of it is here, so there is nothing to receive.
    #[error("blob {0} is stored here already")]
    AlreadyStored(ContentHash),
    /// Somebody else writes to it.
    #[error("blob {0} is being received already")]
    Receiving(ContentHash),
    /// What lies on the disk is not what was stored.
    #[error("blob {0} is damaged on the disk: run a check of the store, then fetch it again")]
    Damaged(ContentHash),
    /// A blob whose bytes were left in a file of the user.
    #[error(
        "{} has changed or is gone since it was added in place, so blob {hash} is no longer here: \
         add the file again",
        path.display()
    )]
    Changed {
        /// The blob.
        hash: ContentHash,
        /// The file.
        path: PathBuf,
    },
    /// Over the caller's limit.
    #[error("{size} bytes where at most {max} are allowed")]
    TooLarge {
        /// Size found or announced.
        size: u64,
        /// Size allowed.
        max: u64,
    },
    /// A link, directory, device or pipe where a file was expected.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// The bytes do not have the hash that they should have.
    #[error("the bytes have hash {actual}, not {expected}")]
    WrongHash {
        /// Hash wanted.
        expected: ContentHash,
        /// Hash found.
        actual: ContentHash,
    },
    /// A write outside the announced size, or a part of another blob.
    #[error("bytes at offset {offset} lie outside a blob of {size} bytes")]
    OutOfBounds {
        /// Offset of the bytes.
        offset: u64,
        /// Announced size.
        size: u64,
    },
    /// A verified part, but of another blob.
    #[error("a part of blob {found} cannot be written to blob {expected}")]
    OtherBlob {
        /// The blob being received.
        expected: ContentHash,
        /// The blob of the part.
        found: ContentHash,
    },
    /// Finished too early.
    #[error("{have} of {size} bytes have arrived")]
    Incomplete {
        /// Bytes so far.
        have: u64,
        /// Announced size.
        size: u64,
    },
    /// The file of names and pins is damaged.
    #[error(
        "the names and pins in {} are damaged: nothing is collected or changed until a check of \
         the store with repair has mended them",
        path.display()
    )]
    PinsDamaged {
        /// The file.
        path: PathBuf,
    },
    /// Too many names and pins.
    #[error("there may be at most {max} names and pins: pin collections instead of their parts")]
    TooManyPins {
        /// How many.
        max: usize,
    },
    /// A file or folder that changed while it was read.
    #[error("{} changed while it was read: try again when nobody writes to it", path.display())]
    ChangedWhileRead {
        /// The file or folder.
        path: PathBuf,
    },
    /// A name that no collection has.
    #[error(
        "{} has a name that cannot travel: names are UTF-8 without backslashes and control \
         characters, at most 255 bytes, and paths at most 1,024",
        path.display()
    )]
    BadName {
        /// The file or folder.
        path: PathBuf,
    },
    /// The target is there already.
    #[error("{} exists already", path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// A folder where a file would be written, or a file where a folder would.
    #[error(
        "{} is a file where a folder would be written, or a folder where a file would: give \
         another target, or move it away",
        path.display()
    )]
    OtherKind {
        /// The target.
        path: PathBuf,
    },
    /// No collection can be made of these files.
    #[error("no collection can be made of these files")]
    Collection(#[from] CollectionError),
    /// The caller did not want to go on.
    #[error("it was cancelled; what it had written is removed")]
    Cancelled,
    /// Over the limit of the store.
    #[error(
        "the blobs take {used} bytes and {wanted} more would exceed the quota of {max}: raise it, \
         or unpin blobs and collect garbage"
    )]
    QuotaExceeded {
        /// Bytes that count towards it now.
        used: u64,
        /// Bytes that were to be added.
        wanted: u64,
        /// The quota.
        max: u64,
    },
    /// The disk is full. Nothing is damaged; the same operation succeeds once there is space.
    #[error(
        "the disk of {} is full ({free} bytes are free): nothing is damaged; free some space, or \
         unpin blobs and collect garbage, then try again",
        path.display()
    )]
    DiskFull {
        /// The file that could not be written.
        path: PathBuf,
        /// Bytes that an ordinary user may still write there.
        free: u64,
        /// What failed.
        #[source]
        source: FileError,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(FileError),
}

impl From<FileError> for BlobError {
    fn from(error: FileError) -> Self {
        if !error.is_out_of_space() {
            return Self::File(error);
        }
        let (path, free) = (error.path.clone(), free_bytes(&error.path));
        Self::DiskFull { path, free, source: error }
    }
}

/// Free bytes of the file system of `path`, or of the nearest folder above it that exists.
fn free_bytes(path: &Path) -> u64 {
    path.ancestors()
        .find_map(|path| rustix::fs::statvfs(path).ok())
        .map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize))
}
