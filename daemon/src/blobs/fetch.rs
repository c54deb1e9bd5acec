//! Fetching one blob: its turn, the first look, and for a large one the transfer.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use protocol::ids::ContentHash;
use storage::{BlobError, BlobStore, PartialBlob};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Inner;
use super::begin::{self, Providers};
use super::error::FetchError;
use super::lane::{Part, Started};
use super::progress::Progress;
use super::queue::Priority;
use super::scout::Scout;
use super::stats::Counters;
use super::transfer::{Transfer, bytes_in};

/// How long writes of a dropped transfer may take to end: a sync of a batch on a slow disk.
const WRITES_MAX: Duration = Duration::from_secs(10);

/// What is to be fetched.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) hash: ContentHash,
    pub(super) max_bytes: u64,
    pub(super) hints: Vec<PeerId>,
    pub(super) priority: Priority,
}

/// Fetches what is not stored here yet, and returns its length.
pub(super) async fn fetch(
    inner: Arc<Inner>,
    wanted: Wanted,
    progress: watch::Sender<Progress>,
) -> Result<u64, FetchError> {
    let turn = inner.queue.enter(wanted.priority).await;
    let result = work(&inner, wanted, progress).await;
    inner.counters.count_fetch(&result);
    drop(turn);
    result
}

async fn work(
    inner: &Arc<Inner>,
    wanted: Wanted,
    progress: watch::Sender<Progress>,
) -> Result<u64, FetchError> {
    let Wanted { hash, max_bytes, hints, priority } = wanted;
    if let Some(size) = inner.store.size(&hash) {
        return Ok(size);
    }
    // Nothing may collect it between its arrival and the caller's pin.
    let _hold = inner.store.hold(hash);
    let mut scout = Scout::start(inner, hash, hints.clone());
    let mut providers = Providers::default();
    let partial = match inner.store.availability(&hash).size() {
        Some(size) => {
            check(hash, size, max_bytes)?;
            let partial = open(inner, hash, move |store| store.partial(hash, size)).await?;
            progress.send_modify(|progress| progress.had = bytes_in(partial.verified(), size));
            partial
        }
        None => match begin::begin(inner, hash, &hints, &mut scout, &mut providers).await {
            None => return Err(providers.failed(hash)),
            Some(Started::Whole(blob)) => {
                let size = blob.size();
                check(hash, size, max_bytes)?;
                blocking(inner, hash, move |store| store.put_batch(&[blob])).await?;
                Counters::add(&inner.counters.bytes_received, size);
                progress.send_modify(|progress| {
                    *progress = Progress { size, verified: size, ..Progress::default() };
                    if let Some(peer) = providers.proven {
                        progress.add(peer, size);
                    }
                });
                return Ok(size);
            }
            Some(Started::Large { size, last }) => {
                check(hash, size, max_bytes)?;
                Counters::add(&inner.counters.bytes_received, last.bytes());
                if let Some(peer) = providers.proven {
                    progress.send_modify(|progress| progress.add(peer, last.bytes()));
                }
                let last = Arc::new(last);
                open(inner, hash, move |store| first(store, size, &last)).await?
            }
        },
    };
    let proven = providers.proven;
    Transfer { inner, hash, priority, scout, providers, progress, proven }
        .run(partial, &hints)
        .await
}

/// Opens a partial blob. The last writes of a transfer that was dropped may still be under way.
async fn open(
    inner: &Inner,
    hash: ContentHash,
    work: impl Fn(&BlobStore) -> Result<PartialBlob, BlobError> + Clone + Send + 'static,
) -> Result<PartialBlob, FetchError> {
    let began = Instant::now();
    loop {
        let work = work.clone();
        match blocking(inner, hash, move |store| work(&store)).await {
            Err(FetchError::Store { source, .. })
                if matches!(*source, BlobError::Receiving(_)) && began.elapsed() < WRITES_MAX =>
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            result => return result,
        }
    }
}

/// Begins a partial blob with the group that proves its size.
fn first(store: &BlobStore, size: u64, last: &Part) -> Result<PartialBlob, BlobError> {
    let mut partial = store.partial(last.hash(), size)?;
    partial.write_part(last)?;
    // From now on a restarted node knows the size, and what to look for.
    partial.checkpoint().run()?;
    Ok(partial)
}

fn check(hash: ContentHash, size: u64, max: u64) -> Result<(), FetchError> {
    if size > max { Err(FetchError::TooLarge { hash, size, max }) } else { Ok(()) }
}

/// Uses the store on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    inner: &Inner,
    hash: ContentHash,
    work: impl FnOnce(BlobStore) -> Result<T, BlobError> + Send + 'static,
) -> Result<T, FetchError> {
    let store = inner.store.clone();
    match inner.tracker.spawn_blocking(move || work(store)).await {
        Ok(result) => result.map_err(|source| FetchError::Store { hash, source: Arc::new(source) }),
        // Only at shutdown, or after a panic that was logged.
        Err(_) => Err(FetchError::Stopped),
    }
}
