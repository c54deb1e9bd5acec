//! Verified transfer of blobs between nodes, over raw libp2p streams.
//!
//! [`BlobService`] serves what the caller's policy allows and fetches what the caller names. A blob
//! travels in parts that are verified one by one against its hash (`wire` shows how). A small blob
//! comes with the first answer (`begin`); a large one comes from everybody who has some of it at
//! once (`transfer`, led by [`protocol::blobs::schedule`]), and what has arrived survives a crash.
//! Fetches of one blob share a transfer.
//!
//! **Architecture invariants.** No received byte reaches a file before it was verified. A provider
//! is only a hint: it can waste one part and is banned for it. Streams, requests, rates and waits
//! are bounded on both sides; deadlines are on silence, never on size. The store is used on
//! blocking threads only.
//!
//! Deliberately absent: what to keep (pins, quotas: the store's), and what is announced (the
//! node's).

mod announced;
mod begin;
mod error;
mod fetch;
mod lane;
mod many;
mod progress;
mod queue;
mod scout;
mod serve;
mod stats;
mod streams;
mod throttle;
mod transfer;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use libp2p::{PeerId, Stream, StreamProtocol};
use protocol::blobs::GroupRanges;
use protocol::blobs::wire::Holdings;
use protocol::codec;
use protocol::config::BlobsConfig;
use protocol::ids::ContentHash;
use storage::BlobStore;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::{Failure, FetchError, Tried};
pub use progress::{Progress, Source};
pub use queue::Priority;
pub use stats::BlobStats;

use crate::network::wire::{ANNOUNCED_MAX, Announcement, BLOB_PROTOCOL};
use crate::network::{Acceptance, NetworkHandle, RequestError, Severity};
use announced::Announced;
use lane::{Asked, Broke, Lane, Patience, Sink};
use queue::Queue;
use serve::Uploads;
use stats::Counters;
use streams::Streams;
use throttle::Throttle;

/// Peers that are asked for a blob in one round.
const PEERS_ASKED_MAX: usize = 32;

/// Says which blobs a peer may have. Called often: it must be quick and must not block.
pub type ServePolicy = Arc<dyn Fn(&ContentHash) -> bool + Send + Sync>;

/// Limits of the service.
#[derive(Clone, Copy, Debug)]
pub struct BlobConfig {
    /// Streams open at once.
    pub serves_max: usize,
    /// Streams of one peer open at once. Not below twice another node's `fetches_max`, or it would
    /// be refused when it fetches everything here.
    pub serves_per_peer_max: usize,
    /// Requests served at once: so many small ones, and so many large ones.
    pub uploads_max: usize,
    /// What all uploads together may send, in bytes per second; 0 is no limit.
    pub upload_bytes_per_s: u64,
    /// What uploads to one peer may send.
    pub upload_per_peer_bytes_per_s: u64,
    /// Blobs fetched at once.
    pub fetches_max: usize,
    /// How long a provider may take to begin its answer to a request.
    pub answer_max: Duration,
    /// How long a stream may be silent, either way, once an answer has begun: longer than a part
    /// takes at the slowest rate that can be configured.
    pub stall_max: Duration,
    /// How long a stream may wait for its next request.
    pub idle_max: Duration,
    /// Pause before providers are asked again; doubles each time.
    pub retry_pause: Duration,
}

impl Default for BlobConfig {
    fn default() -> Self {
        Self::new(&BlobsConfig::default())
    }
}

impl BlobConfig {
    /// The usual limits with what an operator chose.
    pub fn new(config: &BlobsConfig) -> Self {
        let count = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        Self {
            serves_max: 512,
            serves_per_peer_max: 32,
            uploads_max: count(config.uploads_max),
            upload_bytes_per_s: config.upload_bytes_per_s,
            upload_per_peer_bytes_per_s: config.upload_per_peer_bytes_per_s,
            fetches_max: count(config.fetches_max),
            answer_max: Duration::from_secs(10),
            stall_max: Duration::from_secs(12),
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

/// A transfer that somebody waits for.
struct InFlight {
    transfer: WeakShared<SharedFetch>,
    progress: watch::Receiver<Progress>,
}

struct Inner {
    config: BlobConfig,
    network: NetworkHandle,
    store: BlobStore,
    policy: ServePolicy,
    counters: Arc<Counters>,
    streams: Streams,
    throttle: Throttle,
    uploads: Uploads,
    queue: Queue,
    epoch: Instant,
    announced: Mutex<Announced>,
    in_flight: Mutex<BTreeMap<ContentHash, InFlight>>,
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
    /// Starts serving on `tracker`, until `token` is cancelled. Peers get a blob only while
    /// `policy` says yes to it.
    ///
    /// # Errors
    /// When the network's blob protocol is already served.
    pub fn start(
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
            throttle: Throttle::new(config.upload_bytes_per_s, config.upload_per_peer_bytes_per_s),
            uploads: Uploads::new(config.uploads_max),
            queue: Queue::new(config.fetches_max),
            counters: Arc::default(),
            epoch: Instant::now(),
            announced: Mutex::default(),
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

    /// As [`BlobService::fetch_as`], for somebody who waits.
    ///
    /// # Errors
    /// See [`FetchError`], which says what was tried.
    pub async fn fetch(
        &self,
        hash: ContentHash,
        max_bytes: u64,
        hints: Vec<PeerId>,
    ) -> Result<u64, FetchError> {
        self.fetch_as(Priority::Normal, hash, max_bytes, hints).await
    }

    /// Makes sure that a blob of at most `max_bytes` is in the store, and returns its length.
    /// `hints` are tried first, connected or not; then whoever announced it, connected peers, and
    /// the table of providers.
    ///
    /// Cancel-safe: a transfer goes on while anybody waits for it, and ends with the last one. What
    /// has arrived of a large blob stays, and the next fetch goes on from there.
    ///
    /// # Errors
    /// See [`FetchError`], which says what was tried.
    pub async fn fetch_as(
        &self,
        priority: Priority,
        hash: ContentHash,
        max_bytes: u64,
        hints: Vec<PeerId>,
    ) -> Result<u64, FetchError> {
        loop {
            if let Some(size) = self.0.store.size(&hash) {
                return within(hash, size, max_bytes);
            }
            let (transfer, joined) = self.join(priority, hash, max_bytes, &hints);
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

    /// Fetches many blobs of at most the bytes given with each; one result for each, in order.
    /// Small ones travel together.
    pub async fn fetch_all(
        &self,
        blobs: &[(ContentHash, u64)],
        hints: &[PeerId],
    ) -> Vec<Result<u64, FetchError>> {
        many::fetch(self, Priority::Normal, blobs, hints, &mut |_| ()).await
    }

    /// As [`BlobService::fetch_all`], saying of every blob that it is here.
    pub async fn fetch_all_as(
        &self,
        priority: Priority,
        blobs: &[(ContentHash, u64)],
        hints: &[PeerId],
        arrived: &mut (dyn FnMut(Source) + Send),
    ) -> Vec<Result<u64, FetchError>> {
        many::fetch(self, priority, blobs, hints, arrived).await
    }

    /// Follows a fetch that is under way.
    pub fn progress(&self, hash: &ContentHash) -> Option<watch::Receiver<Progress>> {
        self.in_flight().get(hash).map(|running| running.progress.clone())
    }

    /// Notes an announcement that `source` published.
    pub fn announced(&self, source: PeerId, bytes: &[u8]) -> Acceptance {
        let Ok(announcement) = codec::decode::<Announcement>(bytes) else {
            return Acceptance::Reject;
        };
        if announcement.blobs.len() > ANNOUNCED_MAX {
            return Acceptance::Reject;
        }
        let now = self.0.epoch.elapsed();
        let mut announced = self.0.announced.lock().unwrap_or_else(PoisonError::into_inner);
        for hash in announcement.blobs {
            announced.note(now, hash, source);
        }
        Acceptance::Accept
    }

    /// Peers that say they have some of a blob, and what: the connected ones, those that announced
    /// it, and those that a search in the table of providers finds.
    pub async fn providers(
        &self,
        hash: ContentHash,
    ) -> Vec<(PeerId, protocol::blobs::wire::Availability)> {
        let mut scout = scout::Scout::start(&self.0, hash, Vec::new());
        let mut providers = BTreeMap::new();
        // The second round searches the table.
        let mut rounds = 0;
        while rounds < 2
            && let Some(report) = scout.next().await
        {
            match report {
                scout::Report::Holds(peer, holds) => {
                    providers.insert(peer, holds);
                }
                scout::Report::RoundOver(_) => {
                    rounds += 1;
                    scout.hurry();
                }
            }
        }
        providers.into_iter().collect()
    }

    /// Counters since start.
    pub fn stats(&self) -> BlobStats {
        self.0.counters.snapshot()
    }

    /// The transfer of a blob that is under way, or a new one; whether it was under way.
    fn join(
        &self,
        priority: Priority,
        hash: ContentHash,
        max_bytes: u64,
        hints: &[PeerId],
    ) -> (Shared<SharedFetch>, bool) {
        let mut in_flight = self.in_flight();
        if let Some(running) = in_flight.get(&hash).and_then(|r| r.transfer.upgrade())
            && running.peek().is_none()
        {
            return (running, true);
        }
        // What nobody waits for any more cannot be upgraded.
        in_flight.retain(|_, other| other.transfer.upgrade().is_some());
        let (sender, progress) = watch::channel(Progress::default());
        let wanted = fetch::Wanted { hash, max_bytes, hints: hints.to_vec(), priority };
        let transfer = fetch::fetch(Arc::clone(&self.0), wanted, sender).boxed().shared();
        if let Some(weak) = transfer.downgrade() {
            in_flight.insert(hash, InFlight { transfer: weak, progress });
        }
        (transfer, false)
    }

    fn in_flight(&self) -> MutexGuard<'_, BTreeMap<ContentHash, InFlight>> {
        self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Who announced a blob.
    fn announcers(&self, hash: &ContentHash) -> Vec<PeerId> {
        let announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        announced.providers(self.epoch.elapsed(), hash)
    }

    const fn patience(&self) -> Patience {
        Patience { answer_max: self.config.answer_max, stall_max: self.config.stall_max }
    }

    /// A stream to a peer: one that was used before, unless it must be fresh. A used one may have
    /// been closed in the meantime, which says nothing: see [`Lane::was_stale`].
    async fn lane(&self, peer: PeerId, fresh: bool) -> Result<Lane<Stream>, Failure> {
        let (patience, tracker) = (self.patience(), self.tracker.clone());
        if !fresh && let Some(stream) = self.streams.reuse(peer) {
            return Ok(Lane::new(stream, true, patience, tracker));
        }
        let no_answer = |error: RequestError| Failure::NoAnswer(error.to_string());
        let stream = self.streams.open(peer).await.map_err(no_answer)?;
        Ok(Lane::new(stream, false, patience, tracker))
    }

    /// Keeps the stream for the next request if this one left it in order.
    fn keep<T>(
        &self,
        peer: PeerId,
        lane: Lane<Stream>,
        result: Result<T, Failure>,
    ) -> Result<T, Failure> {
        if result.as_ref().err().is_none_or(Failure::keeps_stream) {
            self.streams.keep(peer, lane.into_stream());
        }
        result
    }

    /// Asks a peer for ranges of a large blob.
    async fn ask(
        &self,
        peer: PeerId,
        hash: ContentHash,
        size: u64,
        ranges: GroupRanges,
        sink: &impl Sink,
    ) -> Result<Asked, Broke> {
        let mut fresh = false;
        loop {
            let mut lane = self.lane(peer, fresh).await?;
            match lane.ask(hash, size, ranges.clone(), sink).await {
                Err(Broke::Provider(failure)) if lane.was_stale(&failure) => fresh = true,
                Err(Broke::Provider(failure)) => return Ok(self.keep(peer, lane, Err(failure))?),
                Ok(Asked::Complete) => return Ok(self.keep(peer, lane, Ok(Asked::Complete))?),
                // The rest of the answer is still on its way.
                other => return other,
            }
        }
    }

    /// Asks a peer what it has.
    async fn have(&self, peer: PeerId, hashes: &[ContentHash]) -> Result<Holdings, Failure> {
        let mut fresh = false;
        loop {
            let mut lane = self.lane(peer, fresh).await?;
            match lane.have(hashes).await {
                Err(failure) if lane.was_stale(&failure) => fresh = true,
                result => return self.keep(peer, lane, result),
            }
        }
    }

    /// Counts a failure and holds it against the peer.
    fn judge(&self, peer: PeerId, failure: &Failure, promised: bool) {
        tracing::debug!(%peer, %failure, "blob provider failed");
        self.counters.count_attempt(failure);
        let fault = match failure {
            Failure::Lied(_) => Some((Severity::Fatal, "blob bytes that do not verify")),
            Failure::Malformed(_) => Some((Severity::LowTolerance, "malformed blob answer")),
            Failure::Stalled => Some((Severity::HighTolerance, "blob transfer stalled")),
            Failure::Missing | Failure::Absent if promised => {
                Some((Severity::HighTolerance, "has not the blob that it announced"))
            }
            Failure::Missing
            | Failure::Absent
            | Failure::Busy
            | Failure::NoAnswer(_)
            | Failure::Broken(_) => None,
        };
        if let Some((severity, reason)) = fault {
            self.network.report(peer, severity, reason);
        }
    }
}

fn within(hash: ContentHash, size: u64, max: u64) -> Result<u64, FetchError> {
    if size > max { Err(FetchError::TooLarge { hash, size, max }) } else { Ok(size) }
}

#[cfg(test)]
mod tests;
