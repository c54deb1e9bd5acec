//! Serving blobs to peers.
//!
//! Invariant: what is sent was checked against the hash while it was encoded; a damaged file ends
//! the stream. The accept loop only counts and spawns: libp2p-stream drops inbound streams that
//! it does not take at once.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bao_tree::io::EncodeError;
use bao_tree::io::sync::encode_ranges_validated;
use futures::{AsyncWriteExt, StreamExt};
use libp2p::{PeerId, Stream};
use libp2p_stream::IncomingStreams;
use protocol::ids::ContentHash;
use storage::ServedBlob;
use tokio::time::timeout;

use super::Inner;
use super::stats::Counters;
use super::wire::{
    BlobAnswer, BlobRequest, PART_BYTES, PART_FRAME_BYTES_MAX, Part, read_value, write_frame,
    write_value,
};
use crate::network::Severity;

/// Requests on one stream; then the peer opens another, which is rationed.
const REQUESTS_PER_STREAM_MAX: usize = 4_096;

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

/// Why serving a stream ended early.
enum Ended {
    /// The peer's fault.
    Malformed,
    /// It went away, was too slow, or we are at fault.
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
        let request = match timeout(inner.config.idle_max, read_value(&mut stream)).await {
            Ok(Ok(Some(request))) => Ok(request),
            Ok(Ok(None)) | Err(_) => break,
            Ok(Err(error)) => Err(Ended::from(error)),
        };
        let result = match request {
            Ok(request) => serve(inner, &mut stream, request).await,
            Err(ended) => Err(ended),
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
    let _ = timeout(inner.config.part_max, stream.close()).await;
}

/// Serves one request.
async fn serve(inner: &Inner, stream: &mut Stream, request: BlobRequest) -> Result<(), Ended> {
    let blob = match open(inner, request.hash).await {
        Some(blob) => blob,
        None => {
            Counters::add(&inner.counters.missing, 1);
            return send(inner, write_value(stream, &BlobAnswer::Missing)).await;
        }
    };
    let size = blob.size();
    if !request.offset.is_multiple_of(PART_BYTES) || request.offset > size {
        return Err(Ended::Malformed);
    }
    send(inner, write_value(stream, &BlobAnswer::Found { size })).await?;
    let mut offset = request.offset;
    let mut next = Some(Part::last(size));
    while let Some(part) = next {
        let frame = encoded(inner, &blob, part).await?;
        send(inner, write_frame(stream, &frame)).await?;
        Counters::add(&inner.counters.bytes_sent, part.length());
        next = Part::at(offset, size);
        offset = next.map_or(offset, |part| part.end);
    }
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

/// Encodes a part on a blocking thread.
async fn encoded(inner: &Inner, blob: &ServedBlob, part: Part) -> Result<Vec<u8>, Ended> {
    let served = blob.clone();
    let task = inner.tracker.spawn_blocking(move || encode(&served, part));
    match task.await {
        Ok(Ok(frame)) => Ok(frame),
        Ok(Err(error)) => {
            Counters::add(&inner.counters.damaged, 1);
            tracing::error!(hash = %blob.hash(), %error, "a stored blob is damaged");
            Err(Ended::Gone)
        }
        Err(_) => Err(Ended::Gone),
    }
}

pub(super) fn encode(blob: &ServedBlob, part: Part) -> Result<Vec<u8>, EncodeError> {
    let mut frame = Vec::with_capacity(PART_FRAME_BYTES_MAX);
    encode_ranges_validated(blob.data(), blob.outboard(), &part.ranges(), &mut frame)?;
    Ok(frame)
}

/// Waits for a write, but not for ever.
async fn send(inner: &Inner, write: impl Future<Output = io::Result<()>>) -> Result<(), Ended> {
    match timeout(inner.config.part_max, write).await {
        Ok(result) => result.map_err(|_| Ended::Gone),
        Err(_) => Err(Ended::Gone),
    }
}
