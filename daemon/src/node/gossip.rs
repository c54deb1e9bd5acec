//! What the network tells the node: transactions, questions for blobs, how far others are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Node;
use crate::network::NetworkEvent;

/// How often own transactions that wait are sent again.
const RESEND: Duration = Duration::from_secs(3);
/// How often the state index is made durable.
const FLUSH: Duration = Duration::from_secs(5);

/// Runs until shutdown.
pub async fn run(node: Arc<Node>, mut events: mpsc::Receiver<NetworkEvent>) {
    let mut resend = tokio::time::interval(RESEND);
    let mut flush = tokio::time::interval(FLUSH);
    let mut applied = node.ledger.follow();
    loop {
        tokio::select! {
            () = node.token.cancelled() => break,
            event = events.recv() => match event {
                Some(event) => handle(&node, event).await,
                None => break,
            },
            changed = applied.changed() => {
                if changed.is_err() {
                    break;
                }
                let height = applied.borrow_and_update().height;
                node.network.set_tip(height).await;
            }
            _ = resend.tick() => node.transactions.resend().await,
            _ = flush.tick() => node.ledger.run(super::ledger::Ledger::flush).await,
        }
    }
}

async fn handle(node: &Arc<Node>, event: NetworkEvent) {
    match event {
        NetworkEvent::Transactions(message) => {
            node.transactions.receive(message).await;
        }
        NetworkEvent::Announced(message) => {
            let acceptance = node.blobs.announced(message.source, &message.bytes);
            node.network.validate(message.id, message.from, acceptance).await;
        }
        NetworkEvent::AsksLedger { id, request, .. } => {
            super::join::serve::answer(node, id, request)
        }
        NetworkEvent::Status { status, .. } => {
            node.best_known.fetch_max(status.tip.get(), Ordering::Relaxed);
        }
        NetworkEvent::Listening(address) => tracing::info!(%address, "listening"),
        NetworkEvent::Connected(peer) => tracing::info!(%peer, "connected"),
        NetworkEvent::Disconnected(peer) => tracing::info!(%peer, "disconnected"),
    }
}
