//! The swarm task's part that handles gossip, sync and metadata messages.

use std::collections::BTreeSet;
use std::sync::Arc;

use libp2p::request_response::{self, OutboundFailure};
use libp2p::{PeerId, gossipsub};

use super::events::{
    EngineEvent, GossipId, GossipMessage, MetaRequestId, NetworkEvent, RequestFailure,
    SyncRequestId,
};
use super::handle::{Counters, RequestError};
use super::limiter::Rationed;
use super::score::Severity;
use super::swarm::{MetaWaiter, Task};
use super::wire::{MetaRequest, MetaResponse, PEERS_PER_STATUS_MAX, PeerStatus, Topic};

impl Task {
    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let id = GossipId(message_id.clone());
                let is_delivered = self.deliver(propagation_source, id, message);
                if !is_delivered {
                    self.swarm.behaviour_mut().gossip.report_message_validation_result(
                        &message_id,
                        &propagation_source,
                        gossipsub::MessageAcceptance::Ignore,
                    );
                }
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                if let Some(kind) = self.kind_of(&topic)
                    && let Some(peer) = self.peers.get_mut(&peer_id)
                    && peer.topics.insert(kind)
                {
                    self.tell_engine(EngineEvent::Subscribed(peer_id, kind));
                }
            }
            gossipsub::Event::Unsubscribed { peer_id, topic } => {
                if let Some(kind) = self.kind_of(&topic)
                    && let Some(peer) = self.peers.get_mut(&peer_id)
                {
                    peer.topics.remove(&kind);
                }
            }
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(peer = %peer_id, "peer is slow to take gossip");
            }
            _ => {}
        }
    }

    /// Hands a message to its consumer; false when it was dropped.
    fn deliver(&mut self, from: PeerId, id: GossipId, message: gossipsub::Message) -> bool {
        Counters::add(&self.counters.gossip_received);
        let (Some(kind), Some(source)) = (self.kind_of(&message.topic), message.source) else {
            return false;
        };
        let bytes = message.data;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if bytes.len() > kind.bytes_max() {
            self.report(from, Severity::LowTolerance, "gossip above the topic's limit");
            return false;
        }
        if !self.ration(from, Rationed::GossipMessages, 1.0)
            || !self.ration(from, Rationed::GossipBytes, f64::from(length))
        {
            return false;
        }
        // At least one permit, so that empty messages count too.
        let Ok(permit) = Arc::clone(&self.queued).try_acquire_many_owned(length.max(1)) else {
            Counters::add(&self.counters.events_dropped);
            return false;
        };
        let message = GossipMessage { topic: kind, from, source, id, bytes, _permit: permit };
        match kind {
            Topic::Blobs => self.tell_node(NetworkEvent::Announced(message)),
            Topic::Transactions => self.tell_node(NetworkEvent::Transactions(message)),
            _ => self.tell_engine(EngineEvent::Gossip(message)),
        }
    }

    fn kind_of(&self, hash: &gossipsub::TopicHash) -> Option<Topic> {
        self.topics.get(hash).copied()
    }

    pub(super) fn on_sync(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        use request_response::{Event, Message};
        match event {
            Event::Message { peer, message, .. } => match message {
                Message::Request { request_id, request, channel } => {
                    if !self.ration(peer, Rationed::Sync, 1.0) {
                        return;
                    }
                    let id = SyncRequestId(self.fresh_id());
                    // Dropping the channel of what does not fit tells the peer.
                    if self.sync_in.insert(id, (request_id, channel)).is_ok()
                        && !self.tell_engine(EngineEvent::SyncRequest { id, peer, bytes: request })
                    {
                        self.sync_in.remove(&id);
                    }
                }
                Message::Response { request_id, response } => {
                    if let Some(id) = self.sync_out.remove(&request_id) {
                        self.tell_engine(EngineEvent::SyncResponse { id, peer, bytes: response });
                    }
                }
            },
            Event::OutboundFailure { peer, request_id, error, .. } => {
                self.penalize(peer, &error);
                if let Some(id) = self.sync_out.remove(&request_id) {
                    let reason = failure(&error);
                    self.tell_engine(EngineEvent::SyncFailed { id, peer, reason });
                }
            }
            Event::InboundFailure { peer, request_id, .. } => {
                let found = self.sync_in.remove_by(|(known, _)| *known == request_id);
                if let Some((id, _)) = found {
                    self.tell_engine(EngineEvent::SyncInboundFailed { id, peer });
                }
            }
            Event::ResponseSent { .. } => {}
        }
    }

    pub(super) fn on_meta(
        &mut self,
        event: request_response::Event<Option<MetaRequest>, MetaResponse>,
    ) {
        use request_response::{Event, Message};
        match event {
            Event::Message { peer, message, .. } => match message {
                Message::Request { request_id, request, channel } => {
                    let Some(request) = request else {
                        self.report(peer, Severity::LowTolerance, "malformed request");
                        return;
                    };
                    let cost = cost(&request);
                    if self.ration(peer, Rationed::Meta, cost) {
                        self.on_meta_request(peer, request_id, request, channel);
                    }
                }
                Message::Response { request_id, response } => {
                    if let Some(entry) = self.peers.get_mut(&peer) {
                        entry.doubted = None;
                    }
                    if let Some(waiter) = self.meta_out.remove(&request_id) {
                        self.on_meta_response(peer, waiter, response);
                    }
                }
            },
            Event::OutboundFailure { peer, request_id, error, .. } => {
                self.penalize(peer, &error);
                if let Some(MetaWaiter::Handle(_, reply)) = self.meta_out.remove(&request_id) {
                    let _ = reply.send(Err(RequestError::Failed(failure(&error))));
                }
            }
            Event::InboundFailure { request_id, .. } => {
                self.meta_in.remove_by(|(known, _)| *known == request_id);
            }
            Event::ResponseSent { .. } => {}
        }
    }

    fn on_meta_request(
        &mut self,
        peer: PeerId,
        request_id: request_response::InboundRequestId,
        request: MetaRequest,
        channel: request_response::ResponseChannel<MetaResponse>,
    ) {
        let answer = match request {
            MetaRequest::Genesis => MetaResponse::Genesis(self.local.genesis.clone()),
            MetaRequest::Status => {
                let connected: BTreeSet<PeerId> = self.peers.keys().copied().collect();
                MetaResponse::Status(PeerStatus {
                    chain: self.config.chain,
                    tip: self.local.tip,
                    peers: self.book.share(&connected, &peer, PEERS_PER_STATUS_MAX),
                })
            }
            request @ (MetaRequest::Snapshot
            | MetaRequest::Bridges { .. }
            | MetaRequest::Block(_)
            | MetaRequest::States(_)) => {
                let event = |id| NetworkEvent::AsksLedger { id, peer, request };
                return self.ask_node(request_id, channel, event);
            }
        };
        let _ = self.swarm.behaviour_mut().meta.send_response(channel, answer);
    }

    /// Hands a question to the node, which answers it later.
    fn ask_node(
        &mut self,
        request_id: request_response::InboundRequestId,
        channel: request_response::ResponseChannel<MetaResponse>,
        event: impl FnOnce(MetaRequestId) -> NetworkEvent,
    ) {
        let id = MetaRequestId(self.fresh_id());
        if self.meta_in.insert(id, (request_id, channel)).is_ok() && !self.tell_node(event(id)) {
            self.meta_in.remove(&id);
        }
    }

    fn on_meta_response(&mut self, peer: PeerId, waiter: MetaWaiter, response: MetaResponse) {
        match waiter {
            MetaWaiter::Handle(request, reply) => {
                let fits = response.answers(&request);
                if !fits {
                    self.report(peer, Severity::LowTolerance, "answer does not fit the question");
                }
                let refused = matches!(response, MetaResponse::Refused);
                let _ = reply.send(if fits && !refused {
                    Ok(response)
                } else {
                    Err(RequestError::BadAnswer)
                });
            }
            MetaWaiter::Status => {
                if !response.answers(&MetaRequest::Status) {
                    self.report(peer, Severity::LowTolerance, "answer does not fit the question");
                    return;
                }
                let MetaResponse::Status(status) = response else { return };
                if status.chain != self.config.chain {
                    let _ = self.swarm.disconnect_peer_id(peer);
                    return;
                }
                self.book.settled(&peer);
                for address in &status.peers {
                    self.book.learn_text(address);
                }
                if let Some(entry) = self.peers.get_mut(&peer) {
                    entry.status = Some(status.clone());
                }
                self.tell_node(NetworkEvent::Status { peer, status });
            }
        }
    }

    /// A malformed answer is a fault; an unreachable peer is only slow.
    fn penalize(&mut self, peer: PeerId, error: &OutboundFailure) {
        match error {
            OutboundFailure::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                self.report(peer, Severity::LowTolerance, "malformed answer");
            }
            OutboundFailure::Timeout | OutboundFailure::Io(_) => {
                self.report(peer, Severity::HighTolerance, "no answer");
            }
            OutboundFailure::DialFailure
            | OutboundFailure::ConnectionClosed
            | OutboundFailure::UnsupportedProtocols => {}
        }
    }
}

/// What a question costs of a peer's ration: the answer's size, roughly. A whole proof and what
/// goes with it must fit the bucket.
const fn cost(request: &MetaRequest) -> f64 {
    match request {
        MetaRequest::Genesis | MetaRequest::Block(_) => 10.0,
        MetaRequest::Bridges { .. } => 2.0,
        MetaRequest::Status | MetaRequest::Snapshot | MetaRequest::States(_) => 1.0,
    }
}

fn failure(error: &OutboundFailure) -> RequestFailure {
    match error {
        OutboundFailure::DialFailure => RequestFailure::Dial,
        OutboundFailure::Timeout => RequestFailure::Timeout,
        OutboundFailure::ConnectionClosed => RequestFailure::Closed,
        OutboundFailure::UnsupportedProtocols => RequestFailure::Unsupported,
        OutboundFailure::Io(_) => RequestFailure::Io,
    }
}
