//! Whom we know, where they are, and when to dial them again.
//!
//! Pure, with time as an argument. Configured peers are dialled for ever with a growing pause;
//! others are learned from identify and from status answers, are hints, and are forgotten when
//! there are too many.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Peers remembered beyond the configured ones.
const KNOWN_MAX: usize = 1_024;
/// Addresses remembered of one peer by its own word, and as many by that of others.
const ADDRESSES_MAX: usize = 8;
/// Shortest pause between two dials.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause between two dials.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Failed dials after which a learned peer is forgotten.
const FAILURES_MAX: u32 = 8;

#[derive(Clone, Debug, Default)]
struct Backoff {
    failures: u32,
    next: Duration,
}

impl Backoff {
    fn attempted(&mut self, now: Duration) {
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(7)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.next = now.saturating_add(pause);
    }
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// Where it says itself that it listens.
    own: Vec<Multiaddr>,
    /// Where others say that it does, the last one first.
    heard: Vec<Multiaddr>,
    backoff: Backoff,
}

impl Known {
    fn addresses(&self) -> Vec<Multiaddr> {
        self.own.iter().chain(&self.heard).cloned().collect()
    }
}

#[derive(Clone, Debug)]
struct Configured {
    address: Multiaddr,
    peer: Option<PeerId>,
    backoff: Backoff,
}

/// A dial that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Whom, if known.
    pub peer: Option<PeerId>,
    /// Where.
    pub addresses: Vec<Multiaddr>,
}

/// The address book.
#[derive(Debug)]
pub struct PeerBook {
    local: PeerId,
    configured: Vec<Configured>,
    known: BTreeMap<PeerId, Known>,
}

impl PeerBook {
    /// A book of the configured peers.
    pub fn new(local: PeerId, bootstrap: Vec<Multiaddr>) -> Self {
        let configured = bootstrap
            .into_iter()
            .map(|address| Configured {
                peer: peer_of(&address),
                address,
                backoff: Backoff::default(),
            })
            .collect();
        Self { local, configured, known: BTreeMap::new() }
    }

    /// Learns where a connected peer says that it listens. This replaces what it said before: a
    /// peer that has restarted may have another port.
    pub fn learn(&mut self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>) {
        let addresses = addresses.into_iter().take(4 * ADDRESSES_MAX);
        let mut usable: Vec<Multiaddr> = Vec::new();
        for address in addresses.filter_map(|address| with_peer(address, peer)) {
            if usable.len() < ADDRESSES_MAX && !usable.contains(&address) {
                usable.push(address);
            }
        }
        if !usable.is_empty()
            && let Some(known) = self.entry(peer)
        {
            known.heard.retain(|address| !usable.contains(address));
            known.own = usable;
        }
    }

    /// Learns an address as text, as it comes in a status answer of some other peer. It stands
    /// beside what the peer says itself, and displaces only older hearsay.
    pub fn learn_text(&mut self, text: &str) {
        if let Ok(address) = text.parse::<Multiaddr>()
            && let Some(peer) = peer_of(&address)
            && let Some(address) = with_peer(address, peer)
            && let Some(known) = self.entry(peer)
            && !known.own.contains(&address)
        {
            known.heard.retain(|other| *other != address);
            known.heard.insert(0, address);
            known.heard.truncate(ADDRESSES_MAX);
        }
    }

    /// What is known of a peer; nothing of ourselves, nor of another one when there are too many.
    fn entry(&mut self, peer: PeerId) -> Option<&mut Known> {
        if peer == self.local || (!self.known.contains_key(&peer) && self.known.len() >= KNOWN_MAX)
        {
            return None;
        }
        Some(self.known.entry(peer).or_default())
    }

    /// A connection was made; `dialled` is the address if it was ours.
    pub fn connected(&mut self, peer: PeerId, dialled: Option<&Multiaddr>) {
        for entry in &mut self.configured {
            if dialled.is_some_and(|dialled| without_peer(dialled) == without_peer(&entry.address))
            {
                entry.peer = Some(peer);
            }
        }
    }

    /// A connected peer has shown that it is of use: forgive its failed dials. A connection alone
    /// does not count, or a peer that always hangs up would be dialled without a pause.
    pub fn settled(&mut self, peer: &PeerId) {
        for entry in self.configured.iter_mut().filter(|entry| entry.peer.as_ref() == Some(peer)) {
            entry.backoff.failures = 0;
        }
        if let Some(known) = self.known.get_mut(peer) {
            known.backoff.failures = 0;
        }
    }

    /// Whether the peer is one of the configured ones.
    pub fn is_configured(&self, peer: &PeerId) -> bool {
        self.configured.iter().any(|entry| entry.peer.as_ref() == Some(peer))
    }

    /// Dials that are due: configured peers always, learned ones while fewer than `target` are
    /// connected, at most four of those at a time.
    pub fn due(&mut self, now: Duration, connected: &BTreeSet<PeerId>, target: usize) -> Vec<Dial> {
        let mut dials = Vec::new();
        for entry in &mut self.configured {
            if entry.peer.is_some_and(|peer| connected.contains(&peer) || peer == self.local)
                || now < entry.backoff.next
            {
                continue;
            }
            entry.backoff.attempted(now);
            dials.push(Dial { peer: entry.peer, addresses: vec![entry.address.clone()] });
        }
        let room = target.saturating_sub(connected.len()).min(4);
        let mut chosen = 0;
        self.known.retain(|peer, known| {
            if connected.contains(peer) || chosen >= room || now < known.backoff.next {
                return true;
            }
            if known.backoff.failures >= FAILURES_MAX {
                return false;
            }
            known.backoff.attempted(now);
            chosen += 1;
            dials.push(Dial { peer: Some(*peer), addresses: known.addresses() });
            true
        });
        dials
    }

    /// Up to `max` addresses of connected peers, to tell to others.
    pub fn share(&self, connected: &BTreeSet<PeerId>, except: &PeerId, max: usize) -> Vec<String> {
        let mut peers = connected.iter().filter(|peer| *peer != except);
        let mut shared = Vec::new();
        while shared.len() < max
            && let Some(peer) = peers.next()
        {
            if let Some(address) = self.known.get(peer).and_then(|known| known.own.first()) {
                shared.push(address.to_string());
            }
        }
        shared
    }
}

/// The peer at the end of an address.
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    address.iter().find_map(|part| match part {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    })
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

/// The address with `/p2p/<peer>`, if it is one that we can dial directly.
fn with_peer(address: Multiaddr, peer: PeerId) -> Option<Multiaddr> {
    let mut parts = address.iter();
    let host = matches!(
        parts.next()?,
        Protocol::Ip4(_)
            | Protocol::Ip6(_)
            | Protocol::Dns(_)
            | Protocol::Dns4(_)
            | Protocol::Dns6(_)
    );
    let port = match parts.next()? {
        Protocol::Udp(port) | Protocol::Tcp(port) => port != 0,
        _ => false,
    };
    if !host || !port {
        return None;
    }
    for part in parts {
        match part {
            Protocol::QuicV1 => {}
            Protocol::P2p(named) if named == peer => {}
            _ => return None,
        }
    }
    without_peer(&address).with_p2p(peer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse().expect("an address")
    }

    #[test]
    fn configured_peers_are_redialled_with_a_growing_pause() {
        let mut book = PeerBook::new(PeerId::random(), vec![address(1)]);
        let nobody = BTreeSet::new();
        assert_eq!(book.due(Duration::ZERO, &nobody, 0).len(), 1);
        assert!(book.due(Duration::from_millis(499), &nobody, 0).is_empty());
        assert_eq!(book.due(Duration::from_millis(500), &nobody, 0).len(), 1);
        assert!(book.due(Duration::from_millis(1_000), &nobody, 0).is_empty());
        let peer = PeerId::random();
        book.connected(peer, Some(&address(1)));
        book.settled(&peer);
        assert!(book.is_configured(&peer));
        assert!(book.due(Duration::from_secs(100), &BTreeSet::from([peer]), 0).is_empty());
        assert_eq!(book.due(Duration::from_secs(100), &nobody, 0).len(), 1);
    }

    #[test]
    fn a_peer_that_moved_is_shared_and_dialled_where_it_is() {
        let mut book = PeerBook::new(PeerId::random(), Vec::new());
        let peer = PeerId::random();
        let at = |port| address(port).with_p2p(peer).expect("no peer yet");
        book.learn(peer, [address(1)]);
        book.learn(peer, [address(2)]);
        for port in 3..100 {
            book.learn_text(&at(port).to_string());
        }
        let shared = book.share(&BTreeSet::from([peer]), &PeerId::random(), 8);
        assert_eq!(shared, [at(2).to_string()]);
        let dials = book.due(Duration::ZERO, &BTreeSet::new(), 1);
        assert_eq!(dials[0].addresses[..2], [at(2), at(99)]);
        assert_eq!(dials[0].addresses.len(), 1 + ADDRESSES_MAX);
    }

    #[test]
    fn learned_addresses_are_bounded_and_must_be_dialable() {
        let mut book = PeerBook::new(PeerId::random(), Vec::new());
        let peer = PeerId::random();
        book.learn(peer, (1..100).map(address));
        assert_eq!(book.known[&peer].addresses().len(), ADDRESSES_MAX);
        let other = PeerId::random();
        book.learn(
            other,
            [
                "/memory/7".parse().expect("an address"),
                address(9).with_p2p(peer).expect("no peer yet"),
                address(0),
            ],
        );
        assert!(!book.known.contains_key(&other));
        for _ in 0..KNOWN_MAX * 2 {
            book.learn(PeerId::random(), [address(5)]);
        }
        assert_eq!(book.known.len(), KNOWN_MAX);
        assert_eq!(book.due(Duration::ZERO, &BTreeSet::new(), 24).len(), 4);
    }
}
