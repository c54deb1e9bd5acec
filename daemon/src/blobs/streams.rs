//! Outbound blob streams: paced, and used again for the next blob.
//!
//! Invariant: no peer is asked for streams or metadata faster than an equal node rations them, so
//! that fetching many small blobs costs no peer score.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::{PeerId, Stream};
use tokio::time::Instant;

use crate::network::limiter::{Limiter, Rationed};
use crate::network::{NetworkHandle, RequestError};

/// An unused stream is dropped after this. The server waits longer for the next request.
const IDLE_MAX: Duration = Duration::from_secs(3);
/// Unused streams kept, over all peers.
const IDLE_STREAMS_MAX: usize = 32;
/// Tokens that one use costs here, where it costs 1 at the peer.
const COST: f64 = 1.5;
/// Pause between two looks at an empty bucket.
const PACE: Duration = Duration::from_millis(50);

pub(super) struct Streams {
    network: NetworkHandle,
    epoch: Instant,
    idle: Mutex<Vec<(PeerId, Instant, Stream)>>,
    limiter: Mutex<Limiters>,
}

/// The limiter, and when each peer was last seen there: peers that left are forgotten.
#[derive(Default)]
struct Limiters {
    buckets: Limiter<PeerId>,
    used: BTreeMap<PeerId, Duration>,
}

impl Streams {
    pub(super) fn new(network: NetworkHandle) -> Self {
        Self {
            network,
            epoch: Instant::now(),
            idle: Mutex::new(Vec::new()),
            limiter: Mutex::new(Limiters::default()),
        }
    }

    /// A stream that was used before, if there is one.
    pub(super) fn reuse(&self, peer: PeerId) -> Option<Stream> {
        let mut idle = self.idle();
        let index = idle.iter().position(|(owner, ..)| *owner == peer)?;
        Some(idle.swap_remove(index).2)
    }

    /// A new stream, when the peer can be expected to admit it.
    pub(super) async fn open(&self, peer: PeerId) -> Result<Stream, RequestError> {
        self.pace(peer, Rationed::BlobStreams).await;
        self.network.open_blob_stream(peer).await
    }

    /// Keeps a stream for the next blob.
    pub(super) fn keep(&self, peer: PeerId, stream: Stream) {
        let mut idle = self.idle();
        if idle.len() < IDLE_STREAMS_MAX {
            idle.push((peer, Instant::now(), stream));
        }
    }

    /// Waits until the peer can be expected to admit one more use.
    pub(super) async fn pace(&self, peer: PeerId, what: Rationed) {
        while !self.take(peer, what) {
            tokio::time::sleep(PACE).await;
        }
    }

    fn take(&self, peer: PeerId, what: Rationed) -> bool {
        let now = self.epoch.elapsed();
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let Limiters { buckets, used } = &mut *limiter;
        used.insert(peer, now);
        // A bucket is full again by then, so that forgetting it changes nothing.
        used.retain(|peer, last| {
            let keep = now.saturating_sub(*last) < Duration::from_secs(60);
            if !keep {
                buckets.remove(peer);
            }
            keep
        });
        buckets.take(now, peer, what, COST)
    }

    /// The unused streams that are fresh.
    fn idle(&self) -> MutexGuard<'_, Vec<(PeerId, Instant, Stream)>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since, _)| since.elapsed() < IDLE_MAX);
        idle
    }
}
