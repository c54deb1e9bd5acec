//! Counters of blob transfers.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{Failure, FetchError};

macro_rules! counters {
    ($($(#[$meta:meta])* $name:ident),+ $(,)?) => {
        /// Counters since start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct BlobStats {
            $($(#[$meta])* pub $name: u64,)+
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)+
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> BlobStats {
                BlobStats { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters!(
    /// Bytes of blobs sent, without hashes and framing.
    bytes_sent,
    /// Bytes of blobs received and verified.
    bytes_received,
    /// Blobs and ranges that were served to the end.
    served,
    /// Requests answered with "not here".
    missing,
    /// Streams and requests refused because there were too many.
    refused,
    /// Blobs here that turned out to be damaged when they were to be served.
    damaged,
    /// Blobs fetched.
    fetched,
    /// Fetches that failed because nobody had the blob.
    failed_not_found,
    /// Fetches that failed although somebody had it.
    failed_transfer,
    /// Fetches that failed because the blob was too large.
    failed_too_large,
    /// Fetches that failed at the own disk.
    failed_store,
    /// Attempts with a peer that did not answer or whose stream broke.
    attempts_broken,
    /// Attempts with a peer that stalled.
    attempts_stalled,
    /// Attempts with a peer that broke the protocol.
    attempts_malformed,
    /// Attempts with a peer whose bytes did not verify.
    attempts_lied,
);

impl Counters {
    pub(super) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    pub(super) fn count_fetch(&self, result: &Result<u64, FetchError>) {
        let counter = match result {
            Ok(_) => &self.fetched,
            Err(FetchError::NotFound { .. }) => &self.failed_not_found,
            Err(FetchError::Failed { .. }) => &self.failed_transfer,
            Err(FetchError::TooLarge { .. }) => &self.failed_too_large,
            Err(FetchError::Store { .. }) => &self.failed_store,
            Err(FetchError::Stopped) => return,
        };
        Self::add(counter, 1);
    }

    pub(super) fn count_attempt(&self, failure: &Failure) {
        let counter = match failure {
            Failure::Missing | Failure::Absent | Failure::Busy => return,
            Failure::NoAnswer(_) | Failure::Broken(_) => &self.attempts_broken,
            Failure::Stalled => &self.attempts_stalled,
            Failure::Malformed(_) => &self.attempts_malformed,
            Failure::Lied(_) => &self.attempts_lied,
        };
        Self::add(counter, 1);
    }
}
