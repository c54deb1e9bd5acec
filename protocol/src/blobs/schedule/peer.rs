//! What a fetch knows of one peer: its standing, its claims, its speed.

use std::cmp::Reverse;

use super::{Fault, RequestId, ScheduleLimits};
use crate::blobs::GroupRanges;
use crate::limits::{GROUP_BYTES, PART_GROUPS};

/// How long bytes are counted for one sample of a speed, in milliseconds. Shorter, and the size of
/// a part shows in it.
const WINDOW_MS: u64 = 250;
/// Shorter spans say nothing of a speed, in milliseconds.
const SPAN_MS_MIN: u64 = 20;

/// Whether a peer is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// In, and asked for one group.
    Unproven,
    /// In.
    Proven,
    /// Left; may join again.
    Gone,
    /// Out for the rest of the fetch.
    Out(Fault),
}

#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) standing: Standing,
    /// What it claims, less what it turned out to lack.
    pub(super) has: GroupRanges,
    pub(super) open: Vec<RequestId>,
    /// How many requests at a time it takes at most.
    pub(super) slots: usize,
    /// What its speed must be to be asked for more than one at a time, in bytes per second.
    several_bytes_per_s: u64,
    /// Groups of its next request, as far as its speed allows: doubles with every request.
    pub(super) ask_groups: u64,
    pub(super) speed: Speed,
    /// When something last came from it, or when it was asked after being idle.
    pub(super) heard_ms: u64,
    pub(super) rest_until_ms: u64,
    /// Pauses since its last verified part.
    pub(super) rests: u32,
    /// How often it lacked what it claims.
    pub(super) absences: u32,
    /// Whether another was asked for something that it still owed.
    pub(super) doubled: bool,
    /// State of `Schedule::freed` when it last found nothing free.
    pub(super) dry: Option<u64>,
    /// Groups that came from it first.
    pub(super) given: u64,
}

impl Peer {
    pub(super) fn new(limits: &ScheduleLimits) -> Self {
        Self {
            standing: Standing::Unproven,
            has: GroupRanges::new(),
            open: Vec::new(),
            slots: limits.requests_per_peer.max(1),
            several_bytes_per_s: rate(2 * PART_GROUPS, limits.target_ms),
            ask_groups: limits.ask_groups_min.max(1),
            speed: Speed::default(),
            heard_ms: 0,
            rest_until_ms: 0,
            rests: 0,
            absences: 0,
            doubled: false,
            dry: None,
            given: 0,
        }
    }

    pub(super) const fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Unproven | Standing::Proven)
    }

    /// Whether it may get another request. One at a time is enough for a slow peer, and leaves
    /// less to be taken over in the end.
    pub(super) fn is_ready(&self, now_ms: u64) -> bool {
        let slots = match self.standing {
            Standing::Proven if self.speed.at_least(now_ms) >= self.several_bytes_per_s => {
                self.slots
            }
            Standing::Unproven | Standing::Proven => 1,
            Standing::Gone | Standing::Out(_) => 0,
        };
        self.open.len() < slots && self.rest_until_ms <= now_ms
    }

    /// Ready, with nothing to do.
    pub(super) fn is_idle(&self, now_ms: u64) -> bool {
        self.open.is_empty() && self.is_ready(now_ms)
    }

    /// Who is asked first: those who delivered, the fastest before the others.
    pub(super) const fn rank(&self) -> impl Ord + use<> {
        let unproven = matches!(self.standing, Standing::Unproven);
        (unproven, self.rests, Reverse(self.speed.measured()))
    }
}

/// A measured speed: a moving average in integers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Speed {
    bytes_per_s: Option<u64>,
    since_ms: u64,
    groups: u64,
}

impl Speed {
    /// Counting begins: something was asked of an idle peer.
    pub(super) const fn begin(&mut self, now_ms: u64) {
        self.since_ms = now_ms;
        self.groups = 0;
    }

    /// Groups have come.
    pub(super) fn add(&mut self, now_ms: u64, groups: u64) {
        self.groups = self.groups.saturating_add(groups);
        if now_ms.saturating_sub(self.since_ms) >= WINDOW_MS {
            self.sample(now_ms);
        }
    }

    /// The peer is idle now. Less than a part took as long as the way, and says nothing.
    pub(super) fn end(&mut self, now_ms: u64) {
        let elapsed = now_ms.saturating_sub(self.since_ms);
        if elapsed >= SPAN_MS_MIN && self.groups >= PART_GROUPS {
            self.sample(now_ms);
        }
    }

    fn sample(&mut self, now_ms: u64) {
        let rate = rate(self.groups, now_ms.saturating_sub(self.since_ms));
        // Weight 1/4 of the newest: a changed speed shows after a second, one hiccup does not.
        let average = |old: u64| old.saturating_mul(3).saturating_add(rate) / 4;
        self.bytes_per_s = Some(self.bytes_per_s.map_or(rate, average));
        self.begin(now_ms);
    }

    pub(super) const fn measured(&self) -> Option<u64> {
        self.bytes_per_s
    }

    /// The measured speed, or before that what the first bytes show.
    fn at_least(&self, now_ms: u64) -> u64 {
        let elapsed = now_ms.saturating_sub(self.since_ms);
        self.bytes_per_s.unwrap_or_else(|| match self.groups {
            0 => 0,
            groups => rate(groups, elapsed),
        })
    }

    /// The speed to reckon with while something is open: what was measured, or `assumed` before
    /// that, or less if even a part that came right now would not make up for the silence.
    pub(super) fn current(&self, now_ms: u64, assumed: u64) -> u64 {
        let elapsed = now_ms.saturating_sub(self.since_ms);
        let at_best = rate(self.groups.saturating_add(PART_GROUPS), elapsed);
        self.bytes_per_s.unwrap_or(assumed).min(at_best).max(1)
    }

    /// The speed to reckon with for an idle peer.
    pub(super) fn usual(&self, assumed: u64) -> u64 {
        self.bytes_per_s.unwrap_or(assumed).max(1)
    }
}

/// Bytes per second.
const fn rate(groups: u64, elapsed_ms: u64) -> u64 {
    let bytes_ms = groups.saturating_mul(GROUP_BYTES).saturating_mul(1_000);
    match bytes_ms.checked_div(elapsed_ms) {
        Some(rate) => rate,
        None => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_speed_follows_what_comes() {
        let mut speed = Speed::default();
        speed.begin(1_000);
        assert_eq!((speed.measured(), speed.current(1_000, MIB)), (None, MIB));
        // 512 KiB every 10 ms: 50 MiB/s.
        for tick in 1..=100 {
            speed.add(1_000 + tick * 10, PART_GROUPS);
        }
        assert_eq!(speed.measured(), Some(50 * MIB));
        // Silence lowers what is reckoned with: at best a part in 5 s.
        assert_eq!(speed.current(7_000, MIB), MIB / 10);
        assert_eq!(speed.usual(MIB), 50 * MIB);
        for tick in 1..=100 {
            speed.add(7_000 + tick * 100, PART_GROUPS);
        }
        let slow = speed.measured().expect("measured");
        assert!((5 * MIB - MIB / 4..5 * MIB + MIB / 4).contains(&slow), "{slow}");
    }

    #[test]
    fn a_short_span_is_measured_when_it_ends() {
        let mut speed = Speed::default();
        speed.begin(0);
        speed.add(10, PART_GROUPS);
        speed.end(19);
        assert_eq!(speed.measured(), None);
        speed.end(50);
        assert_eq!(speed.measured(), Some(10 * MIB));
    }
}
