//! Seeing that a running node has fallen so far behind that blocks will not bring it back.
//!
//! It says so, in the log and in the status, and goes on asking for blocks; a restart joins by
//! snapshot. Deliberately absent: restarting by itself. A daemon that ends unasked surprises its
//! owner more than one that says what to do.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::amount::Height;

use super::peers;
use crate::node::Node;

/// How often it is looked at. Without a block in between, and far behind, the node is stuck.
const LOOK: Duration = Duration::from_secs(30);

/// What the status says of a node that is stuck.
pub const STRANDED: &str = "far behind, and no peer has the next block any more: restart the node \
                            to join again by a snapshot (an archive needs a peer that has all \
                            blocks)";

/// Runs until shutdown.
pub async fn run(node: Arc<Node>) {
    let mut tick = tokio::time::interval(LOOK);
    let mut before: Option<Height> = None;
    loop {
        tokio::select! {
            () = node.token.cancelled() => break,
            _ = tick.tick() => {}
        }
        let tip = node.ledger.applied().height;
        let stands = before.replace(tip) == Some(tip);
        let is_stranded = stands && is_stranded(&node, tip).await;
        if is_stranded && !node.stranded.swap(true, Ordering::Relaxed) {
            tracing::error!(tip = tip.get(), "{STRANDED}");
        } else if !is_stranded {
            node.stranded.store(false, Ordering::Relaxed);
        }
    }
}

/// Whether peers are ahead and none of them that answers has the next block.
async fn is_stranded(node: &Arc<Node>, tip: Height) -> bool {
    let ahead = |peer: &crate::network::PeerInfo| {
        peer.status.as_ref().is_some_and(|status| status.tip > tip.plus(1))
    };
    let peers = node.network.peers().await;
    let asked: Vec<_> = peers.iter().filter(|peer| ahead(peer)).map(|peer| peer.peer).collect();
    if asked.is_empty() {
        return false;
    }
    let answers = peers::ask_peers(&node.network, asked).await;
    !answers.is_empty() && answers.iter().all(|(_, answer)| answer.first > tip.plus(1))
}
