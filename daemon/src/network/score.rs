//! What a peer's behaviour costs it: a score in -100..=100 that decays towards zero.
//!
//! The policy is a pure structure with time as an argument, so that it can be tested and
//! simulated. Severities are named for how much of their kind is tolerated, as in Lighthouse:
//! after about 2 low-tolerance strikes a peer is disconnected, after 5 it is banned.
//!
//! Deliberately absent: rewards. A peer cannot save up good deeds to spend on an attack.

use std::collections::BTreeMap;
use std::time::Duration;

/// The lowest score; also what a fatal fault gives.
const SCORE_MIN: f64 = -100.0;
/// Below this a peer is disconnected and may come back once its score has decayed.
const SCORE_DISCONNECT: f64 = -20.0;
/// Below this a peer is banned for [`BAN`].
const SCORE_BAN: f64 = -50.0;
/// Half of a score is forgiven in this time.
const HALF_LIFE: Duration = Duration::from_secs(600);
/// How long a ban lasts.
pub const BAN: Duration = Duration::from_secs(12 * 3600);
/// Peers remembered. Beyond it the one nearest to zero is forgotten; a new key costs an attacker
/// nothing, so remembering more would only cost us memory.
const PEERS_MAX: usize = 4_096;

/// How bad a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing honest does this: banned at once.
    Fatal,
    /// Tolerated a few times: malformed messages, forged signatures.
    LowTolerance,
    /// Tolerated ten times: broken requests.
    MidTolerance,
    /// Tolerated fifty times: timeouts, exceeded rates.
    HighTolerance,
}

impl Severity {
    const fn penalty(self) -> f64 {
        match self {
            Self::Fatal => 100.0,
            Self::LowTolerance => 10.0,
            Self::MidTolerance => 5.0,
            Self::HighTolerance => 1.0,
        }
    }
}

/// What follows from a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The peer stays.
    Keep,
    /// Close its connections.
    Disconnect,
    /// Close its connections and refuse new ones until the ban ends.
    Ban,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    score: f64,
    updated: Duration,
    banned_until: Option<Duration>,
}

impl Entry {
    fn score_at(&self, now: Duration) -> f64 {
        let elapsed = now.saturating_sub(self.updated).as_secs_f64();
        self.score * (-elapsed / HALF_LIFE.as_secs_f64()).exp2()
    }
}

/// Scores of all peers that have misbehaved. `now` is the time since some fixed start.
#[derive(Debug)]
pub struct ScoreBook<P: Ord + Copy> {
    entries: BTreeMap<P, Entry>,
}

impl<P: Ord + Copy> Default for ScoreBook<P> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<P: Ord + Copy> ScoreBook<P> {
    /// Records a fault and says what follows.
    pub fn report(&mut self, now: Duration, peer: P, severity: Severity) -> Verdict {
        if !self.entries.contains_key(&peer) && self.entries.len() >= PEERS_MAX {
            self.forget_mildest(now);
        }
        let entry = self.entries.entry(peer).or_insert(Entry {
            score: 0.0,
            updated: now,
            banned_until: None,
        });
        entry.score = (entry.score_at(now) - severity.penalty()).max(SCORE_MIN);
        entry.updated = now;
        if entry.score <= SCORE_BAN {
            entry.banned_until = Some(now.saturating_add(BAN));
            Verdict::Ban
        } else if entry.score <= SCORE_DISCONNECT {
            Verdict::Disconnect
        } else {
            Verdict::Keep
        }
    }

    /// The peer's score; zero when nothing is known.
    pub fn score(&self, now: Duration, peer: &P) -> f64 {
        self.entries.get(peer).map_or(0.0, |entry| entry.score_at(now))
    }

    /// Whether a connection with this peer is acceptable.
    pub fn admits(&self, now: Duration, peer: &P) -> bool {
        self.entries.get(peer).is_none_or(|entry| {
            entry.banned_until.is_none_or(|until| now >= until)
                && entry.score_at(now) > SCORE_DISCONNECT
        })
    }

    /// Ends bans that are over and returns the peers concerned; forgets scores near zero.
    pub fn expire(&mut self, now: Duration) -> Vec<P> {
        let mut freed = Vec::new();
        self.entries.retain(|peer, entry| {
            match entry.banned_until {
                Some(until) if now < until => return true,
                Some(_) => {
                    entry.banned_until = None;
                    freed.push(*peer);
                }
                None => {}
            }
            entry.score_at(now) < -0.1
        });
        freed
    }

    fn forget_mildest(&mut self, now: Duration) {
        let mildest = self
            .entries
            .iter()
            .max_by(|a, b| a.1.score_at(now).total_cmp(&b.1.score_at(now)))
            .map(|(peer, _)| *peer);
        if let Some(peer) = mildest {
            self.entries.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_000);

    #[test]
    fn strikes_lead_to_disconnect_then_ban_and_are_forgiven() {
        let mut book = ScoreBook::default();
        assert_eq!(book.report(START, 1, Severity::LowTolerance), Verdict::Keep);
        assert_eq!(book.report(START, 1, Severity::LowTolerance), Verdict::Disconnect);
        assert!(!book.admits(START, &1));
        assert!(book.admits(START + HALF_LIFE, &1), "half of the score is forgiven");
        for _ in 0..2 {
            book.report(START, 1, Severity::LowTolerance);
        }
        assert_eq!(book.report(START, 1, Severity::LowTolerance), Verdict::Ban);
        assert!(!book.admits(START + HALF_LIFE * 20, &1), "a ban outlasts the decay");
        assert_eq!(book.expire(START + BAN), vec![1]);
        assert!(book.admits(START + BAN, &1));
    }

    #[test]
    fn fatal_bans_at_once_and_others_are_untouched() {
        let mut book = ScoreBook::default();
        assert_eq!(book.report(START, 1, Severity::Fatal), Verdict::Ban);
        assert!(book.admits(START, &2));
        assert_eq!(book.score(START, &2), 0.0);
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_worst() {
        let mut book = ScoreBook::default();
        book.report(START, 0, Severity::Fatal);
        for peer in 1..=PEERS_MAX {
            book.report(START, peer, Severity::HighTolerance);
        }
        assert_eq!(book.entries.len(), PEERS_MAX);
        assert!(!book.admits(START, &0));
    }
}
