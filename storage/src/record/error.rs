//! What can go wrong with a log.

use std::path::PathBuf;

use thiserror::Error;

use crate::durable::FileError;

/// Why a log operation failed.
#[derive(Debug, Error)]
pub enum RecordError {
    /// A complete record does not have the checksum it had when it was written.
    #[error(
        "{} is corrupt at byte {offset} (record {index}): {what}; the file is left as it is",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the damaged record begins.
        offset: u64,
        /// Its index, from 0.
        index: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Not a log of this kind and network.
    #[error(
        "{} is not a {kind} of this network, or its first bytes are damaged",
        path.display()
    )]
    WrongFile {
        /// The file.
        path: PathBuf,
        /// The kind expected.
        kind: &'static str,
    },
    /// Written by a newer program.
    #[error(
        "{} is a {kind} of schema {found}, this program knows up to {known}: upgrade the program \
         (or its first bytes are damaged)",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The kind expected.
        kind: &'static str,
        /// Its schema.
        found: u8,
        /// The newest schema known.
        known: u8,
    },
    /// More bytes than a record of this log may have.
    #[error("a record of {actual} bytes where at most {max} are allowed")]
    TooLarge {
        /// Length given.
        actual: usize,
        /// Length allowed.
        max: u32,
    },
    /// An earlier write failed; the disk may differ from what this process believes.
    #[error(
        "an earlier write to {} failed, so it takes no more: restart once the cause is gone",
        path.display()
    )]
    Poisoned {
        /// The file.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}
