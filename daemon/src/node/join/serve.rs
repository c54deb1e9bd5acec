//! Giving snapshots, their proofs, single blocks and states of own training to peers.
//!
//! **Invariants.** Only a snapshot that a final header commits is offered. Its bytes are served
//! from the file that the node keeps anyway, through the blob service; when that file goes, it is
//! withdrawn. A few questions are worked on at once; others are told to come again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::amount::Height;
use protocol::codec;
use protocol::ids::ContentHash;
use protocol::proof::Bridge;
use protocol::proof::snapshot::committed_at;
use storage::BlobStore;
use tokio::sync::Semaphore;

use crate::network::wire::{BRIDGES_PER_PAGE_MAX, PAGE_BYTES_MAX};
use crate::network::{
    BridgeAnswer, MetaRequest, MetaRequestId, MetaResponse, NoProof, SnapshotAnswer, SnapshotOffer,
};
use crate::node::Node;
use crate::node::ledger::{Ledger, SNAPSHOTS_KEPT};

/// Questions that are worked on at once: a proof reads blocks from the disk.
const AT_ONCE_MAX: usize = 4;

/// What is being served.
#[derive(Debug)]
pub struct SnapshotServer {
    served: Mutex<Served>,
    slots: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Served {
    offer: Option<SnapshotOffer>,
    attached: BTreeSet<ContentHash>,
    /// The bridges from the genesis to the header that commits the offer, once they were asked for.
    proof: Option<(Height, Arc<Vec<Bridge>>)>,
}

impl Default for SnapshotServer {
    fn default() -> Self {
        Self { served: Mutex::default(), slots: Arc::new(Semaphore::new(AT_ONCE_MAX)) }
    }
}

impl SnapshotServer {
    fn lock(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot that peers are offered now.
    pub fn offer(&self) -> Option<SnapshotOffer> {
        self.lock().offer
    }

    /// Looks at what is kept: attaches what is new, withdraws what is gone. Blocks.
    fn refresh(&self, ledger: &Ledger, store: &BlobStore) -> anyhow::Result<()> {
        let kept = ledger.committed_snapshots(SNAPSHOTS_KEPT)?;
        let mut served = self.lock();
        let known: BTreeSet<ContentHash> = kept.iter().map(|kept| kept.hash).collect();
        served.attached.retain(|hash| known.contains(hash) || !store.detach(hash));
        served.offer = None;
        for kept in kept.iter().rev() {
            if !served.attached.contains(&kept.hash) {
                store.attach(&kept.hash, &kept.path, &kept.tree())?;
                served.attached.insert(kept.hash);
            }
            let (height, hash) = (kept.height, kept.hash);
            let bytes = store.size(&hash).unwrap_or_default();
            served.offer = Some(SnapshotOffer { height, hash, bytes });
        }
        Ok(())
    }

    fn bridges(
        &self,
        ledger: &Ledger,
        after: Height,
        target: Height,
    ) -> Result<BridgeAnswer, NoProof> {
        if target < after || target > ledger.applied().height {
            return Err(NoProof::NoBlock(target));
        }
        // Everybody asks for this one, page by page.
        let usual = self.offer().is_some_and(|offer| committed_at(offer.height) == target);
        if usual && let Some(proof) = self.usual(ledger, target)? {
            let first = proof.partition_point(|bridge| bridge.header.height <= after);
            let before = first.checked_sub(1).and_then(|before| proof.get(before));
            let start = before.map(|bridge| bridge.header.clone());
            let height = start.as_ref().map_or(Height::ZERO, |start| start.height);
            if height == after {
                return Ok(page(start, proof.get(first..).unwrap_or_default()));
            }
        }
        let (start, bridges) = ledger.way(after, target)?;
        Ok(page(start, &bridges))
    }

    /// The proof from the genesis, if this node has one.
    fn usual(&self, ledger: &Ledger, target: Height) -> Result<Option<Arc<Vec<Bridge>>>, NoProof> {
        if let Some((at, proof)) = &self.lock().proof
            && *at == target
        {
            return Ok(Some(Arc::clone(proof)));
        }
        let Ok((_, bridges)) = ledger.way(Height::ZERO, target) else { return Ok(None) };
        let proof = Arc::new(bridges);
        self.lock().proof = Some((target, Arc::clone(&proof)));
        Ok(Some(proof))
    }

    fn answer(&self, ledger: &Ledger, request: &MetaRequest) -> MetaResponse {
        match request {
            MetaRequest::Snapshot => MetaResponse::Snapshot(SnapshotAnswer {
                first: ledger.first(),
                offer: self.offer(),
            }),
            MetaRequest::Bridges { after, target } => MetaResponse::Bridges(
                self.bridges(ledger, *after, *target).unwrap_or_else(BridgeAnswer::None),
            ),
            MetaRequest::Block(height) => {
                MetaResponse::Block(ledger.decided(*height).map(Box::new))
            }
            MetaRequest::Genesis | MetaRequest::Status | MetaRequest::States(_) => {
                MetaResponse::Refused
            }
        }
    }
}

/// As many bridges as fit a page.
fn page(start: Option<protocol::block::Header>, bridges: &[Bridge]) -> BridgeAnswer {
    let mut bytes = 0_usize;
    let mut fits = Vec::new();
    for bridge in bridges.iter().take(BRIDGES_PER_PAGE_MAX) {
        fits.push(bridge.clone());
        bytes = bytes.saturating_add(codec::size(bridge));
        if bytes > PAGE_BYTES_MAX {
            break;
        }
    }
    BridgeAnswer::Page { start: start.map(Box::new), bridges: fits }
}

/// Answers a peer's question, on a thread that may block.
pub fn answer(node: &Arc<Node>, id: MetaRequestId, request: MetaRequest) {
    let permit = Arc::clone(&node.snapshots.slots).try_acquire_owned();
    let node = Arc::clone(node);
    let tracker = node.tracker.clone();
    tracker.spawn(async move {
        let Ok(_permit) = permit else {
            let busy = match request {
                MetaRequest::Bridges { .. } => {
                    MetaResponse::Bridges(BridgeAnswer::None(NoProof::Busy))
                }
                _ => MetaResponse::Refused,
            };
            return node.network.respond(id, busy).await;
        };
        let worker = Arc::clone(&node);
        let answer = move |ledger: &Ledger| match request {
            MetaRequest::States(id) => crate::node::duties::shown(&worker, &id),
            request => worker.snapshots.answer(ledger, &request),
        };
        let answer = node.ledger.run(answer).await;
        node.network.respond(id, answer).await;
    });
}

/// Follows what is kept until shutdown.
pub async fn run(node: Arc<Node>) {
    let mut applied = node.ledger.follow();
    let mut seen = None;
    loop {
        let height = applied.borrow_and_update().height;
        let worker = Arc::clone(&node);
        seen = node
            .ledger
            .run(move |ledger| {
                // Something changes when a snapshot is taken and when it is committed.
                let due = ledger.snapshot_due();
                let now = Some((due, height >= committed_at(due)));
                if now != seen
                    && let Err(error) = worker.snapshots.refresh(ledger, &worker.store)
                {
                    tracing::error!(error = format!("{error:#}"), "snapshots are not served");
                }
                now
            })
            .await;
        tokio::select! {
            () = node.token.cancelled() => break,
            changed = applied.changed() => if changed.is_err() { break },
        }
    }
}
