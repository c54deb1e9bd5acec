//! Serving blobs to peers.
//!
//! Invariant: what is sent was checked against the hash while it was encoded; a damaged file ends
//! the stream. The accept loop only counts and spawns: libp2p-stream drops inbound streams that
//! it does not take at once. A request for more than [`SMALL_BYTES`] waits for a slot of its own
//! kind, so that large fetches never keep small ones waiting; parts take turns (`throttle`).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{AsyncWriteExt, StreamExt};
use libp2p::{PeerId, Stream};
use libp2p_stream::IncomingStreams;
use protocol::blobs::wire::{BlobRequest, GetItem, Holdings, ItemHead, Want, parts};
use protocol::blobs::{bytes_of, groups_of};
use protocol::ids::ContentHash;
use protocol::limits::GROUP_BYTES;
use storage::ServedBlob;
use storage::blobs::{EncodeError, encode_part};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::Inner;
use super::stats::Counters;
use super::wire::{read_value, write_all, write_value};
use crate::network::Severity;

/// Requests on one stream; then the peer opens another, which is rationed.
const REQUESTS_PER_STREAM_MAX: usize = 4_096;
/// What one item may ask for and still be served among the small ones: a small blob, a delta.
const SMALL_BYTES: u64 = 4 * 1024 * 1024;

/// Streams being served, by peer.
#[derive(Clone, Default)]
pub(super) struct Open(Arc<Mutex<BTreeMap<PeerId, usize>>>);

/// One of them.
struct Slot {
    open: Open,
    peer: PeerId,
}

impl Open {
    /// A slot, unless there are too many streams of this peer or of all.
    fn admit(&self, peer: PeerId, of_peer_max: usize, max: usize) -> Option<Slot> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let of_peer = open.get(&peer).copied().unwrap_or(0);
        if of_peer >= of_peer_max || all >= max {
            return None;
        }
        open.insert(peer, of_peer + 1);
        Some(Slot { open: self.clone(), peer })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_peer) = open.get_mut(&self.peer) {
            *of_peer = of_peer.saturating_sub(1);
            if *of_peer == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

/// Uploads under way, small ones beside large ones.
#[derive(Debug)]
pub(super) struct Uploads {
    small: Semaphore,
    large: Semaphore,
}

impl Uploads {
    pub(super) fn new(max: usize) -> Self {
        Self { small: Semaphore::new(max), large: Semaphore::new(max) }
    }

    /// Waits for a slot; nothing when there is none in time.
    async fn slot(&self, bytes: u64, inner: &Inner) -> Option<SemaphorePermit<'_>> {
        let slots = if bytes > SMALL_BYTES { &self.large } else { &self.small };
        // Half of what the asker waits for an answer.
        match timeout(inner.config.answer_max / 2, slots.acquire()).await {
            Ok(Ok(permit)) => Some(permit),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

/// Why serving a stream ended early.
enum Ended {
    /// The peer's fault.
    Malformed,
    /// Nobody's, or ours.
    Gone,
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::InvalidData { Self::Malformed } else { Self::Gone }
    }
}

/// Takes streams until the node stops.
pub(super) async fn accept(inner: Arc<Inner>, mut incoming: IncomingStreams) {
    let open = Open::default();
    loop {
        let next = tokio::select! {
            () = inner.token.cancelled() => return,
            next = incoming.next() => next,
        };
        let Some((peer, stream)) = next else { return };
        let limits = &inner.config;
        let slot = open.admit(peer, limits.serves_per_peer_max, limits.serves_max);
        let Some(slot) = slot else {
            // Dropping the stream tells the peer.
            Counters::add(&inner.counters.refused, 1);
            continue;
        };
        let serving = Arc::clone(&inner);
        inner.tracker.spawn(async move {
            tokio::select! {
                () = serving.token.cancelled() => {}
                () = serve_peer(&serving, peer, stream) => {}
            }
            drop(slot);
        });
    }
}

async fn serve_peer(inner: &Inner, peer: PeerId, mut stream: Stream) {
    if !inner.network.admit_stream(peer).await {
        Counters::add(&inner.counters.refused, 1);
        return;
    }
    for _ in 0..REQUESTS_PER_STREAM_MAX {
        let result = match read_value(&mut stream, inner.config.idle_max).await {
            Ok(Some(request)) => serve(inner, peer, &mut stream, request).await,
            Ok(None) => break,
            Err(error) => Err(Ended::from(error)),
        };
        match result {
            Ok(()) => {}
            Err(Ended::Malformed) => {
                inner.network.report(peer, Severity::LowTolerance, "malformed blob request");
                return;
            }
            Err(Ended::Gone) => return,
        }
    }
    let _ = timeout(inner.config.stall_max, stream.close()).await;
}

/// Serves one request.
async fn serve(
    inner: &Inner,
    peer: PeerId,
    stream: &mut Stream,
    request: BlobRequest,
) -> Result<(), Ended> {
    let stall = inner.config.stall_max;
    match request {
        BlobRequest::Have(hashes) => {
            let holdings = holdings(inner, hashes).await?;
            Ok(write_value(stream, &holdings, stall).await?)
        }
        BlobRequest::Get(items) => {
            for item in items {
                serve_item(inner, peer, stream, item).await?;
            }
            Ok(())
        }
    }
}

/// What is here and may be served.
async fn holdings(inner: &Inner, hashes: Vec<ContentHash>) -> Result<Holdings, Ended> {
    let (store, policy) = (inner.store.clone(), Arc::clone(&inner.policy));
    let task = inner.tracker.spawn_blocking(move || {
        Holdings::new(hashes.iter().map(|hash| match policy(hash) {
            true => store.availability(hash),
            false => protocol::blobs::wire::Availability::None,
        }))
    });
    task.await.map_err(|_| Ended::Gone)
}

async fn serve_item(
    inner: &Inner,
    peer: PeerId,
    stream: &mut Stream,
    item: GetItem,
) -> Result<(), Ended> {
    let stall = inner.config.stall_max;
    let Some(blob) = open(inner, item.hash).await else {
        Counters::add(&inner.counters.missing, 1);
        return Ok(write_value(stream, &ItemHead::Missing, stall).await?);
    };
    let size = blob.size();
    if let Want::Ranges(ranges) = &item.want
        && ranges.end() > groups_of(size)
    {
        return Err(Ended::Malformed);
    }
    let wanted = item.want.groups(size);
    if !wanted.iter().all(|range| blob.has(range)) {
        return Ok(write_value(stream, &ItemHead::Absent, stall).await?);
    }
    let Some(_slot) = inner.uploads.slot(wanted.groups() * GROUP_BYTES, inner).await else {
        Counters::add(&inner.counters.refused, 1);
        return Ok(write_value(stream, &ItemHead::Busy, stall).await?);
    };
    write_value(stream, &ItemHead::Found { size }, stall).await?;
    let mut parts = parts(&item.want, size);
    let mut spare = Vec::new();
    let mut next = parts.next().map(|part| (part, encoded(inner, &blob, part, Vec::new())));
    // The next part is encoded while this one is being sent.
    while let Some((part, encoding)) = next.take() {
        let frame = encoding.await?;
        let buffer = std::mem::take(&mut spare);
        next = parts.next().map(|part| (part, encoded(inner, &blob, part, buffer)));
        let bytes = bytes_of(part, size);
        inner.throttle.wait(peer, bytes.end - bytes.start).await;
        write_all(stream, &frame, stall).await?;
        Counters::add(&inner.counters.bytes_sent, bytes.end - bytes.start);
        spare = frame;
    }
    timeout(stall, stream.flush()).await.map_err(|_| Ended::Gone)??;
    Counters::add(&inner.counters.served, 1);
    Ok(())
}

/// Opens a blob that may be served.
async fn open(inner: &Inner, hash: ContentHash) -> Option<ServedBlob> {
    if !(inner.policy)(&hash) {
        return None;
    }
    let store = inner.store.clone();
    let opened = inner.tracker.spawn_blocking(move || store.open_for_serving(&hash));
    match opened.await {
        Ok(Ok(blob)) => Some(blob),
        Ok(Err(storage::BlobError::NotFound(_))) | Err(_) => None,
        Ok(Err(error)) => {
            tracing::warn!(%hash, %error, "cannot open a blob");
            None
        }
    }
}

/// Encodes a part on a blocking thread, which begins at once.
fn encoded(
    inner: &Inner,
    blob: &ServedBlob,
    part: protocol::blobs::GroupRange,
    mut buffer: Vec<u8>,
) -> impl Future<Output = Result<Vec<u8>, Ended>> + use<> {
    let served = blob.clone();
    let (hash, counters) = (blob.hash(), Arc::clone(&inner.counters));
    let task = inner.tracker.spawn_blocking(move || {
        encode_part(&served, part, &mut buffer)?;
        Ok::<_, EncodeError>(buffer)
    });
    async move {
        match task.await {
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(error)) => {
                Counters::add(&counters.damaged, 1);
                tracing::error!(%hash, %error, "a stored blob cannot be served");
                Err(Ended::Gone)
            }
            Err(_) => Err(Ended::Gone),
        }
    }
}
