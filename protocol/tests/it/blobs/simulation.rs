//! A fetch in simulated time: peers with links, and a shell that does what the schedule says and
//! checks every rule that a schedule promises to keep.

use std::collections::{BTreeMap, BTreeSet};

use ayni_protocol::blobs::schedule::{
    Effect, Ending, Fault, Input, RequestId, Schedule, ScheduleLimits,
};
use ayni_protocol::blobs::wire::Parts;
use ayni_protocol::blobs::{GroupRange, GroupRanges};
use ayni_protocol::limits::{BLOB_RUNS_PER_ITEM_MAX, GROUP_BYTES, PART_GROUPS};

/// From question to answer, in milliseconds.
const LATENCY_MS: u64 = 20;
/// A fetch that takes longer has failed.
const TIME_MS_MAX: u64 = 3_600_000;

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Answers.
    Honest,
    /// Sends so many parts, then nothing more, and keeps the stream open.
    Stalls(u32),
    /// Sends so many parts, then bytes that do not verify.
    Lies(u32),
    /// Breaks the stream after so many parts of every request.
    Breaks(u32),
    /// Says so for every so-manieth request.
    Busy(u32),
    /// Claims everything.
    Boasts,
    /// Claims everything and has nothing.
    Missing,
}

/// A provider.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) conduct: Conduct,
    pub(crate) has: GroupRanges,
    pub(crate) bytes_per_s: u64,
    pub(crate) joins_ms: u64,
    pub(crate) leaves_ms: Option<u64>,
}

impl Provider {
    /// One that has everything, from the start to the end.
    pub(crate) fn honest(groups: u64, bytes_per_s: u64) -> Self {
        let (joins_ms, leaves_ms) = (0, None);
        let has = GroupRange::first(groups).into();
        Self { conduct: Conduct::Honest, has, bytes_per_s, joins_ms, leaves_ms }
    }

    fn claims(&self, groups: u64) -> GroupRanges {
        match self.conduct {
            Conduct::Boasts | Conduct::Missing => GroupRange::first(groups).into(),
            _ => self.has.clone(),
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Join(usize),
    Leave(usize),
    Answer(RequestId),
    /// Some bytes, but no whole part.
    Bytes(RequestId),
    Part(RequestId, GroupRange),
}

struct Open {
    peer: usize,
    parts: Parts,
    wanted: GroupRanges,
    sent: u32,
}

/// How a fetch went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) complete: bool,
    pub(crate) took_ms: u64,
    pub(crate) duplicates: u64,
    pub(crate) asked: u64,
    pub(crate) faults: BTreeMap<usize, Fault>,
    /// Peers whose answers were of the kind that must be punished.
    pub(crate) caught: BTreeSet<usize>,
    pub(crate) given: BTreeMap<usize, u64>,
}

pub(crate) struct Simulation {
    groups: u64,
    fetch: Schedule<usize>,
    providers: Vec<Provider>,
    present: BTreeSet<usize>,
    events: BTreeMap<(u64, u64), Event>,
    events_made: u64,
    now_ms: u64,
    stepped_ms: u64,
    link_free_ms: Vec<u64>,
    parts_sent: Vec<u32>,
    requests: Vec<u32>,
    open: BTreeMap<RequestId, Open>,
    ever_asked: GroupRanges,
    doubled: BTreeSet<usize>,
    outcome: Outcome,
}

impl Simulation {
    pub(crate) fn new(
        groups: u64,
        verified: &GroupRanges,
        seed: u8,
        providers: Vec<Provider>,
    ) -> Self {
        let count = providers.len();
        let limits = ScheduleLimits::default();
        let mut new = Self {
            groups,
            fetch: Schedule::new(groups, verified, [seed; 32], limits),
            present: BTreeSet::new(),
            events: BTreeMap::new(),
            events_made: 0,
            now_ms: 0,
            stepped_ms: 0,
            link_free_ms: vec![0; count],
            parts_sent: vec![0; count],
            requests: vec![0; count],
            open: BTreeMap::new(),
            ever_asked: verified.clone(),
            doubled: BTreeSet::new(),
            outcome: Outcome::default(),
            providers,
        };
        for index in 0..count {
            let Provider { joins_ms, leaves_ms, .. } = new.providers[index];
            new.at(joins_ms, Event::Join(index));
            if let Some(leaves_ms) = leaves_ms {
                new.at(leaves_ms.max(joins_ms + 1), Event::Leave(index));
            }
        }
        new
    }

    fn at(&mut self, when_ms: u64, event: Event) {
        self.events_made += 1;
        self.events.insert((when_ms, self.events_made), event);
    }

    /// Runs until the fetch is complete, or nothing can happen any more.
    pub(crate) fn run(mut self) -> Outcome {
        self.step(Input::Tick);
        while !self.outcome.complete && self.now_ms < TIME_MS_MAX {
            let deadline = self.fetch.next_deadline_ms();
            assert!(deadline.is_none_or(|due| due > self.stepped_ms), "a deadline lies ahead");
            let next = self.events.first_key_value().map(|((when, _), _)| *when);
            match (next, deadline) {
                (Some(when), due) if due.is_none_or(|due| when <= due) => {
                    let (_, event) = self.events.pop_first().expect("just seen");
                    self.now_ms = when;
                    self.happen(event);
                }
                (_, Some(due)) => {
                    self.now_ms = due;
                    self.step(Input::Tick);
                }
                (_, None) => break,
            }
        }
        self.judge()
    }

    fn judge(mut self) -> Outcome {
        if self.outcome.complete {
            let whole = GroupRange::first(self.groups);
            assert!(self.ever_asked.contains_all(whole), "every group was asked for");
            assert!(self.fetch.is_complete() && self.fetch.missing().is_empty());
        }
        self.outcome.took_ms = self.now_ms;
        self.outcome.duplicates = self.fetch.duplicates();
        self.outcome.given = self.fetch.peers().map(|peer| (peer.peer, peer.groups)).collect();
        let doubled = u64::try_from(self.doubled.len()).expect("few");
        assert!(self.outcome.duplicates <= doubled * PART_GROUPS, "duplicates are bounded");
        self.outcome
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Join(peer) => {
                self.present.insert(peer);
                let has = self.providers[peer].claims(self.groups);
                self.step(Input::Joined { peer, has, proven: false });
            }
            Event::Leave(peer) => {
                self.present.remove(&peer);
                self.step(Input::Left { peer });
            }
            Event::Answer(request) => self.answer(request),
            Event::Bytes(request) if self.open.contains_key(&request) => {
                self.step(Input::Progress { request });
            }
            Event::Part(request, part) if self.open.contains_key(&request) => {
                self.deliver(request, part);
            }
            // Dropped: the request was cancelled.
            Event::Bytes(_) | Event::Part(..) => {}
        }
    }

    fn answer(&mut self, request: RequestId) {
        let Some(open) = self.open.get(&request) else { return };
        let provider = &self.providers[open.peer];
        let ending = match provider.conduct {
            Conduct::Missing => Ending::Missing,
            Conduct::Busy(every) if self.requests[open.peer].is_multiple_of(every) => Ending::Busy,
            _ if !provider.has.is_superset(&open.wanted) => Ending::Absent,
            _ => return self.send(request),
        };
        self.end(request, ending);
    }

    fn end(&mut self, request: RequestId, ending: Ending) {
        let open = self.open.remove(&request).expect("open");
        if matches!(ending, Ending::Lied | Ending::Missing) {
            self.outcome.caught.insert(open.peer);
        }
        self.step(Input::Ended { request, ending });
    }

    /// Puts the next part on its way, or ends the request.
    fn send(&mut self, request: RequestId) {
        let open = self.open.get_mut(&request).expect("open");
        let peer = open.peer;
        if open.wanted.is_empty() {
            return self.end(request, Ending::Complete);
        }
        let part = open.parts.find(|part| open.wanted.intersects(*part));
        let part = part.expect("what is wanted was asked for");
        let ending = match self.providers[peer].conduct {
            Conduct::Lies(after) if self.parts_sent[peer] >= after => Some(Ending::Lied),
            Conduct::Breaks(after) if open.sent >= after => Some(Ending::Broken),
            Conduct::Stalls(after) if self.parts_sent[peer] >= after => return,
            _ => None,
        };
        if let Some(ending) = ending {
            return self.end(request, ending);
        }
        open.sent += 1;
        self.parts_sent[peer] += 1;
        let bytes = part.groups() * GROUP_BYTES;
        let begins = self.link_free_ms[peer].max(self.now_ms);
        let ends = begins + (bytes * 1_000).div_ceil(self.providers[peer].bytes_per_s);
        self.link_free_ms[peer] = ends;
        for tick in (begins..ends).step_by(1_000).skip(1) {
            self.at(tick, Event::Bytes(request));
        }
        self.at(ends, Event::Part(request, part));
    }

    fn deliver(&mut self, request: RequestId, range: GroupRange) {
        let open = self.open.get_mut(&request).expect("open");
        open.wanted.remove(range);
        self.step(Input::Received { request, range });
        if self.open.contains_key(&request) {
            self.send(request);
        }
    }

    fn step(&mut self, input: Input<usize>) {
        let before = self.fetch.verified().clone();
        self.stepped_ms = self.now_ms;
        let effects = self.fetch.step(self.now_ms, input);
        assert!(self.fetch.verified().is_superset(&before), "what is verified stays");
        for effect in effects {
            assert!(!self.outcome.complete, "nothing follows the end");
            match effect {
                Effect::Ask { peer, request, ranges } => self.ask(peer, request, ranges),
                Effect::Shorten { request, ranges } => {
                    let open = self.open.get_mut(&request).expect("an open request");
                    assert!(!ranges.is_empty() && open.wanted.is_superset(&ranges));
                    open.wanted = ranges;
                }
                Effect::Cancel { request } => {
                    assert!(self.open.remove(&request).is_some(), "an open request");
                }
                Effect::Penalize { peer, fault } => {
                    assert_eq!(self.fetch.fault(peer), Some(fault));
                    assert_eq!(self.outcome.faults.insert(peer, fault), None, "once");
                }
                Effect::Complete => self.outcome.complete = true,
                Effect::Starved => assert!(self.open.is_empty(), "nothing is under way"),
            }
        }
        for (request, open) in &self.open {
            if !self.outcome.complete {
                assert_eq!(self.fetch.wanted(*request), Some(&open.wanted), "both agree");
            }
        }
    }

    fn ask(&mut self, peer: usize, request: RequestId, ranges: GroupRanges) {
        let claims = self.providers[peer].claims(self.groups);
        assert!(self.present.contains(&peer) && !self.outcome.faults.contains_key(&peer));
        assert!(claims.is_superset(&ranges), "asked for what it claims");
        assert!((1..=BLOB_RUNS_PER_ITEM_MAX).contains(&ranges.runs().len()));
        assert!(!self.fetch.verified().overlaps(&ranges), "nothing verified is asked again");
        let at_peer = self.open.values().filter(|open| open.peer == peer).count();
        assert!(at_peer < 2, "two at a time");
        for open in self.open.values() {
            let twice = open.wanted.intersection(&ranges).groups();
            if twice > 0 {
                assert!(twice <= PART_GROUPS, "at most a part is asked twice");
                assert!(self.doubled.insert(open.peer), "at most once of what a peer owes");
            }
        }
        self.ever_asked.insert_all(&ranges);
        self.outcome.asked += ranges.groups();
        self.requests[peer] += 1;
        let parts = Parts::of(&ranges);
        self.open.insert(request, Open { peer, parts, wanted: ranges, sent: 0 });
        self.at(self.now_ms + LATENCY_MS, Event::Answer(request));
    }
}
