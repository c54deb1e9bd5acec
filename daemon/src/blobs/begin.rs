//! The first look at a blob: its proven size, or all of it if it is small.
//!
//! Candidates are tried one after the other, hints first, the next one when the first has not
//! begun to answer in time. One that lies, breaks the protocol, stalls or has nothing is not tried
//! again; one that did not answer or was busy is, in the next round of the scout.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::PeerId;
use protocol::blobs::last_group;
use protocol::blobs::wire::Availability;
use protocol::ids::ContentHash;
use protocol::limits::WHOLE_GROUPS_MAX;
use tokio::time::Instant;

use super::Inner;
use super::error::{Failure, FetchError, Tried};
use super::lane::Started;
use super::scout::{Report, Scout};

/// A candidate that has not begun to answer after this gets company.
const HEDGE: Duration = Duration::from_secs(1);
/// Rounds of the scout in which nobody helped; then the fetch fails.
pub(super) const ROUNDS_MAX: u32 = 4;

/// What is known of the providers of a blob.
#[derive(Debug, Default)]
pub(super) struct Providers {
    /// What they say they have.
    pub(super) holds: BTreeMap<PeerId, Availability>,
    /// Those that are out for this fetch.
    pub(super) excluded: BTreeSet<PeerId>,
    pub(super) tried: Tried,
    /// Who sent the first group.
    pub(super) proven: Option<PeerId>,
}

impl Providers {
    /// Records a failure and what follows from it for the peer.
    pub(super) fn note(&mut self, inner: &Inner, peer: PeerId, failure: Failure) {
        let promised = self.holds.contains_key(&peer);
        inner.judge(peer, &failure, promised);
        if !failure.may_pass() {
            self.excluded.insert(peer);
        }
        self.tried.attempts.push((peer, failure));
        // An error lists only some of them.
        if self.tried.attempts.len() > TRIED_MAX {
            self.tried.attempts.remove(0);
        }
    }

    /// Why the fetch failed.
    pub(super) fn failed(self, hash: ContentHash) -> FetchError {
        let missing = |(_, failure): &(PeerId, Failure)| *failure == Failure::Missing;
        let tried = self.tried;
        if tried.attempts.iter().all(missing) {
            FetchError::NotFound { hash, tried }
        } else {
            FetchError::Failed { hash, tried }
        }
    }
}

/// Attempts that are remembered.
const TRIED_MAX: usize = 64;

/// Looks at a blob of which nothing is known. Nothing when everybody who may have it was tried.
pub(super) async fn begin(
    inner: &Arc<Inner>,
    hash: ContentHash,
    hints: &[PeerId],
    scout: &mut Scout,
    providers: &mut Providers,
) -> Option<Started> {
    let mut look = Look {
        queue: hints.iter().copied().collect(),
        tried: BTreeSet::from([inner.network.local_peer()]),
        ..Look::default()
    };
    let mut attempts = FuturesUnordered::new();
    loop {
        let silent = !attempts.is_empty() && !look.answering.load(Ordering::Relaxed);
        let overdue = silent && look.since.is_some_and(|since| since.elapsed() >= HEDGE);
        if (attempts.is_empty() || overdue)
            && let Some(peer) = look.next(&providers.excluded)
        {
            attempts.push(attempt(inner, peer, hash, Arc::clone(&look.answering)));
            continue;
        }
        tokio::select! {
            Some((peer, result)) = attempts.next(), if !attempts.is_empty() => match result {
                Ok(started) => {
                    providers.proven = Some(peer);
                    return Some(started);
                }
                Err(failure) => {
                    if failure.may_pass() {
                        look.retry.insert(peer);
                    }
                    providers.note(inner, peer, failure);
                }
            },
            report = scout.next() => match report? {
                Report::Holds(peer, holds) => {
                    let proves = |size| holds.groups().contains_all(last_group(size));
                    if holds.size().is_some_and(proves) {
                        look.queue.push_back(peer);
                    }
                    providers.holds.insert(peer, holds);
                }
                Report::RoundOver(asked) => {
                    providers.tried.asked = providers.tried.asked.max(asked);
                    look.rounds += 1;
                    if attempts.is_empty() && !look.once_more() {
                        return None;
                    }
                }
            },
            () = tokio::time::sleep(HEDGE), if silent => {}
        }
    }
}

/// Who is next, and who was.
#[derive(Default)]
struct Look {
    queue: VecDeque<PeerId>,
    tried: BTreeSet<PeerId>,
    /// Those that may do better in the next round.
    retry: BTreeSet<PeerId>,
    rounds: u32,
    /// Whether the latest attempt is being answered, and when it began.
    answering: Arc<AtomicBool>,
    since: Option<Instant>,
}

impl Look {
    fn next(&mut self, excluded: &BTreeSet<PeerId>) -> Option<PeerId> {
        while let Some(peer) = self.queue.pop_front() {
            if !excluded.contains(&peer) && self.tried.insert(peer) {
                self.answering = Arc::default();
                self.since = Some(Instant::now());
                return Some(peer);
            }
        }
        None
    }

    /// Whether another round may help; the second one asks the table of providers.
    fn once_more(&mut self) -> bool {
        let retry = std::mem::take(&mut self.retry);
        for peer in &retry {
            self.tried.remove(peer);
        }
        let may_help = !retry.is_empty() || self.rounds < 2;
        self.queue.extend(retry);
        may_help && self.rounds < ROUNDS_MAX
    }
}

async fn attempt(
    inner: &Arc<Inner>,
    peer: PeerId,
    hash: ContentHash,
    answering: Arc<AtomicBool>,
) -> (PeerId, Result<Started, Failure>) {
    let whole = u32::try_from(WHOLE_GROUPS_MAX).unwrap_or(u32::MAX);
    let mut fresh = false;
    loop {
        let mut lane = match inner.lane(peer, fresh).await {
            Ok(lane) => lane,
            Err(failure) => return (peer, Err(failure)),
        };
        lane.tell_when_answered(Arc::clone(&answering));
        match lane.look(hash, whole).await {
            Err(failure) if lane.was_stale(&failure) => fresh = true,
            result => return (peer, inner.keep(peer, lane, result)),
        }
    }
}
