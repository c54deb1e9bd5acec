//! Counting a fetch: how much has come from whom, and how fast.
//!
//! Invariant: bytes are counted once, when they have been verified; what was here before is told
//! apart. Speeds are for people: of the last second or so.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use protocol::api::{JobProgress, SourceBytes, SourceProgress};
use protocol::ids::NodeId;

use crate::api::JobHandle;
use crate::blobs::{Progress, Source};
use crate::network;

/// Over how long a speed is measured.
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Provider {
    bytes: u64,
    bytes_per_s: u64,
    /// Bytes when the window began.
    before: u64,
    since: Instant,
}

/// See the module.
pub(super) struct Tally {
    handle: JobHandle,
    /// Bytes wanted in all.
    total: u64,
    /// Bytes that were here before.
    had: u64,
    /// Verified bytes received by fetches that have ended.
    received: u64,
    providers: BTreeMap<NodeId, Provider>,
    /// The fetch of one blob that is under way.
    running: Progress,
    message: &'static str,
}

impl Tally {
    pub(super) fn new(handle: JobHandle) -> Self {
        let (providers, running) = (BTreeMap::new(), Progress::default());
        let message = "looking for providers";
        Self { handle, total: 0, had: 0, received: 0, providers, running, message }
    }

    /// The fetch of one blob, as far as it is.
    pub(super) fn follow(&mut self, progress: &Progress) {
        self.running = progress.clone();
        if progress.size > 0 {
            self.message = "fetching";
        }
        self.tell();
    }

    /// A blob was here all along.
    pub(super) fn was_here(&mut self, size: u64) {
        self.had += size;
        self.total += size;
        self.tell();
    }

    /// The blob that was followed has arrived.
    pub(super) fn arrived_whole(&mut self, size: u64) {
        let running = std::mem::take(&mut self.running);
        for source in running.sources.values() {
            self.add(source.peer, source.bytes);
        }
        self.had += running.had;
        // Bytes that came twice count twice.
        self.received += running.received;
        self.total += size;
        self.tell();
    }

    /// More is wanted, of which some is here.
    pub(super) fn expect(&mut self, bytes: u64, had: u64) {
        self.message = "fetching";
        self.total += bytes;
        self.had += had;
        self.tell();
    }

    /// One of many blobs has arrived.
    pub(super) fn arrived(&mut self, source: Source, local: &PeerId) {
        self.received += source.bytes;
        // What nobody in particular gave is told of this node itself.
        if source.peer != *local {
            self.add(source.peer, source.bytes);
        }
        self.tell();
    }

    /// Something else is being done now.
    pub(super) fn say(&mut self, message: &'static str) {
        self.message = message;
        self.tell();
    }

    /// Bytes that were here, and verified bytes that were received.
    pub(super) const fn bytes(&self) -> (u64, u64) {
        (self.had, self.received)
    }

    /// Who gave what.
    pub(super) fn sources(&self) -> Vec<SourceBytes> {
        let providers = self.providers.iter();
        providers.map(|(node, of)| SourceBytes { node: *node, bytes: of.bytes }).collect()
    }

    fn add(&mut self, peer: PeerId, bytes: u64) {
        let Some(node) = network::node_id(&peer) else { return };
        let now = Instant::now();
        let new = Provider { bytes: 0, bytes_per_s: 0, before: 0, since: now };
        let provider = self.providers.entry(node).or_insert(new);
        provider.bytes += bytes;
        let elapsed = now.duration_since(provider.since);
        if elapsed >= WINDOW {
            let gained = u128::from(provider.bytes.saturating_sub(provider.before));
            let rate = gained.saturating_mul(1_000) / elapsed.as_millis().max(1);
            provider.bytes_per_s = u64::try_from(rate).unwrap_or(u64::MAX);
            (provider.before, provider.since) = (provider.bytes, now);
        }
    }

    fn tell(&self) {
        let mut sources: BTreeMap<NodeId, SourceProgress> = BTreeMap::new();
        for (node, of) in &self.providers {
            let (bytes, bytes_per_s) = (of.bytes, of.bytes_per_s);
            sources.insert(*node, SourceProgress { node: *node, bytes, bytes_per_s });
        }
        for source in self.running.sources.values() {
            let Some(node) = network::node_id(&source.peer) else { continue };
            let new = SourceProgress { node, bytes: 0, bytes_per_s: 0 };
            let entry = sources.entry(node).or_insert(new);
            entry.bytes += source.bytes;
            entry.bytes_per_s = source.bytes_per_s;
        }
        self.handle.report(JobProgress {
            done: self.had + self.received + self.running.verified,
            total: self.total + self.running.size,
            message: self.message.to_owned(),
            sources: sources.into_values().collect(),
        });
    }
}
