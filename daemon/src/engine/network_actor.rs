//! The engine's network actor over our swarm.
//!
//! The actor turns the engine's messages into calls of the [`NetworkHandle`]; a task beside it
//! turns swarm events into the engine's events. What a late subscriber must hear again (listening
//! addresses, peers, subscriptions) is kept in [`Shared`], under one lock with the port, so that
//! a subscriber hears everything exactly once.
//!
//! The engine speaks of peers with libp2p-identity 0.2 and our swarm with 0.3; ids convert by
//! their multihash bytes, addresses by their text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use libp2p::PeerId;
use malachite_codec::Codec;
use malachite_engine::network::{Msg, NetworkEvent, NetworkRef, PersistentPeerError, Status};
use malachite_engine::util::output_port::OutputPort;
use malachite_network::Channel;
use malachite_peer::PeerId as EnginePeerId;
use malachite_sync::{InboundRequestId, OutboundFailureReason, OutboundRequestId};
use ractor::{Actor, ActorProcessingErr, ActorRef, SpawnErr};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::codec::EngineCodec;
use super::context::{AyniContext, ValidatorSet};
use super::gossip::{self, Checked};
use super::signing::StrictVerifier;
use crate::network::{EngineEvent, NetworkHandle, RequestFailure, Severity, SyncRequestId, Topic};

/// Events that a subscriber may lag behind before it loses some. The engine recovers lost votes
/// by rebroadcast and lost values by sync.
const PORT_CAPACITY: usize = 4_096;
/// Sync requests of peers that the engine may hold.
const INBOUND_MAX: usize = 1_024;

/// The engine's id of a peer.
pub(crate) fn to_engine_peer(peer: &PeerId) -> Option<EnginePeerId> {
    EnginePeerId::from_bytes(&peer.to_bytes()).ok()
}

fn to_swarm_peer(peer: &EnginePeerId) -> Option<PeerId> {
    PeerId::from_bytes(&peer.to_bytes()).ok()
}

struct Shared {
    port: OutputPort<NetworkEvent<AyniContext>>,
    listening: Vec<malachite_engine::network::Multiaddr>,
    peers: BTreeSet<EnginePeerId>,
    subscribed: BTreeSet<EnginePeerId>,
    validators: Option<ValidatorSet>,
    inbound: BTreeMap<InboundRequestId, SyncRequestId>,
}

impl Shared {
    fn inbound_failed(&mut self, id: &InboundRequestId) -> bool {
        self.inbound.remove(id).is_some()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing inside the lock panics; if it did, the data are still a set of facts.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The actor.
struct NetworkActor {
    handle: NetworkHandle,
    shared: Arc<Mutex<Shared>>,
}

/// Starts the actor and its event task; both end with `token`.
pub(super) async fn spawn(
    handle: NetworkHandle,
    verifier: StrictVerifier,
    tracker: &TaskTracker,
    token: CancellationToken,
) -> Result<NetworkRef<AyniContext>, SpawnErr> {
    let shared = Arc::new(Mutex::new(Shared {
        port: OutputPort::with_capacity(PORT_CAPACITY),
        listening: Vec::new(),
        peers: BTreeSet::new(),
        subscribed: BTreeSet::new(),
        validators: None,
        inbound: BTreeMap::new(),
    }));
    let actor = NetworkActor { handle: handle.clone(), shared: Arc::clone(&shared) };
    let (reference, _) = Actor::spawn(None, actor, ()).await?;
    let events = handle.subscribe_engine().await;
    tracker.spawn(pump(handle, shared, verifier, events, token));
    Ok(reference)
}

/// Moves events from the swarm to the engine.
async fn pump(
    handle: NetworkHandle,
    shared: Arc<Mutex<Shared>>,
    verifier: StrictVerifier,
    mut events: mpsc::Receiver<EngineEvent>,
    token: CancellationToken,
) {
    loop {
        let event = tokio::select! {
            () = token.cancelled() => return,
            event = events.recv() => event,
        };
        let Some(event) = event else { return };
        match event {
            EngineEvent::Gossip(mut message) => {
                let validators = lock(&shared).validators.clone();
                let checked = gossip::check(verifier, validators.as_ref(), &mut message);
                let acceptance = match checked {
                    Checked::Deliver(event, acceptance) => {
                        lock(&shared).port.send(*event);
                        acceptance
                    }
                    Checked::Drop(acceptance) => acceptance,
                };
                handle.validate(message.id, message.from, acceptance).await;
            }
            EngineEvent::SyncRequest { id, peer, bytes } => {
                if !take_request(&shared, id, &peer, bytes) {
                    handle.report(peer, Severity::MidTolerance, "malformed sync request");
                    handle.sync_respond(id, None).await;
                }
            }
            EngineEvent::SyncResponse { id, peer, bytes } => {
                let Some(from) = to_engine_peer(&peer) else { continue };
                let response = EngineCodec.decode(bytes.into()).ok();
                if response.is_none() {
                    handle.report(peer, Severity::LowTolerance, "malformed sync response");
                }
                let id = OutboundRequestId::new(id);
                lock(&shared).port.send(NetworkEvent::SyncResponse(id, from, response));
            }
            other => relay(&shared, other),
        }
    }
}

/// Registers a peer's request and hands it to the engine; false when it is malformed or too many
/// wait.
fn take_request(shared: &Mutex<Shared>, id: SyncRequestId, peer: &PeerId, bytes: Vec<u8>) -> bool {
    let (Some(from), Ok(request)) = (to_engine_peer(peer), EngineCodec.decode(bytes.into())) else {
        return false;
    };
    let mut shared = lock(shared);
    if shared.inbound.len() >= INBOUND_MAX {
        return false;
    }
    let inbound = InboundRequestId::new(id);
    shared.inbound.insert(inbound.clone(), id);
    shared.port.send(NetworkEvent::SyncRequest(inbound, from, request));
    true
}

/// Events that only change what is known of peers.
fn relay(shared: &Mutex<Shared>, event: EngineEvent) {
    let mut shared = lock(shared);
    match event {
        EngineEvent::Listening(address) => {
            let Ok(address) = address.to_string().parse::<malachite_engine::network::Multiaddr>()
            else {
                return;
            };
            shared.listening.push(address.clone());
            shared.port.send(NetworkEvent::Listening(address));
        }
        EngineEvent::Connected(peer) => {
            if let Some(peer) = to_engine_peer(&peer)
                && shared.peers.insert(peer)
            {
                shared.port.send(NetworkEvent::PeerConnected(peer));
            }
        }
        EngineEvent::Disconnected(peer) => {
            if let Some(peer) = to_engine_peer(&peer)
                && shared.peers.remove(&peer)
            {
                shared.subscribed.remove(&peer);
                shared.port.send(NetworkEvent::PeerDisconnected(peer));
            }
        }
        // The engine answers this with a status broadcast, from which sync starts.
        EngineEvent::Subscribed(peer, Topic::Status) => {
            if let Some(peer) = to_engine_peer(&peer)
                && shared.subscribed.insert(peer)
            {
                shared.port.send(NetworkEvent::PeerSubscribed(peer, Channel::Sync));
            }
        }
        EngineEvent::SyncInboundFailed { id, peer } => {
            let id = InboundRequestId::new(id);
            if shared.inbound_failed(&id)
                && let Some(peer) = to_engine_peer(&peer)
            {
                shared.port.send(NetworkEvent::SyncInboundRequestFailed(id, peer));
            }
        }
        EngineEvent::SyncFailed { id, peer, reason } => {
            if let Some(peer) = to_engine_peer(&peer) {
                let id = OutboundRequestId::new(id);
                shared.port.send(NetworkEvent::SyncRequestFailed(id, peer, failure(reason)));
            }
        }
        EngineEvent::Subscribed(..)
        | EngineEvent::Gossip(_)
        | EngineEvent::SyncRequest { .. }
        | EngineEvent::SyncResponse { .. } => {}
    }
}

fn failure(reason: RequestFailure) -> OutboundFailureReason {
    match reason {
        RequestFailure::Dial => OutboundFailureReason::DialFailure,
        RequestFailure::Timeout => OutboundFailureReason::Timeout,
        RequestFailure::Closed => OutboundFailureReason::ConnectionClosed,
        RequestFailure::Unsupported => OutboundFailureReason::UnsupportedProtocols,
        RequestFailure::Io => OutboundFailureReason::Io,
    }
}

impl NetworkActor {
    async fn publish<T>(&self, topic: Topic, message: &T)
    where
        EngineCodec: Codec<T>,
    {
        match EngineCodec.encode(message) {
            Ok(bytes) => self.handle.publish(topic, bytes.to_vec()).await,
            Err(error) => tracing::error!(?topic, %error, "cannot encode an engine message"),
        }
    }

    async fn broadcast_status(&self, status: Status<AyniContext>) {
        let Some(peer_id) = to_engine_peer(&self.handle.local_peer()) else { return };
        self.handle.set_tip(status.tip_height.0).await;
        let status = malachite_sync::Status {
            peer_id,
            tip_height: status.tip_height,
            history_min_height: status.history_min_height,
        };
        self.publish(Topic::Status, &status).await;
    }

    async fn respond(&self, id: InboundRequestId, bytes: Option<Vec<u8>>) {
        let known = lock(&self.shared).inbound.remove(&id);
        if let Some(id) = known {
            self.handle.sync_respond(id, bytes).await;
        }
    }
}

#[async_trait]
impl Actor for NetworkActor {
    type Msg = Msg<AyniContext>;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Subscribe(subscriber) => {
                let shared = lock(&self.shared);
                for address in &shared.listening {
                    subscriber.send(NetworkEvent::Listening(address.clone()));
                }
                for peer in &shared.peers {
                    subscriber.send(NetworkEvent::PeerConnected(*peer));
                }
                for peer in &shared.subscribed {
                    subscriber.send(NetworkEvent::PeerSubscribed(*peer, Channel::Sync));
                }
                subscriber.subscribe_to_port(&shared.port);
            }
            Msg::PublishConsensusMsg(message) => self.publish(Topic::Consensus, &message).await,
            Msg::PublishLivenessMsg(message) => self.publish(Topic::Liveness, &message).await,
            Msg::PublishProposalPart(part) => self.publish(Topic::Parts, &part).await,
            Msg::BroadcastStatus(status) => self.broadcast_status(status).await,
            Msg::OutgoingRequest(peer, request, reply) => {
                let (Some(peer), Ok(bytes)) = (to_swarm_peer(&peer), EngineCodec.encode(&request))
                else {
                    tracing::error!(%peer, "cannot encode a sync request");
                    return Ok(());
                };
                let id = self.handle.sync_request(peer, bytes.to_vec()).await;
                // A requester that has gone is no failure of this actor.
                let _ = reply.send(OutboundRequestId::new(id));
            }
            // The transport's own timeout ends the request; a late answer finds no taker.
            Msg::CancelRequest(_) => {}
            Msg::OutgoingResponse(id, response) => {
                let bytes = EngineCodec.encode(&response);
                if let Err(error) = &bytes {
                    tracing::error!(%error, "cannot encode a sync response");
                }
                self.respond(id, bytes.ok().map(|bytes| bytes.to_vec())).await;
            }
            Msg::CancelInboundRequest(id) => self.respond(id, None).await,
            Msg::DumpState(reply) => {
                let _ = reply.send(None);
            }
            // Configured peers belong to the network's own configuration.
            Msg::UpdatePersistentPeers(_, reply) => {
                let _ = reply.send(Err(PersistentPeerError::NetworkStopped));
            }
            Msg::UpdateValidatorSet(validators) => {
                lock(&self.shared).validators = Some(validators);
            }
            // Neither is ever sent: proofs and events of the engine's own network.
            Msg::ValidatorProofVerified { .. } | Msg::NewEvent(_) => {}
        }
        Ok(())
    }
}
