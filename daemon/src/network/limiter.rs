//! Token buckets, one per (peer, protocol): how much a peer may ask of us per second.
//!
//! Pure, with time as an argument. A refused request costs the peer score, so a bucket is sized
//! well above what an honest peer needs.

use std::collections::BTreeMap;
use std::time::Duration;

/// What is rationed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rationed {
    /// Bytes of gossip delivered by the peer.
    GossipBytes,
    /// Gossip messages delivered by the peer.
    GossipMessages,
    /// Engine sync requests.
    Sync,
    /// Metadata requests.
    Meta,
    /// Blob streams opened by the peer.
    BlobStreams,
    /// Provider records sent by the peer.
    ProviderRecords,
}

impl Rationed {
    /// Bucket size and refill per second.
    const fn quota(self) -> (f64, f64) {
        match self {
            // Sixteen full consensus messages at once, four per second.
            Self::GossipBytes => (32.0 * 1024.0 * 1024.0, 8.0 * 1024.0 * 1024.0),
            // 100 validators cast two votes a round, forwarded by every neighbour at once.
            Self::GossipMessages => (4_000.0, 1_000.0),
            Self::Sync => (200.0, 50.0),
            Self::Meta => (60.0, 10.0),
            Self::BlobStreams => (64.0, 16.0),
            // A node that comes back announces all its collections.
            Self::ProviderRecords => (4_096.0, 16.0),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    updated: Duration,
}

/// All buckets. Peers are removed when they disconnect, so connection limits bound the size.
#[derive(Debug)]
pub struct Limiter<P: Ord + Copy> {
    buckets: BTreeMap<(P, Rationed), Bucket>,
}

impl<P: Ord + Copy> Default for Limiter<P> {
    fn default() -> Self {
        Self { buckets: BTreeMap::new() }
    }
}

impl<P: Ord + Copy> Limiter<P> {
    /// Takes `amount` tokens; false when the bucket does not hold them.
    pub fn take(&mut self, now: Duration, peer: P, what: Rationed, amount: f64) -> bool {
        let (size, refill) = what.quota();
        let bucket =
            self.buckets.entry((peer, what)).or_insert(Bucket { tokens: size, updated: now });
        let elapsed = now.saturating_sub(bucket.updated).as_secs_f64();
        bucket.tokens = (bucket.tokens + elapsed * refill).min(size);
        bucket.updated = now;
        if bucket.tokens < amount {
            return false;
        }
        bucket.tokens -= amount;
        true
    }

    /// Forgets a peer.
    pub fn remove(&mut self, peer: &P) {
        self.buckets.retain(|(owner, _), _| owner != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_refills() {
        let mut limiter = Limiter::default();
        let start = Duration::from_secs(5);
        for _ in 0..60 {
            assert!(limiter.take(start, 1, Rationed::Meta, 1.0));
        }
        assert!(!limiter.take(start, 1, Rationed::Meta, 1.0));
        assert!(limiter.take(start, 2, Rationed::Meta, 1.0), "peers do not share buckets");
        assert!(limiter.take(start + Duration::from_secs(1), 1, Rationed::Meta, 10.0));
        assert!(!limiter.take(start + Duration::from_secs(1), 1, Rationed::Meta, 1.0));
    }
}
