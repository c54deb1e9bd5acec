//! A large blob from everybody who has some of it, at once.
//!
//! [`protocol::blobs::schedule`] decides who is asked for what; here its effects become requests on
//! streams, and what happens there becomes its inputs. Every request has a task of its own; parts
//! are verified and written on blocking threads.
//!
//! Invariant: the bitfield on disk names only what was synced before, and at most
//! [`BLOB_UNSYNCED_BYTES_MAX`] are verified and not yet in it: so much is fetched again after a
//! crash. Dropping the transfer ends all its requests; what has arrived stays.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::PeerId;
use protocol::blobs::schedule::{
    Effect, Ending, Fault, Input, RequestId, Schedule, ScheduleLimits,
};
use protocol::blobs::wire::Availability;
use protocol::blobs::{GroupRange, GroupRanges, bytes_of, groups_of};
use protocol::ids::ContentHash;
use protocol::limits::{BLOB_UNSYNCED_BYTES_MAX, GROUP_BYTES};
use storage::blobs::Checkpoint;
use storage::{BlobError, PartialBlob};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use super::Inner;
use super::begin::{Providers, ROUNDS_MAX};
use super::error::{Failure, FetchError};
use super::fetch::blocking;
use super::lane::{Asked, Broke, Part, Sink, Wish};
use super::progress::Progress;
use super::queue::Priority;
use super::scout::{Report, Scout};
use super::stats::Counters;

/// A sync begins when so much waits for it and no other one runs: on a disk that keeps up, a crash
/// costs little more than this.
const SYNC_GROUPS: u64 = 16 * 1024 * 1024 / GROUP_BYTES;
/// How often time is told to the schedule, and progress to those who watch.
const TICK: Duration = Duration::from_millis(200);
/// What has arrived is synced at least this often.
const SYNC_INTERVAL: Duration = Duration::from_secs(2);

/// What happens in a request.
enum Event {
    Progress(RequestId),
    Written(RequestId, GroupRange),
    Ended(RequestId, PeerId, Result<Asked, Broke>),
    Synced(u64, Result<(), BlobError>),
}

/// A fetch of a blob whose size is proven.
pub(super) struct Transfer<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) hash: ContentHash,
    pub(super) priority: Priority,
    pub(super) scout: Scout,
    pub(super) providers: Providers,
    pub(super) progress: watch::Sender<Progress>,
    /// Who sent the group that proves the size.
    pub(super) proven: Option<PeerId>,
}

/// A request under way.
struct Request {
    peer: PeerId,
    wanted: Arc<Mutex<GroupRanges>>,
    task: AbortHandle,
}

/// What runs.
struct Running {
    size: u64,
    partial: Arc<Mutex<Option<PartialBlob>>>,
    schedule: Schedule<PeerId>,
    requests: BTreeMap<RequestId, Request>,
    tasks: JoinSet<()>,
    events: mpsc::Sender<Event>,
    unsynced: Arc<Semaphore>,
    /// Groups written since the last sync began.
    written: Arc<AtomicU64>,
    syncing: bool,
    synced_at: Instant,
    began: Instant,
    /// Rounds of the scout since nobody could give what is missing.
    starved_rounds: Option<u32>,
    /// Providers that a verified part came from, or a failure.
    complete: bool,
}

impl Transfer<'_> {
    /// Fetches what is missing and names the blob. Returns its length.
    pub(super) async fn run(
        mut self,
        partial: PartialBlob,
        hints: &[PeerId],
    ) -> Result<u64, FetchError> {
        let size = partial.size();
        let (events, mut inbox) = mpsc::channel(256);
        let mut running = self.start(partial, events);
        for peer in hints {
            // A hint may have all of it; it says so when it is asked.
            if !self.providers.holds.contains_key(peer) && !self.providers.excluded.contains(peer) {
                self.providers.holds.insert(*peer, Availability::All { size });
            }
        }
        for (peer, holds) in self.providers.holds.clone() {
            self.join(&mut running, peer, &holds)?;
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut urgent = self.inner.queue.urgent();
        while !running.complete {
            tokio::select! {
                Some(event) = inbox.recv() => self.on_event(&mut running, event)?,
                Some(report) = self.scout.next() => self.on_report(&mut running, report)?,
                _ = tick.tick() => self.on_tick(&mut running)?,
                Ok(()) = urgent.changed(), if self.priority == Priority::Bulk => {
                    let busy = *urgent.borrow_and_update() > 0;
                    let input = if busy { Input::Pause } else { Input::Resume };
                    self.step(&mut running, input)?;
                }
                Some(_) = running.tasks.join_next(), if !running.tasks.is_empty() => {}
            }
        }
        self.finish(running).await
    }

    fn start(&self, partial: PartialBlob, events: mpsc::Sender<Event>) -> Running {
        let size = partial.size();
        let verified = partial.verified().clone();
        self.progress.send_modify(|progress| {
            progress.size = size;
            progress.verified = bytes_in(&verified, size);
        });
        let seed = secret_seed();
        let limits = ScheduleLimits::default();
        let now = Instant::now();
        Running {
            size,
            schedule: Schedule::new(groups_of(size), &verified, seed, limits),
            partial: Arc::new(Mutex::new(Some(partial))),
            requests: BTreeMap::new(),
            tasks: JoinSet::new(),
            events,
            unsynced: Arc::new(Semaphore::new(permits(BLOB_UNSYNCED_BYTES_MAX / GROUP_BYTES))),
            written: Arc::default(),
            syncing: false,
            synced_at: now,
            began: now,
            starved_rounds: None,
            complete: false,
        }
    }

    fn join(
        &self,
        running: &mut Running,
        peer: PeerId,
        holds: &Availability,
    ) -> Result<(), FetchError> {
        // Another size than the proven one is a lie that costs nobody anything.
        if self.providers.excluded.contains(&peer) || holds.size() != Some(running.size) {
            return Ok(());
        }
        let proven = self.proven == Some(peer);
        self.step(running, Input::Joined { peer, has: holds.groups(), proven })
    }

    fn step(&self, running: &mut Running, input: Input<PeerId>) -> Result<(), FetchError> {
        let now = u64::try_from(running.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        for effect in running.schedule.step(now, input) {
            match effect {
                Effect::Ask { peer, request, ranges } => {
                    running.starved_rounds = None;
                    self.ask(running, peer, request, ranges);
                }
                Effect::Shorten { request, ranges } => {
                    if let Some(request) = running.requests.get(&request) {
                        *lock(&request.wanted) = ranges;
                    }
                }
                Effect::Cancel { request } => {
                    if let Some(request) = running.requests.remove(&request) {
                        request.task.abort();
                    }
                }
                Effect::Penalize { peer, fault } => {
                    // The other faults were judged where they were seen.
                    if fault == Fault::Stalled {
                        self.inner.judge(peer, &Failure::Stalled, false);
                    }
                }
                Effect::Complete => running.complete = true,
                Effect::Starved => {
                    if running.starved_rounds.is_none() {
                        running.starved_rounds = Some(0);
                        self.scout.hurry();
                    }
                }
            }
        }
        Ok(())
    }

    fn ask(&self, running: &mut Running, peer: PeerId, id: RequestId, ranges: GroupRanges) {
        let wanted = Arc::new(Mutex::new(ranges.clone()));
        let sink = Target {
            id,
            partial: Arc::clone(&running.partial),
            wanted: Arc::clone(&wanted),
            unsynced: Arc::clone(&running.unsynced),
            written: Arc::clone(&running.written),
            events: running.events.clone(),
        };
        let (inner, hash, size) = (Arc::clone(self.inner), self.hash, running.size);
        let events = running.events.clone();
        let task = running.tasks.spawn(async move {
            let result = inner.ask(peer, hash, size, ranges, &sink).await;
            // The transfer has ended if nobody hears it.
            let _ = events.send(Event::Ended(id, peer, result)).await;
        });
        running.requests.insert(id, Request { peer, wanted, task });
    }

    fn on_event(&mut self, running: &mut Running, event: Event) -> Result<(), FetchError> {
        match event {
            Event::Progress(request) => self.step(running, Input::Progress { request }),
            Event::Written(request, part) => {
                let bytes = bytes_of(part, running.size);
                let bytes = bytes.end - bytes.start;
                Counters::add(&self.inner.counters.bytes_received, bytes);
                if let Some(peer) = running.requests.get(&request).map(|request| request.peer) {
                    self.progress.send_if_modified(|progress| {
                        progress.add(peer, bytes);
                        false
                    });
                }
                self.step(running, Input::Received { request, range: part })?;
                if running.written.load(Ordering::Relaxed) >= SYNC_GROUPS {
                    self.sync(running);
                }
                Ok(())
            }
            Event::Ended(request, peer, result) => {
                running.requests.remove(&request);
                let ending = match result {
                    Ok(_) => Ending::Complete,
                    Err(Broke::Store(source)) => {
                        return Err(FetchError::Store { hash: self.hash, source: source.into() });
                    }
                    Err(Broke::Provider(failure)) => {
                        let ending = ending(&failure);
                        self.providers.note(self.inner, peer, failure);
                        ending
                    }
                };
                self.step(running, Input::Ended { request, ending })
            }
            Event::Synced(groups, result) => {
                running.syncing = false;
                running.unsynced.add_permits(permits(groups));
                match result {
                    Ok(()) => Ok(()),
                    Err(source) => {
                        Err(FetchError::Store { hash: self.hash, source: source.into() })
                    }
                }
            }
        }
    }

    fn on_report(&mut self, running: &mut Running, report: Report) -> Result<(), FetchError> {
        match report {
            Report::Holds(peer, holds) => {
                let result = self.join(running, peer, &holds);
                self.providers.holds.insert(peer, holds);
                result
            }
            Report::RoundOver(asked) => {
                self.providers.tried.asked = self.providers.tried.asked.max(asked);
                let Some(rounds) = &mut running.starved_rounds else { return Ok(()) };
                *rounds += 1;
                if *rounds < ROUNDS_MAX {
                    return Ok(());
                }
                Err(std::mem::take(&mut self.providers).failed(self.hash))
            }
        }
    }

    fn on_tick(&self, running: &mut Running) -> Result<(), FetchError> {
        self.step(running, Input::Tick)?;
        let written = running.written.load(Ordering::Relaxed);
        if written > 0 && running.synced_at.elapsed() >= SYNC_INTERVAL {
            self.sync(running);
        }
        let verified = bytes_in(running.schedule.verified(), running.size);
        self.progress.send_modify(|progress| {
            progress.verified = verified;
            for report in running.schedule.peers() {
                if let Some(source) = progress.sources.get_mut(&report.peer) {
                    source.bytes_per_s = report.bytes_per_s.unwrap_or(0);
                }
            }
        });
        Ok(())
    }

    /// Makes what has arrived durable, while more arrives.
    fn sync(&self, running: &mut Running) {
        if running.syncing {
            return;
        }
        running.syncing = true;
        running.synced_at = Instant::now();
        let (partial, events) = (Arc::clone(&running.partial), running.events.clone());
        let (tracker, written) = (self.inner.tracker.clone(), Arc::clone(&running.written));
        running.tasks.spawn(async move {
            let work = tracker.spawn_blocking(move || {
                let (checkpoint, groups) = {
                    let mut partial = lock(&partial);
                    let checkpoint = partial.as_mut().map(PartialBlob::checkpoint);
                    (checkpoint, written.swap(0, Ordering::Relaxed))
                };
                (groups, checkpoint.map_or(Ok(()), Checkpoint::run))
            });
            // Only at shutdown, or after a panic that was logged.
            let Ok((groups, result)) = work.await else { return };
            let _ = events.send(Event::Synced(groups, result)).await;
        });
    }

    async fn finish(self, mut running: Running) -> Result<u64, FetchError> {
        // Duplicates that are still on their way.
        running.tasks.shutdown().await;
        let verified = running.size;
        self.progress.send_modify(|progress| progress.verified = verified);
        let partial = lock(&running.partial).take();
        blocking(self.inner, self.hash, move |_| match partial {
            Some(partial) => partial.finish(),
            None => unreachable!("only this takes it"),
        })
        .await
    }
}

/// Where the parts of one request go.
#[derive(Clone)]
struct Target {
    id: RequestId,
    partial: Arc<Mutex<Option<PartialBlob>>>,
    wanted: Arc<Mutex<GroupRanges>>,
    unsynced: Arc<Semaphore>,
    written: Arc<AtomicU64>,
    events: mpsc::Sender<Event>,
}

impl Sink for Target {
    fn write(&self, part: &Part, room: OwnedSemaphorePermit) -> Result<(), BlobError> {
        // Without it the blob is complete.
        if let Some(partial) = lock(&self.partial).as_mut() {
            partial.write_part(part)?;
            // Given back when it is synced.
            room.forget();
            self.written.fetch_add(part.range().groups(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn wants(&self, part: GroupRange) -> Wish {
        let wanted = lock(&self.wanted);
        match wanted.intersects(part) {
            true => Wish::Keep,
            false if wanted.end() > part.start() => Wish::Skip,
            false => Wish::Stop,
        }
    }

    async fn progress(&self) {
        // The transfer has ended if nobody hears it.
        let _ = self.events.send(Event::Progress(self.id)).await;
    }

    async fn room(&self, part: GroupRange) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        let groups = u32::try_from(part.groups()).unwrap_or(u32::MAX);
        Arc::clone(&self.unsynced).acquire_many_owned(groups).await.ok()
    }

    async fn written(&self, part: GroupRange) {
        // The transfer has ended if nobody hears it.
        let _ = self.events.send(Event::Written(self.id, part)).await;
    }
}

fn ending(failure: &Failure) -> Ending {
    match failure {
        Failure::Missing => Ending::Missing,
        Failure::Absent => Ending::Absent,
        Failure::Busy => Ending::Busy,
        // The schedule sees a stall before a stream does.
        Failure::NoAnswer(_) | Failure::Broken(_) | Failure::Stalled => Ending::Broken,
        Failure::Malformed(_) => Ending::Malformed,
        Failure::Lied(_) => Ending::Lied,
    }
}

/// Decides with which groups providers prove themselves: they must not know it beforehand.
fn secret_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    for word in seed.chunks_exact_mut(8) {
        // Keyed by the operating system's randomness.
        word.copy_from_slice(&RandomState::new().hash_one(0_u8).to_le_bytes());
    }
    seed
}

pub(super) fn bytes_in(groups: &GroupRanges, size: u64) -> u64 {
    groups.iter().map(|range| bytes_of(range, size)).map(|bytes| bytes.end - bytes.start).sum()
}

fn permits(groups: u64) -> usize {
    usize::try_from(groups).unwrap_or(usize::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
