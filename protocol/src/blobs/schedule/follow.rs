//! What an input changes: who is in, what was verified, what goes back.
//!
//! Every function says whether requests may now have to be made.

use super::peer::{Peer, Standing};
use super::{ABSENCES_MAX, Effect, Ending, Fault, RequestId, Schedule};
use crate::blobs::{GroupRange, GroupRanges};

impl<P: Ord + Copy> Schedule<P> {
    pub(super) fn joined(&mut self, name: P, has: &GroupRanges, proven: bool) -> bool {
        let live = self.peers.values().filter(|peer| peer.is_live()).count();
        let is_in = self.peers.get(&name).is_some_and(Peer::is_live);
        if !is_in && live >= self.limits.peers_max {
            return false;
        }
        let limits = &self.limits;
        let peer = self.peers.entry(name).or_insert_with(|| Peer::new(limits));
        match peer.standing {
            Standing::Out(_) => return false,
            Standing::Gone => {
                (peer.standing, peer.rests, peer.rest_until_ms) = (Standing::Unproven, 0, 0);
            }
            Standing::Unproven | Standing::Proven => {}
        }
        if proven {
            peer.standing = Standing::Proven;
        }
        self.updated(name, has)
    }

    pub(super) fn updated(&mut self, name: P, has: &GroupRanges) -> bool {
        let Some(peer) = self.peers.get_mut(&name).filter(|peer| peer.is_live()) else {
            return false;
        };
        peer.has = has.within(self.whole).collect();
        peer.dry = None;
        self.partial = None;
        true
    }

    pub(super) fn left(&mut self, name: P) -> bool {
        if self.peers.get(&name).is_some_and(Peer::is_live) {
            self.remove(name, Standing::Gone);
        }
        true
    }

    pub(super) fn progress(&mut self, id: RequestId) -> bool {
        let peer = self.requests.get(&id).map(|request| request.peer);
        if let Some(peer) = peer.and_then(|name| self.peers.get_mut(&name)) {
            peer.heard_ms = self.now_ms;
        }
        false
    }

    pub(super) fn received(&mut self, id: RequestId, range: GroupRange) -> bool {
        let Some(range) = range.intersection(self.whole) else { return false };
        let new = self.verified.insert(range);
        self.duplicates = self.duplicates.saturating_add(range.groups().saturating_sub(new));
        self.free.remove(range);
        let mut changed = false;
        if let Some(request) = self.requests.get_mut(&id) {
            request.wanted.remove(range);
            request.part_ms = self.now_ms;
            if let Some(peer) = self.peers.get_mut(&request.peer) {
                peer.standing = Standing::Proven;
                peer.heard_ms = self.now_ms;
                peer.rests = 0;
                peer.given = peer.given.saturating_add(new);
                peer.speed.add(self.now_ms, range.groups());
                changed = peer.is_ready(self.now_ms) && peer.dry != Some(self.freed);
            }
        }
        // Others that were asked for it as well: the twin, or who took it over.
        let others: Vec<_> = self
            .requests
            .iter()
            .filter(|(other, open)| **other != id && open.wanted.intersects(range))
            .map(|(other, _)| *other)
            .collect();
        for other in others {
            changed |= self.shorten(other, &range.into());
        }
        changed
    }

    /// Takes groups out of what is wanted of a request; true when nothing is left and it is closed.
    pub(super) fn shorten(&mut self, id: RequestId, groups: &GroupRanges) -> bool {
        let Some(request) = self.requests.get_mut(&id) else { return false };
        request.wanted.remove_all(groups);
        if request.wanted.is_empty() {
            self.cancel(id);
            return true;
        }
        let ranges = request.wanted.clone();
        self.effects.push(Effect::Shorten { request: id, ranges });
        false
    }

    pub(super) fn ended(&mut self, id: RequestId, ending: Ending) -> bool {
        let Some(request) = self.requests.get(&id) else { return false };
        let (name, wanted) = (request.peer, request.wanted.clone());
        self.close(id);
        match ending {
            Ending::Complete if wanted.is_empty() => {
                if let Some(peer) = self.peers.get_mut(&name) {
                    peer.ask_groups =
                        peer.ask_groups.saturating_mul(2).min(self.limits.ask_groups_max);
                }
            }
            // It left something out: the same as saying that it has it not.
            Ending::Complete | Ending::Absent => self.lacks(name, &wanted),
            Ending::Busy => match self.peers.get_mut(&name) {
                Some(peer) if !peer.open.is_empty() => peer.slots = peer.open.len(),
                _ => self.rest(name),
            },
            Ending::Broken => self.rest(name),
            Ending::Missing => self.put_out(name, Fault::FalseClaim),
            Ending::Lied => self.put_out(name, Fault::Lied),
            Ending::Malformed => self.put_out(name, Fault::Malformed),
        }
        true
    }

    /// Forgets a request. What was wanted of it is free again, but for what its twin still wants.
    pub(super) fn close(&mut self, id: RequestId) {
        let Some(request) = self.requests.remove(&id) else { return };
        let mut back = request.wanted;
        if let Some(twin) = request.twin.and_then(|twin| self.requests.get_mut(&twin)) {
            twin.twin = None;
            back.remove_all(&twin.wanted);
        }
        self.release(&back);
        if let Some(peer) = self.peers.get_mut(&request.peer) {
            peer.open.retain(|open| *open != id);
            if peer.open.is_empty() {
                peer.speed.end(self.now_ms);
            }
        }
    }

    /// Makes groups free.
    pub(super) fn release(&mut self, groups: &GroupRanges) {
        if !groups.is_empty() {
            self.free.insert_all(groups);
            self.freed = self.freed.saturating_add(1);
        }
    }

    pub(super) fn cancel(&mut self, id: RequestId) {
        self.close(id);
        self.effects.push(Effect::Cancel { request: id });
    }

    /// Cancels all requests of a peer.
    fn cancel_all(&mut self, name: P) {
        let open = self.peers.get(&name).map(|peer| peer.open.clone());
        for id in open.unwrap_or_default() {
            self.cancel(id);
        }
    }

    /// A peer has not what it claims. Once may be bad luck, for one that has proved itself.
    fn lacks(&mut self, name: P, groups: &GroupRanges) {
        let Some(peer) = self.peers.get_mut(&name) else { return };
        if groups.is_empty() {
            return;
        }
        peer.has.remove_all(groups);
        peer.absences = peer.absences.saturating_add(1);
        let is_false = peer.standing == Standing::Unproven || peer.absences > ABSENCES_MAX;
        self.partial = None;
        if is_false {
            self.put_out(name, Fault::FalseClaim);
        }
    }

    /// Leaves a peer alone for a while, longer each time; lets it go after too many times.
    fn rest(&mut self, name: P) {
        let Some(peer) = self.peers.get_mut(&name).filter(|peer| peer.is_live()) else { return };
        let pause = 1_u64
            .checked_shl(peer.rests)
            .map_or(u64::MAX, |factor| self.limits.rest_ms.saturating_mul(factor));
        peer.rests = peer.rests.saturating_add(1);
        peer.rest_until_ms = self.now_ms.saturating_add(pause.min(self.limits.rest_ms_max));
        if peer.rests > self.limits.rests_max {
            self.remove(name, Standing::Gone);
        }
    }

    fn put_out(&mut self, name: P, fault: Fault) {
        self.remove(name, Standing::Out(fault));
        self.effects.push(Effect::Penalize { peer: name, fault });
    }

    fn remove(&mut self, name: P, standing: Standing) {
        self.cancel_all(name);
        if let Some(peer) = self.peers.get_mut(&name) {
            peer.standing = standing;
            peer.has = GroupRanges::new();
        }
        self.partial = None;
    }

    /// Looks for peers that send nothing.
    pub(super) fn watch(&mut self) {
        let (now, limits) = (self.now_ms, self.limits);
        let silent = |since: u64, ms: u64| now.saturating_sub(since) >= ms;
        let busy = self.peers.iter().filter(|(_, peer)| !peer.open.is_empty());
        let quiet: Vec<_> = busy
            .map(|(name, peer)| {
                let mut open = peer.open.iter().filter_map(|id| self.requests.get(id));
                let late = open.any(|open| silent(open.part_ms, limits.part_ms));
                (*name, peer, late || silent(peer.heard_ms, limits.stall_ms))
            })
            .filter(|(_, peer, stalled)| *stalled || silent(peer.heard_ms, limits.quiet_ms))
            .map(|(name, _, stalled)| (name, stalled))
            .collect();
        for (name, stalled) in quiet {
            if stalled {
                self.put_out(name, Fault::Stalled);
            } else if self.another_could_do(name) {
                self.cancel_all(name);
                self.rest(name);
                if let Some(peer) = self.peers.get_mut(&name)
                    && peer.is_live()
                {
                    peer.standing = Standing::Unproven;
                }
            }
        }
    }

    /// Whether an idle peer that has not failed lately has something that is wanted of this one.
    fn another_could_do(&self, name: P) -> bool {
        let owed = self.requests.values().filter(|open| open.peer == name);
        self.peers.iter().any(|(other, peer)| {
            *other != name
                && peer.is_idle(self.now_ms)
                && peer.rests == 0
                && owed.clone().any(|open| peer.has.overlaps(&open.wanted))
        })
    }
}
