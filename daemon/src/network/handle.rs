//! The handle through which everybody else uses the network.
//!
//! Cheap to clone. All methods are cancel-safe: a command that was not yet sent when the future
//! is dropped is not sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use protocol::amount::Height;
use protocol::ids::ContentHash;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::events::{
    Acceptance, EngineEvent, GossipId, MetaRequestId, NetworkEvent, PeerInfo, RequestFailure,
    SyncRequestId,
};
use super::score::Severity;
use super::wire::{BLOB_PROTOCOL, MetaRequest, MetaResponse, Topic};

/// Longest wait for a raw stream. `open_stream` of libp2p-stream can otherwise wait for ever when
/// its dial queue is full (rust-libp2p#6157).
const OPEN_STREAM_MAX: Duration = Duration::from_secs(10);

/// Providers that one search gives at most.
const PROVIDERS_FOUND_MAX: usize = 64;

/// Why a request got no answer.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RequestError {
    /// The network task has ended.
    #[error("the network has stopped")]
    Stopped,
    /// The request failed on the way.
    #[error("request failed: {0:?}")]
    Failed(RequestFailure),
    /// The peer refused or answered something else.
    #[error("the peer refused or gave an answer that does not fit")]
    BadAnswer,
    /// The address or peer cannot be dialled.
    #[error("cannot dial: {0}")]
    Dial(String),
    /// No stream in time, or the peer does not speak the protocol.
    #[error("cannot open a stream: {0}")]
    Stream(String),
}

macro_rules! stats {
    ($($(#[$meta:meta])* $name:ident),+ $(,)?) => {
        /// Counters since start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct NetworkStats {
            $($(#[$meta])* pub $name: u64,)+
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)+
        }

        impl Counters {
            fn snapshot(&self) -> NetworkStats {
                NetworkStats { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

stats!(
    /// Gossip messages received on our topics.
    gossip_received,
    /// Gossip messages that their consumer rejected.
    gossip_rejected,
    /// Gossip messages that could not be published for want of subscribed peers.
    gossip_unheard,
    /// Events dropped because a consumer was too slow.
    events_dropped,
    /// Messages or requests refused by a peer's token bucket.
    rate_limited,
    /// Faults reported against peers.
    faults,
    /// Peers disconnected for their score.
    disconnected,
    /// Peers banned.
    banned,
    /// Reports and replies lost because the command queue was full.
    commands_dropped,
);

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the network says about this node when asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalInfo {
    pub(crate) genesis: Option<Vec<u8>>,
    pub(crate) tip: Height,
}

pub(crate) enum Command {
    Publish(Topic, Vec<u8>),
    Validate(GossipId, PeerId, Acceptance),
    SyncRequest(SyncRequestId, PeerId, Vec<u8>),
    SyncRespond(SyncRequestId, Option<Vec<u8>>),
    MetaRequest(PeerId, MetaRequest, oneshot::Sender<Result<MetaResponse, RequestError>>),
    MetaRespond(MetaRequestId, MetaResponse),
    Dial(Multiaddr, oneshot::Sender<Result<(), RequestError>>),
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    Listeners(oneshot::Sender<Vec<Multiaddr>>),
    Report(PeerId, Severity, &'static str),
    Disconnect(PeerId),
    AdmitStream(PeerId, oneshot::Sender<bool>),
    SubscribeEngine(mpsc::Sender<EngineEvent>),
    SubscribeNode(mpsc::Sender<NetworkEvent>),
    Provide(ContentHash),
    Withdraw(ContentHash),
    Search(ContentHash, mpsc::Sender<PeerId>),
    SetTip(Height),
    SetGenesis(Vec<u8>),
}

/// Access to the swarm task.
#[derive(Clone)]
pub struct NetworkHandle {
    pub(super) local: PeerId,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) streams: libp2p_stream::Control,
    pub(super) counters: Arc<Counters>,
    pub(super) next_sync_id: Arc<AtomicU64>,
}

impl std::fmt::Debug for NetworkHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetworkHandle").field("local", &self.local).finish_non_exhaustive()
    }
}

impl NetworkHandle {
    /// This node's peer id.
    pub fn local_peer(&self) -> PeerId {
        self.local
    }

    /// Counters since start.
    pub fn stats(&self) -> NetworkStats {
        self.counters.snapshot()
    }

    /// Publishes to a topic. Messages above the topic's limit are dropped by the swarm.
    pub async fn publish(&self, topic: Topic, bytes: Vec<u8>) {
        self.send(Command::Publish(topic, bytes)).await;
    }

    /// Says whether a gossip message may be forwarded. A rejected one also costs the neighbour
    /// that delivered it a low-tolerance fault.
    pub async fn validate(&self, id: GossipId, from: PeerId, acceptance: Acceptance) {
        self.send(Command::Validate(id, from, acceptance)).await;
    }

    /// Asks a peer for metadata.
    ///
    /// # Errors
    /// When the peer cannot be reached, refuses, or answers something else.
    pub async fn request(
        &self,
        peer: PeerId,
        request: MetaRequest,
    ) -> Result<MetaResponse, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::MetaRequest(peer, request, reply)).await;
        answer.await.map_err(|_| RequestError::Stopped)?
    }

    /// Answers a peer's metadata request.
    pub async fn respond(&self, id: MetaRequestId, response: MetaResponse) {
        self.send(Command::MetaRespond(id, response)).await;
    }

    /// Sends an engine sync request; the answer arrives as an [`EngineEvent`] with the same id.
    pub async fn sync_request(&self, peer: PeerId, bytes: Vec<u8>) -> SyncRequestId {
        let id = SyncRequestId(self.next_sync_id.fetch_add(1, Ordering::Relaxed));
        self.send(Command::SyncRequest(id, peer, bytes)).await;
        id
    }

    /// Answers a peer's sync request, or drops it with `None`.
    pub async fn sync_respond(&self, id: SyncRequestId, bytes: Option<Vec<u8>>) {
        self.send(Command::SyncRespond(id, bytes)).await;
    }

    /// Starts dialling an address. Success means that dialling began, not that it succeeded: a
    /// [`NetworkEvent::Connected`] follows.
    ///
    /// # Errors
    /// When the address is not supported or the peer is banned.
    pub async fn dial(&self, address: Multiaddr) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Dial(address, reply)).await;
        answer.await.map_err(|_| RequestError::Stopped)?
    }

    /// The connected peers; empty when the network has stopped.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Peers(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// The addresses this node listens on, each with `/p2p/<peer>`.
    pub async fn listeners(&self) -> Vec<Multiaddr> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Listeners(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// Reports a fault of a peer. Does not wait: under overload a report may be lost and counted.
    pub fn report(&self, peer: PeerId, severity: Severity, reason: &'static str) {
        if self.commands.try_send(Command::Report(peer, severity, reason)).is_err() {
            Counters::add(&self.counters.commands_dropped);
        }
    }

    /// Closes all connections with a peer.
    pub async fn disconnect(&self, peer: PeerId) {
        self.send(Command::Disconnect(peer)).await;
    }

    /// Events for the consensus engine. Replaces an earlier engine subscription.
    pub async fn subscribe_engine(&self) -> mpsc::Receiver<EngineEvent> {
        let (sender, receiver) = mpsc::channel(4_096);
        self.send(Command::SubscribeEngine(sender)).await;
        receiver
    }

    /// Events for the node. Replaces an earlier node subscription.
    pub async fn subscribe(&self) -> mpsc::Receiver<NetworkEvent> {
        let (sender, receiver) = mpsc::channel(4_096);
        self.send(Command::SubscribeNode(sender)).await;
        receiver
    }

    /// The height that status answers state.
    pub async fn set_tip(&self, tip: Height) {
        self.send(Command::SetTip(tip)).await;
    }

    /// The genesis document that genesis questions are answered with.
    pub async fn set_genesis(&self, genesis: Vec<u8>) {
        self.send(Command::SetGenesis(genesis)).await;
    }

    /// Announces that this node has a blob, until [`NetworkHandle::withdraw`] or its end.
    pub async fn provide(&self, hash: ContentHash) {
        self.send(Command::Provide(hash)).await;
    }

    /// Announces a blob no more. Records at other nodes expire.
    pub async fn withdraw(&self, hash: ContentHash) {
        self.send(Command::Withdraw(hash)).await;
    }

    /// Searches for nodes that say they have a blob. The channel closes when the search is over.
    pub async fn search(&self, hash: ContentHash) -> mpsc::Receiver<PeerId> {
        let (found, receiver) = mpsc::channel(PROVIDERS_FOUND_MAX);
        self.send(Command::Search(hash, found)).await;
        receiver
    }

    /// Control of raw streams, for example to accept on [`BLOB_PROTOCOL`].
    pub fn streams(&self) -> libp2p_stream::Control {
        self.streams.clone()
    }

    /// Opens a raw stream for blobs, dialling the peer if necessary.
    ///
    /// # Errors
    /// When the peer does not speak the protocol or no stream opens within ten seconds.
    pub async fn open_blob_stream(&self, peer: PeerId) -> Result<Stream, RequestError> {
        let mut control = self.streams.clone();
        let open = control.open_stream(peer, StreamProtocol::new(BLOB_PROTOCOL));
        match tokio::time::timeout(OPEN_STREAM_MAX, open).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(RequestError::Stream(error.to_string())),
            Err(_) => Err(RequestError::Stream("timed out".to_owned())),
        }
    }

    /// Whether a peer may open one more inbound stream now; a refusal costs it score.
    pub async fn admit_stream(&self, peer: PeerId) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Command::AdmitStream(peer, reply)).await;
        answer.await.unwrap_or(false)
    }

    async fn send(&self, command: Command) {
        // The task ends only at shutdown; callers that need an answer see its reply dropped.
        let _ = self.commands.send(command).await;
    }
}

/// Requests of ours and of peers that wait for an answer.
#[derive(Debug)]
pub(super) struct Waiting<K: Ord, V> {
    entries: BTreeMap<K, V>,
    max: usize,
}

impl<K: Ord, V> Waiting<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self { entries: BTreeMap::new(), max }
    }

    /// Remembers an entry, or gives it back when there is no room.
    pub(super) fn insert(&mut self, key: K, value: V) -> Result<(), V> {
        if self.entries.len() >= self.max {
            return Err(value);
        }
        self.entries.insert(key, value);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key)
    }

    pub(super) fn remove_by(&mut self, found: impl Fn(&V) -> bool) -> Option<(K, V)>
    where
        K: Clone,
    {
        let key = self.entries.iter().find(|(_, v)| found(v)).map(|(k, _)| k.clone())?;
        self.entries.remove(&key).map(|value| (key, value))
    }
}
