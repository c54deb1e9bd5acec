//! Which blobs are served, and having blobs here before they are used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use libp2p::PeerId;
use protocol::ids::{ContentHash, ContributionId, ModelId};
use protocol::ledger::entries::Phase;
use protocol::ledger::rounds::late_home;

use super::Node;
use super::ledger::Ledger;

/// Own deltas by payload hash: "deltas are served only after submissions
/// close" (design 7), so that nobody can copy one in time.
#[derive(Clone, Default)]
pub struct Withheld(Arc<Mutex<BTreeMap<ContentHash, Own>>>);

/// An own delta: the model, the round for which it was trained, its id.
type Own = (ModelId, u32, ContributionId);

impl Withheld {
    /// Withholds a delta until the submissions of the round that merges it are closed.
    pub fn insert(
        &self,
        payload: ContentHash,
        model: ModelId,
        round: u32,
        contribution: ContributionId,
    ) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(payload, (model, round, contribution));
    }

    /// The deltas that are withheld.
    pub fn hashes(&self) -> Vec<ContentHash> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.keys().copied().collect()
    }

    /// Whether a blob may be served now.
    pub fn allows(&self, ledger: &Ledger, hash: &ContentHash) -> bool {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((model, round, contribution)) = map.get(hash).copied() else { return true };
        let closed = ledger.read(|view| match view.contribution(&contribution) {
            Some(c) => view.round(&model, c.merged_in).is_some_and(|r| r.phase > Phase::Submitting),
            // Nothing was committed to. It may still be, as long as a round would take it.
            None => view.round(&model, round).is_some_and(|trained| {
                trained.phase.is_over() && late_home(view, &trained).is_none()
            }),
        });
        if closed {
            map.remove(hash);
        }
        closed
    }
}

impl Node {
    /// Has a blob here and reads it.
    pub async fn blob_bytes(
        &self,
        hash: ContentHash,
        bytes_max: u64,
        hints: Vec<PeerId>,
    ) -> anyhow::Result<Vec<u8>> {
        self.blobs.fetch(hash, bytes_max, hints).await?;
        let store = self.store.clone();
        Ok(tokio::task::spawn_blocking(move || store.read_all(&hash, bytes_max)).await??)
    }

    /// Stores bytes as a blob.
    pub async fn put_blob(&self, bytes: Vec<u8>) -> anyhow::Result<ContentHash> {
        let store = self.store.clone();
        Ok(tokio::task::spawn_blocking(move || store.put_bytes(&bytes)).await??)
    }
}
