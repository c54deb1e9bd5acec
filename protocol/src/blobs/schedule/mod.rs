//! The fetch of one blob from many providers, as a pure state machine.
//!
//! An [`Input`] and the time go in, [`Effect`]s come out; the caller owns streams and disks. Every
//! missing group is either *free* or *wanted* of an open request, so it is asked for until it is
//! verified. A peer proves itself with one random group that it claims; then it is asked for
//! ranges that take it about a second at its measured speed, some at a time so that its link never
//! idles. When nothing is free for an idle peer, it takes the tail of the request that would end
//! last.
//!
//! **Duplicates.** A group is wanted of two peers at once in one case only: the endgame, where an
//! idle peer is asked for the rest of a single part that another still owes; for every peer that
//! owes, at most once in a fetch. So at most `PART_GROUPS` groups a peer are received twice, if the caller
//! keeps to two rules: it stops reading a request when all that is wanted of it has come, and
//! drops what comes of a cancelled one. Taking over costs nothing: what is taken is the end of
//! what a peer owes, never of the part that is on its way. What a server had sent before it saw
//! its stream closed is the transport's, not counted here, and bounded by its windows.
//! [`Schedule::duplicates`] counts what was received again.
//!
//! **Architecture invariant.** `free`, the union of all `wanted`, and `verified` cover the blob,
//! and `verified` is disjoint from the others. Peers are kept as long as the fetch lasts: the
//! caller bounds how many it ever names, [`ScheduleLimits::peers_max`] how many are in at a time.
//!
//! Deliberately absent: the first request, whose last group proves the size and so makes a
//! schedule possible; what a penalty costs; clocks and random numbers (arguments).

mod assign;
mod follow;
mod peer;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::peer::{Peer, Standing};
use super::{GroupRange, GroupRanges};
use crate::ids;
use crate::limits::{GROUP_BYTES, PART_GROUPS};

/// How a fetch behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleLimits {
    /// Peers in the fetch at a time; who joins beyond them is not taken in. Each costs memory for
    /// what it claims.
    pub peers_max: usize,
    /// Requests open at a peer at a time, once it has shown that it sends two parts in the target
    /// time. With one, its link idles for a round trip after each.
    pub requests_per_peer: usize,
    /// Groups of the first request after the proof, and the least later on, but for a peer that
    /// needs longer than the target time for them.
    pub ask_groups_min: u64,
    /// Groups of the largest request. A larger one gains nothing, and must be stolen from more.
    pub ask_groups_max: u64,
    /// How long a request should take a peer.
    pub target_ms: u64,
    /// A peer that sends nothing at all for so long is out.
    pub stall_ms: u64,
    /// A request without a verified part for so long puts its peer out: bytes that trickle in must
    /// become a part some time.
    pub part_ms: u64,
    /// A peer that sends nothing for so long loses its requests when another peer idles, rests,
    /// and proves itself anew. No fault: its link may still be busy with what was cancelled.
    pub quiet_ms: u64,
    /// How long a peer that broke off or was busy is left alone, the first time; then double.
    pub rest_ms: u64,
    /// The longest such pause.
    pub rest_ms_max: u64,
    /// Pauses without a verified part between them, after which the peer is let go.
    pub rests_max: u32,
    /// A request that should end sooner than this is left to its peer.
    pub steal_ms_min: u64,
}

impl Default for ScheduleLimits {
    fn default() -> Self {
        Self {
            peers_max: 64,
            requests_per_peer: 2,
            ask_groups_min: 64,
            ask_groups_max: 2_048,
            target_ms: 1_000,
            stall_ms: 10_000,
            part_ms: 60_000,
            quiet_ms: 2_000,
            rest_ms: 1_000,
            rest_ms_max: 30_000,
            rests_max: 6,
            steal_ms_min: 50,
        }
    }
}

/// Requests begin on multiples of this where they can: two parts, so that neighbours share none.
const ALIGN_GROUPS: u64 = 2 * PART_GROUPS;
/// How often an idle peer looks again for something to take over, in milliseconds.
const RECONSIDER_MS: u64 = 250;
/// Times a peer may lack what it claims.
const ABSENCES_MAX: u32 = 2;

/// A request of this fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// What happens to a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<P> {
    /// A provider is there. Ignored for one that was put out; for one that is in, an update.
    Joined {
        /// Who.
        peer: P,
        /// What it says it has. Groups beyond the end are passed over.
        has: GroupRanges,
        /// Whether a verified group of this blob has come from it already.
        proven: bool,
    },
    /// A provider says anew what it has.
    Updated {
        /// Who.
        peer: P,
        /// All it has.
        has: GroupRanges,
    },
    /// A provider is gone. It may join again.
    Left {
        /// Who.
        peer: P,
    },
    /// Bytes of a request have come that are no whole part yet.
    Progress {
        /// Which.
        request: RequestId,
    },
    /// A part was verified. It counts even when the request is not open any more.
    Received {
        /// The request that brought it.
        request: RequestId,
        /// The groups.
        range: GroupRange,
    },
    /// A request is over. Not to be reported for one that was cancelled, but harmless.
    Ended {
        /// Which.
        request: RequestId,
        /// How.
        ending: Ending,
    },
    /// Time has passed: due at [`Schedule::next_deadline_ms`].
    Tick,
    /// Ask for nothing new; open requests go on.
    Pause,
    /// Ask again.
    Resume,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All parts came.
    Complete,
    /// The stream or the connection broke. The peer rests.
    Broken,
    /// The peer serves too many others. It rests, or is asked for one request at a time if it is
    /// sending something.
    Busy,
    /// The peer lacks some of these groups: it is not asked for them before it is updated.
    Absent,
    /// The peer has nothing of the blob. It is out.
    Missing,
    /// Bytes that do not verify. The peer is out.
    Lied,
    /// Bytes that are no answer. The peer is out.
    Malformed,
}

/// Why a peer was put out of the fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It sent nothing, or too slowly to be of use.
    Stalled,
    /// It sent bytes that are not those of the blob.
    Lied,
    /// It sent what is no answer.
    Malformed,
    /// It has not what it said it had.
    FalseClaim,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<P> {
    /// Open a request.
    Ask {
        /// Of whom.
        peer: P,
        /// Its number.
        request: RequestId,
        /// For what: at most 64 runs, all of which the peer claims.
        ranges: GroupRanges,
    },
    /// Of an open request only this is still wanted: its beginning, less perhaps some groups that
    /// came from another peer just now. Stop reading when that has come.
    Shorten {
        /// Which.
        request: RequestId,
        /// What is still wanted of it, not empty.
        ranges: GroupRanges,
    },
    /// Nothing is wanted of this request any more, and it is forgotten.
    Cancel {
        /// Which.
        request: RequestId,
    },
    /// A peer was put out for the rest of the fetch.
    Penalize {
        /// Who.
        peer: P,
        /// Why.
        fault: Fault,
    },
    /// Every group is verified. Nothing follows; requests not yet ended have delivered all that
    /// is wanted of them.
    Complete,
    /// Groups are missing that no peer in the fetch has. Said once, until something is asked again.
    Starved,
}

/// One open request.
#[derive(Clone, Debug)]
struct Request<P> {
    peer: P,
    /// What is still wanted of it. Empty between the last part and the end.
    wanted: GroupRanges,
    /// The request that is asked for some of the same groups.
    twin: Option<RequestId>,
    /// When the last part came, or when it was asked.
    part_ms: u64,
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerReport<P> {
    /// Who.
    pub peer: P,
    /// Whether it may be asked: it is in the fetch.
    pub live: bool,
    /// Its speed in bytes per second, once measured.
    pub bytes_per_s: Option<u64>,
    /// Groups verified that came from it first.
    pub groups: u64,
    /// Requests open at it.
    pub requests: usize,
}

/// See the module. `P` names a peer.
#[derive(Clone, Debug)]
pub struct Schedule<P> {
    limits: ScheduleLimits,
    whole: GroupRange,
    seed: [u8; 32],
    draws: u64,
    now_ms: u64,
    verified: GroupRanges,
    /// Missing, and wanted of nobody.
    free: GroupRanges,
    /// Counts how often `free` grew, so that a peer that found nothing need not look again.
    freed: u64,
    /// What peers that have only a part of the blob have: who has more leaves it to them. `None`
    /// when it must be gathered anew.
    partial: Option<GroupRanges>,
    peers: BTreeMap<P, Peer>,
    requests: BTreeMap<RequestId, Request<P>>,
    requests_made: u64,
    duplicates: u64,
    paused: bool,
    starved: bool,
    complete: bool,
    effects: Vec<Effect<P>>,
}

impl<P: Ord + Copy> Schedule<P> {
    /// The fetch of a blob of `groups` groups of which these are here. The seed decides which
    /// groups peers prove themselves with: it must be secret from them.
    pub fn new(
        groups: u64,
        verified: &GroupRanges,
        seed: [u8; 32],
        limits: ScheduleLimits,
    ) -> Self {
        let whole = GroupRange::first(groups);
        Self {
            limits,
            whole,
            seed,
            draws: 0,
            now_ms: 0,
            verified: verified.within(whole).collect(),
            free: verified.gaps(whole).collect(),
            freed: 0,
            partial: None,
            peers: BTreeMap::new(),
            requests: BTreeMap::new(),
            requests_made: 0,
            duplicates: 0,
            paused: false,
            starved: false,
            complete: false,
            effects: Vec::new(),
        }
    }

    /// Takes one input in. Time never runs backwards here: an earlier `now_ms` counts as the last.
    pub fn step(&mut self, now_ms: u64, input: Input<P>) -> Vec<Effect<P>> {
        self.now_ms = self.now_ms.max(now_ms);
        if self.complete {
            return Vec::new();
        }
        let changed = match input {
            Input::Joined { peer, has, proven } => self.joined(peer, &has, proven),
            Input::Updated { peer, has } => self.updated(peer, &has),
            Input::Left { peer } => self.left(peer),
            Input::Progress { request } => self.progress(request),
            Input::Received { request, range } => self.received(request, range),
            Input::Ended { request, ending } => self.ended(request, ending),
            Input::Tick => true,
            Input::Pause => {
                self.paused = true;
                false
            }
            Input::Resume => {
                self.paused = false;
                true
            }
        };
        if self.verified.groups() == self.whole.groups() {
            self.finish();
        } else if changed {
            self.watch();
            self.assign();
            self.starve();
        }
        std::mem::take(&mut self.effects)
    }

    /// Requests still open have delivered all that was wanted of them.
    fn finish(&mut self) {
        self.complete = true;
        self.requests.clear();
        for peer in self.peers.values_mut() {
            peer.open.clear();
        }
        self.effects.push(Effect::Complete);
    }

    /// Says so when nobody can help. A peer that rests can, later.
    fn starve(&mut self) {
        let hope = !self.requests.is_empty()
            || self.peers.values().any(|peer| peer.is_live() && peer.has.overlaps(&self.free));
        if hope {
            self.starved = false;
        } else if !self.starved {
            self.starved = true;
            self.effects.push(Effect::Starved);
        }
    }

    /// A number below `below`, or 0: a random stream of the seed.
    fn draw(&mut self, below: u64) -> u64 {
        self.draws = self.draws.saturating_add(1);
        let bytes =
            ids::derive("ayni 2026 fetch probe v1", &[&self.seed, &self.draws.to_le_bytes()]);
        let number = bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
        number.checked_rem(below).unwrap_or(0)
    }

    /// The verified groups.
    pub const fn verified(&self) -> &GroupRanges {
        &self.verified
    }

    /// The groups that are not verified yet.
    pub fn missing(&self) -> GroupRanges {
        self.verified.gaps(self.whole).collect()
    }

    /// Whether every group is verified.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Groups received that were verified already.
    pub const fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// What is still wanted of a request; `None` when it is not open.
    pub fn wanted(&self, request: RequestId) -> Option<&GroupRanges> {
        self.requests.get(&request).map(|request| &request.wanted)
    }

    /// Every peer that ever joined.
    pub fn peers(&self) -> impl Iterator<Item = PeerReport<P>> + '_ {
        self.peers.iter().map(|(peer, state)| PeerReport {
            peer: *peer,
            live: state.is_live(),
            bytes_per_s: state.speed.measured(),
            groups: state.given,
            requests: state.open.len(),
        })
    }

    /// Why a peer was put out.
    pub fn fault(&self, peer: P) -> Option<Fault> {
        match self.peers.get(&peer)?.standing {
            Standing::Out(fault) => Some(fault),
            _ => None,
        }
    }

    /// When [`Input::Tick`] is due if nothing else happens before. Always later than the last step.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        if self.complete {
            return None;
        }
        let limits = &self.limits;
        let parts = self.requests.values().map(|open| open.part_ms.saturating_add(limits.part_ms));
        let peers = self.peers.values().filter(|peer| peer.is_live());
        let idle = peers.clone().any(|peer| peer.open.is_empty());
        let busy = peers.clone().filter(|peer| !peer.open.is_empty());
        let quiet = busy.flat_map(|peer| {
            [limits.stall_ms, limits.quiet_ms].map(|ms| peer.heard_ms.saturating_add(ms))
        });
        let rests = peers.map(|peer| peer.rest_until_ms);
        let again =
            (idle && !self.requests.is_empty()).then(|| self.now_ms.saturating_add(RECONSIDER_MS));
        parts.chain(quiet).chain(rests).chain(again).filter(|due| *due > self.now_ms).min()
    }
}

/// How long so many groups take at this speed, in milliseconds.
const fn duration_ms(groups: u64, bytes_per_s: u64) -> u64 {
    let bytes_ms = groups.saturating_mul(GROUP_BYTES).saturating_mul(1_000);
    match bytes_ms.checked_div(bytes_per_s) {
        Some(ms) => ms,
        None => u64::MAX,
    }
}
