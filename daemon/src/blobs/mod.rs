//! Verified transfer of blobs between nodes, over raw libp2p streams.
//!
//! [`BlobService`] serves what the caller's policy allows and fetches what the caller names. A
//! blob travels in parts that are verified one by one against its hash (`wire` shows how);
//! fetches of one blob share a transfer; what one provider has sent is kept when the next takes
//! over.
//!
//! **Architecture invariants.** No received byte reaches a file before it was verified. A provider
//! is only a hint: it can waste one part and is banned for it. Streams, requests, frames and waits
//! are bounded on both sides. The store is used on blocking threads only.
//!
//! Deliberately absent: what to keep (pins, quotas), several providers at once for one blob,
//! resuming after a restart, and answering which blobs are here: the owner of the network events
//! does that with [`BlobService::available`].

mod error;
mod fetch;
mod receive;
mod serve;
mod stats;
mod streams;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use futures::stream::{self, FuturesUnordered, StreamExt};
use libp2p::{PeerId, StreamProtocol};
use protocol::ids::ContentHash;
use storage::BlobStore;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::{Failure, FetchError, Tried};
pub use stats::BlobStats;

use crate::network::NetworkHandle;
use crate::network::wire::{BLOB_PROTOCOL, HASHES_PER_REQUEST_MAX};
use stats::Counters;
use streams::Streams;

/// Connected peers that are asked for a blob.
const PEERS_ASKED_MAX: usize = 32;

/// Says which blobs a peer may have. Called often: it must be quick and must not block.
pub type ServePolicy = Arc<dyn Fn(&ContentHash) -> bool + Send + Sync>;

/// Limits of the service.
#[derive(Clone, Copy, Debug)]
pub struct BlobConfig {
    /// Streams served at once.
    pub serves_max: usize,
    /// Streams of one peer served at once. Not below another node's `fetches_max`, or it would be
    /// refused when it fetches everything here.
    pub serves_per_peer_max: usize,
    /// Blobs fetched at once.
    pub fetches_max: usize,
    /// How long a provider may take to answer a request.
    pub answer_max: Duration,
    /// How long one part of 256 KiB may take, either way: a peer slower than that is stalled.
    pub part_max: Duration,
    /// How long a stream may wait for its next request.
    pub idle_max: Duration,
    /// Pause before providers that did not answer are tried again; doubles each time.
    pub retry_pause: Duration,
}

impl Default for BlobConfig {
    fn default() -> Self {
        Self {
            serves_max: 64,
            serves_per_peer_max: 8,
            fetches_max: 8,
            answer_max: Duration::from_secs(10),
            part_max: Duration::from_secs(30),
            idle_max: Duration::from_secs(5),
            retry_pause: Duration::from_millis(250),
        }
    }
}

/// Somebody else accepts streams of the blob protocol on this swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the blob protocol is already being served on this network")]
pub struct AlreadyServed;

type SharedFetch = BoxFuture<'static, Result<u64, FetchError>>;

struct Inner {
    config: BlobConfig,
    network: NetworkHandle,
    store: BlobStore,
    policy: ServePolicy,
    counters: Arc<Counters>,
    streams: Streams,
    fetches: Semaphore,
    in_flight: Mutex<BTreeMap<ContentHash, WeakShared<SharedFetch>>>,
    tracker: TaskTracker,
    token: CancellationToken,
}

/// Serves and fetches. Cheap to clone.
#[derive(Clone)]
pub struct BlobService(Arc<Inner>);

impl std::fmt::Debug for BlobService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobService").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl BlobService {
    /// Starts serving on `tracker` with the usual limits, until `token` is cancelled. Peers get a
    /// blob only while `policy` says yes to it.
    ///
    /// # Errors
    /// When the network's blob protocol is already served.
    pub fn start(
        store: BlobStore,
        network: NetworkHandle,
        policy: ServePolicy,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> Result<Self, AlreadyServed> {
        Self::start_with(BlobConfig::default(), store, network, policy, tracker, token)
    }

    /// As [`BlobService::start`], with other limits.
    ///
    /// # Errors
    /// When the network's blob protocol is already served.
    pub fn start_with(
        config: BlobConfig,
        store: BlobStore,
        network: NetworkHandle,
        policy: ServePolicy,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> Result<Self, AlreadyServed> {
        let incoming = network
            .streams()
            .accept(StreamProtocol::new(BLOB_PROTOCOL))
            .map_err(|_| AlreadyServed)?;
        let inner = Arc::new(Inner {
            streams: Streams::new(network.clone()),
            fetches: Semaphore::new(config.fetches_max),
            counters: Arc::default(),
            in_flight: Mutex::default(),
            config,
            network,
            store,
            policy,
            tracker: tracker.clone(),
            token,
        });
        inner.tracker.spawn(serve::accept(Arc::clone(&inner), incoming));
        Ok(Self(inner))
    }

    /// Makes sure that a blob of at most `max_bytes` is in the store, and returns its length.
    /// `hints` are tried first, connected or not; then connected peers are asked.
    ///
    /// Cancel-safe: a transfer goes on while anybody waits for it, and ends with the last one.
    ///
    /// # Errors
    /// See [`FetchError`], which says what was tried.
    pub async fn fetch(
        &self,
        hash: ContentHash,
        max_bytes: u64,
        hints: Vec<PeerId>,
    ) -> Result<u64, FetchError> {
        loop {
            if let Some(size) = self.0.store.size(&hash) {
                return within(hash, size, max_bytes);
            }
            let (transfer, joined) = self.join(hash, max_bytes, &hints);
            let result = tokio::select! {
                () = self.0.token.cancelled() => return Err(FetchError::Stopped),
                result = transfer => result,
            };
            match result {
                Ok(size) => return within(hash, size, max_bytes),
                // Somebody wanted less of it, or knew fewer providers: it is our turn.
                Err(FetchError::TooLarge { size, .. }) if joined && size <= max_bytes => {}
                Err(FetchError::NotFound { .. } | FetchError::Failed { .. })
                    if joined && !hints.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Fetches several blobs, each of at most the bytes given with it; one result for each, in
    /// order. Connected peers are asked for all of them together.
    pub async fn fetch_all(
        &self,
        blobs: &[(ContentHash, u64)],
        hints: &[PeerId],
    ) -> Vec<Result<u64, FetchError>> {
        let wanted: Vec<ContentHash> = blobs
            .iter()
            .map(|(hash, _)| *hash)
            .filter(|hash| !self.0.store.contains(hash))
            .collect();
        let providers =
            if wanted.len() > 1 { self.providers(&wanted).await } else { BTreeMap::new() };
        let fetches = blobs.iter().map(|(hash, max_bytes)| {
            let mut known = hints.to_vec();
            known.extend(providers.get(hash).into_iter().flatten());
            self.fetch(*hash, *max_bytes, known)
        });
        // The bound of transfers holds inside; this one bounds what waits for it.
        stream::iter(fetches).buffered(2 * self.0.config.fetches_max).collect().await
    }

    /// Which of these blobs a peer may have: the answer to its `HasBlobs` question.
    pub fn available(&self, hashes: &[ContentHash]) -> Vec<bool> {
        hashes.iter().map(|hash| self.0.store.contains(hash) && (self.0.policy)(hash)).collect()
    }

    /// Counters since start.
    pub fn stats(&self) -> BlobStats {
        self.0.counters.snapshot()
    }

    /// The transfer of a blob that is under way, or a new one; whether it was under way.
    fn join(
        &self,
        hash: ContentHash,
        max_bytes: u64,
        hints: &[PeerId],
    ) -> (Shared<SharedFetch>, bool) {
        let mut in_flight = self.in_flight();
        if let Some(running) = in_flight.get(&hash).and_then(WeakShared::upgrade)
            && running.peek().is_none()
        {
            return (running, true);
        }
        // What nobody waits for any more cannot be upgraded.
        in_flight.retain(|_, other| other.upgrade().is_some());
        let transfer = fetch::fetch(Arc::clone(&self.0), hash, max_bytes, hints.to_vec());
        let transfer = transfer.boxed().shared();
        if let Some(weak) = transfer.downgrade() {
            in_flight.insert(hash, weak);
        }
        (transfer, false)
    }

    fn in_flight(&self) -> MutexGuard<'_, BTreeMap<ContentHash, WeakShared<SharedFetch>>> {
        self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks connected peers for many blobs at once.
    async fn providers(&self, wanted: &[ContentHash]) -> BTreeMap<ContentHash, Vec<PeerId>> {
        let inner = &self.0;
        let peers = fetch::nearest(inner).await;
        let mut questions: FuturesUnordered<_> = wanted
            .chunks(HASHES_PER_REQUEST_MAX)
            .flat_map(|hashes| peers.iter().map(move |peer| (*peer, hashes.to_vec())))
            .map(|(peer, hashes)| fetch::has_blobs(inner, peer, hashes))
            .collect();
        let mut providers: BTreeMap<ContentHash, Vec<PeerId>> = BTreeMap::new();
        while let Some((peer, hashes, answer)) = questions.next().await {
            let have = answer.unwrap_or_default();
            for (hash, _) in hashes.into_iter().zip(have).filter(|(_, has)| *has) {
                providers.entry(hash).or_default().push(peer);
            }
        }
        providers
    }
}

fn within(hash: ContentHash, size: u64, max: u64) -> Result<u64, FetchError> {
    if size > max { Err(FetchError::TooLarge { hash, size, max }) } else { Ok(size) }
}

#[cfg(test)]
mod tests;
