//! The swarm task's part that carries out commands of the handle.

use libp2p::{Multiaddr, PeerId, gossipsub};
use tokio::sync::mpsc;

use super::behaviour::topic;
use super::events::{Acceptance, EngineEvent, NetworkEvent, PeerInfo, RequestFailure};
use super::handle::{Command, Counters, RequestError};
use super::limiter::Rationed;
use super::peers::peer_of;
use super::score::Severity;
use super::swarm::{MetaWaiter, Task};
use super::wire::Topic;

impl Task {
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Publish(kind, bytes) => self.publish(kind, bytes),
            Command::Validate(id, from, acceptance) => {
                self.swarm.behaviour_mut().gossip.report_message_validation_result(
                    &id.0,
                    &from,
                    acceptance.into(),
                );
                if acceptance == Acceptance::Reject {
                    Counters::add(&self.counters.gossip_rejected);
                    self.report(from, Severity::LowTolerance, "invalid gossip");
                }
            }
            Command::SyncRequest(id, peer, bytes) => {
                let request = self.swarm.behaviour_mut().sync.send_request(&peer, bytes);
                if self.sync_out.insert(request, id).is_err() {
                    let reason = RequestFailure::Closed;
                    self.tell_engine(EngineEvent::SyncFailed { id, peer, reason });
                }
            }
            Command::SyncRespond(id, bytes) => {
                // Dropping the channel tells the peer that there will be no answer.
                if let (Some((_, channel)), Some(bytes)) = (self.sync_in.remove(&id), bytes) {
                    let _ = self.swarm.behaviour_mut().sync.send_response(channel, bytes);
                }
            }
            Command::MetaRequest(peer, request, reply) => {
                let id = self.swarm.behaviour_mut().meta.send_request(&peer, Some(request.clone()));
                if let Err(MetaWaiter::Handle(_, reply)) =
                    self.meta_out.insert(id, MetaWaiter::Handle(request, reply))
                {
                    let _ = reply.send(Err(RequestError::Failed(RequestFailure::Closed)));
                }
            }
            Command::MetaRespond(id, response) => {
                if let Some((_, channel)) = self.meta_in.remove(&id) {
                    let _ = self.swarm.behaviour_mut().meta.send_response(channel, response);
                }
            }
            Command::Dial(address, reply) => {
                let _ = reply.send(self.dial(address));
            }
            Command::Peers(reply) => {
                let _ = reply.send(self.peer_infos());
            }
            Command::Listeners(reply) => {
                let local = *self.swarm.local_peer_id();
                let listeners = self.swarm.listeners().cloned();
                let _ = reply
                    .send(listeners.filter_map(|address| address.with_p2p(local).ok()).collect());
            }
            Command::Report(peer, severity, reason) => self.report(peer, severity, reason),
            Command::Disconnect(peer) => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::AdmitStream(peer, reply) => {
                let _ = reply.send(self.ration(peer, Rationed::BlobStreams, 1.0));
            }
            Command::SubscribeEngine(sender) => self.subscribe_engine(sender),
            Command::SubscribeNode(sender) => self.subscribe_node(sender),
            Command::Provide(hash) => self.provide(&hash),
            Command::Withdraw(hash) => self.withdraw(&hash),
            Command::Search(hash, found) => self.search(&hash, found),
            Command::SetTip(tip) => self.local.tip = tip,
            Command::SetGenesis(genesis) => self.local.genesis = Some(genesis),
        }
    }

    fn publish(&mut self, kind: Topic, bytes: Vec<u8>) {
        if bytes.len() > kind.bytes_max() {
            tracing::error!(?kind, bytes = bytes.len(), "refusing to publish above the limit");
            return;
        }
        let topic = topic(&self.config.chain, kind);
        match self.swarm.behaviour_mut().gossip.publish(topic, bytes) {
            Ok(_) | Err(gossipsub::PublishError::Duplicate) => {}
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic) => {
                Counters::add(&self.counters.gossip_unheard);
            }
            Err(error) => tracing::warn!(?kind, %error, "gossip was not published"),
        }
    }

    fn dial(&mut self, address: Multiaddr) -> Result<(), RequestError> {
        if let Some(peer) = peer_of(&address)
            && !self.scores.admits(self.now(), &peer)
        {
            return Err(RequestError::Dial(format!("{peer} has misbehaved")));
        }
        self.swarm.dial(address).map_err(|error| RequestError::Dial(error.to_string()))
    }

    fn peer_infos(&self) -> Vec<PeerInfo> {
        let now = self.now();
        let infos = self.peers.iter().map(|(id, peer)| PeerInfo {
            peer: *id,
            address: peer.address.clone(),
            listening: peer.listening.clone(),
            agent: peer.agent.clone(),
            score: self.scores.score(now, id),
            connected_for: now.saturating_sub(peer.since),
            rtt: peer.rtt,
            outbound: peer.outbound,
            status: peer.status.clone(),
        });
        infos.collect()
    }

    fn subscribe_engine(&mut self, sender: mpsc::Sender<EngineEvent>) {
        self.engine = Some(sender);
        let listeners: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        for address in listeners {
            self.tell_engine(EngineEvent::Listening(address));
        }
        let peers: Vec<(PeerId, Vec<Topic>)> = self
            .peers
            .iter()
            .map(|(id, peer)| (*id, peer.topics.iter().copied().collect()))
            .collect();
        for (peer, topics) in peers {
            self.tell_engine(EngineEvent::Connected(peer));
            for kind in topics {
                self.tell_engine(EngineEvent::Subscribed(peer, kind));
            }
        }
    }

    fn subscribe_node(&mut self, sender: mpsc::Sender<NetworkEvent>) {
        self.node = Some(sender);
        let listeners: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        for address in listeners {
            self.tell_node(NetworkEvent::Listening(address));
        }
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.tell_node(NetworkEvent::Connected(peer));
        }
    }
}
