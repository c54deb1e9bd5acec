//! Starting from a snapshot that peers have, when the chain is far ahead.
//!
//! ```text
//! probe -> ask peers -> prove -> fetch -> verify -> stage | open: put in place -> block sync
//! ```
//!
//! Before the ledger is opened, a node that is far behind ([`peers::far`]) asks its peers for
//! their newest snapshot, has it proven from the genesis or from the block that its owner trusts
//! (`prove`), fetches the bytes as a blob, verifies them and prepares the new ledger
//! (`install`), which opening puts in place as a whole. Then blocks follow as usual.
//!
//! **Invariants.** Nothing that a peer says is believed before it is proven; a peer that gives a
//! false proof is banned and the next one is asked. Until the one file that decides it is durable,
//! the old ledger stands; whatever is cut off before is begun again or discarded. The signer guard
//! is not touched: a node that signed above the snapshot abstains until that height is decided.
//!
//! Deliberately absent: joining by snapshot while the node runs ([`watch`] says that it is
//! needed; a restart does it), and for an archive, which wants every block.

mod install;
mod peers;
mod prove;
pub mod serve;
pub mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use libp2p::PeerId;
use protocol::amount::Height;
use protocol::consensus::ValidatorSet;
use protocol::ids::ChainId;
use protocol::join::TrustedBlock;
use storage::BlobStore;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use self::peers::{Candidate, Heard};
use crate::blobs::BlobService;
use crate::network::{NetworkEvent, NetworkHandle};

pub use install::tidy;
pub use peers::{far, may_be_far};

/// Rounds over all that peers offer: in the meantime their snapshots move on.
const ROUNDS_MAX: u32 = 3;
/// Pause before trying again: there is nothing to wait for, since peers take and commit snapshots
/// without telling.
const ROUND_PAUSE: Duration = Duration::from_secs(2);

/// What joining needs.
pub struct Setup {
    /// Data directory; its ledger is not open.
    pub data: PathBuf,
    /// The chain.
    pub chain: ChainId,
    /// The validators that the genesis names.
    pub genesis: ValidatorSet,
    /// A block that the owner trusts: proofs begin there.
    pub trusted: Option<TrustedBlock>,
    /// Blocks between two snapshots, as the genesis has it.
    pub interval_blocks: u64,
    /// Last block that is here.
    pub tip: Height,
    /// Peers that can be expected to answer.
    pub peers_expected: usize,
    /// The network.
    pub network: NetworkHandle,
    /// Where the snapshot is fetched to.
    pub store: BlobStore,
    /// What fetches it.
    pub blobs: BlobService,
    /// Threads that block.
    pub tracker: TaskTracker,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Blocks will do.
    NotBehind,
    /// A ledger that begins at this height is prepared.
    Prepared(Height),
    /// Far behind, and nobody could give a snapshot: blocks must do.
    NoSnapshot,
}

/// Prepares a ledger from a snapshot if that is needed and possible. An error is this node's own:
/// its disk, or its configuration.
///
/// Cancel-safe: dropped at any point, the ledger is as it was.
pub async fn join(
    setup: &Setup,
    events: &mut mpsc::Receiver<NetworkEvent>,
) -> anyhow::Result<Outcome> {
    let heard = Heard::of(&setup.network.peers().await);
    tokio::select! {
        outcome = Box::pin(seek(setup, &heard)) => outcome,
        () = peers::listen(&setup.network, events, &heard) => {
            anyhow::bail!("the network has stopped")
        }
    }
}

async fn seek(setup: &Setup, heard: &Heard) -> anyhow::Result<Outcome> {
    heard.wait(setup.peers_expected).await;
    // A liar or a silent peer costs its time once, not in every round.
    let mut failed = BTreeSet::new();
    for round in 0..ROUNDS_MAX {
        if round > 0 {
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        let best = heard.best();
        if best <= setup.tip.plus(1) {
            return Ok(Outcome::NotBehind);
        }
        let mut offers = peers::ask(&setup.network, heard).await;
        offers.retain(|(peer, _)| !failed.contains(peer));
        let Some(candidates) = peers::candidates(setup, best, &offers) else {
            return Ok(Outcome::NotBehind);
        };
        tracing::info!(
            tip = setup.tip.get(),
            ahead = best.get(),
            answers = offers.len(),
            snapshots = candidates.len(),
            "far behind; looking for a snapshot to start from"
        );
        for candidate in &candidates {
            if let Some(height) = attempt(setup, candidate, &mut failed).await? {
                return Ok(Outcome::Prepared(height));
            }
        }
    }
    tracing::warn!(
        tip = setup.tip.get(),
        "no peer could give a snapshot that can be proven; going on with blocks, one by one"
    );
    Ok(Outcome::NoSnapshot)
}

/// Tries the peers that offer one snapshot; notes those that did not prove it.
async fn attempt(
    setup: &Setup,
    candidate: &Candidate,
    failed: &mut BTreeSet<PeerId>,
) -> anyhow::Result<Option<Height>> {
    let offer = &candidate.offer;
    for peer in &candidate.peers {
        let trail = match prove::prove(setup, *peer, offer).await {
            Ok(trail) => trail,
            Err(failure) => {
                prove::blame(&setup.network, *peer, &failure);
                tracing::warn!(%peer, height = offer.height.get(), %failure, "no proof");
                if !failure.is_passing() {
                    failed.insert(*peer);
                }
                continue;
            }
        };
        tracing::info!(
            %peer, height = offer.height.get(), bridges = trail.bridges.len(),
            "a snapshot is proven; fetching it"
        );
        // Proven: whoever has these bytes may give them, and a lie about them is found at once.
        return install::install(setup, candidate, trail).await;
    }
    Ok(None)
}
