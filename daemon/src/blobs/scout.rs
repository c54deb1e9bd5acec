//! Finding out who has a blob.
//!
//! A scout asks, over and over, everybody who may have it: those that the caller suggested, those
//! that announced it, the connected peers, and those whom a search in the table of providers
//! finds. It reports who has what, and when it has heard from all.
//!
//! Invariant: what it reports is what peers say, and no more. A peer that has said "all of it" is
//! not asked again. Bounded: peers per round, questions at once, rounds per second. Dropping the
//! scout ends it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::PeerId;
use protocol::blobs::wire::{Availability, Holdings};
use protocol::ids::ContentHash;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::error::Failure;
use super::{Inner, PEERS_ASKED_MAX};
use crate::network::Severity;

/// Longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// What a scout reports.
#[derive(Debug)]
pub(super) enum Report {
    /// A peer says that it has this.
    Holds(PeerId, Availability),
    /// Everybody known was asked; how many peers that were.
    RoundOver(usize),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Scout {
    reports: mpsc::Receiver<Report>,
    again: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Scout {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scout {
    /// Begins. With `search`, also in the table of providers.
    pub(super) fn start(inner: &Arc<Inner>, hash: ContentHash, hints: Vec<PeerId>) -> Self {
        let (sender, reports) = mpsc::channel(PEERS_ASKED_MAX);
        let again = Arc::new(Notify::new());
        let work = run(Arc::clone(inner), hash, hints, sender, Arc::clone(&again));
        let task = inner.tracker.spawn(work).abort_handle();
        Self { reports, again, task }
    }

    /// The next report; cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// Begin the next round without a pause.
    pub(super) fn hurry(&self) {
        self.again.notify_one();
    }
}

async fn run(
    inner: Arc<Inner>,
    hash: ContentHash,
    hints: Vec<PeerId>,
    reports: mpsc::Sender<Report>,
    again: Arc<Notify>,
) {
    let mut complete = BTreeSet::from([inner.network.local_peer()]);
    let mut found: BTreeSet<PeerId> = BTreeSet::new();
    let mut pause = inner.config.retry_pause;
    for round in 0_u32.. {
        // The table is asked when nobody near has it, and now and then for more.
        let mut search = match complete.len() < 2 && round > 0 || round % 8 == 7 {
            true => Some(inner.network.search(hash).await),
            false => None,
        };
        let mut peers: Vec<PeerId> = hints.clone();
        peers.extend(inner.announcers(&hash));
        peers.extend(found.iter());
        peers.extend(nearest(&inner).await);
        let mut asked = BTreeSet::new();
        let mut answers = FuturesUnordered::new();
        for peer in peers {
            if asked.len() < PEERS_ASKED_MAX && !complete.contains(&peer) && asked.insert(peer) {
                answers.push(ask(&inner, peer, vec![hash]));
            }
        }
        while !answers.is_empty() || search.is_some() {
            tokio::select! {
                Some((peer, _, answer)) = answers.next(), if !answers.is_empty() => {
                    let Ok(Some(holds)) = answer.map(|a| a.into_vec().pop()) else { continue };
                    if matches!(holds, Availability::All { .. }) {
                        complete.insert(peer);
                    }
                    if holds != Availability::None
                        && reports.send(Report::Holds(peer, holds)).await.is_err()
                    {
                        return;
                    }
                }
                peer = next_of(&mut search) => match peer {
                    Some(peer) => {
                        if found.len() < PEERS_ASKED_MAX
                            && found.insert(peer)
                            && !complete.contains(&peer)
                            && asked.insert(peer)
                        {
                            answers.push(ask(&inner, peer, vec![hash]));
                        }
                    }
                    None => search = None,
                },
            }
        }
        if reports.send(Report::RoundOver(asked.len())).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = again.notified() => tokio::time::sleep(inner.config.retry_pause).await,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn next_of(search: &mut Option<mpsc::Receiver<PeerId>>) -> Option<PeerId> {
    match search {
        Some(found) => found.recv().await,
        None => std::future::pending().await,
    }
}

/// Connected peers that are asked, the quickest first.
pub(super) async fn nearest(inner: &Inner) -> Vec<PeerId> {
    let mut peers = inner.network.peers().await;
    // Not measured yet comes last.
    peers.sort_by_key(|peer| (peer.rtt.is_none(), peer.rtt));
    peers.into_iter().map(|peer| peer.peer).take(PEERS_ASKED_MAX).collect()
}

/// Asks one peer what it has of a bounded number of blobs.
pub(super) async fn ask(
    inner: &Inner,
    peer: PeerId,
    hashes: Vec<ContentHash>,
) -> (PeerId, Vec<ContentHash>, Result<Holdings, Failure>) {
    let answer = inner.have(peer, &hashes).await;
    if let Err(Failure::Malformed(_)) = &answer {
        inner.network.report(peer, Severity::LowTolerance, "malformed blob answer");
    }
    (peer, hashes, answer)
}
