//! Data behind the local interface: blobs and collections, datasets, the private folder.
//!
//! **Architecture invariant.** The store is used on blocking threads only, and whoever brings data
//! in or out holds [`Node::data_in_use`](crate::node::Node::data_in_use) for reading, so that
//! nothing is removed by name under its hands; garbage is collected beside it.

mod add;
mod datasets;
mod export;
mod get;
mod ingest;
mod keep;
mod look;
mod tally;
mod verify;

use std::time::Duration;

use protocol::api::ApiError;
use storage::BlobError;

use crate::blobs::FetchError;

/// A failure of a job or of the disk, with its causes.
pub(super) fn failed(error: &anyhow::Error) -> ApiError {
    ApiError::internal(format!("{error:#}"))
}

/// Does something on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::internal(error.to_string()))?
}

/// What the store refused, for people.
fn of_store(error: BlobError) -> ApiError {
    let message = error.to_string();
    match error {
        BlobError::NotFound(_) => ApiError::not_found(message)
            .with_hint("fetch it with `ayni data get`; `ayni data ls` shows what is here"),
        BlobError::QuotaExceeded { .. } => ApiError::conflict(message).with_hint(
            "raise quota_bytes under [blobs] in config.toml, or unpin and `ayni data gc`",
        ),
        BlobError::DiskFull { .. } => {
            ApiError::unavailable(message).with_hint("free some space and run the command again")
        }
        BlobError::NotRegular { .. }
        | BlobError::TooLarge { .. }
        | BlobError::BadName { .. }
        | BlobError::Collection(_) => ApiError::bad_request(message),
        BlobError::Changed { .. }
        | BlobError::ChangedWhileRead { .. }
        | BlobError::Exists { .. }
        | BlobError::OtherKind { .. }
        | BlobError::TooManyPins { .. } => ApiError::conflict(message),
        BlobError::Damaged(_) | BlobError::PinsDamaged { .. } => ApiError::conflict(message)
            .with_hint("`ayni data verify --repair` mends what can be mended"),
        BlobError::Cancelled => ApiError::conflict("it was cancelled"),
        error => failed(&error.into()),
    }
}

/// Why a fetch failed, for people.
fn of_fetch(error: &FetchError) -> ApiError {
    let message = error.to_string();
    match error {
        FetchError::NotFound { .. } => ApiError::not_found(message).with_hint(
            "whoever has it may be down or just back: try again later, or name a node with --from",
        ),
        FetchError::Failed { .. } => ApiError::unavailable(message)
            .with_hint("what has arrived is kept: run the same command again and it goes on"),
        FetchError::TooLarge { .. } => ApiError::bad_request(message),
        FetchError::Store { source, .. } => {
            let error = of_store_ref(source);
            ApiError { message, ..error }
        }
        FetchError::Stopped => ApiError::unavailable(message)
            .with_hint("what has arrived is kept: run the same command again and it goes on"),
    }
}

/// Code and hint of a failure of the store that is shared.
fn of_store_ref(error: &BlobError) -> ApiError {
    match error {
        BlobError::QuotaExceeded { used, wanted, max } => {
            of_store(BlobError::QuotaExceeded { used: *used, wanted: *wanted, max: *max })
        }
        BlobError::DiskFull { .. } => ApiError::unavailable(error.to_string())
            .with_hint("free some space and run the same command again: it goes on"),
        error => ApiError::internal(error.to_string()),
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
