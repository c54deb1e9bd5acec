//! Which blobs are served, and having blobs here before they are used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use libp2p::PeerId;
use protocol::ids::{ContentHash, ModelId};
use protocol::ledger::entries::Phase;

use super::Node;
use super::ledger::Ledger;

/// Own deltas by payload hash, with their round: "deltas are served only after submissions
/// close" (design 7), so that nobody can copy one in time.
#[derive(Clone, Default)]
pub struct Withheld(Arc<Mutex<BTreeMap<ContentHash, (ModelId, u32)>>>);

impl Withheld {
    /// Withholds a delta until its round's submissions are closed.
    pub fn insert(&self, payload: ContentHash, model: ModelId, round: u32) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(payload, (model, round));
    }

    /// The deltas that are withheld.
    pub fn hashes(&self) -> Vec<ContentHash> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.keys().copied().collect()
    }

    /// Whether a blob may be served now.
    pub fn allows(&self, ledger: &Ledger, hash: &ContentHash) -> bool {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((model, round)) = map.get(hash).copied() else { return true };
        let phase = ledger.read(|view| view.round(&model, round).map(|r| r.phase));
        let closed = phase.is_some_and(|phase| phase > Phase::Submitting);
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
