//! Fetching a proven snapshot, verifying it, and preparing the ledger that begins with it.
//!
//! **Invariant.** The blob is fetched under the hash that a header commits, so whoever sends it
//! cannot change it. What is prepared has been verified here from the first byte to the root.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use protocol::amount::Height;
use protocol::block::DecidedBlock;
use protocol::ids::{ChainId, ContentHash};
use protocol::ledger::state::prefix;
use protocol::limits;
use protocol::proof::snapshot::{StoredSets, check_base};
use protocol::proof::trail::Trail;
use storage::BlobStore;
use storage::snapshot::{self, Info, SnapshotError};

use super::Setup;
use super::peers::Candidate;
use crate::blobs::FetchError;
use crate::network::{MetaRequest, MetaResponse, Severity, SnapshotOffer};
use crate::node::notes;

/// How often the progress of a fetch is told.
const TELL: Duration = Duration::from_secs(5);

/// The file that names the blob being fetched, so that it does not stay for ever.
fn note(data: &Path) -> PathBuf {
    data.join("joining")
}

/// Removes a snapshot blob that was fetched, now or by an earlier start, and is no longer needed.
pub fn tidy(data: &Path, store: &BlobStore) -> anyhow::Result<()> {
    tidy_but(data, store, None)
}

/// As [`tidy`], unless it is `wanted`.
fn tidy_but(data: &Path, store: &BlobStore, wanted: Option<ContentHash>) -> anyhow::Result<()> {
    let path = note(data);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let hash = text.trim().parse::<ContentHash>().ok();
    if hash.is_some() && hash == wanted {
        return Ok(());
    }
    if let Some(hash) = hash {
        store.delete(&hash).context("cannot remove a snapshot that is no longer needed")?;
    }
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Fetches the snapshot from those who offer it, or from anybody who has it, and prepares the
/// ledger. `None`: nobody gave it whole.
pub(super) async fn install(
    setup: &Setup,
    candidate: &Candidate,
    trail: Trail,
) -> anyhow::Result<Option<Height>> {
    let offer = candidate.offer;
    let (data, store) = (setup.data.clone(), setup.store.clone());
    blocking(setup, move || {
        tidy_but(&data, &store, Some(offer.hash))?;
        let text = format!("{}\n", offer.hash);
        notes::write(&note(&data), text.as_bytes()).context("cannot note what is fetched")
    })
    .await?;
    match fetch(setup, candidate).await {
        Ok(bytes) => tracing::info!(bytes, "the snapshot has arrived; verifying it"),
        Err(error @ (FetchError::Store { .. } | FetchError::Stopped)) => return Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "the snapshot could not be fetched");
            return Ok(None);
        }
    }
    let (store, chain) = (setup.store.clone(), setup.chain);
    let read = blocking(setup, move || read(&store, &chain, &offer)).await?;
    let Some((path, info, sets)) = read else { return Ok(None) };
    if info.head.height != offer.height {
        // The header that commits it is the one of another height: nothing honest leads here.
        tracing::error!(found = info.head.height.get(), "the snapshot is of another height");
        return Ok(None);
    }
    let Some(base) = base(setup, candidate, &info, &sets).await else {
        tracing::warn!(height = offer.height.get(), "nobody gave the block at the snapshot");
        return Ok(None);
    };
    let (data, chain) = (setup.data.clone(), setup.chain);
    blocking(setup, move || {
        // True of the chain whatever becomes of the rest, and needed with it.
        storage::trail::save(&data, &trail).context("cannot store the proof of the snapshot")?;
        snapshot::stage(&data, &chain, &path, &base).context("cannot prepare the snapshot")
    })
    .await?;
    tracing::info!(
        height = offer.height.get(), hash = %offer.hash, entries = info.entries,
        "the snapshot is verified and prepared"
    );
    Ok(Some(offer.height))
}

async fn blocking<T: Send + 'static>(
    setup: &Setup,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    setup.tracker.spawn_blocking(work).await.context("a task of joining has ended early")?
}

/// Fetches the blob, telling how far it is.
async fn fetch(setup: &Setup, candidate: &Candidate) -> Result<u64, FetchError> {
    let (offer, peers) = (&candidate.offer, candidate.peers.clone());
    let mut fetch = Box::pin(setup.blobs.fetch(offer.hash, limits::BLOB_BYTES_MAX, peers));
    let mut tell = tokio::time::interval(TELL);
    loop {
        tokio::select! {
            result = &mut fetch => return result,
            _ = tell.tick() => {
                let received = setup.blobs.stats().bytes_received;
                tracing::info!(received, of = offer.bytes, "fetching the snapshot");
            }
        }
    }
}

/// Verifies all of the snapshot, and reads its validators. `None`: it is malformed.
fn read(
    store: &BlobStore,
    chain: &ChainId,
    offer: &SnapshotOffer,
) -> anyhow::Result<Option<(PathBuf, Info, StoredSets)>> {
    let path = store.data_path(&offer.hash)?;
    let info = match snapshot::verify_hash(&path, chain, &offer.hash) {
        Ok(info) => info,
        Err(error @ (SnapshotError::Io(_) | SnapshotError::File(_))) => return Err(error.into()),
        Err(error) => {
            tracing::error!(%error, "a header commits a snapshot that cannot be used");
            return Ok(None);
        }
    };
    let mut sets = snapshot::values(&path, &[prefix::VALIDATORS_TIP, prefix::VALIDATORS])?;
    let [tip, next] = [0, 1].map(|at| sets.get_mut(at).and_then(Option::take));
    Ok(Some((path, info, StoredSets { tip, next })))
}

/// Asks for the block at the snapshot's height until one is right.
async fn base(
    setup: &Setup,
    candidate: &Candidate,
    info: &Info,
    sets: &StoredSets,
) -> Option<DecidedBlock> {
    let head = &info.head;
    for peer in &candidate.peers {
        let answer = setup.network.request(*peer, MetaRequest::Block(head.height)).await;
        let block = match answer {
            Ok(MetaResponse::Block(Some(block))) => block,
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%peer, %error, "no block");
                continue;
            }
        };
        match check_base(&setup.chain, head.height, &head.block, sets, &block) {
            Ok(()) => return Some(*block),
            Err(error) => {
                tracing::warn!(%peer, %error, "a false block");
                setup.network.report(*peer, Severity::Fatal, "a false block at a snapshot");
            }
        }
    }
    None
}
