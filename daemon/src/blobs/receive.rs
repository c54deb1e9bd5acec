//! Receiving a blob from one provider.
//!
//! Invariant: bytes reach the partial blob only after their hashes led up to the root. What was
//! verified stays verified when the provider is dropped: the next one goes on from there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bao_tree::BaoTree;
use bao_tree::io::sync::DecodeResponseIter;
use bao_tree::io::{BaoContentItem, DecodeError, Leaf};
use futures::{AsyncRead, AsyncWrite};
use protocol::ids::ContentHash;
use protocol::limits;
use storage::blobs::{BLOCK_SIZE, bao_hash};
use storage::blobs::WholeBlob as PartialBlob;
use storage::{BlobError, BlobStore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::error::Failure;
use super::stats::Counters;
use super::wire::{
    BlobAnswer, BlobRequest, PART_FRAME_BYTES_MAX, Part, read_frame, read_value, write_value,
};

/// What one attempt came to.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The blob is stored; its length.
    Done(u64),
    /// Try another provider.
    Failed(Failure),
    /// Proven: no provider can help.
    TooLarge(u64),
    /// Our own disk: no provider can help.
    Store(BlobError),
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<BlobError> for Attempt {
    fn from(error: BlobError) -> Self {
        Self::Store(error)
    }
}

/// What has been verified so far, over all providers.
#[derive(Debug)]
pub(super) struct Receiving {
    partial: PartialBlob,
    /// Where the next part begins.
    next: u64,
}

/// What does not change between providers.
pub(super) struct Receiver {
    pub(super) hash: ContentHash,
    pub(super) max_bytes: u64,
    pub(super) store: BlobStore,
    pub(super) counters: Arc<Counters>,
    pub(super) tracker: TaskTracker,
    pub(super) answer_max: Duration,
    pub(super) part_max: Duration,
}

impl Receiver {
    /// Asks on `stream` for what is still missing. The stream can be used again after `Done` and
    /// after `Missing`.
    pub(super) async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        receiving: &mut Option<Receiving>,
    ) -> Attempt {
        match self.attempt(stream, receiving).await {
            Ok(size) => Attempt::Done(size),
            Err(attempt) => attempt,
        }
    }

    async fn attempt<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        receiving: &mut Option<Receiving>,
    ) -> Result<u64, Attempt> {
        let offset = receiving.as_ref().map_or(0, |receiving| receiving.next);
        let size = self.ask(stream, BlobRequest { hash: self.hash, offset }).await?;
        // The last group proves the size; only then is it believed.
        let last = self.read_part(stream).await?;
        let leaves = self.verified(last, size, Part::last(size)).await??;
        if size > self.max_bytes {
            return Err(Attempt::TooLarge(size));
        }
        if receiving.is_none() {
            *receiving = Some(self.begin(size, leaves).await??);
        }
        while let Some(part) = receiving.as_ref().and_then(|so_far| Part::at(so_far.next, size)) {
            let frame = self.read_part(stream).await?;
            let leaves = self.verified(frame, size, part).await??;
            self.write(receiving, part, leaves).await?;
        }
        match receiving.take() {
            Some(complete) => self.blocking(move || complete.partial.finish()).await?,
            None => unreachable!("it was begun above"),
        }
        .map_err(Attempt::Store)
    }

    /// Sends the request; gives the size that the provider claims.
    async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        request: BlobRequest,
    ) -> Result<u64, Failure> {
        let answer = timeout(self.answer_max, async {
            write_value(stream, &request).await?;
            read_value(stream).await
        });
        match answer.await {
            Err(_) => Err(Failure::NoAnswer("timed out".to_owned())),
            Ok(Ok(None)) => Err(Failure::NoAnswer("stream closed".to_owned())),
            Ok(Ok(Some(BlobAnswer::Missing))) => Err(Failure::Missing),
            Ok(Ok(Some(BlobAnswer::Found { size }))) if size <= limits::BLOB_BYTES_MAX => Ok(size),
            Ok(Ok(Some(BlobAnswer::Found { size }))) => {
                Err(Failure::Malformed(format!("a blob of {size} bytes")))
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Failure::Malformed(error.to_string()))
            }
            Ok(Err(error)) => Err(Failure::NoAnswer(error.to_string())),
        }
    }

    async fn read_part<S: AsyncRead + Unpin>(&self, stream: &mut S) -> Result<Vec<u8>, Failure> {
        match timeout(self.part_max, read_frame(stream, PART_FRAME_BYTES_MAX)).await {
            Err(_) => Err(Failure::Stalled),
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) => Err(Failure::Broken("it ended early".to_owned())),
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Failure::Malformed(error.to_string()))
            }
            Ok(Err(error)) => Err(Failure::Broken(error.to_string())),
        }
    }

    /// Verifies a part on a blocking thread.
    async fn verified(
        &self,
        frame: Vec<u8>,
        size: u64,
        part: Part,
    ) -> Result<Result<Vec<Leaf>, Failure>, Attempt> {
        let hash = self.hash;
        self.blocking(move || decode(hash, &frame, size, part)).await
    }

    /// Makes the partial blob and writes the last group, which is verified.
    async fn begin(
        &self,
        size: u64,
        last: Vec<Leaf>,
    ) -> Result<Result<Receiving, BlobError>, Attempt> {
        let (store, hash, max_bytes) = (self.store.clone(), self.hash, self.max_bytes);
        Counters::add(&self.counters.bytes_received, Part::last(size).length());
        self.blocking(move || {
            let mut partial = store.create_partial(hash, size, max_bytes)?;
            write_leaves(&mut partial, &last)?;
            Ok(Receiving { partial, next: 0 })
        })
        .await
    }

    /// Writes a verified part.
    async fn write(
        &self,
        receiving: &mut Option<Receiving>,
        part: Part,
        leaves: Vec<Leaf>,
    ) -> Result<(), Attempt> {
        let Some(mut so_far) = receiving.take() else { return Ok(()) };
        let written = self.blocking(move || {
            write_leaves(&mut so_far.partial, &leaves)?;
            so_far.next = part.end;
            Ok::<_, BlobError>(so_far)
        });
        *receiving = Some(written.await??);
        Counters::add(&self.counters.bytes_received, part.length());
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Attempt> {
        let done = self.tracker.spawn_blocking(work).await;
        // Only at shutdown, or after a panic that was logged.
        done.map_err(|error| Attempt::Failed(Failure::Broken(error.to_string())))
    }
}

fn write_leaves(partial: &mut PartialBlob, leaves: &[Leaf]) -> Result<(), BlobError> {
    leaves.iter().try_for_each(|leaf| partial.write_verified(leaf.offset, &leaf.data))
}

/// The leaves of a part, all verified; or what is wrong with it.
pub(super) fn decode(
    hash: ContentHash,
    mut frame: &[u8],
    size: u64,
    part: Part,
) -> Result<Vec<Leaf>, Failure> {
    let ranges = part.ranges();
    let tree = BaoTree::new(size, BLOCK_SIZE);
    let mut leaves = Vec::new();
    let mut length: u64 = 0;
    for item in DecodeResponseIter::new(bao_hash(&hash), tree, &mut frame, &ranges) {
        match item {
            Ok(BaoContentItem::Parent(_)) => {}
            Ok(BaoContentItem::Leaf(leaf)) => {
                length = length.saturating_add(leaf.data.len() as u64);
                leaves.push(leaf);
            }
            Err(error @ (DecodeError::ParentNotFound(_) | DecodeError::LeafNotFound(_))) => {
                return Err(Failure::Malformed(format!("a part that is too short: {error}")));
            }
            Err(error) => return Err(Failure::Lied(error.to_string())),
        }
    }
    if !frame.is_empty() || length != part.length() {
        return Err(Failure::Malformed("a part of the wrong length".to_owned()));
    }
    Ok(leaves)
}
