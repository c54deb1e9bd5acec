//! Who is asked for what.

use super::peer::Standing;
use super::{ALIGN_GROUPS, Effect, Request, RequestId, Schedule, duration_ms};
use crate::blobs::wire::window_of;
use crate::blobs::{GroupRange, GroupRanges};
use crate::limits::{BLOB_RUNS_PER_ITEM_MAX, GROUP_BYTES, PART_GROUPS};

/// What an idle peer is to do for another.
struct Taken {
    from: RequestId,
    /// What the other does not owe any more: the end of what it owed, or nothing.
    cut: GroupRanges,
    ranges: GroupRanges,
}

impl<P: Ord + Copy> Schedule<P> {
    /// Gives every peer that can take more something to do.
    pub(super) fn assign(&mut self) {
        if self.paused {
            return;
        }
        let ready = self.peers.iter().filter(|(_, peer)| peer.is_ready(self.now_ms));
        let mut ready: Vec<_> = ready.map(|(name, peer)| (peer.rank(), *name)).collect();
        ready.sort_unstable();
        for (_, name) in ready {
            while self.ask_more(name) {}
        }
    }

    /// One more request of a peer; false when it can take no more or there is nothing for it.
    fn ask_more(&mut self, name: P) -> bool {
        let Some(peer) = self.peers.get(&name).filter(|peer| peer.is_ready(self.now_ms)) else {
            return false;
        };
        let idle = peer.open.is_empty();
        let mut twin = None;
        let mut ranges = GroupRanges::new();
        if peer.dry != Some(self.freed) && !self.is_hindrance(name) {
            ranges = self.take_free(name);
        }
        if ranges.is_empty() && idle {
            if let Some(Taken { from, cut, ranges: taken }) = self.stolen(name) {
                self.shorten(from, &cut);
                // What the thief has not, or not now, is for anybody.
                self.release(&cut.difference(&taken));
                ranges = taken;
            } else if let Some(taken) = self.doubled(name) {
                twin = Some(taken.from);
                ranges = taken.ranges;
            }
        }
        if ranges.is_empty() {
            return false;
        }
        self.open(name, ranges, twin);
        true
    }

    /// Whether another, faster peer should have all that is missing before this one has sent a
    /// part: what is free is better left to it.
    fn is_hindrance(&self, name: P) -> bool {
        let Some(own) = self.peers.get(&name).and_then(|peer| peer.speed.measured()) else {
            return false;
        };
        let missing = self.whole.groups().saturating_sub(self.verified.groups());
        let part_ms = duration_ms(PART_GROUPS, own);
        // While nothing is asked of anybody, nobody hinders.
        !self.requests.is_empty()
            && self.peers.values().any(|peer| {
                let speed = peer.speed.current(self.now_ms, 0);
                peer.standing == Standing::Proven
                    && !peer.open.is_empty()
                    && peer.has.groups() == self.whole.groups()
                    && speed > own
                    && duration_ms(missing, speed) < part_ms
            })
    }

    fn open(&mut self, name: P, ranges: GroupRanges, twin: Option<RequestId>) {
        let request = RequestId(self.requests_made);
        self.requests_made = self.requests_made.saturating_add(1);
        if let Some(peer) = self.peers.get_mut(&name) {
            if peer.open.is_empty() {
                peer.heard_ms = self.now_ms;
                peer.speed.begin(self.now_ms);
            }
            peer.open.push(request);
        }
        if let Some(other) = twin.and_then(|twin| self.requests.get_mut(&twin)) {
            other.twin = Some(request);
            if let Some(peer) = self.peers.get_mut(&other.peer) {
                peer.doubled = true;
            }
        }
        self.starved = false;
        let open = Request { peer: name, wanted: ranges.clone(), twin, part_ms: self.now_ms };
        self.requests.insert(request, open);
        self.effects.push(Effect::Ask { peer: name, request, ranges });
    }

    /// Takes something free that the peer has; remembers when there is nothing.
    fn take_free(&mut self, name: P) -> GroupRanges {
        let Some(peer) = self.peers.get(&name) else { return GroupRanges::new() };
        let ranges = if peer.standing == Standing::Unproven {
            let candidates = self.free.intersection(&peer.has);
            self.one_of(&candidates)
        } else {
            self.next_for(name)
        };
        if ranges.is_empty() {
            if let Some(peer) = self.peers.get_mut(&name) {
                peer.dry = Some(self.freed);
            }
        } else {
            self.free.remove_all(&ranges);
        }
        ranges
    }

    /// One random group of the set.
    fn one_of(&mut self, candidates: &GroupRanges) -> GroupRanges {
        let index = self.draw(candidates.groups());
        candidates.nth(index).map(|group| GroupRange::one(group).into()).unwrap_or_default()
    }

    /// The next free groups for a proven peer. Who has everything begins with what peers that have
    /// only a part cannot give.
    fn next_for(&mut self, name: P) -> GroupRanges {
        let groups = self.ask_size(name);
        if self.partial.is_none() {
            self.partial = Some(self.gather_partial());
        }
        let nothing = GroupRanges::new();
        let others = self.partial.as_ref().unwrap_or(&nothing);
        let Some(peer) = self.peers.get(&name) else { return nothing };
        let mut ranges = GroupRanges::new();
        if !others.is_empty() && peer.has.groups() == self.whole.groups() {
            ranges = choose(&self.free, &peer.has, others, groups);
        }
        if ranges.is_empty() {
            ranges = choose(&self.free, &peer.has, &nothing, groups);
        }
        ranges
    }

    fn gather_partial(&self) -> GroupRanges {
        let peers = self.peers.values().filter(|peer| peer.is_live());
        peers
            .filter(|peer| peer.has.groups() < self.whole.groups())
            .fold(GroupRanges::new(), |all, peer| all.union(&peer.has))
    }

    /// How many groups the peer should be asked for: what it sends in the target time, but less
    /// when little is free and others want to work too, and never less than a part.
    fn ask_size(&self, name: P) -> u64 {
        let Some(peer) = self.peers.get(&name) else { return 0 };
        let limits = &self.limits;
        let measured = peer.speed.measured();
        let in_time = measured.map_or(u64::MAX, |bytes_per_s| {
            let bytes = bytes_per_s.saturating_mul(limits.target_ms) / 1_000;
            bytes / GROUP_BYTES
        });
        let least = in_time.clamp(PART_GROUPS, limits.ask_groups_min.max(PART_GROUPS));
        let workers = self.peers.values().filter(|peer| peer.standing == Standing::Proven).count();
        let shares = u64::try_from(workers.saturating_mul(peer.slots)).unwrap_or(u64::MAX);
        let fair = self.free.groups().checked_div(shares).unwrap_or(0);
        peer.ask_groups.min(in_time).min(fair).min(limits.ask_groups_max).max(least)
    }

    /// The speed assumed of a peer before it is measured: its first request in the target time.
    fn assumed_speed(&self) -> u64 {
        let bytes = self.limits.ask_groups_min.saturating_mul(GROUP_BYTES);
        bytes.saturating_mul(1_000).checked_div(self.limits.target_ms).unwrap_or(bytes)
    }

    /// Groups that a peer still owes, its speed, and how long it needs for them in milliseconds.
    fn backlog(&self, name: P) -> Option<(u64, u64, u64)> {
        let peer = self.peers.get(&name)?;
        let owed = peer
            .open
            .iter()
            .filter_map(|id| self.requests.get(id))
            .fold(0_u64, |sum, open| sum.saturating_add(open.wanted.groups()));
        let speed = peer.speed.current(self.now_ms, self.assumed_speed());
        Some((owed, speed, duration_ms(owed, speed)))
    }

    /// Requests of others that take long and are in nobody else's hands, the longest first.
    fn slow(&self, name: P) -> Vec<(u64, RequestId)> {
        let mut slow: Vec<_> = self
            .requests
            .iter()
            .filter(|(_, open)| open.peer != name && open.twin.is_none())
            .filter_map(|(id, open)| {
                let (_, _, ms) = self.backlog(open.peer)?;
                (ms >= self.limits.steal_ms_min).then(|| (ms, open.wanted.groups(), *id))
            })
            .collect();
        slow.sort_unstable_by(|a, b| b.cmp(a));
        slow.into_iter().map(|(ms, _, id)| (ms, id)).collect()
    }

    /// The tail of the request that would end last: so much that both should end together. It is
    /// always the end of what the other owes, so that nothing unwanted comes before what is wanted,
    /// and never of the part that is on its way. A stranger gets a random group of the last part.
    fn stolen(&mut self, name: P) -> Option<Taken> {
        let thief = self.peers.get(&name)?;
        let unproven = thief.standing == Standing::Unproven;
        let (from, cut, candidates, share) = self.slow(name).into_iter().find_map(|(_, id)| {
            let request = self.requests.get(&id)?;
            let (owed, speed, _) = self.backlog(request.peer)?;
            let own = thief.speed.usual(self.assumed_speed());
            let share = owed.saturating_mul(own).checked_div(own.saturating_add(speed))?;
            let behind = window_of(request.wanted.first()?.start()).end();
            let from = if unproven {
                window_of(request.wanted.end().saturating_sub(1)).start()
            } else {
                tail(&request.wanted, share)
            };
            let window = GroupRange::new(from.max(behind), self.whole.end())?;
            let cut: GroupRanges = request.wanted.within(window).collect();
            let candidates = cut.intersection(&thief.has);
            (!candidates.is_empty() && share > 0).then_some((id, cut, candidates, share))
        })?;
        let ranges = if unproven {
            self.one_of(&candidates)
        } else {
            let groups = share.min(self.limits.ask_groups_max);
            choose(&candidates, &candidates, &GroupRanges::new(), groups)
        };
        (!ranges.is_empty()).then_some(Taken { from, cut, ranges })
    }

    /// The rest of a single part that another peer owes and that this one should have sooner.
    fn doubled(&mut self, name: P) -> Option<Taken> {
        let peer = self.peers.get(&name)?;
        let speed = peer.speed.usual(self.assumed_speed());
        let (from, candidates) = self.slow(name).into_iter().find_map(|(ms, id)| {
            let Request { peer: other, wanted, .. } = self.requests.get(&id)?;
            if self.peers.get(other)?.doubled {
                return None;
            }
            let one_part = wanted.end() <= window_of(wanted.first()?.start()).end();
            let sooner = duration_ms(wanted.groups(), speed) < ms;
            let candidates = wanted.intersection(&peer.has);
            (one_part && sooner && !candidates.is_empty()).then_some((id, candidates))
        })?;
        let unproven = peer.standing == Standing::Unproven;
        let ranges = if unproven { self.one_of(&candidates) } else { candidates };
        Some(Taken { from, cut: GroupRanges::new(), ranges })
    }
}

/// The first groups that are in both sets and not in `avoid`: about `groups` of them, in at most
/// as many runs as a request may have, cut at multiples of [`ALIGN_GROUPS`].
fn choose(a: &GroupRanges, b: &GroupRanges, avoid: &GroupRanges, groups: u64) -> GroupRanges {
    let (few, many) = if a.runs().len() <= b.runs().len() { (a, b) } else { (b, a) };
    let candidates = few.iter().flat_map(|run| many.within(run)).flat_map(|run| avoid.gaps(run));
    let mut chosen = GroupRanges::new();
    for run in candidates {
        let left = groups.saturating_sub(chosen.groups());
        if left == 0 || chosen.runs().len() >= BLOB_RUNS_PER_ITEM_MAX {
            break;
        }
        let begun = cut(run, left);
        chosen.insert(begun);
        if begun != run {
            break;
        }
    }
    chosen
}

/// The beginning of a run: about `groups` of it, at least half and at most half as many again, so
/// that it ends on a multiple of [`ALIGN_GROUPS`], or of a part where less is asked.
pub(super) fn cut(run: GroupRange, groups: u64) -> GroupRange {
    if run.groups() <= groups {
        return run;
    }
    let end = run.start().saturating_add(groups);
    let align = if groups < ALIGN_GROUPS { PART_GROUPS } else { ALIGN_GROUPS };
    let rest = end.checked_rem(align).unwrap_or(0);
    let down = end.saturating_sub(rest);
    let is_enough = down.saturating_sub(run.start()) >= groups / 2 && down > run.start();
    let end = if is_enough { down } else { down.saturating_add(align) };
    run.split(end).0.unwrap_or(run)
}

/// Where the last `share` groups of the set begin, moved on to the next part.
fn tail(wanted: &GroupRanges, share: u64) -> u64 {
    let from = wanted.nth(wanted.groups().saturating_sub(share)).unwrap_or(u64::MAX);
    let window = window_of(from);
    if window.start() == from { from } else { window.end() }
}
