//! The task that gathers transactions into gossip batches.

use bytes::Bytes;
use protocol::codec;
use protocol::gossip::{Batcher, TransactionBatch};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::network::{NetworkHandle, Topic};

/// Transactions that may wait; who brings more waits too.
pub(super) const QUEUE: usize = 8_192;

/// Publishes what comes in until `token` is cancelled. `sequence` must be new for every start.
pub(super) async fn run(
    network: NetworkHandle,
    mut transactions: mpsc::Receiver<Bytes>,
    sequence: u64,
    token: CancellationToken,
) {
    let started = Instant::now();
    let mut batcher = Batcher::new(sequence);
    loop {
        let due = batcher.due_ms().map(|due| started + Duration::from_millis(due));
        let batch = tokio::select! {
            () = token.cancelled() => return,
            transaction = transactions.recv() => {
                let Some(transaction) = transaction else { return };
                let now = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                batcher.push(now, transaction)
            }
            () = until(due) => batcher.take(),
        };
        if let Some(batch) = batch {
            publish(&network, &batch).await;
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn publish(network: &NetworkHandle, batch: &TransactionBatch) {
    match codec::encode_checked(batch) {
        Ok(bytes) => network.publish(Topic::Transactions, bytes).await,
        Err(error) => tracing::error!(%error, "a gossip batch is over its own limit"),
    }
}
