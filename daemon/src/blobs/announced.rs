//! Who announced what: hints for the next fetch.
//!
//! Invariant: bounded in blobs and in providers of each, and every hint gets old. Deliberately
//! absent: belief. A provider is asked what it has, and its bytes are verified.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use libp2p::PeerId;
use protocol::ids::ContentHash;

/// Blobs whose announcers are remembered: some 10 MiB.
const BLOBS_MAX: usize = 65_536;
/// Announcers remembered of one blob: more would not make a fetch faster.
const PROVIDERS_MAX: usize = 16;
/// An announcement older than this is forgotten; nodes repeat theirs well before.
const AGE_MAX: Duration = Duration::from_secs(2 * 3_600);

/// See the module. Time is an argument: since any fixed moment.
#[derive(Debug, Default)]
pub(super) struct Announced {
    providers: BTreeMap<ContentHash, Vec<(PeerId, Duration)>>,
    /// Blobs in the order in which they were first heard of.
    order: VecDeque<ContentHash>,
}

impl Announced {
    /// Notes that a peer says it has a blob.
    pub(super) fn note(&mut self, now: Duration, hash: ContentHash, peer: PeerId) {
        if !self.providers.contains_key(&hash) {
            if self.order.len() >= BLOBS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.providers.remove(&oldest);
            }
            self.order.push_back(hash);
        }
        let providers = self.providers.entry(hash).or_default();
        providers.retain(|(known, _)| *known != peer);
        if providers.len() >= PROVIDERS_MAX {
            providers.remove(0);
        }
        providers.push((peer, now));
    }

    /// Who announced a blob, the newest first.
    pub(super) fn providers(&self, now: Duration, hash: &ContentHash) -> Vec<PeerId> {
        let known = self.providers.get(hash).into_iter().flatten().rev();
        known
            .filter(|(_, since)| now.saturating_sub(*since) < AGE_MAX)
            .map(|(peer, _)| *peer)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_bounded_and_get_old() {
        let mut announced = Announced::default();
        let hash = ContentHash::of(b"x");
        let peers: Vec<PeerId> = (0..PROVIDERS_MAX + 3).map(|_| PeerId::random()).collect();
        let start = Duration::from_secs(1);
        for peer in &peers {
            announced.note(start, hash, *peer);
            announced.note(start, hash, *peer);
        }
        let newest: Vec<PeerId> = peers.iter().rev().take(PROVIDERS_MAX).copied().collect();
        assert_eq!(announced.providers(start, &hash), newest);
        assert!(announced.providers(start + AGE_MAX, &hash).is_empty());
        for number in 0..=BLOBS_MAX as u64 {
            announced.note(start, ContentHash::of(&number.to_le_bytes()), peers[0]);
        }
        assert!(announced.providers(start, &hash).is_empty(), "the oldest goes");
        assert_eq!(announced.providers.len(), BLOBS_MAX);
    }
}
