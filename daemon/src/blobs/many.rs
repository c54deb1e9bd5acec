//! Fetching many blobs: small ones travel together, hundreds with one question.
//!
//! Every provider takes batches from a common list until nothing is left that it may have; what no
//! batch brought, and what turns out to be large, is fetched alone. A batch is made durable as a
//! whole before anybody hears of it, so a crash costs the batches under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{self, FuturesUnordered, StreamExt};
use libp2p::{PeerId, Stream};
use protocol::blobs::groups_of;
use protocol::blobs::wire::Availability;
use protocol::ids::ContentHash;
use protocol::limits::{BLOB_ITEMS_PER_REQUEST_MAX, WHOLE_GROUPS_MAX};
use storage::blobs::VerifiedBlob;
use tokio::sync::mpsc;

use super::error::{Failure, FetchError};
use super::lane::{Lane, Started};
use super::progress::Source;
use super::queue::Priority;
use super::stats::Counters;
use super::{BlobService, Inner, fetch, scout};

/// Bytes of one batch: what a crash costs per lane, and what waits in memory for its sync.
const BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// Providers of one list: with them, memory is at most 192 MiB.
const PROVIDERS_MAX: usize = 8;
/// Batches of one provider at once: one travels while the other is written.
const LANES: usize = 2;

/// What is still to be fetched, and who has not got it.
struct List {
    wanted: Vec<(ContentHash, u64)>,
    open: VecDeque<usize>,
    lacking: BTreeMap<PeerId, BTreeSet<usize>>,
}

impl List {
    /// The next blobs to ask a provider for.
    fn take(&mut self, peer: PeerId) -> Vec<usize> {
        let lacking = self.lacking.entry(peer).or_default();
        let (mut batch, mut passed, mut bytes) = (Vec::new(), Vec::new(), 0_u64);
        while batch.len() < BLOB_ITEMS_PER_REQUEST_MAX
            && bytes < BATCH_BYTES
            && let Some(index) = self.open.pop_front()
        {
            if lacking.contains(&index) {
                passed.push(index);
                continue;
            }
            bytes = bytes.saturating_add(self.wanted.get(index).map_or(0, |(_, max)| *max));
            batch.push(index);
        }
        for index in passed.into_iter().rev() {
            self.open.push_front(index);
        }
        batch
    }
}

/// Fetches `blobs`, each of at most the bytes given with it.
pub(super) async fn fetch(
    service: &BlobService,
    priority: Priority,
    blobs: &[(ContentHash, u64)],
    hints: &[PeerId],
    arrived: &mut (dyn FnMut(Source) + Send),
) -> Vec<Result<u64, FetchError>> {
    let inner = &service.0;
    let together: Vec<(ContentHash, u64)> = {
        let mut known = BTreeSet::new();
        let small = blobs.iter().filter(|(hash, max)| {
            groups_of(*max) <= WHOLE_GROUPS_MAX && !inner.store.contains(hash)
        });
        small.filter(|(hash, _)| known.insert(*hash)).copied().collect()
    };
    if together.len() > 1 {
        let _turn = inner.queue.enter(priority).await;
        batches(inner, priority, together, hints, arrived).await;
    }
    // Owned: a future over borrowed pairs could not be sent to another thread.
    let owned = blobs.to_vec();
    let rest = owned.into_iter().map(|(hash, max)| async move {
        if inner.store.contains(&hash) {
            return (None, service.fetch_as(priority, hash, max, hints.to_vec()).await);
        }
        let result = service.fetch_as(priority, hash, max, hints.to_vec()).await;
        // Whoever gave it, unless the fetch of somebody else has replaced what was noted.
        let sources = service.progress(&hash).map(|last| last.borrow().sources.clone());
        (Some(sources.unwrap_or_default()), result)
    });
    let mut results = Vec::with_capacity(blobs.len());
    // The bound of transfers holds inside; this one bounds what waits for it.
    let mut rest = stream::iter(rest).buffered(2 * inner.config.fetches_max);
    while let Some((sources, result)) = rest.next().await {
        match (sources, &result) {
            (Some(sources), Ok(bytes)) if sources.is_empty() => {
                let peer = inner.network.local_peer();
                arrived(Source { peer, bytes: *bytes, bytes_per_s: 0 });
            }
            (Some(sources), Ok(_)) => sources.into_values().for_each(&mut *arrived),
            _ => {}
        }
        results.push(result);
    }
    results
}

async fn batches(
    inner: &Arc<Inner>,
    priority: Priority,
    wanted: Vec<(ContentHash, u64)>,
    hints: &[PeerId],
    arrived: &mut (dyn FnMut(Source) + Send),
) {
    let sample: Vec<ContentHash> =
        wanted.iter().take(BLOB_ITEMS_PER_REQUEST_MAX).map(|(hash, _)| *hash).collect();
    let open = (0..wanted.len()).collect();
    let list = Arc::new(Mutex::new(List { wanted, open, lacking: BTreeMap::new() }));
    let (sender, mut receiver) = mpsc::channel(64);
    let mut lanes = FuturesUnordered::new();
    let start = |peer: PeerId| std::iter::repeat_n(peer, LANES);
    let hinted: BTreeSet<PeerId> = hints.iter().copied().take(PROVIDERS_MAX).collect();
    let mut providers = hinted.len();
    for peer in hinted.iter().flat_map(|peer| start(*peer)) {
        lanes.push(lane(inner, priority, peer, &list, sender.clone()));
    }
    let near = scout::nearest(inner).await;
    let mut answers: FuturesUnordered<_> = near
        .into_iter()
        .filter(|peer| !hinted.contains(peer))
        .map(|peer| scout::ask(inner, peer, sample.clone()))
        .collect();
    loop {
        tokio::select! {
            Some(source) = receiver.recv() => arrived(source),
            Some((peer, _, answer)) = answers.next(), if !answers.is_empty() => {
                let has = |holdings: protocol::blobs::wire::Holdings| {
                    holdings.as_slice().iter().any(|one| *one != Availability::None)
                };
                if answer.is_ok_and(has) && providers < PROVIDERS_MAX {
                    providers += 1;
                    for peer in start(peer) {
                        lanes.push(lane(inner, priority, peer, &list, sender.clone()));
                    }
                }
            }
            Some(()) = lanes.next(), if !lanes.is_empty() => {}
            else => break,
        }
        if lanes.is_empty() && answers.is_empty() {
            break;
        }
    }
    drop(lanes);
    while let Ok(source) = receiver.try_recv() {
        arrived(source);
    }
}

/// Takes batches for one provider until there is nothing left for it, or it fails.
async fn lane(
    inner: &Arc<Inner>,
    priority: Priority,
    peer: PeerId,
    list: &Arc<Mutex<List>>,
    sources: mpsc::Sender<Source>,
) {
    let mut urgent = inner.queue.urgent();
    loop {
        if priority == Priority::Bulk && urgent.wait_for(|urgent| *urgent == 0).await.is_err() {
            return;
        }
        let batch = lock(list).take(peer);
        if batch.is_empty() {
            return;
        }
        let hashes: Vec<ContentHash> = {
            let list = lock(list);
            batch.iter().filter_map(|index| Some(list.wanted.get(*index)?.0)).collect()
        };
        let got = Mutex::new(Got::default());
        let result = ask(inner, peer, &hashes, &got).await;
        let got = got.into_inner().unwrap_or_else(PoisonError::into_inner);
        let bytes: u64 = got.blobs.iter().map(VerifiedBlob::size).sum();
        let stored = match got.blobs.first().map(VerifiedBlob::hash) {
            None => Ok(()),
            Some(first) => {
                let blobs = got.blobs;
                fetch::blocking(inner, first, move |store| store.put_batch(&blobs)).await
            }
        };
        {
            let mut list = lock(list);
            let lacking: Vec<usize> =
                got.lacking.iter().filter_map(|at| batch.get(*at).copied()).collect();
            list.lacking.entry(peer).or_default().extend(&lacking);
            let unread = batch.iter().skip(got.read).copied();
            list.open.extend(lacking.iter().copied().chain(unread));
        }
        if let Err(error) = stored {
            // The fetch of what is left says so to the caller.
            tracing::warn!(%error, "cannot store what was fetched");
            return;
        }
        Counters::add(&inner.counters.bytes_received, bytes);
        if bytes > 0 {
            let _ = sources.send(Source { peer, bytes, bytes_per_s: 0 }).await;
        }
        if let Err(failure) = result {
            inner.judge(peer, &failure, false);
            return;
        }
    }
}

/// What a batch has brought so far.
#[derive(Default)]
struct Got {
    blobs: Vec<VerifiedBlob>,
    /// Places in the batch that the provider has not, or that are large.
    lacking: Vec<usize>,
    /// How many items were answered.
    read: usize,
}

/// Asks a provider for a batch.
async fn ask(
    inner: &Inner,
    peer: PeerId,
    hashes: &[ContentHash],
    got: &Mutex<Got>,
) -> Result<(), Failure> {
    let mut fresh = false;
    loop {
        let mut lane = inner.lane(peer, fresh).await?;
        match receive(&mut lane, hashes, got).await {
            Err(failure) if lane.was_stale(&failure) && lock(got).read == 0 => fresh = true,
            result => return inner.keep(peer, lane, result),
        }
    }
}

async fn receive(
    lane: &mut Lane<Stream>,
    hashes: &[ContentHash],
    got: &Mutex<Got>,
) -> Result<(), Failure> {
    let whole = u32::try_from(WHOLE_GROUPS_MAX).unwrap_or(u32::MAX);
    *lock(got) = Got::default();
    lane.start(hashes.iter().copied(), whole).await?;
    for (at, hash) in hashes.iter().enumerate() {
        let started = lane.started(*hash, whole).await;
        let mut got = lock(got);
        match started {
            Ok(Started::Whole(blob)) => got.blobs.push(blob),
            Ok(Started::Large { .. }) | Err(Failure::Missing | Failure::Absent | Failure::Busy) => {
                got.lacking.push(at);
            }
            Err(failure) => return Err(failure),
        }
        got.read = at + 1;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
