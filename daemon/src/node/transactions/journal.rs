//! The task that makes acknowledged transactions durable.
//!
//! **Invariant.** [`Journal::keep`] returns success after the transactions are on disk. Requests
//! that wait at the same time share one sync. A failed write is answered to those who wait and
//! does not end the node: nothing of consensus depends on this file.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use protocol::ids::ChainId;
use storage::MempoolLog;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::own::Own;
use crate::node::ledger::Ledger;

/// Requests that may wait.
const QUEUE: usize = 256;
/// Requests that share a sync at most, which bounds how long the first of them waits.
const SHARE_MAX: usize = 64;
/// Length of the file in bytes at which it is rewritten, unless it was longer just after the last
/// time: then at twice that.
const REWRITE_BYTES_MIN: u64 = 16 * 1024 * 1024;

struct Request {
    transactions: Vec<Bytes>,
    done: oneshot::Sender<Result<(), String>>,
}

/// Access to the task.
#[derive(Debug)]
pub(super) struct Journal {
    requests: mpsc::Sender<Request>,
}

/// The task's part.
struct Keeper {
    dir: PathBuf,
    chain: ChainId,
    /// None after a failed write, until a new file could be opened.
    log: Option<MempoolLog>,
    rewrite_at: u64,
    ledger: Arc<Ledger>,
    own: Arc<Own>,
}

impl Journal {
    /// Opens the log in `dir`; gives what an earlier run acknowledged. Blocks.
    pub(super) fn open(
        dir: PathBuf,
        chain: ChainId,
        ledger: Arc<Ledger>,
        own: Arc<Own>,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> anyhow::Result<(Self, Vec<Vec<u8>>)> {
        let (log, restored) = MempoolLog::open(&dir, &chain)
            .context("cannot open the log of pending transactions")?;
        if let Some(aside) = restored.damaged {
            tracing::error!(
                aside = %aside.display(),
                "the log of pending transactions was damaged and is moved aside; what came after \
                 the damage is not restored"
            );
        }
        if let Some(torn) = restored.torn {
            tracing::warn!(
                path = %torn.path.display(), bytes = torn.bytes,
                "the log of pending transactions ends short, as a crash leaves it; what it holds \
                 whole is restored"
            );
        }
        let (requests, receiver) = mpsc::channel(QUEUE);
        let rewrite_at = REWRITE_BYTES_MIN.max(log.bytes().saturating_mul(2));
        let keeper = Keeper { dir, chain, log: Some(log), rewrite_at, ledger, own };
        tracker.spawn(keeper.run(receiver, token));
        Ok((Self { requests }, restored.transactions))
    }

    /// Makes transactions durable; an error says why they are not.
    pub(super) async fn keep(&self, transactions: Vec<Bytes>) -> Result<(), String> {
        let stopping = || "the node is shutting down".to_owned();
        let (done, kept) = oneshot::channel();
        let request = Request { transactions, done };
        self.requests.send(request).await.map_err(|_| stopping())?;
        kept.await.unwrap_or_else(|_| Err(stopping()))
    }
}

impl Keeper {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, token: CancellationToken) {
        loop {
            let first = tokio::select! {
                () = token.cancelled() => return,
                request = requests.recv() => request,
            };
            let Some(first) = first else { return };
            let mut share = vec![first];
            while share.len() < SHARE_MAX
                && let Ok(next) = requests.try_recv()
            {
                share.push(next);
            }
            let kept = tokio::task::spawn_blocking(move || {
                self.keep_all(share);
                self
            });
            match kept.await {
                Ok(keeper) => self = keeper,
                Err(error) => {
                    tracing::error!(%error, "the log of pending transactions ended");
                    return;
                }
            }
        }
    }

    fn keep_all(&mut self, share: Vec<Request>) {
        let written = self.write(&share);
        if let Err(error) = &written {
            tracing::error!(%error, "cannot keep pending transactions");
            self.log = None;
        }
        for request in share {
            // Whoever asked may have gone.
            let _ = request.done.send(written.clone());
        }
    }

    fn write(&mut self, share: &[Request]) -> Result<(), String> {
        let text = |error: storage::MempoolLogError| {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        };
        if self.log.is_none() {
            self.log = Some(MempoolLog::open(&self.dir, &self.chain).map_err(text)?.0);
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        let transactions = share.iter().flat_map(|request| &request.transactions);
        log.append(transactions.map(|bytes| bytes.as_ref())).map_err(text)?;
        if log.bytes() > self.rewrite_at {
            let pending = self.own.pending(&self.ledger);
            log.rewrite(pending.iter().map(|waiting| waiting.bytes.as_ref())).map_err(text)?;
            self.rewrite_at = REWRITE_BYTES_MIN.max(log.bytes().saturating_mul(2));
        }
        Ok(())
    }
}
