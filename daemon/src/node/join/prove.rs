//! Having one peer prove that a snapshot is the chain's.

use libp2p::PeerId;
use protocol::amount::Height;
use protocol::block::Header;
use protocol::ids::BlockHash;
use protocol::proof::snapshot::{Follower, SnapshotProofError, committed_at};
use protocol::proof::trail::{Trail, TrailStart};
use protocol::proof::{Anchor, Bridge};
use thiserror::Error;

use super::Setup;
use crate::network::{
    BridgeAnswer, MetaRequest, MetaResponse, NetworkHandle, NoProof, RequestError, Severity,
    SnapshotOffer,
};

/// Why a peer did not prove it.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// No answer, or none that fits.
    #[error("no answer: {0}")]
    Request(#[from] RequestError),
    /// It has none.
    #[error("the peer has no proof: {0}")]
    None(#[from] NoProof),
    /// Its proof is false.
    #[error("the peer's proof is false: {0}")]
    False(#[from] SnapshotProofError),
    /// A page without a bridge, before the end.
    #[error("the peer's proof stops at height {0}")]
    Stops(Height),
    /// The owner trusts a block that the peer's chain does not have.
    #[error(
        "block {height} of the peer is {}, not {trusted} as `trusted` says: the peer follows \
         another chain, or `trusted` was typed wrongly",
        .found.map_or_else(|| "not there".to_owned(), |found| found.to_string())
    )]
    OtherTrust {
        /// Height of the trusted block.
        height: Height,
        /// The trusted block.
        trusted: BlockHash,
        /// What the peer has there.
        found: Option<BlockHash>,
    },
    /// The snapshot is older than the trusted block.
    #[error("the snapshot is committed at height {0}, before the block that is trusted")]
    BeforeTrust(Height),
}

impl Failure {
    /// Whether the same peer may have a proof a little later.
    pub(super) const fn is_passing(&self) -> bool {
        matches!(self, Self::None(NoProof::Busy | NoProof::NoBlock(_)))
    }
}

/// Holds against a peer what nobody honest does. Another trusted block may be our own mistake.
pub(super) fn blame(network: &NetworkHandle, peer: PeerId, failure: &Failure) {
    match failure {
        Failure::False(_) => network.report(peer, Severity::Fatal, "a false proof of a snapshot"),
        Failure::Stops(_) => {
            network.report(peer, Severity::LowTolerance, "a proof that stops on the way");
        }
        // The network has seen to the first; the others may be for what we ask or believe.
        Failure::Request(_)
        | Failure::None(_)
        | Failure::OtherTrust { .. }
        | Failure::BeforeTrust(_) => {}
    }
}

/// Asks for the proof page by page and verifies each as it comes.
pub(super) async fn prove(
    setup: &Setup,
    peer: PeerId,
    offer: &SnapshotOffer,
) -> Result<Trail, Failure> {
    let target = committed_at(offer.height);
    let (mut follower, start, mut page) = match setup.trusted {
        None => {
            let anchor = Anchor::genesis(&setup.genesis);
            (Follower::new(setup.chain, anchor, target), TrailStart::Genesis, Vec::new())
        }
        Some(trusted) if trusted.height > target => return Err(Failure::BeforeTrust(target)),
        Some(trusted) => {
            let (start, page) = ask(&setup.network, peer, trusted.height, target).await?;
            let found = start.as_ref().map(Header::hash);
            let Some(start) = start.filter(|start| start.hash() == trusted.hash) else {
                let (height, trusted) = (trusted.height, trusted.hash);
                return Err(Failure::OtherTrust { height, trusted, found });
            };
            let follower = Follower::trusting(setup.chain, start.clone(), target);
            (follower, TrailStart::Header(Box::new(start)), page)
        }
    };
    let mut trail = Trail::new(start);
    loop {
        for bridge in page {
            follower.cross(&bridge)?;
            trail.bridges.push(bridge);
        }
        if follower.has_arrived() {
            break;
        }
        (_, page) = ask(&setup.network, peer, follower.height(), target).await?;
        if page.is_empty() {
            return Err(Failure::Stops(follower.height()));
        }
    }
    follower.check_snapshot(&offer.hash)?;
    Ok(trail)
}

async fn ask(
    network: &NetworkHandle,
    peer: PeerId,
    after: Height,
    target: Height,
) -> Result<(Option<Header>, Vec<Bridge>), Failure> {
    match network.request(peer, MetaRequest::Bridges { after, target }).await? {
        MetaResponse::Bridges(BridgeAnswer::Page { start, bridges }) => {
            Ok((start.map(|start| *start), bridges))
        }
        MetaResponse::Bridges(BridgeAnswer::None(why)) => Err(why.into()),
        _ => Err(RequestError::BadAnswer.into()),
    }
}
