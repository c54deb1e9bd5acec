//! Fetching a blob: who has it, in which order they are tried, and when to give up.
//!
//! Providers are tried one at a time: hints first, then connected peers that say they have it, in
//! the order of their answers. One that lies, breaks the protocol, stalls or has nothing is not
//! tried again; one that did not answer or whose stream broke is, after a pause.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::PeerId;
use protocol::ids::ContentHash;

use super::error::{Failure, FetchError, Tried};
use super::receive::{Attempt, Receiver, Receiving};
use super::{Inner, PEERS_ASKED_MAX};
use crate::network::limiter::Rationed;
use crate::network::wire::HASHES_PER_REQUEST_MAX;
use crate::network::{MetaRequest, MetaResponse, RequestError, Severity};

/// Rounds over the providers, as long as some of them may yet answer.
const ROUNDS_MAX: u32 = 4;

/// One fetch in progress.
struct Fetch {
    inner: Arc<Inner>,
    receiver: Receiver,
    receiving: Option<Receiving>,
    /// Providers that are not tried again.
    excluded: BTreeSet<PeerId>,
    tried: Tried,
    /// Whether another round may help.
    retry: bool,
}

/// Fetches `hash`; nothing of it is stored here yet.
pub(super) async fn fetch(
    inner: Arc<Inner>,
    hash: ContentHash,
    max_bytes: u64,
    hints: Vec<PeerId>,
) -> Result<u64, FetchError> {
    // Never closed.
    let _permit = inner.fetches.acquire().await.map_err(|_| FetchError::Stopped)?;
    if let Some(size) = inner.store.size(&hash) {
        return Ok(size);
    }
    let receiver = Receiver {
        hash,
        max_bytes,
        store: inner.store.clone(),
        counters: Arc::clone(&inner.counters),
        tracker: inner.tracker.clone(),
        answer_max: inner.config.answer_max,
        part_max: inner.config.part_max,
    };
    let fetch = Fetch {
        excluded: BTreeSet::from([inner.network.local_peer()]),
        receiving: None,
        tried: Tried::default(),
        retry: false,
        receiver,
        inner: Arc::clone(&inner),
    };
    let result = fetch.run(hints).await;
    inner.counters.count_fetch(&result);
    result
}

impl Fetch {
    async fn run(mut self, hints: Vec<PeerId>) -> Result<u64, FetchError> {
        let hash = self.receiver.hash;
        for round in 0..ROUNDS_MAX {
            self.retry = false;
            let mut had = BTreeSet::new();
            for peer in hints.iter().copied() {
                if had.insert(peer)
                    && let Some(result) = self.try_provider(peer, false).await
                {
                    return result;
                }
            }
            if let Some(result) = self.ask_around(&mut had).await {
                return result;
            }
            if !self.retry {
                break;
            }
            tokio::time::sleep(self.inner.config.retry_pause.saturating_mul(1 << round)).await;
        }
        let missing = |(_, failure): &(PeerId, Failure)| *failure == Failure::Missing;
        let tried = self.tried;
        if tried.attempts.iter().all(missing) {
            Err(FetchError::NotFound { hash, tried })
        } else {
            Err(FetchError::Failed { hash, tried })
        }
    }

    /// Asks connected peers and tries those that have it, as they answer.
    async fn ask_around(&mut self, had: &mut BTreeSet<PeerId>) -> Option<Result<u64, FetchError>> {
        let hash = self.receiver.hash;
        let inner = Arc::clone(&self.inner);
        let peers = nearest(&inner).await;
        let mut answers: FuturesUnordered<_> = peers
            .into_iter()
            .filter(|peer| !self.excluded.contains(peer) && had.insert(*peer))
            .map(|peer| has_blobs(&inner, peer, vec![hash]))
            .collect();
        self.tried.asked = self.tried.asked.max(answers.len());
        while let Some((peer, _, answer)) = answers.next().await {
            match answer {
                Ok(have) if have.contains(&true) => {
                    if let Some(result) = self.try_provider(peer, true).await {
                        return Some(result);
                    }
                }
                Ok(_) => {}
                Err(_) => self.retry = true,
            }
        }
        None
    }

    /// One attempt with one provider; a result if the fetch is over.
    async fn try_provider(
        &mut self,
        peer: PeerId,
        promised: bool,
    ) -> Option<Result<u64, FetchError>> {
        if self.excluded.contains(&peer) {
            return None;
        }
        let hash = self.receiver.hash;
        match self.attempt(peer).await {
            Attempt::Done(size) => Some(Ok(size)),
            Attempt::TooLarge(size) => {
                let max = self.receiver.max_bytes;
                Some(Err(FetchError::TooLarge { hash, size, max }))
            }
            Attempt::Store(source) => {
                Some(Err(FetchError::Store { hash, source: Arc::new(source) }))
            }
            Attempt::Failed(failure) => {
                self.note(peer, failure, promised);
                None
            }
        }
    }

    async fn attempt(&mut self, peer: PeerId) -> Attempt {
        let streams = &self.inner.streams;
        if let Some(mut stream) = streams.reuse(peer) {
            match self.receiver.receive(&mut stream, &mut self.receiving).await {
                // The peer may have closed it in the meantime: that says nothing.
                Attempt::Failed(Failure::NoAnswer(_)) => {}
                attempt => {
                    if is_reusable(&attempt) {
                        streams.keep(peer, stream);
                    }
                    return attempt;
                }
            }
        }
        let mut stream = match streams.open(peer).await {
            Ok(stream) => stream,
            Err(error) => return Attempt::Failed(Failure::NoAnswer(error.to_string())),
        };
        let attempt = self.receiver.receive(&mut stream, &mut self.receiving).await;
        if is_reusable(&attempt) {
            streams.keep(peer, stream);
        }
        attempt
    }

    /// Records a failure and what follows from it for the peer.
    fn note(&mut self, peer: PeerId, failure: Failure, promised: bool) {
        let hash = self.receiver.hash;
        tracing::debug!(%peer, %hash, %failure, "blob provider failed");
        self.inner.counters.count_attempt(&failure);
        let fault = match &failure {
            Failure::Lied(_) => Some((Severity::Fatal, "blob bytes that do not verify")),
            Failure::Malformed(_) => Some((Severity::LowTolerance, "malformed blob answer")),
            Failure::Stalled => Some((Severity::HighTolerance, "blob transfer stalled")),
            Failure::Missing if promised => {
                Some((Severity::HighTolerance, "has not the blob that it announced"))
            }
            Failure::Missing | Failure::NoAnswer(_) | Failure::Broken(_) => None,
        };
        if let Some((severity, reason)) = fault {
            self.inner.network.report(peer, severity, reason);
        }
        if matches!(failure, Failure::NoAnswer(_) | Failure::Broken(_)) {
            self.retry = true;
        } else {
            self.excluded.insert(peer);
        }
        self.tried.attempts.push((peer, failure));
    }
}

const fn is_reusable(attempt: &Attempt) -> bool {
    matches!(attempt, Attempt::Done(_) | Attempt::Failed(Failure::Missing))
}

/// Connected peers that are asked, the quickest first.
pub(super) async fn nearest(inner: &Inner) -> Vec<PeerId> {
    let mut peers = inner.network.peers().await;
    // Not measured yet comes last.
    peers.sort_by_key(|peer| (peer.rtt.is_none(), peer.rtt));
    peers.into_iter().map(|peer| peer.peer).take(PEERS_ASKED_MAX).collect()
}

/// Asks one peer which of at most [`HASHES_PER_REQUEST_MAX`] blobs it has.
pub(super) async fn has_blobs(
    inner: &Inner,
    peer: PeerId,
    hashes: Vec<ContentHash>,
) -> (PeerId, Vec<ContentHash>, Result<Vec<bool>, RequestError>) {
    debug_assert!(hashes.len() <= HASHES_PER_REQUEST_MAX);
    inner.streams.pace(peer, Rationed::Meta).await;
    let answer = match inner.network.request(peer, MetaRequest::HasBlobs(hashes.clone())).await {
        Ok(MetaResponse::HasBlobs(have)) => Ok(have),
        Ok(_) => Err(RequestError::BadAnswer),
        Err(error) => Err(error),
    };
    (peer, hashes, answer)
}
