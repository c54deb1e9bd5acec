//! The task that takes in batches from gossip.
//!
//! What is known by its hash is neither decoded nor verified again. A bad signature costs the
//! publisher and the neighbour that passed the batch on; a batch of which nothing is of use
//! costs a little, because each of its signatures cost us work. Who is behind blames nobody: what
//! seems useless here may apply where its sender is, and a node that hangs up on those who are
//! ahead never gets there.

use std::sync::Arc;

use protocol::codec;
use protocol::gossip::TransactionBatch;
use protocol::host::MempoolError;
use protocol::ids::{ChainId, ContentHash, TransactionHash};
use protocol::ledger::Rejection;
use protocol::transaction::VerifiedTransaction;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::network::{Acceptance, GossipMessage, NetworkHandle, Severity};
use crate::node::ledger::{self, Ledger};

/// A tip older than this means that this node is behind, or that the chain stands still: then it
/// cannot know which transactions apply, and blames nobody. Above the pace of empty blocks and a
/// few rounds that fail.
const BEHIND_MS: u64 = 10_000;
/// Batches that may wait; further ones are dropped, and sent again by who made them.
pub(super) const QUEUE: usize = 512;
/// Batches judged together, so that the ledger is locked once for all of them.
const TOGETHER_MAX: usize = 8;

/// What is to be said of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Forward it.
    Useful,
    /// Drop it: everything in it is over.
    Late,
    /// Drop it, and it cost us work for nothing.
    Useless,
    /// Not what an honest node sends.
    Forged,
}

pub(super) struct Incoming {
    pub(super) ledger: Arc<Ledger>,
    pub(super) network: NetworkHandle,
    pub(super) chain: ChainId,
    pub(super) arrivals: Arc<Notify>,
}

impl Incoming {
    /// Runs until `token` is cancelled.
    pub(super) async fn run(
        self,
        mut messages: mpsc::Receiver<GossipMessage>,
        token: CancellationToken,
    ) {
        loop {
            let first = tokio::select! {
                () = token.cancelled() => return,
                message = messages.recv() => message,
            };
            let Some(first) = first else { return };
            let mut together = vec![first];
            while together.len() < TOGETHER_MAX
                && let Ok(next) = messages.try_recv()
            {
                together.push(next);
            }
            let bytes: Vec<_> =
                together.iter_mut().map(|message| std::mem::take(&mut message.bytes)).collect();
            let chain = self.chain;
            let judged = self.ledger.run(move |ledger| judge(ledger, &chain, &bytes)).await;
            self.arrivals.notify_one();
            for (message, judgement) in together.into_iter().zip(judged) {
                self.say(message, judgement).await;
            }
        }
    }

    async fn say(&self, message: GossipMessage, judgement: Judgement) {
        let acceptance = match judgement {
            Judgement::Useful => Acceptance::Accept,
            Judgement::Late => Acceptance::Ignore,
            Judgement::Useless => {
                let reason = "transactions that cannot apply";
                self.network.report(message.source, Severity::HighTolerance, reason);
                Acceptance::Ignore
            }
            Judgement::Forged => {
                let reason = "a batch of transactions that does not verify";
                self.network.report(message.source, Severity::LowTolerance, reason);
                Acceptance::Reject
            }
        };
        self.network.validate(message.id, message.from, acceptance).await;
    }
}

/// A batch, decoded: its transactions' hashes, and those that are new here.
struct Opened {
    hashes: Vec<TransactionHash>,
    batch: TransactionBatch,
}

fn open(bytes: &[u8]) -> Option<Opened> {
    let batch: TransactionBatch = codec::decode(bytes).ok()?;
    let hash =
        |bytes: &bytes::Bytes| TransactionHash::from_bytes(*ContentHash::of(bytes).as_bytes());
    let hashes = batch.transactions.iter().map(hash).collect::<Vec<_>>();
    (!hashes.is_empty()).then_some(Opened { hashes, batch })
}

/// Judges batches and puts what is new into the pool. Blocks.
pub(super) fn judge(ledger: &Ledger, chain: &ChainId, batches: &[Vec<u8>]) -> Vec<Judgement> {
    let opened: Vec<_> = batches.iter().map(|bytes| open(bytes)).collect();
    let hashes: Vec<_> = opened.iter().flatten().flat_map(|o| o.hashes.iter().copied()).collect();
    let mut known = ledger.known(&hashes).into_iter();
    let mut verified = Vec::new();
    let mut judged: Vec<Option<usize>> = Vec::new();
    for opened in opened {
        let Some(Opened { hashes, batch }) = opened else {
            judged.push(None);
            continue;
        };
        let flags: Vec<bool> = known.by_ref().take(hashes.len()).collect();
        let new = batch.transactions.iter().zip(flags).filter(|(_, known)| !known);
        let parsed: Result<Vec<_>, _> =
            new.map(|(bytes, _)| VerifiedTransaction::parse(bytes, chain)).collect();
        judged.push(parsed.ok().map(|parsed| {
            let count = parsed.len();
            verified.extend(parsed);
            count
        }));
    }
    let mut results = ledger.submit_many(verified).into_iter();
    let age_ms = ledger::now().get().saturating_sub(ledger.applied().time.get());
    let is_behind = age_ms > BEHIND_MS;
    judged
        .into_iter()
        .map(|new| match new {
            None => Judgement::Forged,
            // All of it is known: others may lack it, so it goes on.
            Some(0) => Judgement::Useful,
            Some(count) => of_results(results.by_ref().take(count), is_behind),
        })
        .collect()
}

fn of_results(
    results: impl Iterator<Item = Result<TransactionHash, MempoolError>>,
    is_behind: bool,
) -> Judgement {
    let mut judgement = Judgement::Useless;
    for result in results {
        match result {
            Ok(_) | Err(MempoolError::Known) => judgement = Judgement::Useful,
            // Applied already, or no fault of who sent it. What is too far ahead of our state is
            // not of another's, which may be ahead of ours by blocks full of one account.
            Err(
                MempoolError::Rejected(Rejection::Nonce { .. } | Rejection::FeeTooLow { .. })
                | MempoolError::TooFarAhead { .. }
                | MempoolError::AccountFull
                | MempoolError::Full
                | MempoolError::LaneFull,
            ) if judgement == Judgement::Useless => judgement = Judgement::Late,
            Err(_) if is_behind && judgement == Judgement::Useless => judgement = Judgement::Late,
            Err(_) => {}
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use protocol::amount::Credits;

    use super::*;

    fn of(results: Vec<Result<TransactionHash, MempoolError>>, is_behind: bool) -> Judgement {
        of_results(results.into_iter(), is_behind)
    }

    #[test]
    fn who_is_behind_blames_nobody() {
        let unfunded = || Err(MempoolError::Unfunded { have: Credits::ZERO, need: Credits::ZERO });
        let ahead = || Err(MempoolError::TooFarAhead { got: 90, expected: 3 });
        assert_eq!(of(vec![unfunded()], false), Judgement::Useless);
        assert_eq!(of(vec![unfunded()], true), Judgement::Late);
        // A node may be behind by less than it can tell.
        assert_eq!(of(vec![ahead()], false), Judgement::Late);
        assert_eq!(of(vec![unfunded(), ahead()], false), Judgement::Late);
        let good = || Ok(TransactionHash::from_bytes([1; 32]));
        assert_eq!(of(vec![unfunded(), good(), ahead()], true), Judgement::Useful);
    }
}
