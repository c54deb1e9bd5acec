//! How fast blobs are sent: to everybody together, and to each peer.
//!
//! Every part reserves its time in the order of arrival, so streams take turns, one part each, and
//! a small blob waits for at most one part of every other stream (generic cell rate algorithm,
//! ITU-T I.371). Time is an argument of the pure part; only [`Throttle::wait`] sleeps.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use libp2p::PeerId;
use tokio::time::Instant;

/// What an idle line may send at once: the parts of a small blob.
const BURST: Duration = Duration::from_millis(50);
/// Peers whose rate is remembered; the others are idle.
const PEERS_MAX: usize = 4_096;

/// One line with a rate.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// When everything that was reserved will have been sent.
    free_at: Duration,
}

impl Line {
    /// Reserves `bytes` and says when they may go.
    fn reserve(&mut self, now: Duration, bytes: u64, per_second: u64) -> Duration {
        if per_second == 0 {
            return now;
        }
        let begin = self.free_at.max(now.saturating_sub(BURST));
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(per_second);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.free_at = begin.saturating_add(cost);
        begin
    }
}

/// The rates of all uploads.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_s: u64,
    per_peer_bytes_per_s: u64,
    epoch: Instant,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    all: Line,
    peers: BTreeMap<PeerId, Line>,
}

impl Throttle {
    /// Rates in bytes per second; 0 is no limit.
    pub(super) fn new(bytes_per_s: u64, per_peer_bytes_per_s: u64) -> Self {
        Self { bytes_per_s, per_peer_bytes_per_s, epoch: Instant::now(), lines: Mutex::default() }
    }

    /// Waits until `bytes` may go to `peer`.
    pub(super) async fn wait(&self, peer: PeerId, bytes: u64) {
        if self.bytes_per_s == 0 && self.per_peer_bytes_per_s == 0 {
            return;
        }
        let now = self.epoch.elapsed();
        let at = self.reserve(now, peer, bytes);
        if at > now {
            tokio::time::sleep_until(self.epoch + at).await;
        }
    }

    fn reserve(&self, now: Duration, peer: PeerId, bytes: u64) -> Duration {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = now;
        if self.per_peer_bytes_per_s > 0 {
            if lines.peers.len() >= PEERS_MAX {
                lines.peers.retain(|_, line| line.free_at > now);
            }
            let line = lines.peers.entry(peer).or_default();
            at = line.reserve(now, bytes, self.per_peer_bytes_per_s);
        }
        at.max(lines.all.reserve(now, bytes, self.bytes_per_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn no_limit_is_no_wait() {
        let throttle = Throttle::new(0, 0);
        assert_eq!(throttle.reserve(SECOND, PeerId::random(), u64::MAX), SECOND);
    }

    #[test]
    fn everybody_shares_the_rate_and_takes_turns() {
        let throttle = Throttle::new(1_000, 0);
        let (a, b) = (PeerId::random(), PeerId::random());
        let start = 10 * SECOND;
        let mut last = start;
        for turn in 0..10 {
            let peer = if turn % 2 == 0 { a } else { b };
            last = throttle.reserve(start, peer, 500);
        }
        // Nine halves of a second, less what an idle line may send at once.
        assert_eq!(last, start + 9 * SECOND / 2 - BURST);
    }

    #[test]
    fn one_peer_does_not_slow_another() {
        let throttle = Throttle::new(0, 1_000);
        let (a, b) = (PeerId::random(), PeerId::random());
        let start = 10 * SECOND;
        throttle.reserve(start, a, 5_000);
        assert_eq!(throttle.reserve(start, a, 1), start + 5 * SECOND - BURST);
        assert!(throttle.reserve(start, b, 1) <= start);
        assert!(throttle.reserve(start + 100 * SECOND, a, 1) <= start + 100 * SECOND);
    }
}
