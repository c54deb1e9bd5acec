//! Whom to ask, and when a node is far behind.
//!
//! Heights that peers state are hints: a lie costs some questions, never more. A snapshot counts
//! only once it is proven.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use protocol::amount::{Height, TimestampMs};
use protocol::limits;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::Setup;
use crate::network::{
    Acceptance, MetaRequest, MetaResponse, NetworkEvent, NetworkHandle, PeerInfo, SnapshotAnswer,
    SnapshotOffer,
};

/// How long the first peer may take to say where it stands.
const FIRST_MAX: Duration = Duration::from_secs(5);
/// How long more of them are waited for after the first.
const MORE_MAX: Duration = Duration::from_secs(1);
/// Peers that are waited for: one alone may lie.
const PEERS_WANTED: usize = 3;
/// Peers that are asked for a snapshot.
const PEERS_ASKED_MAX: usize = 16;
/// Different snapshots that are tried in one round: liars may offer many.
const CANDIDATES_MAX: usize = 8;
/// No chain decides faster than this: a node whose last block is younger than that many of these
/// cannot be far behind.
const BLOCK_MS_MIN: u64 = 50;

/// Blocks behind the chain from which on a snapshot is looked for: two intervals, so that the
/// newest one saves at least one interval of blocks.
pub const fn far(interval_blocks: u64) -> u64 {
    interval_blocks.saturating_mul(2).saturating_add(limits::SNAPSHOT_LAG)
}

/// Whether a node whose last block has this time may be far behind at all.
pub const fn may_be_far(interval_blocks: u64, last: TimestampMs, now: TimestampMs) -> bool {
    let age_ms = now.get().saturating_sub(last.get());
    age_ms >= far(interval_blocks).saturating_mul(BLOCK_MS_MIN)
}

/// Heights that connected peers state.
#[derive(Debug)]
pub(super) struct Heard(watch::Sender<BTreeMap<PeerId, Height>>);

impl Heard {
    /// What connected peers have stated so far.
    pub(super) fn of(peers: &[PeerInfo]) -> Self {
        let stated = |peer: &PeerInfo| Some((peer.peer, peer.status.as_ref()?.tip));
        Self(watch::Sender::new(peers.iter().filter_map(stated).collect()))
    }

    /// Waits until peers have said where they stand, but not for long.
    pub(super) async fn wait(&self, expected: usize) {
        let mut heard = self.0.subscribe();
        if timeout(FIRST_MAX, heard.wait_for(|heard| !heard.is_empty())).await.is_err() {
            return;
        }
        let wanted = expected.min(PEERS_WANTED);
        let more = timeout(MORE_MAX, heard.wait_for(|heard| heard.len() >= wanted));
        // Those that came are enough.
        drop(more.await);
    }

    /// The highest height that a peer states.
    pub(super) fn best(&self) -> Height {
        self.0.borrow().values().copied().max().unwrap_or_default()
    }

    fn peers(&self) -> Vec<PeerId> {
        let mut peers: Vec<(Height, PeerId)> =
            self.0.borrow().iter().map(|(peer, height)| (*height, *peer)).collect();
        peers.sort_unstable_by(|a, b| b.cmp(a));
        peers.into_iter().map(|(_, peer)| peer).take(PEERS_ASKED_MAX).collect()
    }
}

/// Notes what peers say; to others there is nothing to give yet. Ends when the network does.
pub(super) async fn listen(
    network: &NetworkHandle,
    events: &mut mpsc::Receiver<NetworkEvent>,
    heard: &Heard,
) {
    while let Some(event) = events.recv().await {
        match event {
            NetworkEvent::Status { peer, status } => {
                heard.0.send_modify(|heard| {
                    heard.insert(peer, status.tip);
                });
            }
            NetworkEvent::Disconnected(peer) => {
                heard.0.send_modify(|heard| {
                    heard.remove(&peer);
                });
            }
            NetworkEvent::AsksLedger { id, .. } => {
                network.respond(id, MetaResponse::Refused).await;
            }
            NetworkEvent::Transactions(message) | NetworkEvent::Announced(message) => {
                network.validate(message.id, message.from, Acceptance::Ignore).await;
            }
            NetworkEvent::Listening(_) | NetworkEvent::Connected(_) => {}
        }
    }
}

/// Asks the peers what they can give.
pub(super) async fn ask(network: &NetworkHandle, heard: &Heard) -> Vec<(PeerId, SnapshotAnswer)> {
    ask_peers(network, heard.peers()).await
}

/// Asks these peers what they can give.
pub(super) async fn ask_peers(
    network: &NetworkHandle,
    peers: Vec<PeerId>,
) -> Vec<(PeerId, SnapshotAnswer)> {
    let mut questions: FuturesUnordered<_> = peers
        .into_iter()
        .map(|peer| async move { (peer, network.request(peer, MetaRequest::Snapshot).await) })
        .collect();
    let mut answers = Vec::new();
    while let Some((peer, answer)) = questions.next().await {
        match answer {
            Ok(MetaResponse::Snapshot(answer)) => answers.push((peer, answer)),
            Ok(_) => {}
            Err(error) => tracing::debug!(%peer, %error, "does not say what it can give"),
        }
    }
    answers
}

/// A snapshot, and who offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) offer: SnapshotOffer,
    pub(super) peers: Vec<PeerId>,
}

/// The snapshots worth trying, the highest first; `None`: blocks will do.
pub(super) fn candidates(
    setup: &Setup,
    best: Height,
    answers: &[(PeerId, SnapshotAnswer)],
) -> Option<Vec<Candidate>> {
    choose(setup.tip, best, setup.interval_blocks, answers)
}

fn choose(
    tip: Height,
    best: Height,
    interval: u64,
    answers: &[(PeerId, SnapshotAnswer)],
) -> Option<Vec<Candidate>> {
    let is_far = best >= tip.plus(far(interval));
    // Nobody has the next block any more.
    let is_gone = !answers.is_empty() && answers.iter().all(|(_, a)| a.first > tip.plus(1));
    if !is_far && !is_gone {
        return None;
    }
    let least = if is_gone { tip.plus(1) } else { tip.plus(interval) };
    let mut found: Vec<Candidate> = Vec::new();
    for (peer, answer) in answers {
        let Some(offer) = answer.offer.filter(|offer| offer.height >= least) else { continue };
        let same =
            |c: &&mut Candidate| (c.offer.height, c.offer.hash) == (offer.height, offer.hash);
        match found.iter_mut().find(same) {
            Some(known) => known.peers.push(*peer),
            None => found.push(Candidate { offer, peers: vec![*peer] }),
        }
    }
    // What more peers offer comes first among equals.
    found.sort_by_key(|c| std::cmp::Reverse((c.offer.height, c.peers.len())));
    found.truncate(CANDIDATES_MAX);
    Some(found)
}

#[cfg(test)]
mod tests {
    use protocol::ids::ContentHash;

    use super::*;

    fn answer(first: u64, height: Option<u64>, name: u8) -> (PeerId, SnapshotAnswer) {
        let offer = height.map(|height| SnapshotOffer {
            height: Height::new(height),
            hash: ContentHash::of(&[name]),
            bytes: 1,
        });
        (PeerId::random(), SnapshotAnswer { first: Height::new(first), offer })
    }

    fn heights(tip: u64, best: u64, answers: &[(PeerId, SnapshotAnswer)]) -> Option<Vec<u64>> {
        let found = choose(Height::new(tip), Height::new(best), 20, answers)?;
        Some(found.iter().map(|c| c.offer.height.get()).collect())
    }

    #[test]
    fn a_snapshot_is_wanted_two_intervals_behind_or_where_blocks_are_gone() {
        let all = |height| vec![answer(1, Some(height), 0), answer(1, Some(height), 0)];
        assert_eq!(heights(0, 47, &all(20)), None);
        assert_eq!(heights(0, 48, &all(40)), Some(vec![40]));
        assert_eq!(heights(30, 60, &all(40)), None);
        assert_eq!(heights(0, 500, &[]), Some(vec![]), "far, and nobody offers anything");
        // Peers that have deleted the next block.
        let pruned = vec![answer(40, Some(40), 0), answer(32, Some(40), 0)];
        assert_eq!(heights(30, 50, &pruned), Some(vec![40]));
        assert_eq!(heights(31, 50, &pruned), None, "one of them has block 32");
    }

    #[test]
    fn the_highest_comes_first_and_equal_ones_are_one() {
        let answers = vec![
            answer(1, Some(100), 0),
            answer(1, Some(80), 1),
            answer(1, Some(100), 0),
            answer(1, Some(100), 2),
            answer(1, None, 0),
            answer(1, Some(5), 0),
        ];
        assert_eq!(heights(0, 110, &answers), Some(vec![100, 100, 80]));
        let found = choose(Height::ZERO, Height::new(110), 20, &answers).expect("far");
        assert_eq!(found[0].peers.len(), 2);
        let many: Vec<_> = (0..200).map(|n| answer(1, Some(100), n)).collect();
        assert_eq!(heights(0, 110, &many).expect("far").len(), CANDIDATES_MAX);
    }

    #[test]
    fn who_has_just_stopped_is_not_far_behind() {
        let now = TimestampMs::new(1_000_000_000);
        let before = |ms: u64| TimestampMs::new(now.get() - ms);
        assert!(!may_be_far(5_000, before(60_000), now));
        assert!(may_be_far(5_000, before(600_000), now));
        assert!(may_be_far(5_000, TimestampMs::new(0), now));
        assert!(!may_be_far(5_000, now, before(1)), "a clock that was set back");
    }
}
